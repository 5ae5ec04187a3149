"""What one source file says of a call: what becomes of its value, and where that is given back.

Source text is read, nothing is run. Each answer is one that the text proves; where it can't tell, the answer is
None, False, or empty.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from collections.abc import Iterator
from types import CodeType

from pytest_poolguard.books.origin import line_of
from pytest_poolguard.causes.syntax import Syntax, awaited, position

__all__ = ["Function", "Source", "calls", "read"]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def read(filename: str) -> Source | None:
    """A parsed source file; None where there is no Python text."""
    try:
        return Source(ast.parse("".join(linecache.getlines(filename))))
    except (SyntaxError, ValueError, RecursionError):  # a template engine's own, say
        return None
    except SystemError:  # Python 3.11 where greenlets are collected while it parses (python/cpython#106905)
        return None


class Source(Syntax):
    """One parsed source file."""

    # where

    def call(self, code: CodeType, offset: int, name: str) -> ast.Call | None:
        """The call of a function of that name that an instruction makes, if it is certain which one it is."""
        line = line_of(code, offset)
        found = [call for call in calls(self.module, name) if call.lineno <= line <= (call.end_lineno or 0)]
        end = _end_of_instruction(code, offset)
        if end is not None:
            found = [call for call in found if end in (_end(call), self._end_of_with(call))]
        return found[0] if len(found) == 1 else None

    def _end_of_with(self, call: ast.Call) -> tuple[int | None, int | None] | None:
        """Where the ``async with`` ends that enters a call's value: up to 3.12 its text is all of it."""
        statement = self.parent(call) if self.is_with(call) else None
        return _end(statement) if isinstance(statement, ast.AsyncWith) else None

    def function(self, code: CodeType) -> Function | None:
        """The function that a code object was made from."""
        for node in ast.walk(self.module):
            if isinstance(node, Function) and node.name == code.co_name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if first == code.co_firstlineno:
                    return node
        return None

    def sibling(self, method: ast.AST, name: str) -> Function | None:
        """Another method of the same class."""
        around = self.parents.get(method)
        methods = around.body if isinstance(around, ast.ClassDef) else ()
        return next((one for one in methods if isinstance(one, Function) and one.name == name), None)

    # what becomes of a call's value

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The expression or statement that a node is part of; for a ``with`` item its statement."""
        parent = self.parents.get(node)
        return self.parents.get(parent) if isinstance(parent, ast.withitem) else parent

    def is_with(self, call: ast.Call | None) -> bool:
        """Whether a ``with`` statement enters what a call returns."""
        return call is not None and isinstance(self.parents.get(call), ast.withitem)

    def variable(self, call: ast.Call) -> str:
        """The local variable that takes a call's value, if nothing else is ever put into it."""
        parent = self.parents.get(call)
        name = ""
        if isinstance(parent, ast.Assign) and len(parent.targets) == 1:
            name = _name(parent.targets[0])
        elif isinstance(parent, ast.AnnAssign | ast.NamedExpr):
            name = _name(parent.target)
        function = self.around(call)
        if not name or not isinstance(function, Function):
            return ""
        stored, shared = 0, False
        for node in ast.walk(function):
            stored += isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
            shared |= isinstance(node, ast.Global | ast.Nonlocal) and name in node.names
        return name if stored == 1 and not shared else ""

    def kept_in(self, call: ast.Call) -> str:
        """The attribute, item or global that keeps a call's value: ``self.conn``."""
        parent, variable, function = self.parents.get(call), self.variable(call), self.around(call)
        if isinstance(parent, ast.Assign):
            if any(isinstance(target, ast.Attribute | ast.Subscript) for target in parent.targets):
                return ", ".join(ast.unparse(target) for target in parent.targets)
            shared = [node for node in ast.walk(function or parent) if isinstance(node, ast.Global)]
            name = _name(parent.targets[0])
            if any(name in node.names for node in shared):
                return f"the global {name}"
        for node in ast.walk(function) if variable and function is not None else ():
            if isinstance(node, ast.Assign) and _name(node.value) == variable:
                return ", ".join(ast.unparse(target) for target in node.targets)
        return ""

    def handed_out(self, call: ast.Call) -> ast.AST | None:
        """The ``return``, ``yield`` or lambda that hands a call's value out, bare or in something else."""
        around = self.around(call)
        if isinstance(around, ast.Lambda):
            return around if self._is_part_of(call, around.body) else None
        variable = self.variable(call)
        for node in ast.walk(around) if around is not None else ():
            if not isinstance(node, ast.Return | ast.Yield) or node.value is None:
                continue
            if awaited(node.value) is call:
                return node
            if isinstance(node.value, ast.Await):
                continue  # it was handed to a function, which came back
            for part in ast.walk(node.value):
                named = part is call or (variable and _name(part) == variable)
                if named and self._is_part_of(part, node.value):
                    return node
        return None

    def hands_itself_out(self, call: ast.Call) -> bool:
        """Whether the function ``return``s the call's value as it is."""
        out = self.handed_out(call)
        if isinstance(out, ast.Lambda):
            return out.body is call
        value = awaited(out.value) if isinstance(out, ast.Return) else None
        return value is not None and (value is call or _name(value) == self.variable(call))

    def hands_out_at_once(self, call: ast.Call) -> bool:
        """Whether nothing can go wrong between the call and the ``return`` of its value."""
        out = self.handed_out(call)
        if isinstance(out, ast.Lambda) or (isinstance(out, ast.Return) and awaited(out.value) is call):
            return True
        return isinstance(out, ast.Return) and self.follows_at_once(call, out)

    def _is_part_of(self, node: ast.AST, whole: ast.AST) -> bool:
        """Whether a value goes into another one: not if something is only asked of it, or a function gets it."""
        while node is not whole:
            parent = self.parents[node]
            if isinstance(parent, ast.Attribute | ast.Subscript | ast.Compare):
                return False
            if isinstance(parent, ast.IfExp) and node is parent.test:
                return False
            node = parent
        return True

    # where it is given back

    def left_by_hand(self, enter: Function, line: int, leave: Function) -> list[ast.Call]:
        """The calls of ``__exit__``, in the method of that name, on what a line of ``__enter__`` enters so."""
        entered = [
            ast.dump(call.func.value)
            for call in calls(enter, enter.name)
            if isinstance(call.func, ast.Attribute) and call.lineno <= line <= (call.end_lineno or 0)
        ]
        return [
            call
            for call in calls(leave, leave.name)
            if isinstance(call.func, ast.Attribute) and ast.dump(call.func.value) in entered
        ]

    def returns(self, call: ast.Call, give: str, giver: str = "pool") -> list[ast.Call]:
        """The calls of ``give`` that return what ``call`` took, in its function, after it, on a way from it.

        ``giver`` tells whose method that is (see ``interface.Terms``).
        """
        variable, function = self.variable(call), self.around(call)
        if function is None or not isinstance(call.func, ast.Attribute) or not (variable or giver == "taker"):
            return []
        taker = ast.dump(call.func.value)
        backs = [
            back
            for back in calls(function, give)
            if self.around(back) is function
            and position(back) > position(call)
            and isinstance(back.func, ast.Attribute)
            and (
                _name(back.func.value) == variable
                if giver == "connection"
                else ast.dump(back.func.value) == taker
            )
            and (giver != "pool" or _first_argument(back) == variable)
            and self.loops(call) <= self.loops(back)
            and not self.exclude_each_other(call, back)
        ]
        return sorted(backs, key=position)

    def exits(self, call: ast.Call, backs: list[ast.Call]) -> list[int]:
        """The lines that leave the function after ``call`` without one of the ``backs`` before them."""
        function = self.around(call)
        return sorted(
            node.lineno
            for node in ast.walk(function or call)
            if isinstance(node, ast.Return | ast.Raise)
            and self.around(node) is function
            and position(call) < position(node) < position(backs[-1])
            and not self.exclude_each_other(call, node)
            and not (isinstance(node, ast.Raise) and self.may_be_caught(node))
            and not any(self.comes_first(back, node) for back in backs)
        )

    def yields(self, call: ast.Call, back: ast.Call) -> bool:
        """Whether a generator stops somewhere between a call and the one that gives its value back."""
        function = self.around(call)
        return any(
            isinstance(node, ast.Yield | ast.YieldFrom) and position(call) < position(node) < position(back)
            for node in ast.walk(function or call)
            if self.around(node) is function
        )

    def is_certain(self, back: ast.Call) -> bool:
        """Whether every way to the function's end passes through a call."""
        around = self.parents.get(back)
        plain = (ast.Expr, ast.With, ast.AsyncWith)
        while isinstance(around, plain):
            around = self.parents.get(around)
        return around is self.around(back)

    def try_of(self, back: ast.Call) -> ast.Try | None:
        """The ``try`` statement whose ``finally`` block a call stands in."""
        child: ast.AST = back
        for parent in self.ancestors(back):
            if isinstance(parent, ast.Try) and child in parent.finalbody:
                return parent
            child = parent
        return None


def calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
    """All calls of functions of that name inside a node."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            if name == (function.attr if isinstance(function, ast.Attribute) else _name(function)):
                yield call


def _end_of_instruction(code: CodeType, offset: int) -> tuple[int | None, int | None] | None:
    """Where the source text of an instruction ends: line and column; None where Python does not keep it."""
    if sys.version_info < (3, 11):
        return None
    _, line, _, column = next(itertools.islice(code.co_positions(), offset // 2, None), (None,) * 4)
    return (line, column) if line is not None and column is not None else None


def _end(node: ast.expr | ast.stmt) -> tuple[int | None, int | None]:
    return node.end_lineno, node.end_col_offset


def _name(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _first_argument(call: ast.Call) -> str:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "conn")]
    return _name(given[0]) if given else ""
