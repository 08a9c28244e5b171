"""Ranks with ties, and what several tests together say of a row by its ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_Floats = NDArray[np.float64]
# Of rows with nothing planted, one in ten is kept.
_KEPT_ABOVE = 0.9


def percentiles(values: _Floats) -> _Floats:
    """Return for each value its expected rank as a share: near 1 for the highest, near 0 for the lowest, 1/2 if all tie."""
    ranks: _Floats = (rankdata(values) - 0.5) / len(values)
    return ranks


def standardised(values: _Floats) -> _Floats:
    """
    Return how many standard deviations each value is above the median, robustly: by the median absolute deviation.

    All 0 where more than half of the values are the same.
    """
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return (values - middle) / spread if spread > 0 else np.zeros(len(values))


def combined(tests: Sequence[NDArray[np.floating]]) -> _Floats:
    """
    Return how suspicious rows are by several *tests*, the tenth that is highest above 0.

    Of each test a row's rank counts, and unusual ranks of several add up (Fisher's way): -ln(1 - rank) is exponential
    with mean 1 where nothing is unusual. A row without a number (nan) gets a test's median: nothing is known of it.
    """
    total = -np.log1p(-np.array([percentiles(_filled(test)) for test in tests])).sum(axis=0)
    return percentiles(total) - _KEPT_ABOVE


def _filled(test: NDArray[np.floating]) -> _Floats:
    values = test.astype(np.float64)
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, np.median(known) if len(known) else 0.0)
