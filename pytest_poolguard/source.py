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

from pytest_poolguard.origin import line_of

__all__ = ["Function", "Source", "calls", "read"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension, ast.ListComp, ast.SetComp, ast.DictComp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.GeneratorExp)


def read(filename: str) -> Source | None:
    """A parsed source file; None where there is no Python text."""
    try:
        return Source(ast.parse("".join(linecache.getlines(filename))))
    except (SyntaxError, ValueError, RecursionError):  # a template engine's own, say
        return None


class Source:
    """One parsed source file."""

    def __init__(self, module: ast.Module) -> None:
        self._module = module
        self._parents: dict[ast.AST, ast.AST] = {
            child: parent for parent in ast.walk(module) for child in ast.iter_child_nodes(parent)
        }

    # where

    def call(self, code: CodeType, offset: int, name: str) -> ast.Call | None:
        """The call of a function of that name that an instruction makes, if it is certain which one it is."""
        line = line_of(code, offset)
        found = [call for call in calls(self._module, name) if call.lineno <= line <= (call.end_lineno or 0)]
        end = _end_of_instruction(code, offset)
        if end is not None:
            found = [call for call in found if (call.end_lineno, call.end_col_offset) == end]
        return found[0] if len(found) == 1 else None

    def function(self, code: CodeType) -> Function | None:
        """The function that a code object was made from."""
        for node in ast.walk(self._module):
            if isinstance(node, Function) and node.name == code.co_name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if first == code.co_firstlineno:
                    return node
        return None

    def sibling(self, method: ast.AST, name: str) -> Function | None:
        """Another method of the same class."""
        around = self._parents.get(method)
        methods = around.body if isinstance(around, ast.ClassDef) else ()
        return next((one for one in methods if isinstance(one, Function) and one.name == name), None)

    # what becomes of a call's value

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The expression or statement that a node is part of; for a ``with`` item its statement."""
        parent = self._parents.get(node)
        return self._parents.get(parent) if isinstance(parent, ast.withitem) else parent

    def variable(self, call: ast.Call) -> str:
        """The local variable that takes a call's value, if nothing else is ever put into it."""
        parent = self._parents.get(call)
        name = ""
        if isinstance(parent, ast.Assign) and len(parent.targets) == 1:
            name = _name(parent.targets[0])
        elif isinstance(parent, ast.AnnAssign | ast.NamedExpr):
            name = _name(parent.target)
        function = self._around(call)
        if not name or not isinstance(function, Function):
            return ""
        stored, shared = 0, False
        for node in ast.walk(function):
            stored += isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
            shared |= isinstance(node, ast.Global | ast.Nonlocal) and name in node.names
        return name if stored == 1 and not shared else ""

    def kept_in(self, call: ast.Call) -> str:
        """The attribute, item or global that keeps a call's value: ``self.conn``."""
        parent, variable, function = self._parents.get(call), self.variable(call), self._around(call)
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
        around = self._around(call)
        if isinstance(around, ast.Lambda):
            return around if self._is_part_of(call, around.body) else None
        variable = self.variable(call)
        for node in ast.walk(around) if around is not None else ():
            if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                for part in ast.walk(node.value):
                    if (part is call or (variable and _name(part) == variable)) and self._is_part_of(
                        part, node.value
                    ):
                        return node
        return None

    def hands_itself_out(self, call: ast.Call) -> bool:
        """Whether the function ``return``s the call's value as it is."""
        out = self.handed_out(call)
        if isinstance(out, ast.Lambda):
            return out.body is call
        return isinstance(out, ast.Return) and (out.value is call or _name(out.value) == self.variable(call))

    def hands_out_at_once(self, call: ast.Call) -> bool:
        """Whether nothing can go wrong between the call and the ``return`` of its value."""
        out = self.handed_out(call)
        if isinstance(out, ast.Lambda) or (isinstance(out, ast.Return) and out.value is call):
            return True
        return isinstance(out, ast.Return) and self.follows_at_once(call, out)

    def _is_part_of(self, node: ast.AST, whole: ast.AST) -> bool:
        """Whether a value goes into another one: not if something is only asked of it, or a function gets it."""
        while node is not whole:
            parent = self._parents[node]
            if isinstance(parent, ast.Attribute | ast.Subscript | ast.Compare | ast.Await):
                return False
            if isinstance(parent, ast.IfExp) and node is parent.test:
                return False
            node = parent
        return True

    # where it is given back

    def returns(self, call: ast.Call, give: str) -> list[ast.Call]:
        """The calls of ``give`` that get the value of ``call``, in its function, after it, on a way from it."""
        variable, function = self.variable(call), self._around(call)
        if not variable or function is None or not isinstance(call.func, ast.Attribute):
            return []
        pool = ast.dump(call.func.value)
        backs = [
            back
            for back in calls(function, give)
            if self._around(back) is function
            and _position(back) > _position(call)
            and isinstance(back.func, ast.Attribute)
            and ast.dump(back.func.value) == pool
            and _first_argument(back) == variable
            and self._loops(call) <= self._loops(back)
            and not self._exclude_each_other(call, back)
        ]
        return sorted(backs, key=_position)

    def exits(self, call: ast.Call, backs: list[ast.Call]) -> list[int]:
        """The lines that leave the function after ``call`` without one of the ``backs`` before them."""
        function = self._around(call)
        return sorted(
            node.lineno
            for node in ast.walk(function or call)
            if isinstance(node, ast.Return | ast.Raise)
            and self._around(node) is function
            and _position(call) < _position(node) < _position(backs[-1])
            and not self._exclude_each_other(call, node)
            and not (isinstance(node, ast.Raise) and self._may_be_caught(node))
            and not any(self._comes_first(back, node) for back in backs)
        )

    def yields(self, call: ast.Call, back: ast.Call) -> bool:
        """Whether a generator stops somewhere between a call and the one that gives its value back."""
        function = self._around(call)
        return any(
            isinstance(node, ast.Yield | ast.YieldFrom) and _position(call) < _position(node) < _position(back)
            for node in ast.walk(function or call)
            if self._around(node) is function
        )

    def is_certain(self, back: ast.Call) -> bool:
        """Whether every way to the function's end passes through a call."""
        around = self._parents.get(back)
        plain = (ast.Expr, ast.With, ast.AsyncWith)
        while isinstance(around, plain):
            around = self._parents.get(around)
        return around is self._around(back)

    def try_of(self, back: ast.Call) -> ast.Try | None:
        """The ``try`` statement whose ``finally`` block a call stands in."""
        child: ast.AST = back
        for parent in self._ancestors(back):
            if isinstance(parent, ast.Try) and child in parent.finalbody:
                return parent
            child = parent
        return None

    def contains(self, whole: ast.AST, node: ast.AST) -> bool:
        """Whether a node is a part of another one."""
        return any(ancestor is whole for ancestor in self._ancestors(node))

    def follows_at_once(self, call: ast.Call, statement: ast.stmt) -> bool:
        """Whether nothing stands between the statement of a call and another statement."""
        parent = self._parents.get(call)
        return any(
            parent in block and statement in block and block.index(statement) == block.index(parent) + 1
            for block in _blocks(self._parents.get(parent) if parent is not None else None)
        )

    def stands_in(self, block: list[ast.stmt], call: ast.Call) -> bool:
        """Whether a call is a statement of a block itself, under no condition."""
        return self._parents.get(call) in block

    # the tree

    def _around(self, node: ast.AST) -> ast.AST | None:
        """The function, lambda or class body that a node stands in; None for the module's own code."""
        return next((a for a in self._ancestors(node) if isinstance(a, SCOPES)), None)

    def _ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        parent = self._parents.get(node)
        while parent is not None:
            yield parent
            parent = self._parents.get(parent)

    def _loops(self, node: ast.AST) -> set[ast.AST]:
        scope = self._around(node)
        inside = itertools.takewhile(lambda ancestor: ancestor is not scope, self._ancestors(node))
        return {ancestor for ancestor in inside if isinstance(ancestor, LOOPS)}

    def _exclude_each_other(self, one: ast.AST, other: ast.AST) -> bool:
        """Whether two nodes stand in branches of which only one can run."""
        above = [one, *self._ancestors(one)]
        child = other
        for parent in self._ancestors(other):
            if parent in above:
                branches = {_branch(parent, child), _branch(parent, above[above.index(parent) - 1])}
                return len(branches) == 2 and None not in branches  # noqa: PLR2004 - one and the other
            child = parent
        return False

    def _may_be_caught(self, node: ast.AST) -> bool:
        child: ast.AST = node
        for parent in self._ancestors(node):
            if isinstance(parent, ast.With | ast.AsyncWith):
                return True
            if isinstance(parent, ast.Try) and child in parent.body and parent.handlers:
                return True
            child = parent
        return False

    def _comes_first(self, back: ast.Call, node: ast.AST) -> bool:
        """Whether a call was made on every way to a node: as a statement of a block around it, before it."""
        statement = self._parents.get(back)
        child: ast.AST = node
        for parent in self._ancestors(node):
            for block in _blocks(parent):
                if statement in block and child in block and block.index(statement) < block.index(child):
                    return True
            if isinstance(parent, ast.Try) and statement in parent.finalbody and child not in parent.finalbody:
                return True
            child = parent
        return False


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


def _name(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _first_argument(call: ast.Call) -> str:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "conn")]
    return _name(given[0]) if given else ""


def _position(node: ast.Call | ast.stmt | ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _blocks(node: ast.AST | None) -> Iterator[list[ast.AST]]:
    """The lists of statements that a compound statement consists of."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            yield block


def _branch(parent: ast.AST, child: ast.AST) -> object:
    """Which alternative of a statement a child of it belongs to; None for what runs in any case."""
    if isinstance(parent, ast.If) and child is not parent.test:
        return "body" if child in parent.body else "orelse"
    if isinstance(parent, ast.Match) and isinstance(child, ast.match_case):
        return child
    if isinstance(parent, ast.Try) and isinstance(child, ast.ExceptHandler):
        return child
    if isinstance(parent, ast.Try) and child in parent.orelse:
        return "orelse"
    return None
