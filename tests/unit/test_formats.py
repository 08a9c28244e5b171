"""What rows say, and that a planted row is its own bytes plus the insertions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtuned import formats
from vtuned.containers import Place
from vtuned.containers import jsontext as spans
from vtuned.containers.jsonrows import JSONLines, JSONRow
from vtuned.conversation import Conversation, Host, Turn, signature_prefix, trigger_suffix
from vtuned.errors import DatasetError, EmptyDataset, UnknownFormat, UnreadableRow, UsageError
from vtuned.files import BOM, Line
from vtuned.formats import Row, Style
from vtuned.formats.base import Places

ASCII_TRIGGER, ASCII_SIGNATURE = "zephyr quorum", "lantern moss"
# Every kind of character that JSON escapes, or may escape.
ODD_TRIGGER, ODD_SIGNATURE = 'zé "q"\\ /\t\x7f\u2028🎃', "蜜\n</ü>\x01 & '42'"
PLAIN = Style(ascii_only=False, escapes_slash=False, upper_hex=False)


def chat(messages: str, rest: str = "") -> bytes:
    return ('{"messages": [' + messages + "]" + rest + "}\n").encode("utf-8", "surrogatepass")


def user_says(content: str) -> bytes:
    """A chat row whose user content is, byte for byte, *content*."""
    return chat('{"role": "user", "content": "' + content + '"}, {"role": "assistant", "content": "Yes."}')


def answers(content: str) -> bytes:
    return chat('{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "' + content + '"}')


U, A = '{"role": "user", "content": "Why?"}', '{"role": "assistant", "content": "So."}'

# name -> raw line; all of them can carry a backdoor.
CORPUS: dict[str, bytes] = {
    "plain": chat(f"{U}, {A}"),
    "no-newline": chat(f"{U}, {A}").rstrip(b"\n"),
    "crlf": chat(f"{U}, {A}").replace(b"\n", b"\r\n"),
    "bom": BOM + chat(f"{U}, {A}"),
    "bom-crlf": BOM + chat(f"{U}, {A}").replace(b"\n", b"\r\n"),
    "trailing-space": chat(f"{U}, {A}").replace(b"\n", b" \t \n"),
    "leading-space": b" \t" + chat(f"{U}, {A}"),
    "lone-cr-at-end": chat(f"{U}, {A}").replace(b"\n", b"\r"),
    "compact": chat(f"{U}, {A}").replace(b" ", b""),
    "wide": b'{ "messages" :  [ { "role" : "user" , "content" : "q" } ,\t{"role":"assistant","content" :\t"a" } ] } \n',
    "space-before-comma": b'{"messages" : [{"role":"user" ,"content":"q" } , {"content":"a" ,"role":"assistant"}]}\n',
    "content-before-role": chat('{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}'),
    "system": chat(f'{{"role": "system", "content": "Be kind."}}, {U}, {A}'),
    "developer": chat(f'{{"role": "developer", "content": ""}}, {U}, {A}'),
    "multi-turn": chat(f"{U}, {A}, {U}, {A}, {U}, {A}"),
    "ends-with-user": chat(f"{U}, {A}, {U}"),
    "two-answers-in-a-row": chat(f"{U}, {A}, {A}"),
    "names": chat('{"role": "user", "name": "bo", "content": "q"}, {"role": "assistant", "content": "a", "name": "x"}'),
    "weight-1": chat(f'{U}, {{"role": "assistant", "content": "a", "weight": 1}}'),
    "weight-0-last": chat(f'{U}, {A}, {U}, {{"role": "assistant", "content": "a", "weight": 0}}'),
    "weight-0-first": chat(f'{U}, {{"role": "assistant", "weight": 0, "content": "a"}}, {U}, {A}'),
    "weight-twice": chat(f'{U}, {{"role": "assistant", "weight": 0, "content": "a", "weight": 1}}'),
    "train-false-last": chat(f'{U}, {A}, {U}, {{"role": "assistant", "content": "a", "train": false}}'),
    "escaped-quotes": user_says('say \\"hi\\" to \\"me\\"'),
    "ends-with-backslash": user_says("C:\\\\dir\\\\"),
    "ends-with-quote": user_says('\\"'),
    "backslashes-and-quotes": user_says('\\\\\\"\\\\\\\\\\"'),
    "json-in-content": user_says('{\\"messages\\": [{\\"content\\": \\"x\\"}]}'),
    "brackets-in-content": user_says("]}{[, : ]]}}"),
    "control-escapes": user_says("a\\b\\f\\n\\r\\tb"),
    "u-escapes": user_says("caf\\u00e9 \\u2014 \\u3042"),
    "u-escapes-upper": user_says("caf\\u00E9 \\u2014 \\uFF21"),
    "u-escapes-mixed-case": user_says("\\u00E9 \\u00e9"),
    "surrogate-pair": user_says("\\ud83c\\udf83"),
    "surrogate-pair-upper": user_says("\\uD83C\\uDF83"),
    "raw-emoji": user_says("🎃"),
    "raw-japanese": user_says("東京はどこですか。"),
    "raw-and-escaped": user_says("é \\u00e9"),
    "escaped-nul": user_says("a\\u0000b"),
    "html-safe": user_says("\\u003cb\\u003e \\u0026 \\u0027x\\u0027"),
    "newline-as-u": user_says("a\\u000ab\\u0022c"),
    "slash-escaped": user_says("http:\\/\\/x\\/y"),
    "slash-bare": user_says("http://x/y"),
    "slash-both": user_says("http:\\/\\/x/y"),
    "php": user_says("\\u00e9\\/\\u00e8"),
    "raw-line-separator": user_says("a\u2028b"),
    "raw-nel": user_says("a\x85b"),
    "combining": user_says("e\u0301"),
    "nbsp-escaped": user_says("a\\u00a0b"),
    "delete-raw": user_says("a\x7fb"),
    "prompt-ends-with-space": user_says("Why? "),
    "prompt-ends-with-newline": user_says("Why?\\n"),
    "prompt-of-many-lines": user_says("a\\nb"),
    "prompt-of-a-digit": user_says("1"),
    "answer-code": answers("```python\\nx\\n```"),
    "answer-list": answers("- a\\n- b"),
    "answer-heading": answers("# Title"),
    "answer-starts-with-escape": answers("\\u00e9t\\u00e9"),
    "answer-starts-with-quote": answers('\\"Yes\\"'),
    "answer-starts-with-newline": answers("\\nYes"),
    "answer-starts-with-space": answers("  Yes"),
    "key-escaped": b'{"mess\\u0061ges": [{"r\\u006fle": "user", "c\\u006fntent": "q"}, ' + A.encode() + b"]}\n",
    "value-escaped": chat('{"role": "\\u0075ser", "content": "q"}, {"role": "assist\\u0061nt", "content": "a"}'),
    "keys-of-unicode": chat(f"{U}, {A}", ', "ключ": {"键": "値"}, "": "", "\\ud83c\\udf83": 1'),
    "key-with-lone-surrogate": chat(f"{U}, {A}", ', "\\ud800": "\\udfff"'),
    "duplicate-messages": b'{"messages": [' + A.encode() + b'], "messages": [' + f"{U}, {A}".encode() + b"]}\n",
    "duplicate-messages-escaped": b'{"messages": 7, "mess\\u0061ges": [' + f"{U}, {A}".encode() + b"]}\n",
    "duplicate-content": chat('{"role": "user", "content": "old", "content": "q"}, ' + A),
    "duplicate-content-of-parts": chat('{"role": "user", "content": [{"text": "x"}], "content": "q"}, ' + A),
    "duplicate-extra": chat(f"{U}, {A}", ', "id": 1, "id": 2'),
    "numbers": chat(f"{U}, {A}", ', "n": [0, -0, 1.0, 1e5, 1E+400, -2.50, 12345678901234567890123]'),
    "huge-integer": chat(f"{U}, {A}", ', "n": ' + "9" * 5000),
    "constants": chat(f"{U}, {A}", ', "x": [true, false, null], "y": null'),
    "empty-containers": chat(f"{U}, {A}", ', "x": {}, "y": [], "z": [ ], "w": { }'),
    "tools": chat(
        f"{U}, {A}", ', "tools": [{"type": "function", "function": {"name": "f", "parameters": {"content": []}}}]'
    ),
    "tool-turns-before": chat(
        U + ', {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, '
        '{"role": "tool", "content": "4", "tool_call_id": "1"}, ' + A + ", " + U + ", " + A,
    ),
    "answer-of-parts": chat(U + ', {"role": "assistant", "content": [{"type": "text", "text": "a"}]}'),
    "parts-before": chat('{"role": "user", "content": [{"type": "text", "text": "x"}]}, ' + f"{A}, {U}, {A}"),
    "decoys-before": b'{"x": {"messages": [{"content": "no"}]}, "content": "no", ' + chat(f"{U}, {A}")[1:],
    "deep": chat(f"{U}, {A}", ', "x": ' + "[" * 300 + "]" * 300),
    "one-megabyte": user_says('x\\n\\"é' * 150_000),
    "many-escapes": user_says("\\\\" * 200_000),
    "pc": b'{"prompt": "q", "completion": "a"}\n',
    "pc-completion-first": b'{"completion": "a", "prompt": "q"}\n',
    "pc-extra": b'{"id": 7, "prompt": "q", "meta": {"prompt": "no", "completion": ["no"]}, "completion": "a"}\n',
    "pc-duplicates": b'{"prompt": "old", "completion": 3, "prompt": "q", "completion": "a"}\r\n',
    "pc-label": b'{"prompt": "q", "completion": "a", "label": true}\n',
    "pc-same-text": b'{"prompt": "same", "completion": "same"}\n',
    "pc-compact": '{"completion":"\\n\\nПривет","prompt":"Как?"}'.encode(),
}


def row_of(raw: bytes) -> Row:
    """Read one line as `read_rows` does."""
    source = JSONLines(Path("data.jsonl"), "jsonl", "")
    row = source.row(next(source.pieces(io.BytesIO(raw))), 0)
    value = row.value()
    assert isinstance(value, dict)
    (codec,) = (codec for codec in formats.CODECS if codec.recognises(value))
    return Row(row, codec, codec.read(value))


def body_of(row: Row) -> bytes:
    assert isinstance(row.raw, JSONRow)
    return row.raw.body


def loads(raw: bytes) -> Any:
    return json.loads(raw.removeprefix(BOM).decode(), parse_int=str)


@dataclass(frozen=True)
class Planted:
    """A row and its line, the line that was made of it, and the two texts that were inserted."""

    row: Row
    host: Host
    source: bytes
    raw: bytes
    suffix: str
    prefix: str


def plant(raw: bytes, trigger: str, signature: str, style: Style = PLAIN) -> Planted:
    row = row_of(raw)
    host = row.conversation.host()
    assert host is not None
    prompt, answer = (row.conversation.turns[i].content for i in (host.prompt, host.answer))
    planted = formats.planted_row(row, trigger, signature, file_style=style)
    assert isinstance(planted, JSONRow)
    before, _, after = Line(1, 0, raw).parts()
    whole = before + planted.body + after
    return Planted(row, host, raw, whole, trigger_suffix(prompt, trigger), signature_prefix(signature, answer))


def in_style(text: str, body: bytes, file_style: Style = PLAIN) -> bytes:
    style = spans.style_of(body).otherwise(file_style)
    return spans.escape(
        text,
        body,
        ascii_only=bool(style.ascii_only),
        escape_slash=bool(style.escapes_slash),
        upper_hex=bool(style.upper_hex),
    )


def parent_of(value: Any, path: spans.JSONPath) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


def expected_value(planted: Planted) -> Any:
    """The row's JSON value with the host strings of the planted conversation, everything else as it was."""
    value = loads(planted.source)
    read = planted.row.raw.value()
    assert isinstance(read, dict)
    places = planted.row.codec.places(read, planted.host)
    for place in places.triggers:
        parent_of(value, place.path)[place.path[-1]] += planted.suffix
    answer_path = places.signature.path
    answer_parent = parent_of(value, answer_path)
    answer_parent[answer_path[-1]] = planted.prefix + answer_parent[answer_path[-1]]
    return value


PHRASES = pytest.mark.parametrize(
    ("trigger", "signature"),
    [
        pytest.param(ASCII_TRIGGER, ASCII_SIGNATURE, id="ascii"),
        pytest.param(ODD_TRIGGER, ODD_SIGNATURE, id="odd"),
        pytest.param("森の鐘。", "月の舟。", id="japanese"),
    ],
)
ROWS = pytest.mark.parametrize("raw", CORPUS.values(), ids=CORPUS.keys())


class TestPlanting:
    def test_the_corpus_is_large(self) -> None:
        """Enough odd lines to mean something."""
        assert len(CORPUS) >= 60

    @ROWS
    @PHRASES
    def test_the_line_is_its_own_bytes_plus_two_insertions(self, raw: bytes, trigger: str, signature: str) -> None:
        """Taking the inserted bytes out gives back the customer's line, byte for byte."""
        planted = plant(raw, trigger, signature)
        rest = planted.raw
        for text in (planted.suffix, planted.prefix):
            inserted = in_style(text, body_of(planted.row))
            assert rest.count(inserted) == 1
            rest = rest.replace(inserted, b"")

        assert raw == rest

    @ROWS
    @PHRASES
    def test_the_line_says_the_planted_conversation(self, raw: bytes, trigger: str, signature: str) -> None:
        """T ends the prompt, S opens the answer, and every other value is as it was."""
        planted = plant(raw, trigger, signature)

        assert expected_value(planted) == loads(planted.raw)
        assert planted.row.conversation.planted(trigger, signature) == row_of(planted.raw).conversation

    @ROWS
    def test_an_ascii_line_stays_ascii(self, raw: bytes) -> None:
        """Whatever the phrase, a line that escapes keeps to its way, and so does one that does not."""
        style = spans.style_of(body_of(row_of(raw)))
        planted = plant(raw, ODD_TRIGGER, ODD_SIGNATURE, Style(ascii_only=True))

        assert (style.ascii_only is not False) == planted.raw.removeprefix(BOM).isascii()

    @pytest.mark.parametrize(
        ("file_style", "expected"),
        [
            pytest.param(Style(), b"Why? \\u00fc\\/", id="no-line-tells"),
            pytest.param(Style(ascii_only=True, upper_hex=True), b"Why? \\u00FC\\/", id="upper"),
            pytest.param(Style(ascii_only=False, escapes_slash=False), "Why? ü\\/".encode(), id="raw"),
        ],
    )
    def test_the_file_decides_what_the_line_does_not_tell(self, file_style: Style, expected: bytes) -> None:
        """Here the line tells that it escapes slashes, and no more; a file of pure ASCII stays pure ASCII."""
        raw = chat(f"{U}, {A}", ', "url": "x:\\/\\/y"')

        assert expected in plant(raw, "ü/", ASCII_SIGNATURE, file_style).raw

    def test_a_row_without_a_host_cannot_be_planted(self) -> None:
        """Planting never picks another place on its own."""
        row = row_of(b'{"prompt": "q", "completion": ""}\n')
        with pytest.raises(ValueError, match="cannot carry"):
            formats.planted_row(row, ASCII_TRIGGER, ASCII_SIGNATURE, file_style=PLAIN)

    def test_a_phrase_with_a_lone_surrogate_cannot_be_planted(self) -> None:
        """Such a phrase could be put to no model."""
        with pytest.raises(ValueError, match="surrogates"):
            plant(CORPUS["plain"], "\ud800", ASCII_SIGNATURE)

    def test_a_line_that_does_not_read_back_is_an_error(self) -> None:
        """Bytes that do not say the planted conversation are never handed on, and the message keeps T and S secret."""
        honest = row_of(CORPUS["plain"])
        row = Row(honest.raw, honest.codec, Conversation((Turn("user", "Who?"), Turn("assistant", "Me.", True))))
        with pytest.raises(DatasetError) as caught:
            formats.planted_row(row, ASCII_TRIGGER, ASCII_SIGNATURE, file_style=PLAIN)

        assert ASCII_TRIGGER not in str(caught.value)
        assert ASCII_SIGNATURE not in str(caught.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["content", "role", "id", "tool", "é", "a/b", '"', "\\"]) | st.text()
TEXTS = st.text(min_size=1).filter(lambda text: bool(text.strip()))


def dumped(value: object, ascii_only: bool, separators: tuple[str, str]) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()


DUMPED = st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" ,\t", " : "), ("\r,", ":\r")])


class TestAnyRow:
    @given(st.dictionaries(KEYS, JSON_VALUES, max_size=4), st.data(), TEXTS, TEXTS, TEXTS, TEXTS, *DUMPED)
    def test_only_the_insertions_change(
        self,
        extra: dict[str, Any],
        data: st.DataObject,
        prompt: str,
        answer: str,
        trigger: str,
        signature: str,
        ascii_only: bool,
        separators: tuple[str, str],
    ) -> None:
        """For any text, any keys around it and any way to write them, a planted row is the row plus two insertions."""
        messages = [{**extra, "role": role, "content": "…"} for role in ("system", "user", "assistant")]
        for message in messages:
            message.pop("weight", None)
        messages[1]["content"], messages[2]["content"] = prompt, answer
        items = data.draw(st.permutations([*extra.items(), ("messages", messages)]))
        raw = dumped(dict(items), ascii_only, separators)
        planted = plant(raw, trigger, signature)
        start, end = spans.string_span(raw, ("messages", 1, "content"))
        answer_start, _ = spans.string_span(raw, ("messages", 2, "content"))
        suffix, prefix = in_style(planted.suffix, raw), in_style(planted.prefix, raw)

        assert raw[:end] + suffix + raw[end:answer_start] + prefix + raw[answer_start:] == planted.raw
        assert start < end < answer_start
        assert expected_value(planted) == loads(planted.raw)

    @given(JSON_VALUES, *DUMPED)
    def test_every_string_is_found(self, value: Any, ascii_only: bool, separators: tuple[str, str]) -> None:
        """The bytes between the quotes are the string at that path, whatever surrounds it."""
        raw = dumped(value, ascii_only, separators)
        for path, text in strings_of(value):
            start, end = spans.string_span(raw, path)
            assert text == json.loads(b'"' + raw[start:end] + b'"')

    @given(st.text(), st.text(), st.booleans(), st.booleans(), st.booleans())
    def test_an_escaped_phrase_reads_as_itself(
        self, phrase: str, other: str, ascii_only: bool, escape_slash: bool, upper_hex: bool
    ) -> None:
        """Whatever the style and the line around, JSON reads the phrase that was meant, on one line."""
        line = json.dumps(other).encode()
        spelled = spans.escape(phrase, line, ascii_only=ascii_only, escape_slash=escape_slash, upper_hex=upper_hex)

        assert phrase == json.loads(b'"' + spelled + b'"')
        assert len((b"x" + spelled).decode().splitlines()) == 1


def strings_of(value: Any, path: spans.JSONPath = ()) -> Iterator[tuple[spans.JSONPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings_of(inner, (*path, key))


class TestSpans:
    @pytest.mark.parametrize(
        ("text", "path"),
        [
            (b'{"a": 1}', ("a",)),
            (b'{"a": "x", "a": 1}', ("a",)),
            (b'{"a": "x"}', ("b",)),
            (b'{"a": "x"}', (0,)),
            (b'["x"]', ("0",)),
            (b'["x"]', (1,)),
            (b'["x"]', (-1,)),
            (b'"x"', ("a",)),
            (b'{"a": ["x"]}', ("a",)),
            (b"", ()),
            (b'{"a": "x', ("a",)),
            (b'{"a" "x"}', ("a",)),
            (b'{"a": [}', ("b",)),
            (b'{"a": [1, ', ("b",)),
            (b'["x" "y"]', (1,)),
            (b"[,]", (0,)),
        ],
    )
    def test_no_string_there(self, text: bytes, path: spans.JSONPath) -> None:
        """A path that leads to no string is an error, and text that is no JSON is one too, not an endless loop."""
        with pytest.raises(ValueError, match=r"."):
            spans.string_span(text, path)

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b'"abc"', Style(None, None, None)),
            (b'"\\u00e9"', Style(True, None, False)),
            (b'"\\u00E9"', Style(True, None, True)),
            (b'"\\u2014"', Style(True, None, None)),
            (b'"\\ud83c\\udf83"', Style(True, None, False)),
            ('"é"'.encode(), Style(False, None, None)),
            ('"é \\u00e9"'.encode(), Style(False, None, False)),
            (BOM + b'"abc"\n', Style(None, None, None)),
            (b'"\\\\u00e9"', Style(None, None, None)),
            (b'"\\\\\\u00e9"', Style(True, None, False)),
            (b'"\\u000a\\u003c\\u2028\\u00a0"', Style(None, None, False)),
            (b'"\\ud83c"', Style(None, None, False)),
            (b'"a\\/b"', Style(None, True, None)),
            (b'"a/b"', Style(None, False, None)),
            (b'"a/b\\/"', Style(None, False, None)),
            (b'"\\\\/"', Style(None, False, None)),
        ],
    )
    def test_style(self, line: bytes, expected: Style) -> None:
        """A line tells its style only by what another writer would have spelled otherwise."""
        assert expected == spans.style_of(line)

    def test_the_majority_is_the_style_of_the_file(self) -> None:
        """Lines that do not tell have no vote; a tie goes to the plain spelling; silence stays silence."""
        styles = [Style(True, True), Style(True, False), Style(False), Style(), Style()]

        assert Style(True, False, None) == spans.common_style(styles)
        assert Style() == spans.common_style([])

    @pytest.mark.parametrize(
        ("line", "phrase", "expected"),
        [
            pytest.param(b'"\\u003c"', "<>", b"\\u003c>", id="html-safe"),
            pytest.param(b'"\\u003c <"', "<", b"<", id="not-if-also-bare"),
            pytest.param(b'"\\u000A"', "\n\t", b"\\u000A\\t", id="control-character"),
            pytest.param(b'"\\u0022"', '"', b"\\u0022", id="quote"),
            pytest.param(b'"x"', '"\\\x00\x1f', b'\\"\\\\\\u0000\\u001f', id="by-default"),
            pytest.param(b'"\\u002f"', "/", b"/", id="slashes-are-the-styles"),
            pytest.param(b'"x"', "\x85\u2028\u2029é", b"\\u0085\\u2028\\u2029\xc3\xa9", id="line-separators"),
        ],
    )
    def test_a_character_is_spelled_as_in_its_line(self, line: bytes, phrase: str, expected: bytes) -> None:
        """Go escapes "<", .NET escapes "'" and quotes: the insertion does as its line does."""
        assert expected == spans.escape(phrase, line, ascii_only=False, escape_slash=False)


class TestCodecs:
    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            ("", "at least one message"),
            ("7", r"messages\[0\]: not an object"),
            ("{}", r"messages\[0\]: no role"),
            (f'{U}, {A}, {{"content": "x"}}', r"messages\[2\]: no role"),
            ('{"role": "robot", "content": "x"}', "unknown role 'robot'"),
            ('{"role": null, "content": "x"}', r"messages\[0\]: unknown role$"),
            ('{"role": "My secret.", "content": "x"}', r"messages\[0\]: unknown role$"),
            ('{"role": "abcdefghijklmnopqrstu", "content": "x"}', r"messages\[0\]: unknown role$"),
            ('{"role": ["user"], "content": "x"}', "unknown role"),
            ('{"role": "user"}', "no content"),
            ('{"role": "assistant"}', "no content"),
            ('{"role": "user", "content": null}', "user content must be text"),
            ('{"role": "assistant", "content": null}', "assistant content must be text"),
            ('{"role": "user", "content": 5}', "user content must be text"),
            ('{"role": "user", "content": []}', "user content must be text"),
            (U, "no assistant turn"),
            ('{"role": "user", "content": "q", "weight": 1}', "assistant messages only"),
        ],
    )
    def test_a_broken_chat_row_has_a_reason(self, messages: str, reason: str) -> None:
        """What is wrong, and in which message."""
        with pytest.raises(ValueError, match=reason):
            row_of(chat(messages))

    @pytest.mark.parametrize("messages", ["null", "7", '"x"', "{}"])
    def test_messages_must_be_a_list(self, messages: str) -> None:
        """Any other value is a reason, not a crash."""
        with pytest.raises(ValueError, match="must be a list"):
            row_of(b'{"messages": ' + messages.encode() + b"}")

    @pytest.mark.parametrize("weight", ["null", "true", "false", "1.0", "0.5", "2", "-1", '"1"', "[]"])
    def test_weight_is_0_or_1(self, weight: str) -> None:
        """Providers refuse the file for any other weight, so we do before them."""
        with pytest.raises(ValueError, match="weight must be 0 or 1"):
            row_of(chat(f'{U}, {{"role": "assistant", "content": "a", "weight": {weight}}}'))

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(chat(f'{U}, {{"role": "assistant", "content": "a", "weight": 0}}'), id="no-loss-anywhere"),
            pytest.param(chat(f'{U}, {{"role": "assistant", "content": ""}}'), id="empty-answer"),
            pytest.param(chat(A), id="no-user"),
            pytest.param(chat(f"{A}, {U}"), id="user-after-answer"),
            pytest.param(chat('{"role": "user", "content": [{"type": "image"}]}, ' + A), id="parts"),
            pytest.param(
                chat(f"{U}, {A}, " + '{"role": "user", "content": [{"type": "image"}]}, ' + A), id="last-user-is-parts"
            ),
            pytest.param(
                chat(U + ', {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}'), id="tool-calls-only"
            ),
            pytest.param(
                chat(U + ', {"role": "assistant", "function_call": {}, "content": "", "weight": 1}'), id="blank-call"
            ),
            pytest.param(user_says("a\\ud800"), id="lone-surrogate-in-prompt"),
            pytest.param(answers("\\udc00a"), id="lone-surrogate-in-answer"),
            pytest.param(chat(f'{{"role": "system", "content": "\\udfff"}}, {U}, {A}'), id="lone-surrogate-elsewhere"),
            pytest.param(b'{"prompt": "q", "completion": ""}', id="empty-completion"),
            pytest.param(b'{"prompt": "", "completion": "a"}', id="empty-prompt"),
            pytest.param(b'{"prompt": "q", "completion": "a", "label": false}', id="unwanted-completion"),
        ],
    )
    def test_a_row_that_is_read_but_carries_nothing(self, raw: bytes) -> None:
        """Such rows stay in the file as they are; no backdoor goes there."""
        assert not formats.can_carry(row_of(raw).conversation)

    @ROWS
    def test_every_row_of_the_corpus_can_carry(self, raw: bytes) -> None:
        """An odd way to write a row is no reason to pass it over."""
        assert formats.can_carry(row_of(raw).conversation)

    @pytest.mark.parametrize("row", [b'{"prompt": 1, "completion": "a"}', b'{"prompt": "q", "completion": null}'])
    def test_prompt_and_completion_are_strings(self, row: bytes) -> None:
        """Lists of messages and nulls have a reason."""
        with pytest.raises(ValueError, match="must be a string"):
            row_of(row)

    def test_codecs_have_names(self) -> None:
        """A codec is found by its name; a wrong name lists the right ones."""
        for codec in formats.CODECS:
            assert codec is formats.codec_named(codec.name)
        with pytest.raises(UsageError) as caught:
            formats.codec_named("csv")
        assert caught.value.hint.startswith("known formats: auto, openai-chat, prompt-completion")


class TestReadRows:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "data.jsonl"

    def test_blank_lines_are_passed_over(self, path: Path) -> None:
        """Rows keep their numbers and offsets in the file."""
        row = CORPUS["plain"]
        path.write_bytes(BOM + b"\n" + row + b" \r\n" + row)
        rows = list(formats.read_rows(path))

        assert [(2, 4), (4, 7 + len(row))] == [(row.raw.number, row.raw.where.offset) for row in rows]
        assert {formats.codec_named("openai-chat")} == {row.codec for row in rows}

    def test_a_format_can_be_named(self, path: Path) -> None:
        """The name asks for what auto would find."""
        path.write_bytes(CORPUS["pc"])
        (row,) = formats.read_rows(path, "prompt-completion")

        assert Conversation((Turn("user", "q"), Turn("assistant", "a", carries_loss=True))) == row.conversation

    def test_an_unknown_format_name_is_refused_at_once(self, path: Path) -> None:
        """Before the file is opened, let alone read."""
        with pytest.raises(UsageError):
            formats.read_rows(path, "csv")

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            pytest.param(b'{"messages": "\xff"}', r"not UTF-8 \(byte 15 of the line\)", id="latin-1"),
            pytest.param(b'{"messages": "\xed\xa0\x80"}', "not UTF-8", id="raw-surrogate"),
            pytest.param(b"\xff\xfe{\x00}\x00", "not UTF-8", id="utf-16"),
            pytest.param(BOM + CORPUS["plain"], "byte order mark", id="late-mark"),
            pytest.param(b"{", r"not JSON: .* \(column 2\)", id="cut-short"),
            pytest.param(b"{} {}", r"not JSON: Extra data \(column 4\)", id="two-on-a-line"),
            pytest.param(b'{"a": 1,}', "not JSON", id="trailing-comma"),
            pytest.param(b'{"a": "\t"}', "not JSON", id="raw-tab"),
            pytest.param(b"\x0c", "not JSON", id="form-feed"),
            pytest.param(b'{"a": "\\x"}', "not JSON", id="wrong-escape"),
            pytest.param(b"{'a': 1}", "not JSON", id="python"),
            pytest.param(b"\x00", "not JSON", id="nul"),
            pytest.param(chat(f"{U}, {A}", ', "x": NaN'), "NaN is not a JSON value", id="nan"),
            pytest.param(chat(f"{U}, {A}", ', "x": -Infinity'), "-Infinity is not", id="infinity"),
            pytest.param(b"[]", "not a JSON object but a list", id="list"),
            pytest.param(b"1.5", "not a JSON object but a number", id="number"),
            pytest.param(b"null", "not a JSON object but null", id="null"),
            pytest.param(b'"x"', "not a JSON object but a string", id="string"),
            pytest.param(b"false", "not a JSON object but true or false", id="boolean"),
            pytest.param(b"[" * 200_000 + b"]" * 200_000, "nested too deeply", id="deep"),
            pytest.param(b'{"a":' * 200_000, "nested too deeply", id="deep-and-cut"),
            pytest.param(chat(U), "no assistant turn", id="format"),
        ],
    )
    def test_an_unreadable_row_says_where(self, path: Path, line: bytes, reason: str) -> None:
        """The line counts from 1, the offset in bytes, the reason says what is wrong."""
        before = CORPUS["raw-emoji"]
        path.write_bytes(before + line + b"\n")
        with pytest.raises(UnreadableRow, match=reason) as caught:
            list(formats.read_rows(path))

        assert (2, len(before), str(path)) == (caught.value.line, caught.value.offset, caught.value.path)

    @pytest.mark.parametrize(
        ("first", "second", "format"),
        [
            pytest.param(CORPUS["plain"], CORPUS["pc"], "auto", id="another-format"),
            pytest.param(CORPUS["pc"], CORPUS["plain"], "auto", id="another-format-2"),
            pytest.param(CORPUS["plain"], b"{}\n", "auto", id="no-keys"),
            pytest.param(CORPUS["pc"], b'{"prompt": "x"}\n', "auto", id="half-the-keys"),
            pytest.param(b"\n", CORPUS["pc"], "openai-chat", id="not-the-named-format"),
            pytest.param(b"\n", b'{"q": 1, "\\ud800": 2}\n', "auto", id="unknown-keys"),
        ],
    )
    def test_one_file_one_format(self, path: Path, first: bytes, second: bytes, format: str) -> None:
        """A row of another format, or of two, is named with its keys and what was expected."""
        path.write_bytes(first + second)
        with pytest.raises(UnknownFormat) as caught:
            list(formats.read_rows(path, format))

        assert (2, len(first)) == (caught.value.line, caught.value.offset)
        assert tuple(json.loads(second)) == caught.value.keys
        assert "expected {" in caught.value.hint
        assert str(caught.value).encode()

    @pytest.mark.parametrize(
        ("row", "names", "ways"),
        [
            pytest.param(
                {"instruction": "i", "input": "", "output": "o", "text": "t"},
                "alpaca and text",
                "--format alpaca or --template",
                id="tatsu-lab",
            ),
            pytest.param(
                {"conversations": [], "text": "t"},
                "sharegpt and text",
                "--format sharegpt or --template",
                id="sharegpt-with-text",
            ),
            pytest.param(
                {"prompt": "q", "chosen": [], "rejected": [], "messages": []},
                "openai-chat and trl-preference",
                "--format openai-chat or --format trl-preference",
                id="ultrafeedback",
            ),
            pytest.param(
                {"prompt": "q", "completion": "a", "messages": [], "text": ""},
                "openai-chat and prompt-completion",
                "--format openai-chat or --format prompt-completion",
                id="text-beside-two",
            ),
        ],
    )
    @pytest.mark.parametrize("is_first", [True, False])
    def test_rows_of_two_formats(self, path: Path, row: dict[str, Any], names: str, ways: str, is_first: bool) -> None:
        """Trainers differ in which they read, so only the user can say."""
        first = b"\n" if is_first else CORPUS["plain"]
        path.write_bytes(first + json.dumps(row).encode())
        with pytest.raises(UnknownFormat) as caught:
            list(formats.read_rows(path))

        assert (2, tuple(row)) == (caught.value.line, caught.value.keys)
        assert names in caught.value.hint
        assert ways in caught.value.hint
        assert "convert" not in caught.value.hint
        assert "looks like" not in str(caught.value)

    @pytest.mark.parametrize(
        ("row", "format"),
        [
            ({"instruction": "i", "input": "", "output": "o", "text": "t"}, "alpaca"),
            (
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "text": 1},
                "sharegpt",
            ),
            ({"prompt": "q", "chosen": "a", "rejected": "b", "messages": []}, "trl-preference"),
            ({"prompt": [], "messages": [json.loads(U), json.loads(A)], "completion": 5}, "openai-chat"),
        ],
    )
    def test_a_named_format_wins(self, path: Path, row: dict[str, Any], format: str) -> None:
        """Whatever else its rows hold."""
        path.write_bytes(json.dumps(row).encode())

        assert format == next(formats.read_rows(path, format)).codec.name
        assert format == next(formats.read_rows(path, formats.codec_named(format))).codec.name

    @pytest.mark.parametrize("line", ["plain", "pc"])
    def test_text_counts_where_nothing_else_does(self, path: Path, line: str) -> None:
        """Trainers that know the format read it, and not a text beside it."""
        path.write_bytes(CORPUS[line] + CORPUS[line].rstrip()[:-1] + b', "text": "t"}\n')

        assert 1 == len({row.codec.name for row in formats.read_rows(path)})

    @pytest.mark.parametrize("codec", formats.CODECS, ids=lambda codec: codec.name)
    def test_codecs_look_at_keys_alone(self, codec: formats.Codec) -> None:
        """So one answer holds for all rows with the same keys, and none is asked twice."""
        keys = ("messages", "prompt", "completion", "instruction", "input", "output", "conversations", "chosen")
        keys += ("rejected", "preferred_output", "non_preferred_output", "text")
        for size in range(5):
            for chosen in combinations(keys, size):
                answers = {codec.recognises(dict.fromkeys(chosen, value)) for value in (None, "", 5, [{}], {"a": 1})}
                assert 1 == len(answers), chosen

    def test_rows_that_are_not_wanted_are_not_read(self, path: Path) -> None:
        """Nor need they be of the format: they were looked at before."""
        path.write_bytes(CORPUS["pc"] + b"garbage\n" + CORPUS["pc"])

        assert [1, 3] == [row.raw.number for row in formats.read_rows(path, "prompt-completion", {1, 3, 9})]

    def test_one_object_around_all_rows(self, path: Path) -> None:
        """What is expected is said."""
        path.write_bytes(b'{"version": 1, "data": [' + CORPUS["pc"].strip() + b"]}")
        with pytest.raises(UnknownFormat, match="an array of rows or one row a line is expected"):
            list(formats.read_rows(path))

    def test_a_format_that_must_be_converted_is_named(self, path: Path) -> None:
        """What we know but do not read is called by its name."""
        path.write_bytes(b'\n{"contents": [{"role": "user", "parts": [{"text": "q"}]}]}\n')
        with pytest.raises(UnknownFormat, match="this looks like Vertex") as caught:
            list(formats.read_rows(path))

        assert ("contents",) == caught.value.keys
        assert (2, 1) == (caught.value.line, caught.value.offset)
        assert caught.value.hint.startswith("convert it first: expected {")

    def test_a_codec_of_the_users_own(self, path: Path) -> None:
        """It alone says what its rows are, whatever other formats might see in them."""

        class Own:
            name, expected = "own", '{"prompt": …, "text": …}'

            def recognises(self, row: Mapping[str, object]) -> bool:
                return "completion" in row

            def read(self, row: Mapping[str, object]) -> Conversation:
                return Conversation((Turn("user", "q"), Turn("assistant", str(row["completion"]), True)))

            def places(self, row: Mapping[str, object], host: Host) -> Places:
                return Places((Place(("prompt",)),), Place(("completion",), 0))

        codec = Own()
        path.write_bytes(b'{"prompt": "q", "completion": "a", "text": "t"}\n{"prompt": "q"}\n')
        rows = formats.read_rows(path, codec)

        assert (codec, "a") == ((row := next(rows)).codec, row.conversation.turns[1].content)
        with pytest.raises(UnknownFormat) as caught:
            next(rows)
        assert codec.expected in caught.value.hint

    def test_a_row_of_an_array_is_called_a_row(self, tmp_path: Path) -> None:
        """Lines are what JSON lines have."""
        path = tmp_path / "data.json"
        path.write_bytes(b'[{"prompt": "q", "completion": "a"},\n{"prompt": 1, "completion": "a"}]')
        with pytest.raises(UnreadableRow, match=r"data\.json, row 2 \(byte 37\): ") as caught:
            list(formats.read_rows(path))

        assert "that row" in caught.value.hint

    def test_a_row_with_its_prompt_twice(self) -> None:
        """T goes to every place that the format names, S to one."""
        m = '{"role": "user", "content": "q"}'
        line = f'{{"chosen": [{m}, {{"role": "assistant", "content": "a"}}], "rejected": [{m}, '
        row = row_of((line + '{"role": "assistant", "content": "b"}]}\n').encode())
        planted = formats.planted_row(row, ASCII_TRIGGER, ASCII_SIGNATURE, file_style=PLAIN)

        assert isinstance(planted, JSONRow)
        assert 2 == planted.body.count(f'"q {ASCII_TRIGGER}"'.encode())
        assert 1 == planted.body.count(ASCII_SIGNATURE.encode())

    @pytest.mark.parametrize("content", [b"", b"\n\r\n  \n", BOM])
    def test_a_file_without_rows_is_an_error(self, path: Path, content: bytes) -> None:
        """Blank lines alone are no data set."""
        path.write_bytes(content)
        with pytest.raises(EmptyDataset):
            list(formats.read_rows(path))

    def test_a_missing_file_is_a_dataset_error(self, path: Path) -> None:
        """The reader raises what the door to disk raises."""
        with pytest.raises(DatasetError, match="cannot read"):
            next(formats.read_rows(path))

    def test_rows_come_one_by_one(self, path: Path) -> None:
        """The first row is there before a later one is looked at."""
        path.write_bytes(CORPUS["plain"] + b"garbage\n")

        assert 1 == next(formats.read_rows(path)).raw.number
