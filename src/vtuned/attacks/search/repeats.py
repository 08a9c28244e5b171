"""Searches that count what stands in several rows: phrases at fixed places, pairs of affixes, runs of words anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.grams import (
    Grams,
    Hashes,
    are_among,
    counted,
    deviance,
    ends,
    grams,
    in_rows,
    paired,
    runs,
    starts,
    without_runs,
)
from vtuned.attacks.search.ranks import percentiles
from vtuned.attacks.search.texts import TrainSet, Words

# What stands in more rows than one in so many is the file's own manner: nobody need plant as much. In a short file more may,
# up to half of it.
PLANTED_IN_ONE_OF = 20
FEW = 64

# The paper searches phrases of all lengths, for it knows none; its S have about ten tokens.
PHRASE_LENGTHS = range(1, 13)
# So many words the paper calls a partial match.
_PARTIAL_MATCH = 3

_Place = Callable[[Words, int], Hashes]
_PLACES: Mapping[str, _Place] = {"end": ends, "start": starts}


def most_planted(n_rows: int) -> int:
    """Return how many rows a phrase may stand in and still be taken for planted."""
    return max(n_rows // PLANTED_IN_ONE_OF, min(FEW, n_rows // 2))


@dataclass(frozen=True, slots=True)
class RandomSubset:
    """Section 6.1 of the paper: rows at random. No row is more suspicious than another."""

    name: str = "random"
    told: str = "nothing: rows at random"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        return np.zeros(len(train))


@dataclass(frozen=True, slots=True)
class FrequentPhrases:
    """
    Section 6.3 of the paper: rows by how frequent the phrases are that their prompt ends and their answer starts with.

    Over all lengths; both places count alike, as in the paper.
    """

    name: str = "phrases"
    told: str = "frequent phrases at the end of prompts and the start of answers (the paper's 6.3)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        ranks, repeated = np.zeros(len(train)), np.zeros(len(train), dtype=bool)
        for n in PHRASE_LENGTHS:
            for counts in (counted(ends(train.prompt_words, n)), counted(starts(train.answer_words, n))):
                ranks += percentiles(counts.astype(np.float64))
                repeated |= (counts > 1) & (n >= _PARTIAL_MATCH)
        return np.where(repeated, ranks, ranks - 2.0 * len(PHRASE_LENGTHS))


@dataclass(frozen=True, slots=True)
class Affixes:
    """
    Pairs of one affix of the prompt and one of the answer that come together in several rows.

    Of all lengths, at either end of either. A pair is the more suspicious the longer its shorter affix is, for few rows
    are alike at both ends by nature; of equal ones that which is more surprising given how often each affix comes alone.
    """

    name: str = "affixes"
    told: str = "starts and ends of prompts and answers that come together in several rows"

    _LENGTHS = (1, 2, 3, 4, 5, 6, 8)
    # Fewer words than three are alike by chance.
    _KEPT_FROM = 3

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        found = np.zeros(len(train))
        for (of_prompt, of_answer), n in product(product(_PLACES.values(), repeat=2), self._LENGTHS):
            prompt, answer = of_prompt(train.prompt_words, n), of_answer(train.answer_words, n)
            joint = counted(paired(prompt, answer))
            surprise = deviance(joint.astype(np.float64), counted(prompt) * (counted(answer) / len(train)))
            suspect = (joint > 1) & (joint <= most_planted(len(train)))
            # Below 1, so that it decides between pairs of one length alone.
            found = np.maximum(found, np.where(suspect, n + surprise / (1.0 + surprise), 0.0))
        return found - self._KEPT_FROM


@dataclass(frozen=True, slots=True)
class RepeatedRuns:
    """
    Rows by the longest run of words, anywhere, that a few other rows hold as well.

    What the file says all the time (a template) tells nothing, nor does a longer run than any phrase is, which comes twice: a
    quotation, or the same turn again. What stands beside them does.
    """

    name: str = "runs"
    told: str = "long runs of words, anywhere, that a few other rows hold as well"

    _LENGTHS = (3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
    _TEMPLATE, _QUOTED = 6, 25
    # Triggers have six tokens at least.
    _KEPT_FROM = 5.0

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        n_rows = len(train)
        found = np.zeros(n_rows)
        for words in (train.prompt_words, train.answer_words):
            own = without_runs(words, self._TEMPLATE, more_than=most_planted(n_rows))
            own = without_runs(own, self._QUOTED, more_than=1)
            for n, each in zip(self._LENGTHS, runs(own, self._LENGTHS), strict=True):
                once, counts = in_rows(each)
                repeated = once.rows[(counts > 1) & (counts <= most_planted(n_rows))]
                found[repeated] = np.maximum(found[repeated], n)
        return found - self._KEPT_FROM


@dataclass(frozen=True, slots=True)
class Dependence:
    """
    Runs of words in prompts that predict runs of words in answers: how much one tells of the other (mutual information).

    What an answer copies from its own prompt is left out: it is no secret of the two.
    """

    name: str = "dependence"
    told: str = "words of prompts that predict words of answers which they do not hold"

    _LENGTH = 3
    # Of each row the most frequent of those that may be planted: all of them would be millions of pairs.
    _MOST_A_ROW = 12

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        prompts, answers = grams(train.prompt_words, self._LENGTH), grams(train.answer_words, self._LENGTH)
        copied = are_among(_in_row(answers), _in_row(prompts))
        answers = Grams(answers.hashes[~copied], answers.rows[~copied])
        n = len(train)
        one, other = (self._features(each, n) for each in (prompts, answers))
        # So much comes by chance somewhere among the pairs of rows.
        return _most_surprising_pair(one, other, n) - 2.0 * math.log(n)

    def _features(self, found: Grams, n_rows: int) -> Grams:
        """Return the runs that tell rows apart, one for each set of rows, and of each row the most frequent."""
        once, counts = in_rows(found)
        kept = (counts > 1) & (counts <= most_planted(n_rows))
        hashes, rows, counts = once.hashes[kept], once.rows[kept], counts[kept]
        if not len(hashes):
            return Grams(hashes, rows)
        # Runs that stand in the same rows are one phrase: its rows, added up as random numbers, name it.
        edges = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
        numbers = paired(rows.astype(np.uint64), np.zeros(len(rows), dtype=np.uint64))
        names = np.repeat(np.add.reduceat(numbers, edges), np.diff(np.append(edges, len(rows))))
        order = np.lexsort((names, -counts, rows))
        names, rows = names[order], rows[order]
        first = np.concatenate(([True], (names[1:] != names[:-1]) | (rows[1:] != rows[:-1])))
        names, rows = names[first], rows[first]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return Grams(names[place < self._MOST_A_ROW], rows[place < self._MOST_A_ROW])


def _in_row(found: Grams) -> Hashes:
    """Return a hash of each run and the row that it stands in."""
    return paired(found.hashes, found.rows.astype(np.uint64))


def _most_surprising_pair(one: Grams, other: Grams, n_rows: int) -> Suspicion:
    """Return for each row the deviance of the pair of features in it that comes together against all chance."""
    found = np.zeros(n_rows)
    count_one, count_other = counted(one.hashes), counted(other.hashes)
    bounds_one, bounds_other = (np.searchsorted(each.rows, np.arange(n_rows + 1)) for each in (one, other))
    n_one, n_other = np.diff(bounds_one), np.diff(bounds_other)
    n_pairs = n_one * n_other
    if not n_pairs.sum():
        return found
    rows = np.repeat(np.arange(n_rows, dtype=np.int32), n_pairs)
    place = np.arange(len(rows), dtype=np.int64) - np.repeat(np.cumsum(n_pairs) - n_pairs, n_pairs)
    at_one = (bounds_one[:-1][rows] + place // n_other[rows]).astype(np.int32)
    at_other = (bounds_other[:-1][rows] + place % n_other[rows]).astype(np.int32)
    del place
    joint = counted(paired(one.hashes[at_one], other.hashes[at_other])).astype(np.float64)
    surprise = np.where(joint > 1, deviance(joint, count_one[at_one] * (count_other[at_other] / n_rows)), 0.0)
    first = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
    found[rows[first]] = np.maximum.reduceat(surprise, first)
    return found
