"""What the documents say is true of the code, as far as a test can tell."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from documents import BLOCK, DOCUMENTS, ROOT, Printer, brought_up_to_date, comparable
from schema import SCHEMA

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import EXPECTED, FAILED, IGNORED, KNOWN, WARNED, Finding
from pytest_poolguard.fixture import PoolGuard
from pytest_poolguard.marker import ARGUMENTS
from pytest_poolguard.options import OPTIONS
from pytest_poolguard.pools_seen import PoolRow
from pytest_poolguard.reports.json_file import as_json, sites
from pytest_poolguard.server.census import Census, Visit
from pytest_poolguard.sizing.uses import Use
from pytest_poolguard.tally import Tally
from pytest_poolguard.this_run import ThisRun

PACKAGE = ROOT / "pytest_poolguard"
REWRITE = os.environ.get("POOLGUARD_REWRITE_DOCS")
EVERY_DOCUMENT = pytest.mark.parametrize(
    "document", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]
)


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells for cells in (re.split(r" +\| +", line) for line in lines)}


@pytest.fixture(scope="module")
def printer(quiet_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Printer:
    return Printer(quiet_dsn, tmp_path_factory.mktemp("steps"))


@pytest.mark.parametrize(
    "document", [pytest.param(p, id=p.name) for p in DOCUMENTS if BLOCK.search(p.read_text("utf-8"))]
)
def test_a_generated_block_is_what_is_printed(document, printer):
    """``python3 run.py docs`` rewrites what differs."""
    if document.name == "exhausted.md" and not hasattr(BaseException, "add_note"):
        pytest.skip("exceptions have no notes before Python 3.11: a section of the report tells it there")
    text = document.read_text("utf-8")
    now = brought_up_to_date(text, printer)
    if now == text:
        return
    if not REWRITE:
        changes = "\n".join(
            difflib.unified_diff(text.splitlines(), now.splitlines(), "written", "printed", "", "", 1)
        )
        pytest.fail(f"`python3 run.py docs` brings this up to date:\n{changes}", pytrace=False)
    document.write_text(now, "utf-8")


@EVERY_DOCUMENT
def test_every_block_of_output_is_generated(document):
    text = BLOCK.sub("", document.read_text("utf-8"))
    assert "<!-- generated" not in text
    for typed in ("never returned to", "hint:", " conns  tests", "FAILED tests"):
        assert not [b for b in re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) if typed in b]


def test_a_changed_output_is_seen_and_brought_up_to_date():
    class Changed(Printer):
        def _screen(self, run):
            return "= poolguard: 2 leaks =\n= 1 passed in 0.1s =\n"

    old = "# Title\n<!-- generated: shop, summary -->\n```text\n= poolguard: 1 leak =\n```\nMore.\n"
    assert brought_up_to_date(old, Changed("")) == old.replace("1 leak", "2 leaks")


def test_times_pids_and_versions_make_no_difference():
    one = "backend pid 12, idle for 3 ms, held for 1 min 2 s\n== 1 failed in 0.31s =="
    two = "backend pid 999, idle for 1.4 s, held for 3 min 4 s\n== 1 failed in 12.0s =="
    assert comparable(one) == comparable(two)
    assert comparable("idle for 3 ms") != comparable("active for 3 ms")


# links


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@EVERY_DOCUMENT
def test_relative_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target: Path = (document.parent / file) if file else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_every_page_is_linked_from_the_readme():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([^)#]+)", text_of("README.md")))


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 80


# the reference


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_in_the_reference_with_its_default(option):
    row = rows(text_of("docs/reference.md"))[f"`{option.flag}`"]
    default = ",".join(option.default) if isinstance(option.default, tuple) else option.default
    default = f"`{default}`" if default else "none"
    ini = f"`{option.name}`" if option.ini else "none"
    assert row[1:4] == [ini, f"`{option.env}`" if option.env else "none", default]


@EVERY_DOCUMENT
def test_no_other_option_is_spoken_of(document):
    flags = {option.flag for option in OPTIONS}
    assert set(re.findall(r"--poolguard[\w-]*", document.read_text("utf-8"))) <= flags


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_argument_of_the_marker_is_in_the_reference(argument):
    _, meaning = ARGUMENTS[argument]
    before, _, _ = text_of("docs/reference.md").partition(
        "## The JSON file"
    )  # which has a field of the same name
    assert rows(before)[f"`{argument}`"][1] == meaning


def test_every_property_of_the_fixture_is_in_the_reference():
    properties = {f"`{name}`" for name, value in vars(PoolGuard).items() if isinstance(value, property)}
    assert {name for name in properties if not name.startswith("`_")} <= set(rows(text_of("docs/reference.md")))


def test_every_field_of_the_json_file_is_in_the_reference():
    finding = Finding("checked_out", "psycopg2", "SimpleConnectionPool(1..2)", "test", "test_it").to_dict()
    fields = {*as_json(Tally()), *finding}
    fields |= {f"{part}.{name}" for part in ("owner", "pool") for name in finding[part]}
    fields -= {"owner", "pool"}
    for part in ("run", "pool", "use", "site", "server"):
        fields |= {*SCHEMA["$defs"][part]["properties"]}
    assert {f"`{name}`" for name in fields} <= set(rows(text_of("docs/reference.md")))


def test_the_schema_names_every_field_of_the_json_file_and_no_other():
    finding = Finding("checked_out", "psycopg2", "SimpleConnectionPool(1..2)", "test", "test_it").to_dict()
    for part, fields in (
        (SCHEMA, as_json(Tally())),
        (SCHEMA["$defs"]["run"], ThisRun("", "").to_dict()),
        (SCHEMA["$defs"]["pool"], PoolRow("", "").to_dict()),
        (SCHEMA["$defs"]["use"], Use("", "").to_dict()),
        (SCHEMA["$defs"]["finding"], {"run": "", **finding}),
        (SCHEMA["$defs"]["finding"]["properties"]["owner"], finding["owner"]),
        (SCHEMA["$defs"]["finding"]["properties"]["pool"], finding["pool"]),
        (SCHEMA["$defs"]["site"], sites([finding])[0]),
        (SCHEMA["$defs"]["server"], {"run": "", **Visit("").to_dict()}),
        (SCHEMA["$defs"]["census"], asdict(Census(0, 0, 0))),
        (SCHEMA["$defs"]["place"], asdict(Place("", 0, "", ""))),
    ):
        assert set(part["properties"]) == set(part["required"]) == set(fields)


@pytest.mark.parametrize("verdict", [FAILED, WARNED, EXPECTED, KNOWN, IGNORED])
def test_every_verdict_is_in_the_reference(verdict):
    assert f"`{verdict}`" in rows(text_of("docs/reference.md"))["`verdict`"][1]


# the architecture


def rooms() -> set[str]:
    files = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    return {file for file in files if not file.endswith("__init__.py")}


def named_rooms() -> list[str]:
    return [cell.strip("`") for cell in rows(text_of("docs/architecture.md")) if cell.endswith(".py`")]


def used_by(room: str) -> Iterator[str]:
    """The rooms that one imports from."""
    for node in ast.walk(ast.parse((PACKAGE / room).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name):
            path = str(node.module).partition(".")[2].replace(".", "/")
            inner = [f"{path}/{alias.name}.py".lstrip("/") for alias in node.names]
            yield from rooms().intersection([f"{path}.py", f"{path}/__init__.py", *inner])


def test_the_architecture_names_every_room_and_no_other():
    assert sorted(named_rooms()) == sorted(rooms())


def test_a_room_uses_only_rooms_that_stand_before_it():
    order = named_rooms()
    wrong = [(room, used) for room in order for used in used_by(room) if order.index(used) > order.index(room)]
    assert wrong == []
    assert {"drivers/interface.py", "drivers/psycopg2/blocking.py", "books/origin.py"} <= set(
        used_by("drivers/psycopg2/driver.py")
    )


def test_the_readme_of_the_benchmarks_tells_the_limits():
    from_code = (ROOT / "benchmarks/pairs.py").read_text("utf-8") + text_of("benchmarks/suites.py")
    readme = text_of("benchmarks/README.md")
    assert "MOST = 3.0\n" in from_code
    assert "3 µs" in readme
    assert "MOST = 2.0\n" in from_code
    assert "2 %" in readme
    assert "COUNTED = 1.0\n" in from_code
    assert "1 µs" in readme
    assert "PART = 0.1\n" in from_code
    assert "a tenth" in readme
