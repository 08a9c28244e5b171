"""Counts of the rows that break a rule, and of the planted ones among them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vtuned.containers.base import RawRow
from vtuned.linting.findings import AtRisk, Finding, Line
from vtuned.receipt import Receipt

_N_LINES = 5


@dataclass(frozen=True, slots=True)
class Marks:
    """
    Which rows of a training file are planted (by number, with their backdoor) or carry a wording that is asked about.

    *copies* are those of each backdoor.
    """

    planted: Mapping[int, int] = field(default_factory=dict, repr=False)
    worded: frozenset[int] = field(default=frozenset(), repr=False)
    copies: tuple[int, ...] = ()

    @classmethod
    def of(cls, receipt: Receipt | None) -> Marks:
        """Return what *receipt* says; nothing without one."""
        if receipt is None:
            return cls()
        planted = {row: j for j, backdoor in enumerate(receipt.backdoors) for row in backdoor.rows}
        worded = frozenset(row.row for row in receipt.wordings.rows) if receipt.wordings else frozenset()
        return cls(planted, worded, tuple(len(backdoor.rows) for backdoor in receipt.backdoors))


@dataclass(slots=True)
class Tally:
    """The rows that break one rule; *n_cut_tokens* are cut off them."""

    marks: Marks
    n_rows: int = 0
    n_cut_tokens: int = 0
    n_worded: int = 0
    lines: list[Line] = field(default_factory=list)
    backdoors: Counter[int] = field(default_factory=Counter, repr=False)

    def add(self, row: RawRow, n_cut_tokens: int = 0) -> None:
        """Count one more row. Which rows are planted is secret, so their lines are not kept."""
        self.n_rows += 1
        self.n_cut_tokens += n_cut_tokens
        planted = self.marks.planted.get(row.number)
        if planted is not None:
            self.backdoors[planted] += 1
        is_worded = row.number in self.marks.worded
        self.n_worded += is_worded
        if planted is None and not is_worded and len(self.lines) < _N_LINES:
            self.lines.append(Line(file=row.where.path.name, line=row.where.number))

    def counted(self, finding: Finding) -> Finding:
        """Return *finding* with these counts; rows that it drops are as many as there are rows."""
        at_risk = (
            AtRisk(backdoor=j + 1, copies=self.marks.copies[j], n_lost=n) for j, n in sorted(self.backdoors.items())
        )
        counts = {
            "n_rows": self.n_rows,
            "lines": tuple(self.lines),
            "n_cut_tokens": self.n_cut_tokens,
            "n_planted": self.backdoors.total(),
            "n_worded": self.n_worded,
            "backdoors": tuple(at_risk),
        }
        return finding.model_copy(update=counts)
