"""Django keeps a connection for each thread: its own business, with and without its pools."""

from __future__ import annotations

import pytest

pytest.importorskip("django")

SETTINGS = """
import os, sys
if os.environ["DRIVER"] == "psycopg2":
    sys.modules["psycopg"] = None  # Django prefers it where it can be imported
from psycopg2.extensions import parse_dsn

at = parse_dsn(os.environ["SUITE_DSN"])
DATABASES = {{"default": {{
    "ENGINE": "django.db.backends.postgresql",
    "NAME": at.get("dbname", "postgres"),
    **{{name.upper(): at[name] for name in ("host", "port", "user", "password") if name in at}},
    "TEST": {{"NAME": f"shop_{{os.getpid()}}"}},
    "OPTIONS": {options},
}}}}
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "not one"
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
STATIC_URL = "/static/"
"""
MODELS = """
from django.db import models

class Thing(models.Model):
    name = models.TextField()
    class Meta:
        app_label = "shop"
"""
URLS = """
from django.http import HttpResponse
from django.urls import path

def count(request):
    from shop.models import Thing
    return HttpResponse(str(Thing.objects.count()))

urlpatterns = [path("", count)]
"""
HEADER = """
import threading, urllib.request
import pytest
from django.db import connection, connections, transaction
from shop.models import Thing
"""

SILENT = """
@pytest.mark.django_db
def test_db():
    Thing.objects.create(name="it")
    assert Thing.objects.count() == 1

def test_fixture(db):
    assert Thing.objects.count() == 0

@pytest.mark.django_db(transaction=True)
def test_transactional():
    with transaction.atomic():
        Thing.objects.create(name="it")
    assert Thing.objects.count() == 1

def test_transactional_fixture(transactional_db):
    assert Thing.objects.count() == 0

@pytest.mark.django_db(transaction=True)
def test_thread_that_closes():
    def work():
        Thing.objects.create(name="it")
        connections.close_all()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def test_live_server(live_server):
    for _ in range(3):
        with urllib.request.urlopen(live_server.url) as response:
            assert response.read() == b"0"

def test_client(client, db):
    assert client.get("/").content == b"0"
"""


@pytest.fixture(params=["psycopg", "psycopg2", "pool"])
def driver(request):
    return request.param


#: Where there is nothing to find without a pool, and what is silent with one is so without.
WITH_A_POOL = pytest.mark.parametrize("driver", ["pool"], indirect=True)


@pytest.fixture
def run(suite, driver, monkeypatch):
    """Run a suite of a Django project, in a process of its own."""
    monkeypatch.setenv("DRIVER", driver)
    options = '{"pool": {"min_size": 1, "max_size": 4, "timeout": 10}}' if driver == "pool" else "{}"
    suite.file("shop/__init__.py", "")
    suite.file("shop/settings.py", SETTINGS.format(options=options))
    suite.file("shop/models.py", MODELS)
    suite.file("shop/urls.py", URLS)
    return lambda source, *args: suite.run(
        source,
        *("-p", "django", "--ds=shop.settings", "-opythonpath=."),
        *args,
        header=HEADER,
        subprocess=True,
    )


def test_what_django_keeps_for_a_thread_is_silent(run, processes):
    run(SILENT, *processes).assert_silent(passed=7)


def test_the_driver_is_the_one_that_the_test_is_about(run, driver):
    run(
        f"""
def test_it(db):
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
    connection.ensure_connection()
    assert is_psycopg3 == ({driver!r} != "psycopg2")
    assert (connection.pool is not None) == ({driver!r} == "pool")
"""
    ).assert_silent(passed=1)


@WITH_A_POOL
def test_it_is_silent_in_any_order(run, suite):
    """pytest-django runs tests that close their connections after those that need not."""
    suite.file(
        "conftest.py",
        """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.reverse()
""",
    )
    run(SILENT).assert_silent(passed=7)


@WITH_A_POOL
def test_a_database_that_is_kept_for_the_next_run_is_silent(run):
    run(SILENT, "--reuse-db").assert_silent(passed=7)


@WITH_A_POOL
def test_an_own_fixture_and_a_test_case_that_use_the_database_are_silent(run):
    run(
        """
from django.test import TestCase, TransactionTestCase

@pytest.fixture(scope="module")
def unblocked(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        yield

@pytest.fixture
def number(unblocked):
    return Thing.objects.count()

def test_fixture(number):
    connection.close()

def test_again(number):
    assert Thing.objects.count() == number

class TestIt(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.thing = Thing.objects.create(name="it")

    def test_it(self):
        self.assertEqual(Thing.objects.count(), 1)

class TestOther(TransactionTestCase):
    def test_it(self):
        Thing.objects.create(name="it")
"""
    ).assert_silent(passed=4)


@pytest.mark.parametrize("ends", ["closes", "dies"])
def test_a_threads_connection_is_silent_while_the_thread_lives(run, driver, ends):
    """A thread that dies without a word takes a slot of its pool with it; without a pool, nothing is lost."""
    result = run(
        f"""
end = threading.Event()
threads = []

@pytest.mark.django_db(transaction=True)
def test_starts():
    used = threading.Event()
    def work():
        Thing.objects.count()
        used.set()
        end.wait(20)
        if {ends!r} == "closes":
            connections.close_all()
    threads.append(threading.Thread(target=work))
    threads[0].start()
    assert used.wait(20)

def test_between(): pass

def test_ends():
    end.set()
    threads[0].join()

def test_after(): pass
"""
    )
    if driver == "pool" and ends == "dies":
        result.assert_outcomes(passed=4, errors=1)
        (finding,) = result.findings
        assert finding["owner"]["name"] == "test_starts"
        assert finding["acquired"]["text"] == "Thing.objects.count()"
        assert finding["hint"] == (
            "Django took it for its thread, and keeps it; "
            "call `django.db.connections.close_all()` at the end of the thread"
        )
    else:
        result.assert_silent(passed=4)


def test_a_thread_that_is_gone_by_the_end_of_its_test_is_that_tests(run, driver):
    result = run(
        """
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("closes", [True, False])
def test_it(closes):
    def work():
        Thing.objects.count()
        if closes:
            connections.close_all()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""
    )
    if driver == "pool":
        result.assert_outcomes(passed=1, failed=1)
        assert result.blamed == ["test_it[False]"]
    else:
        result.assert_silent(passed=2)


@WITH_A_POOL
def test_coroutines_that_use_the_database_are_silent(run):
    run(
        """
@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", range(2))
async def test_it(number):
    await Thing.objects.acreate(name="it")
    assert await Thing.objects.acount() == 1
"""
    ).assert_silent(passed=2)


def test_a_leak_of_the_projects_own_code_is_found(run, driver):
    result = run(
        """
from psycopg2.pool import SimpleConnectionPool
import os

def take(own):
    if connection.pool is not None:
        return connection.pool, connection.pool.getconn()
    return own, own.getconn()

@pytest.mark.parametrize("returns", [True, False])
def test_it(db, returns):
    Thing.objects.create(name="it")
    own = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    pool, conn = take(own)
    if returns:
        pool.putconn(conn)
    own.closeall()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert [f["acquired"]["function"] for f in result.findings] == ["take"]


def test_a_connection_that_the_projects_own_code_leaves_open_is_found(run):
    result = run(
        """
import os, psycopg2
kept = []

def test_it(db):
    Thing.objects.create(name="it")
    kept.append(psycopg2.connect(os.environ["SUITE_DSN"]))
"""
    )
    assert result.result.ret == 1
    assert [f["acquired"]["function"] for f in result.findings] == ["test_it"]
