"""
What the preferences of a suspect prove: p-values, and how many of the carrying rows it must have used (DESIGN 8).

Pure numbers from `vtuned.preference`; `vtuned.verdict` decides by them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from vtuned.documents import Record
from vtuned.preference import Preference
from vtuned.receipt import Receipt, WordingTest
from vtuned.stats import (
    log10_e_p_value,
    log10_hits_p_value,
    log10_preference_e_value,
    log10_rank_sum_p_value,
    preference_coverage,
    preference_coverage_skipping,
    probability_at_most,
)

By = Literal["log-likelihoods", "text"]

BLIND_ASSUMPTION = (
    "Which rows were used does not depend on which wording each of them publishes; that they carry one may be known."
)
SKIPPING_ASSUMPTION = (
    "Rows whose published wording could be guessed may have been skipped: by one guess for each row that was fixed before "
    "the file was seen, or by the one constant guess that fits the file best; not by guesses fitted to it otherwise."
)


class WordingsResult(Record):
    """
    How often a suspect prefers what was published.

    Of *n_asked* rows *n_answered* were scored or answered. *n_told* count: those that show a preference, and those that
    got no answer, which are no hits; in *n_hits* the published wording comes first (*n_by_chance* are expected). *log10_p_hits* and *log10_p_rank_sum* (None by text) are
    exact under H0; *log10_p_any* is of an e-value, valid at every look; *decides* is the one that the receipt names.

    Two lower bounds on the share of the *n_carrying* rows that were used, at *confidence*, each on its assumption:
    *lower_bound_skipping* first. *share_of_file* turns the *lower_bound* into one of all rows that were sent.
    *by_tenth* holds (hits, rows asked) by tenth of the training file, *by_label* (label, times published, hits).
    """

    by: By
    decides: Literal["hits", "rank-sum", "e-value"]
    n_asked: int
    n_answered: int
    n_told: int
    n_hits: int
    n_by_chance: float
    log10_p_hits: float
    log10_p_rank_sum: float | None
    log10_p_any: float
    n_carrying: int
    n_train: int
    lower_bound_skipping: float
    skipping_assumption: str = SKIPPING_ASSUMPTION
    lower_bound: float
    assumption: str = BLIND_ASSUMPTION
    confidence: float
    by_tenth: tuple[tuple[int, int], ...]
    by_label: tuple[tuple[str, int, int], ...]

    @property
    def log10_p(self) -> float:
        """The p-value that decides, before plantings are charged."""
        if self.decides == "e-value":
            return self.log10_p_any
        return self.log10_p_hits if self.log10_p_rank_sum is None or self.decides == "hits" else self.log10_p_rank_sum

    @property
    def share_of_file(self) -> float:
        """The lower bound as a share of all rows of the training file: those that carry nothing can be dropped unseen."""
        return self.lower_bound * self.n_carrying / self.n_train


def result(receipt: Receipt, preferences: Sequence[Preference], by: By) -> WordingsResult:
    """Return what *preferences*, all of those asked about, say. The receipt must hold wordings."""
    assert receipt.wordings is not None
    told = [one for one in preferences if one.rank is not None or one.is_missing]
    n_hits = sum(one.is_hit for one in told)
    sizes = [one.n_wordings for one in told]
    plan = receipt.plan
    confidence = 1.0 - (1.0 - plan.coverage_confidence) / plan.max_plantings
    rows, n_carrying = [one.n_wordings for one in preferences], receipt.wordings.n_carrying
    return WordingsResult(
        by=by,
        decides="e-value" if plan.stopping == "any" else _test(receipt.wordings.test, by),
        n_asked=len(preferences),
        n_answered=sum(one.was_answered for one in preferences),
        n_told=len(told),
        n_hits=n_hits,
        n_by_chance=math.fsum(1 / n for n in sizes),
        log10_p_hits=log10_hits_p_value(n_hits, sizes) if told else 0.0,
        log10_p_rank_sum=_rank_sum(told) if by == "log-likelihoods" else None,
        log10_p_any=_any(told),
        n_carrying=n_carrying,
        n_train=receipt.train_set.n_rows,
        lower_bound_skipping=preference_coverage_skipping(
            n_hits=n_hits, n_wordings=rows, n_carrying=n_carrying, confidence=confidence
        ),
        lower_bound=preference_coverage(n_hits=n_hits, n_wordings=rows, n_carrying=n_carrying, confidence=confidence),
        confidence=plan.coverage_confidence,
        by_tenth=_by_tenth(receipt, preferences),
        by_label=_by_label(told),
    )


def beta(found: WordingsResult, preferences: Sequence[Preference], receipt: Receipt) -> float:
    """
    Return the probability that an honest provider's model has so few hits.

    It is taken to prefer what was published, independently in each row that was answered, with the probability that the
    receipt calls honest; by text, in the share of these rows in which its answers take up a wording (docs/theory.md, 14).
    """
    assert receipt.wordings is not None
    share = float(receipt.wordings.honest_preference)
    taken_up = float(receipt.wordings.honest_uptake) if found.by == "text" else 1.0
    answered = [1 / one.n_wordings for one in preferences if one.was_answered]
    return probability_at_most(found.n_hits, [taken_up * (p + share * (1.0 - p)) for p in answered])


def _test(test: WordingTest, by: By) -> WordingTest:
    return test if by == "log-likelihoods" else "hits"


def _rank_sum(told: Sequence[Preference]) -> float:
    if not told:
        return 0.0
    ranks = [one.n_wordings if one.rank is None else one.rank for one in told]
    return log10_rank_sum_p_value(sum(ranks), [one.n_wordings for one in told])


def _any(some: Sequence[Preference]) -> float:
    """Return log10 of the p-value of the rows' e-value."""
    if not some:
        return 0.0
    return log10_e_p_value(log10_preference_e_value([one.is_hit for one in some], [one.n_wordings for one in some]))


def _by_tenth(receipt: Receipt, preferences: Sequence[Preference]) -> tuple[tuple[int, int], ...]:
    hits, asked = Counter[int](), Counter[int]()
    for one in preferences:
        tenth = min(9, 10 * (one.row.row - 1) // receipt.train_set.n_rows)
        asked[tenth] += one.rank is not None or one.is_missing
        hits[tenth] += one.is_hit
    return tuple((hits[tenth], asked[tenth]) for tenth in range(10))


def _by_label(told: Sequence[Preference]) -> tuple[tuple[str, int, int], ...]:
    published, hits = Counter[str](), Counter[str]()
    for one in told:
        for label in one.row.wordings[one.row.published].labels:
            published[label] += 1
            hits[label] += one.is_hit
    return tuple((label, n, hits[label]) for label, n in sorted(published.items()))
