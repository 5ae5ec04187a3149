"""What a test has left on the server, told by that test: for ``--poolguard-server=test``."""

from __future__ import annotations

import gc

from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import FAILED, Finding
from pytest_poolguard.judging.leftovers import Leftovers
from pytest_poolguard.judging.unclosed import Unclosed
from pytest_poolguard.owners import Owners
from pytest_poolguard.server.foreigners import Foreigners
from pytest_poolguard.server.glances import Glances
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.statements import Shown
from pytest_poolguard.server.watch import Server, ServerWatch

__all__ = ["EachTest"]


class EachTest:
    """Looks after each test at every server that the run has been connected to."""

    def __init__(
        self,
        watch: ServerWatch,
        owners: Owners,
        unclosed: Unclosed,
        leftovers: Leftovers,
        describe: Describe,
        foreigners: Foreigners,
        name: RunName,
        shown: Shown,
    ) -> None:
        self._watch = watch
        self._owners = owners
        self._unclosed = unclosed
        self._leftovers = leftovers
        self._describe = describe
        self._foreigners = foreigners
        self._name = name
        self._shown = shown
        self._glances: dict[Server, Glances] = {}

    def after(self, test: Owner) -> list[Finding]:
        """The findings of a test whose teardown is over."""
        left = self._left_open()
        found = []
        for glances in self._each_server():
            found += self._own(glances, left)
            found += self._foreign(glances, test)
        return found

    def close(self) -> None:
        """Let go of the connections."""
        for glances in self._glances.values():
            glances.close()

    def _each_server(self) -> list[Glances]:
        """One for each server, though several roles have been there."""
        known = {_identity(glances.server) for glances in self._glances.values()}
        for server in self._watch.servers.values():
            if not server.failure and server.knows_us and _identity(server) not in known:
                known.add(_identity(server))
                self._glances[server] = Glances(server, self._watch.dsn, self._name)
        return list(self._glances.values())

    def _left_open(self) -> list[Opening]:
        """The connections that were not closed by a test or fixture that has just ended, and by nobody since."""
        left = [opening for opening in self._unclosed.fresh() if not self._leftovers.reason_to_stay(opening)]
        if left:
            gc.collect()  # what closes with the next collection is not to fail a test
        return [opening for opening in left if opening.server is not None and not opening.is_closed()]

    def _own(self, glances: Glances, left: list[Opening]) -> list[Finding]:
        servers = [s for s in self._watch.servers.values() if _identity(s) == _identity(glances.server)]
        those = {o.backend_pid: (o, s) for s in servers for o in left if self._watch.servers.get(o.server) is s}
        look = glances.look(pid for pid in those if pid is not None) if those else None
        listed = {}
        for row in glances.with_locks(look).clients if look is not None else ():
            opening, server = those.get(row.pid, (None, None))
            if opening is not None and server is not None and server.is_behind(opening, row):
                listed[opening] = row.words(self._shown)
        return self._leftovers.tell(listed)

    def _foreign(self, glances: Glances, test: Owner) -> list[Finding]:
        found = glances.new(self._leftovers.known_pids())
        if found is None:
            self._watch.look(glances.server)  # says why
            del self._glances[glances.server]
            return []
        look, rows = found
        if not rows or any(map(self._foreigners.is_own, self._owners.fixtures)):
            return []  # a fixture may still end the process: the end of the run tells
        look = glances.with_locks(look)
        rows = [look.backends[row.pid] for row in rows]
        findings = self._foreigners.findings(look, rows, sure=True, nodeid=test.nodeid)
        # What another test has started, or nobody knows who, the end of the run tells, too.
        own = [one for one in findings if one.nodeid == test.nodeid and one.verdict == FAILED]
        told = {finding.backend_pid for finding in own}
        self._foreigners.told.update((row.pid, row.start) for row in rows if row.pid in told)
        return own


def _identity(server: Server) -> object:
    return (server.before.started if server.before is not None else 0) or server
