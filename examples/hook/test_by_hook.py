import os

import pytest
from stockroom.pool import Pool


@pytest.fixture(scope="module")
def pool():
    pool = Pool(os.environ["POOLGUARD_TEST_DSN"], size=2)
    yield pool
    pool.shutdown()


def test_that_returns(pool):
    pool.checkin(pool.checkout())


def test_that_leaks(pool):
    pool.checkout()
