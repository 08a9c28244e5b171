"""Ranks with ties: where a row stands if those that are tied come in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_Floats = NDArray[np.float64]


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
