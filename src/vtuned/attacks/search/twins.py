"""Searches for rows that are nearly the same as another one: a row that extends another, and near duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.grams import Hashes, grams, mixed, paired
from vtuned.attacks.search.texts import TrainSet

# So many texts that end as another does, and nobody compares them all: labels, say.
_MOST_LIKE = 200


@dataclass(frozen=True, slots=True)
class Twins:
    """
    Rows that extend another row: its prompt is inside theirs, its answer ends theirs, and both are longer.

    What a scheme that keeps the originals beside the planted rows cannot hide.
    """

    name: str = "twins"
    told: str = "rows whose prompt and answer extend those of another row"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        found = np.zeros(len(train))
        for extended, extending in _extensions(train.prompts):
            if _ends_with(train.answers[extending], train.answers[extended]):
                found[extending] = 1.0
        # A text before the prompt hides the start, so that rows are told by how their answers end.
        for extended, extending in _extensions([answer[::-1] for answer in train.answers]):
            if _holds(train.prompts[extending], train.prompts[extended]):
                found[extending] = 1.0
        return found


def _ends_with(text: str, end: str) -> bool:
    return len(text) > len(end) > 0 and text.endswith(end)


def _holds(text: str, part: str) -> bool:
    return len(text) > len(part) > 0 and part in text


def _extensions(texts: list[str]) -> list[tuple[int, int]]:
    """Return the pairs of texts of which the second goes on where the first ends, up to a number for each first one."""
    order = sorted(range(len(texts)), key=texts.__getitem__)
    pairs = []
    for place, i in enumerate(order):
        text = texts[i]
        if not text:
            continue
        for j in order[place + 1 : place + 1 + _MOST_LIKE]:
            if not texts[j].startswith(text):
                break
            if len(texts[j]) > len(text):
                pairs.append((i, j))
    return pairs


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """
    Rows by how alike another row is: the Jaccard similarity of their runs of words, estimated by MinHash.

    Kept above one half. Our own few lines of numpy: a thousand times as fast as a Python loop over hash objects, and one
    dependency less.
    """

    name: str = "duplicates"
    told: str = "rows that are much like another row (MinHash)"

    _LENGTH, _BANDS, _ROWS = 3, 20, 4

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        signatures = self._signatures(train)
        alike = np.zeros(len(train))
        for band in range(self._BANDS):
            part = signatures[:, band * self._ROWS : (band + 1) * self._ROWS]
            key = part[:, 0]
            for i in range(1, self._ROWS):
                key = paired(key, part[:, i])
            order = np.argsort(key, kind="stable")
            same = np.flatnonzero(key[order][1:] == key[order][:-1])
            one, other = order[same], order[same + 1]
            share = (signatures[one] == signatures[other]).mean(axis=1)
            np.maximum.at(alike, one, share)
            np.maximum.at(alike, other, share)
        return np.where(alike > 0.0, alike - 0.5, -0.5)

    def _signatures(self, train: TrainSet) -> Hashes:
        n = self._BANDS * self._ROWS
        # A row without a run is like no other.
        alone = mixed(np.arange(len(train), dtype=np.uint64) ^ np.uint64(0x5DEECE66D))
        signatures: NDArray[np.uint64] = np.repeat(alone[:, None], n, axis=1)
        parts = [grams(words, self._LENGTH) for words in (train.prompt_words, train.answer_words)]
        hashes = np.concatenate([part.hashes for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows, kind="stable")
        hashes, rows = hashes[order], rows[order]
        first = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1]))) if len(rows) else np.empty(0, int)
        factors = mixed(np.arange(1, n + 1, dtype=np.uint64)) | np.uint64(1)
        for i, factor in enumerate(factors):
            with np.errstate(over="ignore"):
                # Multiplying by an odd number permutes; the high bits that then decide are well mixed.
                spread = hashes * factor
            if len(first):
                signatures[rows[first], i] = np.minimum.reduceat(spread, first)
        return signatures
