"""The parts of the documents that are printed by real runs, not typed.

A comment in front of a block says where it comes from: ``<!-- generated: RUN, PART -->``. RUN is a name of
:data:`RUNS`; PART is ``screen``, ``all``, ``summary``, ``end``, ``report of TEST``, ``section of TEST``
``hint of TEST`` or ``note of TEST``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
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
    "hints": ("small/test_hints.py",),
    "children": ("small/test_children.py",),
    "session": ("small/test_session.py",),
    "no pool": ("small/test_no_pool.py",),
    "in-house": ("inhouse",),
    "locks": ("small/test_locks.py",),
    "selftest": ("--poolguard-selftest",),
}
BLOCK = re.compile(r"^<!-- generated: ([\w -]+), ([\w ]+) -->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from run to run, and what stands for it in a comparison.
VARIES = (
    (r"\b[\d.]+ (ms|s|min)\b *", "A WHILE"),
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
    """Runs the examples under poolguard, each once, on one server."""

    def __init__(self, dsn: str) -> None:
        foreign = ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "POOLGUARD_DSN", "FORCE_COLOR", "SHOP")
        foreign += ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
        env = {name: value for name, value in os.environ.items() if name not in foreign}
        # As on CI: pytest cuts nothing off there.
        self._env = env | {"POOLGUARD_TEST_DSN": dsn, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80", "CI": "true"}
        self.screen = cache(self._screen)

    def _screen(self, run: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "poolguard", "-p", "no:cacheprovider", *RUNS[run]],
            cwd=ROOT / "examples",
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
        name, _, test = part.partition(" of ")
        pattern = {
            "all": r"^(=+ (?:FAILURES|poolguard.*?) =+\n.*)",
            "summary": r"^(=+ poolguard.*?)^=+ (?:short test summary|\d+ passed)",
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
