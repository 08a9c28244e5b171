"""`vtuned plan`: what a planting would cost and prove, before anything is planted."""

from __future__ import annotations

from typing import Any

import typer

from vtuned import dataset, planning
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
    max_plantings: options.Plantings = DEFAULTS.max_plantings,
    token_cap: options.Cap = 1024,
    base: options.Base = "smollm2",
    format: options.Format = DEFAULTS.row_format,
    json: options.Json = False,
) -> None:
    """Say what would be planted, what it costs, and what it will be able to prove."""
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
        max_plantings=max_plantings,
        row_format=format,
    )
    with console.stages() as stages:
        size = data.stat().st_size if data.is_file() else 0
        cap = options.token_cap(token_cap, base)
        found = dataset.survey(data, cap, row_format=format, on_bytes=lambda done: stages("reading rows", done, size))
    result = planning.plan(found, settings)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.plan(result))
    if not result.is_possible:
        raise typer.Exit(EXIT_BAD_INPUT)
