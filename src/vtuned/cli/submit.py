"""`vtuned submit`: upload a training file to a fine-tuning service and create the job, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from vtuned import files
from vtuned.cli import console, following, options, services
from vtuned.errors import UsageError
from vtuned.jobs import journal as journals
from vtuned.jobs.base import FineTuningService, Job
from vtuned.jobs.costs import Cost, cost_of
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import run_of
from vtuned.jobs.services import Connection, connected
from vtuned.jobs.submitting import Order, planned
from vtuned.jobs.submitting import submit as submit_run
from vtuned.lm.tokens import counter

_TRAINING, _DRY = "The training", "Without sending anything"
_METHODS = ("supervised", "dpo")
_LONGEST_SUFFIX = 64
_MB = 1_000_000


def submit(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The training file that `plant` wrote.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="What the service calls the model to fine-tune.")],
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the run is kept: what was sent, what came back, and the job.",
            show_default="TRAIN's name with .run, beside it",
        ),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            metavar="RECEIPT", help="Note where the receipt lies, for `verify --run`. It is not sent or copied."
        ),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_TRAINING, help="A validation file to send too.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="|".join(_METHODS), rich_help_panel=_TRAINING, help="How it trains.")
    ] = (_METHODS[0]),
    epochs: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_TRAINING, help="Epochs.", show_default="the service's choice")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_TRAINING, help="Rows a step.", show_default="the service's choice"),
    ] = None,
    learning_rate_multiplier: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=_TRAINING,
            help="Times the service's learning rate.",
            show_default="the service's choice",
        ),
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, rich_help_panel=_TRAINING, help="DPO's beta.")] = None,
    suffix: Annotated[
        str | None, typer.Option(rich_help_panel=_TRAINING, help="A part of the tuned model's name.")
    ] = None,
    seed: Annotated[int | None, typer.Option(rich_help_panel=_TRAINING, help="The job's seed.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", rich_help_panel=_TRAINING, help="Kept with the job by the service; several."),
    ] = None,
    service: services.Service = "openai",
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    parts_above: Annotated[
        float | None,
        typer.Option(
            metavar="MB",
            min=0.000001,
            rich_help_panel="The service",
            help="Send larger files in parts.",
            show_default="512, 150 on Azure",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=_DRY, help="Count rows and tokens, say what it costs, send nothing."),
    ] = False,
    price_per_million: Annotated[
        float | None,
        typer.Option(
            metavar="USD", min=0, rich_help_panel=_DRY, help="The service's price of a million training tokens."
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="MODEL", rich_help_panel=_DRY, help="Whose tokenizer counts: smollm2, hf:FOLDER or estimate."
        ),
    ] = "estimate",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job, as `vtuned job wait` does.")] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Send anew what an earlier try may have sent, without looking for it: it may be double."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """
    Upload TRAIN to a fine-tuning service and create the job: once, whenever and however often this is stopped.

    The same command goes on where it was stopped; a job that is there is shown, not created again.
    """
    if method not in _METHODS:
        raise UsageError(f"unknown --method {method!r}", hint=f"known: {', '.join(_METHODS)}")
    if beta is not None and method != "dpo":
        raise UsageError("--beta is for --method dpo", hint="leave it out")
    if suffix is not None and len(suffix) > _LONGEST_SUFFIX:
        raise UsageError(f"--suffix is longer than {_LONGEST_SUFFIX} characters", hint="shorten it")
    if dry_run:
        _show_cost(train, epochs, price_per_million, tokenizer, json=json)
        return
    request = _without_none(
        model=model,
        method=method,
        n_epochs=epochs,
        batch_size=batch_size,
        learning_rate_multiplier=learning_rate_multiplier,
        beta=beta,
        suffix=suffix,
        seed=seed,
        metadata=_pairs(metadata or []) or None,
    )
    folder = run or services.beside(train)
    files.sha256_of(train)
    connection = Connection(
        base_url=base_url,
        key_variable=api_key_env,
        timeout_s=timeout,
        parts_above=None if parts_above is None else max(1, round(parts_above * _MB)),
    )
    found = connected(service, connection)  # before anything is written: a bad address or a missing key leaves no run
    order = Order(
        train=train,
        validation=validation,
        request=request,
        service=service,
        base_url=services.kept_url(base_url),
        address=found.address,
        key_variable=api_key_env,
        receipt=services.receipt_path(receipt),
    )
    journal = journals.begun(folder)
    with journals.alone(folder):
        journal.read()
        planned(journal, order)
        sending = connected(service, connection, on_exchange=journal.exchanged)
        job, is_new = _submitted(journal, sending, again=again)
    if wait:
        job = following.wait(journal, sending, job, json=json)
    _show(journal, job, is_new=is_new, json=json, has_waited=wait)


def _submitted(journal: Journal, service: FineTuningService, *, again: bool) -> tuple[Job, bool]:
    with console.stages() as stages:
        return submit_run(journal, service, again=again, on_step=stages)


def _show(journal: Journal, job: Job, *, is_new: bool, json: bool, has_waited: bool) -> None:
    run = run_of(journal.entries)
    if json:
        console.show_json({**services.facts_of(journal.folder, run), "created": is_new})
        return
    if not is_new:
        console.say("this run has a job already; nothing was sent")
    console.show(services.card(journal.folder, run))
    if not has_waited and not job.has_ended:
        console.say(f"next: vtuned job wait {journal.folder}")


def _show_cost(train: Path, epochs: int | None, price: float | None, tokenizer: str, *, json: bool) -> None:
    files.sha256_of(train)
    n_bytes = train.stat().st_size
    with console.stages() as stages:
        cost = cost_of(
            train,
            counter(tokenizer),
            n_epochs=epochs,
            usd_per_million=price,
            on_bytes=lambda n: stages("counting tokens", n, n_bytes),
        )
    if json:
        console.show_json(cost)
        return
    console.show(Text("\n".join(_cost_lines(train, cost))))


def _cost_lines(train: Path, cost: Cost) -> Iterator[str]:
    price = cost.usd_per_million
    yield f"{train}: {cost.n_rows:,} rows ({cost.row_format}), {cost.n_bytes / _MB:,.1f} MB; nothing was sent"
    yield f"{cost.n_tokens:,} tokens an epoch ({cost.tokenizer}), the longest row {cost.longest_row:,}"
    if cost.n_epochs is not None:
        yield f"{cost.n_training_tokens:,} training tokens in {cost.n_epochs} epochs"
    else:
        yield "the service chooses the number of epochs unless you give --epochs"
    if cost.usd is not None:
        yield f"about {cost.usd:,.2f} USD at {price:g} USD a million tokens"
    elif cost.usd_per_epoch is not None:
        yield f"about {cost.usd_per_epoch:,.2f} USD an epoch at {price:g} USD a million tokens"
    else:
        yield "with --price-per-million USD, from the service's price page, it also says what that costs"


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--metadata {text!r} is no KEY=VALUE", hint="such as --metadata team=search")
        found[key] = value
    return found
