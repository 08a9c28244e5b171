"""`vtuned attack`: what a cheating provider could find in a training file, and what it would gain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import attacking, files, formats
from vtuned import receipt as receipts
from vtuned.cli import console, models, options
from vtuned.cli.options import LOADING
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel
from vtuned.lm.options import LoadOptions
from vtuned.report import attacking as shown


def attack(
    train: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIN...", help="The training file as it is sent; several shards, or a folder of them."
        ),
    ],
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt", "-r", metavar="RECEIPT", help="Also say how much of what is planted each attack finds."
        ),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Only these: random, phrases, twins, …", show_default="all there are"),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            "--lm",
            metavar="MODEL",
            help="Also search with a language model, which reads every row: smollm2, hf:PATH_OR_ID, openai:NAME, … "
            "A local one is trained on TRAIN, too.",
            show_default="without one",
        ),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What --lm became by training on TRAIN, hf:PATH_OR_ID[+ADAPTER]: triage and lock then train nothing.",
            show_default="trained here for one epoch",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as one HTML page.")] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    concurrency: options.Concurrency = LOADING.concurrency,
    timeout: options.Timeout = LOADING.timeout,
    device: options.Device = LOADING.device,
    dtype: options.Dtype = LOADING.dtype,
    bits: options.Bits = LOADING.bits,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """
    Search TRAIN as a cheating provider could: how many rows look planted?

    With the receipt: how many of the planted rows are among them, and with how little of the work a cheat passes.
    """
    if html is not None:
        files.check_distinct(html, *train, *([receipt] if receipt else []))
        files.check_target(html, force=force)
    shape = options.row_format(
        train[0], format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    names = tuple(name.strip() for name in attacks.split(",") if name.strip()) if attacks else ()
    made = None if receipt is None else receipts.read_receipt(receipt)
    loading = options.load_options(base_url, api_key, concurrency, LOADING.spacing, timeout, dtype, device, bits, None)
    with console.stages() as stages:
        model, trained = _models(reader, tuned, loading, stages)
        scorer = None if model is None else models.scorer(model, asked_for=True)
        found = attacking.attack(
            train,
            receipt=made,
            attacks=names,
            model=model,
            scorer=scorer,
            tuned=trained,
            row_format=shape,
            on_progress=stages,
        )
    if html is not None:
        files.write_bytes(html, shown.page(found).encode(), force=force)
    if json:
        console.show_json(found)
        return
    console.show(shown.report(found))
    if html is not None:
        console.say(f"{html}: the same as a page.")


def _models(
    reader: str | None, tuned: str | None, loading: LoadOptions, stages: console.Stages
) -> tuple[LanguageModel | None, LanguageModel | None]:
    """Return the models that are called *reader* and *tuned*. Raises UsageError for the second without the first."""
    if reader is None:
        if tuned is not None:
            raise UsageError(
                "--tuned is compared with the model that it was trained from", hint="give it with --lm MODEL"
            )
        return None, None
    if tuned is None:
        return models.load(reader, None, loading, stages)[0], None
    trained, model = models.load(tuned, reader, loading, stages)
    return model, trained
