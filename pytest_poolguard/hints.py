"""What the source around a leaked checkout says: who should have returned it, the likely cause, the cure.

Source text is read, nothing is run; where the source can't tell, the hint says no more than what is certain.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from pytest_poolguard.drivers import Terms
from pytest_poolguard.origin import Place, SourceTree, line_of, printable
from pytest_poolguard.records import Checkout

__all__ = ["Hints"]


@dataclass(frozen=True)
class Keeper:
    """The function that should have returned a connection: the one that took it, or whom that handed it to."""

    code: CodeType
    place: Place
    use: ast.AST | None  #: what it does with the connection: a ``with`` statement, an assignment, …
    call: str  #: the name of the function that it got the connection from
    is_site: bool  #: whether it took the connection itself

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        # a module's own code, a lambda, a comprehension
        return "this code" if self.place.function.startswith("<") else self.place.function


class Hints:
    """Speaks in the terms of one library. Reads each source file once."""

    def __init__(self, tree: SourceTree, terms: Terms) -> None:
        self._tree = tree
        self._terms = terms
        self._take = terms.take
        self._give = terms.give
        self._parsed: dict[str, _Source | None] = {}

    def hint(self, checkout: Checkout, keeper: Keeper | None, *, connection_closed: bool) -> str:
        """The likely cause of a leak and its cure, in a sentence or two."""
        seen = self._seen(checkout)
        if seen:
            return seen
        cure = self._terms.cure
        if keeper is not None and isinstance(keeper.use, ast.With | ast.AsyncWith):
            return f"`with …{keeper.call}()` ends the transaction, it does not return the connection; {cure}"
        if connection_closed and checkout.closed_with_pool is None:
            return (
                "the connection was closed, not returned, so its slot stays in use; "
                f"call {self._terms.discard} instead of conn.close()"
            )
        if keeper is None:
            return cure
        return self._unreached(keeper) or f"{keeper.name} never gave it back; {cure}"

    def _seen(self, checkout: Checkout) -> str:
        """The hint where the driver has seen what went wrong."""
        give = self._give
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

    def _unreached(self, keeper: Keeper) -> str:
        """The hint where the function does return the connection, but not on every way out of it."""
        source = self._source(keeper.code.co_filename)
        function = source.function(keeper.code.co_firstlineno) if source is not None else None
        if source is None or function is None:
            return ""
        name, give = keeper.name, self._give
        leave = {"__enter__": "__exit__", "__aenter__": "__aexit__"}.get(name, "")
        if leave and source.sibling_calls(function, leave, give):
            return (
                f"if {name} raises after it has taken a connection, {leave} is not called; "
                f"call {give}() in an except block of {name}"
            )
        lines = [call.lineno for call in source.calls(function, give) if not source.is_final(call)]
        if not lines:
            return ""
        if keeper.code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            return (
                f"{name} is a generator that was not run to its end, so its {give}() in line {lines[0]} was not "
                "reached; put it in a finally block"
            )
        exits = source.exits(function, keeper.place.line, lines[0])
        # What took the way out can't be told: any call in between may have raised, too.
        way = f" (line {exits[0]} leaves before it)" if len(exits) == 1 else ""
        return f"{name} did not reach its {give}() in line {lines[0]}{way}; put it in a finally block"

    def keeper(self, checkout: Checkout) -> Keeper | None:
        """Who should have returned a connection; None where no code of the project took it."""
        called = self._take
        keeper: Keeper | None = None
        for code, offset in checkout.origin.frames():
            if not self._tree.is_own(code.co_filename):
                if keeper is not None:
                    break  # handed on through a library (contextlib, say): who has it now can't be told
                continue
            source = self._source(code.co_filename)
            call = source.call(line_of(code, offset), called) if source is not None else None
            use = source.use_of(call) if source is not None and call is not None else None
            keeper = Keeper(code, self._tree.place(code, offset), use, printable(called), keeper is None)
            if source is None or call is None or not source.is_returned(call):
                break
            called = code.co_name
        return keeper

    def _source(self, filename: str) -> _Source | None:
        if filename not in self._parsed:
            try:
                self._parsed[filename] = _Source(ast.parse("".join(linecache.getlines(filename))))
            except (SyntaxError, ValueError, RecursionError):  # not Python, or a template engine's own
                self._parsed[filename] = None
        return self._parsed[filename]


class _Source:
    """One parsed source file."""

    def __init__(self, module: ast.Module) -> None:
        self._module = module
        self._parents: dict[ast.AST, ast.AST] = {}
        for parent in ast.walk(module):  # outermost first
            for child in ast.iter_child_nodes(parent):
                # `await` is looked through: what is done with the awaited value is done with the call's
                self._parents[child] = self._parents[parent] if isinstance(parent, ast.Await) else parent

    def call(self, line: int, name: str) -> ast.Call | None:
        """The call of a function of that name at a line."""
        return next((c for c in self.calls(self._module, name) if c.lineno <= line <= _end(c)), None)

    @staticmethod
    def calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
        """All calls of functions of that name inside a node."""
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                function = call.func
                if name == (
                    function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                ):
                    yield call

    def function(self, line: int) -> ast.AST | None:
        """The function that a code object's first line belongs to, its decorators included."""
        for node in ast.walk(self._module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if first == line:
                    return node
        return None

    def use_of(self, call: ast.AST) -> ast.AST | None:
        """What a call's value is used for: the ``with`` statement that it opens, else its parent."""
        parent = self._parents.get(call)
        if isinstance(parent, ast.withitem):
            return self._parents.get(parent)
        return parent

    def is_returned(self, call: ast.Call) -> bool:
        """Whether the function returns the call's value, at once or from a variable."""
        parent = self._parents.get(call)
        if isinstance(parent, ast.Return):
            return True
        if not (isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name)):
            return False
        function = self._function_around(parent)
        return function is not None and any(
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Name)
            and node.value.id == parent.targets[0].id
            for node in ast.walk(function)
        )

    def exits(self, function: ast.AST, after: int, before: int) -> list[int]:
        """The lines of a function, between two others, that leave it by a return or a raise."""
        return [
            node.lineno
            for node in ast.walk(function)
            if isinstance(node, ast.Return | ast.Raise)
            and after < node.lineno < before
            and self._function_around(node) is function
        ]

    def sibling_calls(self, method: ast.AST, name: str, called: str) -> bool:
        """Whether another method of the same class calls a function of that name."""
        around = self._parents.get(method)
        return any(
            any(self.calls(sibling, called))
            for sibling in getattr(around, "body", ())
            if isinstance(sibling, ast.FunctionDef | ast.AsyncFunctionDef) and sibling.name == name
        )

    def _function_around(self, node: ast.AST) -> ast.AST | None:
        around = self._parents.get(node)
        while around is not None and not isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            around = self._parents.get(around)
        return around

    def is_final(self, node: ast.AST) -> bool:
        """Whether a node stands in a ``finally`` block."""
        child, parent = node, self._parents.get(node)
        while parent is not None:
            if isinstance(parent, ast.Try) and child in parent.finalbody:
                return True
            child, parent = parent, self._parents.get(parent)
        return False


def _end(node: ast.Call) -> int:
    return node.end_lineno or node.lineno
