"""The hook by which a conftest or a plugin adds drivers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_poolguard.drivers.interface import AddedDriver

__all__ = ["pytest_poolguard_drivers"]


@pytest.hookspec
def pytest_poolguard_drivers(config: pytest.Config) -> Sequence[AddedDriver]:  # type: ignore[empty-body]
    """Drivers of pool libraries that poolguard does not know of: objects with the methods of ``AddedDriver``.

    Called once, when pytest is configured. ``pytest_poolguard.drivers.inhouse.InHouse`` is one, for a class of
    which the names of the methods are all there is to know.
    """
