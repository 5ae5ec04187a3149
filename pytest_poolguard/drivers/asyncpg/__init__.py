"""asyncpg and its pools."""

from pytest_poolguard.drivers.asyncpg.driver import Asyncpg

__all__ = ["Asyncpg"]
