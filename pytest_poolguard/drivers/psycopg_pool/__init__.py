"""psycopg_pool's pools."""

from pytest_poolguard.drivers.psycopg_pool.driver import PsycopgPool

__all__ = ["PsycopgPool"]
