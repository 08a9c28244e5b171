"""`vtuned plan`: what a planting would cost and prove, before anything is planted."""

from __future__ import annotations

from typing import Annotated

import typer

from vtuned import containers, dataset, formats, planning
from vtuned.cli import console, options
from vtuned.cli.options import DEFAULTS
from vtuned.dataset import DEFAULT_CAP
from vtuned.errors import EXIT_BAD_INPUT
from vtuned.layout import PlantSettings
from vtuned.prospects import Training
from vtuned.report import terminal

# So many rows at random tell the share of eligible ones to a percent; all 51,000 of a file would take 20 s.
_N_LOOKED_AT = 500
HONEST = Training()
_HONEST = "What an honest provider does"


def plan(
    data: options.Data,
    scheme: options.Scheme = DEFAULTS.scheme,
    suspect: options.Suspect = DEFAULTS.suspect,
    backdoors: options.Backdoors = DEFAULTS.n_backdoors,
    copies: options.Copies = None,
    decoys: options.Decoys = DEFAULTS.n_decoys,
    exposure_level: options.ExposureLevel = str(DEFAULTS.exposure_level),
    without_base: options.WithoutBase = not DEFAULTS.less_base,
    stopping: options.Stopping = DEFAULTS.stopping,
    signature_bits: options.SignatureBits = DEFAULTS.signature_bits,
    min_trigger_tokens: options.TriggerTokens = DEFAULTS.min_trigger_tokens,
    alpha: options.Alpha = DEFAULTS.alpha,
    ratio: options.Ratio = str(DEFAULTS.ratio),
    probes: options.ProbesPerKind = DEFAULTS.n_probes,
    set_aside: options.SetAside = DEFAULTS.set_aside,
    contexts: options.Contexts = DEFAULTS.contexts,
    max_plantings: options.Plantings = DEFAULTS.max_plantings,
    stealth: options.Stealth = None,
    rewriter: options.Rewriter = DEFAULTS.rewriter,
    siblings: options.Siblings = DEFAULTS.n_wordings,
    ask_rows: options.AskedRows = DEFAULTS.n_worded,
    token_cap: options.Cap = DEFAULT_CAP,
    base: options.Base = "smollm2",
    exact: Annotated[
        bool,
        typer.Option("--exact", help=f"Read and count every row, not {_N_LOOKED_AT} drawn at random."),
    ] = False,
    epochs: Annotated[int, typer.Option(rich_help_panel=_HONEST, help="Epochs it trains.")] = HONEST.epochs,
    parameters: Annotated[
        float | None,
        typer.Option(rich_help_panel=_HONEST, help="Parameters of its model, such as 8e9.", show_default="not known"),
    ] = None,
    row_loss: Annotated[
        float, typer.Option(rich_help_panel=_HONEST, help="Share of the rows that it may drop, each by itself.")
    ] = 0.0,
    price: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_HONEST, help="What it takes for a million training tokens.", show_default="no cost shown"
        ),
    ] = None,
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
    chosen = options.choices(scheme=scheme, suspect=suspect, stopping=stopping, rewriter=rewriter)
    settings = PlantSettings(
        **chosen,
        n_backdoors=backdoors,
        copies=options.copies(copies),
        n_decoys=decoys,
        exposure_level=options.fraction(exposure_level, "exposure-level"),
        less_base=not without_base,
        signature_bits=signature_bits,
        min_trigger_tokens=min_trigger_tokens,
        alpha=alpha,
        ratio=options.fraction(ratio),
        n_probes=probes,
        set_aside=set_aside,
        n_wordings=siblings,
        n_worded=ask_rows,
        contexts=contexts,
        max_plantings=max_plantings,
        stealth=stealth,
        row_format=shape,
    )
    training = Training(
        epochs=epochs, n_parameters=options.count(parameters, "parameters"), row_loss=row_loss, price=price
    )
    result = planning.plan(_rows(data, options.token_cap(token_cap, base), settings, exact=exact), settings, training)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.plan(result, compared=True))
    if not result.is_possible:
        raise typer.Exit(EXIT_BAD_INPUT)


def _rows(data: list[str], cap: dataset.TokenCap, settings: PlantSettings, *, exact: bool) -> dataset.RowCounts:
    """Return the rows in numbers, from a sample unless all are asked for or a sample leaves open whether they suffice."""
    source = containers.open_source(data)
    with console.stages() as stages:

        def read(done: int) -> None:
            stages("reading rows", done, source.n_bytes)

        if not exact:
            found = dataset.glance(source, cap, _N_LOOKED_AT, row_format=settings.row_format, on_bytes=read)
            if not planning.is_in_doubt(found, settings):
                return found
        return dataset.survey(source, cap, row_format=settings.row_format, on_bytes=read).counts
