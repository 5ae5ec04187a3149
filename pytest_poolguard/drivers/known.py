"""Every library that is watched: a new one is a module, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from pytest_poolguard.drivers import Driver, Watch
from pytest_poolguard.drivers.psycopg2 import Psycopg2
from pytest_poolguard.drivers.psycopg_pool import PsycopgPool

__all__ = ["DRIVERS"]

DRIVERS: tuple[Callable[[Watch], Driver], ...] = (Psycopg2, PsycopgPool)
