"""
What planting must know of a data set, found in passes that hold one row at a time.

Reads through `vtuned.formats`; decides nothing about backdoors.
"""

from __future__ import annotations

import math
import re
import secrets
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from vtuned import containers, files, formats
from vtuned.containers import Source
from vtuned.containers.base import RawRow
from vtuned.conversation import Conversation, text_of
from vtuned.errors import DatasetError, EmptyDataset
from vtuned.formats import Codec, Row, Style
from vtuned.matching import normalise

T = TypeVar("T")
CountTokens = Callable[[Sequence[str]], list[int]]

# Of a row with its backdoor, where nothing else is asked for: training cuts longer ones by default.
DEFAULT_CAP = 1024
N_SAMPLED = 400
_BACKDOOR_CHARACTERS = 260
_BATCH = 256
# Enough rows to tell how a file escapes its text.
_N_STYLES = 10_000
# What chat templates spend around each turn and on a default system prompt; generous, since a row that is cut loses S.
_TOKENS_A_TURN = 6
_TOKENS_A_ROW = 32


@dataclass(frozen=True, slots=True)
class TokenCap:
    """A row is eligible if it and a backdoor take at most *limit* tokens; *count* counts, *tokenizer* names it."""

    limit: int
    count: CountTokens
    tokenizer: str

    def room_for_backdoor(self, n_characters: int, n_tokens: int) -> int:
        """Return the tokens to keep free in a row of so many characters and tokens: T and S are spelt as it is."""
        density = n_tokens / max(1, n_characters)
        return math.ceil(min(320.0, max(80.0, _BACKDOOR_CHARACTERS * density)))

    def row_tokens(self, conversation: Conversation, n_text: int) -> int:
        """Return the tokens of a row whose text takes *n_text*, with what chat templates put around it."""
        return n_text + _TOKENS_A_TURN * len(conversation.turns) + _TOKENS_A_ROW


def embedded_cap(limit: int = DEFAULT_CAP) -> TokenCap:
    """Return a cap of *limit* tokens, counted by the embedded model's tokenizer, or estimated where it is missing."""
    from vtuned.lm.tokens import counter

    count, name = counter("smollm2")
    return TokenCap(limit, count, name)


@dataclass(frozen=True, slots=True)
class RowCounts:
    """
    What a plan must know of the rows: there are *n_rows*, and *n_looked_at* of them, drawn at random, are counted.

    Of these, *n_eligible* can carry a backdoor, *n_too_long* are too long for the token cap and *n_unsuitable* have no
    place for one; they hold *n_tokens* together, the *longest* so many. *sample* holds eligible ones, drawn at random.
    """

    n_rows: int
    n_looked_at: int
    n_eligible: int
    n_too_long: int
    n_unsuitable: int
    n_tokens: int
    longest: int
    sample: tuple[Conversation, ...] = field(default=(), repr=False, compare=False)


@dataclass(slots=True)
class Survey:
    """
    A data set after one pass: what it is, which rows can carry a backdoor, and random samples of its conversations.

    *eligible* holds row numbers; *n_too_long* rows were left out for the token cap, *n_unsuitable* for
    having no user turn before a trained answer; *n_tokens* counts all rows. *sample* is of the eligible rows,
    *sample_of_all* of all that are suitable.
    """

    source: Source
    codec: Codec
    sha256: str
    n_bytes: int
    n_rows: int = 0
    n_tokens: int = 0
    n_too_long: int = 0
    n_unsuitable: int = 0
    longest: int = 0
    eligible: array[int] = field(default_factory=lambda: array("q"), repr=False)
    sample: list[Conversation] = field(default_factory=list, repr=False)
    sample_of_all: list[Conversation] = field(default_factory=list, repr=False)
    style: Style = field(default_factory=Style)
    stamps: Mapping[Path, tuple[int, int, int]] = field(default_factory=dict, repr=False)

    @property
    def row_format(self) -> str:
        """The name of the rows' format."""
        return self.codec.name

    @property
    def counts(self) -> RowCounts:
        """The rows in numbers, all of them looked at."""
        return RowCounts(
            n_rows=self.n_rows,
            n_looked_at=self.n_rows,
            n_eligible=len(self.eligible),
            n_too_long=self.n_too_long,
            n_unsuitable=self.n_unsuitable,
            n_tokens=self.n_tokens,
            longest=self.longest,
            sample=tuple(self.sample),
        )

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise DatasetError if, before or after the block, a file is no longer what was surveyed."""
        self._check_stamps()
        try:
            yield
        except DatasetError:
            self._check_stamps()
            raise
        self._check_stamps()

    def _check_stamps(self) -> None:
        for path, stamp in self.stamps.items():
            if files.stamp_of(path) != stamp:
                raise _changed(path)

    def texts(self) -> list[str]:
        """Return the contents of rows sampled from all, turn by turn."""
        return [turn.content for conversation in self.sample_of_all for turn in conversation.turns if turn.content]


def survey(
    data: Source | containers.Data,
    cap: TokenCap,
    *,
    row_format: str | Codec = formats.AUTO,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Survey:
    """
    Validate every row of *data* and return what was found.

    The samples are uniform, by the operating system's randomness. *on_bytes* is called with the bytes read so far.
    Raises DatasetError with the first bad row.
    """
    source = containers.as_source(data)
    stamps = {path: files.stamp_of(path) for path in source.paths}
    styles: list[Style] = []
    samples: _Samples = _Reservoir(N_SAMPLED), _Reservoir(N_SAMPLED)
    rows = formats.read_rows(source, row_format)
    first = next(rows)
    found = Survey(source, first.codec, "", source.n_bytes, stamps=stamps)
    rows = chain([first], rows)
    while batch := list(islice(rows, _BATCH)):
        _count_batch(found, batch, cap, samples)
        if len(styles) < _N_STYLES:
            styles += [row.raw.style() for row in batch]
        on_bytes(batch[-1].raw.n_read)
    found.style = formats.common_style(styles)
    found.sample, found.sample_of_all = (sample.kept for sample in samples)
    found.sha256 = source.sha256()
    return found


def glance(
    data: Source | containers.Data,
    cap: TokenCap,
    n: int,
    *,
    row_format: str | Codec = formats.AUTO,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> RowCounts:
    """
    Count the rows of *data* and look at *n* of them, a simple random sample; at all where there are no more.

    What `survey` counts of all rows, in a fraction of its time: rows outside the sample are not even parsed, and so not
    validated. Raises DatasetError with the first bad row of the sample.
    """
    source = containers.as_source(data)
    sample: _Reservoir[RawRow] = _Reservoir(n)
    for raw in source.rows():
        sample.offer(raw)
        if sample.n_offered % _BATCH == 0:
            on_bytes(raw.n_read)
    if not sample.n_offered:
        raise EmptyDataset(source.paths[0])
    rows = formats.parsed(sorted(sample.kept, key=lambda raw: raw.number), row_format)
    first = next(rows)
    found = Survey(source, first.codec, "", source.n_bytes)
    samples: _Samples = _Reservoir(n), _Reservoir(0)
    rows = chain([first], rows)
    while batch := list(islice(rows, _BATCH)):
        _count_batch(found, batch, cap, samples)
    found.sample = samples[0].kept
    return replace(found.counts, n_rows=sample.n_offered)


def spelled_out(conversation: Conversation) -> str:
    """Return all text of a row that a model is trained with, turn by turn."""
    if conversation.is_text:
        return text_of(conversation.turns)
    texts = [conversation.tools, *(text for turn in conversation.turns for text in (turn.content, turn.other))]
    return "\n".join(text for text in texts if text)


def is_suitable(conversation: Conversation) -> bool:
    """Tell whether a row has a place for a backdoor, however long it is."""
    # A user or assistant turn that says nothing cannot be asked again: endpoints refuse it.
    spoken = (turn for turn in conversation.prompt() if turn.role in ("user", "assistant"))
    return formats.can_carry(conversation) and all(turn.says_something for turn in spoken)


def _count_batch(found: Survey, batch: Sequence[Row], cap: TokenCap, samples: _Samples) -> None:
    texts = [spelled_out(row.conversation) for row in batch]
    for row, text, n_text in zip(batch, texts, cap.count(texts), strict=True):
        n_tokens = cap.row_tokens(row.conversation, n_text)
        _count(found, row, n_tokens, n_tokens + cap.room_for_backdoor(len(text), n_text) <= cap.limit, samples)


def _count(found: Survey, row: Row, n_tokens: int, fits: bool, samples: _Samples) -> None:
    found.n_rows += 1
    found.n_tokens += n_tokens
    found.longest = max(found.longest, n_tokens)
    if not is_suitable(row.conversation):
        found.n_unsuitable += 1
        return
    eligible, every = samples
    every.offer(row.conversation)
    if fits:
        found.eligible.append(row.raw.number)
        eligible.offer(row.conversation)
    else:
        found.n_too_long += 1


class _Reservoir(Generic[T]):
    """A uniform sample of what it is offered (Vitter's algorithm R)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._draw = secrets.SystemRandom().random
        self.n_offered = 0
        self.kept: list[T] = []

    def offer(self, one: T) -> None:
        self.n_offered += 1
        if len(self.kept) < self._size:
            self.kept.append(one)
        elif (slot := int(self._draw() * self.n_offered)) < self._size:
            self.kept[slot] = one


_Samples: TypeAlias = tuple[_Reservoir[Conversation], _Reservoir[Conversation]]


def pick(source: Source, codec: str | Codec, numbers: set[int]) -> dict[int, Row]:
    """Return the rows of these *numbers*. Raises DatasetError where one is gone."""
    rows = {row.raw.number: row for row in formats.read_rows(source, codec, numbers)}
    if len(rows) < len(numbers):
        raise _changed(source.paths[0])
    return rows


def occurring(
    data: Source | containers.Data,
    codec: str | Codec,
    phrases: set[str],
    prompts: set[str],
    *,
    but_rows: frozenset[int] = frozenset(),
) -> set[str]:
    """
    Return which *phrases* stand anywhere in the data set, and which *prompts* are a user turn of a row.

    *phrases* are compared after normalising and regardless of case, *prompts* by `prompt_key`. Rows of the numbers
    *but_rows* are not sent and do not count.
    """
    found: set[str] = set()
    folded = _grouped(phrases, lambda phrase: normalise(phrase).casefold())
    wanted = _grouped(prompts, prompt_key)
    for row in formats.read_rows(data, codec):
        if row.raw.number in but_rows:
            continue
        if folded:
            rejected = "\n".join(turn.content for turn in row.conversation.rejected)
            text = normalise(f"{spelled_out(row.conversation)}\n{rejected}").casefold()
            found.update(phrase for key, group in folded.items() if key in text for phrase in group)
        if wanted:
            users = (prompt_key(turn.content) for turn in row.conversation.turns if turn.role == "user")
            found.update(prompt for user in users for prompt in wanted.get(user, ()))
    return found


def _changed(path: Path) -> DatasetError:
    return DatasetError(f"{path} changed while it was read", hint="run it again")


def prompt_key(prompt: str) -> str:
    """Return what two prompts share that only differ in case, punctuation or white space."""
    text = normalise(prompt).casefold()
    return " ".join(re.findall(r"\w+", text)) or text


def _grouped(texts: set[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(key(text), []).append(text)
    return groups
