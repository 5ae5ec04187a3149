"""What a hint calls the things that are done with SQLAlchemy's pools: that depends on what took a connection."""

from __future__ import annotations

from typing import Any

from pytest_poolguard.drivers.interface import Terms
from pytest_poolguard.records import Checkout

__all__ = ["terms_of"]


def terms_of(pool: Any, checkout: Checkout | None) -> Terms:
    """The words for a checkout."""
    word = "async " if getattr(getattr(pool, "_dialect", None), "is_async", False) else ""
    return Terms(
        take="connect",
        give="close",
        close="dispose",
        cure=f"use `{word}with engine.connect() as conn:`",
        discard="invalidate()",
    )
