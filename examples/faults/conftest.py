"""A theatre with three seats, on the server of POOLGUARD_TEST_DSN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import psycopg2
import pytest
from desk import fixed, leaky
from psycopg2.pool import ThreadedConnectionPool

DSN = os.environ.get("POOLGUARD_TEST_DSN", "")
SCHEMA = f"theatre_{os.getpid()}"
TABLES = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.seats (number integer PRIMARY KEY);
CREATE TABLE {SCHEMA}.bookings (seat integer UNIQUE DEFERRABLE, name text);
CREATE TABLE {SCHEMA}.journal (line text);
INSERT INTO {SCHEMA}.seats VALUES (1), (2), (3);
"""


def execute(statements: str) -> None:
    connection = psycopg2.connect(DSN)
    with connection, connection.cursor() as cursor:
        cursor.execute(statements)
    connection.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadedConnectionPool]:
    """One pool for all tests: what a fault has broken is in it no more when the next test begins."""
    execute(TABLES)
    pool = ThreadedConnectionPool(1, 5, DSN, options=f"-c search_path={SCHEMA}")
    yield pool
    pool.closeall()
    execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture
def theatre(pool: ThreadedConnectionPool) -> Iterator[ThreadedConnectionPool]:
    """An empty house, so that a test can be run more than once."""
    yield pool
    execute(f"TRUNCATE {SCHEMA}.bookings, {SCHEMA}.journal")


@pytest.fixture(params=[leaky, fixed], ids=["leaky", "fixed"])
def desk(request: pytest.FixtureRequest) -> ModuleType:
    return request.param
