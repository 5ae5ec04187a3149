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

__all__ = ["ImportWatch"]

OnImport = Callable[[ModuleType], None]


class ImportWatch(MetaPathFinder):
    """Calls a function with each watched module, right after it was executed. The function must not raise."""

    def __init__(self, modules: Mapping[str, OnImport]) -> None:
        self._modules = modules

    def install(self) -> None:
        """Watch imports from now on, and take note of the modules that are there already."""
        sys.meta_path.insert(0, self)
        for name, on_import in self._modules.items():
            module = sys.modules.get(name)
            # Suites put mocks into sys.modules: those are nothing to patch.
            if isinstance(module, ModuleType) and getattr(module, "__spec__", None) is not None:
                on_import(module)

    def uninstall(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module as the other finders do, and put a loader in between."""
        on_import = self._modules.get(fullname)
        if on_import is None:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _WatchedLoader(spec.loader, on_import)
                return spec  # type: ignore[no-any-return]
        return None


class _WatchedLoader(Loader):
    """The module's own loader, until the module runs."""

    def __init__(self, loader: Any, on_import: OnImport) -> None:
        self._loader = loader
        self._on_import = on_import

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        # The module must not see us: code asks its loader for data files and source text.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._on_import(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
