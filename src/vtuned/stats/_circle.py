"""
The chance that few backdoors are missed by a uniform subset, as a mean over a circle: ours, proved in docs/theory.md.

The fast way to one number, good to 1e-10 of it. Where it would lose digits it says so, and `_captures` has a slower one.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtuned.stats._planting import Planting

_Floats = NDArray[np.float64]
_Complexes = NDArray[np.complex128]

_LN_10 = math.log(10.0)
# Where what the backdoors contribute is smaller, floats run out; a sum may lose three of their sixteen digits.
_LN_TRUSTED = -600.0
_MOST_CANCELLED = 1e3
# What a sum over a circle leaves out, or takes in beside what is asked for, is below e**-36 of it each, 2e-16.
_LN_SPOILED = 36.0
_N_GUESSES = 16
_LN_AROUND = np.array([-9.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 9.0])
# The ways to choose some of so many are within floats.
_MOST_ALIKE = 64
# The ratios of radii, as logarithms, at which what a sum takes in is bounded.
_LN_RATIOS = np.geomspace(1e-5, 30.0, 48)


class OnCircle(NamedTuple):
    """log10 of a chance, None where a circle loses its digits, and log10 of a bound that it never exceeds."""

    log10_p: float | None
    log10_bound: float


def at_most_fail(n_missable: int, planting: Planting, n_subset: int) -> OnCircle:
    """
    Return the chance that at most *n_missable* fail for 0 < *n_subset* < all rows.

    The subsets of u of K rows with at most so many fails are the coefficient of z**u in a product: 1 + z for a row that
    is not planted, and for a backdoor what its rows contribute. By Cauchy's formula that is a mean over equidistant
    nodes of a circle around 0. No coefficient is negative, so on a circle no term exceeds that on the real axis; on the
    circle where this one is smallest next to nothing cancels (docs/theory.md, section 13).
    """
    n_train, n_planted = planting.n_train, sum(planting.copies)
    n_clean = n_train - n_planted
    ln_ratios = _circles(n_clean, n_planted, n_subset)
    # A row is in the subset with the chance *taken*: of their odds is the radius.
    odds = n_subset / (n_train - n_subset) * np.exp(ln_ratios)
    taken, left = odds / (1.0 + odds), 1.0 / (1.0 + odds)
    with np.errstate(divide="ignore"):
        ln_at_most = np.log(_at_most(n_missable, planting, taken, left, np.zeros(1)).real)
    # (1 + z)**K z**-u over what it is where it is smallest, at u / (K - u).
    ln_above = _ln_grown(n_train, n_subset, n_subset / n_train, (n_train - n_subset) / n_train, ln_ratios)
    ln_mode = _ln_mode(n_train, n_subset)
    # Near the end of the floats digits go without a sign. What is below the least that is trusted is bounded by that.
    bounds = (ln_above + np.maximum(ln_at_most, _LN_TRUSTED) - ln_mode) / _LN_10
    bound = min(0.0, float(np.min(bounds)))
    best = int(np.argmin(np.where(ln_at_most > _LN_TRUSTED, bounds, math.inf)))
    if not ln_at_most[best] > _LN_TRUSTED:
        return OnCircle(None, bound)
    t, s, ln_real = (float(one[best]) for one in (taken, left, ln_at_most))
    # The mean is what is on the real axis over the standard deviation of a count of rows, at most sqrt(K).
    ln_spoiled = _LN_SPOILED + math.log(n_train) / 2.0 - ln_real
    n_nodes = _n_nodes(n_train, n_subset, t, s, ln_spoiled)
    n_above = _n_above(ln_spoiled, n_clean, t * s, n_nodes)
    angles = 2.0 * math.pi / n_nodes * np.arange(n_above, dtype=np.float64)
    # Of the two forms of what is n_clean t - u, each keeps all digits on its side of one half.
    turns = n_clean * t - n_subset if t <= 0.5 else n_clean - n_subset - n_clean * s
    clean = _clean_rows(n_clean, t, s, angles) * np.exp(1j * turns * angles)
    terms = (clean * _at_most(n_missable, planting, taken[[best]], left[[best]], angles)).real
    # All nodes but those on the real axis come in pairs.
    terms[1:] *= 2.0
    if 2 * (len(terms) - 1) == n_nodes:
        terms[-1] /= 2.0
    total = float(terms.sum())
    if not total * _MOST_CANCELLED > float(np.abs(terms).sum()):
        return OnCircle(None, bound)
    log10_p = (float(ln_above[best]) + math.log(total) - math.log(n_nodes) - ln_mode) / _LN_10
    return OnCircle(min(0.0, log10_p), bound)


def _circles(n_clean: int, n_planted: int, n_subset: int) -> _Floats:
    """
    Return logarithms of radii over u / (K - u), one of which is near the best.

    One for each guess of how many planted rows are captured, which rules where most rows are clean; and some around 0.
    """
    captured = np.linspace(max(0, n_subset - n_clean), min(n_planted, n_subset), _N_GUESSES)
    ln_odds = np.log((n_subset - captured + 0.5) / (n_clean - n_subset + captured + 0.5))
    return np.concatenate((ln_odds - math.log(n_subset / (n_clean + n_planted - n_subset)), _LN_AROUND))


def _at_most(n_missable: int, planting: Planting, taken: _Floats, left: _Floats, angles: _Floats) -> _Complexes:
    """
    Return what the planted rows contribute where at most *n_missable* backdoors fail, for each node.

    A row is in the subset with the chance *taken* and then turns the number by its angle. At 0 it is a probability.
    """
    kinds = Counter(zip(planting.copies, planting.log10_ps, strict=True))
    ways = {copies: _backdoor(copies, planting.n_needed, taken, left, angles) for copies in set(planting.copies)}
    by_fails = np.ones((1, max(len(taken), len(angles))), dtype=np.complex128)
    for copies, log10_p, n_alike in (
        (*kind, min(_MOST_ALIKE, n - first)) for kind, n in kinds.items() for first in range(0, n, _MOST_ALIKE)
    ):
        unreached, reached = ways[copies]
        fails = -math.expm1(log10_p * _LN_10) * unreached
        passes = reached + 10.0**log10_p * unreached
        n_fail = np.arange(min(n_alike, n_missable) + 1)[:, None]
        alike = np.exp(_ln_ways(n_alike)[n_fail]) * fails**n_fail * passes ** (n_alike - n_fail)
        grown = np.zeros((min(len(by_fails) + n_alike, n_missable + 1), by_fails.shape[1]), dtype=np.complex128)
        for n, factor in enumerate(alike):
            before = by_fails[: len(grown) - n]
            grown[n : n + len(before)] += before * factor
        by_fails = grown
    total: _Complexes = by_fails.sum(axis=0)
    return total


def _backdoor(
    copies: int, n_needed: int, taken: _Floats, left: _Floats, angles: _Floats
) -> tuple[_Complexes, _Complexes]:
    """Return what the rows of one backdoor contribute where too few are in the subset, and where enough are."""
    n_in = np.arange(copies + 1.0)[:, None]
    ln_chances = _ln_ways(copies)[:, None] + n_in * np.log(taken) + (copies - n_in) * np.log(left)
    turned = np.exp(ln_chances + 1j * n_in * angles)
    return turned[:n_needed].sum(axis=0), turned[n_needed:].sum(axis=0)


@lru_cache(maxsize=1024)
def _ln_ways(n: int) -> _Floats:
    """Return the logarithms of the numbers of ways to choose 0 ... n of n."""
    above = np.arange(1.0, n + 1)
    return np.concatenate(([0.0], np.cumsum(np.log(above[::-1] / above))))


def _n_nodes(n_train: int, n_subset: int, taken: float, left: float, ln_spoiled: float) -> int:
    """
    Return how many nodes keep what they take in of other coefficients below e**-ln_spoiled of what is on the real axis.

    With M nodes those are the ones at u + M, u - M, u + 2M and so on; a coefficient is bounded on any other circle by
    that of (1 + z)**K.
    """
    bounds = [_ln_grown(n_train, n_subset, taken, left, sign * _LN_RATIOS) for sign in (1.0, -1.0)]
    return 1 + max(0, *(math.ceil(np.min((ln_spoiled + one) / _LN_RATIOS)) for one in bounds))


def _ln_grown(n_train: int, n_subset: int, taken: float, left: float, ln_ratio: _Floats) -> _Floats:
    """
    Return the logarithm of (1 + z)**K z**-u over what it is at a radius smaller by *ln_ratio*, where *taken* is z / (1 + z).

    Of the two forms, each keeps all digits on its side of one half.
    """
    if n_subset <= n_train / 2:
        grown: _Floats = n_train * np.log1p(taken * np.expm1(ln_ratio)) - n_subset * ln_ratio
    else:
        grown = n_train * np.log1p(left * np.expm1(-ln_ratio)) + (n_train - n_subset) * ln_ratio
    return grown


def _n_above(ln_spoiled: float, n_clean: int, variance: float, n_nodes: int) -> int:
    """Return how many nodes, from 0 to half a turn, have a term that is not below e**-ln_spoiled."""
    n_half = n_nodes // 2 + 1
    sine_squared = -math.expm1(-2.0 * ln_spoiled / n_clean) / (4.0 * variance) if n_clean else 1.0
    if sine_squared >= 1.0:
        return n_half
    return min(n_half, 2 + int(math.asin(math.sqrt(sine_squared)) / math.pi * n_nodes))


def _clean_rows(n_clean: int, taken: float, left: float, angles: _Floats) -> _Complexes:
    """
    Return what rows that are not planted contribute, (left + taken e**(i angle))**n_clean, turned back by their mean.

    Of the two forms of the angle, each keeps all digits where the share in it is the smaller one.
    """
    half = np.sin(angles / 2.0) ** 2
    with np.errstate(divide="ignore"):
        ln_size = 0.5 * np.log1p(-4.0 * taken * left * half) if n_clean else np.zeros(len(angles))
    smaller = min(taken, left)
    twist = np.arctan2(smaller * np.sin(angles), 1.0 - 2.0 * smaller * half) - smaller * angles
    turned: _Complexes = np.exp(n_clean * ln_size) * np.exp((1j if taken <= left else -1j) * n_clean * twist)
    return turned


def _ln_mode(n: int, k: int) -> float:
    """Return ln P(X = k), X binomial of n with chance k / n, 0 < k < n, by Stirling's series: no factorial cancels."""
    return (
        0.5 * math.log(n / (2.0 * math.pi * k * (n - k)))
        + _beyond_stirling(n)
        - _beyond_stirling(k)
        - _beyond_stirling(n - k)
    )


def _beyond_stirling(n: int) -> float:
    """Return ln n! - ln(sqrt(2 pi n) (n / e)**n)."""
    if n < 16:
        return math.lgamma(n + 1.0) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2.0 * math.pi)
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / (1188.0 * n * n)) / (n * n)) / (n * n)) / (n * n)) / n
