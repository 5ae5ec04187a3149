"""psycopg2 and its pools."""

from pytest_poolguard.drivers.psycopg2.driver import Psycopg2

__all__ = ["Psycopg2"]
