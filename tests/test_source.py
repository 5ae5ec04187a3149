"""What the source around a call proves, and where it proves nothing."""

from __future__ import annotations

import ast
import sys
import textwrap
from types import SimpleNamespace

import pytest

from pytest_poolguard.books.origin import Origin, SourceTree, capture
from pytest_poolguard.causes.hints import Hints
from pytest_poolguard.causes.source import Source, calls, read
from pytest_poolguard.drivers.psycopg2.driver import TERMS


def look(text: str) -> tuple[Source, ast.Call]:
    """A source file, and its one call of getconn."""
    module = ast.parse(textwrap.dedent(text))
    (call,) = calls(module, "getconn")
    return Source(module), call


def ways(text: str) -> tuple[list[int], list[int]]:
    """The lines of the calls that give a connection back, and of the ways out before them."""
    source, call = look(text)
    backs = source.returns(call, "putconn")
    return [back.lineno for back in backs], source.exits(call, backs) if backs else []


RETURNED = [
    ("def f():\n    conn = pool.getconn()\n    return\n    pool.putconn(conn)", ([4], [3])),
    ("def f():\n    conn: Any = pool.getconn()\n    pool.putconn(conn=conn)", ([3], [])),
    ("def f():\n    if conn := pool.getconn():\n        pool.putconn(conn)", ([3], [])),
    ("async def f():\n    conn = pool.getconn()\n    pool.putconn(conn)", ([3], [])),
    # not the same pool, connection, function, or order
    ("def f():\n    conn = pool.getconn()\n    other.putconn(conn)", ([], [])),
    ("def f():\n    conn = pool.getconn()\n    putconn(conn)", ([], [])),
    ("def f():\n    conn = getconn()\n    pool.putconn(conn)", ([], [])),
    ("def f():\n    conn = pool.getconn()\n    pool.putconn()", ([], [])),
    ("def f():\n    pool.putconn(conn)\n    conn = pool.getconn()", ([], [])),
    ("def f():\n    conn = other = pool.getconn()\n    pool.putconn(conn)", ([], [])),
    ("def f():\n    conn, x = pool.getconn(), 1\n    pool.putconn(conn)", ([], [])),
    ("conn = pool.getconn()\npool.putconn(conn)", ([], [])),
    ("def f():\n    nonlocal conn\n    conn = pool.getconn()\n    pool.putconn(conn)", ([], [])),
    ("def f():\n    conn = pool.getconn()\n    del conn\n    pool.putconn(conn)", ([], [])),
    # loops
    ("def f():\n    while x:\n        conn = pool.getconn()\n        pool.putconn(conn)", ([4], [])),
    ("def f():\n    while x:\n        conn = pool.getconn()\n    pool.putconn(conn)", ([], [])),
    # branches of which only one runs
    ("def f():\n    try:\n        g()\n    except A:\n        conn = pool.getconn()\n    except B:\n"
     "        pool.putconn(conn)", ([], [])),
    ("def f():\n    try:\n        g()\n    except A:\n        conn = pool.getconn()\n    else:\n"
     "        pool.putconn(conn)", ([], [])),
    ("def f():\n    try:\n        conn = pool.getconn()\n    except A:\n        pool.putconn(conn)", ([5], [])),
    ("def f():\n    match x:\n        case 1:\n            conn = pool.getconn()\n        case 2:\n"
     "            pool.putconn(conn)", ([], [])),
    ("def f():\n    if (c := pool.getconn()):\n        return\n    else:\n        pool.putconn(c)", ([5], [3])),
    # ways out that a putconn comes before
    ("def f():\n    conn = pool.getconn()\n    if x:\n        pool.putconn(conn)\n        return 1\n"
     "    pool.putconn(conn)", ([4, 6], [])),
    ("def f():\n    conn = pool.getconn()\n    try:\n        return 1\n    finally:\n        pool.putconn(conn)",
     ([6], [])),
    # a raise that something here may catch
    ("def f():\n    conn = pool.getconn()\n    with g():\n        raise A\n    pool.putconn(conn)", ([5], [])),
    ("def f():\n    conn = pool.getconn()\n    try:\n        raise A\n    finally:\n        g()\n"
     "    pool.putconn(conn)", ([7], [4])),
    ("def f():\n    conn = pool.getconn()\n    try:\n        g()\n    except A:\n        raise\n"
     "    pool.putconn(conn)", ([7], [6])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RETURNED)
def test_where_a_connection_is_given_back(text, expected):
    assert ways(text) == expected


@pytest.mark.parametrize(
    ("value", "itself", "out"),
    [
        ("conn", True, True),
        ("(conn, 1)", False, True),
        ("conn if x else None", False, True),
        ("1 if conn else 2", False, False),
        ("conn.cursor()", False, False),
        ("conn is None", False, False),
        ("{'conn': conn}", False, True),
    ],
)
def test_what_a_function_hands_out(value, itself, out):
    source, call = look(f"def f():\n    conn = pool.getconn()\n    return {value}\n")
    assert source.hands_itself_out(call) is itself
    assert (source.handed_out(call) is not None) is out


@pytest.mark.parametrize(
    ("text", "at_once"),
    [
        ("def f():\n    return pool.getconn()", True),
        ("f = lambda: pool.getconn()", True),
        ("def f():\n    conn = pool.getconn()\n    return conn", True),
        ("def f():\n    conn = pool.getconn()\n    g()\n    return conn", False),
        ("def f():\n    if x:\n        conn = pool.getconn()\n    return conn", False),
    ],
)
def test_whether_something_may_go_wrong_on_the_way_out(text, at_once):
    source, call = look(text)
    assert source.hands_itself_out(call)
    assert source.hands_out_at_once(call) is at_once


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("def f():\n    self.conn = pool.getconn()", "self.conn"),
        ("def f():\n    a = cache[key] = pool.getconn()", "a, cache[key]"),
        ("def f():\n    conn = pool.getconn()\n    cache['x'] = conn", "cache['x']"),
        ("def f():\n    global conn\n    conn = pool.getconn()", "the global conn"),
        ("def f():\n    conn = pool.getconn()\n    x = conn.info", ""),
        ("lambda: use(pool.getconn())", ""),
    ],
)
def test_where_a_connection_is_kept(text, kept):
    source, call = look(text)
    assert source.kept_in(call) == kept


def test_a_lambda_that_only_uses_a_connection_does_not_hand_it_out():
    source, call = look("f = lambda: pool.getconn().cursor()")
    assert source.handed_out(call) is None


def test_a_method_finds_its_class_and_a_function_has_none():
    module = ast.parse("class A:\n    def a(self): pass\n    def b(self): pass\ndef a(): pass\n")
    source = Source(module)
    method = source.sibling(module.body[0].body[0], "b")
    assert method.name == "b"
    assert source.sibling(method, "c") is None
    assert source.sibling(module.body[1], "b") is None


def test_what_is_no_python_is_not_read(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("{% for x in y %}")
    assert read(str(page)) is None


def test_code_whose_file_is_not_python_gets_the_hint_that_claims_least(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("\n{{ pool.getconn() }} {% end %}\n")
    found = {"capture": lambda: Origin(capture(frozenset(), 1))}
    exec(compile("\ndef page():\n    return capture()\norigin = page()", str(page), "exec"), found)
    checkout = SimpleNamespace(
        origin=found["origin"], cause=None, closed_while_running=False, closed_with_pool=None, framework=""
    )
    hints = Hints(SourceTree(str(tmp_path)), TERMS)
    keeper = hints.keeper(checkout)
    assert (keeper.function, keeper.name) == (None, "page")
    assert hints.hint(checkout, keeper, connection_closed=False, broken=False) == (
        "nothing gave it back; call putconn() in a finally block"
    )


def test_where_no_code_of_the_project_took_it_nobody_is_accused(tmp_path):
    checkout = SimpleNamespace(
        origin=Origin(capture(frozenset({sys._getframe(1).f_code.co_filename}), 0)),
        cause=None,
        closed_while_running=False,
        closed_with_pool=None,
        framework="",
    )
    hints = Hints(SourceTree(str(tmp_path), (__file__.rpartition("/")[0],)), TERMS)
    assert hints.keeper(checkout) is None
    assert hints.hint(checkout, None, connection_closed=False, broken=False) == (
        "call putconn() in a finally block"
    )
