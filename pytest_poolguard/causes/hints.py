"""The likely cause of a leak and its cure: who should have returned the connection, and what came between.

A hint says what the driver has seen or the source proves, and no more; where neither can tell, it only says what
to do.
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass
from types import CodeType

from pytest_poolguard.books.origin import Place, SourceTree, printable, without_own
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.causes.source import Function, Source, calls, read
from pytest_poolguard.drivers.interface import Terms
from pytest_poolguard.judging.frameworks import CURES

__all__ = ["Hints", "Keeper"]

#: Ways out of a function that a hint names.
EXITS = 3
#: What is called at the end of a ``with`` block, by what is called at its beginning.
LEAVING = {"__enter__": "__exit__", "__aenter__": "__aexit__"}


@dataclass(frozen=True)
class Keeper:
    """The function that should have returned a connection: the one that took it, or whom that handed it to."""

    code: CodeType
    place: Place
    source: Source | None
    call: ast.Call | None  #: the call that it got the connection from; None where the source can't tell
    helper: str  #: the function of the project that took it for this one; empty for the one that took it itself
    is_certain: bool  #: whether nothing could go wrong on the connection's way to it

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        # a module's own code, a lambda, a comprehension
        return "this code" if self.place.function.startswith("<") else self.place.function

    @property
    def hands_out(self) -> bool:
        """Whether it may hand the connection on, to a caller that can't be told."""
        return self.source is None or self.call is None or self.source.hands_itself_out(self.call)

    @property
    def function(self) -> Function | None:
        """Its text."""
        return self.source.function(self.code) if self.source is not None else None


class Hints:
    """Speaks in the terms of one library. Reads each source file once."""

    def __init__(self, tree: SourceTree, terms: Terms) -> None:
        self._tree = tree
        self._terms = terms
        self._take = terms.take
        self._give = terms.give
        self._read: dict[str, Source | None] = {}

    # who should have returned it

    def keeper(self, checkout: Checkout) -> Keeper | None:
        """Who should have returned a connection; None where no code of the project took it."""
        called, helper, certain = self._take, "", True
        keeper: Keeper | None = None
        for code, offset in without_own(checkout.origin):
            if not self._tree.is_own(code.co_filename):
                if keeper is not None:
                    break  # handed on through a library (contextlib, say): who has it now can't be told
                continue
            source = self._source(code.co_filename)
            call = source.call(code, offset, called) if source is not None else None
            if keeper is not None and call is None:
                break  # called under another name, through a decorator, …: not known to be handed on
            keeper = Keeper(code, self._tree.place(code, offset), source, call, helper, certain)
            if source is None or call is None or self._terms.giver == "taker":
                break
            if not source.hands_itself_out(call):
                break
            certain = certain and source.hands_out_at_once(call)
            called = helper = code.co_name
        return keeper

    # what went wrong

    def hint(  # noqa: PLR0911 - one for each cause
        self, checkout: Checkout, keeper: Keeper | None, *, connection_closed: bool, broken: bool
    ) -> str:
        """The likely cause of a leak and its cure, in a sentence or two."""
        give = self._give
        seen = self._seen(checkout)
        if seen:
            return seen
        if keeper is not None and self._opens_with(checkout, keeper):
            call = printable(keeper.helper or self._take)
            return f"`with …{call}()` ends the transaction, it does not return the connection; {self._terms.cure}"
        if broken:
            return f"the connection broke while it was out; a broken one has to be returned, too: call {give}()"
        if connection_closed and checkout.closed_with_pool is None:
            if self._terms.giver != "pool":
                return f"the driver's own connection was closed, which does not return it; call {give}(), too"
            return (
                "the connection was closed, not returned, so its slot stays in use; "
                f"call {self._terms.discard} instead of conn.close()"
            )
        if keeper is None:
            return self._terms.cure
        return (
            self._inside(keeper)
            or self._entered(keeper)
            or self._unreached(checkout, keeper)
            or self._kept(checkout, keeper)
        )

    def _seen(self, checkout: Checkout) -> str:
        """The hint where the driver has seen what went wrong."""
        give = self._give
        if checkout.framework:
            return f"{checkout.framework} took it for its thread, and keeps it; {CURES[checkout.framework]}"
        if checkout.cause is not None:
            what, detail = checkout.cause
            if what == "returned to another pool":
                return f"it was given to {give}() of another pool; return it to the pool that it came from"
            return (
                f"{give}() raised {detail}, so the connection kept its slot; "
                f"hand in a broken connection with {self._terms.discard}"
            )
        if checkout.closed_while_running:
            return f"the pool was closed while the connection was out; call {give}() before {self._terms.close}()"
        return ""

    def _opens_with(self, checkout: Checkout, keeper: Keeper) -> bool:
        """Whether it stands in a ``with`` statement, which is the library's own and so does not return it."""
        if keeper.source is None or keeper.call is None or self._terms.with_returns:
            return False
        connection = checkout.connection()
        statement = keeper.source.parent(keeper.call)
        if not isinstance(statement, ast.With | ast.AsyncWith):
            return False
        leave = "__exit__" if isinstance(statement, ast.With) else "__aexit__"
        return connection is None or self._is_librarys(type(connection), leave)

    def _inside(self, keeper: Keeper) -> str:
        """The hint for a ``with`` statement that would return it."""
        if not self._terms.with_returns or keeper.source is None or not keeper.source.is_with(keeper.call):
            return ""
        return (
            f"{keeper.name} has not left its `with …{self._take}()` block: "
            "the task or generator that it runs in did not come to its end"
        )

    def _entered(self, keeper: Keeper) -> str:
        """The hint for a context manager whose ``__exit__`` returns the connection."""
        function = keeper.function
        if keeper.source is None or function is None or function.name not in LEAVING:
            return ""
        leaving = LEAVING[function.name]
        leave = keeper.source.sibling(function, leaving)
        if leave is None:
            return ""
        backs, called = list(calls(leave, self._give)), self._give
        if not backs:
            backs = keeper.source.left_by_hand(function, keeper.place.line, leave)
            called = printable(ast.unparse(backs[0].func)) if backs else ""
        if not backs:
            return ""
        return (
            f"{leaving} did not get to its {called}() in line {backs[0].lineno}; "
            f"it is not called at all if {function.name} raises after taking the connection"
        )

    def _unreached(self, checkout: Checkout, keeper: Keeper) -> str:
        """The hint where the function does return the connection, but not on every way out of it."""
        source, call, give = keeper.source, keeper.call, self._give
        backs = source.returns(call, give, self._terms.giver) if source is not None and call is not None else []
        if source is None or call is None or not backs:
            return ""
        pool = checkout.pool.ref()
        if pool is not None and (
            give in getattr(pool, "__dict__", ())
            or not (self._terms.in_house or self._is_librarys(type(pool), give))
        ):
            return ""  # it may have been reached, and done something else
        last = backs[-1]
        where = f"{give}() in line" + f"{'s' if len(backs) > 1 else ''} " + _and([b.lineno for b in backs])
        final = source.try_of(last)
        exits = source.exits(call, backs)
        is_generator = keeper.code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
        if is_generator and source.yields(call, last) and source.is_certain(last) and not exits:
            return (
                f"{keeper.name} is a generator that was not run to its end, so its {where} was not reached; "
                "put it in a finally block"
            )
        if final is None:
            way = f" (line{'s' if len(exits) > 1 else ''} {_and(exits)} leave{'s' * (len(exits) == 1)} before it)"
            way = way if 1 <= len(exits) <= EXITS else ""
            return f"{keeper.name} did not reach its {where}{way}; put it in a finally block"
        return self._in_vain(source, keeper.name, call, last, final, where)

    def _in_vain(
        self, source: Source, name: str, call: ast.Call, back: ast.Call, final: ast.Try, where: str
    ) -> str:
        """The hint where the return stands in a ``finally`` block, and the connection is out for all that."""
        if not (source.contains(final, call) or source.follows_at_once(call, final)):
            return (
                f"{name} did not reach its {where}; "
                f"begin the try block (line {final.lineno}) right after {call_name(call)}()"
            )
        if not source.stands_in(final.finalbody, back):
            return f"{name} did not reach its {where}, though that is in a finally block"
        return (
            f"{name} has its {where}, in a finally block, but the connection did not come back by it: "
            f"is {self._give} replaced, or called with another connection?"
        )

    def _kept(self, checkout: Checkout, keeper: Keeper) -> str:
        """The hint where the source has no way back for the connection."""
        source, call, name = keeper.source, keeper.call, keeper.name
        cure = self._terms.cure
        if source is None or call is None or self._terms.giver == "taker":
            done = "nothing gave it back"
            if self._terms.giver == "taker":
                done = "the session that took it was not closed, or was used again after that"
            return f"{done}; {cure}"
        parent, kept = source.parent(call), source.kept_in(call)
        if isinstance(parent, ast.Attribute):
            return (
                f"`…{call_name(call)}().{parent.attr}` keeps no name for the connection; "
                f"assign it to a variable and call {self._give}() in a finally block"
            )
        if kept:
            return f"{name} keeps it in {printable(kept)}, and nothing gave it back; {cure}"
        handed_out = self._handed_out(checkout, keeper, source.handed_out(call))
        if handed_out:
            return handed_out
        if not keeper.is_certain:
            return f"neither {printable(keeper.helper)} nor {name} gave it back; {cure}"
        return f"{name} never gave it back; {cure}"

    def _handed_out(self, checkout: Checkout, keeper: Keeper, out: ast.AST | None) -> str:
        """The hint where the function hands the connection out, and nobody is known to be given it."""
        name, give = keeper.name, self._give
        if out is None:
            return ""
        if self._is_fixture(checkout, keeper):
            return f"{name} hands it out and never gave it back; yield it, and call {give}() after the yield"
        if isinstance(out, ast.Yield):
            return f"{name} yields it and never gave it back; call {give}() in a finally block around the yield"
        return f"{name} hands it out, and nothing gave it back; call {give}() in a finally block where it is used"

    def _is_fixture(self, checkout: Checkout, keeper: Keeper) -> bool:
        """Whether a keeper is the function of the fixture that the connection was taken in."""
        own = [code for code, _ in checkout.origin.frames() if self._tree.is_own(code.co_filename)]
        return checkout.taken_by.kind == "fixture" and own[-1] is keeper.code

    def _is_librarys(self, cls: type, method: str) -> bool:
        """Whether a class has a method from a library, not one of the project's own."""
        definer = next((one for one in cls.__mro__ if method in vars(one)), cls)
        module = sys.modules.get(definer.__module__)
        return not self._tree.is_own(getattr(module, "__file__", None) or "<built-in>")

    def _source(self, filename: str) -> Source | None:
        if filename not in self._read:
            self._read[filename] = read(filename)
        return self._read[filename]


def call_name(call: ast.Call) -> str:
    """The name of a called function, without what it is an attribute of."""
    return printable(ast.unparse(call.func).rpartition(".")[2])


def _and(lines: list[int]) -> str:
    *some, last = [str(line) for line in lines] or [""]
    return f"{', '.join(some)} and {last}" if some else last
