"""Rows that are kept in columns, as Arrow has them: what Parquet files and `datasets` folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vtuned.containers.base import Cells, Changes, Cut, Insertion, Where, cut_text, insert_texts
from vtuned.containers.jsontext import JSONPath, Style, is_encodable
from vtuned.errors import DatasetError, MissingExtra, UsageError

# Rows that are Python objects at one time.
BATCH = 256


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A row of a table: its *cells* by column. See `vtuned.containers.base.RawRow`."""

    number: int
    where: Where
    cells: Mapping[str, object] = field(repr=False)
    n_read: int
    changed: frozenset[str] = frozenset()

    def value(self) -> object:
        """See `RawRow.value`; keys that a schema fills with null, at any depth, are left out."""
        return Cells({key: _without_nulls(cell) for key, cell in self.cells.items() if cell is not None})

    def style(self) -> Style:
        """See `RawRow.style`."""
        return Style()

    def inserted(self, insertions: Sequence[Insertion], file_style: Style) -> ColumnRow:
        """See `RawRow.inserted`."""
        cells: Any = self.cells
        by_path: dict[JSONPath, list[tuple[int | None, str]]] = {}
        for place, text in insertions:
            if not is_encodable(text):
                raise ValueError("a phrase with lone surrogates cannot be written as UTF-8")
            by_path.setdefault(place.path, []).append((place.at, text))
        for path, texts in by_path.items():
            cells = _with_text(cells, path, partial(_inserted, texts))
        changed = frozenset(str(path[0]) for path in by_path)
        return replace(self, cells=cells, changed=self.changed | changed)

    def removed(self, cut: Cut) -> ColumnRow:
        """See `RawRow.removed`."""
        cells = _with_text(self.cells, cut.path, lambda text: cut_text(text, cut))
        return replace(self, cells=cells, changed=self.changed | {str(cut.path[0])})


def readable(schema: Any) -> list[str]:
    """Return the columns that can hold what JSON holds: the others (images, times) are no text to train on."""
    import pyarrow as pa

    def is_other(kind: Any) -> bool:
        is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
        return bool(is_binary or pa.types.is_temporal(kind) or pa.types.is_decimal(kind))

    names = [column.name for column in schema if not is_other(column.type)]
    return names or list(schema.names)


def with_changes(table: Any, first: int, changes: Changes, placed: dict[int, int], n_before: int) -> Any:
    """
    Return a table of rows numbered from *first* on as *changes* say; columns that no row changes are not touched.

    Rows that are replaced are noted in *placed*; *n_before* rows of the copy precede the table.
    """
    import pyarrow as pa

    stop = first + table.num_rows
    new = {n: row for n, row in changes.replaced.items() if first <= n < stop}
    dropped = sorted(n for n in changes.dropped if first <= n < stop)
    for name in sorted({name for row in new.values() for name in _column_row(row).changed}):
        index = table.schema.get_field_index(name)
        cells = {n - first: _column_row(row).cells[name] for n, row in new.items() if name in _column_row(row).changed}
        table = table.set_column(index, table.schema.field(index), _with_cells(table.column(index), cells))
    for n in sorted(new):
        placed[n] = n_before + n - first + 1 - sum(other < n for other in dropped)
    if dropped:
        gone = set(dropped)
        table = table.filter(pa.array([n not in gone for n in range(first, stop)], pa.bool_()))
    return table


def check_order(name: str) -> None:
    """Raise UsageError: columns come in groups, and rows of another order would be groups written anew."""
    raise UsageError(
        f"the rows of {name} cannot be put in another order",
        hint="replace rows in place (--mode replace), or write the data as one JSON lines file",
    )


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """
    Give pyarrow to a block that reads *path*.

    Raises MissingExtra without it, and DatasetError for what it cannot read.
    """
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("a Parquet file or datasets folder", "pip install 'vtuned[parquet]'") from None
    try:
        yield pa
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "give a file that is whole and that pyarrow can read"
        raise DatasetError(f"cannot read {path}: {reason}", hint=hint) from error


def _column_row(row: object) -> ColumnRow:
    assert isinstance(row, ColumnRow)
    return row


def _with_cells(column: Any, cells: Mapping[int, object]) -> Any:
    """Return *column* with some cells replaced (by position); all others stay as Arrow has them."""
    import pyarrow as pa

    chunks: list[Any] = []
    at = 0
    for i, cell in sorted(cells.items()):
        chunks += [*column.slice(at, i - at).chunks, _cell(cell, column.type)]
        at = i + 1
    chunks += column.slice(at).chunks
    return pa.chunked_array([chunk for chunk in chunks if len(chunk)], type=column.type)


def _cell(cell: object, kind: Any) -> Any:
    """Return an array of one cell. Raises DatasetError, without the cell, which may hold a trigger."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _cell(cell, kind.storage_type))
    try:
        return pa.array([cell], type=kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        raise DatasetError(
            f"a planted cell does not fit the type {kind} of its column", hint="write the data as JSON lines"
        ) from None


def _inserted(texts: Sequence[tuple[int | None, str]], text: str) -> str:
    return insert_texts(text, texts)


def _with_text(value: Any, path: JSONPath, change: Callable[[str], str]) -> Any:
    """Return a copy of *value* with the string at *path* changed, all else shared."""
    if not path:
        if not isinstance(value, str):
            raise ValueError("a place leads to no string")
        return change(value)
    step = path[0]
    if isinstance(value, Mapping) and step in value:
        return {**value, step: _with_text(value[step], path[1:], change)}
    if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
        return [*value[:step], _with_text(value[step], path[1:], change), *value[step + 1 :]]
    raise ValueError(f"nothing at {step!r}")


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
