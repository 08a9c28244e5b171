"""
Where a JSON string sits in the bytes of a line, and how that line spells its characters.

Lets a caller insert text into a row without writing the row anew. Knows nothing of formats, rows or files, and
expects bytes that `json` has already read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vtuned.files import BOM

JSONPath = tuple[str | int, ...]

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]++")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{\[]|[}\]]', re.DOTALL)
_ESCAPE = re.compile(rb"""\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|["\\/bfnrt])""")

# One character of a JSON string: a surrogate pair is one, and so is a surrogate alone.
_CHARACTER = re.compile(
    rb"""\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[\x00-\x7f]|[\xc2-\xf4][\x80-\xbf]+""",
    re.DOTALL,
)

_SHORT = {'"': b'\\"', "\\": b"\\\\", "\b": b"\\b", "\f": b"\\f", "\n": b"\\n", "\r": b"\\r", "\t": b"\\t"}
# Legal inside a JSON string, but readers that use str.splitlines() would cut the row in two.
_LINE_SEPARATORS = "\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class Style:
    r"""
    How a line, or a whole file, spells what JSON lets one spell in two ways; None where it does not tell.

    *ascii_only*: characters beyond ASCII as \uXXXX; *escapes_slash*: "/" as "\/"; *upper_hex*: \u00E9, not \u00e9.
    """

    ascii_only: bool | None = None
    escapes_slash: bool | None = None
    upper_hex: bool | None = None

    def otherwise(self, other: Style) -> Style:
        """Return this style, with what it does not tell taken from *other*."""
        return Style(
            other.ascii_only if self.ascii_only is None else self.ascii_only,
            other.escapes_slash if self.escapes_slash is None else self.escapes_slash,
            other.upper_hex if self.upper_hex is None else self.upper_hex,
        )


def style_of(line: bytes) -> Style:
    """Return the style of one line, with or without its byte order mark and newline."""
    text = line.removeprefix(BOM)
    escapes = _escapes(text)
    ascii_only = None
    if not text.isascii():
        ascii_only = False
    elif any(_is_optional(_meaning(spelling)) for spelling in escapes):
        ascii_only = True
    escapes_slash = None
    if text.count(b"/") > escapes[b"\\/"]:
        escapes_slash = False
    elif escapes[b"\\/"]:
        escapes_slash = True
    digits = b"".join(spelling for spelling in escapes if spelling.startswith(b"\\u")).replace(b"\\u", b"")
    has_lower, has_upper = digits != digits.upper(), digits != digits.lower()
    return Style(ascii_only, escapes_slash, has_upper if has_upper != has_lower else None)


def common_style(styles: Iterable[Style]) -> Style:
    """
    Return the style of a file: for each property what most of the lines that tell say; None if no line tells.

    A tie goes to the plain spelling (raw UTF-8, bare slashes, lower-case hex).
    """
    votes = [0, 0, 0]
    told = [False, False, False]
    for style in styles:
        for i, vote in enumerate((style.ascii_only, style.escapes_slash, style.upper_hex)):
            if vote is not None:
                votes[i] += 1 if vote else -1
                told[i] = True
    ascii_only, escapes_slash, upper_hex = (votes[i] > 0 if told[i] else None for i in range(3))
    return Style(ascii_only, escapes_slash, upper_hex)


def escape(phrase: str, line: bytes, *, ascii_only: bool, escape_slash: bool, upper_hex: bool = False) -> bytes:
    r"""
    Return *phrase* as it would stand between the quotes of a JSON string of *line*.

    A character that *line* spells with an escape, and nowhere without, is spelled as there: writers differ on
    \u003c, \u0027 and \u000a. Hex digits are lower-case unless *upper_hex*.
    Raises ValueError if *phrase* holds lone surrogates.
    """
    if not is_encodable(phrase):
        raise ValueError("a phrase with lone surrogates cannot be written as UTF-8")
    spellings = _spellings(line)
    spelled = []
    for character in phrase:
        if character == "/":
            spelled.append(b"\\/" if escape_slash else b"/")
        else:
            plain = _spelled(character, ascii_only=ascii_only, upper_hex=upper_hex)
            spelled.append(spellings.get(character, plain))
    return b"".join(spelled)


def string_span(text: bytes, path: JSONPath) -> tuple[int, int]:
    """
    Return where the content of the string at *path* starts and ends in *text*: byte positions between its quotes.

    Of members with the same name the last counts, as for `json.loads`. Raises ValueError if no string is at *path*.
    """
    start = after_space(text, 0)
    for step in path:
        found = [at for key, at in _members(text, start) if key == step]
        if not found:
            raise ValueError(f"nothing at {step!r}")
        start = found[-1]
    return start + 1, _string_end(text, start) - 1


def position(text: bytes, path: JSONPath, at: int | None) -> int:
    """
    Return the byte before which the character number *at* of the string at *path* stands; None is the string's end.

    Raises ValueError if no string is at *path*, or if it is shorter.
    """
    start, end = string_span(text, path)
    if at is None:
        return end
    for _ in range(at):
        character = _CHARACTER.match(text, start, end)
        if character is None:
            raise ValueError(f"the string at {path!r} has no character {at}")
        start = character.end()
    return start


def value_end(text: bytes, start: int) -> int:
    """
    Return the position after the JSON value that starts at *start*; nesting costs no stack.

    Raises ValueError where there is no value, or one that does not end; whether it is valid inside is not looked at.
    """
    opener = text[start : start + 1]
    if opener == b'"':
        return _string_end(text, start)
    if opener not in (b"{", b"["):
        scalar = _SCALAR.match(text, start)
        if scalar is None:
            raise ValueError(f"no value at byte {start}")
        return scalar.end()
    open_ones = bytearray()
    for token in _TOKEN.finditer(text, start):
        mark = token[0]
        if mark in (b"{", b"["):
            open_ones += mark
        elif mark in (b"}", b"]"):
            if open_ones.pop() != (ord("{") if mark == b"}" else ord("[")):
                break
            if not open_ones:
                return token.end()
    raise ValueError(f"the value at byte {start} does not end")


def after_space(text: bytes, at: int) -> int:
    """Return the position of the first byte from *at* on that is not white space."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def is_encodable(text: str) -> bool:
    """Tell whether *text* is free of lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _members(text: bytes, start: int) -> Iterator[tuple[str | int, int]]:
    """Yield (name or index, where the value starts) of each member of the object or array that starts at *start*."""
    opener = text[start : start + 1]
    if opener not in (b"{", b"["):
        raise ValueError("not an object or array")
    closer = b"}" if opener == b"{" else b"]"
    at, index = after_space(text, start + 1), 0
    while text[at : at + 1] != closer:
        key: str | int = index
        if opener == b"{":
            end = _string_end(text, at)
            key = json.loads(text[at:end].decode("utf-8"))
            at = after_space(text, _after(text, after_space(text, end), b":"))
        yield key, at
        index += 1
        at = after_space(text, value_end(text, at))
        if text[at : at + 1] != closer:
            at = after_space(text, _after(text, at, b","))


def _string_end(text: bytes, start: int) -> int:
    string = _STRING.match(text, start)
    if string is None:
        raise ValueError(f"no string at byte {start}")
    return string.end()


def _after(text: bytes, at: int, mark: bytes) -> int:
    if text[at : at + 1] != mark:
        raise ValueError(f"no {mark.decode()!r} at byte {at}")
    return at + 1


def _escapes(line: bytes) -> Counter[bytes]:
    """Return how often each escape is on the line, in the order of their first use; a surrogate pair is one escape."""
    return Counter(match[0] for match in _ESCAPE.finditer(line))


def _meaning(spelling: bytes) -> str:
    return str(json.loads(b'"' + spelling + b'"'))


def _is_optional(character: str) -> bool:
    """Tell whether *character* is escaped for being beyond ASCII: unprintable ones are by many kinds of writers."""
    return character > "\x7f" and (character.isprintable() or character > "\uffff")


def _spellings(line: bytes) -> dict[str, bytes]:
    """Return how *line* spells the characters that it always escapes."""
    found: dict[str, bytes] = {}
    for spelling in _escapes(line):
        character = _meaning(spelling)
        if is_encodable(character) and character <= "\uffff":
            found.setdefault(character, spelling)
    return {
        character: spelling
        for character, spelling in found.items()
        if character < " " or character in '"\\' or character.encode() not in line
    }


def _spelled(character: str, *, ascii_only: bool, upper_hex: bool) -> bytes:
    if character in _SHORT:
        return _SHORT[character]
    is_escaped = character < " " or character in _LINE_SEPARATORS or (ascii_only and character > "~")
    if not is_escaped:
        return character.encode("utf-8")
    units = character.encode("utf-16-be").hex()
    units = units.upper() if upper_hex else units
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)).encode("ascii")
