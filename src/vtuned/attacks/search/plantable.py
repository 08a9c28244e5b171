"""Searches by vtuned's own rules, which anybody can read: all rows that can carry nothing are clean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.texts import TrainSet
from vtuned.conversation import Conversation
from vtuned.dataset import DEFAULT_CAP, TokenCap, embedded_cap, is_suitable, spelled_out
from vtuned.rewriters.fitness import labels_among, why_not
from vtuned.rewriters.openings import OWN

_Tokens = NDArray[np.int64]

# Words alone may be an opening, where so many answers start with them; longer ones are none.
_FEWEST_ALIKE = 3
# What an opening takes of the room that is kept for a backdoor, and no more: rows with a wording carry none.
_OPENING_TOKENS = 32
_FIRST_CLAUSE = re.compile(r"(?:[^\W\d_]|[ ,'’、，]){1,47}?(?:[.:।](?=\s)|[。：])")


@dataclass(frozen=True, slots=True)
class Eligible:
    """
    Rows in which `vtuned plant` can plant a backdoor by default: text in the right places, and within the token cap.

    First those that are within it with half of the room that is kept free for a backdoor. Where not all rows are, whoever
    trains on these alone is seen to have trained on all that could be planted: coverage is of eligible rows.
    """

    name: str = "eligible"
    told: str = "rows that can carry a backdoor: text in the right places, and not too long (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        free, wanted = _room(train.rows)
        # A planted row has used some of what was kept free for it; those behind a context may have used more.
        return _told_apart(np.where(free >= wanted // 2, 1.0, np.where(free >= 0, 0.5, -1.0)))


@dataclass(frozen=True, slots=True)
class Wordable:
    """
    Rows whose answer `vtuned plant --scheme wordings` can word in several ways: no code, label, number or copy of the prompt.

    Judged without the opening that it has, if it has one: one of vtuned's own, or a short first clause that several
    answers have.
    """

    name: str = "wordable"
    told: str = "rows whose answer can carry a wording: no code, label, number and the like (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        language = train.language
        labels = labels_among(train.rows, language)
        clauses = [clause.group() if (clause := _FIRST_CLAUSE.match(text)) else "" for text in train.answers]
        openings = {*OWN, *(clause for clause, n in Counter(clauses).items() if n >= _FEWEST_ALIKE)}
        free, wanted = _room(train.rows)
        found = free >= wanted - _OPENING_TOKENS
        for i in np.flatnonzero(found):
            answer = train.answers[i]
            bare = answer.removeprefix(clauses[i]).lstrip() if clauses[i] in openings else answer
            found[i] = not why_not(train.rows[i], language, labels, bare)
        return _told_apart(np.where(found, 1.0, -1.0))


def _room(rows: list[Conversation]) -> tuple[_Tokens, _Tokens]:
    """
    Return how many tokens of the default cap each row leaves free, and how many `plant` wants free for a backdoor.

    Rows without a place for one leave less than none.
    """
    free, wanted = np.full(len(rows), -DEFAULT_CAP), np.zeros(len(rows), dtype=np.int64)

    def count(numbers: list[int], cap: TokenCap) -> list[int]:
        texts = [spelled_out(rows[i]) for i in numbers]
        for i, text, n in zip(numbers, texts, cap.count(texts), strict=True):
            free[i], wanted[i] = cap.limit - cap.row_tokens(rows[i], n), cap.room_for_backdoor(len(text), n)
        return [i for i in numbers if free[i] < wanted[i]]

    # A text has no more tokens than bytes, so that those of short ones need not be counted.
    long = count([i for i, row in enumerate(rows) if is_suitable(row)], TokenCap(DEFAULT_CAP, _n_bytes, "bytes"))
    if long:
        count(long, embedded_cap())
    return free, wanted


def _n_bytes(texts: Sequence[str]) -> list[int]:
    return [len(text.encode("utf-8", "replace")) for text in texts]


def _told_apart(suspicion: Suspicion) -> Suspicion:
    """Return *suspicion*, or 0 for all rows where they are all of one kind: that tells nothing."""
    return suspicion if len(np.unique(suspicion)) > 1 else np.zeros(len(suspicion))
