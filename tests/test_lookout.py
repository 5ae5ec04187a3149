"""A test that hangs on a lock is looked at while it hangs, by a thread that nobody meets."""

from __future__ import annotations

import os
import time

import pytest
from test_holding import holding
from test_stuck import section, sessions, stuck  # noqa: F401 - a fixture

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.records import Owner
from pytest_poolguard.server import lookout as lookout_module
from pytest_poolguard.server.contention import Contention, Session
from pytest_poolguard.server.lookout import Lookout


@pytest.fixture
def name():
    return f"waited_for_{os.getpid()}"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """No test is to take seconds."""
    monkeypatch.setattr(lookout_module, "FIRST", 0.3)
    monkeypatch.setattr(lookout_module, "BEAT", 0.05)


HANGS = """
import psycopg

def wait(**more):
    with psycopg.connect(DSN, **more) as conn:
        conn.execute("LOCK TABLE NAME")
"""


def assert_that_b_waits_for_a(text, name):
    (waits, facts), (has, others) = sessions(text)
    assert waits.endswith("in wait, by test test_b")
    assert facts[0].endswith(f": LOCK TABLE {name}")
    assert facts[1].startswith(f"waits for AccessExclusiveLock on {name}, blocked by pid ")
    assert has.endswith("in connect, by test test_a")
    assert others[1] == f"holds RowExclusiveLock on {name}"


def test_a_test_that_pytest_timeout_ends_is_told_what_it_waited_for(stuck, name):  # noqa: F811
    run = stuck(HANGS + "def test_b():\n    wait()\n", "-p", "timeout", "--timeout=2", "--timeout-method=signal")
    run.assert_outcomes(passed=1, failed=1)
    assert "Timeout" in run.text
    assert "s into the test body:" in section(run)
    assert_that_b_waits_for_a(section(run), name)


def test_one_that_a_statement_timeout_ends_too(stuck, name):  # noqa: F811
    run = stuck(HANGS + "def test_b():\n    wait(options='-c statement_timeout=1500')\n")
    run.assert_outcomes(passed=1, failed=1)
    assert_that_b_waits_for_a(section(run), name)


def test_one_that_ctrl_c_ends_is_told_in_the_summary(stuck, name):  # noqa: F811
    run = stuck(
        HANGS
        + """
def test_b():
    import _thread
    threading.Timer(1.5, _thread.interrupt_main).start()
    wait()
"""
    )
    assert run.result.ret == 2
    (notice,) = (notice for notice in run.data["notices"] if "Who waited" in notice)
    assert notice.startswith("test_suite.py::test_b was interrupted. Who waited for a lock, and who had it, ")
    assert_that_b_waits_for_a(notice, name)
    assert notice.splitlines()[-1] in run.text


def test_one_that_is_killed_with_the_process_is_told_before(stuck, name):  # noqa: F811
    run = stuck(
        "def test_b():\n    execute(connect(), 'LOCK TABLE NAME')\n",
        *("-p", "timeout", "--timeout=3", "--timeout-method=thread"),
        subprocess=True,
    )
    assert run.data == {}  # there was no end
    text = run.text + run.result.stderr.str()
    assert "poolguard: test_suite.py::test_b\nWho waited for a lock, and who had it, " in text
    assert f"waits for AccessExclusiveLock on {name}, blocked by pid " in text
    assert "in connect, by test test_a" in text
    assert text.index("Who waited for a lock") < text.index("Stack of MainThread")


def test_one_that_nobody_ends_is_told_of_while_it_waits(stuck, name, monkeypatch, capfd):  # noqa: F811
    """psycopg2 waits in C, where neither Ctrl-C nor a signal ends it: there may never be a report."""
    monkeypatch.setattr(lookout_module, "LOUD", 0.5)
    run = stuck(
        """
def test_b():
    threading.Timer(2.0, kept[0].rollback).start()
    execute(connect(), "LOCK TABLE NAME")
"""
    )
    run.assert_outcomes(passed=2)
    told = capfd.readouterr().err
    assert (
        told.count("poolguard: test_suite.py::test_b still waits for a lock\nWho waited for a lock, and who") == 1
    )
    assert f"waits for AccessExclusiveLock on {name}, blocked by pid " in told
    assert "in connect, by test test_a" in told


FULL = """
import asyncio, asyncpg
kept = []

async def load(pool):
    kept.append(await pool.acquire())

async def wait(size):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=size)
    await load(pool)
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(1.5)
    waiting.cancel()
    pool.terminate()

@pytest.mark.pool(leaks="any", reason="it is about the wait")
def test_waits():
    asyncio.run(wait(1))

@pytest.mark.pool(leaks="any", reason="one is free")
def test_waits_not():
    asyncio.run(wait(3))
"""


def test_a_test_that_waits_for_a_pool_is_told_of_while_it_does(suite, monkeypatch, capfd):
    """asyncpg's ``acquire()`` has no end of its own."""
    monkeypatch.setattr(lookout_module, "LOUD", 0.5)
    monkeypatch.setattr("pytest_poolguard.server.stuck.LOUD", 0.5)
    suite.run(FULL).assert_outcomes(passed=2)
    told = capfd.readouterr().err
    assert told.count("poolguard: ") == 1
    head, pool, leak = told.strip().splitlines()[:3]
    assert head == "poolguard: test_suite.py::test_waits still runs, and a pool has nothing to hand out"
    assert pool.startswith("Pool(1..1) made at test_suite.py:")
    assert leak.startswith("  1 of 1 was taken by load (test_suite.py:")


def test_a_test_that_gets_its_lock_in_the_end_is_told_nothing(stuck):  # noqa: F811
    run = stuck(
        HANGS
        + """
def test_b():
    threading.Timer(1.0, kept[0].rollback).start()
    wait()

def test_c():
    assert 0
"""
    )
    run.assert_outcomes(passed=2, failed=1)
    assert section(run) == ""


def test_a_slow_test_that_waits_for_nothing_is_told_nothing(stuck):  # noqa: F811
    run = stuck("def test_b():\n    time.sleep(1)\n    assert 0\n")
    run.assert_outcomes(passed=1, failed=1)
    assert section(run) == ""


# nobody meets the thread

#: Of pytest-rerunfailures, which has a thread of its own.
ALONE = ("-p", "no:rerunfailures")


def test_a_suite_that_counts_its_threads_counts_no_other(suite):
    suite.run(
        """
def test_it():
    before = threading.enumerate()
    psycopg2.connect(DSN).close()
    assert threading.enumerate() == before
    assert threading.active_count() == 1
""",
        *ALONE,
        subprocess=True,
    ).assert_silent(passed=1)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="only Linux tells the threads of a process")
def test_it_is_there_from_the_first_connection_on_and_gone_before_a_fork_and_at_the_end(suite):
    run = suite.run(
        """
def threads():
    return len(os.listdir("/proc/self/task"))

def test_none_yet():
    assert threads() == 1
    psycopg2.connect(DSN).close()
    assert threads() == 2

def test_forks():
    pid = os.fork()
    if not pid:
        os._exit(0 if threads() == 1 else 1)
    alone = threads()
    assert os.waitpid(pid, 0)[1] == 0
    assert alone == 1

def test_again():
    assert threads() == 2
""",
        *ALONE,
        subprocess=True,
    )
    run.assert_silent(passed=3)


# by hand


class Owners:
    test: Owner | None = None


class Watched:
    """A lookout without its thread, a clock that is set by hand, and what the servers say."""

    def __init__(self):
        self.owners = Owners()
        self.clock = Clock()
        self.time = 0.0
        self.clock.now = lambda: self.time
        self.waits = False
        self.looks = 0
        self.cries = []
        self.shouts = []
        self.lookout = Lookout(self.clock, self.owners, self.look, self.cries.append, self.shout)
        self.begin("test_a")

    def begin(self, name):
        self.owners.test = Owner("test", name, name, phase="body")

    def look(self):
        self.looks += 1
        waiting = holding(1, kind="relation", blockers="2") if self.waits else holding(1)
        return [Contention("somewhere", {1: Session(waiting, "opened at a.py:1")})]

    def shout(self, test, seen):
        if seen is not None:
            self.shouts.append(f"{test.name}, {seen.phase}")
        return seen is not None

    def beat(self, seconds):
        self.time += seconds
        self.lookout.beat()


@pytest.fixture
def watched():
    return Watched()


def test_a_run_of_quick_tests_is_never_looked_at(watched):
    for number in range(100):
        watched.begin(f"test_{number}")
        watched.beat(0.29)
    assert watched.looks == 0


def test_each_phase_counts_for_itself(watched):
    for phase in ("setup", "body", "teardown"):
        watched.owners.test.phase = phase
        watched.beat(0.2)
        watched.beat(0.2)
    assert watched.looks == 0
    watched.beat(0.2)
    assert watched.looks == 1


def test_looks_become_rare(watched):
    watched.beat(0)
    for _ in range(600):
        watched.beat(1)
    assert watched.looks < 50


def test_no_look_without_a_test(watched):
    watched.owners.test = None
    for _ in range(10):
        watched.beat(1)
    assert watched.looks == 0


def test_no_look_while_a_debugger_has_the_test():
    watched = Watched()
    watched.clock = watched.lookout._clock = Clock()
    watched.lookout.beat()
    watched.clock.stop()
    time.sleep(0.4)
    watched.lookout.beat()
    assert watched.looks == 0
    watched.clock.go()
    time.sleep(0.4)
    watched.lookout.beat()
    assert watched.looks == 1


def test_what_was_seen_of_one_phase_is_no_others(watched):
    watched.waits = True
    watched.beat(0)
    watched.beat(1)
    assert watched.lookout.take("test_a", "setup") is None
    assert watched.lookout.take("test_a", "body") is None, "it is forgotten"
    watched.beat(1)
    seen = watched.lookout.take("test_a", "body")
    assert (seen.nodeid, seen.phase, seen.after) == ("test_a", "body", 2.0)


def test_the_last_look_in_which_somebody_waited_is_kept(watched):
    watched.waits = True
    watched.beat(0)
    watched.beat(1)
    watched.waits = False
    watched.beat(5)
    assert watched.looks == 2
    assert watched.lookout.take_any("test_a").after == 1.0


@pytest.mark.parametrize("waits", [True, False])
def test_a_phase_that_waits_for_long_is_told_of_once_while_it_does(watched, waits):
    watched.waits = waits
    watched.beat(0)
    watched.beat(lookout_module.LOUD - 0.1)
    assert watched.shouts == []
    for _ in range(20):
        watched.beat(lookout_module.LONGEST)
    assert watched.shouts == ["test_a, body"] * waits
    watched.owners.test.phase = "teardown"
    watched.beat(0)
    watched.beat(lookout_module.LOUD)
    assert watched.shouts == ["test_a, body", "test_a, teardown"] * waits


@pytest.mark.parametrize("waits", [True, False])
def test_before_the_process_is_killed_there_is_one_last_look(watched, waits):
    watched.waits = waits
    watched.lookout.killed_in(0.2)
    watched.beat(0)
    assert watched.cries == []
    time.sleep(0.12)
    watched.beat(0.12)
    watched.beat(0.01)
    assert [seen.nodeid for seen in watched.cries] == ["test_a"] * waits
    assert watched.looks == 1


def test_a_time_limit_that_is_lifted_cries_no_more(watched):
    watched.waits = True
    watched.lookout.killed_in(0.02)
    watched.lookout.killed_in(None)
    time.sleep(0.03)
    watched.beat(0)
    assert watched.cries == []


def test_it_can_be_stopped_and_started_at_any_time(watched):
    watched.lookout.stop()
    for _ in range(3):
        watched.lookout.start()
        watched.lookout.start()
        watched.lookout.stop()
        watched.lookout.stop()


def test_an_exception_in_a_look_ends_it_and_nothing_else(watched, capfd):
    def look():
        watched.looks += 1
        raise ValueError

    watched.lookout._look = look
    watched.clock.now = time.monotonic
    watched.lookout.start()
    time.sleep(0.8)
    watched.lookout.stop()
    assert watched.looks == 1
    assert capfd.readouterr().err == ""


def test_a_process_without_more_threads_does_without(watched, monkeypatch):
    def start_new_thread(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", start_new_thread)
    watched.lookout.start()
    watched.lookout.stop()
