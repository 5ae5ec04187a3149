"""What is left on the servers when the run, or the fixture that a server is for, is over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.lines.choice import imported_line, line_of
from pytest_poolguard.findings import FAILED, Finding, connections
from pytest_poolguard.judging.leftovers import Leftovers
from pytest_poolguard.owners import Owners
from pytest_poolguard.server.census import Census, Visit
from pytest_poolguard.server.demand import Demand, demand_of
from pytest_poolguard.server.foreigners import Foreigners
from pytest_poolguard.server.lasting import left
from pytest_poolguard.server.remains import Remains, settled
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.statements import Shown
from pytest_poolguard.server.travel import packed, unpacked
from pytest_poolguard.server.watch import Server, ServerWatch
from pytest_poolguard.tally import Tally

__all__ = ["Aftermath"]

#: What libpq says of a server that does not run.
STOPPED = ("Connection refused", "No such file or directory")
ENDED = "it was closed here, and the server has not come to an end of it yet"


class Aftermath:
    """Visits every server once, at the last moment at which it can be asked."""

    def __init__(
        self,
        watch: ServerWatch,
        owners: Owners,
        leftovers: Leftovers,
        describe: Describe,
        tally: Tally,
        foreigners: Foreigners,
        name: RunName,
        shown: Shown,
        *,
        ends: bool,
    ) -> None:
        self._watch = watch
        self._owners = owners
        self._leftovers = leftovers
        self._describe = describe
        self._tally = tally
        self._foreigners = foreigners
        self._name = name
        self._shown = shown
        self._ends = ends  #: what it tells
        self._visited: set[Server] = set()
        self._candidates: list[Opening] = []  #: of this process's connections, at the last look

    def ends_with(self, owner: Owner) -> bool:
        """Whether a server may be stopped when a fixture ends."""
        return any(server.goes_with is owner for server in self._watch.servers.values())

    def before_end_of(self, owner: Owner) -> list[Finding]:
        """What is left on the servers that go with a fixture, before its teardown: then they may be stopped."""
        found = []
        for servers in self._distinct():
            if any(server.goes_with is owner for server in servers):
                others = [one for one in self._owners.fixtures if self._foreigners.is_own(one)]
                others = [one for one in others if one is not owner]
                remains = self._visit(servers, self._name.is_on)
                if remains is not None:
                    test = self._owners.test  # its reports are not all there yet
                    nodeid = test.nodeid if test is not None else ""
                    findings = self._judge(servers, remains, sure=not others, nodeid=nodeid)
                    self._note(servers, remains, len(findings))
                    found += findings
        return found

    def at_end(self) -> list[Finding]:
        """What is left on all other servers, of a run without workers."""
        return self._at_end(self._name.is_on)

    def at_end_of_worker(self) -> list[Finding]:
        """What a worker of an xdist run has open itself; what else is there, the controller sees."""
        left = {key: server for key, server in self._watch.servers.items() if server not in self._visited}
        self._tally.servers = [plain for plain in map(packed, left, left.values()) if plain is not None]
        self._tally.open_pids = sorted(self._leftovers.known_pids())
        return self._leftovers.tell(self._watch.backends(self._leftovers.candidates()))

    def at_end_of_controller(self) -> list[Finding]:
        """What all workers have left: they have come to their ends, and their processes are still there."""
        line = line_of(sys.modules) or imported_line()
        if line is None and self._tally.servers:
            self._tally.notices.append("no library here can ask a server: what is left there is not checked")
        if line is not None:
            servers = self._tally.servers + self._foreigners.announced.servers
            for plain in sorted(servers, key=_asked):
                key, server = unpacked(plain, line)
                known = self._watch.servers.setdefault(key, server)  # who asked first has met the fewest of us
                known.databases |= server.databases
        return self._at_end(self._name.is_on_any)

    def _at_end(self, is_ours: Callable[[bytes], bool]) -> list[Finding]:
        found = []
        for servers in self._distinct():
            remains = self._visit(servers, is_ours)
            if remains is not None:
                findings = self._judge(servers, remains, sure=True)
                self._note(servers, remains, len(findings))
                found += findings
        return found

    def demands(self) -> list[Demand]:
        """What the pools of this process may ask of each server."""
        found = (demand_of(server, self._describe.made) for server in self._watch.servers.values())
        return [demand for demand in found if demand is not None]

    def _distinct(self) -> list[list[Server]]:
        """The servers that were not visited yet: those that are one, asked by several roles, together."""
        found: dict[object, list[Server]] = {}
        for server in self._watch.servers.values():
            if server not in self._visited:
                started = server.before.started if server.before is not None else 0
                found.setdefault(started or server, []).append(server)
        return list(found.values())

    def _visit(self, servers: list[Server], is_ours: Callable[[bytes], bool]) -> Remains | None:
        """Look at a server for the last time; None where it can't be asked."""
        self._visited.update(servers)
        self._candidates = self._leftovers.candidates()
        for opening in self._candidates:  # many may have been opened since
            if opening.server in self._watch.servers:
                self._watch.servers[opening.server].remember(opening)
        known = frozenset(self._leftovers.known_pids()).union(self._tally.open_pids)
        remains = settled(lambda: self._look(servers, is_ours, known))
        if remains is None:
            self._tell_failures(servers)
        return remains

    def _judge(self, servers: list[Server], remains: Remains, *, sure: bool, nodeid: str = "") -> list[Finding]:
        """The findings among what remains; ``sure``: no fixture is there that may still end a process.

        ``nodeid`` is the test that still runs.
        """
        listed = {o: row.words(self._shown) for o, row in remains.own.items() if o in self._candidates}
        findings = self._leftovers.tell(listed)
        findings += [self._describe.backend(o, row.words(self._shown), ENDED) for o, row in remains.ended.items()]
        findings += self._foreigners.of_crashed(remains)
        named = [row for row in remains.named if self._foreigners.may_judge(row)]
        if all(server.knows_us for server in servers):
            findings += self._foreigners.findings(remains.look, named, sure=sure, nodeid=nodeid)
        elif named:
            bear = "bears" if len(named) == 1 else "bear"
            self._tally.notices.append(
                f"{connections(len(named))} of {servers[0].name} {bear} the name of this run; behind a "
                "connection pooler they may be the pooler's own"
            )
        if self._ends:
            self._end(servers, remains, findings)
        return findings

    def _look(
        self, servers: list[Server], is_ours: Callable[[bytes], bool], known: frozenset[int]
    ) -> Remains | None:
        """A look at a server, by the role that sees the most."""
        best = None
        for server in sorted(servers, key=_sees_little):
            look = self._watch.glance(server, lasting=True)
            if look is not None and (best is None or look.sees_all):
                best = look
                if look.sees_all:
                    break
        return Remains.of(best, servers, is_ours, known) if best is not None else None

    def _tell_failures(self, servers: list[Server]) -> None:
        """Say that a server can't be asked, unless it was stopped and nobody here has anything to do with it."""
        for server in servers:
            is_stopped = any(words in server.failure for words in STOPPED)
            if not is_stopped or not all(opening.is_closed() for opening in server.opened.values()):
                self._watch.tell_failure(server)

    def _end(self, servers: list[Server], remains: Remains, findings: list[Finding]) -> None:
        """End the backends of findings, but for those that somebody keeps on purpose."""
        told = {finding.backend_pid: finding for finding in findings}
        own = {o: row for o, row in remains.own.items() if row.pid in told and told[row.pid].verdict == FAILED}
        rows = [*own.values(), *remains.ended.values(), *remains.named, *remains.crashed]
        rows = [row for row in rows if row.pid in told]
        for pid in self._watch.end(min(servers, key=_sees_little), rows) if rows else ():
            told[pid].note = "; ".join(part for part in (told[pid].note, "poolguard has ended it") if part)

    def _note(self, servers: list[Server], remains: Remains, left: int) -> None:
        """Keep for the summary who was there, and who is."""
        names = dict.fromkeys(self._watch.asked(server) for server in servers)
        visit = Visit(" and ".join(names), after=Census.of(remains.look), left=left)
        before = [server.before for server in servers if server.before is not None]
        if before:
            visit.before = Census.of(before[0])
            if before[0].started != remains.look.started:
                self._tally.notices.append(f"{visit.name} was restarted: what was open there before is gone")
        self._note_lasting(servers, remains)
        visit.idle = sum(opening.pool is not None and opening.pool.is_open() for opening in remains.own)
        listed = remains.look.backends.keys()
        self._tally.lasted |= {f.fingerprint for f in self._tally.findings if f.backend_pid in listed}
        told = {finding.backend_pid for finding in self._tally.outside}
        for pid in set(self._tally.open_pids).intersection(remains.look.backends):  # the workers'
            if pid in told:
                visit.left += 1
            else:
                visit.idle += 1
        visit.meet(remains.strangers)
        new = [row for row in remains.strangers if not any(server.was_here(row) for server in servers)]
        visit.came = sum(not RunName.is_on_a_run(row.application) for row in new)
        self._tally.visits.append(visit)

    def _note_lasting(self, servers: list[Server], remains: Remains) -> None:
        """Tell of what outlives connections and was not there before: whose it is, no server says."""
        before = next((server.before.lasting for server in servers if server.before is not None), None)
        if before is None or remains.look.lasting is None:
            return
        databases = {database for server in servers for database in server.databases}
        roles = {key[2] for key, server in self._watch.servers.items() if server in servers}
        found = left(before, remains.look.lasting, databases=databases, roles=roles)
        self._tally.notices += [f"{servers[0].name}: {one.words}" for one in found]


def _asked(plain: dict[str, Any]) -> float:
    return float(plain["asked"])


def _sees_little(server: Server) -> bool:
    return server.before is None or not server.before.sees_all
