"""What every library's strikes can do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.patching import Patches

__all__ = ["FAILING", "OnStatement", "Strikes", "outermost", "replace_methods"]

#: What is run in a statement's place. The server refuses it as it refuses what a time limit stops: any statement
#: may meet with that.
FAILING = (
    "DO $poolguard$ BEGIN RAISE EXCEPTION 'canceling statement due to statement timeout (pytest-poolguard)' "
    "USING ERRCODE = '57014'; END $poolguard$"
)

#: Called before each statement with the connection as the ledger knows it: whether it is to fail.
OnStatement = Callable[[object], bool]


class Strikes(Protocol):
    """One library, while a test is repeated: from :meth:`begin` to :meth:`end`."""

    #: :meth:`discard` is called when a backend was ended, not when its connection comes back.
    discards_at_once: bool

    def begin(self, on_statement: OnStatement) -> None:
        """Hear of statements, and let some fail."""

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken."""

    def unfit(self, checkout: Checkout) -> str:
        """Why a connection can't be struck; empty where it can."""

    def discard(self, checkout: Checkout) -> None:
        """See to it that a pool does not hand out again a connection whose backend was ended."""

    def socket(self, connection: Any) -> int:
        """The file descriptor of a connection to the server."""

    def end(self) -> None:
        """Give everything back as it was."""


def outermost(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a replacement, so that it is replaced no second time."""
    method.poolguard_strikes = True  # type: ignore[attr-defined]
    return method


def replace_methods(
    patches: Patches,
    cls: type[Any],
    names: tuple[str, ...],
    replacement: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Replace those methods that a class has by itself."""
    for name in names:
        original = vars(cls).get(name)
        if callable(original) and not hasattr(original, "poolguard_strikes"):
            with contextlib.suppress(TypeError):  # a class of C's
                patches.replace(cls, name, outermost(replacement(original)))
