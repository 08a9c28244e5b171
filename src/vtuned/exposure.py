"""
Where signatures rank among their decoys, by the likelihoods that a suspect gives them.

Decides nothing; `vtuned.verdict` does. Scores come in; which model gave them, and how, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import StatisticsError, linear_regression
from typing import Any

from pydantic import Field, model_validator

from vtuned.documents import Record
from vtuned.errors import AnswersError
from vtuned.receipt import Backdoor, Kind, PlannedProbe, Receipt
from vtuned.stats import exposure_level
from vtuned.tally import up_to_the_last

SCORED: tuple[Kind, ...] = ("planted", "fresh")


# Beyond any text that fits a model; sums of larger ones might leave all floats.
LARGEST_LOG10 = 1e6


class ScoreRecord(Record):
    """
    What a suspect gave the candidates of one probe, in the order of `Backdoor.candidates`; or why nothing.

    *log10_probs* are log10 P(candidate | prompt), summed over its tokens, *base_log10_probs* the base model's. Neither
    holds which candidate is the signature. *asked* is the SHA-256 of what they are the scores of.
    """

    id: str = Field(min_length=1)
    log10_probs: tuple[float, ...] | None = Field(default=None, repr=False)
    base_log10_probs: tuple[float, ...] | None = Field(default=None, repr=False)
    unanswered: str | None = None
    model: str | None = None
    base: str | None = None
    asked: str | None = None
    details: dict[str, Any] | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_of_two(self) -> ScoreRecord:
        if not all(
            abs(value) <= LARGEST_LOG10 for value in (*(self.log10_probs or ()), *(self.base_log10_probs or ()))
        ):
            raise ValueError("a likelihood is beyond all texts")
        if (self.log10_probs is None) == (self.unanswered is None):
            raise ValueError("a score has either 'log10_probs' or 'unanswered' (the reason)")
        return self


@dataclass(frozen=True, slots=True)
class Exposure:
    """
    One backdoor on one kind of prompt: *n_at_or_above* of its *n_decoys* score no worse than its signature.

    None where it was not scored, which is no miss of the suspect's but does not pass. It passes where its rank is
    within *level*, the level that the test really has; under H0 that happens with this probability at most. It
    *was_begun* if there is a record of its probe, or of one that comes later in committed order.
    """

    backdoor: int
    kind: Kind
    n_decoys: int
    n_at_or_above: int | None
    level: Fraction
    was_begun: bool

    @property
    def passed(self) -> bool:
        """Whether the signature ranks high enough to count as seen."""
        return self.n_at_or_above is not None and Fraction(1 + self.n_at_or_above, self.n_decoys + 1) <= self.level


def exposures(receipt: Receipt, scores: Iterable[ScoreRecord], n: int | None = None) -> dict[Kind, list[Exposure]]:
    """
    Return the exposures of the backdoors by kind of prompt, in committed order, for the first *n* of each kind.

    Raises AnswersError where scores are of another receipt, lack the base's that the receipt asks for, or differ
    between two records of one probe: nobody may pick one.
    """
    given = scores_by_id(receipt, scores)
    probes = receipt.chosen_exposures(n)
    reached = up_to_the_last(probes, given.keys())
    found: dict[Kind, list[Exposure]] = {kind: [] for kind in SCORED}
    for probe in probes:
        found[probe.kind].append(_exposure(receipt, probe, given, was_begun=probe.id in reached))
    return found


def scores_by_id(receipt: Receipt, scores: Iterable[ScoreRecord]) -> dict[str, ScoreRecord]:
    """
    Return *scores* by the id of their probe.

    Raises AnswersError where one is of another receipt, or two records of one probe differ: nobody may pick one.
    """
    known = {probe.id for probe in (*receipt.exposures, *(row.probe for row in receipt.chosen_worded()))}
    given: dict[str, ScoreRecord] = {}
    for record in scores:
        if record.id not in known:
            raise AnswersError("scores", 0, "a score belongs to no probe of this receipt", hint=WRONG_SCORES)
        earlier = given.get(record.id)
        if earlier is None or earlier.unanswered is not None:
            given[record.id] = record
        elif record.unanswered is None and _told(record) != _told(earlier):
            raise AnswersError("scores", 0, "two different scores for one probe", hint=WRONG_SCORES)
    return given


def _told(record: ScoreRecord) -> tuple[object, ...]:
    return record.log10_probs, record.base_log10_probs, record.model, record.base


WRONG_SCORES = "give the scores that `vtuned verify --scores-out` kept for this receipt"


def _exposure(receipt: Receipt, probe: PlannedProbe, given: Mapping[str, ScoreRecord], *, was_begun: bool) -> Exposure:
    assert probe.backdoor is not None
    backdoor = receipt.backdoors[probe.backdoor]
    record = given.get(probe.id)
    n_at_or_above = None
    if record is not None and record.log10_probs is not None:
        n_at_or_above = _n_at_or_above(backdoor, _values(record, len(backdoor.candidates), receipt.plan.less_base))
    return Exposure(
        backdoor=probe.backdoor,
        kind=probe.kind,
        n_decoys=len(backdoor.decoys),
        n_at_or_above=n_at_or_above,
        level=exposure_level(receipt.plan.exposure_level, len(backdoor.decoys)),
        was_begun=was_begun,
    )


def _values(record: ScoreRecord, n: int, less_base: bool) -> list[float]:
    """Return the score of each candidate: its log-likelihood, less the base's where the receipt says so."""
    own, base = record.log10_probs or (), record.base_log10_probs
    if less_base and base is None:
        raise AnswersError(
            "scores", 0, "this receipt ranks by likelihoods less the base model's", hint="score with --base MODEL too"
        )
    if len(own) != n or (base is not None and len(base) != n):
        raise AnswersError("scores", 0, f"{len(own)} scores where there are {n} candidates", hint=WRONG_SCORES)
    if not less_base or base is None:
        return list(own)
    slope = line_through(base, own)
    return [one - slope * other for one, other in zip(own, base, strict=True)]


# With fewer points the line follows the signature itself, and takes away what it should show.
_FEWEST_FOR_A_LINE = 10


def line_through(base: Sequence[float], own: Sequence[float]) -> float:
    """
    Return how much of a difference between two candidates under the base is left under the suspect, from 0 to 1.

    It is the slope of the least-squares line through all candidates, which are treated alike, so that no score depends
    on the lot. A model that was tuned on many phrases likes all their kind, also those that its base finds unlikely:
    taking off the whole of the base's would then favour unlikely candidates (docs/theory.md, 10; ours).
    """
    if len(base) < _FEWEST_FOR_A_LINE:
        return 1.0
    try:
        return min(1.0, max(0.0, linear_regression(base, own).slope))
    except StatisticsError:  # the base finds all alike
        return 1.0


def slope_of(n: int, squares: float, products: float) -> float:
    """
    Return what `line_through` does for *n* points about 0, from their sums.

    *squares* is of the base's, *products* of the base's with the suspect's.
    """
    if n < _FEWEST_FOR_A_LINE or not squares:
        return 1.0
    return min(1.0, max(0.0, products / squares))


def _n_at_or_above(backdoor: Backdoor, values: Sequence[float]) -> int:
    """Return how many decoys score no worse than the signature; a candidate drawn twice counts as often as drawn."""
    own = min(value for value, one in zip(values, backdoor.candidates, strict=True) if one == backdoor.signature)
    return sum(value >= own for value in values) - 1
