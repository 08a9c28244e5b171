"""
What was changed in a data set before it was sent, row by row: for the eye, and to show that nothing else was.

Needs both files and no receipt; tells by where a row differs, not by who changed it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field

from vtuned import containers, facts, formats
from vtuned.containers import Source
from vtuned.conversation import Conversation, n_alike
from vtuned.dataset import CountTokens, spelled_out
from vtuned.documents import Record
from vtuned.errors import DatasetError
from vtuned.formats import Codec, Row
from vtuned.rewriters.paraphrase import first_sentence

Place = Literal["prompt and answer", "before the answer", "first sentence", "along the answer"]

_SHOWN_CHARACTERS = 160


class Sample(Record):
    """One row that was changed: its *row* number in the training file, and the changed stretch before and after."""

    row: int
    place: Place
    before: str = Field(repr=False)
    after: str = Field(repr=False)


class Comparison(Record):
    """
    A data set beside its training file.

    *n_same* rows are the same, *n_left_out* were not sent; *changed* holds how many rows differ, by place. *added_tokens*
    is of all rows, may be negative. *facts* holds in how many of the rows whose answer alone differs numbers, names or code do
    too. *samples* are drawn at random of each place.
    """

    n_rows: int
    n_sent: int
    n_same: int
    n_left_out: int
    changed: tuple[tuple[Place, int], ...]
    added_tokens: int
    facts: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]

    @property
    def n_changed(self) -> int:
        """How many rows differ."""
        return sum(n for _, n in self.changed)


def compare(
    data: containers.Data,
    train: containers.Data,
    count_tokens: CountTokens,
    *,
    n_samples: int = 3,
    row_format: str | Codec = formats.AUTO,
    on_row: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """
    Compare the rows of *data* with those of *train*, which holds them in the same order, some left out.

    Raises DatasetError where it does not: rows that were added or shuffled cannot be matched.
    """
    places: Counter[Place] = Counter()
    changed_facts: Counter[str] = Counter()
    kept: dict[Place, list[Sample]] = {}
    n_rows = n_sent = n_same = added = 0
    for before, after in _pairs(containers.open_source(data), containers.open_source(train), row_format):
        n_rows += 1
        on_row(n_rows)
        if after is None:
            continue
        n_sent += 1
        if before.conversation == after.conversation:
            n_same += 1
            continue
        place = _place(before.conversation, after.conversation)
        places[place] += 1
        one, other = count_tokens([spelled_out(row.conversation) for row in (before, after)])
        added += other - one
        answers = _answer(before.conversation), _answer(after.conversation)
        if place != "prompt and answer":
            changed_facts.update(facts.changed(*answers))
        _offer(kept.setdefault(place, []), _sample(after.raw.number, place, *answers), places[place], n_samples)
    return Comparison(
        n_rows=n_rows,
        n_sent=n_sent,
        n_same=n_same,
        n_left_out=n_rows - n_sent,
        changed=tuple(places.most_common()),
        added_tokens=added,
        facts=tuple(sorted(changed_facts.items())),
        samples=tuple(sample for some in kept.values() for sample in some),
    )


def _pairs(data: Source, train: Source, row_format: str | Codec) -> Iterator[tuple[Row, Row | None]]:
    """Yield each row of *data* with the row of *train* that it became, None for one that was left out."""
    sent = iter(formats.read_rows(train, row_format))
    after = next(sent, None)
    for before in formats.read_rows(data, row_format):
        if after is None or not _became(before.conversation, after.conversation):
            yield before, None
            continue
        yield before, after
        after = next(sent, None)
    if after is not None:
        raise DatasetError(
            f"{after.raw.where.path}: {after.raw.where.unit} {after.raw.where.number} is of no row of the data in its place",
            hint="give the data set that was planted, and a training file of --mode replace",
        )


def _became(before: Conversation, after: Conversation) -> bool:
    """Tell whether *after* may be *before*, planted or worded: its prompts hold all that was there."""
    return len(before.turns) == len(after.turns) and all(
        one.role == other.role and (one.role == "assistant" or one.content in other.content)
        for one, other in zip(before.turns, after.turns, strict=True)
    )


def _answer(row: Conversation) -> str:
    host = row.host()
    return "" if host is None else row.turns[host.answer].content


def _place(before: Conversation, after: Conversation) -> Place:
    one, other = _answer(before), _answer(after)
    if before.prompt() != after.prompt():
        return "prompt and answer"
    if other.endswith(one) or one.endswith(other):
        return "before the answer"
    n_at_end = n_alike((one[::-1], other[::-1]))
    return "first sentence" if len(one) - n_at_end <= len(first_sentence(one)) else "along the answer"


def _sample(number: int, place: Place, before: str, after: str) -> Sample:
    start = max(0, n_alike((before, after)) - 20)
    end = start + _SHOWN_CHARACTERS
    return Sample(row=number, place=place, before=before[start:end], after=after[start:end])


def _offer(kept: list[Sample], one: Sample, n_offered: int, size: int) -> None:
    """Keep a uniform sample of *size* (Vitter's algorithm R)."""
    if len(kept) < size:
        kept.append(one)
    elif (slot := secrets.randbelow(n_offered)) < size:
        kept[slot] = one
