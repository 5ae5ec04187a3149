"""What of a run's guard takes part when a test is run again."""

from __future__ import annotations

from typing import Protocol

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging.bystanders import Bystanders
from pytest_poolguard.marker import Expectations
from pytest_poolguard.owners import Owners
from pytest_poolguard.settings import Settings
from pytest_poolguard.shield import Shield
from pytest_poolguard.tally import Tally

__all__ = ["Host"]


class Host(Protocol):
    """The guard, as it looks from here."""

    settings: Settings
    ledger: Ledger
    owners: Owners
    tree: SourceTree
    describe: Describe
    bystanders: Bystanders
    watch: Watch
    tally: Tally
    expected: Expectations  #: of the present test
    test_failed: bool  #: likewise, or was skipped
    found: list[Finding]  #: likewise

    @property
    def is_in_a_fork(self) -> bool:
        """Whether this process is a fork of the run's."""

    def shield(self, doing: str, *, books: bool = False) -> Shield:
        """Keep exceptions of poolguard's own out of the run."""
