"""One test for each cause that poolguard tells, besides those that the shop has."""

import os
import time

import pytest
from psycopg2.errors import AdminShutdown
from psycopg2.pool import PoolError, SimpleConnectionPool


@pytest.fixture
def small_pool():
    pool = SimpleConnectionPool(1, 2, os.environ["POOLGUARD_TEST_DSN"])
    yield pool
    if not pool.closed:
        pool.closeall()


def test_nobody_gives_it_back(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")


def test_putconn_raises(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")
    end_its_backend(pool, conn)
    with pytest.raises(AdminShutdown):
        pool.putconn(conn)


def end_its_backend(pool, conn):
    other = pool.getconn()
    try:
        other.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
    finally:
        pool.putconn(other, close=True)


def test_it_is_given_to_another_pool(pool, small_pool):
    conn = pool.getconn()
    with pytest.raises(PoolError):
        small_pool.putconn(conn)


def test_the_pool_is_closed_first(small_pool):
    conn = small_pool.getconn()
    conn.cursor().execute("SELECT 1")
    small_pool.closeall()


def test_a_teardown_closes_the_pool(small_pool):
    conn = small_pool.getconn()
    conn.cursor().execute("SELECT 1")


class Transaction:
    def __init__(self, pool):
        self.pool = pool

    def __enter__(self):
        self.conn = self.pool.getconn()
        self.conn.cursor().execute("SELECT no_such_column")
        return self.conn

    def __exit__(self, *_):
        self.pool.putconn(self.conn)


def test_enter_raises(pool):
    with pytest.raises(Exception, match="no_such_column"), Transaction(pool):
        pass


def test_the_try_block_begins_too_late(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")
    if conn.info.transaction_status:
        return
    try:
        conn.cursor().execute("SELECT 2")
    finally:
        pool.putconn(conn)


def test_it_has_no_name(pool):
    pool.getconn().cursor().execute("SELECT 1")


class Store:
    def __init__(self, pool):
        self.conn = pool.getconn()


def test_an_object_keeps_it(pool):
    Store(pool).conn.cursor().execute("SELECT 1")


@pytest.fixture
def conn(pool):
    return pool.getconn()


def test_a_fixture_hands_it_out(conn):
    conn.cursor().execute("SELECT 1")


def test_it_breaks(pool):
    conn = pool.getconn()
    end_its_backend(pool, conn)
    with pytest.raises(AdminShutdown):
        conn.cursor().execute("SELECT 1")


@pytest.mark.pool(hold=0.01)
def test_it_is_held_too_long(pool):
    conn = pool.getconn()
    time.sleep(0.02)
    pool.putconn(conn)
