"""
What a cheat gains by a ranking of the rows: how many planted rows it meets, and how little it must train on to pass.

Pure: a ranking and a receipt in, numbers out. Rows that are tied come in a random order: what is found among them is
counted by expectation, and what passes by the exact chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtuned.receipt import PlannedProbe, Receipt, StatisticalPlan
from vtuned.stats import (
    coverage_lower_bound,
    exposure_level,
    log10_e_p_value,
    log10_e_value,
    log10_guess_bound,
    log10_hits_p_value,
    log10_poisson_binomial_tail,
    log10_preference_e_value,
    preference_coverage,
    required_activations,
    smallest_passing_share,
)

_Suspicion = NDArray[np.float64]
ClaimTest = Literal["generation", "exposure", "hits"]
# A cheat counts as passing once it does so more often than not.
PROBABILITY = 0.5
_LOG10_PROBABILITY = math.log10(PROBABILITY)


class Met(NamedTuple):
    """Of rows that are looked for, the expected number among the most suspicious ones, and how many these are."""

    n_rows: int
    n_met: float


def met(suspicion: _Suspicion, wanted: NDArray[np.bool_], n_rows: int) -> Met:
    """Return how many *wanted* rows are expected among the *n_rows* most suspicious ones, of which ties are drawn."""
    if n_rows <= 0:
        return Met(0, 0.0)
    limit = np.partition(suspicion, len(suspicion) - n_rows)[len(suspicion) - n_rows]
    above, tied = suspicion > limit, suspicion == limit
    left = (n_rows - int(above.sum())) / int(tied.sum())
    return Met(n_rows, float((wanted & above).sum()) + left * float((wanted & tied).sum()))


def least_work(suspicion: _Suspicion, groups: Sequence[Sequence[int]], n_needed: int) -> int:
    """
    Return the smallest number of the most suspicious rows that hold rows of *n_needed* groups more often than not.

    *groups* hold row indices, from 0, and are disjoint. Raises ValueError where there are fewer groups.
    """
    if not 0 <= n_needed <= len(groups):
        raise ValueError(f"n_needed must be at most {len(groups)}, got {n_needed}")
    if n_needed == 0:
        return 0
    levels = [np.sort(suspicion[np.array(group)])[::-1] for group in groups]
    best = np.array([level[0] for level in levels])
    # The level at which the last of the groups that are needed is met, if all tied rows are taken.
    limit = float(np.sort(best)[::-1][n_needed - 1])
    copies = [int((level == limit).sum()) for level, first in zip(levels, best, strict=True) if first == limit]
    n_tied, n_above = int((suspicion == limit).sum()), int((suspicion > limit).sum())
    share = smallest_passing_share(
        copies=copies,
        n_train=n_tied,
        required=n_needed - int((best > limit).sum()),
        trigger_generalises=True,
        probability=PROBABILITY,
    )
    return n_above + round(share * n_tied)


class Hurdle(NamedTuple):
    """
    What a claim asks of a cheat, by one test.

    The *groups* are row indices of which one must be trained on, for each backdoor or each row with a choice. The claim
    holds where *n_required* of them pass (None: not even with all), for which *n_needed* must be trained on: the others
    pass by chance. *coverage* is the lower bound that the verdict then shows, given how many pass.
    """

    claim: str
    test: ClaimTest
    groups: tuple[tuple[int, ...], ...]
    n_required: int | None
    n_needed: int
    coverage: Callable[[int], float]


def hurdles(receipt: Receipt, places: Mapping[int, int]) -> tuple[Hurdle, ...]:
    """
    Return what each claim of *receipt* that a training file can pass asks of a cheat, by each test it has.

    *places* holds the index of each row by its number in the training file.
    """
    found = []
    for claim, kind in (("activated", "planted"), ("generalises", "fresh")):
        for test, probes in (("generation", receipt.probes), ("exposure", receipt.exposures)):
            own = [probe for probe in probes if probe.kind == kind]
            if own:
                found.append(
                    _of_backdoors(receipt, places, claim, "exposure" if test == "exposure" else "generation", own)
                )
    if receipt.wordings is not None:
        found.append(_of_wordings(receipt, places))
    return tuple(found)


def _of_backdoors(
    receipt: Receipt, places: Mapping[int, int], claim: str, test: ClaimTest, probes: Sequence[PlannedProbe]
) -> Hurdle:
    plan = receipt.plan
    asked = {j: sum(probe.backdoor == j for probe in probes) for j in range(len(receipt.backdoors))}
    tested = [j for j, n in asked.items() if n]
    chances = []
    for j in tested:
        backdoor = receipt.backdoors[j]
        if test == "exposure":
            level = exposure_level(plan.exposure_level, len(backdoor.decoys))
            chances.append(math.log10(level) if level else -math.inf)
        else:
            n = asked[j]
            chances.append(log10_guess_bound(n, required_activations(plan.ratio, n), backdoor.log10_p_upper))
    groups = tuple(tuple(places[row] for row in receipt.backdoors[j].rows) for j in tested)

    def log10_p(n_passed: int) -> float:
        if plan.stopping == "any":
            return log10_e_p_value(log10_e_value([i < n_passed for i in range(len(chances))], chances))
        return log10_poisson_binomial_tail(n_passed, chances)

    def coverage(n_passed: int) -> float:
        return coverage_lower_bound(
            n_activated=n_passed,
            copies=[len(group) for group in groups],
            n_train=receipt.n_eligible_sent,
            confidence=_confidence(plan),
            log10_p_unseen=chances,
        )

    return _hurdle(plan, claim, test, groups, log10_p, [10**chance for chance in chances], coverage)


def _of_wordings(receipt: Receipt, places: Mapping[int, int]) -> Hurdle:
    assert receipt.wordings is not None
    plan, wordings = receipt.plan, receipt.wordings
    sizes = [len(row.wordings) for row in wordings.rows]

    def log10_p(n_hits: int) -> float:
        if plan.stopping == "any":
            return log10_e_p_value(log10_preference_e_value([i < n_hits for i in range(len(sizes))], sizes))
        return log10_hits_p_value(n_hits, sizes)

    def coverage(n_hits: int) -> float:
        return preference_coverage(
            n_hits=n_hits, n_wordings=sizes, n_carrying=wordings.n_carrying, confidence=_confidence(plan)
        )

    groups = tuple((places[row.row],) for row in wordings.rows)
    return _hurdle(plan, "preferred", "hits", groups, log10_p, [1 / size for size in sizes], coverage)


def _confidence(plan: StatisticalPlan) -> float:
    return 1.0 - (1.0 - plan.coverage_confidence) / plan.max_plantings


def _hurdle(
    plan: StatisticalPlan,
    claim: str,
    test: ClaimTest,
    groups: tuple[tuple[int, ...], ...],
    log10_p: Callable[[int], float],
    chances: Sequence[float],
    coverage: Callable[[int], float],
) -> Hurdle:
    limit = math.log10(plan.claim_alpha) - math.log10(plan.max_plantings)
    required = next((n for n in range(1, len(groups) + 1) if log10_p(n) <= limit), None)
    needed = len(groups) if required is None else needed_of(required, chances)
    return Hurdle(claim, test, groups, required, needed, coverage)


def needed_of(n_required: int, chances: Sequence[float]) -> int:
    """
    Return how many must be trained on so that *n_required* pass more often than not.

    Those that are trained on pass; of the others each does with its chance, and those with the largest are left out.
    """
    ordered = sorted(chances)
    for n in range(n_required + 1):
        log10_ps = [math.log10(p) if p > 0 else -math.inf for p in ordered[n:]]
        if log10_poisson_binomial_tail(n_required - n, log10_ps) >= _LOG10_PROBABILITY:
            return n
    return n_required


def indexed_shares(counts: NDArray[np.int64], planted: NDArray[np.bool_]) -> float:
    """
    Return the share of the rows that the paper's search must index until it meets a planted one (its Table 6).

    *counts* says how frequent each row's phrase is. Rows are indexed from the most frequent phrase on, those of equal
    frequency together, as the paper does.
    """
    return float((counts >= counts[planted].max()).mean())
