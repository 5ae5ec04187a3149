"""Tests that are in each other's way: one leaves a transaction open, the next ones need what it holds."""

import os
from collections.abc import Iterator

import psycopg2
import pytest

DSN = os.environ["POOLGUARD_TEST_DSN"]
held = []


def connect(**settings):
    return psycopg2.connect(DSN, **settings)


@pytest.fixture(scope="session", autouse=True)
def cinema() -> Iterator[None]:
    """A table and a database of these tests' own."""
    admin = connect()
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("CREATE TABLE seats (number int, taken bool)")
        cursor.execute("CREATE DATABASE cinema")
    yield
    for connection in held:
        connection.close()
    with admin.cursor() as cursor:
        cursor.execute("DROP TABLE seats")
        cursor.execute("DROP DATABASE cinema")
    admin.close()


def test_takes_a_seat():
    held.append(connect())
    held[0].cursor().execute("UPDATE seats SET taken = true WHERE number = 7")


def test_opens_the_cinema():
    held.append(connect(dbname="cinema"))


def test_adds_a_column():
    held.append(connect(options="-c lock_timeout=200"))
    held[-1].cursor().execute("ALTER TABLE seats ADD COLUMN row_number int")


def test_waits_for_the_table():
    held.append(connect(options="-c statement_timeout=4500"))
    held[-1].cursor().execute("LOCK TABLE seats")


def test_closes_the_cinema():
    admin = connect()
    held.append(admin)
    admin.autocommit = True
    admin.cursor().execute("DROP DATABASE cinema")
