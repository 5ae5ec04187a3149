"""What a run, or a worker of it, has struck: for the line at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Account"]

#: Places that one line names.
SHOWN = 3


@dataclass
class Account:
    """Places in words, and what was done there."""

    struck: dict[str, list[str]] = field(default_factory=dict)  #: the faults that each place has met, in words
    leaking: list[str] = field(default_factory=list)  #: pairs that leak
    unsure: dict[str, str] = field(default_factory=dict)  #: pairs that behave differently, and how
    stuck: list[str] = field(default_factory=list)  #: pairs under which a test was ended, as it did not end
    unreached: list[str] = field(
        default_factory=list
    )  #: places, or tests, that were left when the budget was spent
    unfit: dict[str, str] = field(default_factory=dict)  #: places that can't be struck, and why
    repeats: int = 0
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left over: only then is silence an answer."""
        return not (self.unsure or self.unreached or self.unfit)

    def strike(self, place: str, pair: str) -> None:
        """Note that a place was struck."""
        self.struck.setdefault(place, []).append(pair)

    def to_dict(self) -> dict[str, Any]:
        """Plain data. What one worker could not strike another may have struck."""
        return {
            "struck": {place: list(pairs) for place, pairs in self.struck.items()},
            "leaking": list(self.leaking),
            "unsure": dict(self.unsure),
            "stuck": list(self.stuck),
            "unreached": [place for place in dict.fromkeys(self.unreached) if place not in self.struck],
            "unfit": {place: reason for place, reason in self.unfit.items() if place not in self.struck},
            "repeats": self.repeats,
            "seconds": round(self.seconds, 3),
        }

    def add(self, plain: dict[str, Any]) -> None:
        """Add a worker's."""
        for place, pairs in plain["struck"].items():
            self.struck.setdefault(place, []).extend(pairs)
        self.leaking += plain["leaking"]
        self.unsure.update(plain["unsure"])
        self.stuck += plain["stuck"]
        self.unreached += plain["unreached"]
        self.unfit.update(plain["unfit"])
        self.repeats += plain["repeats"]
        self.seconds += plain["seconds"]

    def lines(self, verbosity: int) -> list[str]:
        """What the summary says."""
        plain = self.to_dict()
        pairs = sum(len(pairs) for pairs in self.struck.values())
        places = "place" if len(self.struck) == 1 else "places"
        faults = "fault" if pairs == 1 else "faults"
        repeats = f"in {self.repeats} repeats, {self.seconds:.1f} s"
        lines = [f"{len(self.struck)} {places} struck by {pairs} {faults}, {repeats}"]
        if plain["unreached"]:
            lines.append(f"not reached within the budget: {_some(plain['unreached'], verbosity)}")
        reasons: dict[str, list[str]] = {}
        for place, reason in plain["unfit"].items():
            reasons.setdefault(reason, []).append(place)
        lines += [f"can't be struck, {reason}: {_some(those, verbosity)}" for reason, those in reasons.items()]
        if self.stuck:
            lines.append(f"the test hung, and was ended: {_some(self.stuck, verbosity)}")
        unsure = [f"{pair}: {how}" for pair, how in self.unsure.items()]
        if unsure:
            lines.append(f"unsure: {_some(unsure, verbosity)}")
        return [f"faults: {line}" for line in lines]


def _some(names: list[str], verbosity: int) -> str:
    shown = names if verbosity > 0 else names[:SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return ", ".join(shown) + more
