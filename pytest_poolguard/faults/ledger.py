"""A ledger that says at once what is taken and what comes back."""

from __future__ import annotations

from collections.abc import Callable

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Checkout, Pool

__all__ = ["ListeningLedger"]


class ListeningLedger(Ledger):
    """Calls ``on_checked_out`` when a connection was taken, ``on_returned`` before its pool has it again."""

    on_checked_out: Callable[[Checkout], None] = staticmethod(lambda _: None)
    on_returned: Callable[[Checkout], None] = staticmethod(lambda _: None)

    def check_out(
        self, pool: Pool, connection: object, skip: int = 2, *, blocking: bool = False
    ) -> Checkout | None:
        """As the ledger, of which this is one frame more."""
        checkout = super().check_out(pool, connection, skip + 1, blocking=blocking)
        if checkout is not None:
            self.on_checked_out(checkout)
        return checkout

    def give_back(self, pool: object, connection: object) -> Checkout | None:
        """As the ledger."""
        checkout = super().give_back(pool, connection)
        if checkout is not None and checkout.returned:
            self.on_returned(checkout)
        return checkout
