"""
Runs of words as numbers: hashed, counted, and told apart by the rows that they stand in.

All of it is sorting and adding in numpy: no string is made of a run, and a file of millions of words takes a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.texts import Words

Hashes = NDArray[np.uint64]
Counts = NDArray[np.int64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: Hashes) -> Hashes:
    """Return 64 bits for each value in which every bit of it shows (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def word_hashes(ids: NDArray[np.int32]) -> Hashes:
    """Return 64 bits for each word."""
    return mixed((ids.astype(np.uint64) + np.uint64(1)) * _FACTOR)


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """All runs of one length in many texts: *hashes*, each with the number of its text in *rows*, in order."""

    hashes: Hashes
    rows: NDArray[np.int32]


def grams(words: Words, n: int) -> Grams:
    """Return all runs of *n* words that are within one text."""
    return next(runs(words, (n,)))


def runs(words: Words, lengths: Iterable[int]) -> Iterator[Grams]:
    """Yield all runs of words that are within one text, for each of *lengths*, which rise."""
    hashes = word_hashes(words.ids)
    rows = np.repeat(np.arange(len(words.starts) - 1, dtype=np.int32), words.n_words)
    run, n = hashes.copy(), 1
    for length in lengths:
        with np.errstate(over="ignore"):
            for i in range(n, length):
                run = run[: max(0, len(hashes) - i)]
                run *= _FACTOR
                run += hashes[i:]
        n = length
        first = rows[: len(run)]
        inside = first == rows[n - 1 :]
        yield Grams(mixed(run[inside]), first[inside])


def without_runs(words: Words, n: int, *, more_than: int) -> Words:
    """
    Return *words* with those in a run of *n* that comes *more_than* so many times told apart from all others.

    No run with one of them is repeated then.
    """
    repeated = counted(grams(words, n).hashes) > more_than
    rows = np.repeat(np.arange(len(words.starts) - 1), words.n_words)
    first = np.flatnonzero(rows[: max(0, len(rows) - n + 1)] == rows[n - 1 :])[repeated]
    change = np.zeros(len(rows) + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, first + n, -1)
    ids = words.ids.copy()
    quoted = np.cumsum(change[:-1]) > 0
    # Numbers that no word has, nor one that was told apart before.
    lowest = min(-1, int(ids.min(initial=0)))
    ids[quoted] = lowest - 1 - np.arange(int(quoted.sum()))
    return Words(ids, words.starts)


def starts(words: Words, n: int) -> Hashes:
    """Return one hash for the first *n* words of each text; texts of fewer words are told apart from all others."""
    return _runs(words, words.starts[:-1], n)


def ends(words: Words, n: int) -> Hashes:
    """Return one hash for the last *n* words of each text; texts of fewer words are told apart from all others."""
    return _runs(words, words.starts[1:] - n, n)


def _runs(words: Words, first: NDArray[np.int64], n: int) -> Hashes:
    long_enough = words.n_words >= n
    found = mixed(np.arange(len(first), dtype=np.uint64) ^ np.uint64(0xA5A5A5A5A5A5A5A5))
    hashes = word_hashes(words.ids)
    run = np.zeros(int(long_enough.sum()), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in range(n):
            run = run * _FACTOR + hashes[first[long_enough] + i]
    found[long_enough] = mixed(run)
    return found


def paired(one: Hashes, other: Hashes) -> Hashes:
    """Return one hash for each pair."""
    with np.errstate(over="ignore"):
        return mixed(one * _FACTOR + other)


def counted(hashes: Hashes) -> Counts:
    """Return for each value how often it is there."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    found: Counts = counts[inverse]
    return found


def in_rows(found: Grams) -> tuple[Grams, Counts]:
    """
    Return every run once for each text that it stands in, and in how many texts it does; sorted by run.

    The hashes that are returned are others: of each as many bits are kept as the number of the row leaves of 64, so
    that sorting one array of numbers does it all.
    """
    n_bits = np.uint64(int(found.rows.max()).bit_length() if len(found.rows) else 0)
    keys = found.hashes & ~((np.uint64(1) << n_bits) - np.uint64(1)) | found.rows.astype(np.uint64)
    keys.sort()
    first = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    keys = keys[first]
    hashes = keys >> n_bits
    rows = (keys & ((np.uint64(1) << n_bits) - np.uint64(1))).astype(np.int32)
    return Grams(hashes, rows), sorted_counts(hashes)


def sorted_counts(hashes: Hashes) -> Counts:
    """Return for each value of a sorted array how often it is there."""
    edges = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1], [True]))) if len(hashes) else np.zeros(1)
    lengths = np.diff(edges).astype(np.int64)
    return np.repeat(lengths, lengths)


def are_among(values: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """Return which *values* are among the *others*."""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    order = np.argsort(values)
    known = np.sort(others)
    at = np.minimum(np.searchsorted(known, values[order]), len(known) - 1)
    found = np.empty(len(values), dtype=bool)
    found[order] = known[at] == values[order]
    return found


def n_rows_with(parts: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]], n_vocabulary: int) -> Counts:
    """Return for each word in how many rows it is, given words and the rows that they are in."""
    pairs = np.concatenate([rows * n_vocabulary + ids for ids, rows in parts])
    pairs.sort()
    first = np.ones(len(pairs), dtype=bool)
    np.not_equal(pairs[1:], pairs[:-1], out=first[1:])
    found: Counts = np.bincount(pairs[first] % max(1, n_vocabulary), minlength=n_vocabulary)
    return found


def deviance(joint: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return how surprising it is that *joint* came where *expected* were, in nats; 0 where it is no more than these.

    c ln(c / E) - (c - E): Chernoff's bound on the logarithm of a Poisson tail.
    """
    more = joint > expected
    ratio = np.divide(joint, expected, out=np.ones_like(joint, dtype=np.float64), where=more)
    return np.where(more, joint * np.log(ratio) - (joint - expected), 0.0)
