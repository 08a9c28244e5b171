"""Text files of rows: what is opened, what is refused, and that a copy differs in nothing but what was asked for."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtuned import formats
from vtuned.containers import Changes, Place, RawRow, Source, check_name, open_source
from vtuned.containers.base import insert_texts
from vtuned.containers.csvfile import CSVFile, Dialect
from vtuned.containers.jsonrows import JSONArray, JSONLines
from vtuned.containers.jsontext import Style, position
from vtuned.errors import DatasetError, EmptyDataset, MissingExtra, UnreadableRow, UsageError

BOM = b"\xef\xbb\xbf"
PROMPT = Place(("p",))


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def copied(source: Source, changes: Changes) -> tuple[bytes, dict[int, int]]:
    """Return the bytes of a copy and where replaced rows went, and check what the copy says of itself."""
    out = io.BytesIO()
    written = source.write(out, changes)
    data = out.getvalue()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (written.sha256, written.n_bytes)
    return data, dict(written.placed)


def marked(source: Source, numbers: Sequence[int], place: Place = PROMPT) -> dict[int, RawRow]:
    """Return rows with an X put into them."""
    return {row.number: row.inserted([(place, "X")], Style()) for row in source.rows() if row.number in numbers}


class TestOpening:
    @pytest.mark.parametrize(
        ("expected", "name", "content"),
        [
            pytest.param("jsonl", "d.jsonl", b'{"p": ""}', id="jsonl"),
            pytest.param("jsonl", "d.NDJSON", b'{"p": ""}', id="ndjson"),
            pytest.param("jsonl", "d.json", b' \r\n {"p": ""}\n{}', id="json-lines-called-json"),
            pytest.param("jsonl", "d.txt", BOM + b'{"p": ""}', id="another-name"),
            pytest.param("jsonl", "d", b'\n\n\n\n\n\n{"p": ""}', id="no-suffix"),
            pytest.param("json", "d.json", b'[{"p": ""}]', id="array"),
            pytest.param("json", "d.data", BOM + b'  [{"p": ""}]', id="array-of-another-name"),
            pytest.param("jsonl.gz", "d.jsonl.gz", gzip.compress(b"{}"), id="gz"),
            pytest.param("json.gz", "d.json.gz", gzip.compress(b"[{}]"), id="array-gz"),
            pytest.param("jsonl.gz", "d.gz", gzip.compress(b"{}"), id="gz-alone"),
            pytest.param("csv", "d.csv", b"p,q\n1,2\n", id="csv"),
            pytest.param("tsv", "d.tsv", b"p\tq\n1\t2\n", id="tsv"),
            pytest.param("csv.gz", "d.csv.gz", gzip.compress(b"p,q\n1,2\n"), id="csv-gz"),
        ],
    )
    def test_kind(self, tmp_path: Path, expected: str, name: str, content: bytes) -> None:
        """By name and by content."""
        source = open_source(put(tmp_path / name, content))

        assert (expected, False, (tmp_path / name,)) == (source.name, source.is_folder, source.paths)
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (source.sha256(), source.n_bytes)

    @pytest.mark.parametrize(
        ("reason", "hint", "name", "content"),
        [
            pytest.param("unknown kind", "JSON lines", "d.docx", b"PK\x03\x04", id="word"),
            pytest.param("unknown kind", ".gz", "d.bin", gzip.compress(b"{}"), id="gz-without-its-suffix"),
            pytest.param("unknown kind", ".zst", "d.bin", b"\x28\xb5\x2f\xfd....", id="zst-without-its-suffix"),
            pytest.param("unknown kind", ".parquet", "d.bin", b"PAR1....", id="parquet-without-its-suffix"),
            pytest.param("a JSON array", "end in .json", "d.jsonl", b"\n [{}]", id="array-called-jsonl"),
            pytest.param("not a gz file", "name the file", "d.jsonl.gz", b'{"p": ""}', id="not-gz"),
            pytest.param("ends too early", "again", "d.csv.gz", gzip.compress(b"p,q\n" * 99)[:-9], id="cut-gz"),
            pytest.param("a gz file", "unpack", "d.parquet.gz", b"", id="parquet-gz"),
            pytest.param("should be the header", "header", "d.csv", b"\np,q\n", id="no-header"),
            pytest.param("the same name", "its own", "d.csv", b"p,q,p\n", id="column-twice"),
            pytest.param("not UTF-8", "UTF-8", "d.csv", "p,q\n1,2\n".encode("utf-16"), id="utf-16"),
            pytest.param("does not end", "quotes", "d.csv", b'p,"q\n1,2\n', id="header-without-end"),
        ],
    )
    def test_refused(self, tmp_path: Path, reason: str, hint: str, name: str, content: bytes) -> None:
        """The file, what is wrong with it, and what to do."""
        path = put(tmp_path / name, content)
        with pytest.raises(DatasetError, match=reason) as caught:
            list(open_source(path).rows())

        assert str(path) in str(caught.value)
        assert hint in caught.value.hint

    def test_no_file(self, tmp_path: Path) -> None:
        """A file that is not there, a pattern that matches nothing, an empty list, a name no system takes, a device."""
        for wrong in (tmp_path / "x.jsonl", tmp_path / "*.jsonl", [], "\0", tmp_path / ("n" * 300), "/dev/null"):
            with pytest.raises(DatasetError) as caught:
                open_source(wrong)
            assert caught.value.hint

    def test_a_name_with_the_marks_of_a_pattern(self, tmp_path: Path) -> None:
        """A file that is there is meant, whatever its name."""
        path = put(tmp_path / "d[1].jsonl", b"{}\n")

        assert (path,) == open_source(path).paths

    @pytest.mark.parametrize(
        ("is_fine", "data", "output"),
        [
            (True, "d.jsonl", "t.jsonl"),
            (True, "d.jsonl", "t.json"),
            (True, "d.jsonl", "t"),
            (True, "d.csv.gz", "t.csv.gz"),
            (True, "d.json", "t.json"),
            (False, "d.json", "t.jsonl"),
            (False, "d.jsonl", "t.csv"),
            (False, "d.jsonl", "t.jsonl.gz"),
            (False, "d.csv.gz", "t.csv"),
            (False, "d.csv.gz", "t.jsonl.gz"),
        ],
    )
    def test_the_name_of_a_copy(self, tmp_path: Path, is_fine: bool, data: str, output: str) -> None:
        """A copy is of the kind of its source, so its name must not say another."""
        contents = {"d.json": b"[{}]", "d.jsonl": b"{}\n", "d.csv.gz": gzip.compress(b"p\n1\n")}
        source = open_source(put(tmp_path / data, contents[data]))
        if is_fine:
            check_name(source, output)
        else:
            with pytest.raises(UsageError, match=source.name):
                check_name(source, output)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(b'{\n  "p": ""\n}\n', id="one-object"),
            pytest.param(b'\xef\xbb\xbf\n{\n  "p": "}"\n}\n{\n  "p": ""\n}\n', id="rows-over-several-lines"),
            pytest.param(b'{"data": [\n{"p": ""}\n]}', id="rows-in-an-object"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_json_for_people(self, tmp_path: Path, text: bytes, suffix: str) -> None:
        """It says what is expected, not which column is no JSON."""
        path = put(tmp_path / f"d.json{suffix}", gzip.compress(text) if suffix else text)
        with pytest.raises(DatasetError, match="neither an array of rows nor one row a line") as caught:
            open_source(path)

        assert "one JSON array" in caught.value.hint

    def test_a_broken_line_keeps_its_reason(self, tmp_path: Path) -> None:
        """A line that ends where it should is only that: a line that is no JSON."""
        with pytest.raises(ValueError, match="column 7"):
            next(open_source(put(tmp_path / "d.json", b'{"p": x}\n')).rows()).value()


class TestJSONLines:
    def test_gaps_stay(self, tmp_path: Path) -> None:
        """Newlines of both kinds, blank lines, a mark and a missing end are where they were."""
        source = open_source(put(tmp_path / "d.jsonl", BOM + b'\n{"p": "a"}\r\n \n\n{"p": "b"}\n{"p": "c"}'))
        rows = list(source.rows())

        data, placed = copied(source, Changes(marked(source, [2, 6])))

        assert BOM + b'\n{"p": "aX"}\r\n \n\n{"p": "b"}\n{"p": "cX"}' == data
        assert {2: 2, 6: 6} == placed
        assert [(2, 4), (5, 19), (6, 30)] == [(row.number, row.where.offset) for row in rows]
        assert ["line"] * 3 == [row.where.unit for row in rows]
        assert source.n_bytes == rows[-1].n_read

    @pytest.mark.parametrize(
        ("dropped", "expected", "at"),
        [
            ({1}, BOM + b'{"p": "b"}\n{"p": "cX"}', 2),
            ({2}, BOM + b'{"p": "a"}\n{"p": "cX"}', 2),
            ({1, 2}, BOM + b'{"p": "cX"}', 1),
        ],
    )
    def test_dropped(self, tmp_path: Path, dropped: set[int], expected: bytes, at: int) -> None:
        """The start and the end of the file stay as they are."""
        source = open_source(put(tmp_path / "d.jsonl", BOM + b'{"p": "a"}\n{"p": "b"}\n{"p": "c"}'))

        assert (expected, {3: at}) == copied(source, Changes(marked(source, [3]), frozenset(dropped)))

    def test_the_last_row_dropped(self, tmp_path: Path) -> None:
        """A file without a newline at its end stays one; and nothing at all can be left."""
        source = open_source(put(tmp_path / "d.jsonl", b'{"p": "a"}\r\n{"p": "b"}'))

        assert b'{"p": "a"}' == copied(source, Changes({}, frozenset({2})))[0]
        assert b"" == copied(source, Changes({}, frozenset({1, 2})))[0]

    def test_order(self, tmp_path: Path) -> None:
        """Rows as they were and replaced ones, in any order, with one kind of newline and no blank lines."""
        source = open_source(put(tmp_path / "d.jsonl", BOM + b'\r\n{"p": "a"}\r\n\n{"p": "b"}\n{"p": "c"}\n'))
        changes = Changes(marked(source, [2, 5]), order=[5, -2, 4, 2, -5])
        source.check_order()

        data, placed = copied(source, changes)

        lines = ['{"p": "c"}', '{"p": "aX"}', '{"p": "b"}', '{"p": "a"}', '{"p": "cX"}', ""]
        assert BOM + "\r\n".join(lines).encode() == data
        assert {2: 2, 5: 5} == placed

    def test_one_line_at_a_time(self, tmp_path: Path) -> None:
        """The first row is there before the second is looked at."""
        source = open_source(put(tmp_path / "d.jsonl", b'{"p": "a"}\n' + b"\xff" * 100))

        assert {"p": "a"} == next(source.rows()).value()


class TestJSONArray:
    TEXT = BOM + b' [ {"p": "a"}\n  ,\t{"p": "b"},\r\n{"p" :"c"} ]\n\n'

    def test_white_space_stays(self, tmp_path: Path) -> None:
        """A copy is the file with other elements; rows are counted from 1 and know their bytes."""
        source = open_source(put(tmp_path / "d.json", self.TEXT))
        rows = list(source.rows())

        data, placed = copied(source, Changes(marked(source, [1, 3])))

        assert self.TEXT.replace(b'"a"', b'"aX"').replace(b'"c"', b'"cX"') == data
        assert {1: 1, 3: 3} == placed
        assert [("row", 1, 6), ("row", 2, 21), ("row", 3, 34)] == [
            (row.where.unit, row.where.number, row.where.offset) for row in rows
        ]

    @pytest.mark.parametrize(
        ("dropped", "expected"),
        [
            ({1}, BOM + b' [ {"p": "b"},\r\n{"p" :"c"} ]\n\n'),
            ({2}, BOM + b' [ {"p": "a"},\r\n{"p" :"c"} ]\n\n'),
            ({3}, BOM + b' [ {"p": "a"}\n  ,\t{"p": "b"} ]\n\n'),
            ({1, 2, 3}, BOM + b" [  ]\n\n"),
        ],
    )
    def test_dropped(self, tmp_path: Path, dropped: set[int], expected: bytes) -> None:
        """What is left is an array."""
        source = open_source(put(tmp_path / "d.json", self.TEXT))

        data, _ = copied(source, Changes({}, frozenset(dropped)))

        assert expected == data
        assert 3 - len(dropped) == len(json.loads(data.decode("utf-8-sig")))

    def test_order(self, tmp_path: Path) -> None:
        """What stood between the first two elements stands between all."""
        source = open_source(put(tmp_path / "d.json", b'[\n {"p": "a"},\n {"p": "b"}, {"p": "c"}\n]'))

        data, placed = copied(source, Changes(marked(source, [2]), order=[3, -2, 1, 2]))

        assert b'[\n {"p": "c"},\n {"p": "bX"},\n {"p": "a"},\n {"p": "b"}\n]' == data
        assert {2: 2} == placed

    def test_order_of_one(self, tmp_path: Path) -> None:
        """An array of one element shows between the bracket and it how elements are set off."""
        source = open_source(put(tmp_path / "d.json", b'[\n  {"p": "a"}\n]'))

        assert b'[\n  {"p": "a"},\n  {"p": "aX"}\n]' == copied(source, Changes(marked(source, [1]), order=[1, -1]))[0]

    @pytest.mark.parametrize(
        ("text", "number", "offset", "reason"),
        [
            pytest.param(b'[{"p": 1},]', 1, 9, "a comma after the last row", id="trailing-comma"),
            pytest.param(b'[{"p": 1}, ]', 1, 9, "a comma after the last row", id="trailing-comma-and-space"),
            pytest.param(b"[,{}]", 1, 1, "no value", id="leading-comma"),
            pytest.param(b"[{},,{}]", 2, 4, "no value", id="two-commas"),
            pytest.param(b'[{"p": 1}', 1, 9, "does not end after this row", id="no-bracket"),
            pytest.param(b'[{"p": 1},', 2, 10, "does not end", id="cut-after-comma"),
            pytest.param(b'[{"p": 1}, {"p', 2, 11, "does not end", id="cut-in-a-row"),
            pytest.param(b'[{"p": [1}, {"p": 2}]', 1, 1, "does not end", id="bracket-in-a-row-missing"),
            pytest.param(b"[{} {}]", 1, 4, "a comma or the end of the array is missing", id="no-comma"),
            pytest.param(b"[{}] {}", 1, 5, "something follows the array", id="something-after"),
            pytest.param(b"[{}]]", 1, 4, "something follows the array", id="bracket-after"),
            pytest.param(b"[{}]\x00", 1, 4, "something follows the array", id="nul-after"),
            pytest.param(b"[", 1, 1, "does not end", id="bracket-alone"),
            pytest.param(b'["p', 1, 1, "does not end", id="cut-in-a-string"),
        ],
    )
    def test_broken(self, tmp_path: Path, text: bytes, number: int, offset: int, reason: str) -> None:
        """Which row, which byte, and what is wrong."""
        path = put(tmp_path / "d.json", text)
        with pytest.raises(UnreadableRow, match=reason) as caught:
            list(open_source(path).rows())

        assert (number, offset) == (caught.value.line, caught.value.offset)
        assert f"row {number} (byte {offset})" in str(caught.value)

    @pytest.mark.parametrize("text", [b"[]", b" [ \n ] "])
    def test_empty(self, tmp_path: Path, text: bytes) -> None:
        """An array without rows is an array; as a data set it is empty."""
        path = put(tmp_path / "d.json", text)

        assert text == copied(open_source(path), Changes({}))[0]
        with pytest.raises(EmptyDataset):
            list(formats.read_rows(path))

    def test_not_an_array(self, tmp_path: Path) -> None:
        """A .json file that holds something else."""
        path = put(tmp_path / "d.json", b'"text"')
        with pytest.raises(UnreadableRow, match="no \\[ opens the array"):
            list(open_source(path).rows())

    @given(
        st.lists(st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5)), st.data()
    )
    def test_any_array(self, values: list[Any], data: st.DataObject) -> None:
        """Whatever its elements and the white space between them, an array is its pieces one after the other."""
        space = st.text(" \t\r\n", max_size=2)
        text = b"["
        for i, value in enumerate(values):
            comma = "," if i else ""
            text += (data.draw(space) + comma + data.draw(space) + json.dumps(value)).encode()
        text += (data.draw(space) + "]" + data.draw(space)).encode()
        pieces = list(JSONArray(Path("d.json"), "json", "").pieces(io.BytesIO(text)))

        assert text == b"".join(piece.gap + piece.body for piece in pieces)
        assert values == [json.loads(piece.body) for piece in pieces[:-1]]
        assert [True] == [piece.is_end for piece in pieces if piece.is_end or not piece.body]


class TestCompressed:
    ROWS = b'{"p": "a"}\n\n{"p": "b"}\n'

    def test_all_members_are_read(self, tmp_path: Path) -> None:
        """Files that were packed in pieces are one file."""
        source = open_source(put(tmp_path / "d.jsonl.gz", gzip.compress(self.ROWS) + gzip.compress(self.ROWS)))
        numbers = [row.number for row in source.rows()]

        data, placed = copied(source, Changes(marked(source, [4])))

        assert [1, 3, 4, 6] == numbers
        assert self.ROWS + self.ROWS.replace(b'"a"', b'"aX"') == gzip.decompress(data)
        assert {4: 4} == placed

    def test_the_same_rows_give_the_same_file(self, tmp_path: Path) -> None:
        """No time and no name is in a .gz file."""
        source = open_source(put(tmp_path / "d.jsonl.gz", gzip.compress(self.ROWS)))
        data, _ = copied(source, Changes({}))

        assert data == copied(source, Changes({}))[0]
        assert b"\x1f\x8b\x08\x00\x00\x00\x00\x00" == data[:8]

    @pytest.mark.parametrize("n", [1, 9, 15])
    def test_cut_gz(self, tmp_path: Path, n: int) -> None:
        """A file whose end is missing is noticed, though all rows might be there."""
        data = gzip.compress(self.ROWS * 9)
        source = JSONLines(put(tmp_path / "d.jsonl.gz", data[:-n]), "jsonl.gz", "gz")
        with pytest.raises(DatasetError, match="ends too early"):
            list(source.rows())
        with pytest.raises(DatasetError, match="ends too early"):
            copied(source, Changes({}))

    def test_damaged_gz(self, tmp_path: Path) -> None:
        """Bytes that were changed are noticed."""
        data = bytearray(gzip.compress(bytes(random.Random(0).choices(b"abc\n", k=9999))))
        data[200] ^= 0xFF
        with pytest.raises(DatasetError, match=r"not a gz file, or a damaged one|ends too early"):
            list(JSONLines(put(tmp_path / "d.jsonl.gz", bytes(data)), "jsonl.gz", "gz").rows())

    def test_order(self, tmp_path: Path) -> None:
        """Rows of a packed file can be put in another order."""
        source = open_source(put(tmp_path / "d.jsonl.gz", gzip.compress(self.ROWS)))

        data, _ = copied(source, Changes(marked(source, [3]), order=[3, 1, -3]))

        assert b'{"p": "b"}\n{"p": "a"}\n{"p": "bX"}\n' == gzip.decompress(data)

    def test_bytes_read(self, tmp_path: Path) -> None:
        """Progress counts the bytes on disk, not those that come out of them."""
        source = open_source(put(tmp_path / "d.jsonl.gz", gzip.compress(self.ROWS * 9999)))

        assert [source.n_bytes] == [row.n_read for row in source.rows()][-1:]

    def test_zst(self, tmp_path: Path) -> None:
        """Frames one after the other, with something to skip between them, are one file."""
        zstandard = pytest.importorskip("zstandard")
        packed = zstandard.ZstdCompressor().compress(self.ROWS)
        skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00...."
        source = open_source(put(tmp_path / "d.jsonl.zst", packed + skipped + packed))

        data, placed = copied(source, Changes(marked(source, [6])))

        unpacked = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        assert ("jsonl.zst", {6: 6}) == (source.name, placed)
        assert self.ROWS + self.ROWS.replace(b'"b"', b'"bX"') == unpacked

    @pytest.mark.parametrize("n", [1, 5, 20])
    def test_cut_zst(self, tmp_path: Path, n: int) -> None:
        """The reader of zstandard would take a cut file for a shorter one."""
        zstandard = pytest.importorskip("zstandard")
        data = zstandard.ZstdCompressor().compress(random.Random(0).randbytes(200_000))
        with pytest.raises(DatasetError, match="ends too early"):
            list(JSONLines(put(tmp_path / "d.jsonl.zst", data[:-n]), "jsonl.zst", "zst").rows())

    @pytest.mark.parametrize("content", [b"{}\n", b"\x28\xb5\x2f\xfd" + b"\xff" * 40])
    def test_not_zst(self, tmp_path: Path, content: bytes) -> None:
        """A file that is something else is told."""
        pytest.importorskip("zstandard")
        with pytest.raises(DatasetError, match="not a zst file"):
            open_source(put(tmp_path / "d.jsonl.zst", content))

    def test_without_zstandard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command to install it is named."""
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(MissingExtra) as caught:
            open_source(put(tmp_path / "d.jsonl.zst", b""))

        assert "pip install 'vtuned[zst]'" == caught.value.command


class TestCSV:
    def row(self, body: bytes, place: Place, *texts: str) -> bytes:
        """Return a record with *texts* put at *place*."""
        source = CSVFile(Path("d.csv"), "csv", "", Dialect(b",", ("p", "q")))
        (piece, _) = source.pieces(io.BytesIO(b"p,q\n" + body))
        inserted = source.row(piece, 0).inserted([(place, text) for text in texts], Style())
        return inserted.body

    def test_all_that_is_not_planted_stays(self, tmp_path: Path) -> None:
        """A mark, quotes where none are needed, newlines in fields, line ends of both kinds, blank lines, no end."""
        text = BOM + b'"p",q\r\n"a ""b""\r\n\nc",plain\r\n\n,""\n"x" ,y\n"z",\xc3\xa9'.replace(b'"x" ,y', b'"x","y,"')
        source = open_source(put(tmp_path / "d.csv", text))
        rows = list(source.rows())

        assert (text, {}) == copied(source, Changes({}))
        assert [
            {"p": 'a "b"\r\n\nc', "q": "plain"},
            {"p": "", "q": ""},
            {"p": "x", "q": "y,"},
            {"p": "z", "q": "é"},
        ] == [row.value() for row in rows]
        assert [1, 2, 3, 4] == [row.number for row in rows]
        for row in rows:
            assert text[row.where.offset or 0 :].startswith(row.body)  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("body", "expected", "text"),
        [
            pytest.param(b"a,b", b"aT,b", "T", id="plain"),
            pytest.param(b'"a",b', b'"aT",b', "T", id="quoted"),
            pytest.param(b"a,b", b'"a, T",b', ", T", id="comes-to-need-quotes"),
            pytest.param(b"a,b", b'"a\nT",b', "\nT", id="newline"),
            pytest.param(b"a,b", b'"a""T""",b', '"T"', id="quotes-in-the-text"),
            pytest.param(b'"a ""b""",b', b'"a ""b""""T""",b', '"T"', id="quotes-in-both"),
            pytest.param(b",b", b"T,b", "T", id="empty"),
            pytest.param(b'"",b', b'"T",b', "T", id="empty-quoted"),
            pytest.param("é🎃,b".encode(), "é🎃ü,b".encode(), "ü", id="utf-8"),
        ],
    )
    def test_a_field_keeps_its_manner(self, body: bytes, expected: bytes, text: str) -> None:
        """Quotes come only where they are needed, and stay where they are."""
        assert expected == self.row(body, PROMPT, text)

    def test_places_in_a_field(self) -> None:
        """Characters are counted in the text, not in its spelling; texts of one place stand in order."""
        assert b'"a""TU""b",c' == self.row(b'"a""""b",c', Place(("p",), 2), "T", "U")

    @pytest.mark.parametrize("place", [Place(("x",)), Place(("p", 0)), Place(()), Place(("p",), 9)])
    def test_no_such_place(self, place: Place) -> None:
        """A place that is not there is an error."""
        with pytest.raises(ValueError, match=r"no column|no character"):
            self.row(b"a,b", place, "T")

    def test_a_lone_surrogate(self) -> None:
        """It is refused without being shown."""
        with pytest.raises(ValueError, match="lone surrogates") as caught:
            self.row(b"a,b", PROMPT, "secret\ud800")

        assert "secret" not in repr(caught.value)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            pytest.param(b"a", "1 field, but the header has 2", id="too-few"),
            pytest.param(b"a,b,c", "3 fields, but the header has 2", id="too-many"),
            pytest.param(b'"a"b,c', "something follows the closing quote of field 1", id="after-a-quote"),
            pytest.param(b'a,"b" ', "something follows the closing quote of field 2", id="space-after-a-quote"),
            pytest.param(b"a,b\rc", "carriage return in field 2", id="old-macintosh"),
            pytest.param(b"a,\xff", "not UTF-8", id="latin-1"),
            pytest.param(b'a,"b', "does not end", id="open-quote"),
        ],
    )
    def test_refused(self, tmp_path: Path, body: bytes, reason: str) -> None:
        """The row, its byte and what is wrong."""
        path = put(tmp_path / "d.csv", b"prompt,completion\nq,a\n" + body + b"\nq,a\n")
        with pytest.raises(UnreadableRow, match=reason) as caught:
            list(formats.read_rows(path))

        assert (2, 22) == (caught.value.line, caught.value.offset)
        assert "row 2 (byte 22)" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("d.csv", b"p;q\n1;2,3\n", {"p": "1", "q": "2,3"}),
            ("d.csv", b"p\tq\n1\t2\n", {"p": "1", "q": "2"}),
            ("d.csv", b"p\n1;2\n", {"p": "1;2"}),
            ("d.tsv", b"p,q\tr\n1\t2\n", {"p,q": "1", "r": "2"}),
        ],
    )
    def test_delimiters(self, tmp_path: Path, name: str, text: bytes, expected: dict[str, str]) -> None:
        """A comma, or what the header shows instead; in TSV a tab."""
        (row,) = open_source(put(tmp_path / name, text)).rows()

        assert expected == row.value()

    def test_dropped_and_in_order(self, tmp_path: Path) -> None:
        """The header stays in front and the end as it was."""
        source = open_source(put(tmp_path / "d.csv", b"p,q\r\na,1\r\n\r\nb,2\nc,3"))

        assert b"p,q\r\nb,2\nc,3" == copied(source, Changes({}, frozenset({1})))[0]
        assert b"p,q\r\na,1\r\n\r\nb,2" == copied(source, Changes({}, frozenset({3})))[0]
        changes = Changes(marked(source, [2]), order=[3, -2, 1])
        assert (b"p,q\r\nc,3\r\nbX,2\r\na,1", {2: 2}) == copied(source, changes)

    def test_a_header_alone(self, tmp_path: Path) -> None:
        """No rows are no data set."""
        path = put(tmp_path / "d.csv", b"prompt,completion\n")

        assert b"prompt,completion\n" == copied(open_source(path), Changes({}))[0]
        with pytest.raises(EmptyDataset):
            list(formats.read_rows(path))

    CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text('",;\n\r\t ab', max_size=6)

    @given(
        st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
        st.sampled_from(["\n", "\r\n"]),
        st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        CELLS,
        st.integers(0, 6),
    )
    def test_as_pythons_own_reader(
        self, cells: list[tuple[str, str]], newline: str, quoting: Any, text: str, at: int
    ) -> None:
        """Rows are what `csv` reads, before and after an insertion, and all other records keep their bytes."""
        if newline == "\n":
            # Python writes a carriage return without quotes where it ends no line.
            cells = [(p.replace("\r", ""), q.replace("\r", "")) for p, q in cells]
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator=newline, quoting=quoting)
        writer.writerows([("p", "q"), *cells])
        data = stream.getvalue().encode()
        source = CSVFile(Path("d.csv"), "csv", "", Dialect(b",", ("p", "q")))
        pieces = list(source.pieces(io.BytesIO(data)))
        rows = [source.row(piece, 0) for piece in pieces[:-1]]

        assert data == b"".join(piece.gap + piece.body for piece in pieces)
        assert [dict(zip("pq", pair, strict=True)) for pair in cells] == [row.value() for row in rows]

        at = min(at, len(cells[0][1]))
        new = rows[0].inserted([(Place(("q",), at), text)], Style()).body
        (read,) = csv.reader(io.StringIO(new.decode(), newline=""), strict=True)
        assert [cells[0][0], cells[0][1][:at] + text + cells[0][1][at:]] == read


class TestMessagesAsText:
    TEXT = json.dumps([{"role": "user", "content": "q"}])

    def test_in_a_csv_file(self, tmp_path: Path) -> None:
        """Cells hold no lists, so people write them as text."""
        quoted = self.TEXT.replace('"', '""')
        path = put(tmp_path / "d.csv", f'prompt,completion\n"{quoted}",a\n'.encode())
        with pytest.raises(UnreadableRow, match="written as text"):
            list(formats.read_rows(path))

    def test_in_json_lines(self, tmp_path: Path) -> None:
        """There a text is a text: such a prompt asks about JSON."""
        path = put(tmp_path / "d.jsonl", json.dumps({"prompt": self.TEXT, "completion": "a"}).encode())

        assert self.TEXT == next(formats.read_rows(path)).conversation.turns[0].content


class TestPositions:
    @given(st.text(), st.booleans(), st.data())
    def test_characters_of_a_json_string(self, text: str, ascii_only: bool, data: st.DataObject) -> None:
        """A position in the text is the same position in its spelling, however that is escaped."""
        body = json.dumps({"x": [text]}, ensure_ascii=ascii_only).encode()
        at = data.draw(st.integers(0, len(text)))
        byte = position(body, ("x", 0), at)

        assert text[:at] + "X" + text[at:] == json.loads(body[:byte] + b"X" + body[byte:])["x"][0]

    @pytest.mark.parametrize(
        ("content", "at", "before"),
        [
            (rb"\ud83c\udf83x", 1, rb"\ud83c\udf83"),
            (rb"\ud83cx", 1, rb"\ud83c"),
            (rb"\udf83\ud83c\udf83x", 2, rb"\udf83\ud83c\udf83"),
            (rb"\ud83c\ud83c\udf83x", 2, rb"\ud83c\ud83c\udf83"),
            (rb"\\ud83c", 1, rb"\\"),
            (rb"\"\n\u000ax", 3, rb"\"\n\u000a"),
            ("é🎃x".encode(), 2, "é🎃".encode()),
        ],
    )
    def test_pairs_are_one_character_and_so_are_lone_surrogates(self, content: bytes, at: int, before: bytes) -> None:
        """As Python counts them after reading."""
        body = b'{"x": "' + content + b'"}'

        assert 7 + len(before) == position(body, ("x",), at)

    def test_beyond_the_end(self) -> None:
        """A place after the end is an error, not the end."""
        assert 9 == position(b'{"x": "ab"}', ("x",), 2)
        assert position(b'{"x": "ab"}', ("x",), None) == position(b'{"x": "ab"}', ("x",), 2)
        with pytest.raises(ValueError, match="no character 3"):
            position(b'{"x": "ab"}', ("x",), 3)

    def test_several_insertions_into_one_string(self, tmp_path: Path) -> None:
        """Places are those of the row as it was; two texts for one place stand in the order given."""
        (row,) = open_source(put(tmp_path / "d.jsonl", rb'{"p": "a\u00e9\ud83c\udf83b"}')).rows()
        p = ("p",)
        row = row.inserted([(Place(p, 3), "1"), (Place(p), "9"), (Place(p, 3), "2"), (Place(p, 0), "0")], Style())

        assert {"p": "0aé🎃12b9"} == row.value()

    def test_insert_texts(self) -> None:
        """The same for a text in a cell."""
        assert "0ab12c9" == insert_texts("abc", [(2, "1"), (None, "9"), (2, "2"), (0, "0")])
        with pytest.raises(ValueError, match="no character 4"):
            insert_texts("abc", [(4, "x")])
