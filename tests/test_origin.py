"""Where a connection was taken: which frames are kept, which belong to the project, and what is shown of them."""

from __future__ import annotations

import gc
import sysconfig
import threading
import weakref
from pathlib import Path

import pytest
from _pytest import python

from pytest_poolguard.books.origin import (
    DEPTH,
    TEXT_WIDTH,
    Origin,
    Place,
    SourceTree,
    capture,
    line_of,
    printable,
)
from pytest_poolguard.books.redaction import redacted


def functions(origin) -> list[str]:
    return [code.co_name for code, _ in origin.frames()]


def taker(stops=frozenset(), skip=0):
    return Origin(capture(stops, skip))


def recurse(depth):
    return recurse(depth - 1) if depth else taker()


def test_the_innermost_frame_comes_first():
    def caller():
        return taker()

    assert functions(caller())[:3] == ["taker", "caller", "test_the_innermost_frame_comes_first"]


def test_frames_can_be_skipped():
    assert functions(taker(skip=1))[0] == "test_frames_can_be_skipped"


def test_a_stop_ends_the_stack_and_is_no_part_of_it():
    """A stop is a source file: pytest's, which runs the tests."""
    variables = {"taker": taker}
    exec(compile("def inner(function): return function()", "inner.py", "exec"), variables)
    exec(compile("def runner(): return inner(lambda: taker({'runner.py'}))", "runner.py", "exec"), variables)
    # the lambda stands in the stop's file, too
    assert functions(variables["runner"]()) == ["taker"]
    exec(compile("def outer(): return inner(taking)", "runner.py", "exec"), variables)
    variables["taking"] = lambda: taker(frozenset({"runner.py"}))
    assert functions(variables["outer"]()) == ["taker", "<lambda>", "inner"]


def test_a_deep_recursion_loses_its_outer_end():
    origin = recurse(2 * DEPTH)
    assert len(origin.frames()) == DEPTH
    assert functions(origin)[:2] == ["taker", "recurse"]
    assert functions(origin)[-1] == "recurse"


def test_without_a_caller_there_is_nothing():
    assert Origin(capture(frozenset(), 10_000)).frames() == []


def test_a_whole_thread_is_captured_up_to_its_start():
    found = []
    thread = threading.Thread(target=lambda: found.append(taker()))
    thread.start()
    thread.join()
    assert functions(found[0])[0] == "taker"
    assert functions(found[0])[-1] == "_bootstrap"


def test_an_origin_keeps_no_local_alive():
    class Connection:
        pass

    def use():
        connection = Connection()
        return taker(), weakref.ref(connection)

    origin, connection = use()
    gc.collect()
    assert connection() is None
    assert origin.frames()


def test_the_line_is_that_of_the_call_not_of_the_function():
    def caller():
        one = 1
        return one, taker()

    code, offset = caller()[1].frames()[1]
    assert line_of(code, offset) == code.co_firstlineno + 2


def test_a_line_that_is_unknown_is_the_functions_first():
    code = taker.__code__
    assert line_of(code, 10_000) == code.co_firstlineno


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode", "plain ünïcode"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


# whose code it is


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "project"


def is_own(root: Path, file: Path) -> bool:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return SourceTree(str(root)).is_own(str(file))


@pytest.mark.parametrize("file", ["shop/db.py", "src/shop/db.py", "tests/test_it.py", "conftest.py"])
def test_code_in_the_root_directory_is_the_projects(root, file):
    assert is_own(root, root / file)


def test_code_beside_the_root_directory_is_own_too(root, tmp_path):
    assert is_own(root, tmp_path / "sibling" / "shop.py")


@pytest.mark.parametrize("packages", ["site-packages", "dist-packages"])
def test_an_installed_package_is_a_library_even_in_a_venv_inside_the_root(root, packages):
    assert not is_own(root, root / ".venv" / "lib" / "python3" / packages / "dep" / "db.py")


@pytest.mark.parametrize("source", ["shop", "src/shop", "lib/shop"])
def test_the_project_itself_as_tox_installs_it_is_own(root, source):
    (root / source).mkdir(parents=True)
    assert is_own(root, root / ".tox" / "py" / "lib" / "site-packages" / "shop" / "db.py")


def test_a_module_of_the_project_as_tox_installs_it_is_own(root):
    root.mkdir()
    (root / "shop.py").touch()
    assert is_own(root, root / ".tox" / "py" / "lib" / "site-packages" / "shop.py")


def test_the_standard_library_and_folded_folders_are_not_own(root, tmp_path):
    tree = SourceTree(str(root), (str(tmp_path / "pytest"),))
    assert not tree.is_own(threading.__file__)
    assert not tree.is_own(sysconfig.get_paths()["stdlib"] + "/contextlib.py")
    assert not tree.is_own(str(tmp_path / "pytest" / "runner.py"))
    assert tree.is_own(str(tmp_path / "pytest_of_mine.py"))


@pytest.mark.parametrize(
    ("name", "own"), [("<string>", False), ("<frozen importlib._bootstrap>", False), ("<doctest a.b[0]>", True)]
)
def test_code_without_a_file_is_own_only_in_a_doctest(root, name, own):
    assert SourceTree(str(root)).is_own(name) is own


# what is shown


def test_a_file_is_named_relative_to_the_root(root):
    tree = SourceTree(str(root))
    assert tree.relative(str(root / "shop" / "db.py")) == "shop/db.py"
    assert tree.relative("/elsewhere/db.py") == "/elsewhere/db.py"
    assert tree.relative("<string>") == "<string>"
    assert tree.relative(f"{root}-two/db.py") == f"{root}-two/db.py"


def test_file_names_and_source_lines_can_not_drive_a_terminal(root):
    root.mkdir()
    file = root / "a\x1b[31m.py"
    file.write_text("x = '\x1b[2J'\n")
    place = SourceTree(str(root)).place_at(str(file), 1, "f\x07")
    assert (place.file, place.text, place.function) == ("a\\x1b[31m.py", "x = '\\x1b[2J'", "f\\x07")
    assert SourceTree(str(root)).relative("<\x1b>") == "<\\x1b>"


def test_a_long_source_line_is_cut(root):
    root.mkdir()
    file = root / "long.py"
    file.write_text("x" * 500)
    text = SourceTree(str(root)).place_at(str(file), 1, "f").text
    assert len(text) == TEXT_WIDTH
    assert text.endswith("x…")


def test_a_line_whose_file_is_gone_has_no_text(root):
    assert SourceTree(str(root)).place_at(str(root / "gone.py"), 3, "f") == Place("gone.py", 3, "f", "", own=True)


def test_a_stack_is_shown_outermost_first_and_the_site_is_the_innermost_own_line():
    tree = SourceTree(str(Path(__file__).parent))
    found = []
    thread = threading.Thread(target=lambda: found.append(taker()))
    thread.start()
    thread.join()
    stack = tree.stack(found[0])
    assert [place.own for place in stack] == [False] * (len(stack) - 2) + [True, True]
    assert tree.site(found[0]) == stack[-1]
    assert stack[-1].site == f"test_origin.py:{taker.__code__.co_firstlineno + 1} in taker"


def test_a_site_in_libraries_alone_is_the_innermost_line_and_without_frames_there_is_none(root, tmp_path):
    tree = SourceTree(str(root), (str(Path(__file__).parent),))
    assert tree.site(taker(frozenset({python.__file__}))).function == "taker"
    assert tree.site(Origin(capture(frozenset(), 10_000))) is None


# passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('connect("postgresql://me:hunter2@host/db")', 'connect("postgresql://me:***@host/db")'),
        ('connect("postgresql://me:p@ss:w/rd@host/db")', 'connect("postgresql://me:***@host/db")'),
        ('connect("host=a password=hunter2 port=1")', 'connect("host=a password=*** port=1")'),
        ("connect(\"host=a password='hunter 2' port=1\")", 'connect("host=a password=*** port=1")'),
        ("connect(password='hunter2', port=1)", "connect(password=***, port=1)"),
        ('connect(**{"password": "hunter2"})', 'connect(**{"password": ***})'),
        ('setenv("PGPASSWORD", "hunter2")', 'setenv("PGPASSWORD", ***)'),
        ('os.environ["PGPASSWORD"] = "hunter2"', 'os.environ["PGPASSWORD"] = ***'),
        ('POSTGRES_PASSWD = "hunt\\"er2"', "POSTGRES_PASSWD = ***"),
        ('url = "postgresql://h/db?user=me&password=hunter2&x=1"', None),
        ("conn = pool.getconn()", "conn = pool.getconn()"),
        ('connect("postgresql://me@host/db")', 'connect("postgresql://me@host/db")'),
        ("user = get_user(user_id)", "user = get_user(user_id)"),
    ],
)
def test_passwords_are_taken_out_of_source_lines(text, shown):
    assert "unter" not in redacted(text)
    if shown is not None:
        assert redacted(text) == shown
