"""CSV and TSV files with a header: a row is a record, every cell is text, and quoting stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from vtuned.containers import streams
from vtuned.containers.base import Cells, Cut, Insertion, cut_text, insert_texts
from vtuned.containers.jsonrows import first_newline
from vtuned.containers.jsontext import Style, is_encodable
from vtuned.containers.text import Frame, Piece, TextRow, TextSource
from vtuned.errors import DatasetError, UnreadableRow
from vtuned.files import BOM, parted

# The rest of a quoted field, its closing quote included.
_QUOTED = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_HINT = "write the file as RFC 4180 has it: UTF-8, one header, fields in double quotes where they need them"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The one byte between fields, and the names of the columns."""

    delimiter: bytes
    header: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CSVRow(TextRow):
    """One record."""

    dialect: Dialect

    def value(self) -> Cells:
        """See `RawRow.value`."""
        return Cells(self._cells())

    def _cells(self) -> dict[str, str]:
        cells = [_text(raw, self.where.unit) for raw in fields(self.body, self.dialect.delimiter)]
        header = self.dialect.header
        if len(cells) != len(header):
            raise ValueError(f"{_count(len(cells))}, but the header has {len(header)}")
        return dict(zip(header, cells, strict=True))

    def style(self) -> Style:
        """See `RawRow.style`."""
        return Style()

    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> CSVRow:
        """See `RawRow.inserted`: a field gets quotes only where it has come to need them."""
        value = self._cells()
        if not all(is_encodable(text) for _, text in insertions):
            raise ValueError("a phrase with lone surrogates cannot be written as UTF-8")
        for place, _ in insertions:
            if len(place.path) != 1 or place.path[0] not in value:
                raise ValueError(f"no column {place.path!r}")
        raws = fields(self.body, self.dialect.delimiter)
        for i, name in enumerate(self.dialect.header):
            own = [(place.at, text) for place, text in insertions if place.path == (name,)]
            if own:
                raws[i] = _spelled(insert_texts(value[name], own), raws[i].startswith(b'"'), self.dialect.delimiter)
        return replace(self, body=self.dialect.delimiter.join(raws))

    def removed(self, cut: Cut) -> CSVRow:
        """See `RawRow.removed`."""
        cells = self._cells()
        if len(cut.path) != 1 or cut.path[0] not in cells:
            raise ValueError(f"no column {cut.path!r}")
        name = str(cut.path[0])
        raws = fields(self.body, self.dialect.delimiter)
        i = self.dialect.header.index(name)
        raws[i] = _spelled(cut_text(cells[name], cut), raws[i].startswith(b'"'), self.dialect.delimiter)
        return replace(self, body=self.dialect.delimiter.join(raws))


class CSVFile(TextSource):
    """A CSV or TSV file; blank lines are no rows. Rows are counted without the header."""

    def __init__(self, path: Path, name: str, compression: str, dialect: Dialect) -> None:
        super().__init__(path, name, compression)
        self._dialect = dialect

    @classmethod
    def opened(cls, path: Path, name: str, compression: str) -> CSVFile:
        """Open the file at *path*. Raises DatasetError where it has no header that can be used."""
        try:
            with streams.reading(path, compression) as found:
                head = next(_records(found.file, b"\t" if "tsv" in name else b","), b"").removeprefix(BOM)
            delimiter = b"\t" if "tsv" in name else _delimiter(head)
            header = tuple(_text(raw, "header") for raw in fields(parted(head)[0], delimiter))
        except ValueError as error:
            raise DatasetError(f"{path}: the header cannot be read: {error}", hint=_HINT) from None
        if not head.strip():
            raise DatasetError(f"{path}: the first line should be the header", hint=_HINT)
        if len(set(header)) < len(header):
            raise DatasetError(f"{path}: two columns have the same name", hint="give each column its own name")
        return cls(path, name, compression, Dialect(delimiter, header))

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """See `TextSource.pieces`."""
        gap: list[bytes] = []
        offset = number = 0
        is_header = True
        try:
            for raw in _records(file, self._dialect.delimiter):
                body, after = parted(raw)
                if is_header or not body:
                    gap.append(raw)
                    is_header = False
                else:
                    number += 1
                    yield Piece(b"".join(gap), body, offset, number)
                    gap = [after]
                offset += len(raw)
        except _OpenQuote:
            raise UnreadableRow(self.where(number + 1, offset), "a quoted field does not end", hint=_HINT) from None
        yield Piece(b"".join(gap), b"", offset, number, is_end=True)

    def row(self, piece: Piece, n_read: int) -> CSVRow:
        """See `TextSource.row`."""
        return CSVRow(self.where(piece.number, piece.offset), piece.body, n_read, self._dialect)

    def frame(self, head: bytes, joint: bytes | None, tail: bytes) -> Frame:
        """See `TextSource.frame`: the newline after the header, no blank lines, and an end as it was."""
        newline = first_newline(head)
        return Frame(head, newline, newline if tail.endswith(b"\n") else b"")


def fields(record: bytes, delimiter: bytes) -> list[bytes]:
    """
    Return the fields of one record as they are spelled, quotes included; joined by the delimiter they are the record.

    Raises ValueError where something follows a closing quote, or for a line end of old Macintoshes.
    """
    found: list[bytes] = []
    at = 0
    while True:
        if record[at : at + 1] == b'"':
            closing = _QUOTED.match(record, at + 1)
            if closing is None:
                raise ValueError("a quoted field does not end")
            end = closing.end()
            if record[end : end + 1] not in (b"", delimiter):
                raise ValueError(f"something follows the closing quote of field {len(found) + 1}")
        else:
            end = record.find(delimiter, at)
            end = len(record) if end < 0 else end
            if b"\r" in record[at:end]:
                raise ValueError(f"a bare carriage return in field {len(found) + 1}")
        found.append(record[at:end])
        if end >= len(record):
            return found
        at = end + 1


class _OpenQuote(ValueError):
    """The file ends inside a quoted field."""


def _records(file: BinaryIO, delimiter: bytes) -> Iterator[bytes]:
    """Yield the records with their line ends, the header and blank lines too. Raises _OpenQuote."""
    parts: list[bytes] = []
    is_open = False
    mark = BOM
    for line in file:
        is_open = _is_open_after(line.removeprefix(mark), delimiter, is_open)
        mark = b""
        parts.append(line)
        if not is_open:
            yield b"".join(parts)
            parts = []
    if is_open:
        raise _OpenQuote("a quoted field does not end")


def _is_open_after(line: bytes, delimiter: bytes, is_open: bool) -> bool:
    """Tell whether a quoted field goes on after *line*; *is_open* tells whether one was going on before."""
    if not is_open and b'"' not in line:
        return False
    at = 0
    while True:
        if is_open or line[at : at + 1] == b'"':
            closing = _QUOTED.match(line, at if is_open else at + 1)
            if closing is None:
                return True
            at, is_open = closing.end(), False
        at = line.find(delimiter, at) + 1
        if at == 0:
            return False


def _delimiter(header: bytes) -> bytes:
    """Return the delimiter that the header shows: a comma unless there is none, but a semicolon or a tab."""
    return next((mark for mark in (b",", b";", b"\t") if mark in header), b",")


def _text(raw: bytes, unit: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8 in a field of the {unit}") from None
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _spelled(text: str, is_quoted: bool, delimiter: bytes) -> bytes:
    raw = text.encode("utf-8")
    if is_quoted or raw.startswith(b'"') or any(mark in raw for mark in (delimiter, b'"', b"\r", b"\n")):
        return b'"' + raw.replace(b'"', b'""') + b'"'
    return raw


def _count(n: int) -> str:
    return f"{n} field" + ("s" if n != 1 else "")
