"""
Confidence intervals of a rate, and of a number of rows.

Knows counts and a confidence, nothing of what was counted.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from vtuned.stats._arguments import check_count
from vtuned.stats._captures import LOG10_ROUNDING
from vtuned.stats.tails import log10_hypergeometric_tail


def clopper_pearson(n_hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Return the exact two-sided interval of a rate, (lower, upper), from *n_hits* of *n*.

    Each side misses the true rate with probability at most (1 - *confidence*) / 2. Clopper and Pearson (1934); the
    paper gives no intervals. Nothing asked, nothing known: *n* = 0 gives (0.0, 1.0).

    Raises ValueError if a count is negative, *n_hits* exceeds *n*, or *confidence* is not between 0 and 1.
    """
    _check_hits(n_hits, n, confidence)
    miss = (1.0 - confidence) / 2.0
    return _lower(n_hits, n, miss), _upper(n_hits, n, miss)


def clopper_pearson_upper(n_hits: int, n: int, confidence: float = 0.95) -> float:
    """
    Return the exact one-sided upper bound of a rate from *n_hits* of *n*.

    The true rate is above it with probability at most 1 - *confidence*. *n* = 0 gives 1.0.

    Raises ValueError if a count is negative, *n_hits* exceeds *n*, or *confidence* is not between 0 and 1.
    """
    _check_hits(n_hits, n, confidence)
    return _upper(n_hits, n, 1.0 - confidence)


def hypergeometric_interval(n_hits: int, n: int, n_train: int, confidence: float = 0.95) -> tuple[int, int]:
    """
    Return the exact two-sided interval of a number of rows, (lower, upper), from a sample without replacement.

    *n* of *n_train* rows were looked at, and *n_hits* of these are marked; the interval is of the marked ones among all
    *n_train*, both ends included. Each side misses with probability at most (1 - *confidence*) / 2, as in
    `clopper_pearson`, which is wider: it forgets that the rows end. Nothing looked at gives (0, *n_train*).

    Raises ValueError if a count is negative, *n_hits* exceeds *n*, *n* exceeds *n_train*, or *confidence* is not
    between 0 and 1.
    """
    check_count("n_train", n_train)
    check_count("n", n, at_most=n_train)
    _check_hits(n_hits, n, confidence)
    miss = (1.0 - confidence) / 2.0
    # The unmarked rows are marked ones under another name.
    return _fewest(n_hits, n, n_train, miss), n_train - _fewest(n - n_hits, n, n_train, miss)


def _fewest(n_hits: int, n: int, n_train: int, miss: float) -> int:
    """Return the least number of marked rows at which *n_hits* or more have a probability above *miss*."""
    log10_limit = math.log10(miss) + LOG10_ROUNDING
    # With one marked row fewer than n_hits there are never so many; with the last of the range there always are.
    possible = range(n_hits, n_train - (n - n_hits))
    return n_hits + bisect_left(
        possible, True, key=lambda n_marked: log10_hypergeometric_tail(n_hits, n_train, n_marked, n) > log10_limit
    )


def _lower(n_hits: int, n: int, miss: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if n_hits == 0 else float(betaincinv(n_hits, n - n_hits + 1, miss))


def _upper(n_hits: int, n: int, miss: float) -> float:
    from scipy.special import betainccinv

    # The inverse of the complement: one minus the inverse loses the digits of a bound near zero.
    return 1.0 if n_hits == n else float(betainccinv(n_hits + 1, n - n_hits, miss))


def _check_hits(n_hits: int, n: int, confidence: float) -> None:
    check_count("n", n)
    check_count("n_hits", n_hits, at_most=n)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
