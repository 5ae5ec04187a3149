"""The proof that a library is watched: at its import, and of all of them with ``--poolguard-selftest``."""

from __future__ import annotations

import gc
import importlib
import re
from types import ModuleType

import psycopg
import psycopg2.pool
import psycopg_pool
import pytest
import sqlalchemy

from pytest_poolguard import selftest as selftesting
from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Limits, Owner
from pytest_poolguard.drivers.canaries import AT_IMPORT, CANARIES
from pytest_poolguard.drivers.canary import NotSeen
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.known import LIBRARIES, driver_of


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Clock(), Owner("session", "session"))


@pytest.fixture
def watched(ledger, request):
    """A driver that watches its library, as far as that is imported."""
    faults = []
    driver = driver_of(request.param)(Watch(ledger, lambda *fault: faults.append(fault), lambda *_: None))
    importlib.import_module(request.param)
    for name, patch in driver.modules.items():
        patch(importlib.import_module(name))
    yield driver
    driver.undo()
    assert faults == []


def proofs(library):
    return [(prove, importlib.import_module(name)) for name, prove in CANARIES[library].items()]


def books(ledger):
    return (
        ledger.pools_seen,
        ledger.taken,
        ledger.pools(),
        ledger.makes,
        ledger.openings(),
        ledger.outstanding(),
        ledger.overdue,
        ledger.dirty,
        *((owner.made, owner.opened, owner.out, owner.peak) for owner in (ledger.session, ledger.present)),
    )


def test_there_is_a_proof_for_every_library():
    assert set(CANARIES) == set(LIBRARIES)


@pytest.mark.parametrize("watched", LIBRARIES, indirect=True)
def test_a_proof_leaves_no_trace(ledger, watched):
    test = Owner("test", "test_it", limits=Limits(hold=1e-9, max=1, timeout=5.0))
    ledger.now_present(test)
    before = books(ledger)
    for prove, module in proofs(watched.library):
        assert list(prove(module, ledger))
    assert repr(books(ledger)) == repr(before)


@pytest.mark.parametrize("watched", LIBRARIES, indirect=True)
def test_what_is_not_watched_is_not_proved(ledger, watched):
    watched.undo()
    for prove, module in proofs(watched.library):
        with pytest.raises(NotSeen, match=r"^what \w+ (hands out|opens) is not seen$"):
            list(prove(module, ledger))


def test_a_return_that_is_not_seen_is_not_proved(ledger, monkeypatch):
    driver = driver_of("psycopg2")(Watch(ledger, lambda *_: None, lambda *_: None))
    driver.modules["psycopg2.pool"](psycopg2.pool)
    try:
        original = driver._originals["_putconn"]
        monkeypatch.setattr(psycopg2.pool.SimpleConnectionPool, "putconn", original)
        with pytest.raises(NotSeen, match=r"^what is given back to SimpleConnectionPool is not seen$"):
            list(CANARIES["psycopg2"]["psycopg2.pool"](psycopg2.pool, ledger))
    finally:
        monkeypatch.undo()
        driver.undo()
    assert ledger.outstanding() == []


def test_what_is_proved_at_import_makes_nobody_complain(ledger, recwarn, caplog):
    caplog.set_level(0)
    for name in AT_IMPORT:
        driver = driver_of(name.partition(".")[0])(Watch(ledger, lambda *_: None, lambda *_: None))
        for module, patch in driver.modules.items():
            patch(importlib.import_module(module))
        assert list(AT_IMPORT[name](importlib.import_module(name), ledger))
        driver.undo()
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.records == []


def test_a_run_proves_and_counts_nothing_of_it(suite):
    run = suite.run(
        """
import os
def test_it(poolguard):
    import psycopg
    from psycopg2.pool import ThreadedConnectionPool
    assert (poolguard.peak, poolguard.outstanding) == (0, [])
    assert [cls.__module__ for cls in ThreadedConnectionPool.__mro__[1].__subclasses__()] == ["psycopg2.pool"] * 2
""",
        header="",
        subprocess=True,
    )
    run.assert_silent(passed=1)
    assert (run.data["pools"], run.data["checkouts"]) == ([], 0)


def broken(module: ModuleType) -> None:
    """A release whose pools hand out connections in another way."""

    class Pool:
        def __init__(self, *_):
            self._pool = []

        def getconn(self):
            return self._pool.pop()

        def putconn(self, conn):
            pass

    module.SimpleConnectionPool = Pool


def test_a_library_that_is_not_seen_at_its_import_is_told(suite, monkeypatch):
    monkeypatch.setattr(psycopg2.pool, "SimpleConnectionPool", psycopg2.pool.SimpleConnectionPool)
    broken(psycopg2.pool)
    run = suite.run("import psycopg2.pool\ndef test_it(): pass\n", header="")
    version = psycopg2.__version__.split()[0]
    assert run.data["unwatched"] == [
        f"psycopg2 {version} is not watched: what SimpleConnectionPool hands out is not seen"
    ]
    assert f"poolguard: {run.data['unwatched'][0]}" in run.text
    run.assert_outcomes(passed=1)


def test_a_double_that_can_not_be_proved_is_no_accusation(suite, monkeypatch):
    monkeypatch.delattr(psycopg2.pool, "SimpleConnectionPool")
    run = suite.run("import psycopg2.pool\ndef test_it(): pass\n", header="")
    assert (run.data["unwatched"], run.data["faults"]) == ([], [])


# --poolguard-selftest

SELFTEST = "--poolguard-selftest"


def selftest(suite, *options):
    suite.file("test_suite.py", "def test_it(): assert 0\n")
    return suite.pytester.runpytest_subprocess("-p", "no:cacheprovider", SELFTEST, *options)


def test_it_tells_what_is_watched_with_versions(suite):
    result = selftest(suite)
    psycopg2_version = psycopg2.__version__.split()[0]
    assert result.ret == 0
    first, *lines = result.stdout.str().splitlines()
    assert re.fullmatch(rf"pytest-poolguard \S+, pytest {pytest.__version__}, Python 3\.\d+\.\d+", first)
    assert lines == [
        f"psycopg2 {psycopg2_version}: watched (connect, SimpleConnectionPool, ThreadedConnectionPool)",
        f"psycopg {psycopg.__version__}: watched (Connection)",
        f"asyncpg {importlib.import_module('asyncpg').__version__}: watched (Pool)",
        f"sqlalchemy {sqlalchemy.__version__}: watched (QueuePool, NullPool)",
        f"psycopg_pool {psycopg_pool.__version__}: watched (ConnectionPool, NullConnectionPool, "
        "AsyncConnectionPool, AsyncNullConnectionPool)",
    ]


@pytest.mark.parametrize("options", [("-n2",), ("--poolguard=off",), ("-q",), ("test_suite.py",)])
def test_it_runs_no_test_whatever_else_is_asked(suite, options):
    result = selftest(suite, *options)
    assert result.ret == 0
    assert "failed" not in result.stdout.str()


def test_a_library_that_a_conftest_has_imported_is_proved_too(suite):
    suite.file("conftest.py", "import psycopg2.pool, sqlalchemy\n")
    assert selftest(suite).stdout.str().count(": watched (") == 5


def test_what_can_not_be_watched_is_exit_code_1(suite):
    suite.file("psycopg2/__init__.py", "__version__ = '9.0'\n")
    suite.file("psycopg2/pool.py", "class AbstractConnectionPool: pass\n")
    suite.file("asyncpg.py", "raise ImportError('no such library here')\n")
    result = selftest(suite, "-p", "no:pytest_postgresql", "-p", "no:postgresql", "--override-ini=pythonpath=.")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "psycopg2 9.0: NOT watched: psycopg2 has no connect",
            "psycopg *: watched (Connection)",
            "asyncpg: can't be imported, so there is nothing to watch (ImportError: no such library here)",
        ]
    )


def test_what_is_not_installed_is_told_and_is_no_failure(monkeypatch):
    monkeypatch.setattr(selftesting, "is_there", lambda name: name.startswith("psycopg2"))
    lines = []
    assert selftesting.SelfTest(lines.append).run(()) == 0
    assert [line.partition(" ")[0] for line in lines[1:2]] == ["psycopg2"]
    assert lines[2:] == [f"{name}: not installed" for name in LIBRARIES if name != "psycopg2"]


def test_a_fault_of_our_own_is_a_failure(monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(selftesting, "is_there", lambda name: name.startswith("psycopg2"))
    monkeypatch.setattr(Ledger, "give_back", broken)
    lines = []
    assert selftesting.SelfTest(lines.append).run(()) == 1
    assert lines[1].endswith(": NOT watched: KeyError while noting a return: 'oops'")


@pytest.mark.parametrize(
    ("unheard", "libraries", "told"),
    [
        (("check_out", "opening"), LIBRARIES, r"what \w+ (hands out|opens) is not seen"),
        (
            ("give_back", "end"),
            [name for name in LIBRARIES if name != "psycopg"],
            r"what is given back to \w+ is not seen",
        ),
    ],
    ids=["taking", "returning"],
)
def test_a_patch_that_tells_the_ledger_nothing_is_found_out(monkeypatch, unheard, libraries, told):
    """Each library's functions are replaced, as they should be, and yet nothing is seen."""
    for name in unheard:
        monkeypatch.setattr(Ledger, name, lambda *_, **__: None)
    lines = []
    assert selftesting.SelfTest(lines.append).run(()) == 1
    broken = dict(line.split(" ", 1) for line in lines[1:] if ": watched (" not in line)
    assert set(broken) == set(libraries)
    assert all(re.fullmatch(rf"[\d.]+\S*: NOT watched: {told}", said) for said in broken.values())


def test_a_class_that_was_named_is_looked_for(suite):
    suite.setting("poolguard_pools", "shop:Pool(acquire=take, release=give)")
    suite.file("shop.py", "class Pool:\n    def take(self): pass\n    def give(self, conn): pass\n")
    result = selftest(suite, "--override-ini=pythonpath=.")
    assert result.ret == 0
    assert result.stdout.lines[-1] == (
        "shop:Pool: its methods are replaced; what they do, only a test that calls them can prove"
    )
    suite.file("shop.py", "")
    result = selftest(suite, "--override-ini=pythonpath=.")
    assert result.ret == 1
    assert result.stdout.lines[-1] == "shop:Pool: NOT watched: shop has no class Pool"


def test_there_is_no_ini_key_for_it(suite):
    suite.setting("poolguard_selftest", "true")
    suite.run("def test_it(): pass\n", "-W", "ignore").assert_outcomes(passed=1)
