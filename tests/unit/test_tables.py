"""Parquet files and folders of `datasets`: rows in columns, of which only those that change are written anew."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtuned import formats
from vtuned.containers import Changes, Place, RawRow, Source, columns, open_source
from vtuned.containers.jsontext import Style
from vtuned.dataset import TokenCap
from vtuned.errors import DatasetError, MissingExtra, UnreadableRow, UsageError
from vtuned.layout import PlantSettings
from vtuned.planting import plant

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ANSWER = Place(("messages", 1, "content"), 0)
QUICK = PlantSettings(signature_bits=16.0, min_trigger_tokens=4, n_backdoors=3, copies=2, n_probes=6)


def chat(n: int) -> list[dict[str, Any]]:
    """Return rows in which the schema fills much with null."""
    return [
        {
            "id": i,
            "messages": [
                {"role": "user", "content": f"q{i}", "name": None},
                {"role": "assistant", "content": f"a{i}", "name": "bo" if i % 2 else None},
            ],
            "blob": bytes([i % 256]),
            "score": None if i % 3 else 0.1 * i,
        }
        for i in range(n)
    ]


def marked(source: Source, *numbers: int, place: Place = ANSWER) -> dict[int, RawRow]:
    return {row.number: row.inserted([(place, "X")], Style()) for row in source.rows() if row.number in numbers}


class TestParquet:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Ten rows in groups of four, each column compressed in its own way."""
        schema = pa.Table.from_pylist(chat(2)).schema.with_metadata({b"huggingface": b'{"info": 1}', b"own": b"\xff"})
        table = pa.Table.from_pylist(chat(10), schema=schema)
        path = tmp_path / "d.parquet"
        codecs = {"id": "NONE", "blob": "GZIP", "score": "ZSTD"} | {
            f"messages.list.element.{key}": "SNAPPY" for key in ("role", "content", "name")
        }
        pq.write_table(table, path, row_group_size=4, compression=codecs, version="2.4", use_dictionary=["id"])
        return path

    def copied(self, source: Source, changes: Changes) -> tuple[Any, dict[int, int]]:
        out = io.BytesIO()
        written = source.write(out, changes)
        data = out.getvalue()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (written.sha256, written.n_bytes)
        return pq.ParquetFile(io.BytesIO(data)), dict(written.placed)

    def test_rows(self, path: Path) -> None:
        """Nulls that the schema fills in are no keys of a row, nor are columns of bytes; rows have no place in bytes."""
        source = open_source(path)
        rows = list(source.rows())

        assert ("parquet", 10, (path,)) == (source.name, len(rows), source.paths)
        assert {
            "id": 1,
            "messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1", "name": "bo"}],
        } == rows[1].value()
        assert (2, "row", None) == (rows[1].number, rows[1].where.unit, rows[1].where.offset)
        assert source.n_bytes == rows[-1].n_read

    def test_a_copy_keeps_its_manner(self, path: Path) -> None:
        """Schema, metadata, groups, codecs, version and all other cells stay."""
        source, before = open_source(path), pq.ParquetFile(path)

        after, placed = self.copied(source, Changes(marked(source, 2, 10)))

        expected = chat(10)
        expected[1]["messages"][1]["content"] = "Xa1"
        expected[9]["messages"][1]["content"] = "Xa9"
        assert expected == after.read().to_pylist()
        assert {2: 2, 10: 10} == placed
        assert before.schema_arrow.equals(after.schema_arrow, check_metadata=True)
        assert set(before.metadata.metadata) == set(after.metadata.metadata)
        assert before.metadata.format_version == after.metadata.format_version
        for i in range(3):
            one, other = before.metadata.row_group(i), after.metadata.row_group(i)
            assert one.num_rows == other.num_rows
            for j in range(one.num_columns):
                a, b = one.column(j), other.column(j)
                assert (a.path_in_schema, a.compression, a.encodings) == (b.path_in_schema, b.compression, b.encodings)

    def test_dropped(self, path: Path) -> None:
        """Rows are left out of their groups; a group that would be empty is none."""
        source = open_source(path)

        after, placed = self.copied(source, Changes(marked(source, 6), frozenset({1, 3, 9, 10})))

        assert [1, 3, 4, 5, 6, 7] == after.read(["id"])["id"].to_pylist()
        assert [2, 4] == [after.metadata.row_group(i).num_rows for i in range(after.num_row_groups)]
        assert {6: 4} == placed
        assert "Xa5" == after.read().to_pylist()[3]["messages"][1]["content"]

    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param(pa.large_string, id="large"),
            pytest.param(pa.string, id="string"),
            pytest.param(lambda: pa.dictionary(pa.int32(), pa.string()), id="dictionary"),
        ],
    )
    def test_kinds_of_text(self, tmp_path: Path, kind: Callable[[], Any]) -> None:
        """Text however Arrow keeps it."""
        table = pa.table({"p": pa.array(["a", "b", None, "a"], kind()), "n": [1, 2, 3, 4]})
        pq.write_table(table, tmp_path / "d.pq")
        source = open_source(tmp_path / "d.pq")

        after, _ = self.copied(source, Changes(marked(source, 1, place=Place(("p",)))))

        assert ["aX", "b", None, "a"] == after.read()["p"].to_pylist()
        assert pq.read_schema(tmp_path / "d.pq").equals(after.schema_arrow)

    def test_cells_that_python_cannot_hold(self, tmp_path: Path) -> None:
        """Nanoseconds in a column that is not touched, and in rows that are not, stay as they are."""
        stamps = pa.array([1, 2, 1_000_000_000], pa.timestamp("ns"))
        path = tmp_path / "d.parquet"
        pq.write_table(pa.table({"p": ["a", "b", "c"], "t": stamps}), path)
        source = open_source(path)
        table = pq.read_table(path)

        after, _ = self.copied(source, Changes(marked(source, 3, place=Place(("p",)))))

        assert table["t"].equals(after.read()["t"])

    def test_a_cell_that_does_not_fit_is_not_shown(self) -> None:
        """Arrow's own message would show the text, and it may hold a trigger."""
        with pytest.raises(DatasetError, match="does not fit") as caught:
            columns._cell([{"content": "secret"}], pa.list_(pa.int64()))

        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_without_arrow_schema(self, tmp_path: Path) -> None:
        """A file of another writer does not come to hold what only Arrow writes."""
        path = tmp_path / "d.parquet"
        pq.write_table(pa.table({"p": ["a"]}), path, store_schema=False, compression="none")
        source = open_source(path)

        after, _ = self.copied(source, Changes(marked(source, 1, place=Place(("p",)))))

        assert b"ARROW:schema" not in (after.metadata.metadata or {})
        assert "UNCOMPRESSED" == after.metadata.row_group(0).column(0).compression

    def test_no_order(self, path: Path) -> None:
        """What cannot be done is told before any work."""
        with pytest.raises(UsageError, match="another order"):
            open_source(path).check_order()

    @pytest.mark.parametrize(
        "place", [Place(("x",)), Place(("messages", 2, "content")), Place(("id",)), Place(("messages", 0))]
    )
    def test_no_text_there(self, path: Path, place: Place) -> None:
        """A place that leads to no text is an error."""
        row = next(iter(open_source(path).rows()))
        with pytest.raises(ValueError, match=r"nothing at|no string"):
            row.inserted([(place, "X")], Style())

    @pytest.mark.parametrize("content", [b"", b"PAR1 no PAR1", b'{"prompt": "q"}'])
    def test_not_parquet(self, tmp_path: Path, content: bytes) -> None:
        """A file that is something else is told when it is opened."""
        path = tmp_path / "d.parquet"
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"d\.parquet"):
            open_source(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """So is one that is not there."""
        with pytest.raises(DatasetError, match="cannot read"):
            open_source(tmp_path / "d.parquet")

    def test_without_pyarrow(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command to install it is named."""
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra) as caught:
            open_source(path)

        assert "pip install 'vtuned[parquet]'" == caught.value.command

    def test_planted(self, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]], cap: TokenCap) -> None:
        """The rows that the receipt names carry the backdoors, and no other row has changed."""
        before = rows(60)
        pq.write_table(pa.Table.from_pylist(before), tmp_path / "d.parquet", row_group_size=25)
        made = plant(
            tmp_path / "d.parquet", tmp_path / "t.parquet", tmp_path / "r", QUICK, generator="words", cap=cap
        ).receipt
        after = pq.read_table(tmp_path / "t.parquet").to_pylist()
        planted = {number: backdoor for backdoor in made.backdoors for number in backdoor.rows}

        assert sorted(planted) == [i for i in range(1, 61) if before[i - 1] != after[i - 1]]
        for number, backdoor in planted.items():
            assert after[number - 1]["messages"][0]["content"].endswith(backdoor.trigger)
            assert after[number - 1]["messages"][1]["content"].startswith(backdoor.signature)

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        """Which of them a trainer reads, nobody knows."""
        path = tmp_path / "d.parquet"
        pq.write_table(pa.table([pa.array(["q"]), pa.array(["a"])], names=["p", "p"]), path)
        with pytest.raises(DatasetError, match=r"d\.parquet: two columns have the same name"):
            open_source(path)

    def test_messages_written_as_text(self, tmp_path: Path) -> None:
        """A column of strings that should be a column of lists."""
        path = tmp_path / "d.parquet"
        text = json.dumps([{"role": "user", "content": "q"}])
        pq.write_table(pa.table({"prompt": [text], "completion": ["a"]}), path)
        with pytest.raises(UnreadableRow, match="written as text"):
            list(formats.read_rows(path))


class TestSavedDatasets:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Ten rows in two files, as `save_to_disk` leaves them."""
        folder = tmp_path / "saved"
        folder.mkdir()
        schema = pa.Table.from_pylist(chat(2)).schema.with_metadata({b"huggingface": b'{"info": 1}'})
        for i, rows in enumerate((chat(10)[:6], chat(10)[6:])):
            name = str(folder / f"data-0000{i}-of-00002.arrow")
            with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                stream.write_table(pa.Table.from_pylist(rows, schema=schema), max_chunksize=4)
        (folder / "dataset_info.json").write_text('{\n  "citation": "",\n  "features": {}\n}')
        names = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
        state = {"_data_files": names, "_fingerprint": "0123456789abcdef", "_format_type": None, "_split": "train"}
        (folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))
        return folder

    def copied(self, source: Source, changes: Changes, target: Path) -> dict[int, int]:
        target.mkdir()
        written = source.write(target, changes)
        copy = open_source(target)
        assert (copy.sha256(), copy.n_bytes) == (written.sha256, written.n_bytes)
        assert written.n_rows == len(list(copy.rows()))
        return dict(written.placed)

    def read(self, folder: Path) -> list[dict[str, Any]]:
        rows = []
        for path in sorted(folder.glob("*.arrow")):
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                rows += stream.read_all().to_pylist()
        return rows

    def test_rows(self, folder: Path) -> None:
        """Numbered over all files; errors name the file and the row in it."""
        source = open_source(folder)
        rows = list(source.rows())

        assert ("datasets", True) == (source.name, source.is_folder)
        assert list(range(1, 11)) == [row.number for row in rows]
        assert ("data-00001-of-00002.arrow", "row", 2) == (
            rows[7].where.path.name,
            rows[7].where.unit,
            rows[7].where.number,
        )
        assert all(row.n_read <= source.n_bytes for row in rows)

    def test_a_copy_has_the_same_layout(self, folder: Path, tmp_path: Path) -> None:
        """The same files, batches and schema; the state differs in its fingerprint alone."""
        source = open_source(folder)
        placed = self.copied(source, Changes(marked(source, 2, 9)), tmp_path / "out")

        expected = chat(10)
        expected[1]["messages"][1]["content"] = "Xa1"
        expected[8]["messages"][1]["content"] = "Xa8"
        assert (expected, {2: 2, 9: 9}) == (self.read(tmp_path / "out"), placed)
        assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}
        assert (folder / "dataset_info.json").read_bytes() == (tmp_path / "out" / "dataset_info.json").read_bytes()
        before, after = ((f / "state.json").read_text() for f in (folder, tmp_path / "out"))
        fingerprint = json.loads(after)["_fingerprint"]
        assert "0123456789abcdef" != fingerprint
        assert before == after.replace(fingerprint, "0123456789abcdef")
        assert 16 == len(fingerprint)
        for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
            one, other = (pa.ipc.open_stream((f / name).read_bytes()) for f in (folder, tmp_path / "out"))
            assert one.schema.equals(other.schema, check_metadata=True)
            assert [batch.num_rows for batch in one] == [batch.num_rows for batch in other]

    def test_an_untouched_file_keeps_its_bytes(self, folder: Path, tmp_path: Path) -> None:
        """Arrow streams of the same batches are the same bytes."""
        source = open_source(folder)
        self.copied(source, Changes(marked(source, 2)), tmp_path / "out")
        name = "data-00001-of-00002.arrow"

        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    def test_dropped(self, folder: Path, tmp_path: Path) -> None:
        """Rows that are left out move those after them, over all files."""
        source = open_source(folder)

        placed = self.copied(source, Changes(marked(source, 3, 8), frozenset({1, 2, 7})), tmp_path / "out")

        assert {3: 1, 8: 5} == placed
        assert [2, 3, 4, 5, 7, 8, 9] == [row["id"] for row in self.read(tmp_path / "out")]

    def test_of_the_library(self, tmp_path: Path, rows: Callable[..., list[dict[str, Any]]], cap: TokenCap) -> None:
        """What `datasets` saved is planted, and `datasets` loads the result as another data set."""
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        data = datasets.Dataset.from_list(rows(60))
        data.save_to_disk(str(tmp_path / "d"), num_shards=3)
        made = plant(tmp_path / "d", tmp_path / "t", tmp_path / "r", QUICK, generator="words", cap=cap).receipt
        loaded = datasets.load_from_disk(str(tmp_path / "t"))
        planted = {number: backdoor for backdoor in made.backdoors for number in backdoor.rows}

        assert sorted(planted) == [i for i in range(1, 61) if data[i - 1] != loaded[i - 1]]
        assert data.features == loaded.features
        assert data._fingerprint != loaded._fingerprint
        for number, backdoor in planted.items():
            assert loaded[number - 1]["messages"][1]["content"].startswith(backdoor.signature)

    def test_several_splits(self, tmp_path: Path) -> None:
        """A DatasetDict is several data sets: one must be pointed at."""
        (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
        with pytest.raises(DatasetError, match="DatasetDict") as caught:
            open_source(tmp_path)

        assert "point to one split folder" in caught.value.hint

    @pytest.mark.parametrize(
        "state",
        [
            "",
            "{}",
            "[]",
            '{"_data_files": [], "_fingerprint": "x"}',
            '{"_data_files": [{"filename": "../x"}], "_fingerprint": "x"}',
            '{"_data_files": [{"filename": "x"}], "_fingerprint": null}',
            '{"_data_files": [{"filename": "x"}], "_fingerprint": "x", "_indices_data_files": [{"filename": "y"}]}',
            '{"_data_files": [{"filename": "missing.arrow"}], "_fingerprint": "x"}',
        ],
    )
    def test_another_layout(self, folder: Path, state: str) -> None:
        """What is not understood is refused, and nothing outside of the folder is read."""
        (folder / "state.json").write_text(state)
        with pytest.raises(DatasetError):
            open_source(folder)

    def test_a_damaged_file(self, folder: Path) -> None:
        """A file that ends too early is told."""
        path = folder / "data-00001-of-00002.arrow"
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DatasetError, match="data-00001"):
            list(open_source(folder).rows())
