"""
What every container of rows offers: rows one at a time, and a copy with some of them replaced.

Knows nothing of formats or backdoors. A row is a JSON-like object; a container says where its text may be inserted,
and leaves everything else as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeAlias

from vtuned.containers.jsontext import JSONPath, Style


class Where(NamedTuple):
    """
    Where a row is, for people: *unit* *number* (from 1) of the file *path*, at byte *offset*.

    *unit* is "line" for JSON lines, else "row"; *offset* is in the uncompressed file, None where rows have no place
    in bytes.
    """

    path: Path
    unit: str
    number: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a string of a row: *path* leads to the string, *at* counts its characters; None is its end."""

    path: JSONPath
    at: int | None = None


class Cells(dict[str, object]):
    """What a row of a table holds: in a cell without a type for lists, people write a list as the text of its JSON."""


Insertion: TypeAlias = tuple[Place, str]


class Cut(NamedTuple):
    """A stretch of a string of a row: the characters from number *start* up to *end* of the string at *path*."""

    path: JSONPath
    start: int
    end: int


class RawRow(Protocol):
    """One row as its container holds it. *number* is unique in the source and counts from 1."""

    @property
    def number(self) -> int:
        """The row's number in its source: of JSON lines the line number, blank lines counted."""

    @property
    def where(self) -> Where:
        """Where the row is, for error messages."""

    @property
    def n_read(self) -> int:
        """How many of the source's `n_bytes` have been read once this row has been."""

    def value(self) -> object:
        """Return what the row holds. Raises ValueError with the reason where it cannot be read."""

    def style(self) -> Style:
        """Return how the row spells its text; columns have no spelling."""

    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> RawRow:
        """
        Return this row with text inserted, and everything else as it is.

        What the row does not tell about its style is taken from *file_style*. Raises ValueError where a place leads
        to no string.
        """

    def removed(self, cut: Cut) -> RawRow:
        """Return this row without a stretch of its text, all else as it is. Raises ValueError where it is not there."""


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What a copy does otherwise than its source.

    Rows in *replaced* (by number) take the place of their originals; those in *dropped* are left out. With an *order*
    the copy holds exactly the rows it lists, in that order: n is the source's row n as it was, -n the replaced row n.
    """

    replaced: Mapping[int, RawRow]
    dropped: frozenset[int] = frozenset()
    order: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A copy: the SHA-256 of its bytes, their number, its rows, and at which number each replaced row went."""

    sha256: str
    n_bytes: int
    n_rows: int
    placed: Mapping[int, int]


class Source(Protocol):
    """A data set on disk."""

    name: str
    """What kind of container it is: "jsonl", "jsonl.gz", "json", "csv", "parquet", …"""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read, so that no output may be one of them."""

    @property
    def folder(self) -> Path | None:
        """The folder that was given as the data set, in which no output may be."""

    @property
    def is_folder(self) -> bool:
        """Whether a copy is a folder of files rather than one file."""

    @property
    def n_bytes(self) -> int:
        """The size of all files, in bytes."""

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows, one in memory at a time. Raises DatasetError where a file cannot be read."""

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the file or, of several, of their names and digests."""

    def check_order(self) -> None:
        """Raise UsageError, with the reason, where a copy cannot put rows in another order."""

    def write(self, target: BinaryIO | Path, changes: Changes) -> Written:
        """Write a copy into *target*: an open file or, for folders, an empty folder."""


def insert_texts(text: str, insertions: Sequence[tuple[int | None, str]]) -> str:
    """
    Return *text* with texts inserted before its characters of these numbers (None: at its end).

    Texts for the same place stand in the order given. Raises ValueError if *text* is shorter.
    """
    at = [len(text) if place is None else place for place, _ in insertions]
    if max(at) > len(text):
        raise ValueError(f"a text has no character {max(at)}")
    for i in sorted(range(len(at)), key=lambda i: (at[i], i), reverse=True):
        text = text[: at[i]] + insertions[i][1] + text[at[i] :]
    return text


def cut_text(text: str, cut: Cut) -> str:
    """Return *text* without the characters that *cut* names. Raises ValueError if *text* is shorter."""
    if not 0 <= cut.start <= cut.end <= len(text):
        raise ValueError(f"a text has no characters {cut.start} to {cut.end}")
    return text[: cut.start] + text[cut.end :]
