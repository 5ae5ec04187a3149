"""A connection pooler between the suite and its server: its pids are nobody's, and its connections are shared."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from relay import Relay

WHERE_IT_IS = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
INI = """
[databases]
{dbname} = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
query_wait_timeout = 5
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until_it_listens(port):
    deadline = time.monotonic() + 5
    with socket.socket() as caller:
        while caller.connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            time.sleep(0.05)


@pytest.fixture(params=["session", "transaction"])
def pgbouncer(request, dsn, tmp_path):
    """The DSN of a real PgBouncer before the server; it runs as the user who may reach the server's socket."""
    program = shutil.which("pgbouncer", path=WHERE_IT_IS)
    if program is None:
        pytest.skip("no pgbouncer is installed")
    server, port = parse_dsn(dsn), free_port()
    config = tmp_path / "pgbouncer.ini"
    known = " ".join(f"{name}={value}" for name, value in server.items())
    config.write_text(INI.format(dbname=server["dbname"], server=known, port=port, mode=request.param))
    owner = {"user": Path(server["host"]).stat().st_uid} if os.geteuid() == 0 else {}
    with config.open("rb") as readable:  # pytest's folder is closed to others
        process = subprocess.Popen(
            [program, "-q", "/dev/stdin"], stdin=readable, stderr=subprocess.DEVNULL, cwd="/", **owner
        )
    try:
        wait_until_it_listens(port)
        yield make_dsn(host="127.0.0.1", port=port, user=server["user"], dbname=server["dbname"])
    finally:
        process.kill()  # a polite request waits for its clients
        process.wait(5)


SUITE = """
import asyncio
import asyncpg, psycopg
kept = []
loop = asyncio.new_event_loop()

def timeout(cursor):
    cursor.execute("SHOW statement_timeout")
    return cursor.fetchone()[0]

def test_psycopg2():
    kept.append(psycopg2.connect(DSN))
    assert timeout(kept[-1].cursor()) == "0"

def test_psycopg():
    kept.append(psycopg.connect(DSN))
    assert timeout(kept[-1].cursor()) == "0"

def test_asyncpg():
    async def connect():
        known = psycopg2.extensions.parse_dsn(DSN)
        known["database"] = known.pop("dbname")
        conn = await asyncpg.connect(**known, statement_cache_size=0)
        assert await conn.fetchval("SHOW statement_timeout") == "0"
        return conn
    kept.append(loop.run_until_complete(connect()))

def test_leaks(pool):
    pool.getconn()
"""
IN_BETWEEN = "(a connection pooler or a load balancer is in between): what is left open there is not checked"


def test_behind_pgbouncer_one_line_says_so_names_are_counted_and_nobody_is_accused(suite, pgbouncer, monkeypatch):
    """And what we ask changes nothing for those who get the server's connection after us."""
    monkeypatch.setenv("SUITE_DSN", pgbouncer)
    run = suite.run(SUITE, "--poolguard-connections=off", "--poolguard-server=test", subprocess=True)
    run.assert_outcomes(passed=3, failed=1)
    assert [(f["kind"], f["backend_pid"]) for f in run.findings] == [("checked_out", None)]
    unknown, names = run.data["notices"]
    assert unknown.endswith(IN_BETWEEN)
    assert "bear the name of this run; behind a connection pooler they may be the pooler's own" in names
    assert "pytest-poolguard" not in run.text.partition("of others")[2]


# the same in the protocol's own words: one that tells its clients pids of its own

PID = b"K\x00\x00\x00\x0c"


class Pooler(Relay):
    """Tells every client another pid than the backend's."""

    def passed(self, data):
        head, found, rest = data.partition(PID)
        return head + found + b"\x7f" + rest[1:] if found else data


@pytest.fixture
def pooler(dsn):
    pooler = Pooler(dsn)
    yield pooler
    pooler.close()


def test_a_pid_that_a_pooler_made_up_is_told_nowhere(suite, pooler, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", pooler.dsn)
    run = suite.run("kept = []\ndef test_opens():\n    kept.append(psycopg2.connect(DSN))\n")
    assert [(f["kind"], f["backend_pid"]) for f in run.findings] == [("not_closed", None)]
    assert run.data["notices"][0].endswith(IN_BETWEEN)
    assert "backend pid" not in run.text


CHILD = """
import os, subprocess, sys
child = "import os, psycopg2, sys; kept = psycopg2.connect(os.environ['SUITE_DSN']); print(flush=True); input()"

def test_starts():
    psycopg2.connect(DSN).close()
    pipe = subprocess.PIPE
    global process
    process = subprocess.Popen([sys.executable, "-c", child], stdin=pipe, stdout=pipe)
    process.stdout.readline()

def test_other():
    psycopg2.connect(os.environ["OTHER"]).close()
"""


def test_nobody_is_accused_by_name_where_one_way_to_the_server_is_a_poolers(suite, dsn, pooler, monkeypatch):
    """What bears the run's name may be the pooler's, whichever way we ask; not so where all ways are direct."""
    monkeypatch.setenv("OTHER", dsn)
    run = suite.run(CHILD, subprocess=True)
    assert [(f["kind"], f["opened_by"]) for f in run.findings] == [
        ("server_backend", "a child process of this run")
    ]
    monkeypatch.setenv("OTHER", pooler.dsn)
    run = suite.run(CHILD, subprocess=True)
    assert run.findings == []
    assert run.result.ret == 0
    assert any("1 connection of " in one and "bears the name of this run" in one for one in run.data["notices"])
