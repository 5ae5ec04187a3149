"""``python -m pytest_poolguard``: what can be done with the files of ``--poolguard-json``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from _pytest._io import TerminalWriter

from pytest_poolguard.books.origin import printable
from pytest_poolguard.options import STATISTICS
from pytest_poolguard.reports import json_file, statistics, summary
from pytest_poolguard.reports.reading import NotReadable, merged, read, tally_of

__all__ = ["main"]

PROGRAM = "python -m pytest_poolguard"
#: The exit code of a file that can't be read or written, as of a wrong command line.
WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code: 0, or 2 and one line on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "merge":
            merge(asked.files, asked.out)
        else:
            show(asked.file, asked.verbose)
            sys.stdout.flush()
    except NotReadable as error:
        sys.stderr.write(f"poolguard: {error}\n")
        return WRONG
    except BrokenPipeError:  # into `head`, say; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def merge(files: Sequence[str], out: str) -> None:
    """Make one file of several."""
    whole = merged([(file, read(file)) for file in files])
    try:
        json_file.write_plain(out, whole)
    except OSError as error:
        raise NotReadable(f"{printable(out)} can't be written: {error.strerror}") from None


def show(file: str, verbosity: int) -> None:
    """Print the summary of a file, as it stands at the end of a run."""
    screen = Screen()
    tally = tally_of(read(file))
    if tally.uses:
        statistics.write(screen, tally.uses, int(STATISTICS), verbosity)
    summary.write(screen, tally, verbosity)
    if not screen.has_written:
        screen.write_line("poolguard: nothing was found")


class Screen:
    """Standard output, as the summary wants it."""

    def __init__(self) -> None:
        self._writer = TerminalWriter(sys.stdout)
        self.has_written = False

    def write_sep(self, sep: str, title: str, **markup: bool) -> None:
        """Write a line with a title in its middle."""
        self.has_written = True
        self._writer.sep(sep, title, **markup)

    def write_line(self, line: str, **markup: bool) -> None:
        """Write a line."""
        self.has_written = True
        self._writer.line(line, **markup)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Merge or show the files of --poolguard-json.")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="{merge,show}")
    one = commands.add_parser("merge", help="make one file of those of several runs, the shards of a suite")
    one.add_argument("files", nargs="+", metavar="FILE")
    one.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to write")
    one = commands.add_parser("show", help="print the summary that a run has printed at its end")
    one.add_argument("file", metavar="FILE")
    one.add_argument("-v", "--verbose", action="count", default=0, help="all sites, and every finding")
    return parser
