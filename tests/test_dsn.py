"""A DSN is read as libpq reads it: libpq itself says how that is."""

from __future__ import annotations

import random

import pytest
from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines import files
from pytest_poolguard.drivers.lines.dsn import parse
from pytest_poolguard.drivers.lines.places import completed, places

SECRET = "s3cr3t"


def by_libpq(dsn):
    try:
        return parse_dsn(dsn)
    except ProgrammingError:
        return None


def by_ours(dsn):
    try:
        return parse(dsn)
    except ValueError as error:
        return SECRET in str(error) or None


@pytest.mark.parametrize(
    "dsn",
    [
        "host=/tmp dbname=x",
        " host = /tmp  port=1,2 ",
        r"host='a b' password='it\'s \\ x' user=''",
        r"password=a\ b\'c user=c",
        "postgresql://",
        "postgres:///shop",
        "postgresql://shop:p%40ss%3A@db:5433/the%20shop?sslmode=disable&application_name=a+b",
        "postgresql://%2Fvar%2Frun/shop",
        "postgresql://one,two:5433,[::1]:5434/shop",
        "postgresql:///shop?host=/tmp&port=5433",
        "postgresql:///shop?ssl=true",
        "postgresql://h/d?options=-c%20geqo%3Doff",
    ],
)
def test_what_libpq_understands_is_the_same(dsn):
    assert by_ours(dsn) == by_libpq(dsn) != None  # noqa: E711 - all three


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresq://shop:{SECRET}@127.0.0.1/shop",
        f"postgresql://shop:{SECRET}%zz@db/shop",
        f"postgresql://shop:{SECRET}@[::1/shop",
        f"postgresql://shop:{SECRET}@[::1]x/shop",
        f"postgresql://shop:{SECRET}@db/shop?nonsense=1",
        f"postgresql://shop:{SECRET}@db/shop?user",
        f"host=127.0.0.1 password={SECRET} {SECRET}",
        f"password='{SECRET}",
        f"={SECRET}",
        "shop",
    ],
)
def test_what_libpq_refuses_is_refused(dsn):
    assert by_libpq(dsn) is None
    assert by_ours(dsn) is None


URI = ["u", "h", ":", "@", "/", "?", ",", "[", "]", "::1", "1", "%41", "%", "=", "&", "user=", "host"]
PAIRS = ["user", "host", "=", "'", "\\", " ", "x", "password=", "  "]


@pytest.mark.parametrize(("start", "pieces"), [("postgresql://", URI), ("", PAIRS)], ids=["uri", "pairs"])
def test_whatever_is_thrown_together_is_read_or_refused_as_by_libpq(start, pieces):
    dice = random.Random(1)
    dsns = {start + "".join(dice.choices(pieces, k=dice.randrange(9))) for _ in range(20_000)}
    assert [dsn for dsn in sorted(dsns) if by_ours(dsn) != by_libpq(dsn)] == []


# what is not in the DSN


def only(dsn, **environ):
    (place,) = places(completed(parse(dsn), environ))
    return place


def test_a_dsn_comes_before_its_service_and_that_before_the_environment(tmp_path):
    file = tmp_path / "services"
    file.write_text("# ours\n[other]\nuser=nobody\n[shop]\nhost=db\nuser=clerk\n\n[next]\nport=1\n")
    environ = {"PGSERVICEFILE": str(file), "PGSERVICE": "shop", "PGHOST": "elsewhere", "PGPORT": "5433"}
    place = only("user=me", **environ)
    assert (place.host, place.port, place.user, place.database) == ("db", 5433, "me", "me")


@pytest.mark.parametrize("text", ["", "[shopping]\nhost=db\n", "[shop]\nhost db\n", "[shop]\nservice=shop\n"])
def test_a_service_that_can_not_be_used_is_one_line(tmp_path, text):
    file = tmp_path / "services"
    file.write_text(text)
    with pytest.raises(Unaskable, match="service 'shop'"):
        only("service=shop", PGSERVICEFILE=str(file))


def test_a_service_of_the_system_is_found(tmp_path):
    (tmp_path / "pg_service.conf").write_text("[shop]\nhost=db\n")
    assert only("service=shop", PGSERVICEFILE="/nowhere", PGSYSCONFDIR=str(tmp_path)).host == "db"


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("db:5432:shop:clerk:p", "p"),
        ("*:*:*:*:p", "p"),
        (r"db:*:*:clerk:a\:b\\c", r"a:b\c"),
        ("db:*:*:*:a:b", "a:b"),
        ("other:*:*:*:p", ""),
        ("db:5433:*:*:p", ""),
        ("# db:*:*:*:p", ""),
        ("db:*:*:p", ""),
    ],
)
def test_a_password_is_looked_for_in_the_file_of_passwords(tmp_path, line, password):
    file = tmp_path / "pgpass"
    file.write_text(f"{line}\n")
    file.chmod(0o600)
    dsn = f"host=db user=clerk dbname=shop passfile={file}"
    assert only(dsn).password == password
    assert only(dsn, PGPASSWORD="known").password == "known"
    file.chmod(0o640)
    assert only(dsn).password == ""


def test_a_socket_in_a_usual_folder_is_localhost_in_the_file_of_passwords(tmp_path):
    file = tmp_path / "pgpass"
    file.write_text("localhost:*:*:*:p\n")
    file.chmod(0o600)
    assert only(f"host={files.SOCKET_FOLDERS[0]} user=clerk", PGPASSFILE=str(file)).password == "p"
    assert only("host=/elsewhere user=clerk", PGPASSFILE=str(file)).password == ""


def test_lists_of_hosts_have_lists_of_ports_or_one():
    assert [str(place) for place in places(completed(parse("user=me host=a,/b port=1,"), {}))] == [
        "a:1",
        "/b/.s.PGSQL.5432",
    ]
    assert [place.port for place in places(completed(parse("user=me host=a,b port=7"), {}))] == [7, 7]
    place = only("user=me host=db hostaddr=10.0.0.1")
    assert (place.host, place.address) == ("db", "10.0.0.1")
    for wrong in ("host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1"):
        with pytest.raises(Unaskable, match="different lengths"):
            only(f"user=me {wrong}")


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("channel_binding=require", "channel_binding needs a library that has libpq"),
        ("require_auth=scram-sha-256", "require_auth needs"),
        ("gssencmode=require", "gssencmode needs"),
        ("sslmode=never", "sslmode has an invalid value"),
        ("host=a port=0", "a port is no number"),
        ("host=a port=70000", "a port is no number"),
    ],
)
def test_what_can_not_be_met_is_one_line(dsn, text):
    with pytest.raises(Unaskable, match=text):
        only(f"user=me {dsn}")


def test_a_place_does_not_show_its_password():
    assert SECRET not in repr(only(f"user=me password={SECRET} sslpassword={SECRET}"))
