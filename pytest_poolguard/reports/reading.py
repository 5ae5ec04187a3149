"""Read what ``json_file`` has written, and make one file of those of several runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pytest_poolguard.books.origin import Place, printable
from pytest_poolguard.findings import Finding
from pytest_poolguard.pools_seen import PoolRow, gathered
from pytest_poolguard.reports.json_file import FORMAT, VERSION, sites
from pytest_poolguard.server.census import Census, Visit
from pytest_poolguard.sizing.uses import Use, gathered_uses
from pytest_poolguard.tally import Tally

if TYPE_CHECKING:
    from pytest_poolguard.faults.account import Account

__all__ = ["NotReadable", "merged", "read", "tally_of"]

#: The fields of a finding that this version knows.
FINDING = tuple(Finding("", "", "", "", "").to_dict())
PLACE = frozenset(Place.__dataclass_fields__)
#: What is told for each run.
LISTS = ("runs", "servers", "findings", "refusals")
#: What is told once, however many runs say so.
TOLD_ONCE = ("libraries", "unwatched", "notices", "errors", "faults")


class NotReadable(Exception):  # noqa: N818 - it is no error of the program that meets it
    """A file is none of ours, or of no use here; the text says why, on one line."""


def read(path: str) -> dict[str, Any]:
    """What a file holds; raises :class:`NotReadable`, whose text names the file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            plain = json.load(file)
    except OSError as error:
        raise NotReadable(f"{printable(path)} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        text = printable(f"{type(error).__name__}: {error}")
        raise NotReadable(f"{printable(path)} is not JSON ({text})") from None
    try:
        _refuse(plain)
        tally_of(plain)
    except NotReadable as error:
        raise NotReadable(f"{printable(path)} {error}") from None
    except Exception as error:  # anything may be missing, or be something else
        text = printable(f"{type(error).__name__}: {error}")
        raise NotReadable(f"{printable(path)} is damaged ({text})") from None
    return plain  # type: ignore[no-any-return]


def _refuse(plain: Any) -> None:
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise NotReadable("was not written by --poolguard-json")
    version = plain.get("version")
    if not isinstance(version, int) or version < 1:
        raise NotReadable("was not written by --poolguard-json: its version is no number")
    if version > VERSION:
        raise NotReadable(
            f"has version {version} of the format, a newer one than this pytest-poolguard can read ({VERSION})"
        )


def tally_of(plain: dict[str, Any]) -> Tally:
    """What a file tells, as its run had it. Nothing of it has been told by a failure: there are none here."""
    findings = [_finding(finding) for finding in plain["findings"]]
    rows = [_row(row) for row in plain["pools"]]
    tally = Tally(
        pools=sum(row.count for row in rows),
        pool_rows=rows,
        taken=int(plain["checkouts"]),
        uses=[_use(use) for use in plain["uses"]],
        patched=list(plain["libraries"]),
        unwatched=list(plain["unwatched"]),
        visits=[_visit(visit) for visit in plain["servers"]],
        refusals=list(plain["refusals"]),
        notices=[notice for notice in plain["notices"] if notice not in plain["unwatched"]],
        errors=list(plain["errors"]),
        faults=list(plain["faults"]),
        marked=dict(plain["markers"]),
        account=_account([plain]),
    )
    for row in rows:  # in one of the pools lie all that lie in any
        idle = [row.idle] + [0] * (row.open - 1)
        tally.open_pools += [(row.made_at, count) for count in idle[: row.open]]
    tally.findings, tally.untold = findings, list(findings)
    return tally


# A later release may have written more fields than this one knows.


def _finding(plain: dict[str, Any]) -> Finding:
    return Finding.from_dict({name: _known(plain[name]) for name in FINDING})


def _account(plains: list[dict[str, Any]]) -> Account | None:
    told = [plain["struck"] for plain in plains if plain.get("struck") is not None]
    if not told:
        return None
    from pytest_poolguard.faults.account import Account  # noqa: PLC0415 - few runs strike faults

    account = Account()
    for plain in told:
        account.add(plain)
    return account


def _row(plain: dict[str, Any]) -> PoolRow:
    return PoolRow.from_dict(_known(plain))


def _use(plain: dict[str, Any]) -> Use:
    return Use.from_dict(_known(plain))


def _visit(plain: dict[str, Any]) -> Visit:
    known = _only(Visit, plain)
    for name in ("before", "after"):
        known[name] = _only(Census, known[name]) if known[name] is not None else None
    return Visit.from_dict(known)


def _known(value: Any) -> Any:
    """The value with nothing but what is known in its places."""
    if isinstance(value, list):
        return [_known(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() >= PLACE:
        return _only(Place, value)
    return {name: _known(one) for name, one in value.items()}


def _only(cls: Any, plain: dict[str, Any]) -> dict[str, Any]:
    return {name: plain[name] for name in cls.__dataclass_fields__}


def merged(files: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One file of several, each with its name: shards of a suite, say. Raises :class:`NotReadable`.

    What is counted is added up; each finding and server bears the id of its run.
    """
    files = list(files)
    seen: dict[str, str] = {}
    for name, plain in files:
        for run in plain["runs"]:
            if run["id"] in seen:
                both = f"{printable(seen[run['id']])} and {printable(name)}"
                raise NotReadable(f"{both} have the same run in them, {printable(str(run['id']))}")
            seen[run["id"]] = name
    plains = [plain for _, plain in files]
    whole = plains[0] | {
        name: [one for plain in plains for one in plain[name]]
        for name in ("runs", "servers", "findings", "refusals")
    }
    for name in TOLD_ONCE:
        whole[name] = list(dict.fromkeys(one for plain in plains for one in plain[name]))
    rows = gathered(_row(row) for plain in plains for row in plain["pools"])
    whole["pools"] = [row.to_dict() for row in rows]
    uses = gathered_uses(_use(use) for plain in plains for use in plain["uses"])
    whole["uses"] = [use.to_dict() for use in uses]
    whole["checkouts"] = sum(plain["checkouts"] for plain in plains)
    whole["sites"] = sites(whole["findings"])
    whole["markers"] = {}
    for plain in plains:  # a function's tests may be in several shards
        for function, needed in plain["markers"].items():
            whole["markers"][function] = needed or whole["markers"].get(function, False)
    account = _account(plains)
    whole["struck"] = account.to_dict() if account is not None else None
    return whole
