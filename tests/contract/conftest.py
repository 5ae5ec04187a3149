"""Suites that run on each of the libraries."""

from __future__ import annotations

from collections.abc import Callable

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import greenlet  # noqa: F401
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql
import sqlalchemy.ext.asyncio  # noqa: F401

from contract.libraries import LIBRARIES, Library


@pytest.fixture(params=LIBRARIES, ids=lambda library: f"{library.name}-{library.pool_class}")
def lib(request) -> Library:
    return request.param


@pytest.fixture
def run(suite, lib) -> Callable:
    """Run a suite that has a module-scoped ``pool`` of 2."""
    # Python 3.11 breaks where greenlets are collected while it parses (python/cpython#106905): not this process.
    has_greenlets = lib.is_async and lib.collects

    def run(source: str, *args: str, size: int = 2, subprocess: bool = has_greenlets):
        if lib.module:
            suite.file(f"{lib.name.partition(':')[0]}.py", lib.module)
        return suite.run(source, *lib.arguments, *args, header=lib.header(size), subprocess=subprocess)

    return run
