"""Several files of one kind as one data set; a copy is a folder of files with the same names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from vtuned import files
from vtuned.containers import streams
from vtuned.containers.base import Changes, Cut, Insertion, RawRow, Where, Written
from vtuned.containers.jsontext import Style
from vtuned.containers.text import FileSource
from vtuned.errors import DatasetError, UsageError


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A row of a shard, numbered over all of them. See `vtuned.containers.base.RawRow`."""

    number: int
    row: RawRow
    n_read: int

    @property
    def where(self) -> Where:
        """See `RawRow.where`: the shard, and the row's number there."""
        return self.row.where

    def value(self) -> object:
        """See `RawRow.value`."""
        return self.row.value()

    def style(self) -> Style:
        """See `RawRow.style`."""
        return self.row.style()

    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> ShardRow:
        """See `RawRow.inserted`."""
        return replace(self, row=self.row.inserted(insertions, file_style))

    def removed(self, cut: Cut) -> ShardRow:
        """See `RawRow.removed`."""
        return replace(self, row=self.row.removed(cut))


class Shards:
    """
    Several files, in the order of their names. See `vtuned.containers.base.Source`.

    Numbers go on from one shard to the next, as if they were one file after the other. *folder* is where they are all
    of the files.
    """

    is_folder = True

    def __init__(self, shards: Sequence[FileSource], folder: Path | None = None) -> None:
        self.folder = folder
        self._shards = sorted(shards, key=lambda shard: shard.path.name)
        kinds = sorted({shard.name for shard in shards})
        if len(kinds) > 1:
            raise DatasetError(
                f"these files are of several kinds: {', '.join(kinds)}",
                hint="give files of one kind, by a list or a quoted pattern such as 'data/*.jsonl'",
            )
        names = [shard.path.name for shard in self._shards]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two files are called {twice}", hint="give each file its own name: the copies keep them")
        self.name = f"{kinds[0]} shards"

    @property
    def paths(self) -> tuple[Path, ...]:
        """See `Source.paths`."""
        return tuple(shard.path for shard in self._shards)

    @property
    def n_bytes(self) -> int:
        """See `Source.n_bytes`."""
        return sum(shard.n_bytes for shard in self._shards)

    def rows(self) -> Iterator[ShardRow]:
        """See `Source.rows`."""
        n_before = n_read = 0
        for shard in self._shards:
            for row in shard.rows():
                yield ShardRow(n_before + row.number, row, n_read + row.n_read)
            n_before += shard.n_numbers
            n_read += shard.n_bytes

    def sha256(self) -> str:
        """See `Source.sha256`."""
        return streams.combined_digest({shard.path.name: shard.sha256() for shard in self._shards})

    def check_order(self) -> None:
        """Raise UsageError: the rows of one shard stay in it."""
        raise UsageError(
            "rows of several files cannot be put in another order",
            hint="replace rows in place (--mode replace), or join the files to one",
        )

    def write(self, target: BinaryIO | Path, changes: Changes) -> Written:
        """See `Source.write`."""
        assert isinstance(target, Path)
        digests: dict[str, str] = {}
        placed: dict[int, int] = {}
        n_before = n_placed = n_rows = n_bytes = 0
        for shard in self._shards:
            with files.new_file(target / shard.path.name) as file:
                out = streams.Digesting(file)
                copied = shard.copy(cast(BinaryIO, out), _since(changes, n_before))
            placed |= {n_before + number: n_placed + at for number, at in copied.placed.items()}
            n_before += copied.n_source_numbers
            n_placed += copied.n_numbers
            n_rows += copied.n_rows
            n_bytes += out.n_bytes
            digests[shard.path.name] = out.sha256
        return Written(streams.combined_digest(digests), n_bytes, n_rows, placed)


def _since(changes: Changes, n: int) -> Changes:
    """Return *changes* as the shard that begins after number *n* sees them."""
    replaced: dict[int, RawRow] = {}
    for number, row in changes.replaced.items():
        assert isinstance(row, ShardRow)
        if number > n:
            replaced[number - n] = row.row
    return Changes(replaced, frozenset(number - n for number in changes.dropped if number > n))
