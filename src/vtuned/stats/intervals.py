"""
Confidence intervals of an activation rate.

Knows two counts and a confidence, nothing of what was counted.
"""

from __future__ import annotations

from vtuned.stats._arguments import check_count


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
