"""
The folders that `Dataset.save_to_disk` of the library `datasets` writes: Arrow streams and two JSON files.

Read with pyarrow alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from vtuned import files
from vtuned.containers import columns, streams
from vtuned.containers.base import Changes, Where, Written
from vtuned.containers.columns import ColumnRow
from vtuned.containers.jsontext import string_span
from vtuned.errors import DatasetError

_STATE, _INFO = "state.json", "dataset_info.json"
_HINT = "give a folder that `Dataset.save_to_disk` wrote"


def is_saved(folder: Path) -> bool:
    """Tell whether *folder* holds one split that was saved with `save_to_disk`."""
    return (folder / _STATE).is_file()


class SavedDataset:
    """See `vtuned.containers.base.Source`; rows are counted over all Arrow files of the folder."""

    name = "datasets"
    is_folder = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = _read(folder / _STATE)
        try:
            state = json.loads(self._state)
            names = [entry["filename"] for entry in state["_data_files"]]
            self._fingerprint = string_span(self._state, ("_fingerprint",))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DatasetError(f"{folder / _STATE}: not what `save_to_disk` writes", hint=_HINT) from None
        if state.get("_indices_data_files") or not names or any(Path(str(name)).name != name for name in names):
            raise DatasetError(f"{folder / _STATE}: a layout of an old version", hint="load and save it again")
        self._names: list[str] = names
        for path in self.paths:
            streams.size_of(path)
        with columns.reading(folder):
            pass

    @property
    def paths(self) -> tuple[Path, ...]:
        """See `Source.paths`."""
        info = [_INFO] if (self.folder / _INFO).is_file() else []
        return tuple(self.folder / name for name in (*self._names, *info, _STATE))

    @property
    def n_bytes(self) -> int:
        """See `Source.n_bytes`."""
        return sum(streams.size_of(path) for path in self.paths)

    def sha256(self) -> str:
        """See `Source.sha256`."""
        return streams.combined_digest({path.name: files.sha256_of(path) for path in self.paths})

    def rows(self) -> Iterator[ColumnRow]:
        """See `Source.rows`."""
        number = n_read = 0
        for name in self._names:
            path, first = self.folder / name, number
            size = streams.size_of(path)
            with columns.reading(path) as pa, pa.OSFile(str(path)) as raw, pa.ipc.open_stream(raw) as stream:
                names = columns.readable(stream.schema)
                for batch in stream:
                    n_read_here = n_read + min(size, raw.tell())
                    for start in range(0, batch.num_rows, columns.BATCH):
                        for cells in batch.slice(start, columns.BATCH).select(names).to_pylist():
                            number += 1
                            where = Where(path, "row", number - first, None)
                            yield ColumnRow(number, where, cells, n_read_here)
            n_read += size

    def check_order(self) -> None:
        """See `Source.check_order`."""
        columns.check_order("a datasets folder")

    def write(self, target: BinaryIO | Path, changes: Changes) -> Written:
        """
        See `Source.write`.

        The fingerprint is a new one: `datasets` takes two data sets with the same one for the same.
        """
        assert isinstance(target, Path)
        placed: dict[int, int] = {}
        digests: dict[str, str] = {}
        n_bytes = n_rows = 0
        first = 1
        for name in self._names:
            with files.new_file(target / name) as raw:
                out = streams.Digesting(raw)
                for n_source, n_copied in self._copied(name, out, changes, placed, (first, n_rows)):
                    first, n_rows = first + n_source, n_rows + n_copied
            digests[name] = out.sha256
            n_bytes += out.n_bytes
        start, end = self._fingerprint
        state = self._state[:start] + secrets.token_hex(8).encode() + self._state[end:]
        others = {path.name: _read(path) for path in self.paths if path.name == _INFO} | {_STATE: state}
        for name, content in others.items():
            with files.new_file(target / name) as raw:
                out = streams.Digesting(raw)
                out.write(content)
            digests[name] = out.sha256
            n_bytes += out.n_bytes
        return Written(streams.combined_digest(digests), n_bytes, n_rows, placed)

    def _copied(
        self, name: str, out: streams.Digesting, changes: Changes, placed: dict[int, int], begun: tuple[int, int]
    ) -> Iterator[tuple[int, int]]:
        """Copy one Arrow file into *out*; yield the rows of each batch in the source and in the copy."""
        path = self.folder / name
        first, n_rows = begun
        with (
            columns.reading(path) as pa,
            pa.OSFile(str(path)) as source,
            pa.ipc.open_stream(source) as stream,
            pa.ipc.new_stream(cast(BinaryIO, out), stream.schema) as sink,
        ):
            for batch in stream:
                changed = columns.with_changes(pa.Table.from_batches([batch]), first, changes, placed, n_rows)
                for part in changed.combine_chunks().to_batches():
                    sink.write_batch(part)
                first, n_rows = first + batch.num_rows, n_rows + changed.num_rows
                yield batch.num_rows, changed.num_rows


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise streams.unreadable(path, error) from error
