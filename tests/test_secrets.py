"""No password, no value of a statement and no control character reaches a terminal or a file."""

from __future__ import annotations

import re

import pytest

PASSWORD = "hunter2-" + "geheim"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def everything(run) -> str:
    """All that a run wrote, its findings included."""
    return run.text + run.result.stderr.str() + str(run.data)


@pytest.mark.parametrize("options", [(), ("-vv",)], ids=["plain", "vv"])
def test_passwords_of_working_connections_are_never_shown(suite, options):
    """The server trusts everybody here, so that any password works."""
    run = suite.run(
        f"""
by_keyword = SimpleConnectionPool(1, 5, DSN, password="{PASSWORD}")

@pytest.fixture
def by_environment(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "{PASSWORD}")
    pool = SimpleConnectionPool(0, 5, DSN)
    yield pool
    pool.closeall()

def test_keyword():
    by_keyword.getconn()

def test_dsn():
    pool = SimpleConnectionPool(1, 5, psycopg2.extensions.make_dsn(DSN, password="{PASSWORD}")); pool.getconn()

def test_environment(by_environment):
    by_environment.getconn()

def test_one_line():
    conn = SimpleConnectionPool(1, 5, DSN, password="{PASSWORD}").getconn()

left = psycopg2.connect(DSN, password="{PASSWORD}")
""",
        *options,
    )
    assert len(run.findings) >= 4
    assert run.data["faults"] == []
    assert PASSWORD not in everything(run)
    assert "password=***" in everything(run)


@pytest.mark.parametrize(
    "asked",
    [
        f"postgresql://nobody:{PASSWORD}@127.0.0.1:1/x",
        f"host=127.0.0.1 port=1 user=nobody password={PASSWORD}",
        f"host=127.0.0.1 port=1 user=nobody password='{PASSWORD} and more'",
        f"postgresql://nobody:{PASSWORD}%zz@127.0.0.1:1/x",
        f"postgresql://nobody:{PASSWORD}",
        PASSWORD,
    ],
)
def test_a_server_that_can_not_be_asked_is_told_without_its_password(suite, asked):
    run = suite.run("def test_it(pool):\n    pool.getconn()\n", f"--poolguard-dsn={asked}", "-vv")
    run.assert_outcomes(failed=1)
    assert any("could not be read" in notice for notice in run.data["notices"])
    assert PASSWORD not in everything(run)


def test_a_failed_return_is_told_without_the_password_in_its_message(suite):
    run = suite.run(
        f"""
class Rude(psycopg2.extensions.connection):
    def rollback(self):
        raise OSError("\x1b[31mno way to postgresql://me:" + "{PASSWORD}" + "@host")

def test_it():
    pool = SimpleConnectionPool(1, 2, DSN, connection_factory=Rude)
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")
    with pytest.raises(OSError):
        pool.putconn(conn)
"""
    )
    (finding,) = run.findings
    assert "putconn() raised OSError: \\x1b[31mno way to postgresql://me:***@host" in finding["hint"]
    assert PASSWORD not in everything(run)
    assert not CONTROL.search(everything(run))


def test_an_internal_error_is_told_without_the_password_in_its_message(suite, monkeypatch):
    from pytest_poolguard.books.ledger import Ledger

    def broken(*args, **kwargs):
        raise ValueError(f"\x1b[31mpostgresql://me:{PASSWORD}@host")

    monkeypatch.setattr(Ledger, "check_out", broken)
    run = suite.run("def test_it(pool):\n    pool.putconn(pool.getconn())\n")
    run.result.assert_outcomes(passed=1)
    assert len(run.data["faults"]) == 1
    assert "ValueError while noting a checkout" in run.text
    assert PASSWORD not in everything(run)
    assert not CONTROL.search(everything(run))


def test_values_in_statements_are_not_shown(suite):
    run = suite.run(
        """
def test_it(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT %s, %s, 'plain' || $$dollar$$", ["it's " + "geheim", 4711 * 3])
""",
        "-vv",
    )
    assert run.findings[0]["server"]["statement"] == "SELECT ?, ?, ? || ?"
    text = everything(run).replace("'plain' || $$dollar$$", "")  # the source line itself
    for value in ("it's geheim", "geheim", "14133"):
        assert value not in text.replace('"geheim"', "")


def test_control_characters_never_reach_the_terminal(suite, processes):
    run = suite.run(
        r"""
ESC = "\x1b[31m\x07\x9b2J"

class Evil(ThreadedConnectionPool):
    pass

Evil.__name__ = "Evil" + ESC

@pytest.mark.parametrize("text", [ESC, "\r\n"])
def test_it(text):
    pool = Evil(1, 2, DSN, application_name="app\x1b[31m")
    def take():
        conn = pool.getconn()
        conn.cursor().execute("SELECT 1 AS \"\x1b[31mred\" -- \x1b[2J")
    thread = threading.Thread(target=take, name="t" + ESC)
    thread.start()
    thread.join()

@pytest.mark.pool(leaks=2, reason=ESC)
def test_reason(): pass
""",
        *processes,
        "-vv",
    )
    run.assert_outcomes(failed=3)
    assert len(run.findings) == 2
    assert not CONTROL.search(everything(run))
    assert "Evil\\x1b[31m\\x07\\x9b2J(1..2)" in run.text
    assert "by thread t\\x1b[31m\\x07\\x9b2J" in run.text


def test_a_file_with_control_characters_in_its_name_is_blamed_and_harmless(suite):
    name = "test_\x1b[31m.py"
    suite.file(
        name,
        "import os\nfrom psycopg2.pool import SimpleConnectionPool\n"
        "def test_it():\n    pool = SimpleConnectionPool(1, 2, os.environ['SUITE_DSN'])\n    pool.getconn()\n",
    )
    run = suite.again("--import-mode=importlib", "--tb=no", "-rN", "--override-ini=python_files=test_*.py")
    assert (run.result.ret, run.data["faults"]) == (1, [])
    (finding,) = run.findings
    assert finding["verdict"] == "failed"
    assert finding["nodeid"] == "test_\\x1b[31m.py::test_it"
    section = run.text[run.text.index("poolguard: 1 leak") :]
    assert not CONTROL.search(section)
    assert "test_\\x1b[31m.py:5 in test_it" in section
