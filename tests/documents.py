"""The parts of the documents that are printed by real runs, not typed.

A comment in front of a block says where it comes from: ``<!-- generated: RUN, PART -->``. RUN is a name of
:data:`RUNS` or :data:`STEPS`; PART is ``screen``, ``all``, ``summary``, ``table``, ``end``,
``report of TEST``, ``section of TEST``, ``hint of TEST``, ``note of TEST`` or ``file``, what a step has
written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md"))
    if not path.parent.name.startswith(".")
)

#: pytest's arguments, as a reader would type them in the folder ``examples``.
RUNS = {
    "shop": (),
    "orders": ("tests/test_orders.py",),
    "expected": ("small/test_expected.py",),
    "exhausted": ("small/test_exhausted.py",),
    "sizing": ("small/test_sizing.py", "--poolguard-stats=4"),
    "hints": ("small/test_hints.py",),
    "children": ("small/test_children.py",),
    "session": ("small/test_session.py",),
    "no pool": ("small/test_no_pool.py",),
    "in-house": ("inhouse",),
    "locks": ("small/test_locks.py",),
    "faults": ("faults", "--poolguard-faults=fail"),
    "selftest": ("--poolguard-selftest",),
}


def a_new_test(examples: Path) -> None:
    """Somebody adds the test that the page shows."""
    page = (ROOT / "docs/adopting.md").read_text("utf-8")
    (source,) = re.findall(r"^```python\n# tests/test_reports.py\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    (examples / "tests/test_reports.py").write_text(source, "utf-8")


def a_repair(examples: Path) -> None:
    """Somebody repairs one function, and the new test was not accepted."""
    (examples / "tests/test_reports.py").unlink()
    shutil.copy(examples / "fixed/shop/users.py", examples / "leaky/shop/users.py")


def another_repair(examples: Path) -> None:
    """Somebody repairs one function more."""
    shutil.copy(examples / "fixed/shop/orders.py", examples / "leaky/shop/orders.py")


BASELINE = "leaks.txt"
GATE = f"--poolguard-baseline={BASELINE}"
PYTEST = ("pytest", "-p", "poolguard", "-p", "no:cacheprovider")
POOLGUARD = "pytest_poolguard"
FIRST_HALF = ("tests/test_catalog.py", "tests/test_export.py", "tests/test_mailer.py", "tests/test_orders.py")
SECOND_HALF = ("tests/test_payments.py", "tests/test_users.py", "tests/test_vouchers.py")
#: Runs that follow each other in a copy of ``examples``: what is done before each, and pytest's arguments.
STEPS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "adopt first": (lambda _: None, ("--poolguard=warn",)),
    "adopt record": (lambda _: None, (GATE, "--poolguard-update-baseline")),
    "adopt gate": (a_new_test, (GATE, "-n2")),
    "adopt repaired": (a_repair, (GATE,)),
    "adopt strict": (lambda _: None, (GATE, "--poolguard-strict-baseline", "-n2")),
    "adopt updated": (lambda _: None, (GATE, "--poolguard-update-baseline")),
    "adopt shard": (another_repair, (GATE, "--poolguard-json=first.json", *FIRST_HALF)),
    "adopt other shard": (lambda _: None, (GATE, "--poolguard-json=second.json", *SECOND_HALF)),
    "adopt merge": (lambda _: None, (POOLGUARD, "merge", "first.json", "second.json", "-o", "all.json")),
    "adopt merged": (lambda _: None, (POOLGUARD, "show", "all.json")),
}
BLOCK = re.compile(r"^<!-- generated: ([\w -]+), ([\w ]+) -->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from run to run, and what stands for it in a comparison.
VARIES = (
    (r" *<?\b[\d.]+ (ms|s|min)\b *", "A WHILE"),
    (r"\bin [\d.]+s\b", "in A WHILE"),
    (r"\bpid \d+", "pid N"),
    (
        r"\b(psycopg2|psycopg|psycopg_pool|asyncpg|sqlalchemy|pytest|pytest-poolguard|Python) \d[\w.]*",
        r"\1 VERSION",
    ),
    (r"(poolguard: )\S+(: before this run )\d+ of \d+ connections in use(?: \([^)]*\))?", r"\1SERVER\2N"),
    (r"={3,}", "==="),
    (r"_{3,}", "___"),
)


class Printer:
    """Runs the examples under poolguard, each once, on one server; ``folder`` takes the copy for the steps."""

    def __init__(self, dsn: str, folder: Path = ROOT) -> None:
        self._copy = folder / "examples"
        self._written: dict[str, str] = {}
        foreign = ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "POOLGUARD_DSN", "FORCE_COLOR", "SHOP")
        foreign += ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
        env = {name: value for name, value in os.environ.items() if name not in foreign}
        # As on CI: pytest cuts nothing off there.
        self._env = env | {"POOLGUARD_TEST_DSN": dsn, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80", "CI": "true"}
        self.screen = cache(self._screen)

    def _screen(self, run: str) -> str:
        if run in RUNS:
            return self._run(ROOT / "examples", RUNS[run])
        names = list(STEPS)
        if run == names[0]:
            shutil.copytree(ROOT / "examples", self._copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            self.screen(names[names.index(run) - 1])
        prepare, arguments = STEPS[run]
        prepare(self._copy)
        screen = self._run(self._copy, arguments)
        if (self._copy / BASELINE).exists():
            self._written[run] = (self._copy / BASELINE).read_text("utf-8")
        return screen

    def _run(self, folder: Path, arguments: tuple[str, ...]) -> str:
        module = () if arguments[:1] == (POOLGUARD,) else PYTEST
        done = subprocess.run(
            [sys.executable, "-m", *module, *arguments],
            cwd=folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        # The server's own folder is as good as any for a reader.
        return re.sub(r"\S*poolguard-\w+/data(?=:\d)", "/run/postgresql", done.stdout)

    def part(self, run: str, part: str) -> str:
        """One part of what a run prints; raises ValueError where the run prints no such thing."""
        screen = self.screen(run)
        if part == "file":
            return self._written[run]
        name, _, test = part.partition(" of ")
        pattern = {
            "all": r"^(=+ (?:FAILURES|poolguard.*?) =+\n.*)",
            "summary": r"^(=+ poolguard.*?)^=+ (?:short test summary|\d+ passed)",
            "table": r"^( conns  tests .*?)^=+ ",
            "screen": r"(.*)",
            "end": r"^=+ short test summary info =+\n(.*)",
            "report": rf"^_+ {test} _+\n(.+?)^(?:__|==|--)",
            "section": rf"^_+ {test} _+\n.+?^(-+ poolguard: .+?)^(?:__|==|--)",
            "note": rf"^_+ {test} _+\n.+?((?:^E [^\n]*\n)+)",
            "hint": rf"^_+ {test} _+\n.+?((?:^  (?:note|hint): [^\n]+\n)+)",
        }.get(name)
        found = re.search(pattern, screen, re.MULTILINE | re.DOTALL) if pattern else None
        if found is None:
            raise ValueError(f"no {part!r} in the run {run!r}, which printed:\n{screen}")
        if name == "all":
            return " ".join(("$ pytest -p poolguard", *RUNS[run])) + "\n…\n" + found[1]
        if name == "note":
            return textwrap.dedent(re.sub("^E", " ", found[1], flags=re.MULTILINE))
        return textwrap.dedent(found[1]) if name == "hint" else found[1]


def comparable(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, stands_for_it in VARIES:
        text = re.sub(pattern, stands_for_it, text)
    return text


def brought_up_to_date(text: str, printer: Printer) -> str:
    """A document with its generated blocks as they would be printed now; those that still hold stay."""

    def block(found: re.Match[str]) -> str:
        run, part, old = found.groups()
        new = printer.part(run, part)
        if comparable(new) == comparable(old):
            return found[0]
        return f"<!-- generated: {run}, {part} -->\n```text\n{new}```"

    return BLOCK.sub(block, text)
