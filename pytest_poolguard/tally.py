"""What a run has found so far, on this process or, under xdist, on all workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import FAILED, Finding
from pytest_poolguard.pools_seen import PoolRow, gathered
from pytest_poolguard.server.census import Visit
from pytest_poolguard.server.demand import Demand
from pytest_poolguard.sizing.uses import Use
from pytest_poolguard.this_run import ThisRun

if TYPE_CHECKING:
    from pytest_poolguard.faults.account import Account

__all__ = ["ATTRIBUTE", "CARRIED_USES", "Tally", "carried_by"]

#: The attribute of a report, and the key of xdist's workeroutput, under which findings travel.
ATTRIBUTE = "poolguard"
#: The attribute under which a report carries what pools were used for.
CARRIED_USES = "poolguard_uses"


@dataclass
class Tally:
    """The findings of tests, those that no test's report carries, and what else the summary says."""

    findings: list[Finding] = field(default_factory=list)  #: all of them
    untold: list[Finding] = field(default_factory=list)  #: those whose text no failure shows
    outside: list[Finding] = field(default_factory=list)  #: those that no test's report carries
    run: ThisRun | None = None  #: what is told of the run itself
    lost_worker: bool = False  #: one could not say what it has found
    pools: int = 0
    pool_rows: list[PoolRow] = field(default_factory=list)  #: the same pools, by class, size and place
    taken: int = 0
    uses: list[Use] = field(default_factory=list)  #: of pools, as far as they were counted
    uses_outside: list[Use] = field(default_factory=list)  #: those that no test's report carries
    patched: list[str] = field(default_factory=list)  #: libraries that were imported, with their versions
    unwatched: list[str] = field(default_factory=list)  #: libraries that were imported, and why nobody watches
    open_pools: list[tuple[Place | None, int]] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)  #: the servers of the run
    servers: list[dict[str, Any]] = field(default_factory=list)  #: a worker's, for the controller alone
    told: list[list[Any]] = field(
        default_factory=list
    )  #: backends that a worker's tests have told, by pid and start
    lasted: set[str] = field(default_factory=set)  #: fingerprints of backends that were there at the end, too
    open_pids: list[int] = field(default_factory=list)  #: of backends of the workers' own connections
    demands: list[Demand] = field(default_factory=list)  #: on each of them, of each worker
    notices: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  #: what fails the run, and is no finding
    faults: list[str] = field(default_factory=list)
    account: Account | None = None  #: of the faults that were struck on purpose
    refusals: list[dict[str, Any]] = field(default_factory=list)  #: of pools, as plain data
    #: Functions with a marker of their own whose tests have passed, and whether one of them may have needed it.
    marked: dict[str, bool] = field(default_factory=dict)

    @property
    def unused_markers(self) -> list[str]:
        """The functions with a marker whose tests have taken no connection."""
        return [name for name, was_needed in self.marked.items() if not was_needed]

    def mark(self, name: str, *, was_needed: bool) -> None:
        """Note a test of a function with a marker."""
        self.marked[name] = was_needed or self.marked.get(name, False)

    def carry(
        self,
        report: pytest.TestReport,
        findings: list[Finding],
        *,
        told: bool,
        refusals: list[dict[str, Any]] | None = None,
    ) -> None:
        """Let a report carry findings: plain data only, anything else would end an xdist worker."""
        plain = [finding.to_dict() for finding in findings]
        setattr(report, ATTRIBUTE, {"told": told, "findings": plain, "refusals": refusals or []})

    def add_report(self, report: Any) -> None:
        """Take what a logged report carries."""
        self.uses += map(Use.from_dict, getattr(report, CARRIED_USES, ()))
        carried = getattr(report, ATTRIBUTE, None)
        if not carried:
            return
        findings = carried_by(report)
        self.findings += findings
        self.untold += [f for f in findings if not (carried["told"] and f.verdict == FAILED)]
        self.refusals += carried["refusals"]  # also of a test that leaks nothing

    def add_outside(self, findings: list[Finding]) -> None:
        """Take findings that no test's report carries."""
        self.findings += findings
        self.untold += findings
        self.outside += findings

    def add_uses(self, uses: list[Use]) -> None:
        """Take what pools were used for, as far as no test's report carries it."""
        self.uses += uses
        self.uses_outside += uses

    @property
    def fails_the_run(self) -> bool:
        """Whether something fails the run that no failed test stands for."""
        return bool(self.errors) or any(finding.verdict == FAILED for finding in self.outside)

    def to_worker_output(self) -> dict[str, Any]:
        """What the controller does not get by reports, as plain data."""
        return {
            "outside": [finding.to_dict() for finding in self.outside],
            "pools": self.pools,
            "taken": self.taken,
            "patched": self.patched,
            "unwatched": self.unwatched,
            "open_pools": [
                [place and [place.file, place.line, place.function, place.text, place.own], count]
                for place, count in self.open_pools
            ],
            "servers": self.servers,
            "open_pids": self.open_pids,
            "told": self.told,
            "visits": [visit.to_dict() for visit in self.visits],
            "demands": [demand.to_dict() for demand in self.demands],
            "notices": self.notices,
            "faults": self.faults,
            "pool_rows": [row.to_dict() for row in self.pool_rows],
            "marked": self.marked,
            "account": self.account.to_dict() if self.account is not None else None,
            "uses": [use.to_dict() for use in self.uses_outside],
        }

    def add_worker(self, name: str, plain: dict[str, Any] | None) -> None:
        """Add what another process found; None if it could not say so any more."""
        if plain is None:
            self.lost_worker = True
            self.notices.append(f"worker {name} ended without a word: what it left checked out is not judged")
            return
        self.add_outside([Finding.from_dict(finding) for finding in plain["outside"]])
        if self.account is not None and plain["account"] is not None:
            self.account.add(plain["account"])
        self.pools += plain["pools"]
        self.taken += plain["taken"]
        self.open_pools += [(place and Place(*place), count) for place, count in plain["open_pools"]]
        self.visits += [Visit.from_dict(visit) for visit in plain["visits"]]
        self.servers += plain["servers"]
        self.open_pids += plain["open_pids"]
        self.told += plain["told"]
        self.demands += [Demand(**demand) for demand in plain["demands"]]
        self.pool_rows = gathered([*self.pool_rows, *map(PoolRow.from_dict, plain["pool_rows"])])
        self.add_uses([Use.from_dict(use) for use in plain["uses"]])
        for function, was_needed in plain["marked"].items():
            self.mark(function, was_needed=was_needed)
        for told in ("patched", "unwatched", "notices", "faults"):
            mine = getattr(self, told)
            mine += [text for text in plain[told] if text not in mine]


def carried_by(report: Any) -> list[Finding]:
    """The findings that :meth:`Tally.carry` has let a report carry."""
    carried = getattr(report, ATTRIBUTE, None)
    return [Finding.from_dict(plain) for plain in carried["findings"]] if carried else []
