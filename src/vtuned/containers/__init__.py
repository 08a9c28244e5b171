"""Files as people keep them, whatever is in the rows: JSON lines, arrays, compressed files, CSV, Parquet, shards."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from vtuned.containers import saved, streams
from vtuned.containers.base import Changes, Insertion, Place, RawRow, Source, Where, Written
from vtuned.containers.csvfile import CSVFile
from vtuned.containers.jsonrows import JSONArray, JSONLines
from vtuned.containers.jsontext import after_space, value_end
from vtuned.containers.parquet import ParquetFile
from vtuned.containers.saved import SavedDataset
from vtuned.containers.shards import Shards
from vtuned.containers.text import FileSource
from vtuned.errors import DatasetError, UsageError
from vtuned.files import BOM

__all__ = [
    "Changes",
    "Data",
    "Insertion",
    "Place",
    "RawRow",
    "Source",
    "Where",
    "Written",
    "as_source",
    "check_name",
    "open_source",
]

Data: TypeAlias = Path | str | Sequence[Path | str]

_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
_KNOWN = "JSON lines (.jsonl), a JSON array (.json), either as .gz or .zst, CSV, TSV, Parquet, or a datasets folder"
_GZ, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


def open_source(paths: Data) -> Source:
    """
    Open a data set: a file, a list of files, a pattern ("data/*.jsonl"), or a folder of files or of `datasets`.

    What kind it is, is told by its name and by its first bytes. Raises DatasetError where it cannot be read or is of
    no known kind, UsageError for two files of one name, and MissingExtra where a package is needed to read it.
    """
    if isinstance(paths, Path | str):
        return _opened(paths)
    if not paths:
        raise DatasetError("no file was given", hint="give the files of the data set")
    opened = [_opened(path) for path in paths]
    if len(opened) == 1:
        return opened[0]
    shards = [source for source in opened if isinstance(source, FileSource)]
    if len(shards) < len(opened):
        raise DatasetError("one of several data sets is a folder", hint="give files, or one folder")
    return Shards(shards)


def as_source(data: Source | Data) -> Source:
    """Return *data* itself if it is a source, else open it. See `open_source`."""
    return open_source(data) if isinstance(data, Path | str | Sequence) else data


def check_name(source: Source, output: Path | str) -> None:
    """Raise UsageError if the name of *output* says that it is another kind of file than *source*."""
    kind, compression = _by_name(Path(output))
    own, _, packed = source.name.partition(".")
    is_same = kind == own or (own, kind) == ("jsonl", "json")
    if not source.is_folder and kind is not None and not (is_same and compression == packed):
        raise UsageError(
            f"{output}: the copy of a {source.name} file is one too", hint=f"give it a name that ends in .{source.name}"
        )


def _opened(path: Path | str) -> Source:
    found = _status(path)
    if found is None and glob.has_magic(str(path)):
        names = sorted(glob.glob(str(path)))  # noqa: PTH207, unlike pathlib's it passes over hidden files
        if not names:
            raise DatasetError(f"no file matches {path}", hint="see with `ls` what the pattern finds")
        return open_source([Path(name) for name in names])
    if found is not None and stat.S_ISDIR(found.st_mode):
        return _folder(Path(path))
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise DatasetError(f"cannot read {path}: it is not a file", hint="write it to a file first: it is read twice")
    return _file(Path(path))


def _status(path: Path | str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}", hint="give the path of a file that you may read") from error


def _folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").is_file():
        raise DatasetError(
            f"{folder}: this is a DatasetDict of several splits", hint="point to one split folder, such as its train/"
        )
    if saved.is_saved(folder):
        return SavedDataset(folder)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise streams.unreadable(folder, error) from error
    if not entries:
        raise DatasetError(f"{folder}: the folder is empty", hint="give a file, or a folder with the files of the data")
    odd = next((entry for entry in entries if not entry.is_file() or _by_name(entry)[0] is None), None)
    if odd is not None:
        raise DatasetError(
            f"{folder}: {odd.name} is no data file", hint="give a quoted pattern instead, such as 'folder/*.jsonl'"
        )
    return Shards([_file(entry) for entry in entries], folder)


def _by_name(path: Path) -> tuple[str | None, str]:
    """Return the kind and the compression that the name of a file tells."""
    compression = _COMPRESSIONS.get(path.suffix.lower(), "")
    stem = path.with_suffix("") if compression else path
    return _KINDS.get(stem.suffix.lower()), compression


def _file(path: Path) -> FileSource:
    kind, compression = _by_name(path)
    if kind == "parquet":
        if compression:
            raise DatasetError(f"{path}: a Parquet file in a {compression} file", hint="unpack it first")
        return ParquetFile(path)
    first = _first_bytes(path, compression)
    packed = f".{compression}" if compression else ""
    if kind in ("csv", "tsv"):
        return CSVFile.opened(path, kind + packed, compression)
    if kind == "jsonl" and first.startswith(b"["):
        raise DatasetError(
            f"{path}: this is a JSON array, not JSON lines", hint="let its name end in .json, or write one row a line"
        )
    if kind == "json" and first.startswith(b"{"):
        _check_lines(path, compression)
    if kind == "jsonl" or first.startswith(b"{") or (not first and kind is None):
        return JSONLines(path, f"jsonl{packed}", compression)
    if kind == "json" or first.startswith(b"["):
        return JSONArray(path, f"json{packed}", compression)
    raise DatasetError(f"{path}: unknown kind of file", hint=_advice(first))


def _first_bytes(path: Path, compression: str) -> bytes:
    """Return a few bytes of the file's content, without a byte order mark and white space before them."""
    with streams.reading(path, compression) as opened:
        first = opened.file.read(4).removeprefix(BOM)
        while first and not first.lstrip():
            first = opened.file.read(1)
        return first.lstrip()


def _check_lines(path: Path, compression: str) -> None:
    """Raise DatasetError if the first row does not end on its line: JSON that is written for people to read."""
    with streams.reading(path, compression) as opened:
        line = next((line for line in opened.file if line.removeprefix(BOM).strip()), b"").removeprefix(BOM)
    try:
        value_end(line, after_space(line, 0))
    except ValueError:
        raise DatasetError(
            f"{path}: neither an array of rows nor one row a line: its first row does not end on its line",
            hint="write the rows as one JSON array, [{…}, {…}], or each on a line of its own",
        ) from None


def _advice(first: bytes) -> str:
    for magic, suffix in ((_GZ, ".gz"), (_ZSTD, ".zst"), (_PARQUET, ".parquet")):
        if first.startswith(magic):
            return f"it looks like {suffix}: let its name end so"
    return f"known are {_KNOWN}"
