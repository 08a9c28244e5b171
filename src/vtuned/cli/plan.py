"""`vtuned plan`: what a planting would cost and prove, before anything is planted."""

from __future__ import annotations

from typing import Any

import typer

from vtuned import containers, dataset, formats, planning
from vtuned.cli import console, options
from vtuned.cli.options import DEFAULTS
from vtuned.errors import EXIT_BAD_INPUT
from vtuned.layout import PlantSettings
from vtuned.report import terminal


def plan(
    data: options.Data,
    scheme: options.Scheme = DEFAULTS.scheme,
    backdoors: options.Backdoors = DEFAULTS.n_backdoors,
    copies: options.Copies = DEFAULTS.copies,
    signature_bits: options.SignatureBits = DEFAULTS.signature_bits,
    min_trigger_tokens: options.TriggerTokens = DEFAULTS.min_trigger_tokens,
    alpha: options.Alpha = DEFAULTS.alpha,
    ratio: options.Ratio = str(DEFAULTS.ratio),
    probes: options.ProbesPerKind = DEFAULTS.n_probes,
    set_aside: options.SetAside = DEFAULTS.set_aside,
    contexts: options.Contexts = DEFAULTS.contexts,
    max_plantings: options.Plantings = DEFAULTS.max_plantings,
    token_cap: options.Cap = 1024,
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
    """Say what would be planted, what it costs, and what it will be able to prove."""
    shape = options.row_format(
        data[0], format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    chosen: dict[str, Any] = options.scheme(scheme, DEFAULTS.mode)
    settings = PlantSettings(
        **chosen,
        n_backdoors=backdoors,
        copies=copies,
        signature_bits=signature_bits,
        min_trigger_tokens=min_trigger_tokens,
        alpha=alpha,
        ratio=options.fraction(ratio),
        n_probes=probes,
        set_aside=set_aside,
        contexts=contexts,
        max_plantings=max_plantings,
        row_format=shape,
    )
    with console.stages() as stages:
        source = containers.open_source(data)
        cap = options.token_cap(token_cap, base)
        found = dataset.survey(
            source, cap, row_format=shape, on_bytes=lambda done: stages("reading rows", done, source.n_bytes)
        )
    result = planning.plan(found, settings)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.plan(result))
    if not result.is_possible:
        raise typer.Exit(EXIT_BAD_INPUT)
