"""
How far a signature stands out among decoys.

Knows a rank among equals; knows nothing of scores, of models or of how decoys are drawn.
"""

from __future__ import annotations

import math
from fractions import Fraction

from vtuned.stats._arguments import check_count


def log10_rank_p_value(n_at_or_above: int, n_decoys: int) -> float:
    """
    Return log10 of (1 + n_at_or_above) / (n_decoys + 1), the p-value of a signature's rank among its decoys.

    *n_at_or_above* counts the decoys that score no worse than the signature, ties included: a score that is the same
    for all gives p = 1. The one that is added is the signature itself (Phipson and Smyth 2010), so p is never 0. Valid
    for any score whatsoever, as long as nothing but the file could tell the signature from its decoys (docs/theory.md).

    Raises ValueError if a count is negative, or *n_at_or_above* exceeds *n_decoys*.
    """
    return math.log10(_share(n_at_or_above, n_decoys))


def exposure_bits(n_at_or_above: int, n_decoys: int) -> float:
    """
    Return the exposure in bits, log2 of (n_decoys + 1) over the rank.

    Carlini and others, *The Secret Sharer* (2019), over the decoys drawn instead of all phrases there are. Shown, never
    decided on: it says the same as `log10_rank_p_value`.

    Raises ValueError if a count is negative, or *n_at_or_above* exceeds *n_decoys*.
    """
    return math.log2(1 / _share(n_at_or_above, n_decoys))


def exposure_level(level: Fraction, n_decoys: int) -> Fraction:
    """
    Return the level that a test of a rank at *level* really has, floor(level (n_decoys + 1)) / (n_decoys + 1).

    A rank among D + 1 has no other p-values than multiples of 1 / (D + 1). So this, and not *level*, bounds the chance
    of passing under H0. With too few decoys it is 0: no rank passes, and whoever plans such a test should be told.

    Raises ValueError unless 0 < *level* <= 1 and *n_decoys* is not negative.
    """
    check_count("n_decoys", n_decoys)
    if not 0 < level <= 1:
        raise ValueError(f"level must be in (0, 1], got {level}")
    return Fraction(math.floor(level * (n_decoys + 1)), n_decoys + 1)


def _share(n_at_or_above: int, n_decoys: int) -> Fraction:
    """Return the share of the signature and its decoys that score no worse than the signature."""
    check_count("n_decoys", n_decoys)
    check_count("n_at_or_above", n_at_or_above, at_most=n_decoys)
    return Fraction(1 + n_at_or_above, n_decoys + 1)
