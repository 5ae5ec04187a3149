"""Numbers stay exact where connections die, pools change or close, and many threads count at once."""

from __future__ import annotations

HEADER = """
import contextlib, os, threading
import psycopg, psycopg2, pytest
from psycopg2.pool import PoolError, ThreadedConnectionPool
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

DSN = os.environ["SUITE_DSN"]

def in_threads(number, work):
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads: thread.start()
    return threads

def join(threads):
    for thread in threads: thread.join()

def end_on_server(pids):
    with contextlib.closing(psycopg2.connect(DSN)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [pids])
"""

DYING = """
def test_psycopg2_dying(poolguard):
    pool = ThreadedConnectionPool(1, 4, DSN)
    conns = [pool.getconn() for _ in range(4)]
    end_on_server([conn.info.backend_pid for conn in conns[:3]])
    for conn in conns[:3]:
        with pytest.raises(psycopg2.Error):
            conn.cursor().execute("SELECT 1")
    for conn in conns:
        pool.putconn(conn)
    pool.putconn(pool.getconn())
    pool.closeall()
    assert (poolguard.peak, len(poolguard.holds), poolguard.waits) == (4, 5, [])

def test_psycopg_pool_dying(poolguard):
    with ConnectionPool(DSN, min_size=4, max_size=4) as pool:
        conns = [pool.getconn() for _ in range(4)]
        end_on_server([conn.info.backend_pid for conn in conns[:3]])
        for conn in conns[:3]:
            with pytest.raises(psycopg.Error):
                conn.execute("SELECT 1")
        for conn in conns:
            pool.putconn(conn)
        pool.putconn(pool.getconn())
    assert (poolguard.peak, len(poolguard.holds), poolguard.waits) == (4, 5, [])
"""

RESIZED = """
def test_psycopg_pool_resized(poolguard):
    with ConnectionPool(DSN, min_size=2, max_size=2) as pool:
        conns = [pool.getconn() for _ in range(2)]
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)
        pool.resize(2, 5)
        conns += [pool.getconn() for _ in range(3)]
        assert len(poolguard.waits) == 1
        pool.resize(1, 3)
        with pytest.raises(PoolTimeout):  # five are out, three may be
            pool.getconn(timeout=0.01)
        for conn in conns:
            pool.putconn(conn)
        assert (poolguard.peak, len(poolguard.waits), len(poolguard.holds)) == (5, 2, 5)

def test_psycopg2_resized(poolguard):
    pool = ThreadedConnectionPool(1, 1, DSN)
    conns = [pool.getconn()]
    with pytest.raises(PoolError):
        pool.getconn()
    pool.maxconn = 2
    conns.append(pool.getconn())
    for conn in conns:
        pool.putconn(conn)
    pool.closeall()
"""

CLOSED = """
def loaded(take, give, close, ends):
    "What twenty threads have taken from a pool that is closed meanwhile, and how many were given back."
    taken, given, going = [], [], threading.Semaphore(0)

    def work():
        with contextlib.suppress(ends):
            while True:
                conn = take()
                taken.append(1)
                going.release()
                try:
                    give(conn)
                finally:
                    given.append(1)

    threads = in_threads(20, work)
    for _ in range(200):
        going.acquire()
    close()
    join(threads)
    return taken, given

def test_psycopg2_closed(poolguard):
    pool = ThreadedConnectionPool(20, 20, DSN)
    taken, given = loaded(pool.getconn, pool.putconn, pool.closeall, (PoolError, psycopg2.InterfaceError))
    assert len(poolguard.holds) == len(given) == len(taken)
    print("taken", len(taken))

def test_psycopg_pool_closed(poolguard):
    pool = ConnectionPool(DSN, min_size=3, max_size=3)
    pool.wait()
    # The library forgets some who ask while it closes: they wait until their time is up.
    taken, given = loaded(lambda: pool.getconn(1.0), pool.putconn, pool.close, (PoolClosed, PoolTimeout))
    assert len(poolguard.holds) == len(given) == len(taken)
    print("taken", len(taken))
"""

CROWD = """
SIZE, THREADS, TIMES = 10, 50, 400

def crowd(take, give, is_crowded):
    "Fifty threads, twenty thousand checkouts; the first ten are kept until forty callers wait for them."
    start = threading.Event()
    first = threading.Semaphore(SIZE)

    def work():
        for _ in range(TIMES):
            conn = take()
            if first.acquire(blocking=False):
                start.wait()
            give(conn)

    threads = in_threads(THREADS, work)
    while not is_crowded():
        threads[0].join(0.001)
    start.set()
    join(threads)

def test_psycopg2_crowd(poolguard):
    pool = ThreadedConnectionPool(SIZE, SIZE, DSN)
    slots, inside = threading.Semaphore(SIZE), []

    def take():
        inside.append(1)
        slots.acquire()
        return pool.getconn()

    def give(conn):
        pool.putconn(conn)
        slots.release()

    crowd(take, give, lambda: len(pool._used) == SIZE and len(inside) == THREADS)
    pool.closeall()
    assert (poolguard.peak, len(poolguard.holds), poolguard.waits) == (SIZE, THREADS * TIMES, [])

def test_psycopg_pool_crowd(poolguard):
    with ConnectionPool(DSN, min_size=SIZE, max_size=SIZE) as pool:
        pool.wait()
        crowd(pool.getconn, pool.putconn, lambda: pool.get_stats().get("requests_waiting") == THREADS - SIZE)
    assert (poolguard.peak, len(poolguard.holds)) == (SIZE, THREADS * TIMES)
    assert len(poolguard.waits) >= THREADS - SIZE
"""


def test_numbers_are_exact_whatever_happens(suite):
    """One run, as a real PostgreSQL is needed by each; what was taken is counted by the suite, too."""
    run = suite.run(DYING + RESIZED + CLOSED + CROWD, "--poolguard-stats=0", "-rP", header=HEADER)
    run.assert_silent(passed=8)
    uses = {use["nodeid"].partition("::test_")[2]: use for use in run.data["uses"]}
    taken = dict(zip(("psycopg2_closed", "psycopg_pool_closed"), run.text.split("\ntaken ")[1:], strict=True))
    numbers = {
        name: (use["checkouts"], use["peak"], use["size"], use["full"] - use["waits"])
        for name, use in uses.items()
    }
    assert numbers == {
        "psycopg2_dying": (5, 4, 4, 0),
        "psycopg_pool_dying": (5, 4, 4, 0),
        "psycopg_pool_resized": (5, 5, 5, 0),
        "psycopg2_resized": (2, 2, 2, 1),
        "psycopg2_closed": (int(taken["psycopg2_closed"].split()[0]), *numbers["psycopg2_closed"][1:]),
        "psycopg_pool_closed": (
            int(taken["psycopg_pool_closed"].split()[0]),
            *numbers["psycopg_pool_closed"][1:],
        ),
        "psycopg2_crowd": (20000, 10, 10, 0),
        "psycopg_pool_crowd": (20000, 10, 10, 0),
    }
    assert numbers["psycopg2_closed"][1] <= 20
    assert numbers["psycopg_pool_closed"][1] <= 3
    assert uses["psycopg_pool_crowd"]["waits"] >= 40
    assert sum(row["checkouts"] for row in run.data["pools"]) == run.data["checkouts"]
    assert run.data["checkouts"] == sum(use["checkouts"] for use in uses.values())
