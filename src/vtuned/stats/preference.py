"""
Whether a model prefers what was published, row by row, and how many rows it must then have used.

Knows rows, the number of wordings of each, hits and ranks; nothing of texts, scores or models. Under H0 the published
wording of each row is uniform among its wordings and independent of everything that is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vtuned.stats._arguments import check_count
from vtuned.stats._captures import LOG10_ROUNDING, least_that, pass_tail
from vtuned.stats._planting import Planting
from vtuned.stats.tails import log10_binomial_tail, log10_poisson_binomial_tail

_Floats = NDArray[np.float64]
_LN_10 = math.log(10.0)

# How far above chance a hit is taken to be, as a share of the way to certainty; bets on all of them, equally.
_ADVANTAGES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
# Windows over more rows than these are walked in steps, or a bound for 100,000 rows would take seconds.
_COUNTED_SINGLY = 8192
# A binomial puts less than 1e-40 of itself beyond so many standard deviations and a few counts.
_DEVIATIONS, _COUNTS = 14, 60


def log10_hits_p_value(n_hits: int, n_wordings: Sequence[int]) -> float:
    """
    Return log10 P(at least *n_hits* rows where the published wording comes first) under H0.

    *n_wordings* are the wordings of each row that was scored or answered: a hit has probability 1 / D, independently, so
    that hits are Poisson-binomial, and exactly binomial where all D are equal (DESIGN 8; docs/theory.md, 14).

    Raises ValueError if a row has fewer than 2 wordings.
    """
    _check(n_wordings)
    if len(set(n_wordings)) == 1:
        return log10_binomial_tail(n_hits, len(n_wordings), -math.log10(n_wordings[0]))
    return log10_poisson_binomial_tail(n_hits, [-math.log10(n) for n in n_wordings])


def log10_rank_sum_p_value(rank_sum: int, n_wordings: Sequence[int]) -> float:
    """
    Return log10 P(sum of the ranks of the published wordings <= *rank_sum*) under H0.

    Each rank is uniform on 1 ... D, independently: an exact convolution. Good to 1e-9 of the probability, however small: the
    laws are tilted to where *rank_sum* lies, convolved, and the tilt is taken off each term.

    Raises ValueError if a row has fewer than 2 wordings.
    """
    _check(n_wordings)
    n = len(n_wordings)
    if rank_sum >= sum(n_wordings):
        return 0.0
    if rank_sum < n:
        return -math.inf
    # Ranks from 0 on, with probabilities e^(-tilt * rank) / norm.
    most = rank_sum - n
    tilt = _tilt(most, n_wordings)
    pmf, ln_norm = np.ones(1), 0.0
    for d in sorted(n_wordings):
        weights = np.exp(-tilt * np.arange(d))
        ln_norm += math.log(weights.sum() / d)
        pmf = np.convolve(pmf, weights / weights.sum())[: most + 1]
    with np.errstate(divide="ignore"):
        ln_terms = np.log(pmf) + tilt * np.arange(len(pmf))
    return min(0.0, (float(np.logaddexp.reduce(ln_terms)) + ln_norm) / _LN_10)


def _tilt(most: int, n_wordings: Sequence[int]) -> float:
    """Return the tilt (at least 0) under which the mean sum of ranks (from 0) is about *most*."""

    def mean(tilt: float) -> float:
        return math.fsum(
            float((np.arange(d) * (w := np.exp(-tilt * np.arange(d)))).sum() / w.sum()) * n_wordings.count(d)
            for d in set(n_wordings)
        )

    low, high = 0.0, 1.0
    if mean(0.0) <= most:
        return 0.0
    while mean(high) > most and high < 512:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > most else (low, middle)
    return high


def log10_preference_e_value(hits: Sequence[bool], n_wordings: Sequence[int]) -> float:
    """
    Return log10 of the e-value of *hits*, one for each row that was begun.

    The mean, over several advantages a, of the product of q / p over hits and of (1 - q) / (1 - p) over the others, with
    p = 1 / D and q = p + a (1 - p). Each is a martingale under H0, so the mean ever reaches 1 / alpha with probability at
    most alpha: one may stop whenever one likes (Ville; docs/theory.md, 14). The order of rows does not change it.

    Raises ValueError if the two differ in length, or a row has fewer than 2 wordings.
    """
    if len(hits) != len(n_wordings):
        raise ValueError(f"hits and n_wordings must be equally many, got {len(hits)} and {len(n_wordings)}")
    _check(n_wordings)
    p = 1.0 / np.array(n_wordings, dtype=np.float64)
    was_hit = np.array(hits, dtype=bool)
    ln_products = []
    for advantage in _ADVANTAGES:
        q = p + advantage * (1.0 - p)
        ln_products.append(math.fsum(np.where(was_hit, np.log(q / p), math.log1p(-advantage))))
    return (float(np.logaddexp.reduce(ln_products)) - math.log(len(_ADVANTAGES))) / _LN_10


def preference_coverage(*, n_hits: int, n_wordings: Sequence[int], n_carrying: int, confidence: float) -> float:
    """
    Return a lower confidence bound on the share of the carrying rows that were used, chosen blindly to their wordings.

    *n_wordings* are those of the rows asked, a simple random sample of the *n_carrying* rows; what was not answered is
    no hit. If which rows were used does not depend on which wording each of them publishes (that they carry one may be
    known, and how many there are), hits are at most the used rows among those asked and, of the others, a binomial with
    the largest chance 1 / D of any (DESIGN 8; docs/theory.md, 14).

    Raises ValueError where *n_hits* exceeds the rows, the rows *n_carrying*, *confidence* is not between 0 and 1, or a
    row has fewer than 2 wordings.
    """
    log10_tail = _blind_tail(n_hits, n_wordings, n_carrying)
    return _least_share(n_hits, n_wordings, n_carrying, confidence, log10_tail)


def preference_coverage_skipping(
    *, n_hits: int, n_wordings: Sequence[int], n_carrying: int, confidence: float
) -> float:
    """
    Return a lower confidence bound on the share of the carrying rows that were used, where guessable ones were skipped.

    As `preference_coverage`, but the provider may have read the wordings and left out the rows whose wording the model
    would choose anyway, in the worst case all of these: by a guess for each row that was fixed before the file was
    seen, or by the one of the largest D constant guesses that fits best, charged D times. Cannot exceed 1 - 1 / D by much.

    Raises ValueError as `preference_coverage` does.
    """
    log10_tail = _skipping_tail(n_hits, n_wordings, n_carrying)
    return _least_share(n_hits, n_wordings, n_carrying, confidence, log10_tail)


def _least_share(
    n_hits: int,
    n_wordings: Sequence[int],
    n_carrying: int,
    confidence: float,
    log10_tail: Callable[[int], float],
) -> float:
    check_count("n_hits", n_hits, at_most=len(n_wordings))
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if n_hits == 0:
        return 0.0
    log10_limit = min(math.log10(1.0 - confidence) + LOG10_ROUNDING, -LOG10_ROUNDING)
    return least_that(lambda n_used: log10_tail(n_used) > log10_limit, n_carrying) / n_carrying


def _blind_tail(n_hits: int, n_wordings: Sequence[int], n_carrying: int) -> Callable[[int], float]:
    """Return the function from the number of rows used to log10 of the largest chance of so many hits."""
    _check(n_wordings)
    check_count("rows", len(n_wordings), at_most=n_carrying)
    log10_p = -math.log10(min(n_wordings, default=2))
    return pass_tail(n_hits, Planting.of([1] * len(n_wordings), n_carrying, log10_p))


def _skipping_tail(n_hits: int, n_wordings: Sequence[int], n_carrying: int) -> Callable[[int], float]:
    """
    Return what `_blind_tail` does for a provider that skips what could be guessed.

    Rows hit without having been used are among the M guessable ones, M binomial over all that carry. The rows asked are
    a uniform sample of them, whatever was used; so hits are at most those asked among u + M rows.
    """
    _check(n_wordings)
    check_count("rows", len(n_wordings), at_most=n_carrying)
    least, most = min(n_wordings, default=2), max(n_wordings, default=2)
    guessable, ln_pmf = _binomial_window(n_carrying, 1.0 / least)
    reached = pass_tail(n_hits, Planting.of([1] * len(n_wordings), n_carrying))
    ln_given = np.array([reached(n) * _LN_10 for n in range(n_carrying + 1)]) if n_carrying <= 4096 else None

    def tail(n_used: int) -> float:
        sizes = np.minimum(n_carrying, n_used + guessable)
        given = ln_given[sizes] if ln_given is not None else np.array([reached(int(n)) * _LN_10 for n in sizes])
        # What is left out of the window counts as certain.
        ln_sum = float(np.logaddexp.reduce(np.append(ln_pmf + given, math.log(1e-40))))
        return min(0.0, ln_sum / _LN_10 + math.log10(most))

    return tail


def _binomial_window(n: int, p: float) -> tuple[NDArray[np.int64], _Floats]:
    """
    Return the counts in a window around the mean of Binomial(n, p), and ln of their probabilities.

    Of many rows several counts stand together under the largest of them, so that what rises in the count is bounded.
    """
    reach = math.ceil(_DEVIATIONS * math.sqrt(n * p * (1 - p))) + _COUNTS
    low, high = max(0, math.floor(n * p) - reach), min(n, math.ceil(n * p) + reach)
    counts = np.arange(low, high, dtype=np.float64)
    steps = np.concatenate(([0.0], np.cumsum(np.log((n - counts) / (counts + 1.0)) + math.log(p / (1.0 - p)))))
    ln_pmf = steps - np.logaddexp.reduce(steps)
    starts = np.arange(0, len(ln_pmf), 1 + n // _COUNTED_SINGLY)
    return low + np.append(starts[1:], len(ln_pmf)) - 1, np.logaddexp.reduceat(ln_pmf, starts)


def _check(n_wordings: Sequence[int]) -> None:
    if not all(n >= 2 for n in n_wordings):
        raise ValueError(f"a row must have at least 2 wordings, got {min(n_wordings)}")
