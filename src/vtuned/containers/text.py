"""
Files in which rows are stretches of text with something between them: lines, elements of an array, records.

A copy is the file itself with some stretches replaced, left out or put in another order.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from vtuned import files
from vtuned.containers import streams
from vtuned.containers.base import Changes, Cut, Insertion, RawRow, Where, Written
from vtuned.containers.jsontext import Style


class Piece(NamedTuple):
    """
    One row of a file: its *body*, at byte *offset*, and the *gap* between the row before, or the start, and it.

    The last piece *is_end*: its gap is what follows the last row, its *number* the highest one there is.
    """

    gap: bytes
    body: bytes
    offset: int
    number: int
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the rows of a copy in another order: before them, between any two, and after them."""

    head: bytes
    joint: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: its rows, where replaced rows went, and the highest numbers of the source and of the copy."""

    n_rows: int
    placed: dict[int, int]
    n_source_numbers: int
    n_numbers: int


class _Put(NamedTuple):
    """A piece of a copy; *number* is that of the row in the source, of the end the highest one in the source."""

    gap: bytes
    body: bytes
    number: int
    is_replaced: bool = False
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class TextRow(ABC):
    """A row that is a stretch of text: its *body*. See `vtuned.containers.base.RawRow`."""

    where: Where
    body: bytes = field(repr=False)
    n_read: int

    @property
    def number(self) -> int:
        """See `RawRow.number`."""
        return self.where.number

    @abstractmethod
    def value(self) -> object:
        """See `RawRow.value`."""

    @abstractmethod
    def style(self) -> Style:
        """See `RawRow.style`."""

    @abstractmethod
    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> RawRow:
        """See `RawRow.inserted`."""

    @abstractmethod
    def removed(self, cut: Cut) -> RawRow:
        """See `RawRow.removed`."""


class FileSource(ABC):
    """A source that is one file. See `vtuned.containers.base.Source`."""

    name: str
    folder: Path | None = None
    is_folder = False

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.n_numbers = 0
        """The highest number that a row can have; known once `rows` has come to its end."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """See `Source.paths`."""
        return (self.path,)

    @property
    def n_bytes(self) -> int:
        """See `Source.n_bytes`."""
        return streams.size_of(self.path)

    def sha256(self) -> str:
        """See `Source.sha256`."""
        return files.sha256_of(self.path)

    @abstractmethod
    def rows(self) -> Iterator[RawRow]:
        """See `Source.rows`."""

    @abstractmethod
    def check_order(self) -> None:
        """See `Source.check_order`."""

    @abstractmethod
    def copy(self, out: BinaryIO, changes: Changes) -> Copied:
        """Write a copy into *out*."""

    def write(self, target: BinaryIO | Path, changes: Changes) -> Written:
        """See `Source.write`."""
        assert not isinstance(target, Path)
        out = streams.Digesting(target)
        copied = self.copy(cast(BinaryIO, out), changes)
        return Written(out.sha256, out.n_bytes, copied.n_rows, copied.placed)


class TextSource(FileSource):
    """A file in which rows are stretches of text."""

    counts_lines = False
    """Whether rows are numbered by the line that they are on."""

    def __init__(self, path: Path, name: str, compression: str) -> None:
        super().__init__(path, name)
        self.compression = compression

    @abstractmethod
    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Yield the rows of *file*, and the end. Raises UnreadableRow where it is not clear what is a row."""

    @abstractmethod
    def row(self, piece: Piece, n_read: int) -> RawRow:
        """Return a piece as a row."""

    @abstractmethod
    def frame(self, head: bytes, joint: bytes | None, tail: bytes) -> Frame:
        """Return what to put around rows in another order, from the file's start, its first gap and its end."""

    def where(self, number: int, offset: int) -> Where:
        """Return where a row is."""
        return Where(self.path, "line" if self.counts_lines else "row", number, offset)

    def rows(self) -> Iterator[RawRow]:
        """See `Source.rows`."""
        with streams.reading(self.path, self.compression) as opened:
            for piece in self.pieces(opened.file):
                if piece.is_end:
                    self.n_numbers = piece.number
                else:
                    n_read = opened.n_read if self.compression else piece.offset + len(piece.body)
                    yield self.row(piece, n_read)

    def check_order(self) -> None:
        """See `Source.check_order`: text can be put in any order."""

    def copy(self, out: BinaryIO, changes: Changes) -> Copied:
        """See `FileSource.copy`."""
        with streams.reading(self.path, self.compression) as opened, streams.writing(out, self.compression) as packed:
            if changes.order is None:
                return self._copy(packed, self._in_place(opened.file, changes))
            if not self.compression:
                return self._copy(packed, self._in_order(opened.file, changes.order, changes))
            with tempfile.TemporaryFile() as unpacked:
                shutil.copyfileobj(opened.file, unpacked)
                unpacked.seek(0)
                return self._copy(packed, self._in_order(cast(BinaryIO, unpacked), changes.order, changes))

    def _copy(self, out: BinaryIO, puts: Iterator[_Put]) -> Copied:
        n_lines = 0
        placed: dict[int, int] = {}
        for n_rows, put in enumerate(puts):
            n_lines += put.gap.count(b"\n")
            if put.is_end:
                out.write(put.gap)
                is_open = not put.gap.endswith(b"\n") if put.gap else n_rows > 0
                return Copied(n_rows, placed, put.number, n_lines + is_open if self.counts_lines else n_rows)
            out.write(put.gap + put.body)
            if put.is_replaced:
                placed[put.number] = (n_lines if self.counts_lines else n_rows) + 1
        raise AssertionError("a file without an end")

    def _in_place(self, file: BinaryIO, changes: Changes) -> Iterator[_Put]:
        """Yield the rows that stay; what stood before the first row stands before the first that stays."""
        head: bytes | None = None
        is_first = True
        for piece in self.pieces(file):
            if piece.is_end:
                yield _Put((head or b"") + piece.gap, b"", piece.number, is_end=True)
                return
            head, is_first = (piece.gap, False) if is_first else (head, False)
            if piece.number not in changes.dropped:
                gap, head = (piece.gap if head is None else head), None
                new = changes.replaced.get(piece.number)
                yield _Put(gap, piece.body if new is None else _body(new), piece.number, is_replaced=new is not None)

    def _in_order(self, file: BinaryIO, order: Sequence[int], changes: Changes) -> Iterator[_Put]:
        """Yield the rows that *order* lists: positions of all rows are kept in memory, rows are read one by one."""
        offsets, lengths = array("q", [0]), array("q", [0])
        gaps: list[bytes] = []
        n_numbers, tail = 0, b""
        for piece in self.pieces(file):
            if piece.is_end:
                n_numbers, tail = piece.number, piece.gap
                break
            gaps += [piece.gap] if len(gaps) < 2 else []
            n_blank = piece.number - len(offsets)
            offsets.extend([*[0] * n_blank, piece.offset])
            lengths.extend([*[0] * n_blank, len(piece.body)])
        frame = self.frame(gaps[0] if gaps else b"", gaps[1] if len(gaps) > 1 else None, tail)
        gap = frame.head
        for number in order:
            if number < 0:
                yield _Put(gap, _body(changes.replaced[-number]), -number, is_replaced=True)
            else:
                file.seek(offsets[number])
                yield _Put(gap, file.read(lengths[number]), number)
            gap = frame.joint
        yield _Put(frame.tail, b"", n_numbers, is_end=True)


def _body(row: RawRow) -> bytes:
    assert isinstance(row, TextRow)
    return row.body
