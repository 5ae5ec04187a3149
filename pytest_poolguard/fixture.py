"""The ``poolguard`` fixture: a look at the pools in the middle of a test."""

from __future__ import annotations

from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.findings import Finding
from pytest_poolguard.ledger import Ledger
from pytest_poolguard.owners import Owners
from pytest_poolguard.records import Owner
from pytest_poolguard.server.sources import Sources

__all__ = ["PoolGuard"]


class PoolGuard:
    """What is checked out now."""

    def __init__(
        self, ledger: Ledger, owners: Owners, describe: Describe, sources: Sources | None = None
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._describe = describe
        self._sources = sources

    @property
    def checked_out(self) -> int:
        """Connections that this test has taken and not returned; those that fixtures hold are not counted."""
        return len(self._test.out)

    @property
    def peak(self) -> int:
        """The most connections that this test has had out at once; fixtures' are not counted."""
        return self._test.peak

    @property
    def outstanding(self) -> list[Finding]:
        """Everything that is out, fixtures' connections included, oldest first, as it would be reported."""
        return [self._describe.leak(checkout) for checkout in self._ledger.outstanding()]

    def watch_server(self, dsn: str) -> None:
        """Compare a server before and after, too, that a fixture has started, or that only child processes use.

        To be called before it is used. Where a fixture calls it, what is left open is looked for before the
        teardown of that fixture, which may stop the server. Nothing is done with ``--poolguard-server=off``.
        Raises :class:`ValueError` where ``dsn`` is none.
        """
        if self._sources is None:
            return
        try:
            self._sources.given(dsn, self._ledger.present)
        except Unaskable as error:
            raise ValueError(f"poolguard.watch_server: {error}") from None

    @property
    def _test(self) -> Owner:
        return self._owners.test or self._ledger.session

    def __repr__(self) -> str:
        return f"<poolguard: {self.checked_out} checked out, peak {self.peak}>"
