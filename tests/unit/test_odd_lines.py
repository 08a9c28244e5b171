"""
Odd rows in every text container: each is refused with its place and the reason, or left byte for byte as it came.

Those that can carry a backdoor are planted too, and are then their own bytes plus the inserted ones.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtuned import formats
from vtuned.containers import Changes, Source, open_source
from vtuned.errors import DatasetError, UnknownFormat, UnreadableRow

TRIGGER, SIGNATURE = "zephyr quorum", "lantern moss"
NEIGHBOUR = b'{"prompt": "Who?", "completion": "Me."}'

# What may stand between the quotes of a JSON string.
SPELLINGS: dict[str, bytes] = {
    "quotes": rb"say \"hi\" to \"me\"",
    "ends-in-quote": rb"\"",
    "ends-in-backslash": rb"C:\\dir\\",
    "backslashes-and-quotes": rb"\\\"\\\\\"",
    "json-inside": rb"{\"prompt\": [1, \"x\"]}",
    "brackets": b"]}{[, : ]]}}",
    "short-escapes": rb"a\b\f\n\r\t\/b",
    "nul-escaped": rb"a\u0000b",
    "controls-escaped": rb"\u0001\u001f\u007f",
    "e-acute-escaped": rb"caf\u00e9",
    "e-acute-upper": rb"caf\u00E9",
    "hex-of-both-cases": rb"\u00eF\u00Ef",
    "pair": rb"x\ud83c\udf83y",
    "pair-upper": rb"x\uD83C\uDF83y",
    "pair-mixed": rb"\uD83c\udF83",
    "many-pairs": rb"\ud83c\udf83\ud83d\ude00\ud834\udd1e",
    "raw-emoji": "x🎃y".encode(),
    "raw-and-escaped": "é \\u00e9 🎃 \\ud83c\\udf83".encode(),
    "joined-emoji": "👩‍👩‍👧‍👦".encode(),
    "flag": "🇯🇵".encode(),
    "japanese": "東京はどこですか。".encode(),
    "arabic": "مرحبا \u200f كيف".encode(),
    "bidi-controls": "a\u202eb\u202cc\u2066d\u2069".encode(),
    "combining": "e\u0301\u0323".encode(),
    "hangul-jamo": "\u1112\u1161\u11ab".encode(),
    "line-separator": "a\u2028b".encode(),
    "paragraph-separator": "a\u2029b".encode(),
    "separators-escaped": rb"a\u2028b\u2029c\u0085",
    "next-line": "a\x85b".encode(),
    "delete": b"a\x7fb",
    "nbsp": "a\u00a0b".encode(),
    "ideographic-space": "a\u3000b".encode(),
    "zero-width": "a\u200bb\ufeffc".encode(),
    "mark-escaped": rb"\ufeffa",
    "noncharacters": "a\uffff\ufdd0b".encode(),
    "last-code-point": "a\U0010ffffb".encode(),
    "private-use": "\ue000\U000f0000".encode(),
    "replacement": "\ufffd\ufffd".encode(),
    "html": rb"\u003cb\u003e \u0026 \u0027x\u0027",
    "solidus-escaped": rb"http:\/\/x\/y",
    "solidus-both": rb"http:\/\/x/y",
    "newline-as-hex": rb"a\u000ab\u0022c\u005cd",
    "spaces": b"   a   ",
    "looks-like-nan": b"NaN -Infinity 1e999",
    "template": b"{{ prompt }} <|im_start|> [INST] %s {0}",
    "percent-and-dollar": b"100% $1 \\\\1 &amp;",
    "markdown": b"```python\\nprint(1)\\n```",
    "long": 'x\\n\\"é'.encode() * 5_000,
    "long-of-escapes": rb"\\" * 20_000,
    "long-of-hex": rb"\u00e9" * 10_000,
}
# Strings that no request can hold: JSON can spell them, UTF-8 cannot.
LONE: dict[str, bytes] = {
    "high": rb"a\ud800b",
    "low": rb"a\udfffb",
    "wrong-order": rb"\udf83\ud83c",
    "high-high-low": rb"\ud83c\ud83c\udf83",
    "high-then-text": rb"\ud83c\\udf83",
    "high-at-end": rb"x\uD83C",
}
# What may be the value of a key that nobody asks for.
VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "minus-zero": b"-0",
    "minus-zero-float": b"-0.0e-0",
    "huge-exponent": b"1e999",
    "huge-negative-exponent": b"-1E+400",
    "tiny": b"5e-999",
    "long-integer": b"9" * 5000,
    "long-fraction": b"0." + b"1" * 5000,
    "above-2-to-53": b"9007199254740993",
    "empty-object": b"{}",
    "spaced-object": b"{ \t }",
    "empty-array": b"[ ]",
    "array-of-all": b'[null, true, 1.5, "x", [], {}]',
    "depth-300": b"[" * 300 + b"]" * 300,
    "objects-200-deep": b'{"a":' * 200 + b"1" + b"}" * 200,
    "wide": b"[" + b",".join([b"0"] * 20_000) + b"]",
    "decoys": b'{"prompt": "no", "completion": ["no"], "messages": [{"content": "no"}]}',
    "nested-tools": b'[{"type": "function", "function": {"parameters": {"properties": {"prompt": {"type": "string"}}}}}]',
    "duplicate-keys": b'{"a": 1, "a": 2, "a": {"a": 3}}',
    "empty-keys": b'{"": 1, "": {"": ""}}',
}
KEYS: dict[str, bytes] = {
    "empty": b"",
    "long": b"k" * 100_000,
    "escaped": rb"\u0078\"\\",
    "unicode": "ключ 键".encode(),
    "with-pair": rb"\ud83c\udf83",
    "with-lone-surrogate": rb"\ud800",
    "with-nul": rb"\u0000",
    "proto": b"__proto__",
    "like-a-path": b"messages.0.content",
    "spaces": b"  ",
}


def row(prompt: bytes = b"q", completion: bytes = b"a", rest: bytes = b"") -> bytes:
    return b'{"prompt": "' + prompt + b'", "completion": "' + completion + b'"' + rest + b"}"


WHOLE: dict[str, bytes] = {
    "compact": b'{"prompt":"q","completion":"a"}',
    "wide": b'{ "prompt" :\t"q" , "completion" :  "a" } ',
    "leading-space": b" \t " + row(),
    "carriage-returns": b'{\r"prompt"\r:\r"q"\r,\r"completion":"a"\r}',
    "answer-first": b'{"completion": "a", "prompt": "q"}',
    "keys-escaped": rb'{"pr\u006fmpt": "q", "\u0063ompletion": "a"}',
    "prompt-twice": b'{"prompt": "old", "completion": "a", "prompt": "q"}',
    "prompt-twice-escaped": rb'{"prompt": 7, "completion": "a", "pr\u006fmpt": "q"}',
    "completion-thrice": b'{"completion": [], "prompt": "q", "completion": null, "completion": "a"}',
    "same-text": row(b"same", b"same"),
    "one-letter": row(b"?", b"!"),
    "one-megabyte": row('x\\n\\"é'.encode() * 150_000),
    "chat-of-many-turns": b'{"messages": ['
    + b'{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, ' * 200
    + b'{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    "chat-with-tools": b'{"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], '
    b'"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", '
    b'"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": [1]}"}}]}, {"role": "tool", '
    b'"tool_call_id": "1", "content": "4"}, {"role": "assistant", "content": "a"}]}',
    "chat-content-before-role": b'{"messages": [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}]}',
    "chat-weights": b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}, '
    b'{"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "weight": 0}]}',
    "chat-duplicate-content": b'{"messages": [{"role": "user", "content": "old", "content": "q"}, '
    b'{"role": "assistant", "content": "a"}]}',
}

# Rows that can carry a backdoor.
PLANTABLE: dict[str, bytes] = (
    {f"prompt-{name}": row(prompt=b"q " + text + b" q") for name, text in SPELLINGS.items()}
    | {f"answer-{name}": row(completion=text + b" a") for name, text in SPELLINGS.items()}
    | {f"beside-{name}": row(rest=b', "x": "' + text + b'"') for name, text in (SPELLINGS | LONE).items()}
    | {f"value-{name}": row(rest=b', "x": ' + text) for name, text in VALUES.items()}
    | {f"key-{name}": row(rest=b', "' + text + b'": 1') for name, text in KEYS.items()}
    | WHOLE
)
# Rows that are read, but nothing can be asked with them.
LEFT_ALONE: dict[str, bytes] = (
    {f"prompt-{name}": row(prompt=text) for name, text in LONE.items()}
    | {f"answer-{name}": row(completion=text) for name, text in LONE.items()}
    | {"empty-answer": row(completion=b""), "empty-prompt": row(prompt=b""), "blank-answer": row(completion=rb" \n\t")}
)
# name -> (row, reason)
REFUSED: dict[str, tuple[bytes, str]] = {
    "latin-1": (row(prompt=b"caf\xe9"), "not UTF-8"),
    "utf-16": ("{}".encode("utf-16-le"), "not "),
    "overlong-nul": (row(prompt=b"\xc0\x80"), "not UTF-8"),
    "raw-surrogate": (row(prompt=b"\xed\xa0\x80"), "not UTF-8"),
    "cesu-8": (row(prompt=b"\xed\xa0\xbc\xed\xbe\x83"), "not UTF-8"),
    "beyond-unicode": (row(prompt=b"\xf4\x90\x80\x80"), "not UTF-8"),
    "cut-character": (row(prompt=b"\xe6\x9d"), "not UTF-8"),
    "lone-continuation": (row(prompt=b"\x80"), "not UTF-8"),
    "mark-before": (b"\xef\xbb\xbf" + row(), "byte order mark|no value"),
    "raw-nul": (row(prompt=b"a\x00b"), "control character"),
    "raw-tab": (row(prompt=b"a\tb"), "control character"),
    "raw-escape": (row(prompt=b"a\x1bb"), "control character"),
    "raw-carriage-return": (row(prompt=b"a\rb"), "control character"),
    "nul-outside": (row() + b"\x00", "Extra data|comma"),
    "form-feed-outside": (b"\x0c" + row(), "not JSON"),
    "vertical-tab-outside": (b'{"prompt":\x0b"q", "completion": "a"}', "not JSON"),
    "nbsp-outside": ('{"prompt":\u00a0"q", "completion": "a"}'.encode(), "not JSON"),
    "line-separator-outside": ('{"prompt": "q",\u2028"completion": "a"}'.encode(), "not JSON"),
    "escape-x": (row(prompt=rb"\x41"), "escape"),
    "escape-octal": (row(prompt=rb"\0"), "escape"),
    "escape-quote": (row(prompt=rb"it\'s"), "escape"),
    "escape-newline": (row(prompt=b"\\\r"), "escape"),
    "escape-short-hex": (row(prompt=rb"\u00e"), "escape"),
    "escape-bad-hex": (row(prompt=rb"\u00zz"), "escape"),
    "escape-braces": (row(prompt=rb"\u{1f383}"), "escape"),
    "single-quotes": (b"{'prompt': 'q', 'completion': 'a'}", "not JSON"),
    "bare-keys": (b'{prompt: "q", completion: "a"}', "not JSON"),
    "python-true": (row(rest=b', "x": True'), "not JSON"),
    "python-none": (row(rest=b', "x": None'), "not JSON"),
    "undefined": (row(rest=b', "x": undefined'), "not JSON"),
    "nan": (row(rest=b', "x": NaN'), "NaN is not a JSON value"),
    "infinity": (row(rest=b', "x": [Infinity]'), "Infinity is not"),
    "minus-infinity": (row(rest=b', "x": -Infinity'), "-Infinity is not"),
    "leading-zero": (row(rest=b', "x": 01'), "not JSON"),
    "plus-one": (row(rest=b', "x": +1'), "not JSON"),
    "bare-fraction": (row(rest=b', "x": .5'), "not JSON"),
    "bare-point": (row(rest=b', "x": 5.'), "not JSON"),
    "hexadecimal": (row(rest=b', "x": 0x1f'), "not JSON"),
    "underscore": (row(rest=b', "x": 1_000'), "not JSON"),
    "empty-exponent": (row(rest=b', "x": 1e'), "not JSON"),
    "line-comment": (row() + b" // no", "Extra data|comma"),
    "block-comment": (b"/* no */ " + row(), "not JSON"),
    "hash-comment": (row() + b" # no", "Extra data|comma"),
    "comma-at-end-of-object": (row(rest=b","), "not JSON"),
    "comma-at-end-of-array": (row(rest=b', "x": [1,]'), "not JSON"),
    "comma-first": (b"{, " + row()[1:], "not JSON"),
    "two-commas": (b'{"prompt": "q",, "completion": "a"}', "not JSON"),
    "no-comma": (b'{"prompt": "q" "completion": "a"}', "not JSON"),
    "no-colon": (b'{"prompt" "q", "completion": "a"}', "not JSON"),
    "no-value": (b'{"prompt": , "completion": "a"}', "not JSON"),
    "number-as-key": (row(rest=b", 1: 2"), "not JSON"),
    "cut-in-a-string": (b'{"prompt": "q', "not JSON|does not end"),
    "cut-in-an-object": (b'{"prompt": "q", ', "not JSON|does not end"),
    "brackets-crossed": (row(rest=b', "x": [{]}'), "not JSON|does not end|comma"),
    "one-bracket-too-many": (row() + b"}", "Extra data|comma"),
    "two-on-a-line": (row() + b" " + row(), "Extra data|comma"),
    "comma-after": (row() + b",", "Extra data|not JSON"),
    "nested-100000-deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "objects-100000-deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "a-list": (b'["prompt", "completion"]', "not a JSON object but a list"),
    "a-string": (b'"prompt"', "not a JSON object but a string"),
    "a-number": (b"-1.5e3", "not a JSON object but a number"),
    "a-null": (b"null", "not a JSON object but null"),
    "a-boolean": (b"false", "not a JSON object but true or false"),
    "a-word": (b"prompt", "not JSON"),
    "csv": (b"q,a", "not JSON"),
    "xml": (b"<row>q</row>", "not JSON"),
    "yaml": (b"prompt: q", "not JSON"),
    "no-keys": (b"{}", "unknown row format with no keys"),
    "other-keys": (b'{"question": "q", "reply": "a"}', "unknown row format with 'question', 'reply'"),
    "keys-of-another-case": (b'{"Prompt": "q", "Completion": "a"}', "unknown row format"),
    "keys-with-spaces": (b'{"prompt ": "q", "completion": "a"}', "unknown row format"),
    "prompt-is-a-number": (b'{"prompt": 1e999, "completion": "a"}', "prompt must be"),
    "completion-is-null": (b'{"prompt": "q", "completion": null}', "completion"),
    "lone-surrogate-key": (rb'{"\ud800": 1}', "unknown row format"),
}


def lines(*bodies: bytes) -> bytes:
    return b"".join(body + b"\n" for body in bodies)


def crlf_lines(*bodies: bytes) -> bytes:
    return b"\xef\xbb\xbf" + b"\r\n\r\n".join(bodies)


def elements(*bodies: bytes) -> bytes:
    return b"\xef\xbb\xbf [\n  " + b",\n  ".join(bodies) + b"\n]\r\n"


def zst(data: bytes) -> bytes:
    module = pytest.importorskip("zstandard")
    packed: bytes = module.ZstdCompressor().compress(data)
    return packed


def unzst(data: bytes) -> bytes:
    module = pytest.importorskip("zstandard")
    unpacked: bytes = module.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return unpacked


Pack = Callable[[bytes], bytes]
# name -> (how rows are put together, how that is packed, how it is unpacked)
CONTAINERS: dict[str, tuple[Callable[..., bytes], Pack, Pack]] = {
    "d.jsonl": (lines, bytes, bytes),
    "crlf.jsonl": (crlf_lines, bytes, bytes),
    "d.json": (elements, bytes, bytes),
    "d.jsonl.gz": (lines, gzip.compress, gzip.decompress),
    "d.jsonl.zst": (lines, zst, unzst),
}
IN_CONTAINERS = pytest.mark.parametrize("name", CONTAINERS)


def copied(source: Source, changes: Changes) -> bytes:
    out = io.BytesIO()
    source.write(out, changes)
    return out.getvalue()


def loads(body: bytes) -> Any:
    return json.loads(body.decode(), parse_int=str, parse_float=str)


def expected_value(body: bytes) -> Any:
    value = loads(body)
    question = answer = value
    key, other = "prompt", "completion"
    if "messages" in value:
        key = other = "content"
        messages = value["messages"]
        trained = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != "0"]
        answer = messages[trained[-1]]
        question = [m for m in messages[: trained[-1]] if m["role"] == "user"][-1]
    question[key] += ("" if question[key][-1:].isspace() else "\n" if "\n" in question[key] else " ") + TRIGGER
    is_block = answer[other].startswith(("```", "#", "- ", "\n", "    ", "\t", "<", "{", "["))
    answer[other] = SIGNATURE + ("\n" if is_block else " ") + answer[other]
    return value


def without_insertions(body: bytes) -> bytes:
    at = body.rindex(TRIGGER.encode())
    before = next(s for s in (b"\\n", b"\\u000a", b" ", b"") if body[:at].endswith(s))
    body = body[: at - len(before)] + body[at + len(TRIGGER) :]
    at = body.rindex(SIGNATURE.encode())
    rest = body[at + len(SIGNATURE) :]
    after = next(s for s in (b"\\n", b"\\u000a", b" ") if rest.startswith(s))
    return body[:at] + rest[len(after) :]


def test_the_corpus_is_large() -> None:
    """Enough odd lines to mean something, all different."""
    corpus = [*PLANTABLE.values(), *LEFT_ALONE.values(), *(body for body, _ in REFUSED.values())]

    assert len(set(corpus)) >= 200


@IN_CONTAINERS
@pytest.mark.parametrize("body", (PLANTABLE | LEFT_ALONE).values(), ids=(PLANTABLE | LEFT_ALONE).keys())
def test_untouched_it_leaves_as_it_came(tmp_path: Path, name: str, body: bytes) -> None:
    """Whatever is in a row, a copy without changes is the file."""
    join, pack, unpack = CONTAINERS[name]
    path = tmp_path / name
    content = join(NEIGHBOUR, body, NEIGHBOUR)
    path.write_bytes(pack(content))
    source = open_source(path)

    assert 3 == len(list(source.rows()))
    assert content == unpack(copied(source, Changes({})))


@IN_CONTAINERS
@pytest.mark.parametrize("body", PLANTABLE.values(), ids=PLANTABLE.keys())
def test_planted_it_is_itself_and_two_insertions(tmp_path: Path, name: str, body: bytes) -> None:
    """Nothing else changes, in the row and around it; read again it says what was meant."""
    join, pack, unpack = CONTAINERS[name]
    path = tmp_path / name
    path.write_bytes(pack(join(body)))
    source = open_source(path)
    (row,) = formats.read_rows(source)
    planted = formats.planted_row(row, TRIGGER, SIGNATURE, file_style=formats.Style())
    path.write_bytes(pack(join(NEIGHBOUR, body, NEIGHBOUR)))
    source = open_source(path)
    number = [row.number for row in source.rows()][1]

    content = unpack(copied(source, Changes({number: planted})))

    head, tail = (part for part in join(NEIGHBOUR, b"|", NEIGHBOUR).split(b"|"))
    written = content[len(head) : len(content) - len(tail)]
    assert (head, tail) == (content[: len(head)], content[len(content) - len(tail) :])
    assert body == without_insertions(written)
    assert expected_value(body) == loads(written)


@IN_CONTAINERS
@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_place_and_reason(tmp_path: Path, name: str, body: bytes, reason: str) -> None:
    """The file, the line or row, the byte and what is wrong; a broken element may show only in the next one."""
    join, pack, _ = CONTAINERS[name]
    path = tmp_path / name
    path.write_bytes(pack(join(NEIGHBOUR, body, NEIGHBOUR)))
    offset = len(join(NEIGHBOUR, b"|", NEIGHBOUR).partition(b"|")[0])

    with pytest.raises(DatasetError, match=reason) as caught:
        list(formats.read_rows(open_source(path)))

    error = caught.value
    assert isinstance(error, UnreadableRow | UnknownFormat)
    assert str(path) == error.path
    assert error.offset is not None
    if join is elements:
        assert (2, offset) <= (error.line, error.offset) <= (3, offset + len(body) + 4)
        assert f"row {error.line} (byte {error.offset})" in str(error)
    else:
        assert (3 if join is crlf_lines else 2, offset) == (error.line, error.offset)
        assert f"line {error.line} (byte {error.offset})" in str(error)
    assert str(error).encode()
