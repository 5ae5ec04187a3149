"""Pools of other sizes than their tests need: to be run with --poolguard-stats."""

import os
import threading
import time

import pytest
from psycopg_pool import ConnectionPool


@pytest.fixture(scope="module")
def shop():
    """One that was made for production."""
    with ConnectionPool(os.environ["POOLGUARD_TEST_DSN"], min_size=1, max_size=30) as pool:
        yield pool


@pytest.fixture
def jobs():
    """A small one."""
    with ConnectionPool(os.environ["POOLGUARD_TEST_DSN"], min_size=2, max_size=2) as pool:
        pool.wait()
        yield pool


def use(pool, at_once):
    conns = []
    while len(conns) < at_once:
        conns.append(pool.getconn())
    for conn in conns:
        pool.putconn(conn)


@pytest.mark.parametrize("at_once", [1] * 10)
def test_page(shop, at_once):
    use(shop, at_once)


def test_search(shop):
    use(shop, 2)


def test_basket(shop):
    use(shop, 3)


def test_order(shop):
    use(shop, 4)


def test_burst(jobs):
    def work():
        with jobs.connection():
            time.sleep(0.2)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
