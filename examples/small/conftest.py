"""A pool for tests that each make one mistake."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from psycopg2.pool import ThreadedConnectionPool


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadedConnectionPool]:
    """One pool for all tests, on the server of POOLGUARD_TEST_DSN."""
    pool = ThreadedConnectionPool(1, 10, os.environ["POOLGUARD_TEST_DSN"])
    yield pool
    pool.closeall()
