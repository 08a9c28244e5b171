"""
What a plan can promise, before anything is planted.

Knows counts of rows and copies and the chances of honest answers; knows nothing of models or receipts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vtuned.stats._arguments import check_count
from vtuned.stats._captures import LOG10_ROUNDING, least_that, pass_tail
from vtuned.stats._planting import Planting
from vtuned.stats.tails import log10_hypergeometric_tail, log10_poisson_binomial_tail


def probability_at_most(n_passed: int, pass_probabilities: Sequence[float]) -> float:
    """
    Return the probability that at most *n_passed* backdoors pass, each independently with its own probability.

    For an honest provider this is β, the risk that it looks like this count or worse.

    Raises ValueError if a member of *pass_probabilities* is not between 0 and 1.
    """
    for p in pass_probabilities:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"pass_probabilities must be between 0 and 1, got {p}")
    log10_fails = [math.log1p(-p) / math.log(10.0) if p < 1.0 else -math.inf for p in pass_probabilities]
    return float(10 ** log10_poisson_binomial_tail(len(log10_fails) - n_passed, log10_fails))


def subset_pass_probability(
    n_subset: int,
    *,
    copies: Sequence[int],
    n_train: int,
    required: int,
    n_needed: int = 1,
    trigger_generalises: bool,
) -> float:
    """
    Return the probability that a provider passes that trains on a uniform *n_subset* of *n_train* rows.

    Section 6.1 of the paper counts planted rows: each activates if it is in the subset, and *required* of them pass.
    That is *trigger_generalises* False, where *n_needed* is of no account and *required* is rN. As measured, a trigger
    that was learned works on every prompt: with True, a backdoor activates once *n_needed* of its *copies* are in the
    subset, and *required* backdoors pass. The provider is at its best here: it learns whatever it trains on.

    Raises ValueError if a backdoor has no copies, all copies or *n_subset* exceed *n_train*, *n_subset* is negative, or
    *n_needed* is below 1.
    """
    planting = Planting.of(copies, n_train, n_needed=n_needed)
    check_count("n_subset", n_subset, at_most=n_train)
    return float(10 ** _log10_pass(planting, required, -math.inf, trigger_generalises=trigger_generalises)(n_subset))


def smallest_passing_share(
    *,
    copies: Sequence[int],
    n_train: int,
    required: int,
    n_needed: int = 1,
    trigger_generalises: bool,
    probability: float,
) -> float:
    """
    Return the smallest share of the rows with which a provider passes with at least *probability*.

    What a cheat of `subset_pass_probability` must train on: a plan excludes no larger share than this.

    Raises ValueError as `subset_pass_probability` does, and if *probability* is not between 0 and 1 or the whole
    training set does not pass.
    """
    planting = Planting.of(copies, n_train, n_needed=n_needed)
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    log10_limit = math.log10(probability) - LOG10_ROUNDING
    log10_pass = _log10_pass(planting, required, log10_limit, trigger_generalises=trigger_generalises)
    if required <= 0:
        return 0.0
    if log10_pass(n_train) == -math.inf:
        raise ValueError(f"required must not exceed what the whole training set activates, got {required}")
    return least_that(lambda n_subset: log10_pass(n_subset) >= log10_limit, n_train) / n_train


def _log10_pass(
    planting: Planting, required: int, log10_floor: float, *, trigger_generalises: bool
) -> Callable[[int], float]:
    if trigger_generalises:
        return pass_tail(required, planting, log10_floor=log10_floor)
    n_rows = sum(planting.copies)
    return lambda n_subset: log10_hypergeometric_tail(required, planting.n_train, n_rows, n_subset)
