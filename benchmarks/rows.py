"""One line of the result, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Row", "table"]

HEADER = ("what", "bare", "poolguard", "difference", "ratio", "limit", "within")


@dataclass(frozen=True)
class Row:
    """A comparison; the numbers as text, for each row has a unit of its own."""

    what: str
    bare: str
    guarded: str
    difference: str
    ratio: str
    limit: str = ""  #: empty for a row that only informs
    within: bool | None = None  #: None where there is no limit

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it."""
        within = {None: "", True: "yes", False: "NO"}[self.within]
        return (self.what, self.bare, self.guarded, self.difference, self.ratio, self.limit, within)


def table(rows: Iterable[Row]) -> str:
    """Align the rows, and put a heading above."""
    lines = [HEADER, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        ).rstrip()
        for cells in lines
    )
