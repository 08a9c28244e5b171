"""Searches by vtuned's own rules, which anybody can read: all rows that can carry nothing are clean."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.texts import TrainSet
from vtuned.conversation import Conversation
from vtuned.dataset import DEFAULT_CAP, TokenCap, embedded_cap, is_suitable, spelled_out
from vtuned.rewriters.fitness import labels_among, why_not
from vtuned.rewriters.openings import OWN

_FLAGS = NDArray[np.bool_]

# Words alone may be an opening, where so many answers start with them; longer ones are none.
_FEWEST_ALIKE = 3
_FIRST_CLAUSE = re.compile(r"(?:[^\W\d_]|[ ,'’、，]){1,47}?(?:[.:।](?=\s)|[。：])")


@dataclass(frozen=True, slots=True)
class Eligible:
    """
    Rows in which `vtuned plant` can plant a backdoor by default: text in the right places, and within the token cap.

    Where not all rows are, whoever trains on these alone is seen to have trained on all that could be planted: coverage
    is of eligible rows.
    """

    name: str = "eligible"
    told: str = "rows that can carry a backdoor: text in the right places, and not too long (vtuned's own rule)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        return _told_apart(_eligible(train.rows))


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
        found = _eligible(train.rows)
        for i in np.flatnonzero(found):
            answer = train.answers[i]
            bare = answer.removeprefix(clauses[i]).lstrip() if clauses[i] in openings else answer
            found[i] = not why_not(train.rows[i], language, labels, bare)
        return _told_apart(found)


def _eligible(rows: list[Conversation]) -> _FLAGS:
    found = np.array([is_suitable(row) for row in rows], dtype=bool)
    # A text has no more tokens than bytes, so that those of short ones need not be counted.
    by_bytes = TokenCap(DEFAULT_CAP, lambda texts: [len(text.encode("utf-8", "replace")) for text in texts], "bytes")
    long = _longer([*np.flatnonzero(found)], rows, by_bytes)
    if long:
        found[_longer(long, rows, embedded_cap())] = False
    return found


def _longer(numbers: list[int], rows: list[Conversation], cap: TokenCap) -> list[int]:
    """Return which of the *numbers* are those of *rows* over the *cap*."""
    counts = cap.count([spelled_out(rows[i]) for i in numbers])
    return [i for i, n in zip(numbers, counts, strict=True) if cap.row_tokens(rows[i], n) > cap.limit]


def _told_apart(are_suspect: _FLAGS) -> Suspicion:
    """Return 1 for suspects and -1 for others; 0 for all rows where they are all of one kind: that tells nothing."""
    if are_suspect.all() or not are_suspect.any():
        return np.zeros(len(are_suspect))
    return np.where(are_suspect, 1.0, -1.0)
