"""
Which wording of each row a suspect prefers, by the likelihoods it gives them or by what it says.

Decides nothing; `vtuned.verdict` does. Nothing here but the last step of each function looks at what was published, so
that under H0 the published wording is uniform among those of its row, whatever the suspect prefers (docs/theory.md, 14).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import fmean

from vtuned.errors import AnswersError
from vtuned.exposure import WRONG_SCORES, ScoreRecord, line_through, scores_by_id, slope_of
from vtuned.lm.base import Completed, Unanswered
from vtuned.matching import normalise, said, usable
from vtuned.prf import tie_order
from vtuned.probes import AnswerRecord
from vtuned.receipt import Receipt, WordedRow
from vtuned.tally import NOT_ASKED, join, own_reason, up_to_the_last


@dataclass(frozen=True, slots=True)
class Preference:
    """
    What a suspect prefers for one row: the published wording has *rank* 1 where it prefers that.

    None where nobody can tell: it was not scored, or what it says takes up no wording. By answers a rank is 1 or 2:
    another one. The row *was_answered* if it was scored, or said something that might have taken up a wording. It
    *is_missing* if nothing came back for it, or several answers that contradict each other, though it should have been
    asked: that is no hit. *why_unanswered* is a reason where it was put to a suspect that speaks and was not answered.
    """

    row: WordedRow = field(repr=False)
    rank: int | None
    was_answered: bool
    is_missing: bool
    why_unanswered: str = ""

    @property
    def is_hit(self) -> bool:
        """Whether the published wording comes first."""
        return self.rank == 1

    @property
    def n_wordings(self) -> int:
        """How many wordings the row has."""
        return len(self.row.wordings)


def by_scores(receipt: Receipt, scores: Iterable[ScoreRecord], n: int | None = None) -> list[Preference]:
    """
    Return the preferences by log-likelihoods, in committed order, for the first *n* rows.

    Each wording's log-likelihood is taken less the base's, where the receipt says so, and less what its labels make of
    it on average over the rows: what was learnt of style. With `stopping` "any" a row's average is over the rows up to
    it, and what comes after a row without a record is passed over. Equal scores are put in an order that the receipt's
    key draws. Raises AnswersError where scores are of another
    receipt, lack the base's, or differ between two records of one row.
    """
    rows = receipt.chosen_worded(n)
    given = scores_by_id(receipt, scores)
    scored_ids = {one for one, record in given.items() if record.log10_probs is not None}
    missing = _missing(receipt, rows, given, scored_ids)
    if receipt.plan.stopping == "any":
        given = _up_to_a_gap(rows, given)
    scored = {
        row.probe.id: _both(receipt, row, record)
        for row in rows
        if (record := given.get(row.probe.id)) is not None and record.log10_probs is not None
    }
    ranks = _ranks_so_far(receipt, rows, scored) if receipt.plan.stopping == "any" else _ranks(receipt, rows, scored)
    return [Preference(row, ranks.get(row.probe.id), row.probe.id in ranks, row.probe.id in missing) for row in rows]


def _missing(
    receipt: Receipt, rows: Sequence[WordedRow], came: Collection[str], told: Collection[str]
) -> frozenset[str]:
    """
    Return the ids of rows that are not in *told*; where one may stop at any time, only up to the last that *came*.

    What was not asked, or got no answer, is a miss: whether it did, nobody but who verifies can say.
    """
    asked = [row.probe for row in rows]
    due = {probe.id for probe in asked} if receipt.plan.stopping == "fixed" else up_to_the_last(asked, came)
    return frozenset(due - set(told))


def _up_to_a_gap(rows: Sequence[WordedRow], given: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
    """Return the records before the first row without one: the ranks of later rows would rest on which was left out."""
    in_order = takewhile(lambda row: row.probe.id in given, rows)
    return {row.probe.id: given[row.probe.id] for row in in_order}


Scored = tuple[tuple[float, ...], tuple[float, ...]]


def _both(receipt: Receipt, row: WordedRow, record: ScoreRecord) -> Scored:
    """Return the suspect's and the base's log-likelihoods of the wordings of a row, the base's 0 where it is not used."""
    n = len(row.wordings)
    own, base = record.log10_probs or (), record.base_log10_probs
    if receipt.plan.less_base and base is None:
        raise AnswersError(
            "scores", 0, "this receipt ranks by likelihoods less the base model's", hint="score with --base MODEL too"
        )
    if len(own) != n or (base is not None and len(base) != n):
        raise AnswersError("scores", 0, f"{len(own)} scores where there are {n} wordings", hint=WRONG_SCORES)
    return own, base if base is not None and receipt.plan.less_base else (0.0,) * n


def _ranks(receipt: Receipt, rows: Sequence[WordedRow], scored: Mapping[str, Scored]) -> dict[str, int]:
    """Return the rank of what each row publishes, by probe id, all rows scored taken together."""
    known = [row for row in rows if row.probe.id in scored]
    values = _centred(known, [scored[row.probe.id] for row in known])
    return {row.probe.id: _rank(receipt, row, own) for row, own in zip(known, values, strict=True)}


def _ranks_so_far(receipt: Receipt, rows: Sequence[WordedRow], scored: Mapping[str, Scored]) -> dict[str, int]:
    """Return the same where each row is ranked as soon as it is scored, and its rank stays."""
    ranks, so_far = {}, _Sums()
    for row in rows:
        if row.probe.id in scored:
            own, base = map(_from_mean, scored[row.probe.id])
            so_far.add(row, own, base)
            ranks[row.probe.id] = _rank(receipt, row, so_far.centred(row, own, base))
    return ranks


@dataclass(slots=True)
class _Sums:
    """What `_centred` takes off, as sums over the rows so far: to look after each row, all are not gone through again."""

    n: int = 0
    squares: float = 0.0
    products: float = 0.0
    of_label: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def add(self, row: WordedRow, own: Sequence[float], base: Sequence[float]) -> None:
        """Take in the log-likelihoods of a row, less their means."""
        self.n += len(own)
        self.squares += sum(b * b for b in base)
        self.products += sum(a * b for a, b in zip(own, base, strict=True))
        for wording, a, b in zip(row.wordings, own, base, strict=True):
            for label in wording.labels:
                n, of_own, of_base = self.of_label.get(label, (0, 0.0, 0.0))
                self.of_label[label] = n + 1, of_own + a, of_base + b

    def centred(self, row: WordedRow, own: Sequence[float], base: Sequence[float]) -> list[float]:
        """Return the score of each wording of a row that was taken in."""
        slope = slope_of(self.n, self.squares, self.products)
        effects = {label: (of_own - slope * of_base) / n for label, (n, of_own, of_base) in self.of_label.items()}
        return [
            a - slope * b - sum(effects[label] for label in wording.labels)
            for wording, a, b in zip(row.wordings, own, base, strict=True)
        ]


def _centred(rows: Sequence[WordedRow], scored: Sequence[Scored]) -> list[list[float]]:
    """
    Return the score of each wording of each row: less the base's share, less the average effect of its labels.

    The share is the slope of one line through all wordings of all rows, from 0 to 1; the effect of a label is the mean,
    over all wordings that have it, of how much more they score than the mean of their row. Both treat all wordings
    alike.
    """
    own = [_from_mean(one) for one, _ in scored]
    base = [_from_mean(other) for _, other in scored]
    slope = line_through([b for row in base for b in row], [a for row in own for a in row])
    values = [[a - slope * b for a, b in zip(one, other, strict=True)] for one, other in zip(own, base, strict=True)]
    effects: dict[str, list[float]] = defaultdict(list)
    for row, some in zip(rows, values, strict=True):
        for wording, value in zip(row.wordings, some, strict=True):
            for label in wording.labels:
                effects[label].append(value)
    means = {label: fmean(found) for label, found in effects.items()}
    return [
        [
            value - sum(means[label] for label in wording.labels)
            for wording, value in zip(row.wordings, some, strict=True)
        ]
        for row, some in zip(rows, values, strict=True)
    ]


def _from_mean(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]


def _rank(receipt: Receipt, row: WordedRow, values: Sequence[float]) -> int:
    """Return the rank of what *row* publishes; only here does it matter which wording that is."""
    places = tie_order(bytes.fromhex(receipt.key), row.number, row.digest, len(values))
    order = sorted(range(len(values)), key=lambda i: (-values[i], places[i]))
    return 1 + order.index(row.published)


def by_answers(receipt: Receipt, answers: Iterable[AnswerRecord], n: int | None = None) -> list[Preference]:
    """
    Return the preferences by what the suspect says to the rows' prompts, in committed order, for the first *n* rows.

    An answer takes up the wording whose mark it starts with. Refusals, cut answers and others say nothing; a row whose
    wordings do not show at the start of an answer cannot tell.
    """
    rows = receipt.chosen_worded(n)
    joined = join(answers)
    said_something = {one for one, answer in joined.items() if isinstance(answer, Completed)}
    missing = _missing(receipt, rows, joined.keys(), said_something)
    found = []
    for row in rows:
        longest = max((wording.mark for wording in row.wordings), key=len)
        kept = usable(joined.get(row.probe.id, NOT_ASKED), longest)
        taken = wording_of(row, kept.text) if isinstance(kept, Completed) else None
        rank = None if taken is None else 1 if taken == row.published else 2
        is_answered = isinstance(kept, Completed) and bool(longest)
        why = own_reason(kept) if isinstance(kept, Unanswered) and longest else ""
        found.append(Preference(row, rank, is_answered, bool(longest) and row.probe.id in missing, why))
    return found


def wording_of(row: WordedRow, text: str) -> int | None:
    """Return the number of the wording of *row* that *text* takes up: the longest mark it starts with; None for none."""
    answer = said(text)
    taken = [
        (len(wording.mark), i)
        for i, wording in enumerate(row.wordings)
        if wording.mark and answer.startswith(normalise(wording.mark))
    ]
    return max(taken)[1] if taken else None
