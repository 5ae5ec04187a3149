"""What stays of a place after edits elsewhere, and on another machine."""

from __future__ import annotations

import pytest

from pytest_poolguard.books.identity import call_of, file_of, surroundings
from pytest_poolguard.books.origin import SourceTree


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("shop/users.py", "shop/users.py"),
        ("src/shop/users.py", "shop/users.py"),
        ("/ci/.tox/py/lib/python3.11/site-packages/shop/users.py", "shop/users.py"),
        ("C:\\ci\\Lib\\site-packages\\shop\\users.py", "shop/users.py"),
        ("/usr/lib/python3/dist-packages/shop/users.py", "shop/users.py"),
        ("/usr/lib/python3.11/threading.py", "threading.py"),
        ("/home/ada/work/common/db.py", "common/db.py"),
        ("D:/a/work/common/db.py", "common/db.py"),
        ("<doctest shop.users[0]>", "<doctest shop.users[0]>"),
        ("tests/lib/users.py", "tests/lib/users.py"),
    ],
)
def test_a_file_has_one_name_everywhere(file, name):
    assert file_of(file) == name


@pytest.mark.parametrize(
    "line",
    [
        "pool.getconn('a')",
        'conn = pool.getconn("a")',
        "self.conn = pool.getconn( 'a' )  # ours",
        "conn: Connection = pool.getconn('a')",
        "one = other = pool.getconn('a')",
        "conns[0] = pool.getconn('a')",
        "return pool.getconn('a')",
        "conn = await pool.getconn('a')",
        "yield pool.getconn('a')",
        "with pool.getconn('a') as conn:",
        "with pool.getconn('a') as (conn, cursor):",
        "async with pool.getconn('a') as self.conn:",
    ],
)
def test_a_call_is_what_is_called_not_what_its_value_is_named(line):
    assert call_of(line) == 'pool.getconn("a")'


@pytest.mark.parametrize(
    "line",
    ["conn = pool.getconn()", "conn = pool.getconn('b')", "conn = other.getconn('a')", "use(pool.getconn('a'))"],
)
def test_another_call_is_another(line):
    assert call_of(line) != 'pool.getconn("a")'


@pytest.mark.parametrize("line", ["conn = pool.getconn(", "", "x == pool", "'''", "use(key=pool.getconn())"])
def test_a_line_that_is_no_whole_statement_is_taken_as_it_is(line):
    assert call_of(line).endswith(line.replace(" ", "").replace("'", '"').partition("conn=")[2])


SOURCE = '''\
class Users:
    @cached
    def get(self, fast):
        if fast:
            conn = pool.getconn()
        else:
            c = pool.getconn()
        return [pool.getconn() for _ in range(2)]


if FAST:
    def connect():
        """
text that is not indented: on purpose
        """
        return pool.getconn()

class Orders:
    class Old:
        async def get(self):
            def inner():
                return pool.getconn()

conn = pool.getconn()
'''


@pytest.mark.parametrize(
    ("first", "text", "function", "place"),
    [
        (2, "            conn = pool", "get", ("Users.get", 1)),
        (2, "            c = pool", "get", ("Users.get", 2)),
        (2, "        return [", "get", ("Users.get", 1)),
        # a function of its own up to Python 3.11
        (8, "        return [", "<listcomp>", ("Users.get", 1)),
        (12, "        return pool", "connect", ("connect", 1)),
        (21, "                return pool", "inner", ("Orders.Old.get.inner", 1)),
        (1, "conn = pool", "<module>", ("<module>", 5)),
    ],
)
def test_a_function_is_known_with_what_it_stands_in_and_its_equal_calls_are_counted(first, text, function, place):
    lines = SOURCE.splitlines(keepends=True)
    (line,) = [number for number, line in enumerate(lines, 1) if line.startswith(text)]
    assert surroundings(lines, first, line, function) == place


@pytest.mark.parametrize(("lines", "first", "line"), [([], 1, 1), (["def f():\n"], 7, 9), ([], 0, 0)])
def test_a_source_that_is_gone_or_shorter_is_no_fault(lines, first, line):
    assert surroundings(lines, first, line, "f") == ("f", 1)


def places(folder, source: str) -> list[str]:
    """The lasting names of the places at which a module calls ``take``."""
    file = folder / "shop.py"
    file.write_text(source)
    tree, found = SourceTree(str(folder)), []

    class Pool:
        def take(self):
            import sys

            frame = sys._getframe(1)
            found.append(tree.place(frame.f_code, frame.f_lasti))

    exec(compile(source, str(file), "exec"), {"pool": Pool()})
    return [f"{place.lasting} {place.call}" for place in found]


BEFORE = """\
class A:
    def get(self):
        conn = pool.take()
        other = pool.take()

class B:
    def get(self):
        return [pool.take() for _ in range(1)]

A().get()
B().get()
"""
AFTER = """\
import os

class A:
    '''Above, and in between.'''

    def set(self):
        pool.take()

    def get(self):
        if os.sep:
            connection = pool.take()
        x = 1
        self.other = pool.take()  # renamed

class B:
    def get(self):
        return [pool.take() for _ in range(1)]

A().get()
B().get()
"""


def test_places_keep_their_names_through_edits(tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before = places(tmp_path / "before", BEFORE)
    assert before == [
        "shop.py:A.get pool.take()",
        "shop.py:A.get #2 pool.take()",
        "shop.py:B.get [pool.take()for_inrange(1)]",
    ]
    assert places(tmp_path / "after", AFTER) == before
