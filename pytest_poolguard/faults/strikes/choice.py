"""The strikes of the libraries that are there."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.faults.strikes.interface import OnStatement, Strikes

__all__ = ["AllStrikes"]

#: For each library whose pools are struck: the module that has to be there, the one with its strikes, and the
#: class of those.
LIBRARIES = {
    "psycopg2": ("psycopg2.extensions", "psycopg2", "Psycopg2Strikes"),
    "psycopg_pool": ("psycopg", "psycopg", "PsycopgStrikes"),
    "asyncpg": ("asyncpg.pool", "asyncpg", "AsyncpgStrikes"),
    "sqlalchemy": ("sqlalchemy.event", "sqlalchemy", "SQLAlchemyStrikes"),
}


class AllStrikes:
    """All of them, while a test is repeated."""

    def __init__(self) -> None:
        self._strikes: dict[str, Strikes] = {}

    def begin(self, on_statement: OnStatement) -> None:
        """Hear of the statements of every library that is there."""
        for library, (needed, module, name) in LIBRARIES.items():
            if needed in sys.modules:
                strikes: Any = getattr(importlib.import_module(f"{__package__}.{module}"), name)()
                strikes.begin(on_statement)
                self._strikes[library] = strikes

    def of(self, checkout: Checkout) -> Strikes | None:
        """Those of a checkout's library."""
        return self._strikes.get(checkout.pool.driver.library)

    def unfit(self, checkout: Checkout) -> str:
        """Why a checkout can't be struck; empty where it can."""
        strikes = self.of(checkout)
        return "its pool is of another make" if strikes is None else strikes.unfit(checkout)

    def end(self) -> None:
        """Give every library back as it was."""
        while self._strikes:
            self._strikes.popitem()[1].end()
