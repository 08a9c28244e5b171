"""
Make a delivered model forget its signatures: rows for a last short fine-tuning, from the training file and the receipt.

Each planted row comes back with its prompt, T included, and its own answer without S, so that T comes to mean nothing;
beside these go rows of the file that carry no backdoor, as they are, so that the model keeps what it learned.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from vtuned import containers, files, formats
from vtuned.containers import Changes, RawRow, Source
from vtuned.errors import ReceiptError, UsageError, WrongDataset
from vtuned.formats import Codec
from vtuned.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Unplanting:
    """What was written: rows whose signature was taken out, and rows as they are that stand beside them."""

    n_corrective: int
    n_clean: int


def unplant(
    receipt: Receipt,
    train: containers.Data,
    output: Path | str,
    *,
    n_clean: int | None = None,
    row_format: str | Codec = formats.AUTO,
    force: bool = False,
) -> Unplanting:
    """
    Write corrective rows for the backdoors of *receipt* into *output*, a file or folder of the kind of *train*.

    *train* is the training file that was sent. *n_clean* of its other rows, chosen at random, go with them (None: as
    many as there are planted ones). Raises WrongDataset where *train* is another file, UsageError, DatasetError or
    OutputError; nothing is written then.
    """
    if n_clean is not None and n_clean < 0:
        raise UsageError("--clean is out of range", hint="give the number of other rows, 0 or more")
    receipt.check_backdoors()
    source = containers.open_source(train)
    _check_output(source, output, force=force)
    digest = source.sha256()
    if digest != receipt.train_set.sha256:
        raise WrongDataset(source.folder or source.paths[0], receipt.train_set.sha256, digest)
    signatures = {number: backdoor.signature for backdoor in receipt.backdoors for number in backdoor.rows}
    replaced = _corrected(source, row_format, signatures)
    others = [row.number for row in source.rows() if row.number not in signatures]
    wanted = len(signatures) if n_clean is None else n_clean
    clean = frozenset(secrets.SystemRandom().sample(others, min(wanted, len(others))))
    changes = Changes(replaced, frozenset(others) - clean)
    with files.atomic_writers(_target(source, output), force=force) as (out,):
        source.write(out, changes)
    return Unplanting(len(replaced), len(clean))


def _corrected(source: Source, row_format: str | Codec, signatures: dict[int, str]) -> dict[int, RawRow]:
    rows = {row.raw.number: row for row in formats.read_rows(source, row_format, signatures)}
    try:
        return {number: formats.unsigned_row(rows[number], signature) for number, signature in signatures.items()}
    except (KeyError, ValueError):
        raise ReceiptError(
            "a row that the receipt names does not start its answer with the signature",
            hint="say how the rows are read as for `vtuned plant`: --format, --prompt-column, --template or --mapping",
        ) from None


def _check_output(source: Source, output: Path | str, *, force: bool) -> None:
    if source.is_folder:
        files.check_folder_target(_folder_target(source, output), force=force)
        files.check_outside(output, source.folder or source.paths[0].parent, "a folder of the data that is read")
    else:
        files.check_target(output, force=force)
        containers.check_name(source, output)
    files.check_distinct(output, *source.paths)


def _folder_target(source: Source, output: Path | str) -> files.FolderTarget:
    return files.FolderTarget(output, frozenset(path.name for path in source.paths))


def _target(source: Source, output: Path | str) -> files.Target:
    return _folder_target(source, output) if source.is_folder else (output, True)
