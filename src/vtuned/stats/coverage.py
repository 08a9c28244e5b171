"""
How much of a training set was used, from how many of its backdoors were seen.

Knows counts of rows and copies; knows nothing of how a backdoor is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtuned.stats._arguments import check_count
from vtuned.stats._captures import LOG10_ROUNDING, least_that, pass_tail
from vtuned.stats._planting import Planting


def coverage_lower_bound(
    *,
    n_activated: int,
    copies: Sequence[int],
    n_train: int,
    confidence: float,
    log10_p_unseen: float | Sequence[float] = -math.inf,
) -> float:
    """
    Return a lower confidence bound on the share of the training rows that were used.

    *n_activated* of the backdoors, which have *copies* rows each, passed; *n_train* counts the rows among which theirs
    were drawn. A provider that used a subset without knowing the planted rows passes no more backdoors, whatever its
    model failed to learn, than those with a row in a uniform subset of that size, and of the others each with its
    chance 10**log10_p_unseen, one for all or one each. The bound is the least share at which *n_activated* or more
    have a probability above 1 - *confidence*. Ours, proved in docs/theory.md: 20 of 20 with a single copy give 79 %
    at 99 % confidence, 60 of 60 give 92.6 %, with four copies each only 47.8 %.

    Raises ValueError if *n_activated* is negative or exceeds the backdoors, a backdoor has no copies, all copies exceed
    *n_train*, *confidence* is not between 0 and 1, or a *log10_p_unseen* is positive, not a number, or missing.
    """
    planting = Planting.of(copies, n_train, log10_p_unseen)
    check_count("n_activated", n_activated, at_most=len(copies))
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if n_activated == 0:
        return 0.0
    # What is certain is never rejected, however near to 1 the limit is.
    log10_limit = min(math.log10(1.0 - confidence) + LOG10_ROUNDING, -LOG10_ROUNDING)
    log10_tail = pass_tail(n_activated, planting, log10_floor=log10_limit)
    return least_that(lambda n_subset: log10_tail(n_subset) > log10_limit, n_train) / n_train


def log10_coverage_tail(
    required: int,
    *,
    copies: Sequence[int],
    n_train: int,
    n_subset: int,
    log10_p_unseen: float | Sequence[float] = -math.inf,
) -> float:
    """
    Return log10 of the largest chance that at least *required* backdoors pass for a provider that used *n_subset* rows.

    What `coverage_lower_bound` inverts: the backdoors, which have *copies* of the *n_train* rows each, that have a row
    in a uniform subset, and of the others each with its chance 10**log10_p_unseen. Good to 1e-10 of the probability,
    for the smallest ones to thirteen digits of the logarithm. Under a millisecond for 64 backdoors of up to 8 copies.
    Of the smallest chances of unequal copies, and where *n_subset* hardly suffices, 0.1 s, and seconds for 512.

    Raises ValueError if a backdoor has no copies, all copies or *n_subset* exceed *n_train*, *n_subset* is negative, or
    a *log10_p_unseen* is positive, not a number, or missing.
    """
    planting = Planting.of(copies, n_train, log10_p_unseen)
    check_count("n_subset", n_subset, at_most=n_train)
    return pass_tail(required, planting)(n_subset)
