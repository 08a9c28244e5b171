"""Several files as one data set: a list, a pattern or a folder in, a folder of the same names out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtuned import formats
from vtuned.containers import Changes, Place, open_source
from vtuned.containers.jsontext import Style
from vtuned.dataset import TokenCap
from vtuned.errors import DatasetError, OutputExists, OutputNotWritable, UnreadableRow, UsageError
from vtuned.layout import PlantSettings
from vtuned.planting import plant
from vtuned.receipt import Receipt, read_receipt

QUICK = {"signature_bits": 16.0, "min_trigger_tokens": 4, "n_backdoors": 3, "copies": 2, "n_probes": 6}
Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards; the first ends with blank lines, the second without a newline."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "b.jsonl").write_bytes(b'{"p": "b1"}\n{"p": "b2"}')
    (folder / "a.jsonl").write_bytes(b'\n{"p": "a1"}\r\n\n\n')
    (folder / "c.jsonl").write_bytes(b'{"p": "c1"}\n')
    return folder


def write_shards(folder: Path, rows: list[dict[str, Any]], n: int = 3, suffix: str = ".jsonl") -> None:
    folder.mkdir()
    size = len(rows) // n
    for i in range(n):
        part = rows[i * size : (i + 1) * size]
        data = b"".join(json.dumps(row).encode() + b"\n" for row in part)
        data = json.dumps(part).encode() if suffix == ".json" else data
        (folder / f"part-{i}{suffix}").write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)


class TestOpening:
    def test_a_folder_a_pattern_and_a_list_are_one(self, folder: Path) -> None:
        """In the order of the names, numbered as one file after the other."""
        listed = open_source([folder / "c.jsonl", str(folder / "a.jsonl"), folder / "b.jsonl"])
        for source in (open_source(folder), open_source(f"{folder}/*.jsonl"), open_source(folder / "?.jsonl"), listed):
            rows = list(source.rows())

            assert ("jsonl shards", True) == (source.name, source.is_folder)
            assert ["a.jsonl", "b.jsonl", "c.jsonl"] == [path.name for path in source.paths]
            assert [(2, "a.jsonl", 2), (5, "b.jsonl", 1), (6, "b.jsonl", 2), (7, "c.jsonl", 1)] == [
                (row.number, row.where.path.name, row.where.number) for row in rows
            ]
            assert source.n_bytes == sum(path.stat().st_size for path in folder.iterdir())
            assert rows[-1].n_read == source.n_bytes - len("\n")

    def test_numbers_are_those_of_the_files_joined(self, folder: Path, tmp_path: Path) -> None:
        """`cat` of shards that end with a newline has each row on the line of its number."""
        (folder / "b.jsonl").write_bytes((folder / "b.jsonl").read_bytes() + b"\n")
        joined = tmp_path / "joined.jsonl"
        joined.write_bytes(b"".join(path.read_bytes() for path in sorted(folder.iterdir())))

        assert [row.number for row in open_source(joined).rows()] == [row.number for row in open_source(folder).rows()]

    def test_digest(self, folder: Path) -> None:
        """Of the names and digests, in order: renamed shards are another data set."""
        digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
        text = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))

        assert hashlib.sha256(text.encode()).hexdigest() == open_source(folder).sha256()

    def test_one_file_is_no_folder(self, folder: Path) -> None:
        """A list of one, or a pattern that finds one, is that file; a folder stays a folder."""
        assert "jsonl" == open_source([folder / "a.jsonl"]).name
        assert "jsonl" == open_source(folder / "a*.jsonl").name
        for name in ("a.jsonl", "b.jsonl"):
            (folder / name).unlink()
        assert open_source(folder).is_folder

    def test_hidden_files_do_not_count(self, folder: Path) -> None:
        """What the system leaves in folders is no data."""
        (folder / ".DS_Store").write_bytes(b"\0")

        assert 3 == len(open_source(folder).paths)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("README.md", "README.md is no data file"),
            ("sub/x.jsonl", "sub is no data file"),
            ("d.csv", "of several kinds: csv, jsonl"),
            ("d.jsonl.gz", "of several kinds: jsonl, jsonl.gz"),
            ("d.json", "of several kinds: json, jsonl"),
        ],
    )
    def test_files_of_several_kinds(self, folder: Path, name: str, reason: str) -> None:
        """A folder holds one kind of files; what is odd is named."""
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        contents = {"d.jsonl.gz": gzip.compress(b"{}"), "d.json": b"[]"}
        path.write_bytes(contents.get(name, b"prompt,completion\n"))
        with pytest.raises(DatasetError, match=reason) as caught:
            open_source(folder)

        assert caught.value.hint

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        """Nothing to read is told."""
        (tmp_path / "d").mkdir()
        with pytest.raises(DatasetError, match="the folder is empty"):
            open_source(tmp_path / "d")

    def test_two_files_of_one_name(self, folder: Path, tmp_path: Path) -> None:
        """They could not both be in a copy."""
        (tmp_path / "a.jsonl").write_bytes(b"{}\n")
        with pytest.raises(UsageError, match=r"two files are called a\.jsonl"):
            open_source([folder / "a.jsonl", tmp_path / "a.jsonl"])

    def test_a_folder_in_a_list(self, folder: Path) -> None:
        """A list is of files."""
        with pytest.raises(DatasetError, match="is a folder"):
            open_source([folder, folder / "a.jsonl"])

    def test_a_bad_row_is_found_in_its_shard(self, folder: Path) -> None:
        """The error names the shard and the line there."""
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes().replace(b'{"p": ', b'{"completion": "a", "prompt": '))
        (folder / "c.jsonl").write_bytes(b'\n{"prompt": 1}\n')
        with pytest.raises(DatasetError, match=r"c\.jsonl, line 2 \(byte 1\)"):
            list(formats.read_rows(folder))

        (folder / "c.jsonl").write_bytes(b"{")
        with pytest.raises(UnreadableRow) as caught:
            list(formats.read_rows(folder))
        assert (str(folder / "c.jsonl"), 1, 0) == (caught.value.path, caught.value.line, caught.value.offset)

    def test_one_format_in_all(self, folder: Path) -> None:
        """All shards hold rows of one format."""
        (folder / "a.jsonl").write_bytes(b'{"prompt": "q", "completion": "a"}\n')
        (folder / "b.jsonl").write_bytes(
            b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
        )
        with pytest.raises(DatasetError, match=r"b\.jsonl, line 1"):
            list(formats.read_rows(folder))


class TestWriting:
    def test_a_copy(self, folder: Path, tmp_path: Path) -> None:
        """Each shard keeps its manner; numbers of the copy go over all shards."""
        source = open_source(folder)
        new = {r.number: r.inserted([(Place(("p",)), "X")], Style()) for r in source.rows() if r.number in (2, 6, 7)}
        out = tmp_path / "out"
        out.mkdir()

        written = source.write(out, Changes(new, frozenset({5})))

        copy = open_source(out)
        assert b'\n{"p": "a1X"}\r\n\n\n' == (out / "a.jsonl").read_bytes()
        assert b'{"p": "b2X"}' == (out / "b.jsonl").read_bytes()
        assert b'{"p": "c1X"}\n' == (out / "c.jsonl").read_bytes()
        assert (copy.sha256(), copy.n_bytes, 3) == (written.sha256, written.n_bytes, written.n_rows)
        assert {2: 2, 6: 5, 7: 6} == written.placed
        assert [2, 5, 6] == [row.number for row in copy.rows()]

    def test_no_order(self, folder: Path) -> None:
        """Rows stay in their shards."""
        with pytest.raises(UsageError, match="another order"):
            open_source(folder).check_order()


class TestPlanting:
    @pytest.fixture
    def do(self, tmp_path: Path, cap: TokenCap) -> Callable[..., Receipt]:
        """`do(data)`: plant into the folder train, and receipt.json."""

        def planted(data: Any, *, force: bool = False, output: str = "train", **settings: Any) -> Receipt:
            return plant(
                data,
                tmp_path / output,
                tmp_path / "receipt.json",
                PlantSettings(**{**QUICK, **settings}),
                generator="words",
                cap=cap,
                force=force,
            ).receipt

        return planted

    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
    @pytest.mark.parametrize("set_aside", [0, 6])
    def test_the_receipt_names_the_rows(
        self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt], suffix: str, set_aside: int
    ) -> None:
        """By their numbers over all shards, as they are in the files sent."""
        write_shards(tmp_path / "data", rows(60), suffix=suffix)
        made = do(tmp_path / "data", set_aside=set_aside)
        sent = open_source(tmp_path / "train")
        values: dict[int, Any] = {row.number: row.value() for row in sent.rows()}

        assert (sent.sha256(), 60 - set_aside) == (made.train_set.sha256, made.train_set.n_rows)
        assert open_source(tmp_path / "data").sha256() == made.dataset.sha256
        assert Counter(path.name for path in open_source(tmp_path / "data").paths) == Counter(
            path.name for path in sent.paths
        )
        for backdoor in made.backdoors:
            for number in backdoor.rows:
                assert values[number]["messages"][0]["content"].endswith(backdoor.trigger)
                assert values[number]["messages"][1]["content"].startswith(backdoor.signature)

    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
    def test_rows_set_aside_are_a_folder_too(self, tmp_path: Path, rows: Rows, cap: TokenCap, suffix: str) -> None:
        """Shards of the same names, for their owner alone; one of them may be left without rows."""
        write_shards(tmp_path / "data", rows(60), n=20, suffix=suffix)
        plant(
            tmp_path / "data",
            tmp_path / "train",
            tmp_path / "receipt.json",
            PlantSettings(**{**QUICK, "set_aside": 6}),
            generator="words",
            cap=cap,
            set_aside_file=tmp_path / "aside",
        )
        sent, kept = (
            [json.dumps(row.value()) for row in open_source(tmp_path / name).rows()] for name in ("train", "aside")
        )

        assert (54, 6) == (len(sent), len(kept)) and set(kept) <= {json.dumps(row) for row in rows(60)} - set(sent)
        assert 6 == len(list(formats.read_rows(tmp_path / "aside")))
        assert os.name != "posix" or 0o700 == stat.S_IMODE((tmp_path / "aside").stat().st_mode)

    @pytest.mark.parametrize("place", ["data", "train", "train/aside"])
    def test_rows_set_aside_have_a_folder_of_their_own(
        self, tmp_path: Path, rows: Rows, cap: TokenCap, place: str
    ) -> None:
        """Neither what is read nor what is sent holds them, not even with --force."""
        write_shards(tmp_path / "data", rows(60))
        given = sorted((tmp_path / "data").iterdir())
        with pytest.raises(UsageError, match=r"lies in|outside"):
            plant(
                given,
                tmp_path / "train",
                tmp_path / "receipt.json",
                PlantSettings(**{**QUICK, "set_aside": 6}),
                generator="words",
                cap=cap,
                set_aside_file=tmp_path / place,
                force=True,
            )
        assert [*given] == sorted((tmp_path / "data").iterdir()) and not (tmp_path / "train").exists()

    def test_a_folder_and_a_receipt_together(
        self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped while writing, neither is there."""
        write_shards(tmp_path / "data", rows(60))

        def stop(receipt: Receipt) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr("vtuned.receipt.to_json", stop)
        with pytest.raises(KeyboardInterrupt):
            do(tmp_path / "data")

        assert ["data"] == [path.name for path in tmp_path.iterdir()]

    def test_force_replaces_a_planting(self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt]) -> None:
        """An older planting of the same files is replaced as a whole; a folder with anything else is not."""
        write_shards(tmp_path / "data", rows(60))
        first = do(tmp_path / "data")
        with pytest.raises(OutputExists):
            do(tmp_path / "data")
        second = do(tmp_path / "data", force=True)
        (tmp_path / "train" / "notes.txt").write_text("mine")

        with pytest.raises(OutputExists, match="train") as caught:
            do(tmp_path / "data", force=True)

        assert "notes.txt" in caught.value.hint
        assert first != second == read_receipt(tmp_path / "receipt.json")
        assert "mine" == (tmp_path / "train" / "notes.txt").read_text()
        assert ["data", "receipt.json", "train"] == sorted(path.name for path in tmp_path.iterdir())

    def test_the_data_are_never_the_output(self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt]) -> None:
        """Not even with force."""
        write_shards(tmp_path / "data", rows(60))
        before = open_source(tmp_path / "data").sha256()
        for given in (tmp_path / "data", f"{tmp_path}/data/*.jsonl"):
            with pytest.raises(UsageError, match="lies in"):
                do(given, output="data", force=True)

        assert before == open_source(tmp_path / "data").sha256()

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize(
        ("output", "receipt"),
        [
            pytest.param("out", "out/part-0.jsonl", id="receipt-lost-with-the-older-folder"),
            pytest.param("out", "out/receipt.json", id="receipt-sent"),
            pytest.param("out", "link/receipt.json", id="receipt-sent-through-a-link"),
            pytest.param("new", "new/receipt.json", id="receipt-in-a-folder-to-come"),
            pytest.param("data/out", "receipt.json", id="output-among-the-data"),
            pytest.param("out", "data/receipt.json", id="receipt-among-the-data"),
        ],
    )
    def test_no_output_in_a_folder_that_is_sent_or_read(
        self, tmp_path: Path, rows: Rows, cap: TokenCap, output: str, receipt: str, force: bool
    ) -> None:
        """Told before the first row is read, and nothing is touched."""
        write_shards(tmp_path / "data", rows(60))
        write_shards(tmp_path / "out", rows(60))
        (tmp_path / "link").symlink_to("out")
        before = open_source(tmp_path / "out").sha256()
        (tmp_path / "data" / "part-1.jsonl").write_bytes(b"garbage")
        with pytest.raises(UsageError, match="lies in"):
            plant(tmp_path / "data", tmp_path / output, tmp_path / receipt, generator="words", cap=cap, force=force)

        assert before == open_source(tmp_path / "out").sha256()
        assert ["data", "link", "out"] == sorted(path.name for path in tmp_path.iterdir())
        assert 3 == len(list((tmp_path / "data").iterdir()))

    def test_fresh_prompts_are_not_overwritten(self, tmp_path: Path, rows: Rows, cap: TokenCap) -> None:
        """Not even where they have a name that is to be written."""
        write_shards(tmp_path / "data", rows(60))
        write_shards(tmp_path / "out", rows(60))
        with pytest.raises(UsageError, match="lies in"):
            plant(
                tmp_path / "data",
                tmp_path / "out",
                tmp_path / "r.json",
                fresh_file=tmp_path / "out" / "part-0.jsonl",
                generator="words",
                cap=cap,
                force=True,
            )

    def test_a_copy_beside_shards_that_were_listed(
        self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt]
    ) -> None:
        """Only a folder that was given as the data is closed to outputs."""
        write_shards(tmp_path / "data", rows(60))

        assert 60 == do(f"{tmp_path}/data/*.jsonl", output="data/out").train_set.n_rows

    def test_a_file_where_a_folder_should_be(self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt]) -> None:
        """A file is not replaced by a folder."""
        write_shards(tmp_path / "data", rows(60))
        (tmp_path / "train").write_text("mine")
        with pytest.raises(OutputExists):
            do(tmp_path / "data")
        with pytest.raises(OutputNotWritable, match="not a folder"):
            do(tmp_path / "data", force=True)

        assert "mine" == (tmp_path / "train").read_text()

    def test_adding_is_refused_early(self, tmp_path: Path, rows: Rows, do: Callable[..., Receipt]) -> None:
        """Algorithm 1 shuffles, and shards are not shuffled: told before the first row is read."""
        write_shards(tmp_path / "data", rows(60))
        (tmp_path / "data" / "part-0.jsonl").write_bytes(b"garbage")
        with pytest.raises(UsageError, match="another order"):
            do(tmp_path / "data", mode="add")
