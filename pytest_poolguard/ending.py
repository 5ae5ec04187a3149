"""The end of a run: what is left when the last fixture is gone, here and on the servers."""

from __future__ import annotations

from pytest_poolguard.guard import Guard
from pytest_poolguard.pools_seen import rows_of
from pytest_poolguard.this_run import ThisRun, in_force

__all__ = ["Ending"]


class Ending:
    """Brings what a guard has to say at the end of its run into the tally."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def end_session(self) -> None:
        """The last fixture is gone."""
        guard, tally = self._guard, self._guard.tally
        guard.outside.found(guard.dirty_returns() + guard.judge.end_session())
        for checkout in guard.judge.unjudged():
            tally.notices.append(f"{checkout.taken_by.name} was interrupted: its connections are not judged")
        tally.notices[:] = dict.fromkeys(tally.notices)
        tally.pools = guard.ledger.pools_seen
        tally.taken = guard.ledger.taken
        tally.add_uses(guard.measuring.rest())
        self.visit_servers()
        guard.outside.found(guard.unclosed.end_session())
        self._tell_pools()
        guard.libraries.find_misspelt()

    def _tell_pools(self) -> None:
        """Note which pools there were, and which are still open."""
        guard, tally = self._guard, self._guard.tally
        open_pools = [
            pool for pool in guard.ledger.pools() if pool.is_open() and not (pool.told or pool.was_closed)
        ]
        idle = [(pool, pool.driver.idle(pool.ref())) for pool in open_pools]
        tally.open_pools = [(guard.describe.made(pool), count) for pool, count in idle if count]
        tally.pool_rows = rows_of(
            guard.ledger.makes.values(), guard.tree.site, [(pool.make, count) for pool, count in idle if count]
        )

    def visit_servers(self) -> None:
        """See what the run has left on the servers."""
        guard = self._guard
        if guard.server is not None and not guard.is_in_a_fork:
            guard.outside.found(guard.server.end(is_controller=guard.is_controller))

    def this_run(self) -> ThisRun:
        """What is told of the run itself, but for how it ended."""
        guard = self._guard
        return ThisRun(guard.name.id, guard.began, options=in_force(guard.settings))
