"""`vtuned diff`: what was changed in the data before it was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import comparing, formats
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.errors import WrongDataset
from vtuned.lm.tokens import counter
from vtuned.receipt import Receipt
from vtuned.report import changes


def diff(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The data set as it was.")],
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The training file that `vtuned plant` made of it.")],
    receipt: Annotated[
        Path | None, typer.Option("--receipt", "-r", metavar="RECEIPT", help="Also say what of its capacity is used.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Rows of each kind to show, drawn at random.")] = 3,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show planted rows too: their signatures.")] = False,
    base: options.Base = "smollm2",
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    json: options.Json = False,
) -> None:
    """Show how TRAIN differs from DATA: how many rows, where, by how many tokens, and a few of them."""
    shape = options.row_format(
        data, format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    made = None if receipt is None else receipts.read_receipt(receipt)
    if made is not None:
        _check(made, train)
    count, name = counter(base)
    with console.stages() as stages:
        found = comparing.compare(
            data,
            train,
            count,
            n_samples=samples,
            row_format=shape,
            on_row=lambda done: stages("comparing rows", done, 0),
        )
    if not reveal:
        shown = tuple(one for one in found.samples if one.place != "prompt and answer")
        found = found.model_copy(update={"samples": shown})
    if json:
        console.show_json(found)
    else:
        console.show(changes.comparison(found, name, made))


def _check(made: Receipt, train: Path) -> None:
    from vtuned import containers

    digest = containers.open_source(train).sha256()
    if digest != made.train_set.sha256:
        raise WrongDataset(train, made.train_set.sha256, digest)
