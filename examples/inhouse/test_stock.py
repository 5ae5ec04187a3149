import os

import pytest
from stockroom.pool import Pool
from stockroom.stock import count


@pytest.fixture(scope="module")
def pool():
    pool = Pool(os.environ["POOLGUARD_TEST_DSN"], size=2)
    yield pool
    pool.shutdown()


def test_a_full_shelf(pool):
    assert count(pool, 3) == 3


def test_an_empty_shelf(pool):
    assert count(pool, 0) == 0
