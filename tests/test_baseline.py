"""The baseline: recorded sites pass, any other fails, and one that leaks no more is told."""

from __future__ import annotations

import linecache
import os
import re

import pytest

from pytest_poolguard.baseline import file as baseline
from pytest_poolguard.baseline.file import Entry
from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging.judge import Judge

RECORD = ("--poolguard-baseline=leaks.txt", "--poolguard-update-baseline")
GATE = ("--poolguard-baseline=leaks.txt",)
STRICT = (*GATE, "--poolguard-strict-baseline")

SHOP = """
def old(pool):
    conn = pool.getconn()

def older(pool):
    conn = pool.getconn()
"""
OLD = """
from shop import old, older

@pytest.mark.parametrize("n", range(3))
def test_old(pool, n):
    old(pool)

def test_older(pool):
    older(pool)

def test_fine(pool):
    pool.putconn(pool.getconn())
"""
FIXED = SHOP.replace(
    "def old(pool):\n    conn = pool.getconn()", "def old(pool):\n    pool.putconn(pool.getconn())"
)


@pytest.fixture
def shop(suite):
    """A suite with two sites that leak."""
    suite.pytester.syspathinsert()
    suite.file("shop.py", SHOP)
    return suite


def lines(suite) -> list[str]:
    """The sites of the baseline, without what is made by a hash."""
    text = (suite.path / "leaks.txt").read_text("utf-8")
    return [line.split("  ", 1)[1] for line in text.splitlines() if not line.startswith("#")]


OLD_LINE = "checked_out  shop.py:old  «conn = pool.getconn()»  test_suite.py::test_old"
OLDER_LINE = "checked_out  shop.py:older  «conn = pool.getconn()»  test_suite.py::test_older"


def edit(suite, source: str) -> None:
    """Change the code under test; the next run has to read it anew."""
    suite.file("shop.py", source)
    linecache.clearcache()


def test_from_the_first_run_to_the_last_leak(shop, processes):
    run = shop.run(OLD, *RECORD, *processes)
    run.assert_outcomes(passed=5)
    assert run.result.ret == 0
    assert lines(shop) == [OLD_LINE, OLDER_LINE]
    assert "poolguard: 2 sites recorded in leaks.txt (2 added)\n" in run.text

    run = shop.again(*GATE, *processes)
    run.assert_outcomes(passed=5)
    assert run.result.ret == 0
    assert {finding["verdict"] for finding in run.findings} == {"known"}
    assert "= poolguard: 4 known, 2 sites, 4 tests =" in run.text
    assert "hint:" not in run.text
    assert " stale site" not in run.text

    shop.file("test_new.py", "def test_new(pool):\n    conn = pool.getconn()\n")
    shop.file("conftest.py", "from test_suite import pool\n")
    run = shop.again(*GATE, *processes)
    run.assert_outcomes(passed=5, failed=1)
    assert run.result.ret == 1
    assert "= poolguard: 1 leak, 4 known, 3 sites, 5 tests =" in run.text
    (shop.path / "test_new.py").unlink()

    edit(shop, "# a line above\n" + FIXED)
    stale = "poolguard: 1 stale site in leaks.txt: shop.py:old leaks no more; "
    stale += "--poolguard-update-baseline takes it out\n"
    run = shop.again(*GATE, *processes)
    run.assert_outcomes(passed=5)
    assert run.result.ret == 0
    assert stale in run.text
    run = shop.again(*STRICT, *processes)
    run.assert_outcomes(passed=5, errors=1)
    assert run.result.ret == 1
    assert stale in run.text
    run = shop.again("--poolguard-strict-baseline", *RECORD, *processes)
    assert run.result.ret == 0
    assert lines(shop) == [OLDER_LINE]
    assert "poolguard: 1 site recorded in leaks.txt (1 taken out)\n" in run.text
    assert shop.again(*STRICT, *processes).result.ret == 0


def test_what_was_recorded_by_one_process_is_known_on_workers_and_the_other_way_round(shop):
    shop.run(OLD, *RECORD, "-n2")
    there = (shop.path / "leaks.txt").read_bytes()
    shop.again("--poolguard-baseline=here.txt", "--poolguard-update-baseline")
    assert (shop.path / "here.txt").read_bytes() == there
    assert b"\r" not in there


def test_a_second_call_of_the_same_kind_in_a_function_is_a_new_site(shop):
    shop.run(OLD, *RECORD)
    edit(
        shop,
        SHOP.replace("    conn = pool.getconn()\n\n", "    conn = pool.getconn()\n    more = pool.getconn()\n\n"),
    )
    run = shop.again(*GATE)
    run.assert_outcomes(failed=3, passed=2)
    verdicts = [(finding["acquired"]["text"], finding["verdict"]) for finding in run.findings]
    assert set(verdicts) == {("conn = pool.getconn()", "known"), ("more = pool.getconn()", "failed")}


def test_known_leaks_are_reclaimed_as_any_other(suite):
    body = """
@pytest.mark.parametrize("n", range(25))
def test_it(pool, n):  # which has 10 connections
    conn = pool.getconn()
"""
    suite.run(body, *RECORD).assert_outcomes(passed=25)
    suite.again(*GATE).assert_outcomes(passed=25)


def test_in_warn_mode_it_is_recorded_too_and_nothing_fails(shop):
    shop.run(OLD, *RECORD, "--poolguard=warn").assert_outcomes(passed=5)
    assert lines(shop) == [OLD_LINE, OLDER_LINE]
    edit(shop, FIXED)
    run = shop.again(*STRICT, "--poolguard=warn")
    assert run.result.ret == 0
    assert "poolguard: 1 stale site in leaks.txt" in run.text


def test_a_warning_needs_no_baseline(suite):
    body = """
def test_skips(pool):
    pool.getconn()
    pytest.skip("later")

kept = []

def test_makes():
    kept.append(ThreadedConnectionPool(1, 2, DSN))

@pytest.mark.pool(leaks=1, reason="known")
def test_expected(pool):
    pool.getconn()
"""
    run = suite.run(body, *RECORD, "--poolguard-server=off")
    assert sorted(finding["verdict"] for finding in run.findings) == ["expected", "known", "warned"]
    assert lines(suite) == ["checked_out  test_suite.py:test_skips  «pool.getconn()»  test_suite.py::test_skips"]


OUTSIDE = """
module_pool = SimpleConnectionPool(1, 2, DSN)
module_pool.getconn()

@pytest.fixture(scope="session")
def wide(request):
    pool = SimpleConnectionPool(1, 2, DSN)
    pool.getconn()
    yield
    pool.closeall()

@pytest.fixture(scope="module")
def narrower():
    pool = SimpleConnectionPool(1, 2, DSN)
    pool.getconn()
    yield
    pool.closeall()

raw = []

def test_it(wide, narrower):
    raw.append(psycopg2.connect(DSN))
"""


def test_what_leaks_outside_of_tests_is_known_too(suite, processes):
    assert suite.run(OUTSIDE, *processes).result.ret == 1
    run = suite.again(*RECORD, *processes)
    assert run.result.ret == 0
    run.assert_outcomes(passed=1)
    told = [line.replace("test_suite.py:", "") for line in lines(suite)]
    assert told == [
        "checked_out  <module>  «module_pool.getconn()»  *",
        "checked_out  narrower  «pool.getconn()»  test_suite.py",
        "server_backend  test_it  «raw.append(psycopg2.connect(DSN))»  :test_it",
        "checked_out  wide  «pool.getconn()»  *",
    ]
    run = suite.again(*STRICT, *processes)
    assert run.result.ret == 0
    run.assert_outcomes(passed=1)
    assert {finding["verdict"] for finding in run.findings} == {"known"}


def test_a_nested_checkout_is_known_by_both_of_its_places(suite):
    body = """
def test_it(pool):
    one = pool.getconn()
    other = pool.getconn()
    pool.putconn(other)
    pool.putconn(one)
"""
    nested = "--poolguard-nested=fail"
    suite.run(body, *RECORD, nested)
    line = "nested  test_suite.py:test_it #2, holding that of test_suite.py:test_it  «other = pool.getconn()»"
    assert lines(suite) == [f"{line}  test_suite.py::test_it"]
    linecache.clearcache()
    run = suite.run("\n\n" + body.replace("one = pool", "one = kept = pool"), *STRICT, nested)
    run.assert_outcomes(passed=1)
    assert [finding["verdict"] for finding in run.findings] == ["known"]
    linecache.clearcache()
    elsewhere = "def first(pool):\n    return pool.getconn()\n"
    run = suite.run(elsewhere + body.replace("one = pool.getconn()", "one = first(pool)"), *GATE, nested)
    run.assert_outcomes(failed=1)


# stale, or not looked for


TWO = """
def test_leaks(pool):
    conn = pool.getconn()

def test_other(pool):
    pool.putconn(pool.getconn())
"""
LEAKS = "    conn = pool.getconn()\n"
FINE = "    pool.putconn(pool.getconn())\n"


@pytest.fixture
def recorded(suite):
    suite.run(TWO, *RECORD)
    assert len(lines(suite)) == 1
    return suite


@pytest.mark.parametrize(
    ("change", "is_stale"),
    [
        pytest.param((LEAKS, FINE), True, id="repaired"),
        pytest.param((f"def test_leaks(pool):\n{LEAKS}", ""), True, id="gone"),
        pytest.param((LEAKS, "    pytest.skip('no')\n"), False, id="skipped"),
        pytest.param((LEAKS, "    assert 0\n"), False, id="failing before it leaks"),
        pytest.param((LEAKS, "    pytest.xfail('known')\n"), True, id="xfailed"),
        pytest.param(
            ("def test_leaks", "@pytest.mark.parametrize('n', [])\ndef test_leaks"), False, id="no cases"
        ),
    ],
)
def test_a_site_is_stale_when_its_test_ran_to_its_end_or_is_there_no_longer(recorded, change, is_stale):
    body = TWO.replace(*change).replace("(pool)", "(pool, n)", change[1].startswith("@"))
    run = recorded.run(body, *STRICT)
    assert (" stale site" in run.text) is is_stale
    recorded.again(*RECORD)
    assert len(lines(recorded)) == (0 if is_stale else 1)


@pytest.mark.parametrize(
    "selection",
    [
        ["-k", "other"],
        ["-k", "test_"],
        ["-m", "not slow"],
        ["test_suite.py::test_other"],
        ["test_suite.py::test_leaks"],
        ["--deselect", "test_suite.py::test_leaks"],
        ["test_else.py"],
        ["--ignore", "test_suite.py"],
        ["--color=no", "SHARD"],
    ],
    ids=" ".join,
)
def test_a_selection_calls_nothing_stale_and_drops_nothing(recorded, selection, processes):
    recorded.file("test_suite.py", recorded.path.joinpath("test_suite.py").read_text().replace(LEAKS, FINE))
    recorded.file("test_else.py", "def test_it(): pass\n")
    if "SHARD" in selection:  # as some plugins do it that split a suite: without a word
        recorded.file("conftest.py", "def pytest_collection_modifyitems(items): items[:] = items[:1]\n")
        selection = selection[:-1]
    before = lines(recorded)
    run = recorded.again(*STRICT, *processes, *selection)
    assert run.result.ret == 0
    assert " stale site" not in run.text
    recorded.again(*RECORD, *processes, *selection)
    assert lines(recorded) == before


def test_a_folder_or_file_that_ran_in_full_may_call_its_sites_stale(recorded):
    recorded.file("test_suite.py", recorded.path.joinpath("test_suite.py").read_text().replace(LEAKS, FINE))
    recorded.file("test_else.py", "def test_it(): pass\n")
    assert "1 stale site" in recorded.again(*GATE, "test_suite.py").text


def test_the_last_failed_call_nothing_stale(recorded):
    recorded.file("test_else.py", "def test_it(): assert 0\n")
    cached = ("-p", "cacheprovider")
    recorded.again(*cached)
    recorded.file("test_suite.py", recorded.path.joinpath("test_suite.py").read_text().replace(LEAKS, FINE))
    assert " stale site" not in recorded.again(*GATE, *cached, "--lf").text


def test_a_file_that_was_deleted_makes_its_sites_stale(recorded):
    recorded.file("test_else.py", "def test_it(): pass\n")
    (recorded.path / "test_suite.py").unlink()
    assert "1 stale site" in recorded.again(*GATE).text


def test_a_file_that_can_not_be_collected_calls_nothing_stale(recorded):
    recorded.file("test_suite.py", "import nothing_of_that_name\n")
    recorded.file("test_else.py", "def test_it(): pass\n")
    assert " stale site" not in recorded.again(*GATE, "--continue-on-collection-errors").text


def test_what_a_session_leaks_is_stale_only_after_a_whole_run(suite):
    suite.run(OUTSIDE, *RECORD)
    repair(suite)
    suite.file("test_else.py", "def test_it(): pass\n")
    assert "1 stale site in leaks.txt: test_suite.py:narrower leaks" in suite.again(*GATE, "test_suite.py").text
    text = suite.again(*GATE).text
    assert (
        "3 stale sites in leaks.txt: test_suite.py:<module>, test_suite.py:narrower, test_suite.py:wide leak"
        in text
    )


def repair(suite) -> None:
    """Let nothing leak that did."""
    module = suite.path / "test_suite.py"
    module.write_text(re.sub(r"(\w+)\.getconn\(\)", r"\1.putconn(\1.getconn())", module.read_text()))
    linecache.clearcache()


def test_a_worker_that_crashes_leaves_nothing_stale(recorded):
    repair(recorded)
    recorded.file("test_else.py", "import os\ndef test_it(): os._exit(1)\n")
    run = recorded.again(*STRICT, "-n1")
    assert "ended without a word" in run.text
    assert " stale site" not in run.text
    recorded.again(*RECORD, "-n1")
    assert len(lines(recorded)) == 1


def test_a_fault_of_our_own_leaves_nothing_stale(recorded, monkeypatch):
    def broken(*args):
        raise KeyError("oops")

    monkeypatch.setattr(Judge, "end", broken)
    run = recorded.again(*STRICT)
    assert "internal error" in run.text
    assert " stale site" not in run.text


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("server_backend", "--poolguard-server=off"),
        ("not_closed", "--poolguard-connections=off"),
        ("pool_not_closed", "--poolguard-open-pools=off"),
        ("dirty_return", "--poolguard-dirty-returns=off"),
        ("nested", "--poolguard-nested=off"),
    ],
)
def test_what_is_not_looked_for_is_not_stale(recorded, kind, option):
    repair(recorded)
    path = recorded.path / "leaks.txt"
    path.write_text(path.read_text("utf-8").replace("checked_out", kind), "utf-8")
    on = (option.replace("=off", "=warn"),) if kind in ("dirty_return", "nested") else ()
    assert "1 stale site" in recorded.again(*GATE, *on).text
    assert " stale site" not in recorded.again(*GATE, option).text
    recorded.again(*RECORD, option)
    assert len(lines(recorded)) == 1


def test_groups_of_xdist_are_no_part_of_a_tests_name(suite):
    grouped = "@pytest.mark.xdist_group('one')\ndef test_leaks"
    on_workers = ("-n2", "--dist=loadgroup")
    suite.run(TWO.replace("def test_leaks", grouped), *RECORD, *on_workers)
    assert lines(suite) == [
        "checked_out  test_suite.py:test_leaks  «conn = pool.getconn()»  test_suite.py::test_leaks"
    ]
    repair(suite)
    assert "1 stale site" in suite.again(*GATE, *on_workers).text
    assert "1 stale site" in suite.again(*GATE).text


def test_a_test_that_passes_at_last_has_run(recorded):
    flaky = "def test_leaks(pool, tried=[]):\n    tried.append(1)\n    assert len(tried) > 1\n"
    body = TWO.replace(f"def test_leaks(pool):\n{LEAKS}", flaky)
    assert "1 stale site" in recorded.run(body, *GATE, "--reruns=1").text


def test_shards_write_one_baseline(shop):
    shop.run(OLD, *RECORD)
    shop.file("conftest.py", "from test_suite import pool\n")
    shop.file("test_more.py", "from shop import old\ndef test_more(pool): old(pool)\n")
    shop.again(*RECORD, "test_more.py")
    assert lines(shop) == [
        OLD_LINE.replace("test_suite.py::", "test_more.py::test_more, test_suite.py::"),
        OLDER_LINE,
    ]


def test_showing_the_tests_writes_nothing(suite):
    suite.run(TWO, *RECORD, "--collect-only")
    assert not (suite.path / "leaks.txt").exists()


def test_a_site_that_is_ignored_by_now_is_taken_out(recorded):
    recorded.setting("poolguard_ignore", "test_suite.py:test_leaks -- it goes in May")
    run = recorded.again(*STRICT)
    assert [finding["verdict"] for finding in run.findings] == ["ignored"]
    assert " stale site" not in run.text
    recorded.again(*RECORD)
    assert lines(recorded) == []


# where it is


def test_in_the_ini_file_its_name_begins_where_that_lies(suite, monkeypatch):
    suite.setting("poolguard_baseline", "leaks.txt")
    suite.run(TWO, "--poolguard-update-baseline")
    (suite.path / "below").mkdir()
    monkeypatch.chdir(suite.path / "below")
    run = suite.again("..")
    assert [finding["verdict"] for finding in run.findings] == ["known"]


def test_the_folders_that_it_needs_are_made(suite):
    suite.run(TWO, "--poolguard-baseline=new/folder/leaks.txt", "--poolguard-update-baseline")
    assert [path.name for path in (suite.path / "new/folder").iterdir()] == ["leaks.txt"]


def test_one_that_could_not_be_written_fails_the_run(suite):
    suite.file("conftest.py", "def pytest_sessionfinish():\n    import os; os.makedirs('leaks.txt/full')\n")
    run = suite.run(TWO, *RECORD)
    assert run.result.ret == 1
    assert "poolguard: the baseline could not be written to leaks.txt: Is a directory" in run.text
    assert [path.name for path in suite.path.glob("leaks*")] == ["leaks.txt"]


# wrong files


TITLE = "# pytest-poolguard baseline, version 1\n"
LINE = f"0123456789abcdef  {OLD_LINE}\n"
NONE = "is no baseline of pytest-poolguard: it does not begin with '# pytest-poolguard baseline'"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"format": "pytest-poolguard"}', NONE),
        ("shop.py:3: error: unused [mypy]\n", NONE),
        (LINE, NONE),
        (b"\xff\xfe\x00", "is no baseline: it is no text in UTF-8"),
        (TITLE.replace("1", "2"), "was written by a newer pytest-poolguard (version 2, not 1)"),
        (TITLE + "\nnonsense\n", ", line 3: this is no site: 'nonsense'"),
        (TITLE + LINE[1:], f", line 2: this is no site: '{LINE[1:41]}'"),
        (
            f"{TITLE}<<<<<<< HEAD\n{LINE}=======\n>>>>>>> other\n",
            ", line 2: a merge conflict is not resolved: keep the lines of both sides",
        ),
    ],
)
@pytest.mark.parametrize("options", [GATE, RECORD, (*GATE, "-n2")], ids=["gate", "record", "xdist"])
def test_a_wrong_file_ends_the_run_before_it_begins_in_one_line_and_stays(suite, content, error, options):
    content = content if isinstance(content, bytes) else content.encode()
    (suite.path / "leaks.txt").write_bytes(content)
    run = suite.run(TWO, *options)
    assert_refused(run, f"--poolguard-baseline: '{suite.path}/leaks.txt'{'' if error[0] == ',' else ' '}{error}")
    assert (suite.path / "leaks.txt").read_bytes() == content


def assert_refused(run, line: str) -> None:
    told = [line for line in run.result.stderr.str().splitlines() if line]
    assert told == [f"ERROR: poolguard: {line}"]
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert run.data == {}


def test_a_file_that_is_missing_is_an_error_unless_it_is_to_be_written(suite):
    run = suite.run(TWO, *GATE)
    name = f"'{suite.path}/leaks.txt'"
    missing = "can't be read: No such file or directory; --poolguard-update-baseline writes it"
    assert_refused(run, f"--poolguard-baseline: {name} {missing}")


@pytest.mark.parametrize("options", [GATE, RECORD])
def test_a_folder_is_no_baseline(suite, options):
    (suite.path / "leaks.txt").mkdir()
    assert_refused(suite.run(TWO, *options), "--poolguard-baseline: 'leaks.txt' is a folder, a file is wanted")


def test_a_place_where_nothing_can_be_written_is_refused_before_the_run(suite):
    suite.file("file", "")
    run = suite.run(TWO, "--poolguard-baseline=file/leaks.txt", "--poolguard-update-baseline")
    where = f"'{suite.path}/file'"
    assert_refused(
        run,
        f"--poolguard-baseline: '{suite.path}/file/leaks.txt' can't be written: "
        f"{where} is not a folder that this user may write to",
    )


def test_a_file_that_may_not_be_read_is_refused(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match=r"^'leaks.txt' can't be read: Permission denied$"):
        baseline.read("leaks.txt")


@pytest.mark.parametrize("name", ["update", "strict"])
def test_without_a_file_there_is_nothing_to_write_or_to_be_strict_about(suite, name):
    run = suite.run(TWO, f"--poolguard-{name}-baseline")
    assert_refused(
        run, f"--poolguard-{name}-baseline: there is no baseline; name it with --poolguard-baseline=FILE"
    )


# the format


def entry(
    site="shop.py:old", tests=("test_suite.py::test_old",), fingerprint="0123456789abcdef", call="f()"
) -> Entry:
    return Entry(fingerprint, "checked_out", site, call, set(tests))


def test_what_was_written_is_read_again(tmp_path):
    entries = [
        entry("shop.py:old, through db.py:take #2", call="a  =  take('«x»  y')"),
        entry("an unknown place", ["*"], "f" * 16, call=""),
        entry("a child process of tests/a b.py::test_it", ["tests/a b.py::test_it", "tests/c.py"], "e" * 16),
    ]
    path = str(tmp_path / "leaks.txt")
    baseline.write(path, entries)
    assert baseline.read(path) == {one.fingerprint: one for one in entries}
    before = (tmp_path / "leaks.txt").read_bytes()
    baseline.write(path, reversed(baseline.read(path).values()))
    assert (tmp_path / "leaks.txt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["leaks.txt"]


def test_the_lines_are_sorted_by_site(tmp_path):
    baseline.write(str(tmp_path / "leaks.txt"), [entry("b.py:f", fingerprint="1" * 16), entry("a.py:f")])
    sites = [line.split("  ")[2] for line in (tmp_path / "leaks.txt").read_text().splitlines() if line[0] != "#"]
    assert sites == ["a.py:f", "b.py:f"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_a_merge_or_an_editor_has_left_is_read(tmp_path, end, mark):
    one, other = str(entry()), str(entry(tests=["test_a.py::test_b"]))
    text = mark + end.join([TITLE.strip(), "", "# a comment", one, other, one, ""])
    (tmp_path / "leaks.txt").write_bytes(text.encode())
    (found,) = baseline.read(str(tmp_path / "leaks.txt")).values()
    assert found == entry(tests=["test_suite.py::test_old", "test_a.py::test_b"])


def test_an_empty_file_records_nothing(tmp_path):
    (tmp_path / "leaks.txt").touch()
    assert baseline.read(str(tmp_path / "leaks.txt")) == {}


def found_in(nodeid, kind="test", scope="") -> Finding:
    return Finding("checked_out", "psycopg2", "", kind, "it", owner_scope=scope, nodeid=nodeid)


@pytest.mark.parametrize(
    ("findings", "tests"),
    [
        ([found_in("a.py::test[1]"), found_in("a.py::test[a::b]")], {"a.py::test"}),
        ([found_in(f"a.py::test_{n}") for n in range(3)], {"a.py::test_0", "a.py::test_1", "a.py::test_2"}),
        ([found_in(f"a.py::test_{n}") for n in range(4)], {"a.py"}),
        ([found_in("a.py::T::test_1[x]"), found_in("b.py::test_2")], {"a.py::T::test_1", "b.py::test_2"}),
        ([found_in("a.py::test", "fixture", "function")], {"a.py::test"}),
        ([found_in("a.py::test", "fixture", "module"), found_in("a.py::test")], {"a.py"}),
        ([found_in("a.py::test", "fixture", "session"), found_in("a.py::test")], {"*"}),
        ([found_in("", "session"), found_in("a.py::test")], {"*"}),
        ([found_in("doc.txt")], {"doc.txt"}),
    ],
)
def test_a_line_names_the_tests_that_have_to_run_for_the_site_to_leak(findings, tests):
    assert baseline.tests_of(findings) == tests


def test_a_line_names_the_caller_of_a_helper():
    finding = found_in("a.py::test")
    finding.acquired = Place("db.py", 3, "take", "return pool.getconn()")
    finding.called_from = Place("shop.py", 8, "sell", "conn = take()", qualified="Shop.sell")
    one = baseline.entry_of(finding)
    assert (one.site, one.call) == ("shop.py:Shop.sell, through db.py:take", "conn = take()")
    assert os.sep not in one.fingerprint
