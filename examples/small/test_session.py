"""What no failed test tells: leaks of other owners and outcomes, and what is left on the server."""

import os

import psycopg2
import pytest
from psycopg2.pool import SimpleConnectionPool

DSN = os.environ["POOLGUARD_TEST_DSN"]

pool = SimpleConnectionPool(3, 5, DSN)
pool.getconn()
raw = []


@pytest.mark.xfail(reason="the report has no header yet")
def test_of_an_unfinished_report():
    pool.getconn()
    raise NotImplementedError


def test_of_a_connection_without_a_pool():
    raw.append(psycopg2.connect(DSN))
    raw[0].cursor().execute("SELECT 1")
