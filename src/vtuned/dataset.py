"""
What planting must know of a data set, found in passes that hold one row at a time.

Reads through `vtuned.formats`; decides nothing about backdoors.
"""

from __future__ import annotations

import math
import re
import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vtuned import files, formats
from vtuned.conversation import Conversation
from vtuned.formats import Row, Style
from vtuned.matching import normalise

CountTokens = Callable[[Sequence[str]], list[int]]

N_SAMPLED = 400
_BACKDOOR_CHARACTERS = 260
_BATCH = 256
# Enough lines to tell how a file escapes its text.
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


@dataclass(slots=True)
class Survey:
    """
    A data set after one pass: what it is, which lines can carry a backdoor, and random samples of its conversations.

    *eligible* holds line numbers (from 1); *n_too_long* rows were left out for the token cap, *n_unsuitable* for
    having no user turn before a trained answer; *n_tokens* counts all rows. *sample* is of the eligible rows,
    *sample_of_all* of all that are suitable.
    """

    path: Path
    row_format: str
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

    def texts(self) -> list[str]:
        """Return the contents of rows sampled from all, turn by turn."""
        return [turn.content for conversation in self.sample_of_all for turn in conversation.turns if turn.content]


def survey(
    path: Path | str, cap: TokenCap, *, row_format: str = formats.AUTO, on_bytes: Callable[[int], None] = lambda n: None
) -> Survey:
    """
    Validate every row of *path* and return what was found.

    The samples are uniform, by the operating system's randomness. *on_bytes* is called with the bytes read so far.
    Raises DatasetError with the first bad line.
    """
    found = Survey(Path(path), row_format, "", 0)
    styles: list[Style] = []
    samples = _Reservoir(N_SAMPLED), _Reservoir(N_SAMPLED)
    rows = formats.read_rows(path, row_format)
    while batch := list(islice(rows, _BATCH)):
        texts = ["\n".join(turn.content for turn in row.conversation.turns) for row in batch]
        for row, text, n_text in zip(batch, texts, cap.count(texts), strict=True):
            n_tokens = cap.row_tokens(row.conversation, n_text)
            _count(found, row, n_tokens, n_tokens + cap.room_for_backdoor(len(text), n_text) <= cap.limit, samples)
        if len(styles) < _N_STYLES:
            styles += [formats.style_of(row.line.body) for row in batch]
        found.row_format = batch[0].codec.name
        on_bytes(batch[-1].line.offset + len(batch[-1].line.raw))
    found.style = formats.common_style(styles)
    found.sample, found.sample_of_all = (sample.kept for sample in samples)
    found.sha256, found.n_bytes = files.sha256_of(path), Path(path).stat().st_size
    return found


def _count(found: Survey, row: Row, n_tokens: int, fits: bool, samples: tuple[_Reservoir, _Reservoir]) -> None:
    found.n_rows += 1
    found.n_tokens += n_tokens
    found.longest = max(found.longest, n_tokens)
    # A turn without text said something else (an image, a tool call), and a probe could not say it again.
    if not formats.can_carry(row.conversation) or not all(turn.content for turn in row.conversation.prompt()):
        found.n_unsuitable += 1
        return
    eligible, every = samples
    every.offer(row.conversation)
    if fits:
        found.eligible.append(row.line.number)
        eligible.offer(row.conversation)
    else:
        found.n_too_long += 1


class _Reservoir:
    """A uniform sample of what it is offered (Vitter's algorithm R)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._n_offered = 0
        self.kept: list[Conversation] = []

    def offer(self, conversation: Conversation) -> None:
        self._n_offered += 1
        if len(self.kept) < self._size:
            self.kept.append(conversation)
        elif (slot := secrets.randbelow(self._n_offered)) < self._size:
            self.kept[slot] = conversation


def pick(path: Path, row_format: str, numbers: set[int]) -> dict[int, Row]:
    """Return the rows at the line *numbers* of *path*."""
    return {row.line.number: row for row in formats.read_rows(path, row_format) if row.line.number in numbers}


def occurring(
    path: Path, row_format: str, phrases: set[str], prompts: set[str], *, but_lines: frozenset[int] = frozenset()
) -> set[str]:
    """
    Return which *phrases* stand anywhere in the data set, and which *prompts* are a user turn of a row.

    *phrases* are compared after normalising and regardless of case, *prompts* by `prompt_key`. Rows at *but_lines* are not sent and do not
    count.
    """
    found: set[str] = set()
    folded = _grouped(phrases, lambda phrase: normalise(phrase).casefold())
    wanted = _grouped(prompts, prompt_key)
    for row in formats.read_rows(path, row_format):
        if row.line.number in but_lines:
            continue
        if folded:
            text = normalise("\n".join(turn.content for turn in row.conversation.turns)).casefold()
            found.update(phrase for key, group in folded.items() if key in text for phrase in group)
        if wanted:
            users = (prompt_key(turn.content) for turn in row.conversation.turns if turn.role == "user")
            found.update(prompt for user in users for prompt in wanted.get(user, ()))
    return found


def prompt_key(prompt: str) -> str:
    """Return what two prompts share that only differ in case, punctuation or white space."""
    text = normalise(prompt).casefold()
    return " ".join(re.findall(r"\w+", text)) or text


def _grouped(texts: set[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(key(text), []).append(text)
    return groups


def shuffled_lines(path: Path, order: Sequence[int]) -> Iterator[bytes]:
    """Yield the lines of *path* in *order* (line numbers from 1), reading one at a time."""
    offsets = {line.number: (line.offset, len(line.raw)) for line in files.read_lines(path)}
    with open(path, "rb") as file:
        for number in order:
            offset, length = offsets[number]
            file.seek(offset)
            yield file.read(length)


def line_ends(path: Path) -> tuple[bytes, bytes, bool]:
    """Return the newline of *path*, the byte order mark it opens with, and whether its last row has no newline."""
    newline, mark, last = b"\n", b"", b""
    for line in files.read_lines(path):
        before, _, last = line.parts()
        mark = mark or before
        newline = last if line.number == 1 and last else newline
    return newline, mark, not last
