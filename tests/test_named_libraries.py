"""The lines that docs/other-pools.md has for pools of other libraries do what they say."""

from __future__ import annotations

import pytest
from documents import ROOT

PEEWEE = """
import os, pytest
from playhouse.pool import PooledPostgresqlDatabase

db = PooledPostgresqlDatabase(os.environ["SUITE_DSN"], max_connections=4)

@pytest.fixture
def connected():
    db.connect()
    yield
    db.close()

def test_returns(connected):
    assert db.execute_sql("SELECT 1").fetchone() == (1,)

def test_returns_too():
    with db.connection_context(), db.atomic():
        db.execute_sql("SELECT 1")

def test_leaks():
    db.execute_sql("SELECT 1")
"""
DBUTILS = """
import os, psycopg2, pytest
from dbutils.pooled_db import PooledDB

@pytest.fixture
def pool():
    pool = PooledDB(psycopg2, maxconnections=3, dsn=os.environ["SUITE_DSN"])
    yield pool
    pool.close()

def test_returns(pool):
    conn = pool.connection()
    conn.cursor().execute("SELECT 1")
    conn.close()

def test_returns_too(pool):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")

def test_leaks(pool, request):
    conn = pool.connection()
    conn.cursor().execute("SELECT 1")
    request.node.kept = conn
"""


def the_line(library: str) -> str:
    text = (ROOT / "docs/other-pools.md").read_text()
    (line,) = (line.strip() for line in text.splitlines() if line.startswith(f"    {library}"))
    return line


@pytest.mark.parametrize(
    ("library", "source", "call"),
    [
        ("playhouse.pool", PEEWEE, 'test_leaks: db.execute_sql("SELECT 1")'),
        ("dbutils.pooled_db", DBUTILS, "test_leaks: conn = pool.connection()"),
    ],
    ids=["peewee", "DBUtils"],
)
def test_a_pool_of_another_library_is_watched_by_the_line_that_is_documented(suite, library, source, call):
    suite.setting("poolguard_pools", the_line(library))
    result = suite.run(source, header="")
    assert result.data["unwatched"] == []
    assert result.blamed == ["test_leaks"]
    assert result.sites == [call]
