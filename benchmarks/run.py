"""What pytest-poolguard costs, in comparisons made side by side in one run: see README.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys

import asyncpg
import asyncpg_pairs
import pairs
import psycopg2
import psycopg_pool_pairs
import pytest
import servers
import sqlalchemy_pairs
import suites
from rows import table

PAIRS = (pairs, psycopg_pool_pairs, asyncpg_pairs, sqlalchemy_pairs)


def main() -> int:
    """Measure, print, and with ``--check`` judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded")
    parser.add_argument("--pair-rounds", type=int, default=400, metavar="N", help="default: %(default)s")
    parser.add_argument("--suite-rounds", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", choices=("pairs", "empty", "database", "servers"), help="measure a part")
    arguments = parser.parse_args()

    print(
        f"pytest-poolguard {importlib.metadata.version('pytest-poolguard')}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"psycopg2 {psycopg2.__version__.split()[0]}, asyncpg {asyncpg.__version__}, "
        f"pytest {pytest.__version__}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    )
    print(
        f"pairs: the fastest of {arguments.pair_rounds} rounds; "
        f"runs: processor time, medians of {arguments.suite_rounds} rounds, ± one standard error\n"
    )
    measures = {
        "pairs": lambda: [row for library in PAIRS for row in library.rows(arguments.pair_rounds)],
        "empty": lambda: suites.empty_rows(arguments.suite_rounds),
        "database": lambda: suites.database_rows(arguments.suite_rounds),
        "servers": lambda: servers.rows(arguments.suite_rounds),
    }
    rows = [row for name, measure in measures.items() if arguments.only in (None, name) for row in measure()]
    print(table(rows))
    return 1 if arguments.check and any(row.within is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
