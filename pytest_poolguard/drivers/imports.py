"""Act on a module when it is first imported, without importing it.

A finder of our own on ``sys.meta_path``: import hooks of wrapper libraries miss reloads and imports after a
removal from ``sys.modules``, and can't be taken out again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["ImportWatch", "is_there"]

OnImport = Callable[[ModuleType], None]


class ImportWatch(MetaPathFinder):
    """Calls a function with each watched module, right after it was executed. The function must not raise."""

    def __init__(self, modules: Mapping[str, OnImport]) -> None:
        self._modules = {name: [on_import] for name, on_import in modules.items()}

    def add(self, name: str, on_import: OnImport) -> None:
        """Watch for one more module, or for one with one more function; it may be there already."""
        self._modules.setdefault(name, []).append(on_import)
        if self in sys.meta_path:
            _act_on_present(name, on_import)

    def install(self) -> None:
        """Watch imports from now on, and take note of the modules that are there already."""
        sys.meta_path.insert(0, self)
        for name, those in self._modules.items():
            for on_import in those:
                _act_on_present(name, on_import)

    def uninstall(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module as the other finders do, and put a loader in between."""
        if fullname not in self._modules:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _WatchedLoader(spec.loader, self._modules[fullname])
                return spec  # type: ignore[no-any-return]
        return None


def _act_on_present(name: str, on_import: OnImport) -> None:
    module = sys.modules.get(name)
    # Suites put mocks into sys.modules: those are nothing to patch.
    if isinstance(module, ModuleType) and getattr(module, "__spec__", None) is not None:
        on_import(module)


def is_there(name: str) -> bool:
    """Whether there is a module to import, as far as can be told without importing it or its package."""
    path: Any = None
    for depth in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:depth])
        spec: Any = None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = spec or (
                find(part, path) if find is not None and not isinstance(finder, ImportWatch) else None
            )
        if spec is None:
            return False
        path = spec.submodule_search_locations
        if path is None:  # no package: what is below it, it makes by itself
            return True
    return True


class _WatchedLoader(Loader):
    """The module's own loader, until the module runs."""

    def __init__(self, loader: Any, those: list[OnImport]) -> None:
        self._loader = loader
        self._those = those

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        # The module must not see us: code asks its loader for data files and source text.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for on_import in self._those:
            on_import(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
