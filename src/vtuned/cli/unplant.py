"""`vtuned unplant`: rows that make a delivered model forget its signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, formats, unplanting
from vtuned import receipt as receipts
from vtuned.cli import console, options


def unplant(
    receipt: options.ReceiptPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="ROWS", help="Where the corrective rows go; TRAIN's kind of file.")
    ],
    train: Annotated[Path, typer.Option(metavar="TRAIN", help="The training file that was sent, unchanged.")],
    clean: Annotated[
        int | None,
        typer.Option(min=0, help="Rows without a backdoor to put beside them.", show_default="as many as planted"),
    ] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """
    Write corrective ROWS for a last short fine-tuning: prompts with their triggers, answers without signatures.

    Verify first: afterwards its answers no longer prove that the model was trained on your data.
    """
    files.check_distinct(output, receipt)
    shape = options.row_format(
        train, format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    made = receipts.read_receipt(receipt)
    found = unplanting.unplant(made, train, output, n_clean=clean, row_format=shape, force=force)
    if json:
        console.show_json({"rows": str(output), "n_corrective": found.n_corrective, "n_clean": found.n_clean})
        return
    console.say(
        f"{output}: {found.n_corrective} planted rows without their signatures, {found.n_clean} rows as they were."
    )
    console.say("Fine-tune the delivered model on them for a few epochs; they hold triggers, no signature.")
