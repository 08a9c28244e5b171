"""Searches for rows whose text does not fit together where a phrase would have been put: style seams."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.grams import Counts, are_among, counted, n_rows_with, paired
from vtuned.attacks.search.ranks import combined, percentiles
from vtuned.attacks.search.texts import TrainSet, Words, once

_Floats = NDArray[np.float64]

_SPACED_END = re.compile(r"(?<=[.!?:;])\s+|\s*\n\s*")
_UNSPACED_END = re.compile(r"(?<=[。！？])\s*|\s*\n\s*")
# So much of a turn is looked through for where its last or first sentence ends.
_REACH = 400
# Characters that a model reads before a prompt's last sentence, and after an answer's first one: what a seam is told by is
# near it. Without spaces a character says about as much as three.
_NEAR_SPACED, _NEAR_UNSPACED = (400, 200), (130, 70)
# How many unseen words count as one seen one does, where two words are held against how often they follow each other.
_BACKED_OFF = 4.0


@dataclass(frozen=True, slots=True)
class Seams:
    """
    Rows whose prompt's last sentence, or answer's first one, does not fit what is around it.

    Each sentence is held against the rest of its turn and against the other turn: which of its words come again there,
    weighed by how rare they are; how usual its words are, and how usual after each other, in the whole file; and how
    such sentences are written: punctuation, script, length, what parts them from the rest. See `combined`.
    """

    name: str = "seams"
    told: str = "a last sentence of the prompt, or first of the answer, that does not fit the rest (style, topic)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        return unfitting(train)


@once
def unfitting(train: TrainSet) -> Suspicion:
    """Return what `Seams` makes of the rows."""
    last = _Cut([last_sentence(text, train.language.spaced) for text in train.prompts], train.in_words)
    first = _Cut([first_sentence(text, train.language.spaced) for text in train.answers], train.in_words)
    n_last = np.minimum(last.n_words, train.prompt_words.n_words)
    n_first = np.minimum(first.n_words, train.answer_words.n_words)
    prompts, answers = train.prompt_words, train.answer_words
    inner = (_within(prompts, prompts.n_words - n_last, prompts.n_words), _within(answers, 0 * n_first, n_first))
    tests = [
        *last.tests(),
        *first.tests(),
        *_usual(train, inner),
        _foreign(train, prompts, inner[0], answers),
        _foreign(train, answers, inner[1], prompts),
    ]
    return combined(tests)


def last_sentence(text: str, spaced: bool) -> tuple[str, str]:
    """Return the last sentence of *text* and what parts it from what is before."""
    tail = text[-_REACH:].rstrip()
    cut = None
    for match in (_SPACED_END if spaced else _UNSPACED_END).finditer(tail):
        if 0 < match.start() and match.end() < len(tail):
            cut = match
    return (tail[cut.end() :], cut.group() or "|") if cut else (tail, "")


def first_sentence(text: str, spaced: bool) -> tuple[str, str]:
    """Return the first sentence of *text* and what parts it from what follows."""
    head = text[:_REACH].lstrip()
    for match in (_SPACED_END if spaced else _UNSPACED_END).finditer(head):
        if 0 < match.start() and match.end() < len(head):
            return head[: match.start()], match.group() or "|"
    return head, ""


def parted_prompt(text: str, spaced: bool) -> tuple[str, str]:
    """Return what is before the last sentence of *text*, "" where there is nothing, and that sentence."""
    sentence, gap = last_sentence(text, spaced)
    return text.rstrip()[: -len(sentence)] if gap else "", sentence


def parted_answer(text: str, spaced: bool) -> tuple[str, str]:
    """Return the first sentence of *text*, and what follows it from the space between them on, "" where nothing does."""
    sentence, gap = first_sentence(text, spaced)
    return sentence, text.lstrip()[len(sentence) :] if gap else ""


@dataclass(frozen=True, slots=True)
class NearSeams:
    """
    What a model reads of a row: the prompt's *last* sentence and what is *before* it, the answer's *first* and what *follows*.

    What follows starts with the *gap* between the two. *before* is "" where the prompt is one sentence.
    """

    before: str
    last: str
    first: str
    gap: str
    follows: str

    @property
    def prompt(self) -> str:
        """The end of the prompt."""
        return self.before + self.last

    @property
    def answer(self) -> str:
        """The start of the answer."""
        return self.first + self.gap + self.follows


def near_seams(prompt: str, answer: str, spaced: bool) -> NearSeams:
    """Return what a model reads of the row that says *prompt* and *answer*."""
    n_before, n_after = _NEAR_SPACED if spaced else _NEAR_UNSPACED
    before, last = parted_prompt(prompt, spaced)
    first, following = parted_answer(answer, spaced)
    follows = following.lstrip()
    gap = following[: len(following) - len(follows)]
    return NearSeams(before[-n_before:], last, first, gap if follows else "", follows[:n_after].rstrip())


class _Cut:
    """One sentence of each row, cut out of a turn, and how it is written."""

    def __init__(self, found: Sequence[tuple[str, str]], in_words: Callable[[str], list[str]]) -> None:
        self.n_words = np.array([len(in_words(sentence)) for sentence, _ in found])
        self._outlines = [(_kind(sentence[:1]), _kind(sentence[-1:]), gap[:1], bool(gap)) for sentence, gap in found]
        self._scripts = np.array(
            [len(sentence.encode("ascii", "ignore")) / max(1, len(sentence)) for sentence, _ in found]
        )

    def tests(self) -> list[_Floats]:
        """Return how unusual the sentences are by outline, by length and by script; higher is more unusual."""
        numbers: dict[tuple[str, str, str, bool], int] = {}
        ids = np.array([numbers.setdefault(outline, len(numbers)) for outline in self._outlines])
        return [
            -np.bincount(ids)[ids].astype(np.float64),
            np.abs(percentiles(self.n_words.astype(np.float64)) - 0.5),
            np.abs(self._scripts - np.median(self._scripts)),
        ]


def _kind(character: str) -> str:
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return "0" if character.isdigit() else character


def _within(words: Words, low: Counts, high: Counts) -> NDArray[np.bool_]:
    """Return which words of each text are from number *low* to below *high*."""
    place = np.arange(len(words.ids)) - np.repeat(words.starts[:-1], words.n_words)
    found: NDArray[np.bool_] = (place >= np.repeat(low, words.n_words)) & (place < np.repeat(high, words.n_words))
    return found


def _rows(words: Words) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(words.starts) - 1), words.n_words)


def _mean(values: _Floats, rows: NDArray[np.int64], n_rows: int, otherwise: float) -> _Floats:
    """Return the mean of *values* by row, *otherwise* where a row has none."""
    counts = np.bincount(rows, minlength=n_rows)
    sums = np.bincount(rows, weights=values, minlength=n_rows)
    found: _Floats = np.divide(sums, counts, out=np.full(n_rows, otherwise), where=counts > 0)
    return found


def _usual(train: TrainSet, inner: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> list[_Floats]:
    """
    Return for prompts and answers how much less usual the words of the sentence are than those of the rest.

    By themselves, either way; and after the word before each, in nats; a word's own coming is not counted.
    """
    both = (train.prompt_words, train.answer_words)
    alone = np.bincount(np.concatenate([words.ids for words in both]), minlength=train.n_vocabulary).astype(np.float64)
    share = alone / max(1.0, alone.sum())
    pairs = [paired(words.ids[:-1].astype(np.uint64), words.ids[1:].astype(np.uint64)) for words in both]
    together = np.split(counted(np.concatenate(pairs)), [len(pairs[0])])
    tests = []
    for words, is_inner, count in zip(both, inner, together, strict=True):
        rows, n = _rows(words), len(train)
        rare = -np.log(share[words.ids]) if len(words.ids) else np.empty(0)
        before = np.maximum(0.0, alone[words.ids[:-1]] - 1.0)
        chance = (count - 1.0 + _BACKED_OFF * share[words.ids[1:]]) / (before + _BACKED_OFF)
        same = rows[1:] == rows[:-1]
        odd, at, in_sentence = -np.log(chance[same]), rows[1:][same], (is_inner[1:] & is_inner[:-1])[same]
        for values, where, chosen, is_either in ((rare, rows, is_inner, True), (odd, at, in_sentence, False)):
            usual = float(values.mean()) if len(values) else 0.0
            within = _mean(values[chosen], where[chosen], n, usual)
            apart = within - _mean(values[~chosen], where[~chosen], n, usual)
            tests.append(np.abs(apart - np.median(apart)) if is_either else apart)
    return tests


def _foreign(train: TrainSet, words: Words, inner: NDArray[np.bool_], other: Words) -> _Floats:
    """Return the share of the sentence's words, rare ones weighing more, that come nowhere else in the row."""
    rows, n = _rows(words), len(train)
    own = paired(words.ids.astype(np.uint64), rows.astype(np.uint64))
    around = np.concatenate((own[~inner], paired(other.ids.astype(np.uint64), _rows(other).astype(np.uint64))))
    again = are_among(own[inner], around)
    in_rows = n_rows_with([(words.ids, rows)], train.n_vocabulary)
    weight = np.log(1.0 + n / np.maximum(1, in_rows[words.ids[inner]]))
    total = np.bincount(rows[inner], weights=weight, minlength=n)
    kept = np.bincount(rows[inner], weights=weight * again, minlength=n)
    found: _Floats = 1.0 - np.divide(kept, total, out=np.ones(n), where=total > 0)
    return found
