"""JSON lines, and JSON arrays of rows: a planted row is its own bytes plus the inserted ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from vtuned.containers.base import Cut, Insertion
from vtuned.containers.jsontext import Style, after_space, escape, position, style_of, value_end
from vtuned.containers.jsonvalue import decode
from vtuned.containers.text import Frame, Piece, TextRow, TextSource
from vtuned.errors import UnreadableRow
from vtuned.files import BOM, Line, parted

# For a file in which no row tells: a file of pure ASCII stays one, whatever encoding its reader assumes, as with
# Python's own json.dumps.
_DEFAULT_STYLE = Style(ascii_only=True, escapes_slash=False, upper_hex=False)


@dataclass(frozen=True, slots=True)
class JSONRow(TextRow):
    """A row that is one JSON value."""

    def value(self) -> object:
        """See `RawRow.value`."""
        return decode(self.body, self.where.unit)

    def style(self) -> Style:
        """See `RawRow.style`."""
        return style_of(self.body)

    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> JSONRow:
        """See `RawRow.inserted`; texts for the same place stand in the order given."""
        style = style_of(self.body).otherwise(file_style).otherwise(_DEFAULT_STYLE)
        at = [position(self.body, place.path, place.at) for place, _ in insertions]
        body = self.body
        for i in sorted(range(len(at)), key=lambda i: (at[i], i), reverse=True):
            text = escape(
                insertions[i][1],
                self.body,
                ascii_only=bool(style.ascii_only),
                escape_slash=bool(style.escapes_slash),
                upper_hex=bool(style.upper_hex),
            )
            body = body[: at[i]] + text + body[at[i] :]
        return replace(self, body=body)

    def removed(self, cut: Cut) -> JSONRow:
        """See `RawRow.removed`."""
        start, end = (position(self.body, cut.path, at) for at in (cut.start, cut.end))
        return replace(self, body=self.body[:start] + self.body[end:])


class JSONLines(TextSource):
    """One JSON value a line, one line in memory at a time; blank lines are numbered, but are no rows."""

    counts_lines = True

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """See `TextSource.pieces`."""
        gap: list[bytes] = []
        offset = number = 0
        for number, raw in enumerate(file, start=1):
            before, body, after = Line(number, offset, raw).parts() if number == 1 else (b"", *parted(raw))
            if not body.strip(b" \t\r\n"):
                gap.append(raw)
            else:
                gap.append(before)
                yield Piece(b"".join(gap), body, offset + len(before), number)
                gap = [after]
            offset += len(raw)
        yield Piece(b"".join(gap), b"", offset, number, is_end=True)

    def row(self, piece: Piece, n_read: int) -> JSONRow:
        """See `TextSource.row`."""
        return JSONRow(self.where(piece.number, piece.offset), piece.body, n_read)

    def frame(self, head: bytes, joint: bytes | None, tail: bytes) -> Frame:
        """See `TextSource.frame`: the newline of the first line, no blank lines, and an end as it was."""
        newline = first_newline(head + (joint or b"") + tail)
        return Frame(BOM if head.startswith(BOM) else b"", newline, newline if tail.endswith(b"\n") else b"")


class JSONArray(TextSource):
    """
    One JSON array whose elements are the rows.

    The file's bytes are in memory as a whole, its values one at a time.
    """

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """See `TextSource.pieces`."""
        text = file.read()
        start = after_space(text, len(BOM) if text.startswith(BOM) else 0)
        if text[start : start + 1] != b"[":
            raise self._broken(1, start, "no [ opens the array")
        end, number = start + 1, 0
        at = after_space(text, end)
        while text[at : at + 1] != b"]" or number:
            gap, number = text[0 if number == 0 else end : at], number + 1
            end = self._element_end(text, at, number)
            yield Piece(gap, text[at:end], at, number)
            at = after_space(text, end)
            if text[at : at + 1] == b"]":
                break
            at = self._after_comma(text, at, number)
        rest = after_space(text, at + 1)
        if rest < len(text):
            raise self._broken(number, rest, "something follows the array")
        yield Piece(text[end if number else 0 :], b"", at, number, is_end=True)

    def row(self, piece: Piece, n_read: int) -> JSONRow:
        """See `TextSource.row`."""
        return JSONRow(self.where(piece.number, piece.offset), piece.body, n_read)

    def frame(self, head: bytes, joint: bytes | None, tail: bytes) -> Frame:
        """See `TextSource.frame`: what stands between the first two rows stands between all."""
        space = head[head.find(b"[") + 1 :]
        return Frame(head, b"," + (space or b" ") if joint is None else joint, tail)

    def _element_end(self, text: bytes, at: int, number: int) -> int:
        try:
            return value_end(text, at)
        except ValueError:
            is_cut = at >= len(text) or text[at : at + 1] in b'{["'
            reason = "the array does not end: a bracket or a quote is missing" if is_cut else "not JSON: no value"
            raise self._broken(number, at, reason) from None

    def _after_comma(self, text: bytes, at: int, number: int) -> int:
        if text[at : at + 1] != b",":
            reason = "a comma or the end of the array is missing" if at < len(text) else "the array does not end"
            raise self._broken(number, at, f"{reason} after this row")
        following = after_space(text, at + 1)
        if text[following : following + 1] == b"]":
            raise self._broken(number, at, "not JSON: a comma after the last row")
        return following

    def _broken(self, number: int, offset: int, reason: str) -> UnreadableRow:
        return UnreadableRow(self.where(number, offset), reason)


def first_newline(text: bytes) -> bytes:
    """Return the first line end of *text*, LF where there is none."""
    at = text.find(b"\n")
    return b"\r\n" if at > 0 and text[at - 1 : at] == b"\r" else b"\n"
