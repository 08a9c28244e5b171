"""
How many backdoors a uniform subset of the training rows reaches.

Knows rows, copies and chances; knows nothing of what reaching one proves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtuned.stats._arguments import check_count, check_log10
from vtuned.stats.tails import log10_binomial_tail

_Floats = NDArray[np.float64]

# Two ways to the same number that differ by this much of it are equal: a limit that is met exactly, such as 1 row of
# 100 at 99 %, shall not be missed for a rounding error.
LOG10_ROUNDING = 1e-11
_LN_10 = math.log(10.0)


class _Arithmetic(NamedTuple):
    """How numbers are held, added and multiplied."""

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float


# Plain floats are ten times as fast; logarithms have the digits of the smallest tails, too.
_PLAIN = _Arithmetic(np.add, np.multiply, 0.0, 1.0)
_LOGS = _Arithmetic(np.logaddexp, np.add, -math.inf, 0.0)
# Denormal floats would halve the speed. What is dropped adds up to less than 1e-290, far below what is then trusted.
_DROPPED = 1e-300
_LOG10_TRUSTED = -270.0


class Planting(NamedTuple):
    """Backdoors over disjoint rows of a training set, and what it takes to reach one."""

    n_train: int
    copies: tuple[int, ...]
    """The rows of each backdoor, in the order of `log10_ps`."""
    log10_ps: tuple[float, ...]
    """log10 of the chance that a backdoor passes without being reached."""
    n_needed: int = 1
    """The copies that must be in the subset for the backdoor to be reached."""

    @classmethod
    def of(
        cls, copies: Sequence[int], n_train: int, log10_p: float | Sequence[float] = -math.inf, n_needed: int = 1
    ) -> Planting:
        """
        Return the planting with its arguments checked, whatever their order the same one.

        Raises ValueError if a backdoor has no copies, all copies exceed *n_train*, *n_needed* is below 1, or a
        *log10_p* is positive, not a number, or missing.
        """
        log10_ps = (log10_p,) * len(copies) if isinstance(log10_p, (int, float)) else tuple(log10_p)
        if len(log10_ps) != len(copies):
            raise ValueError(f"log10_p_unseen must be one or {len(copies)}, one for each backdoor, got {len(log10_ps)}")
        if not all(n >= 1 for n in copies):
            raise ValueError(f"copies must be at least 1 for each backdoor, got {min(copies)}")
        if n_needed < 1:
            raise ValueError(f"n_needed must be at least 1, got {n_needed}")
        check_count("n_train", n_train)
        check_count("all copies", sum(copies), at_most=n_train)
        for one in log10_ps:
            check_log10("log10_p_unseen", one)
        # Few copies first keep the table small for long; and the order listed shall not change a digit.
        pairs = sorted(zip(copies, log10_ps, strict=True))
        return cls(n_train, tuple(n for n, _ in pairs), tuple(p for _, p in pairs), n_needed)


def pass_tail(required: int, planting: Planting, *, in_logs: bool = False) -> Callable[[int], float]:
    """
    Return the function from the size of a uniform subset to log10 P(at least *required* backdoors pass).

    Given how many planted rows are in the subset, which ones they are is uniform; so the chance given that number is
    worked out once, and each size only weighs it by a hypergeometric law. All terms are positive. Good to 1e-10 of
    the probability above 1e-270, with *in_logs* below, too.
    """
    n_missable = len(planting.copies) - required
    if required <= 0 or n_missable < 0:
        constant = 0.0 if required <= 0 else -math.inf
        return lambda n_subset: constant
    ln_given_captured = _ln_given_captured(required, planting, _LOGS if in_logs else _PLAIN)

    def log10_tail(n_subset: int) -> float:
        low, ln_captured = _ln_captured_pmf(planting.n_train, sum(planting.copies), n_subset)
        ln_given = ln_given_captured[low : low + len(ln_captured)]
        return min(0.0, float(np.logaddexp.reduce(ln_captured + ln_given)) / _LN_10)

    return log10_tail


def log10_pass_tail(required: int, planting: Planting, n_subset: int) -> float:
    """Return log10 P(at least *required* backdoors pass) for *n_subset* rows, with all digits however small."""
    log10_tail = pass_tail(required, planting)(n_subset)
    return pass_tail(required, planting, in_logs=True)(n_subset) if log10_tail < _LOG10_TRUSTED else log10_tail


@lru_cache(maxsize=8)
def _ln_given_captured(required: int, planting: Planting, arithmetic: _Arithmetic) -> _Floats:
    """Return ln P(at least *required* pass | b planted rows captured) for b = 0 ... all of them."""
    n_backdoors = len(planting.copies)
    if max(planting.copies) == planting.n_needed == 1 and len(set(planting.log10_ps)) == 1:
        return _ln_given_singles(required, n_backdoors, planting.log10_ps[0])
    by_misses = _given_captured(planting, n_backdoors - required, arithmetic)
    total = arithmetic.plus.reduce(by_misses, axis=0)
    return total if arithmetic is _LOGS else _ln(total)


def _ln_given_singles(required: int, n_backdoors: int, log10_p: float) -> _Floats:
    """
    Return what `_ln_given_captured` does where each backdoor is one row and all pass unseen with one chance.

    With b captured that is P(X >= required - b), X binomial of the n - b others. One captured row more adds
    q P(X = required - b - 1) of n - b - 1: that one of the others fails and all the passes but one are there.
    """
    ln_p, ln_q = log10_p * _LN_10, float(_ln(np.array(-math.expm1(log10_p * _LN_10))))
    n_fails = n_backdoors - required
    passes = np.arange(1, required, dtype=np.float64)
    ln_ways = np.concatenate(([0.0], np.cumsum(np.log((n_fails + passes) / passes))))
    ln_steps = ln_ways + (n_fails + 1) * ln_q
    ln_steps[1:] += passes * ln_p
    ln_tails = np.zeros(n_backdoors + 1)
    ln_unseen = log10_binomial_tail(required, n_backdoors, log10_p) * _LN_10
    sums = np.logaddexp.accumulate(np.concatenate(([ln_unseen], ln_steps[::-1])))
    ln_tails[:required] = np.minimum(0.0, sums[:required])
    return ln_tails


def _given_captured(planting: Planting, n_missable: int, arithmetic: _Arithmetic) -> _Floats:
    """
    Return, in [t, b], the chance that t backdoors fail given b planted rows captured, for t up to *n_missable*.

    That is the coefficient of x**b y**t in the product over the backdoors of p + (1 - p) y for each way to capture
    too few of its c rows and of 1 for each other one, over (1 + x)**c in all, divided by the number of ways to
    capture b rows. Dividing step by step leaves probabilities, which neither overflow nor cancel.
    """
    plus, times, zero, one = arithmetic
    table = np.full((1, 1), one)
    n_rows = 0
    for copies, log10_p in zip(planting.copies, planting.log10_ps, strict=True):
        n_rows += copies
        weights = _weights(n_rows, copies)
        p, q = 10.0**log10_p, -math.expm1(log10_p * _LN_10)
        unseen = np.array((p, q))
        if arithmetic is _LOGS:
            weights, unseen = _ln(weights), np.array((log10_p * _LN_10, _ln(unseen)[1]))
        n_before, width = table.shape
        grown = np.full((min(n_before + 1, n_missable + 1), n_rows + 1), zero)
        buffer = np.empty_like(table)
        for i in range(copies + 1):
            part = times(table, weights[i, i : i + width], out=buffer)
            same, missed = grown[:n_before, i : i + width], grown[1:, i : i + width]
            if i < planting.n_needed:
                plus(missed, times(part[: len(missed)], unseen[1]), out=missed)
                times(part, unseen[0], out=part)
            plus(same, part, out=same)
        if arithmetic is _PLAIN:
            grown *= grown >= _DROPPED
        table = grown
    return table


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
