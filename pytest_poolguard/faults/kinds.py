"""The kinds of fault."""

from __future__ import annotations

__all__ = ["CANCEL", "ERROR", "KILL", "REFUSE"]

KILL = "kill"  #: the server ends the backend, right after the checkout
ERROR = "error"  #: a statement fails
CANCEL = "cancel"  #: the task that took it is cancelled, at its next await
REFUSE = "refuse"  #: the pool is exhausted when its holder asks for another one
