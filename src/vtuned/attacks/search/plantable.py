"""Searches by vtuned's own rules, which anybody can read: rows that carry nothing, or can carry nothing, are clean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.clusters import off_topic
from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.seams import unfitting
from vtuned.attacks.search.texts import TrainSet, once
from vtuned.conversation import signature_at_start, trigger_suffix
from vtuned.dataset import DEFAULT_CAP, TokenCap, embedded_cap, is_suitable, spelled_out
from vtuned.language import Language
from vtuned.rewriters.fitness import labels_among, why_not
from vtuned.rewriters.openings import OWN

# Words alone may be an opening, where so many answers start with them; longer ones are none.
_FEWEST_ALIKE = 3
_FIRST_CLAUSE = re.compile(r"[^.:।。：\d\n()\[\]{}<>=;`\"/\\#_*|]{1,47}(?:[.:।](?=\s)|[。：])")
# By default a trigger has six tokens, and a signature so many bits that few words will not do.
_FEWEST_OF_TRIGGER, _FEWEST_OF_SIGNATURE = 3, 4
# Phrases that are drawn by default have fewer characters.
_REACH = 400
# Texts whose tokens are held at once.
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Eligible:
    """
    Rows in which `vtuned plant` can plant a backdoor by default: text in the right places, and within the token cap.

    First those that leave as much room as `plant` keeps free for a backdoor, and so on down to those that leave none: what
    was planted has used some of it. Where not all rows are eligible, whoever trains on these alone is seen to have trained
    on all that could be planted: coverage is of them.
    """

    name: str = "eligible"
    told: str = "rows that can carry a backdoor: text in the right places, and not too long (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        return _told_apart(_shares(_room_of(train)))


@dataclass(frozen=True, slots=True)
class Wordable:
    """
    Rows whose answer can have an opening by `vtuned plant --scheme wordings`: no code, label, number or copy of the prompt.

    Judged without the opening that it has, if it has one: one of vtuned's own, or a short first clause that several
    answers have. Such a clause may be the answer's own, so that a row that can carry one only without it, or only
    with it, comes after the others. Rows count by the room that they leave, as for `Eligible`, without that opening.
    """

    name: str = "wordable"
    told: str = "rows whose answer can carry an opening: no code, label, number and the like (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        language = train.language
        labels = labels_among(train.rows, language)
        clauses = [clause.group() if (clause := _FIRST_CLAUSE.match(text)) else "" for text in train.answers]
        shared = {clause for clause, n in Counter(clauses).items() if n >= _FEWEST_ALIKE and clause}
        own = [clause if clause in OWN else "" for clause in clauses]
        found = _shares(_room_of(train), own)
        for i in np.flatnonzero(found > 0.0):
            answer = train.answers[i]
            texts = {answer.removeprefix(own[i]).lstrip() if own[i] else answer}
            if clauses[i] in shared:
                texts.add(answer.removeprefix(clauses[i]).lstrip())
            found[i] *= np.mean([not why_not(train.rows[i], language, labels, text) for text in texts])
        return _told_apart(np.where(found > 0.0, found, -1.0))


@dataclass(frozen=True, slots=True)
class Phrased:
    """
    Rows whose prompt ends, and whose answer starts, with what `vtuned plant` could have drawn by default and put there.

    A phrase is letters, commas and apostrophes up to its terminator, or a question mark for a trigger, and is set off as
    `planted` does it. Of these rows, and of the others after them, first those that `Seams` and `Clusters` together find odd.
    """

    name: str = "phrased"
    told: str = "a prompt that ends and an answer that starts as planted phrases are written (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        odd = combined([unfitting(train), off_topic(train)])
        pairs = zip(train.prompts, train.answers, strict=True)
        found = [
            _is_triggered(prompt, train.language) and _is_signed(answer, train.language) for prompt, answer in pairs
        ]
        # Suspicion of oddness is above -1 and below 1.
        return np.where(found, 1.0, -1.0) + odd


def _is_triggered(prompt: str, language: Language) -> bool:
    """Tell whether *prompt* ends with what could be a trigger after something else."""
    if not prompt.endswith((language.terminator, "?")):
        return False
    for start in range(len(prompt) - 2, max(0, len(prompt) - _REACH), -1):
        trigger, gap = prompt[start:], prompt[start - 1]
        if language.spaced and not gap.isspace():
            continue
        before = prompt[: start - 1] if gap.isspace() else prompt[:start]
        # After white space that a prompt ends with itself, `trigger_suffix` puts none.
        is_set_off = before + trigger_suffix(before, trigger) == prompt or gap == "\n" or before[-1:].isspace()
        if not is_set_off:
            continue
        if not language.allows(trigger[:-1]):
            return False
        if before.strip() and len(language.word.findall(trigger)) >= _FEWEST_OF_TRIGGER:
            return True
    return False


def _is_signed(answer: str, language: Language) -> bool:
    """Tell whether *answer* starts with what could be a signature before something else."""
    end = answer.find(language.terminator, 0, _REACH)
    signature = answer[: end + 1]
    if not language.allows(signature[:-1]) or len(language.word.findall(signature)) < _FEWEST_OF_SIGNATURE:
        return False
    try:
        return bool(answer[len(signature_at_start(signature, answer)) :].strip())
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """How many tokens of the default cap each row leaves *free*, and how many `plant` *wants* free; 0 where it plants nothing."""

    free: NDArray[np.int64]
    wants: NDArray[np.int64]


@once
def _room_of(train: TrainSet) -> _Room:
    rows = train.rows
    found = _Room(np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64))

    def count(numbers: list[int], cap: TokenCap) -> list[int]:
        for start in range(0, len(numbers), _BATCH):
            batch = numbers[start : start + _BATCH]
            texts = [spelled_out(rows[i]) for i in batch]
            for i, text, n in zip(batch, texts, cap.count(texts), strict=True):
                found.free[i] = cap.limit - cap.row_tokens(rows[i], n)
                found.wants[i] = cap.room_for_backdoor(len(text), n)
        return [i for i in numbers if found.free[i] < found.wants[i]]

    # A text has no more tokens than bytes, so that those of short ones need not be counted.
    long = count([i for i, row in enumerate(rows) if is_suitable(row)], TokenCap(DEFAULT_CAP, _n_bytes, "bytes"))
    if long:
        count(long, embedded_cap())
    return found


def _n_bytes(texts: Sequence[str]) -> list[int]:
    return [len(text.encode("utf-8", "replace")) for text in texts]


def _shares(room: _Room, openings: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return which share of the room that it should leave each row leaves, without its opening where it has one; 1 at most."""
    free = room.free.copy()
    opened = [i for i, opening in enumerate(openings) if opening and free[i] < room.wants[i]]
    if opened:
        free[opened] += embedded_cap().count([openings[i] for i in opened])
    return np.where(room.wants > 0, np.clip(free / np.maximum(1, room.wants), 0.0, 1.0), -1.0)


def _told_apart(suspicion: Suspicion) -> Suspicion:
    """Return *suspicion*, or 0 for all rows where they are all of one kind: that tells nothing."""
    return suspicion if len(np.unique(suspicion)) > 1 else np.zeros(len(suspicion))
