"""What is counted of pools, by the ledger alone: without pytest, and with pools that are none."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.counter import Counter, Highest
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Origin, Place
from pytest_poolguard.books.records import Limits, Owner
from pytest_poolguard.sizing.counting import Counting
from pytest_poolguard.sizing.uses import Use, gathered_uses, uses_of


class Connection:
    pass


class Pool:
    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.is_open = True


class Driver:
    library = "fake"

    def terms(self, _pool: Pool) -> Any:
        return None

    def capacity(self, pool: Pool) -> int | None:
        return pool.size or None

    def is_open(self, pool: Pool) -> bool:
        return pool.is_open


@pytest.fixture
def ledger():
    return Ledger(Clock(), Owner("session", "session", phase=""), frozenset())


@pytest.fixture
def counting(ledger):
    counting = Counting(ledger)
    counting.begin("test_it", is_on=True)
    return counting


def known(ledger, pool):
    return ledger.add_pool(pool, Driver(), f"Pool(0..{pool.size})", Origin([]), made_known=True)


def only(counting) -> Use:
    (use,) = uses_of(counting.take(), lambda _: None)
    return use


# counters


def in_threads(number, work):
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_counter_counts_what_many_threads_count():
    counter = Counter()

    def work():
        for _ in range(2000):
            counter.up()

    in_threads(8, work)
    assert [counter.value, counter.value] == [16000, 16000]


def test_to_read_a_counter_does_not_count():
    counter = Counter()
    assert counter.value == 0
    counter.up()
    assert counter.value == 1
    assert counter.value == 1
    counter.up()
    assert counter.value == 2


def test_the_highest_survives_a_lower_one_that_is_written_late():
    highest = Highest()
    highest.seen(6)
    highest.seen(5)  # by a thread that has compared before the other wrote
    assert (highest.known, highest.value) == (5, 6)


# uses


def test_what_is_taken_and_returned_is_counted(ledger, counting):
    pool, conns = Pool(), [Connection(), Connection()]
    record = known(ledger, pool)
    for _ in range(3):
        for conn in conns:
            ledger.check_out(record, conn)
        for conn in conns:
            ledger.give_back(pool, conn)
    use = only(counting)
    assert (use.nodeid, use.checkouts, use.peak, use.size, use.full) == ("test_it", 6, 2, 2, 0)
    assert use.longest_hold > 0
    assert counting.take() == []


def test_a_return_that_failed_is_none(ledger, counting):
    pool, conn = Pool(), Connection()
    checkout = ledger.check_out(known(ledger, pool), conn)
    ledger.give_back(pool, conn)
    ledger.put_back(checkout)
    (count,) = counting.counts
    assert (count.holds, count.longest, list(count.desk.out)) == ([], [], [checkout])
    ledger.give_back(pool, conn)
    assert len(count.holds) == 1
    assert only(counting).checkouts == 1


def test_a_limit_measures_the_same_time(ledger, counting):
    pool, conn = Pool(), Connection()
    ledger.now_present(Owner("test", "test_it", limits=Limits(hold=0.0)))
    checkout = ledger.check_out(known(ledger, pool), conn)
    ledger.give_back(pool, conn)
    (count,) = counting.counts
    assert [held for held, _ in count.holds] == [checkout.held]
    assert ledger.overdue == [checkout]
    ledger.put_back(checkout)
    assert (count.holds, ledger.overdue) == ([], [])
    ledger.give_back(pool, conn)
    (use,) = uses_of(counting.take(), lambda _: Place("shop.py", 1, "take", "getconn()"))
    assert use.held_at is not None


def test_what_is_out_when_a_test_begins_is_part_of_its_peak_and_of_none_of_its_other_numbers(ledger, counting):
    pool, conns = Pool(5), [Connection() for _ in range(4)]
    record = known(ledger, pool)
    for conn in conns[:3]:
        ledger.check_out(record, conn)
    counting.take()
    counting.begin("test_next", is_on=True)
    ledger.check_out(record, conns[3])
    for conn in conns:
        ledger.give_back(pool, conn)
    use = only(counting)
    assert (use.nodeid, use.checkouts, use.peak) == ("test_next", 1, 4)


def test_what_was_taken_while_nobody_counted_is_part_of_the_peak(ledger, counting):
    pool, conns = Pool(), [Connection(), Connection()]
    record = known(ledger, pool)
    counting.begin("", is_on=False)
    ledger.check_out(record, conns[0])
    counting.begin("test_next", is_on=True)
    ledger.check_out(record, conns[1])
    ledger.give_back(pool, conns[0])
    ledger.give_back(pool, conns[1])
    use = only(counting)
    assert (use.checkouts, use.peak) == (1, 2)


def test_a_leak_that_was_told_is_not_out_any_more(ledger, counting):
    pool, conn, other = Pool(), Connection(), Connection()
    record = known(ledger, pool)
    ledger.settle(ledger.check_out(record, conn))
    counting.take()
    counting.begin("test_next", is_on=True)
    ledger.check_out(record, other)
    assert only(counting).peak == 1


def test_a_leak_that_keeps_its_slot_is_still_out(ledger, counting):
    pool, conn, other = Pool(), Connection(), Connection()
    record = known(ledger, pool)
    checkout = ledger.check_out(record, conn)
    ledger.settle(checkout)
    ledger.unreclaimed.append(checkout)
    counting.take()
    counting.begin("test_next", is_on=True)
    ledger.check_out(record, other)
    assert only(counting).peak == 2


def test_a_pool_that_was_struck_out_has_no_row(ledger, counting):
    pool, conn = Pool(), Connection()
    ledger.check_out(known(ledger, pool), conn)
    ledger.strike_out(pool)
    assert counting.take() == []


def test_the_size_is_that_of_the_moment(ledger, counting):
    pool, conns = Pool(1), [Connection(), Connection()]
    record = known(ledger, pool)
    ledger.check_out(record, conns[0])
    pool.size = 7
    ledger.check_out(record, conns[1])
    use = only(counting)
    assert (use.peak, use.size) == (2, 7)


def test_pools_that_are_made_alike_are_one_row(ledger, counting):
    conn, other = Connection(), Connection()
    for pool in (Pool(), Pool()):
        record = known(ledger, pool)
        ledger.check_out(record, conn)
        ledger.give_back(pool, conn)
    pool = Pool()
    ledger.check_out(known(ledger, pool), conn)
    ledger.check_out(ledger.pool(pool), other)
    use = only(counting)
    assert (use.checkouts, use.peak) == (4, 2)


# waits


def test_a_call_while_something_is_free_does_not_wait(ledger, counting):
    """Not even who takes the last one."""
    pool, conns = Pool(), [Connection(), Connection()]
    record = known(ledger, pool)
    for conn in conns:
        call = counting.asks(pool)
        counting.answers(call, ledger.check_out(record, conn))
    use = only(counting)
    assert (use.waits, use.full, use.total_wait) == (0, 0, 0)


def test_a_call_while_nothing_is_left_waits_until_it_has_one(ledger, counting):
    pool, conn = Pool(1), Connection()
    record = known(ledger, pool)
    ledger.check_out(record, conn)
    ledger.clock.now = lambda: 10.0
    call = counting.asks(pool)
    ledger.clock.now = lambda: 12.5
    ledger.give_back(pool, conn)
    checkout = ledger.check_out(record, conn)
    ledger.clock.now = lambda: 20.0
    counting.answers(call, checkout)
    use = only(counting)
    assert (use.waits, use.full, use.total_wait, use.longest_wait) == (1, 1, 2.5, 2.5)


@pytest.mark.parametrize("ends", ["with its connection", "with an error"])
def test_a_call_waits_from_the_moment_when_somebody_else_takes_the_last_one(ledger, counting, ends):
    """Before that it connects, say."""
    pool, conn, other = Pool(1), Connection(), Connection()
    record = known(ledger, pool)
    ledger.clock.now = lambda: 10.0
    call = counting.asks(pool)
    ledger.clock.now = lambda: 11.0
    ledger.check_out(record, conn)
    ledger.clock.now = lambda: 14.0
    ledger.give_back(pool, conn)
    counting.answers(call, ledger.check_out(record, other) if ends == "with its connection" else None)
    use = only(counting)
    assert (use.waits, use.total_wait) == (1, 3.0)


def test_what_becomes_of_a_pool_after_the_call_is_no_wait(ledger, counting):
    """A call is told to be over a moment after its connection was noted."""
    pool, conns = Pool(2), [Connection(), Connection()]
    record = known(ledger, pool)
    call = counting.asks(pool)
    ledger.clock.now = lambda: 10.0
    checkout = ledger.check_out(record, conns[0])
    ledger.clock.now = lambda: 11.0
    ledger.check_out(record, conns[1])
    counting.answers(call, checkout)
    assert only(counting).waits == 0


def test_a_pool_that_gets_another_size_meanwhile(ledger, counting):
    pool, conns = Pool(3), [Connection() for _ in range(4)]
    record = known(ledger, pool)
    for conn in conns[:2]:
        ledger.check_out(record, conn)
    pool.size = 2
    counting.answers(counting.asks(pool), None)
    pool.size = 4
    for conn in conns[2:]:
        counting.answers(counting.asks(pool), ledger.check_out(record, conn))
    use = only(counting)
    assert (use.waits, use.peak, use.size) == (1, 4, 4)


def test_a_wait_is_part_of_the_test_in_which_it_ends(ledger, counting):
    pool, conn = Pool(1), Connection()
    ledger.check_out(known(ledger, pool), conn)
    call = counting.asks(pool)
    counting.take()
    counting.begin("test_next", is_on=True)
    counting.answers(call, None)
    use = only(counting)
    assert (use.nodeid, use.waits, use.checkouts) == ("test_next", 1, 0)


def test_a_closed_pool_lets_nobody_wait(ledger, counting):
    pool, conn = Pool(1), Connection()
    ledger.check_out(known(ledger, pool), conn)
    pool.is_open = False
    counting.answers(counting.asks(pool), None)
    assert only(counting).waits == 0


def test_a_pool_of_which_no_size_is_known_lets_nobody_wait(ledger, counting):
    pool, conn = Pool(0), Connection()
    ledger.check_out(known(ledger, pool), conn)
    counting.answers(counting.asks(pool), None)
    use = only(counting)
    assert (use.waits, use.peak, use.size) == (0, 1, 0)


def test_a_pool_that_refuses_at_once_was_full(ledger, counting):
    pool = Pool(1)
    known(ledger, pool)
    counting.refuses(pool)
    use = only(counting)
    assert (use.full, use.waits) == (1, 0)


def test_a_pool_that_nobody_knows_is_not_counted(counting):
    assert counting.asks(Pool()) is None
    counting.refuses(Pool())
    assert counting.take() == []


def test_nothing_is_counted_while_nobody_wants_it(ledger, counting):
    counting.begin("", is_on=False)
    pool, conn = Pool(1), Connection()
    record = known(ledger, pool)
    ledger.check_out(record, conn)
    assert counting.asks(pool) is None
    counting.refuses(pool)
    ledger.give_back(pool, conn)
    assert counting.take() == []


# rows


def test_rows_of_one_pool_and_test_are_made_one_and_stay_as_they_are():
    rows = [
        Use(
            "p",
            "Pool(0..4)",
            nodeid="a",
            checkouts=1,
            peak=2,
            size=4,
            full=1,
            waits=1,
            total_wait=0.1,
            longest_wait=0.1,
        ),
        Use("p", "Pool(0..4)", nodeid="b", checkouts=1),
        Use(
            "p",
            "Pool(0..4)",
            nodeid="a",
            checkouts=2,
            peak=3,
            size=5,
            full=2,
            waits=1,
            total_wait=0.2,
            longest_wait=0.2,
        ),
    ]
    for _ in range(2):
        merged, other = gathered_uses(rows)
        assert other == rows[1]
        assert merged == Use(
            "p",
            "Pool(0..4)",
            nodeid="a",
            checkouts=3,
            peak=3,
            size=5,
            full=3,
            waits=2,
            total_wait=0.3,
            longest_wait=0.2,
        )
        assert Use.from_dict(merged.to_dict()) == merged
