"""What the source around a leaked checkout says about its cause, and the cure.

Source text is read, nothing is run; where the source can't tell, the hint says no more than what is certain.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator
from types import CodeType

from pytest_poolguard.ledger import Checkout
from pytest_poolguard.origin import SourceTree, line_of, printable

__all__ = ["Hints"]


class Hints:
    """Reads each source file once."""

    def __init__(self, tree: SourceTree, take: str = "getconn", give: str = "putconn") -> None:
        self._tree = tree
        self._take = take
        self._give = give
        self._parsed: dict[str, _Source | None] = {}

    def hint(self, checkout: Checkout, *, connection_closed: bool) -> str:
        """The likely cause of a leak and its cure, in a sentence or two."""
        give = self._give
        if checkout.cause is not None:
            what, detail = checkout.cause
            if what == "returned to another pool":
                return f"it was given to {give}() of another pool; return it to the pool that it came from"
            return (
                f"{give}() raised {detail}, so the connection kept its slot; "
                f"hand in a broken connection with {give}(conn, close=True)"
            )
        if checkout.closed_while_running:
            return f"the pool was closed while the connection was out; call {give}() before closeall()"
        name, code, statement, call = self._responsible(checkout)
        if isinstance(statement, ast.With):
            return (
                f"`with …{call}()` ends the transaction, it does not return the connection; "
                f"call {give}() in a finally block"
            )
        if connection_closed and checkout.closed_with_pool is None:
            return (
                f"the connection was closed, not returned, so its slot stays in use; "
                f"call {give}(conn, close=True) instead of conn.close()"
            )
        if code is None:
            return f"call {give}() in a finally block"
        if name.startswith("<"):  # a module's own code, a lambda, a comprehension
            name = "this code"
        return self._unreached(name, code) or f"{name} never called {give}() for it; put it in a finally block"

    def _unreached(self, name: str, code: CodeType) -> str:
        """The hint where the function does return the connection, but on one way only."""
        source = self._source(code.co_filename)
        function = source.function(code.co_firstlineno) if source is not None else None
        if source is None or function is None:
            return ""
        if name == "__enter__":
            return (
                "when __enter__ raises after taking a connection, __exit__ is not called; "
                f"call {self._give}() in an except block of __enter__"
            )
        lines = [call.lineno for call in source.calls(function, self._give) if not source.is_final(call)]
        if not lines:
            return ""
        generator = code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
        left = (
            f"{name} is a generator that was not run to its end, so"
            if generator
            else f"{name} was left, by a return or an exception, before"
        )
        rest = "was not reached" if generator else "was reached"
        return f"{left} its {self._give}() in line {lines[0]} {rest}; put it in a finally block"

    def _responsible(self, checkout: Checkout) -> tuple[str, CodeType | None, ast.AST | None, str]:
        """The function that should have returned the connection: the site's, or whom that handed it to.

        Its name and code, the statement that took the connection (if it tells something), the call in it.
        """
        called = self._take
        found: tuple[str, CodeType | None, ast.AST | None, str] = ("", None, None, called)
        for code, offset in checkout.origin.frames():
            if not self._tree.is_own(code.co_filename):
                if found[1] is not None:
                    break  # handed through a library (contextlib, say): who has it now can't be told
                continue
            source = self._source(code.co_filename)
            call = source.call(line_of(code, offset), called) if source is not None else None
            statement = source.use_of(call) if source is not None and call is not None else None
            found = (printable(code.co_name), code, statement, called)
            handed_on = source is not None and call is not None and source.is_returned(call)
            if not handed_on:
                break
            called = code.co_name
        return found

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
        self._parents: dict[ast.AST, ast.AST] = {
            child: parent for parent in ast.walk(module) for child in ast.iter_child_nodes(parent)
        }

    def call(self, line: int, name: str) -> ast.Call | None:
        """The call of a function of that name at a line."""
        return next((c for c in self.calls(self._module, name) if c.lineno <= line <= _end(c)), None)

    @staticmethod
    def calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
        """All calls of functions of that name inside a node."""
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                function = call.func
                if name == (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")):
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
        function: ast.AST | None = parent
        while function is not None and not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            function = self._parents.get(function)
        return function is not None and any(
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Name)
            and node.value.id == parent.targets[0].id
            for node in ast.walk(function)
        )

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
