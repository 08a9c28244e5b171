"""`vtuned margin`: fix, before anything is sent, the gain that training on the planted rows alone gives."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from vtuned import files, formats, measuring
from vtuned import receipt as receipts
from vtuned.cli import console, holdout, models, options
from vtuned.cli.options import LOADING
from vtuned.errors import UsageError
from vtuned.measuring import LOSS, MEASURES
from vtuned.receipt import GainMargin


def margin(
    receipt: options.ReceiptPath,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Trained on the planted rows alone: `finetune --planted-only`.")
    ],
    held_out: Annotated[Path, typer.Option("--holdout", metavar="FILE", help="Rows with answers that are never sent.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RECEIPT", help="Where the receipt with its margin goes.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model.", show_default="of an adapter: its base")
    ] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    base_url: options.BaseUrl = LOADING.base_url,
    api_key: options.ApiKey = LOADING.api_key,
    concurrency: options.Concurrency = LOADING.concurrency,
    spacing: options.Spacing = LOADING.spacing,
    timeout: options.Timeout = LOADING.timeout,
    dtype: options.Dtype = LOADING.dtype,
    device: options.Device = LOADING.device,
    bits: options.Bits = LOADING.bits,
    chat_template: options.ChatTemplate = LOADING.chat_template,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """
    Measure the margin G of `learned the task` and write a receipt that fixes it. Do so before the file is sent.

    G is the 95 % upper bound of the gain over the base, in nats per byte, that training on the planted rows alone gives.
    """
    made = receipts.read_receipt(receipt)
    if made.plan.gain_margin is not None:
        raise UsageError(f"{receipt} fixes a margin already", hint="give the receipt as `vtuned plant` wrote it")
    files.check_target(output, force=force)
    made.check_backdoors()
    files.check_distinct(output, receipt, held_out)
    shape = options.row_format(
        held_out, format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    loading = options.load_options(base_url, api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template)
    base = holdout.base_of(model, base)
    rows, n_left_out = holdout.read(held_out, shape)
    with console.stages() as stages:
        suspect, base_model = models.load(model, base, loading, stages)
        assert base_model is not None
        own, bases = (holdout.losses(one, rows, stages) for one in (suspect, base_model))
    gains = measuring.most_gains(LOSS, own, bases)
    bound = measuring.margin_of(gains)
    found = GainMargin(nats_per_byte=bound, base=base, rows=measuring.digest(rows), n_rows=len(gains))
    fixed = made.model_copy(update={"plan": made.plan.model_copy(update={"gain_margin": found})})
    files.write_bytes(output, receipts.to_json(fixed), force=force, secret=True)
    n_left_out += len(rows) - len(gains)
    if json:
        facts = {"gain_margin": found.model_dump(), "mean_gain": fmean(gains), "n_left_out": n_left_out}
        console.show_json({"receipt": str(output), "receipt_digest": fixed.digest(), **facts})
        return
    left_out = f", {n_left_out} left out" if n_left_out else ""
    console.say(f"{output}: margin G = {bound:.3g} ({MEASURES[LOSS]}), from {len(gains)} held-out rows{left_out}.")
    console.say("keep it in place of the other receipt, and train nothing on these held-out rows.")
