"""The books: who holds what since when, however often objects come and go. And the clock they are kept by."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Limits, Owner, Supply


class Thing:
    """A pool or a connection."""


class Driver:
    library = "things"

    def is_open(self, pool):
        return True

    def terms(self, pool):
        return None


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Clock(), Owner("session", "session"))


@pytest.fixture
def pool() -> Thing:
    return Thing()


def record(ledger, pool):
    return ledger.pool(pool) or ledger.add_pool(
        pool, Driver(), "Thing(1..2)", Origin(capture(frozenset(), 0)), made_known=True
    )


def take(ledger, pool, connection):
    def driver():
        return ledger.check_out(record(ledger, pool), connection)

    return driver()


def test_a_connection_is_out_until_it_is_checked_in(ledger, pool):
    connection = Thing()
    checkout = take(ledger, pool, connection)
    assert ledger.outstanding() == ledger.outstanding(ledger.session) == [checkout]
    assert ledger.held_by(connection) is checkout
    ledger.give_back(checkout.pool.ref(), checkout.connection())
    assert ledger.outstanding() == ledger.outstanding(ledger.session) == []
    assert ledger.held_by(connection) is None
    assert checkout.returned
    assert ledger.taken == 1


def test_the_origin_begins_at_the_drivers_caller(ledger, pool):
    checkout = take(ledger, pool, Thing())
    assert checkout.origin.frames()[0][0].co_name == "take"


def test_the_same_connection_taken_twice_is_one_checkout(ledger, pool):
    connection = Thing()
    checkout = take(ledger, pool, connection)
    assert take(ledger, pool, connection) is None
    assert ledger.outstanding() == [checkout]


def test_a_checkout_belongs_to_the_owner_that_was_present(ledger, pool):
    test = ledger.present = Owner("test", "test_it")
    first, second = Thing(), Thing()
    one = take(ledger, pool, first)
    take(ledger, pool, second)
    ledger.give_back(one.pool.ref(), one.connection())
    ledger.present = ledger.session
    third = Thing()
    take(ledger, pool, third)
    assert [c.connection() for c in ledger.outstanding(test)] == [second]
    assert test.peak == 2
    assert len(ledger.outstanding()) == 2


def test_an_id_that_is_used_again_hides_no_older_leak(ledger, pool):
    """A connection that was collected while out stays out, though a new one has its id()."""
    old = Thing()
    older = take(ledger, pool, old)
    number = older.key
    del old
    gc.collect()
    fresh = Thing()
    older.key = id(fresh)  # what the allocator may do at any time
    ledger._out[id(fresh)] = ledger.session.out[id(fresh)] = older
    ledger._out.pop(number, None)
    ledger.session.out.pop(number, None)
    newer = take(ledger, pool, fresh)
    assert set(ledger.outstanding()) == set(ledger.outstanding(ledger.session)) == {older, newer}
    ledger.give_back(newer.pool.ref(), newer.connection())
    assert ledger.outstanding() == [older]
    ledger.settle(older)
    assert ledger.outstanding() == ledger.outstanding(ledger.session) == []


def test_an_id_that_is_used_again_after_its_owner_was_settled_hides_nothing(ledger, pool):
    fresh = Thing()
    older = take(ledger, pool, Thing())
    ledger._out[id(fresh)] = ledger._out.pop(older.key)
    ledger.session.out.clear()
    older.key = id(fresh)
    take(ledger, pool, fresh)
    assert older in ledger.outstanding()
    assert older not in ledger.outstanding(ledger.session)


def test_a_pools_id_that_is_used_again_is_a_new_pool(ledger):
    pool, other = Thing(), Thing()
    known = record(ledger, pool)
    ledger.records[id(other)] = known
    assert ledger.pool(other) is None
    assert ledger.pool(pool) is known


def test_a_connections_id_that_is_used_again_has_no_opening(ledger):
    connection, other = Thing(), Thing()
    opening = ledger.opened(connection, Driver())
    ledger._openings[id(other)] = opening
    assert ledger.opening(connection) is opening
    assert ledger.opening(other) is None
    assert ledger.opening(Thing()) is None


def test_what_was_taken_back_too_early_is_put_back(ledger, pool):
    ledger.present = Owner("test", "test_it", limits=Limits(hold=0.0))
    connection = Thing()
    checkout = take(ledger, pool, connection)
    time.sleep(0.001)
    ledger.give_back(pool, connection)
    assert ledger.overdue == [checkout]
    ledger.put_back(checkout)
    assert not checkout.returned
    assert ledger.overdue == []
    assert ledger.outstanding() == ledger.outstanding(checkout.owner) == [checkout]


def test_only_what_is_out_for_longer_than_hold_is_overdue(ledger, pool):
    ledger.present = Owner("test", "test_it", limits=Limits(hold=1000.0))
    connection = Thing()
    take(ledger, pool, connection)
    ledger.give_back(pool, connection)
    assert ledger.outstanding() == ledger.overdue == []


def test_checking_in_twice_or_after_settling_changes_nothing(ledger, pool):
    connection = Thing()
    ledger.settle(take(ledger, pool, connection))
    ledger.give_back(pool, connection)
    ledger.give_back(pool, connection)
    assert ledger.outstanding() == []


def test_a_checkout_can_be_carried_over_to_a_longer_lived_owner(ledger, pool):
    test = ledger.present = Owner("test", "test_it")
    checkout = take(ledger, pool, Thing())
    checkout.noted = "a finding"
    ledger.carry(checkout, ledger.session, "a reason")
    assert ledger.outstanding(test) == []
    assert ledger.outstanding(ledger.session) == [checkout]
    assert (checkout.owner, checkout.taken_by, checkout.carried, checkout.noted) == (
        ledger.session,
        test,
        "a reason",
        None,
    )


def test_what_was_returned_meanwhile_is_not_carried_over(ledger, pool):
    test = ledger.present = Owner("test", "test_it")
    connection = Thing()
    checkout = take(ledger, pool, connection)
    ledger.give_back(pool, connection)
    ledger.carry(checkout, ledger.session, "a reason")
    assert ledger.outstanding(test) == ledger.outstanding(ledger.session) == []


def test_the_closing_of_a_pool_is_noted_for_its_own_connections(ledger, pool):
    other = Thing()
    ours, theirs = take(ledger, pool, Thing()), take(ledger, other, Thing())

    def driver():
        ledger.pool_closes(record(ledger, pool))

    driver()
    assert ours.closed_with_pool.frames()[0][0].co_name.startswith("test_the_closing")
    assert ours.closed_while_running
    assert theirs.closed_with_pool is None


def test_a_pool_that_another_owner_closes_is_not_closed_by_the_code_that_took_it(ledger, pool):
    ledger.present = Owner("test", "test_it", phase="body")
    checkout = take(ledger, pool, Thing())
    ledger.present.phase = "teardown"
    ledger.pool_closes(record(ledger, pool))
    assert checkout.closed_with_pool is not None
    assert not checkout.closed_while_running


def test_pools_connections_and_openings_can_be_collected(ledger):
    pool, connection = Thing(), Thing()
    checkout = take(ledger, pool, connection)
    ledger.opened(connection, Driver())
    references = weakref.ref(pool), weakref.ref(connection)
    assert len(ledger.pools()) == len(ledger.openings()) == 1
    del pool, connection
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert ledger.pools() == ledger.openings() == []
    assert not checkout.pool.is_open()
    assert ledger.outstanding() == [checkout]  # it was never returned
    assert ledger.pools_seen == 1


def test_an_opening_whose_connection_is_gone_is_closed(ledger):
    opening = ledger.opened(Thing(), Driver())
    gc.collect()
    assert opening.is_closed()


def test_the_holder_is_the_thread_and_none_for_the_main_one(ledger, pool):
    checkouts = [take(ledger, pool, Thing())]
    thread = threading.Thread(target=lambda: checkouts.append(take(ledger, pool, Thing())))
    thread.start()
    thread.join()
    assert [checkout.thread for checkout in checkouts] == [None, thread]


def test_a_thread_that_threading_does_not_know_is_its_number(ledger, pool):
    import _thread

    found, done = [], threading.Lock()
    done.acquire()

    def run():
        found.append((take(ledger, pool, Thing()), threading.get_ident()))
        done.release()

    _thread.start_new_thread(run, ())
    assert done.acquire(timeout=10)
    ((checkout, ident),) = found
    assert checkout.thread == ident


# the clock


def test_the_clock_stands_still_in_a_debugger_and_goes_on_after_it():
    clock = Clock()
    before = clock.now()
    clock.stop()
    stopped = clock.now()
    time.sleep(0.02)
    clock.stop()  # a debugger in a debugger
    assert clock.now() == stopped
    clock.go()
    after = clock.now()
    assert before <= stopped <= after
    assert after - stopped < time.monotonic() - stopped
    clock.go()  # without a stop
    assert clock.now() >= after


def test_time_in_the_debugger_does_not_count():
    clock = Clock()
    started, real = clock.now(), time.monotonic()
    for _ in range(2):
        clock.stop()
        time.sleep(0.05)
        clock.go()
    assert (time.monotonic() - real) - (clock.now() - started) >= 0.09


# pools on pools


def test_what_is_taken_and_opened_for_a_pool_is_in_its_supply(ledger, pool):
    outer = Thing()
    supply = Supply(record(ledger, outer), None)
    ledger.supply.set(supply)
    connection, raw = Thing(), Thing()
    checkout = take(ledger, pool, connection)
    opening = ledger.opened(raw, Driver())
    ledger.supply.set(None)
    assert supply.checkouts == (checkout,)
    assert supply.openings == (opening,)
    assert opening.pool is supply.pool
    assert ledger.opened(Thing(), Driver()).pool is None


def test_a_checkout_is_over_though_its_connection_is_gone(ledger, pool):
    connection = Thing()
    checkout = take(ledger, pool, connection)
    del connection
    ledger.end(checkout)
    assert checkout.returned
    assert ledger.outstanding() == []
    ledger.end(checkout)
