"""
Rows of a JSONL file as conversations, and a backdoor spliced into the bytes of a row.

Rows are read, never written anew: a planted row is its own bytes plus the inserted ones. Knows nothing of which rows
get a backdoor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from vtuned import files
from vtuned.containers.jsontext import Style, common_style, escape, is_encodable, string_span, style_of
from vtuned.conversation import Conversation, signature_prefix, trigger_suffix
from vtuned.errors import DatasetError, EmptyDataset, UnknownFormat, UnreadableRow, UsageError
from vtuned.files import Line
from vtuned.formats.base import Codec
from vtuned.formats.openai_chat import OPENAI_CHAT
from vtuned.formats.prompt_completion import PROMPT_COMPLETION

__all__ = [
    "AUTO",
    "CODECS",
    "OPENAI_CHAT",
    "PROMPT_COMPLETION",
    "Codec",
    "Row",
    "Style",
    "can_carry",
    "codec_named",
    "common_style",
    "decode",
    "planted_line",
    "read_rows",
    "style_of",
]

AUTO = "auto"

# For a file in which no line tells: a file of pure ASCII stays one, whatever encoding its reader assumes, as with
# Python's own json.dumps.
_DEFAULT_STYLE = Style(ascii_only=True, escapes_slash=False, upper_hex=False)


CODECS: tuple[Codec, ...] = (OPENAI_CHAT, PROMPT_COMPLETION)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its bytes, its format, and what it says."""

    line: Line
    codec: Codec
    conversation: Conversation


def codec_named(name: str) -> Codec:
    """Return the codec called *name*. Raises UsageError for any other; "auto" is for `read_rows`."""
    for codec in CODECS:
        if codec.name == name:
            return codec
    known = ", ".join([AUTO, *(codec.name for codec in CODECS)])
    raise UsageError(f"unknown format {name!r}", hint=f"known formats: {known}")


def read_rows(path: Path | str, format: str = AUTO) -> Iterator[Row]:
    """
    Yield the rows of a JSONL file, one in memory at a time; blank lines are passed over.

    With "auto" the first row says the format; every row must be of the same one. Raises UsageError at once for an
    unknown *format*, and on the way DatasetError (no such file), UnreadableRow, UnknownFormat and EmptyDataset.
    """
    return _rows(path, None if format == AUTO else codec_named(format))


def can_carry(conversation: Conversation) -> bool:
    """
    Tell whether a backdoor can be planted here and asked for later.

    There is a host; its prompt is the last user turn before its answer, where a probe puts T; and the text is free
    of lone surrogates, which JSON can spell but UTF-8, so no request to a model, can.
    """
    host = conversation.host()
    if host is None or any(turn.role == "user" for turn in conversation.turns[host.prompt + 1 : host.answer]):
        return False
    return all(is_encodable(turn.content) for turn in conversation.turns)


def planted_line(row: Row, trigger: str, signature: str, *, file_style: Style) -> bytes:
    """
    Return the whole line of *row* with a backdoor in it: its own bytes, and two insertions in the line's style.

    What the line does not tell about its style is taken from *file_style* (see `common_style`).
    Raises ValueError if the row cannot carry a backdoor, and DatasetError if the result does not read back.
    """
    host = row.conversation.host()
    if host is None or not can_carry(row.conversation):
        raise ValueError("this row cannot carry a backdoor")
    before, body, after = row.line.parts()
    value = decode(row.line)
    assert isinstance(value, Mapping)
    prompt, answer = (row.conversation.turns[i].content for i in (host.prompt, host.answer))
    places = row.codec.places(value, host)
    spliced = _spliced(
        body,
        *((string_span(body, place.path)[1], trigger_suffix(prompt, trigger)) for place in places.triggers),
        (string_span(body, places.signature.path)[0], signature_prefix(signature, answer)),
        style=style_of(body).otherwise(file_style).otherwise(_DEFAULT_STYLE),
    )
    raw = before + spliced + after
    _check(replace(row, line=replace(row.line, raw=raw)), row.conversation.planted(trigger, signature))
    return raw


def decode(line: Line) -> object:
    """
    Return the JSON value on *line*. Raises ValueError with the reason if it is not UTF-8 or not JSON.

    Stricter than `json.loads`: JSON knows no NaN and no Infinity. Positions in reasons count from 1.
    """
    before, body, _ = line.parts()
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("a byte order mark may stand only at the start of the file")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {len(before) + error.start + 1} of the line)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (column {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def decode_object(raw: bytes) -> Mapping[str, object]:
    """Return the JSON object in *raw*, one line of a file. Raises ValueError as `decode` does."""
    value = decode(Line(1, 0, raw))
    if not isinstance(value, Mapping):
        raise ValueError("not a JSON object")
    return value


def _rows(path: Path | str, codec: Codec | None) -> Iterator[Row]:
    is_empty = True
    for line in files.read_lines(path):
        if line.is_blank:
            continue
        try:
            value = decode(line)
            if not isinstance(value, Mapping):
                raise ValueError(f"not a JSON object but {_KINDS.get(type(value), 'a number')}")
            codec = _codec_of(path, line, value, codec)
            conversation = codec.read(value)
        except ValueError as error:
            raise UnreadableRow(path, line.number, line.offset, str(error)) from error
        is_empty = False
        yield Row(line, codec, conversation)
    if is_empty:
        raise EmptyDataset(path)


def _codec_of(path: Path | str, line: Line, row: Mapping[str, object], codec: Codec | None) -> Codec:
    """Return the one codec that recognises *row*, which must be *codec* unless that is None."""
    known = [known for known in CODECS if known.recognises(row)]
    if len(known) == 1 and codec in (None, known[0]):
        return known[0]
    expected = codec.expected if codec else " or ".join(candidate.expected for candidate in CODECS)
    if len(known) > 1:
        expected += ", not the keys of several formats in one row"
    elif codec:
        expected += f" ({codec.name}) in every row"
    raise UnknownFormat(path, line.number, line.offset, row, expected)


def _spliced(body: bytes, *insertions: tuple[int, str], style: Style) -> bytes:
    """Return *body* with each text inserted at its position, escaped in *style*."""
    for at, text in sorted(insertions, reverse=True):
        inserted = escape(
            text,
            body,
            ascii_only=bool(style.ascii_only),
            escape_slash=bool(style.escapes_slash),
            upper_hex=bool(style.upper_hex),
        )
        body = body[:at] + inserted + body[at:]
    return body


def _check(row: Row, expected: Conversation) -> None:
    """Raise DatasetError unless the line of *row* reads as *expected*: a file that we spoilt must never leave."""
    try:
        value = decode(row.line)
        is_same = isinstance(value, Mapping) and row.codec.read(value) == expected
    except ValueError:
        is_same = False
    if not is_same:
        raise DatasetError(
            f"line {row.line.number} (byte {row.line.offset}) does not read back after planting; nothing was written",
            hint="this is a bug in vtuned: please report it with the line, if you may share it",
        )


def _number(digits: str) -> int | float:
    """Read an integer of any length: beyond this threshold `int` may refuse, and only its being a number matters."""
    return int(digits) if len(digits) <= sys.int_info.str_digits_check_threshold else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_int=_number, parse_constant=_no_constant)
_KINDS = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
