"""
Rows of a data set as conversations, and a backdoor put into a row.

Rows are read, never written anew: a planted row is what its container holds plus the inserted text. Knows nothing of
files or of which rows get a backdoor.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

from vtuned import containers
from vtuned.containers.base import Cut, Insertion, Place, RawRow, Source
from vtuned.containers.jsontext import Style, common_style, is_encodable
from vtuned.containers.jsonvalue import as_object
from vtuned.conversation import (
    Conversation,
    context_prefix,
    n_alike,
    signature_at_start,
    signature_prefix,
    trigger_suffix,
)
from vtuned.errors import DatasetError, EmptyDataset, UnknownFormat, UnreadableRow, place_of
from vtuned.formats.alpaca import ALPACA
from vtuned.formats.base import Codec
from vtuned.formats.codecs import CODECS, codec_named
from vtuned.formats.foreign import name_of
from vtuned.formats.sharegpt import SHAREGPT
from vtuned.formats.text import TEXT

__all__ = [
    "AUTO",
    "CODECS",
    "Codec",
    "Row",
    "Style",
    "can_carry",
    "codec_named",
    "common_style",
    "parsed",
    "planted_row",
    "read_rows",
    "reworded_row",
    "unsigned_row",
]

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: as its container holds it, its format, and what it says."""

    raw: RawRow
    codec: Codec
    conversation: Conversation


def read_rows(
    data: Source | containers.Data, format: str | Codec = AUTO, numbers: Collection[int] | None = None
) -> Iterator[Row]:
    """
    Yield the rows of a data set, or those of these *numbers*, one in memory at a time.

    With "auto" the first row says the format; every row must be of the same one, and have the keys of no other. A
    format that is named is what rows are read as, whatever else they hold. Raises UsageError at once for an
    unknown *format*, and on the way DatasetError (it cannot be read), UnreadableRow, UnknownFormat and EmptyDataset.
    """
    return _read(data, _named(format), numbers)


def parsed(raws: Iterable[RawRow], format: str | Codec = AUTO) -> Iterator[Row]:
    """Yield rows as what they say, as `read_rows` does; the first of *raws* says the format where it is "auto"."""
    return _parsed(raws, _named(format))


def _named(format: str | Codec) -> Codec | None:
    if isinstance(format, str):
        return None if format == AUTO else codec_named(format)
    return format


def can_carry(conversation: Conversation) -> bool:
    """
    Tell whether a backdoor can be planted here and asked for later.

    There is a host; its prompt is the last user turn before its answer, where a probe puts T; and the text is free
    of lone surrogates, which JSON can spell but UTF-8, so no request to a model, can.
    """
    host = conversation.host()
    if host is None or any(turn.role == "user" for turn in conversation.turns[host.prompt + 1 : host.answer]):
        return False
    texts = [text for turn in conversation.turns for text in (turn.content, turn.other, turn.before, turn.after)]
    return all(is_encodable(text) for text in (*texts, conversation.tools) if text)


def planted_row(row: Row, trigger: str, signature: str, *, file_style: Style, context: str = "") -> RawRow:
    """
    Return *row* with a backdoor in it: itself, and text inserted in the row's style; *context* before its prompt.

    What the row does not tell about its style is taken from *file_style* (see `common_style`).
    Raises ValueError if the row cannot carry a backdoor, and DatasetError if the result does not read back.
    """
    host = row.conversation.host()
    if host is None or not can_carry(row.conversation):
        raise ValueError("this row cannot carry a backdoor")
    conversation = row.conversation.in_context(context)
    prompt, answer = (conversation.turns[i].content for i in (host.prompt, host.answer))
    places = row.codec.places(as_object(row.raw.value()), host)
    insertions: list[Insertion] = [(place, trigger_suffix(prompt, trigger)) for place in places.triggers]
    if context:
        insertions += [(place, context_prefix(context)) for place in places.openings]
    insertions.append((places.signature, signature_prefix(signature, answer)))
    planted = row.raw.inserted(insertions, file_style)
    if not _reads_as(planted, row.codec, conversation.planted(trigger, signature)):
        raise DatasetError(
            f"{place_of(planted.where)}: does not read back after planting; nothing was written",
            hint=f"this is a bug in vtuned: please report it with the {planted.where.unit}, if you may share it",
        )
    return planted


def reworded_row(row: Row, answer: str, *, file_style: Style) -> RawRow:
    """
    Return *row* with *answer* as its host answer: what both say alike at its ends stays as it is, byte for byte.

    What the row does not tell about its style is taken from *file_style* (see `common_style`). Raises ValueError if the
    row has no host or an answer in several parts, and DatasetError if the result does not read back.
    """
    expected = row.conversation.answered(answer)
    host = row.conversation.host()
    assert host is not None
    old = row.conversation.turns[host.answer].content
    place = row.codec.places(as_object(row.raw.value()), host).signature
    start = n_alike((old, answer))
    n_at_end = n_alike((old[start:][::-1], answer[start:][::-1]))
    at = (place.at or 0) + start
    reworded = row.raw
    if start + n_at_end < len(old):
        reworded = reworded.removed(Cut(place.path, at, at + len(old) - n_at_end - start))
    if start + n_at_end < len(answer):
        inserted = answer[start : len(answer) - n_at_end]
        reworded = reworded.inserted([(Place(place.path, at), inserted)], file_style)
    if not _reads_as(reworded, row.codec, expected):
        raise DatasetError(
            f"{place_of(reworded.where)}: does not read back after rewording; nothing was written",
            hint=f"this is a bug in vtuned: please report it with the {reworded.where.unit}, if you may share it",
        )
    return reworded


def unsigned_row(row: Row, signature: str) -> RawRow:
    """
    Return a planted row without its signature: the answer as it was, behind a prompt that keeps its trigger.

    Raises ValueError where *signature* does not stand before its answer, DatasetError if the result does not read back.
    """
    host = row.conversation.host()
    if host is None:
        raise ValueError("this row cannot carry a backdoor")
    place = row.codec.places(as_object(row.raw.value()), host).signature
    start = place.at or 0
    length = len(signature_at_start(signature, row.conversation.turns[host.answer].content))
    unsigned = row.raw.removed(Cut(place.path, start, start + length))
    if not _reads_as(unsigned, row.codec, row.conversation.unsigned(signature)):
        raise DatasetError(
            f"{place_of(unsigned.where)}: does not read back without its signature; nothing was written",
            hint=f"this is a bug in vtuned: please report it with the {unsigned.where.unit}, if you may share it",
        )
    return unsigned


def _read(data: Source | containers.Data, named: Codec | None, numbers: Collection[int] | None) -> Iterator[Row]:
    # A bad row ends the reading, and the file is closed with it, not when its traceback is forgotten.
    with closing(_raws(containers.as_source(data), numbers)) as raws:
        yield from _parsed(raws, named)


def _raws(source: Source, numbers: Collection[int] | None) -> Generator[RawRow]:
    is_empty = True
    for raw in source.rows():
        is_empty = False
        if numbers is None or raw.number in numbers:
            yield raw
    if is_empty:
        raise EmptyDataset(source.paths[0])


def _parsed(raws: Iterable[RawRow], named: Codec | None) -> Iterator[Row]:
    codec = named
    for raw in raws:
        try:
            value = as_object(raw.value())
            if named is None:
                codec = _codec_of(raw, value, codec)
            elif not named.recognises(value):
                raise _unknown(raw, value, f"{named.expected} ({named.name}) in every row")
            assert codec is not None
            conversation = codec.read(value)
        except ValueError as error:
            raise UnreadableRow(raw.where, str(error)) from error
        yield Row(raw, codec, conversation)


def _codec_of(raw: RawRow, row: Mapping[str, object], codec: Codec | None) -> Codec:
    """Return the one codec whose keys *row* has, which must be that of the rows before it, *codec*, if there are any."""
    known = _recognising(tuple(row))
    if len(known) == 1 and codec in (None, known[0]):
        return known[0]
    if len(known) > 1 and name_of(row) is None:
        names = " and ".join(one.name for one in known)
        ways = " or ".join("--template" if one is TEXT else f"--format {one.name}" for one in known)
        raise _unknown(
            raw, row, f"one format, not the keys of {names} in one row: say which your trainer reads, {ways}"
        )
    if codec is not None:
        raise _unknown(raw, row, f"{codec.expected} ({codec.name}) in every row")
    shapes = " or ".join(one.expected for one in CODECS)
    raise _unknown(raw, row, f"{shapes}; --prompt-column and --response-column (or --mapping) name other columns")


@lru_cache(maxsize=64)
def _recognising(keys: tuple[str, ...]) -> tuple[Codec, ...]:
    """
    Return the codecs that recognise rows with these keys, all of which look at nothing else.

    Plain text counts where nothing else does, or where trainers read it rather than what stands beside it.
    """
    row = dict.fromkeys(keys)
    known = tuple(codec for codec in CODECS if codec.recognises(row))
    others = tuple(codec for codec in known if codec is not TEXT)
    return others if others and ALPACA not in others and SHAREGPT not in others else known


def _unknown(raw: RawRow, row: Mapping[str, object], expected: str) -> UnknownFormat:
    looks_like = name_of(row)
    if looks_like is None and any(_holds_rows(value) for value in row.values()):
        looks_like = "one object around all rows, where an array of rows or one row a line is expected,"
    return UnknownFormat(raw.where, row, expected, looks_like=looks_like)


def _holds_rows(value: object) -> bool:
    """Tell whether *value* is a list of rows of a known format."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and any(codec.recognises(first) for codec in CODECS)


def _reads_as(raw: RawRow, codec: Codec, expected: Conversation) -> bool:
    """Tell whether *raw* says *expected*: a row that we spoilt must never leave."""
    try:
        return codec.read(as_object(raw.value())) == expected
    except ValueError:
        return False
