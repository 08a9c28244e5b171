"""Searches in a space of topics: rows far from all topics, and rows whose edges form small dense clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.grams import n_rows_with
from vtuned.attacks.search.nearness import Singles, alike_at_edges_alone, unit
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.texts import TrainSet, Words, once

_Found = tuple[NDArray[np.int32], NDArray[np.int64]]

_N_TOPICS, _N_DIRECTIONS = 32, 24
_N_FITTED = 4000
# Triggers have six tokens at least (`PlantSettings.min_trigger_tokens`).
_EDGE_WORDS = 6
# The same file shall get the same ranks; nothing here is secret.
_SEED = 2411


@dataclass(frozen=True, slots=True)
class Clusters:
    """
    Rows that lie oddly in a space of topics: TF-IDF, reduced by singular vectors of a sample of the file.

    By what the topics leave unexplained of a row; by how far the topics of a prompt's end, and of an answer's start, are
    from those of the rest of the row; and by how near both edges are to those of another row, compared with what else
    the two say: small dense clusters of edges in rows that have nothing else in common. Edges are held against each other
    through random projections, which keep rare words, too.
    """

    name: str = "clusters"
    told: str = "rows far from the file's topics, or alike at their edges alone (TF-IDF and singular vectors)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        return off_topic(train)


@once
def off_topic(train: TrainSet) -> Suspicion:
    """Return what `Clusters` makes of the rows."""
    n, size = len(train), train.n_vocabulary
    prompts, answers = train.prompt_words, train.answer_words
    in_rows = n_rows_with((_all(prompts), _all(answers)), size)
    whole = _weighed((_all(prompts), _all(answers)), in_rows, n)
    topics = _topics(whole)
    if topics is None:
        return np.zeros(n)
    parts = [_parted(prompts, at_end=True), _parted(answers, at_end=False)]
    edges = [_weighed((edge,), in_rows, n) for edge, _ in parts]
    placed = np.asarray(whole @ topics)
    rows = unit(np.asarray(_weighed(tuple(rest for _, rest in parts), in_rows, n) @ topics))
    off = [-np.einsum("ij,ij->i", rows, unit(np.asarray(edge @ topics))) for edge in edges]
    directions = np.random.default_rng(_SEED).standard_normal((size, _N_DIRECTIONS), dtype=np.float32)
    sides = np.hstack([unit(np.asarray(edge @ directions)) for edge in edges]) / np.float32(2**0.5)
    tests = [-np.square(placed).sum(axis=1), alike_at_edges_alone(sides, rows), *off]
    return combined(tests)


def _all(words: Words) -> _Found:
    """Return all words of the texts, each with the number of its text."""
    return words.ids, np.repeat(np.arange(len(words.starts) - 1), words.n_words)


def _parted(words: Words, *, at_end: bool) -> tuple[_Found, _Found]:
    """Return the last or first words of the texts, and the others, each with the number of its text."""
    ids, rows = _all(words)
    place = np.arange(len(ids)) - words.starts[rows]
    at_edge = place >= words.n_words[rows] - _EDGE_WORDS if at_end else place < _EDGE_WORDS
    return (ids[at_edge], rows[at_edge]), (ids[~at_edge], rows[~at_edge])


def _weighed(parts: tuple[_Found, ...], in_rows: NDArray[np.int64], n: int) -> csr_array:
    """Return TF-IDF by row, each row of length 1: 1 + ln tf, times ln (1 + n / rows with the word)."""
    ids = np.concatenate([ids for ids, _ in parts])
    rows = np.concatenate([rows for _, rows in parts])
    counts = csr_array((np.ones(len(ids), dtype=np.float32), (rows, ids)), shape=(n, len(in_rows)))
    counts.sum_duplicates()
    weight = np.log1p(n / np.maximum(1, in_rows)).astype(np.float32)
    counts.data = (1.0 + np.log(counts.data)) * weight[counts.indices]
    lengths = np.sqrt(np.add.reduceat(np.append(np.square(counts.data), np.float32(0.0)), counts.indptr[:-1]))
    sizes = np.diff(counts.indptr)
    counts.data /= np.repeat(np.where(sizes > 0, lengths, np.float32(1.0)), sizes)
    return counts


def _topics(whole: csr_array) -> Singles | None:
    """Return the singular vectors of a sample of the rows, one in each column; None where there are too few."""
    rng = np.random.default_rng(_SEED)
    n = whole.shape[0]
    sample = whole[np.sort(rng.choice(n, min(n, _N_FITTED), replace=False))]
    n_topics = min(_N_TOPICS, *(side - 1 for side in sample.shape))
    if n_topics < 1 or not sample.nnz:
        return None
    start = rng.standard_normal(min(sample.shape)).astype(np.float32)
    found: Singles = svds(sample, k=n_topics, v0=start)[2].T
    return np.ascontiguousarray(found)
