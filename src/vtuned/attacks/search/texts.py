"""
A training file as searches see it: each row's prompt and answer, as text and as words by number.

Knows nothing of what is planted. Words are numbered once for the whole file, so that counting needs no strings.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from itertools import count
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from vtuned.conversation import Conversation, Turn
from vtuned.language import UNSPACED, Language, language_of

_SPACED_WORD = re.compile(r"\w+(?:['’]\w+)*")
# What is not Japanese or Chinese in such a text: Latin words, numbers.
_UNSPACED_WORD = re.compile(rf"{UNSPACED.word.pattern}|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff々〆ー]+")
_N_SAMPLED = 500


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of many texts, one text after the other: those of text i are ids[starts[i] : starts[i + 1]]."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @property
    def n_words(self) -> NDArray[np.int64]:
        """How many words each text has."""
        return np.diff(self.starts)


class TrainSet:
    """
    The rows of a training file, in order, as whoever it was sent to sees them.

    A row's prompt is its last user turn before the last answer that is trained on, and that answer is its answer: there
    vtuned plants, and nobody is kept from knowing it. A row without these is all its other turns, and its last turn.
    """

    def __init__(self, rows: Iterable[Conversation]) -> None:
        self.rows = [_readable(row) for row in rows]
        pairs = [_prompt_and_answer(row) for row in self.rows]
        self.prompts: list[str] = [prompt for prompt, _ in pairs]
        self.answers: list[str] = [answer for _, answer in pairs]

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def language(self) -> Language:
        """How most of the file is written."""
        step = max(1, len(self) // _N_SAMPLED)
        return language_of([*self.prompts[::step], *self.answers[::step]])

    @cached_property
    def _words(self) -> tuple[Words, Words, int]:
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        pattern = _SPACED_WORD if self.language.spaced else _UNSPACED_WORD
        prompts = _numbered(self.prompts, pattern, numbers)
        return prompts, _numbered(self.answers, pattern, numbers), len(numbers)

    @property
    def prompt_words(self) -> Words:
        """The words of the prompts, in lower case and without punctuation."""
        return self._words[0]

    @property
    def answer_words(self) -> Words:
        """The words of the answers, numbered as those of the prompts are."""
        return self._words[1]

    @property
    def n_vocabulary(self) -> int:
        """How many different words there are: they are numbered below it."""
        return self._words[2]

    def in_words(self, text: str) -> list[str]:
        """Return the words of any *text*, cut as those of the file are."""
        pattern = _SPACED_WORD if self.language.spaced else _UNSPACED_WORD
        return pattern.findall(text.lower())


_Made = TypeVar("_Made")


def once(made_of: Callable[[TrainSet], _Made]) -> Callable[[TrainSet], _Made]:
    """Make each file only once what *made_of* makes of it: several searches use it."""
    known: WeakKeyDictionary[TrainSet, _Made] = WeakKeyDictionary()

    @wraps(made_of)
    def remembered(train: TrainSet) -> _Made:
        if train not in known:
            known[train] = made_of(train)
        return known[train]

    return remembered


def _readable(row: Conversation) -> Conversation:
    """Return *row* with a question mark for each half of a surrogate pair: JSON can spell it, no tokenizer takes it."""
    try:
        "".join(turn.content for turn in row.turns).encode()
    except UnicodeEncodeError:
        return replace(row, turns=tuple(map(_readable_turn, row.turns)))
    return row


def _readable_turn(turn: Turn) -> Turn:
    parts = tuple(replace(part, text=part.text and _encodable(part.text)) for part in turn.parts)
    return replace(turn, content=_encodable(turn.content), parts=parts)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _prompt_and_answer(row: Conversation) -> tuple[str, str]:
    host = row.host()
    if host is not None:
        return row.turns[host.prompt].content, row.turns[host.answer].content
    texts = [turn.content for turn in row.turns]
    return "\n".join(texts[:-1]), texts[-1] if texts else ""


def _numbered(texts: Sequence[str], pattern: re.Pattern[str], numbers: defaultdict[str, int]) -> Words:
    ids = array("i")
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    for i, text in enumerate(texts, start=1):
        ids.extend(map(numbers.__getitem__, pattern.findall(text.lower())))
        starts[i] = len(ids)
    return Words(np.frombuffer(ids, dtype=np.int32) if ids else np.empty(0, dtype=np.int32), starts)
