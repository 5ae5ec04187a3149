"""The ``poolguard`` fixture: a look at the pools in the middle of a test."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.findings import Finding
from pytest_poolguard.owners import Owners
from pytest_poolguard.server.sources import Sources
from pytest_poolguard.sizing.counting import Count, Counting

__all__ = ["PoolGuard"]


class PoolGuard:
    """What is checked out now."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Owners,
        describe: Describe,
        counting: Counting,
        sources: Sources | None = None,
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._describe = describe
        self._counting = counting
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
    def waits(self) -> list[float]:
        """Seconds of each call in which this test, or what it has started, had to wait for a connection.

        The longest first, over all pools; calls that still wait are not among them. A call waits that comes when
        as many are out as its pool hands out at most, from then until it has one, or ends with an error. Raises
        :class:`RuntimeError` where nothing is counted.
        """
        return self._longest_first(wait for count in self._counts for wait in count.waits)

    @property
    def holds(self) -> list[float]:
        """Seconds that each connection was out which this test has taken and returned, the longest first.

        Over all pools; fixtures' are not counted. Raises :class:`RuntimeError` where nothing is counted.
        """
        return self._longest_first(hold for count in self._counts for hold in count.holds)

    @property
    def _counts(self) -> list[Count]:
        if not self._counting.is_on:
            raise RuntimeError(
                "poolguard counts nothing in this test: name the fixture `poolguard` among the arguments of the "
                "test or of one of its fixtures, or run with --poolguard-stats"
            )
        return self._counting.counts

    def _longest_first(self, counted: Iterable[tuple[float, Owner]]) -> list[float]:
        test = self._test
        return sorted((seconds for seconds, owner in counted if owner is test), reverse=True)

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
