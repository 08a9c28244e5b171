"""
Tail probabilities, in log10.

Knows nothing of models, triggers or files: integers and floats in, floats out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vtuned.stats._arguments import check_count, check_log10

_Floats = NDArray[np.float64]

# A log pmf is a small difference of large ln n!: at n = 10**9 floats hold those to 4e-6 only. With fifty digits of
# the standard library's Decimal the first term of a tail is right to the last bit of a float, within a millisecond.
_CONTEXT = Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_LN_10 = _CONTEXT.ln(Decimal(10))
_LN_10_FLOAT = math.log(10.0)
_HALF_LN_2_PI = Decimal("0.91893853320467274178032973640561763986139747363778")
# Stirling's series, B_2j / (2j (2j-1)); from 256 on, the first term left out is below 1e-29.
_STIRLING_FROM = 256
_STIRLING = ((1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188))
_NEGLIGIBLE = 1e-17


def log10_binomial_tail(required: int, n: int, log10_p: float) -> float:
    """
    Return log10 P(X >= required) for X ~ Binomial(n, 10**log10_p).

    The right-hand side of the paper's Eq. 1 with rN = *required*. Summed from its largest term: `1 - cdf` is 0.0
    below 1e-16, and our values are near 1e-400. Good to 1e-10 of the probability, or to the last digits that a float
    of that size has, for *n* up to 10**9.

    Raises ValueError if *n* is negative, or *log10_p* is positive or not a number.
    """
    check_count("n", n)
    check_log10("log10_p", log10_p)
    if required <= 0 or (required <= n and log10_p == 0.0):
        return 0.0
    if required > n or log10_p == -math.inf:
        return -math.inf
    with localcontext(_CONTEXT):
        ln_p = Decimal(log10_p) * _LN_10
        p = ln_p.exp()
        ln_q = (1 - p).ln()
        if required > n * p:
            return _log10_binomial_beyond_mean(required, n, ln_p, ln_q)
        return _log10_complement(_log10_binomial_beyond_mean(n - required + 1, n, ln_q, ln_p))


def log10_poisson_binomial_tail(required: int, log10_ps: Sequence[float]) -> float:
    """
    Return log10 P(X >= required), X the number of successes in independent trials with probabilities 10**log10_ps.

    Over backdoors with independently drawn signatures the passes are dominated by independent, unequal ones, so this
    is a p-value of "at least *required* backdoors pass" (ours, proved in docs/theory.md). Takes O(m**2) steps for m trials;
    good to 1e-10 of the probability for m up to 200, to fourteen digits of the logarithm beyond.

    Raises ValueError if a member of *log10_ps* is positive or not a number.
    """
    for log10_p in log10_ps:
        check_log10("log10_ps", log10_p)
    if required <= 0:
        return 0.0
    if required > len(log10_ps):
        return -math.inf
    ln_pmf = _poisson_binomial_ln_pmf(log10_ps)
    log10_tail = float(np.logaddexp.reduce(ln_pmf[required:])) / _LN_10_FLOAT
    if log10_tail < math.log10(0.5):
        return log10_tail
    return _log10_complement(float(np.logaddexp.reduce(ln_pmf[:required])) / _LN_10_FLOAT)


def log10_hypergeometric_tail(required: int, n_train: int, n_backdoors: int, n_subset: int) -> float:
    """
    Return log10 P(B >= required), B the number of planted rows in a uniform subset of the training set.

    The subset holds *n_subset* of *n_train* rows, of which *n_backdoors* are planted. Section 6.1 of the paper, with
    its printed `K_subset + k` mended to `K_subset - k`: as printed, the terms are no probabilities.

    Raises ValueError if a count is negative, or *n_backdoors* or *n_subset* exceeds *n_train*.
    """
    check_count("n_train", n_train)
    check_count("n_backdoors", n_backdoors, at_most=n_train)
    check_count("n_subset", n_subset, at_most=n_train)
    if required <= max(0, n_subset + n_backdoors - n_train):
        return 0.0
    if required > min(n_backdoors, n_subset):
        return -math.inf
    if required * n_train > n_subset * n_backdoors:
        return _log10_hypergeometric_beyond_mean(required, n_train, n_backdoors, n_subset)
    # The planted rows that are left out of the subset are those within its complement.
    n_left_out = n_backdoors - required + 1
    return _log10_complement(_log10_hypergeometric_beyond_mean(n_left_out, n_train, n_backdoors, n_train - n_subset))


def _log10_binomial_beyond_mean(required: int, n: int, ln_p: Decimal, ln_q: Decimal) -> float:
    """Return log10 P(X >= required) where *required* exceeds the mean, so that the terms fall."""
    ln_first = _ln_choose(n, required) + required * ln_p + (n - required) * ln_q
    odds = float((ln_p - ln_q).exp())
    total = _sum_of_falling_terms(required, n, lambda k: (n - k) / (k + 1.0) * odds)
    return min(0.0, float(ln_first / _LN_10) + math.log10(total))


def _log10_hypergeometric_beyond_mean(required: int, n_train: int, n_backdoors: int, n_subset: int) -> float:
    """Return log10 P(B >= required) where *required* exceeds the mean, so that the terms fall."""
    n_clean = n_train - n_backdoors
    with localcontext(_CONTEXT):
        ln_first = (
            _ln_choose(n_backdoors, required) + _ln_choose(n_clean, n_subset - required) - _ln_choose(n_train, n_subset)
        )
        log10_first = float(ln_first / _LN_10)

    def ratio(k: _Floats) -> _Floats:
        return (n_backdoors - k) / (k + 1.0) * ((n_subset - k) / (n_clean - n_subset + k + 1.0))

    total = _sum_of_falling_terms(required, min(n_backdoors, n_subset), ratio)
    return min(0.0, log10_first + math.log10(total))


def _sum_of_falling_terms(first: int, last: int, ratio: Callable[[_Floats], _Floats]) -> float:
    """
    Return the sum over k from *first* to *last* of term(k) / term(first), where `ratio(k)` is term(k+1) / term(k).

    The ratios must fall and be below 1. What is left out after term(k) is then below a geometric series.
    """
    total = 1.0
    term = 1.0
    n_terms = 64
    while first < last:
        stop = min(first + n_terms, last)
        ratios = ratio(np.arange(first, stop, dtype=np.float64))
        terms = term * np.cumprod(ratios)
        total += float(terms.sum())
        term = float(terms[-1])
        if term * ratios[-1] <= _NEGLIGIBLE * total * (1.0 - ratios[-1]):
            break
        first = stop
        n_terms = min(2 * n_terms, 65_536)
    return total


def _poisson_binomial_ln_pmf(log10_ps: Sequence[float]) -> _Floats:
    """Return ln P(X = k) for k = 0 ... m, one trial after the other."""
    ln_pmf = np.full(len(log10_ps) + 1, -math.inf)
    ln_pmf[0] = 0.0
    # Sorted: the order in which backdoors are listed shall not change a digit of the verdict.
    for i, log10_p in enumerate(sorted(log10_ps)):
        ln_hit = log10_p * _LN_10_FLOAT
        ln_miss = _log10_complement(log10_p) * _LN_10_FLOAT
        ln_pmf[1 : i + 2] = np.logaddexp(ln_pmf[1 : i + 2] + ln_miss, ln_pmf[: i + 1] + ln_hit)
        ln_pmf[0] += ln_miss
    return ln_pmf


def _log10_complement(log10_p: float) -> float:
    """Return log10(1 - 10**log10_p), never above 0.0."""
    if log10_p >= 0.0:
        return -math.inf
    ln_p = log10_p * _LN_10_FLOAT
    # Of the two forms, each keeps all digits on its side of one half only.
    ln_complement = math.log(-math.expm1(ln_p)) if ln_p > -math.log(2.0) else math.log1p(-math.exp(ln_p))
    return ln_complement / _LN_10_FLOAT + 0.0


def _ln_choose(n: int, k: int) -> Decimal:
    """Return ln of the binomial coefficient, in the precision of the caller's context."""
    return _ln_factorial(n) - _ln_factorial(k) - _ln_factorial(n - k)


@lru_cache(maxsize=4096)
def _ln_factorial(k: int) -> Decimal:
    """Return ln k! with an absolute error below 1e-28 for k up to 10**20."""
    with localcontext(_CONTEXT):
        if k < _STIRLING_FROM:
            return Decimal(math.factorial(k)).ln()
        x = Decimal(k)
        series = sum(Decimal(above) / (below * x ** (2 * j + 1)) for j, (above, below) in enumerate(_STIRLING))
        return (x + Decimal("0.5")) * x.ln() - x + _HALF_LN_2_PI + series
