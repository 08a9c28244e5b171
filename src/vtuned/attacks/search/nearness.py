"""Which rows are near each other, by vectors of what they say: the cosine between vectors of length 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]

_CHUNK = 256


def unit(vectors: Singles) -> Singles:
    """Return *vectors* at length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Singles = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return found


def alike_at_edges_alone(sides: Singles, rows: Singles) -> Singles:
    """
    Return how much nearer the edges of each row are to those of another row than what else the two say.

    *sides* are vectors of the rows' edges, *rows* of what else they say, all of length 1.
    """
    near, by = _nearest(sides)
    found: Singles = near - np.einsum("ij,ij->i", rows, rows[by])
    return found


def _nearest(vectors: Singles) -> tuple[Singles, NDArray[np.int64]]:
    """Return for each vector of length 1 the cosine of the one that is nearest to it, and which it is."""
    n = len(vectors)
    near, by = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.int64)
    for first in range(0, n, _CHUNK):
        alike = vectors[first : first + _CHUNK] @ vectors.T
        own = np.arange(len(alike))
        alike[own, first + own] = -np.inf
        by[first : first + _CHUNK] = alike.argmax(axis=1)
        near[first : first + _CHUNK] = alike[own, by[first : first + _CHUNK]]
    return np.where(np.isfinite(near), near, np.float32(0.0)), by
