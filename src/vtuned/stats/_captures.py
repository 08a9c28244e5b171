"""
How many backdoors a uniform subset of the training rows reaches.

Knows rows, copies and chances; knows nothing of what reaching one proves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vtuned.stats._circle import at_most_fail
from vtuned.stats._planting import Planting
from vtuned.stats.tails import log10_binomial_tail, log10_poisson_binomial_tail

_Floats = NDArray[np.float64]

# Two ways to the same number that differ by this much of it are equal: a limit that is met exactly, such as 1 row of
# 100 at 99 %, shall not be missed for a rounding error.
LOG10_ROUNDING = 1e-11
_LN_10 = math.log(10.0)


def pass_tail(required: int, planting: Planting, *, log10_floor: float = -math.inf) -> Callable[[int], float]:
    """
    Return the function from the size of a uniform subset to log10 P(at least *required* backdoors pass).

    Good to 1e-10 of the probability, for the smallest ones to thirteen digits of the logarithm. A chance that is below
    10**log10_floor may come out as another one below: whoever compares with a limit needs no digits far from it.
    """
    n_missable = len(planting.copies) - required
    if required <= 0 or n_missable < 0:
        constant = 0.0 if required <= 0 else -math.inf
        return lambda n_subset: constant
    if max(planting.copies) == planting.n_needed == 1 and len(set(planting.log10_ps)) == 1:
        ln_given = _ln_given_singles(required, planting)
        return lambda n_subset: _weighed(ln_given, planting, n_subset)

    n_by_chance = sum(p > -math.inf for p in planting.log10_ps)
    n_least = max(0, required - n_by_chance) * planting.n_needed

    def log10_tail(n_subset: int) -> float:
        if n_subset < n_least:
            return -math.inf
        if n_subset in (0, planting.n_train):
            return _at_an_end(required, planting, n_subset)
        log10_p, log10_bound = at_most_fail(n_missable, planting, n_subset)
        if log10_p is not None:
            return log10_p
        if log10_bound < log10_floor:
            return log10_bound
        return _weighed(_ln_given_captured(n_missable, planting), planting, n_subset)

    return log10_tail


def least_that(holds: Callable[[int], bool], n: int) -> int:
    """Return the least number from 0 to *n* for which *holds* is true, *n* where none below it is; it rises."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _at_an_end(required: int, planting: Planting, n_subset: int) -> float:
    """Return log10 P(at least *required* pass) where no row is in the subset, or all are."""
    reached = [n_subset > 0 and n >= planting.n_needed for n in planting.copies]
    chances = [0.0 if one else p for one, p in zip(reached, planting.log10_ps, strict=True)]
    return log10_poisson_binomial_tail(required, chances)


def _weighed(ln_given: _Floats, planting: Planting, n_subset: int) -> float:
    """
    Return log10 of a chance that is known given how many planted rows are captured.

    Which ones they are is uniform given their number, and that number is hypergeometric.
    """
    low, ln_captured = _ln_captured_pmf(planting.n_train, sum(planting.copies), n_subset)
    ln_given = ln_given[low : low + len(ln_captured)]
    return min(0.0, float(np.logaddexp.reduce(ln_captured + ln_given)) / _LN_10)


@lru_cache(maxsize=8)
def _ln_given_singles(required: int, planting: Planting) -> _Floats:
    """
    Return ln P(at least *required* pass | b planted rows captured), b = 0 ... n, for single rows with one chance.

    With b captured that is P(X >= required - b), X binomial of the n - b others. One captured row more adds
    q P(X = required - b - 1) of n - b - 1: that one of the others fails and all the passes but one are there.
    """
    n_backdoors, log10_p = len(planting.copies), planting.log10_ps[0]
    ln_p, ln_q = log10_p * _LN_10, float(_ln(np.array(-math.expm1(log10_p * _LN_10))))
    n_fails = n_backdoors - required
    passes = np.arange(1, required, dtype=np.float64)
    ln_ways = np.concatenate(([0.0], np.cumsum(np.log((n_fails + passes) / passes))))
    ln_steps = ln_ways + (n_fails + 1) * ln_q
    with np.errstate(over="ignore"):
        ln_steps[1:] += passes * ln_p
    ln_tails = np.zeros(n_backdoors + 1)
    ln_unseen = log10_binomial_tail(required, n_backdoors, log10_p) * _LN_10
    sums = np.logaddexp.accumulate(np.concatenate(([ln_unseen], ln_steps[::-1])))
    ln_tails[:required] = np.minimum(0.0, sums[:required])
    return ln_tails


@lru_cache(maxsize=8)
def _ln_given_captured(n_missable: int, planting: Planting) -> _Floats:
    """
    Return ln P(at most *n_missable* fail | b planted rows captured) for b = 0 ... all of them.

    In [t, b] the table has the chance that t backdoors fail: the coefficient of x**b y**t in the product over the
    backdoors of p + (1 - p) y for each way to capture too few of its c rows and of 1 for each other one, over
    (1 + x)**c in all, divided by the number of ways to capture b rows. Dividing step by step leaves probabilities,
    which neither overflow nor cancel; in logarithms they have the digits of the smallest tails, too.
    """
    table = np.zeros((1, 1))
    n_rows = 0
    for copies, log10_p in zip(planting.copies, planting.log10_ps, strict=True):
        n_rows += copies
        ln_weights = _ln(_weights(n_rows, copies))
        ln_p, ln_q = log10_p * _LN_10, float(_ln(np.array(-math.expm1(log10_p * _LN_10))))
        n_before, width = table.shape
        grown = np.full((min(n_before, n_missable) + 1, n_rows + 1), -math.inf)
        for i in range(copies + 1):
            part = table + ln_weights[i, i : i + width]
            same, missed = grown[:n_before, i : i + width], grown[1:, i : i + width]
            if i < planting.n_needed:
                np.logaddexp(missed, part[: len(missed)] + ln_q, out=missed)
                part += ln_p
            np.logaddexp(same, part, out=same)
        table = grown
    total: _Floats = np.logaddexp.reduce(table, axis=0)
    return total


def _weights(n_rows: int, copies: int) -> _Floats:
    """Return, in [i, b], the chance that i of *copies* rows are among b captured ones of *n_rows*."""
    captured = np.arange(n_rows + 1, dtype=np.float64)
    weights = np.zeros((copies + 1, n_rows + 1))
    weights[0] = 1.0
    for n_drawn in range(copies):
        # The rows one after the other; an impossible count has weight 0 before its factor turns negative.
        for i in range(n_drawn + 1, -1, -1):
            left = n_rows - n_drawn
            weights[i] *= np.maximum(0.0, left - (captured - i)) / left
            if i:
                weights[i] += weights[i - 1] * (np.maximum(0.0, captured - (i - 1)) / left)
    return weights


def _ln_captured_pmf(n_train: int, n_rows: int, n_subset: int) -> tuple[int, _Floats]:
    """
    Return the least possible number of planted rows in a subset, and ln P(B = b) from there on.

    From the ratios of neighbours, outwards from the mode and normalised: no factorial of *n_train* loses its digits.
    """
    n_clean = n_train - n_rows
    low, high = max(0, n_subset - n_clean), min(n_rows, n_subset)
    b = np.arange(low, high, dtype=np.float64)
    ln_ratios = np.log((n_rows - b) / (b + 1.0)) + np.log((n_subset - b) / (n_clean - n_subset + b + 1.0))
    mode = int(np.count_nonzero(ln_ratios > 0.0))
    ln_pmf = np.concatenate((-np.cumsum(ln_ratios[:mode][::-1])[::-1], [0.0], np.cumsum(ln_ratios[mode:])))
    return low, ln_pmf - np.logaddexp.reduce(ln_pmf)


def _ln(numbers: _Floats) -> _Floats:
    """Return the natural logarithms; that of 0 is -inf, and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(numbers)
