"""What this process still has open when the run is over, and whether somebody keeps it on purpose.

A connection that the server still lists then is a leftover, and fails the run. But not every connection that is
never closed is a mistake: one that is opened once, and kept for as long as the process lives, is a design. Where
there are signs of that it is told, and fails nothing; where nothing but the test's own code had to do with it,
there is no doubt.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Mapping
from types import CodeType

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.books.records import Opening
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import Finding, connections
from pytest_poolguard.judging import holders
from pytest_poolguard.judging.keeping import module_that_keeps

__all__ = ["Leftovers"]


class Leftovers:
    """Looks for them among the connections that the ledger has seen opened."""

    def __init__(self, ledger: Ledger, tree: SourceTree, describe: Describe, notices: list[str]) -> None:
        self._ledger = ledger
        self._tree = tree
        self._describe = describe
        self._notices = notices  #: lines of information

    def tell(self, listed: Mapping[Opening, dict[str, str]]) -> list[Finding]:
        """What this process still has open and the server still lists, with what that says of each."""
        findings = []
        kept: Counter[tuple[str, str]] = Counter()
        for opening, words in listed.items():
            if opening.is_closed():  # by another thread, just now
                continue
            opening.told = True
            finding = self._describe.backend(opening, words, self.reason_to_stay(opening))
            library = self._describe.opened_by_library(opening)
            if library:
                kept[library, str(finding.acquired)] += 1
            else:
                findings.append(finding)
        self._notices += [
            f"{connections(count)} of {library} still open at the end, opened for {place}"
            for (library, place), count in kept.items()
        ]
        return findings

    def candidates(self) -> list[Opening]:
        """Connections to real servers that are open, that no open pool keeps and no report of a leak has told."""
        found = [opening for opening in self._ledger.openings() if self._is_candidate(opening)]
        if found:
            # What nobody can reach any more closes with the next collection. Whether that comes before or after
            # the end of the run must not decide on its outcome. (Checkouts have been judged before.)
            del found
            gc.collect()
        return [
            opening
            for opening in self._ledger.openings()
            if self._is_candidate(opening) and not self._is_kept_by_a_traceback(opening)
        ]

    def known_pids(self) -> set[int]:
        """Those of open connections, also of those whose server was not asked: asynchronous ones of psycopg2."""
        openings = [opening for opening in self._ledger.openings() if not opening.is_closed()]
        pids = {opening.backend_pid or opening.driver.state(opening.ref()).backend_pid for opening in openings}
        return {pid for pid in pids if pid is not None}

    def _is_candidate(self, opening: Opening) -> bool:
        pool = opening.pool
        return (
            opening.server is not None
            and not opening.told
            and not opening.is_closed()
            # A pool that nobody closed is told as that, though it may be gone by now.
            and (pool is None or pool.was_closed)
            and self._ledger.held_by(opening.ref()) is None
            # A test that was interrupted in the middle is not judged.
            and (opening.owner.finished or opening.owner is self._ledger.session)
        )

    def reason_to_stay(self, opening: Opening) -> str:
        """What speaks for a connection that is kept on purpose for the whole run; empty where nothing does."""
        if opening.owner is self._ledger.session:
            return "it was opened outside any test, and may serve the whole run"
        if opening.thread is not None and holders.is_alive(opening.thread):
            return "the thread that opened it still runs"
        # What the test's or fixture's own function opens, that has to close, wherever it puts it.
        own = [code for code, _ in opening.opened.frames() if self._tree.is_own(code.co_filename)]
        module = module_that_keeps(opening.ref(), opening.owner, own[:-1])
        return f"module {module} keeps it, and may do so for the whole run" if module else ""

    def _is_kept_by_a_traceback(self, opening: Opening) -> bool:
        """Whether it is a local of the test that failed last: that is told already, and the rest goes with it."""
        connection = opening.ref()
        trace = getattr(sys, "last_traceback", None)
        while trace is not None:
            frame = trace.tb_frame
            if self._is_own(frame.f_code) and holders.reaches(dict(frame.f_locals), connection, None):
                return True
            trace = trace.tb_next
        return False

    def _is_own(self, code: CodeType) -> bool:
        return self._tree.is_own(code.co_filename)
