"""How the nodes of one syntax tree stand to each other: around, before, excluding."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

__all__ = ["Syntax", "awaited", "position"]

LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension, ast.ListComp, ast.SetComp, ast.DictComp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.GeneratorExp)


class Syntax:
    """One module's syntax tree."""

    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self.parents: dict[ast.AST, ast.AST] = {}
        for parent in ast.walk(module):  # outermost first
            for child in ast.iter_child_nodes(parent):
                # `await` is looked through: what is done with the awaited value is done with the call's
                self.parents[child] = self.parents[parent] if isinstance(parent, ast.Await) else parent

    def contains(self, whole: ast.AST, node: ast.AST) -> bool:
        """Whether a node is a part of another one."""
        return any(ancestor is whole for ancestor in self.ancestors(node))

    def follows_at_once(self, call: ast.Call, statement: ast.stmt) -> bool:
        """Whether nothing stands between the statement of a call and another statement."""
        parent = self.parents.get(call)
        return any(
            parent in block and statement in block and block.index(statement) == block.index(parent) + 1
            for block in _blocks(self.parents.get(parent) if parent is not None else None)
        )

    def stands_in(self, block: list[ast.stmt], call: ast.Call) -> bool:
        """Whether a call is a statement of a block itself, under no condition."""
        return self.parents.get(call) in block

    def around(self, node: ast.AST) -> ast.AST | None:
        """The function, lambda or class body that a node stands in; None for the module's own code."""
        return next((a for a in self.ancestors(node) if isinstance(a, SCOPES)), None)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node is part of, from the inside out."""
        parent = self.parents.get(node)
        while parent is not None:
            yield parent
            parent = self.parents.get(parent)

    def loops(self, node: ast.AST) -> set[ast.AST]:
        """The loops around a node in its own function."""
        scope = self.around(node)
        inside = itertools.takewhile(lambda ancestor: ancestor is not scope, self.ancestors(node))
        return {ancestor for ancestor in inside if isinstance(ancestor, LOOPS)}

    def exclude_each_other(self, one: ast.AST, other: ast.AST) -> bool:
        """Whether two nodes stand in branches of which only one can run."""
        above = [one, *self.ancestors(one)]
        child = other
        for parent in self.ancestors(other):
            if parent in above:
                branches = {_branch(parent, child), _branch(parent, above[above.index(parent) - 1])}
                return len(branches) == 2 and None not in branches  # noqa: PLR2004 - one and the other
            child = parent
        return False

    def may_be_caught(self, node: ast.AST) -> bool:
        """Whether a ``raise`` may end before it leaves its function."""
        child: ast.AST = node
        for parent in self.ancestors(node):
            if isinstance(parent, ast.With | ast.AsyncWith):
                return True
            if isinstance(parent, ast.Try) and child in parent.body and parent.handlers:
                return True
            child = parent
        return False

    def comes_first(self, back: ast.Call, node: ast.AST) -> bool:
        """Whether a call was made on every way to a node: as a statement of a block around it, before it."""
        statement = self.parents.get(back)
        child: ast.AST = node
        for parent in self.ancestors(node):
            for block in _blocks(parent):
                if statement in block and child in block and block.index(statement) < block.index(child):
                    return True
            if isinstance(parent, ast.Try) and statement in parent.finalbody and child not in parent.finalbody:
                return True
            child = parent
        return False


def awaited(node: ast.AST | None) -> ast.AST | None:
    """What stands after an ``await``; other nodes as they are."""
    return node.value if isinstance(node, ast.Await) else node


def position(node: ast.Call | ast.stmt | ast.expr) -> tuple[int, int]:
    """Where a node begins: line and column."""
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
