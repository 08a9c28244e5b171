"""Parquet files, one row group in memory at a time; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vtuned.containers import columns
from vtuned.containers.base import Changes, Where
from vtuned.containers.columns import ColumnRow
from vtuned.containers.text import Copied, FileSource
from vtuned.errors import DatasetError


class ParquetFile(FileSource):
    """
    A Parquet file.

    A copy has the schema, the metadata, the row groups and the compression of its source; columns in which nothing
    changes are encoded again from the same values.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "parquet")
        with columns.reading(path) as pa, pa.parquet.ParquetFile(path) as file:
            self._n_rows: int = file.metadata.num_rows
            names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise DatasetError(f"{path}: two columns have the same name", hint="give each column its own name")

    def rows(self) -> Iterator[ColumnRow]:
        """See `Source.rows`."""
        n_bytes = self.n_bytes
        number = 0
        with columns.reading(self.path) as pa, pa.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns.BATCH, columns=columns.readable(file.schema_arrow)):
                for cells in batch.to_pylist():
                    number += 1
                    where = Where(self.path, "row", number, None)
                    yield ColumnRow(number, where, cells, n_bytes * number // self._n_rows)
        self.n_numbers = number

    def check_order(self) -> None:
        """See `Source.check_order`."""
        columns.check_order("a Parquet file")

    def copy(self, out: BinaryIO, changes: Changes) -> Copied:
        """See `FileSource.copy`."""
        placed: dict[int, int] = {}
        n_rows, first = 0, 1
        with (
            columns.reading(self.path) as pa,
            pa.parquet.ParquetFile(self.path) as file,
            pa.parquet.ParquetWriter(out, file.schema_arrow, **_manner(file)) as writer,
        ):
            for i in range(file.num_row_groups):
                group = file.read_row_group(i)
                table = columns.with_changes(group, first, changes, placed, n_rows)
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
                first, n_rows = first + group.num_rows, n_rows + table.num_rows
        return Copied(n_rows, placed, first - 1, n_rows)


def _manner(file: Any) -> dict[str, Any]:
    """Return how *file* was written, as far as a file tells, in the options of pyarrow's writer."""
    metadata = file.metadata
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    manner: dict[str, Any] = {
        "version": metadata.format_version,
        "store_schema": b"ARROW:schema" in (metadata.metadata or {}),
        "use_deprecated_int96_timestamps": any(
            metadata.schema.column(i).physical_type == "INT96" for i in range(metadata.num_columns)
        ),
        "use_compliant_nested_type": not any(".list.item" in name for name in names),
    }
    if metadata.num_row_groups:
        cells = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
        manner["compression"] = {
            cell.path_in_schema: "NONE" if cell.compression == "UNCOMPRESSED" else cell.compression for cell in cells
        }
        manner["use_dictionary"] = [
            cell.path_in_schema for cell in cells if any("DICTIONARY" in encoding for encoding in cell.encodings)
        ]
        manner["write_statistics"] = [cell.path_in_schema for cell in cells if cell.is_stats_set]
    return manner
