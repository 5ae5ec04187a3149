"""From a leak that followed a fault to what is told of it."""

from __future__ import annotations

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.describe import Describe
from pytest_poolguard.faults.kinds import CANCEL, REFUSE
from pytest_poolguard.faults.spots import Spots
from pytest_poolguard.faults.strike import Strike
from pytest_poolguard.findings import ERROR_PATH, Finding

__all__ = ["tell"]


def tell(
    finding: Finding,
    checkout: Checkout,
    strike: Strike,
    error: BaseException | None,
    is_stuck: bool,
    spots: Spots,
    describe: Describe,
) -> Finding:
    """Turn a leak into a leaking error path; ``error`` is what the repeat ended with."""
    finding.kind = ERROR_PATH
    finding.fault = strike.kind
    cause = _root(error if not is_stuck else None)  # else it is what has ended the test
    felt = spots.felt(cause)
    finding.struck_at = strike.struck_at or felt or finding.acquired
    finding.followed = redacted(printable(_in_words(cause))) if cause is not None else ""
    finding.hint = describe.cure(checkout) or finding.hint
    finding.ended, finding.thread_place = "", None
    finding.server = {}
    finding.note = finding.note if strike.kind in (CANCEL, REFUSE) or checkout.dropped else ""
    if is_stuck:
        finding.note = "the test hung after that, and was ended"
    return finding


def _root(error: BaseException | None) -> BaseException | None:
    """The first one of a chain: what the code under test makes of it comes later."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        before = error.__cause__ or error.__context__
        if before is None:
            inner = getattr(error, "exceptions", ())  # those of a group
            before = inner[0] if inner else None
        if before is None:
            break
        error = before
    return error


def _in_words(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
