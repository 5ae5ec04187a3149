"""What is told of a run itself: which one it is, what took part in it, and whether it came to its end."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import pytest

from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.options import OPTIONS
from pytest_poolguard.settings import Settings

__all__ = ["ThisRun", "in_force", "now", "own_version"]

#: Plugins that decide how tests are run, told where they take part.
PLUGINS = {"xdist": "pytest-xdist", "rerunfailures": "pytest-rerunfailures", "asyncio": "pytest-asyncio"}


@dataclass
class ThisRun:
    """One run of pytest; several are told of where files were merged."""

    id: str  #: one for each run, all of its workers included
    began: str  #: a moment in UTC, as ISO 8601 writes it
    versions: dict[str, str] = field(default_factory=dict)  #: of Python, pytest and what else took part
    options: dict[str, Any] = field(default_factory=dict)  #: those in force, by their ini keys
    exit_code: int | None = None  #: None where pytest had none to tell yet
    finished: bool = False  #: it came to its end: nothing stopped it, and no worker was lost

    def know_versions(self, config: pytest.Config, libraries: list[str]) -> None:
        """Note what took part; ``libraries`` have their version behind their name."""
        self.versions = {
            "python": platform.python_version(),
            "pytest": pytest.__version__,
            "pytest-poolguard": own_version(),
        }
        for plugin, name in PLUGINS.items():
            if config.pluginmanager.hasplugin(plugin):
                self.versions[name] = _installed(name)
        for library in libraries:
            name, _, version = library.partition(" ")
            self.versions[name] = version

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def in_force(settings: Settings) -> dict[str, Any]:
    """Every option by its ini key, as plain data. A DSN may hold a password: it is told that there is one."""
    plain = {option.name: _plain(getattr(settings, option.field)) for option in OPTIONS}
    plain["poolguard_dsn"] = "***" if settings.dsn else ""
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        parts = getattr(value, "_asdict", None)
        if parts is not None:
            return {name: _plain(part) for name, part in parts().items()}
        return [_plain(part) for part in value]
    return redacted(value) if isinstance(value, str) else value


def now() -> str:
    """The present moment in UTC, as ISO 8601 writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def own_version() -> str:
    """The version of pytest-poolguard."""
    return _installed("pytest-poolguard")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
