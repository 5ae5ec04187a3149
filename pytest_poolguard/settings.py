"""The options in force: what the command line, the ini file and the environment say."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pytest_poolguard.baseline.ignoring import Ignored
from pytest_poolguard.naming import PoolClass
from pytest_poolguard.option_values import a_file
from pytest_poolguard.options import OPTIONS, Option

__all__ = ["Settings", "add_options", "read_settings", "runs_no_test"]

#: Options with which pytest runs no test.
SHOWING = ("collectonly", "showfixtures", "show_fixtures_per_test")


class Settings(NamedTuple):
    """The options in force."""

    mode: str
    grace: float
    timeout: float | None
    statement_timeout: float | None
    idle_in_transaction_timeout: float | None
    connections: str
    open_pools: str
    pools: tuple[PoolClass, ...]
    dirty_returns: str
    nested: str
    dialects: tuple[str, ...]
    server: str
    dsn: str
    show_sql: str
    terminate: bool
    dump_signal: str
    baseline: str
    update_baseline: bool
    strict_baseline: bool
    ignore: tuple[Ignored, ...]
    faults: str
    faults_budget: float | None
    faults_only: str
    stats: int | None
    json: str
    selftest: bool


def add_options(parser: pytest.Parser) -> None:
    """Declare every option, as flag and as ini key."""
    group = parser.getgroup("poolguard", "connection leaks (pytest-poolguard)")
    for option in OPTIONS:
        given: dict[str, Any] = {"metavar": option.metavar}
        if option.is_switch:
            given = {"action": "store_const", "const": "true"}
        elif option.bare:
            given |= {"nargs": "?", "const": option.bare}
        group.addoption(option.flag, dest=option.name, default=None, help=option.help, **given)
        if option.ini:
            parser.addini(option.name, option.help, type=option.ini, default=None)


def read_settings(config: pytest.Config, flags: Any) -> Settings:
    """The options in force: the flag, else the ini key, else the environment, else the default.

    ``flags`` is the namespace of parsed flags: before the first conftest is loaded, it is not in the config
    yet. Raises :class:`pytest.UsageError` where a value is not allowed.
    """
    values = {option.field: _value(option, config, flags) for option in OPTIONS}
    for name in ("update_baseline", "strict_baseline"):
        if values[name] and not values["baseline"]:
            flag = f"--poolguard-{name.replace('_', '-')}"
            raise pytest.UsageError(
                f"poolguard: {flag}: there is no baseline; name it with --poolguard-baseline=FILE"
            )
    if values["update_baseline"]:
        _parsed("--poolguard-baseline", a_file, values["baseline"])
    return Settings(**values)


def _value(option: Option, config: pytest.Config, flags: Any) -> Any:
    from_ini = _one_text(config.getini(option.name)) if option.ini else None
    if from_ini and option.is_kept_with_the_suite and getattr(config, "inipath", None) is not None:
        from_ini = os.path.join(os.path.dirname(config.inipath or ""), from_ini)
    sources = (
        (option.flag, getattr(flags, option.name, None)),
        (f"ini key {option.name}", from_ini),
        (f"environment variable {option.env}", (os.environ.get(option.env) or None) if option.env else None),
    )
    for source, text in sources:
        if text is not None:
            return _parsed(source, option.parse, str(text))
    return option.default


def _parsed(source: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise pytest.UsageError(f"poolguard: {source}: {error}") from None


def _one_text(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, list) else value


def runs_no_test(config: pytest.Config) -> bool:
    """Whether pytest only shows something."""
    return any(config.getoption(name, False) for name in SHOWING)
