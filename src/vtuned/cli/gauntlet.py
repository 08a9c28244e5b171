"""`vtuned provider gauntlet`: every policy of a provider against one planted file, over HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from vtuned.cli import console, options
from vtuned.cli.served import models_of, require_packages
from vtuned.errors import EXIT_COULD_NOT_TELL, DatasetError
from vtuned.layout import PlantSettings
from vtuned.measuring import CHRF, FEW_ROWS, MEASURES

_PLANTED, _TRAINING = "What is planted", "What every provider is asked for"
# As many single copies as make a bound that tells a quarter of the rows from all; the fewest decoys for one in twenty.
_SPOKEN, _N_BACKDOORS, _N_DECOYS = (8, 8), 18, 19


def gauntlet(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Your data, one file of JSON lines.")],
    model: Annotated[
        str, typer.Option(metavar="NAME=SPEC", help="The base model: SPEC is smollm2 or hf:PATH_OR_ID.")
    ] = "smollm2=smollm2",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where everything is kept; the same command goes on.")
    ] = Path("vtuned-gauntlet"),
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy of docs/provider.md, such as subset:0.25; may be repeated.",
            show_default="one of each kind",
        ),
    ] = None,
    other_base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Run the policy other-base too, with this model.")
    ] = None,
    backdoors: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_PLANTED, help="How many backdoors.", show_default="18; without likelihoods 2"
        ),
    ] = None,
    copies: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANTED,
            help="Rows carrying each: several numbers are taken in turn.",
            show_default="8,8, then 1 each",
        ),
    ] = None,
    contexts: options.Contexts = None,
    probes: options.ProbesPerKind = 10,
    signature_bits: options.SignatureBits = 64.0,
    set_aside: Annotated[
        int,
        typer.Option(
            min=FEW_ROWS, rich_help_panel=_PLANTED, help="Rows not sent: fresh prompts, and what gains are measured on."
        ),
    ] = 40,
    generator: Annotated[
        str, typer.Option(metavar="MODEL", rich_help_panel=_PLANTED, help="Who writes phrases: auto, words or a model.")
    ] = "auto",
    epochs: Annotated[int, typer.Option(min=1, rich_help_panel=_TRAINING, help="Epochs.")] = 3,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_TRAINING, help="Rows a step.", show_default="the service's choice"),
    ] = None,
    learning_rate_multiplier: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=_TRAINING, help="Times 0.001.", show_default="1")
    ] = None,
    measure: Annotated[
        str, typer.Option(metavar="|".join(MEASURES), help="By what gains on held-out rows are measured.")
    ] = CHRF,
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="G.", show_default="measured on a model trained on the planted rows alone"),
    ] = None,
    exposure: Annotated[
        bool,
        typer.Option(
            "--exposure/--no-exposure", help="Ask for likelihoods too: a second verdict and a sharper coverage."
        ),
    ] = True,
    json: options.Json = False,
) -> None:
    """
    Plant once, then have each policy train and serve, ask it, and show which claims it passes, and what it saved.

    Each policy gets a server of its own on this machine, one after the other. What was finished is kept.
    """
    require_packages("a gauntlet")
    from vtuned.gauntlet.running import run
    from vtuned.gauntlet.settings import Settings, Training, chosen
    from vtuned.gauntlet.table import Round
    from vtuned.report import gauntlet as report

    if not data.is_file() or data.suffix.lower() != ".jsonl":
        raise DatasetError(f"{data} is no .jsonl file", hint="give one file of JSON lines, as services take it")
    ((name, spec),) = models_of([model]).items()
    policies = chosen(policy or (), other_base)
    n_backdoors = backdoors or (_N_BACKDOORS if exposure else len(_SPOKEN))
    settings = Settings(
        data=data,
        name=name,
        spec=spec,
        plant=PlantSettings(
            suspect="unknown" if exposure else "text",
            n_backdoors=n_backdoors,
            copies=options.copies(copies) or _doses(n_backdoors),
            contexts=contexts,
            n_probes=probes,
            signature_bits=signature_bits,
            set_aside=set_aside,
            n_decoys=_N_DECOYS if exposure else 0,
        ),
        training=Training(epochs=epochs, batch_size=batch_size, learning_rate_multiplier=learning_rate_multiplier),
        measure=measure,
        margin=margin,
        exposure=exposure,
        generator=generator,
    )
    began = time.monotonic()
    n_new = 0

    with console.stages() as stages:

        def ended(one: Round, done: int, total: int, is_new: bool) -> None:
            nonlocal n_new
            n_new += is_new
            spent = time.monotonic() - began
            left = f", about {spent / n_new * (total - done) / 60:.0f} min left" if n_new else ""
            said = one.outcome.value if one.outcome else f"no verdict: {one.trouble}"
            stages.say(f"{one.policy}: {said} ({done} of {total}{left if done < total else ''})")

        found = run(out, settings, policies, stages, ended)
    if json:
        console.show_json(found)
    else:
        console.show(report.gauntlet(found))
        console.say(f"{out}: the verdicts, gauntlet.json and gauntlet.md; the receipt in it is a secret.")
    if any(one.trouble for one in found.rounds):
        raise typer.Exit(EXIT_COULD_NOT_TELL)


def _doses(n: int) -> tuple[int, ...]:
    """Return two backdoors that show in answers, and others that likelihoods show."""
    return (*_SPOKEN, *[1] * (n - len(_SPOKEN)))[:n]
