"""
What a cheat that only counts finds of a planting, before it is sent (docs/attacks.md).

Sees the rows as they would be sent, and which of them are wanted. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from vtuned.captured import met
from vtuned.conversation import Conversation
from vtuned.documents import Record

# The share of the file that a cheat looks at, and how often more than by chance it may find what is hidden there.
BUDGET = 0.1
TOLERATED = 2

Hidden = Literal["planted", "carrying"]


class Search(Record):
    """
    The *recall* of an *attack*: the share of the rows *of* a kind that it finds within `BUDGET` of the file.

    Ties are counted by expectation, so an attack that finds nothing has the recall of *chance*: the share of the rows that
    it looks at, which is `BUDGET` rounded up to whole rows.
    """

    attack: str
    of: Hidden
    recall: float = Field(ge=0, le=1)
    chance: float = Field(default=BUDGET, gt=0, le=1)

    @property
    def is_tolerated(self) -> bool:
        """Whether it finds at most `TOLERATED` times what chance does."""
        return self.recall <= TOLERATED * self.chance


def searches(
    rows: Iterable[Conversation],
    wanted: Mapping[Hidden, Collection[int]],
    on_search: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Search, ...]:
    """
    Return what each search that needs no language model finds of the *wanted* rows, by their places from 0.

    *wanted* is looked at once *rows* were read to their end. *on_search* is told how many searches are done.
    """
    from vtuned.attacks.search import known
    from vtuned.attacks.search.texts import TrainSet

    train = TrainSet(rows)
    n = math.ceil(BUDGET * len(train))
    found = known.suspicions(train, [attack.name for attack in known.ATTACKS if attack is not known.RANDOM], on_search)
    marked = {of: np.isin(np.arange(len(train)), list(places)) for of, places in wanted.items() if places}
    return tuple(
        Search(
            attack=name, of=of, recall=min(1.0, met(suspicion, mark, n).n_met / int(mark.sum())), chance=n / len(train)
        )
        for of, mark in marked.items()
        for name, suspicion in found.items()
    )


def recalls(found: Sequence[Search]) -> list[float]:
    """Return what the searches find, that which finds most first: of two plantings the smaller list is hidden better."""
    return sorted((one.recall for one in found), reverse=True)
