"""`vtuned submit`: upload a training file to a fine-tuning service and create the job, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from vtuned import files, formats, linting
from vtuned import receipt as receipts
from vtuned.cli import console, following, options, services
from vtuned.cli.lint import check_not_refused, checked, settings
from vtuned.dataset import DEFAULT_CAP, TokenCap
from vtuned.errors import UsageError
from vtuned.jobs import journal as journals
from vtuned.jobs.base import FineTuningService, Job
from vtuned.jobs.costs import Cost, cost_of
from vtuned.jobs.following import check_succeeded
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import run_of
from vtuned.jobs.services import Connection, connected, host_of
from vtuned.jobs.submitting import Order, check_file, planned
from vtuned.jobs.submitting import submit as submit_run
from vtuned.linting import Provider, Report
from vtuned.lm.tokens import counter
from vtuned.report import linting as linted

_TRAINING, _DRY, _LINT = "The training", "Without sending anything", "Before sending"
_METHODS = ("supervised", "dpo")
_LONGEST_SUFFIX = 64
_MB = 1_000_000
# Rules of how much there is to train on.
_OF_TRAINING = ("min_rows", "max_job_tokens", "deduplicates")


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
            metavar="MODEL", rich_help_panel=_LINT, help="Whose tokenizer counts: smollm2, hf:FOLDER or estimate."
        ),
    ] = "estimate",
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_LINT,
            help="Hold TRAIN, and what --validation names, against what this provider documents (see `vtuned lint`).",
            show_default="the one at the service's address, if its rules are known",
        ),
    ] = None,
    no_lint: Annotated[
        bool, typer.Option("--no-lint", rich_help_panel=_LINT, help="Send TRAIN whatever rules it breaks.")
    ] = False,
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

    What the service documents is checked first: an error stops it (exit code 2), a warning is shown.
    The same command goes on where it was stopped; a job that is there is shown, not created again.
    """
    if method not in _METHODS:
        raise UsageError(f"unknown --method {method!r}", hint=f"known: {', '.join(_METHODS)}")
    if beta is not None and method != "dpo":
        raise UsageError("--beta is for --method dpo", hint="leave it out")
    if suffix is not None and len(suffix) > _LONGEST_SUFFIX:
        raise UsageError(f"--suffix is longer than {_LONGEST_SUFFIX} characters", hint="shorten it")
    for file in (train, *((validation,) if validation else ())):
        check_file(file)
    rules = _rules(service, base_url, provider, no_lint=no_lint)
    if dry_run:
        _dry_run((train, validation), epochs, price_per_million, tokenizer, rules, receipt, json=json)
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
    broken: tuple[Report | None, Report | None] = None, None
    if not _is_sent(folder):
        broken = _both_linted(train, validation, rules, tokenizer, receipt)
        for line in () if json else _warnings_of(broken):
            console.say(line)
    journal = journals.begun(folder)
    with journals.alone(folder):
        journal.read()
        planned(journal, order)
        sending = connected(service, connection, on_exchange=journal.exchanged)
        job, is_new = _submitted(journal, sending, again=again)
    if wait:
        job = following.wait(journal, sending, job, json=json)
    _show(journal, job, broken, is_new=is_new, json=json, has_waited=wait)
    if wait:
        check_succeeded(sending.name, job)


def _rules(service: str, base_url: str | None, name: str | None, *, no_lint: bool) -> tuple[Provider, ...]:
    """Return whose rules TRAIN is held against: none where nothing is known of who is at the address."""
    if no_lint and name is not None:
        raise UsageError("--provider and --no-lint exclude each other", hint="leave one out")
    host = host_of(service, base_url)
    if no_lint:
        return ()
    return linting.at(host) if name is None else linting.named([name])


def _of_validation(rules: tuple[Provider, ...]) -> tuple[Provider, ...]:
    """Return the rules that hold for a validation file too: not those of how much there is to train on."""
    return tuple(
        one.model_copy(update={"rules": tuple(rule for rule in one.rules if rule.kind not in _OF_TRAINING)})
        for one in rules
    )


def _is_sent(folder: Path) -> bool:
    """Tell whether the training file of the run in *folder* is at the service already."""
    return journals.is_run(folder) and "training" in run_of(journals.opened(folder).entries).uploaded


def _both_linted(
    train: Path, validation: Path | None, rules: tuple[Provider, ...], tokenizer: str, receipt: Path | None
) -> tuple[Report | None, Report | None]:
    """
    Return what *rules* say of the training file and of the validation file, None without any.

    Raises RefusedByProvider where one of them would be refused.
    """
    of_validation = None
    if validation is not None:
        of_validation = _held(validation, _of_validation(rules), tokenizer, None)
        if of_validation is not None:
            hint = "nothing was sent; mend these rows, or send all of it all the same: --no-lint"
            check_not_refused(validation, of_validation, hint)
    found = _held(train, rules, tokenizer, receipt)
    if found is not None:
        _check(train, found)
    return found, of_validation


def _held(train: Path, rules: tuple[Provider, ...], tokenizer: str, receipt: Path | None) -> Report | None:
    if not rules:
        return None
    # A file that was converted after planting is another one: what is planted in it cannot be told.
    made = receipts.read_receipt(receipt) if receipt else None
    own = made if made is not None and made.train_set.sha256 == files.sha256_of(train) else None
    count, name = counter(tokenizer)
    how = settings(rules, TokenCap(DEFAULT_CAP, count, name), formats.AUTO)
    return checked([str(train)], replace(how, receipt=own))


def _check(train: Path, found: Report) -> None:
    names = " ".join(f"--provider {one.provider}" for one in found.providers)
    hint = f"see all of it with `vtuned lint {train} {names}`; nothing was sent; to send it all the same: --no-lint"
    check_not_refused(train, found, hint)


def _warnings_of(broken: tuple[Report | None, Report | None]) -> Iterator[str]:
    """Yield a line for each rule that the training file breaks, then for those that the validation file does."""
    for found, whose in zip(broken, ("", "validation file: "), strict=True):
        if found is None:
            continue
        for name, finding in found.findings:
            if finding.severity == "warning":
                where = name or ", ".join(one.provider for one in found.providers)
                yield f"{whose}warning {where}, {finding.code}: {linted.summary(finding, found.unit)}"


def _submitted(journal: Journal, service: FineTuningService, *, again: bool) -> tuple[Job, bool]:
    with console.stages() as stages:
        return submit_run(journal, service, again=again, on_step=stages)


def _show(
    journal: Journal,
    job: Job,
    broken: tuple[Report | None, Report | None],
    *,
    is_new: bool,
    json: bool,
    has_waited: bool,
) -> None:
    run = run_of(journal.entries)
    if json:
        console.show_json({**services.facts_of(journal.folder, run), "created": is_new, **_lint_facts(broken)})
        return
    if not is_new:
        console.say("this run has a job already; nothing was sent")
    console.show(services.card(journal.folder, run))
    if not has_waited and not job.has_ended:
        console.say(f"next: vtuned job wait {journal.folder}")


def _lint_facts(broken: tuple[Report | None, Report | None]) -> dict[str, Any]:
    names = ("lint", "lint_validation")
    return {name: found.model_dump(mode="json") for name, found in zip(names, broken, strict=True) if found is not None}


def _dry_run(
    both: tuple[Path, Path | None],
    epochs: int | None,
    price: float | None,
    tokenizer: str,
    rules: tuple[Provider, ...],
    receipt: Path | None,
    *,
    json: bool,
) -> None:
    """Say what the training takes and what is known against the file. Raises RefusedByProvider where it is an error."""
    train, validation = both
    broken = _both_linted(train, validation, rules, tokenizer, receipt)
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
        console.show_json({**cost.model_dump(mode="json"), **_lint_facts(broken)})
    else:
        console.show(Text("\n".join([*_cost_lines(train, cost), *_lint_lines(broken)])))


def _lint_lines(broken: tuple[Report | None, Report | None]) -> Iterator[str]:
    found, _ = broken
    if found is None:
        yield "not held against any rules"
        return
    for one in found.providers:
        state = "breaks rules" if any(f.severity != "note" for _, f in found.findings) else "breaks none"
        yield f"held against the {one.n_rules} rules that are known of {one.provider}: it {state}"
    yield from _warnings_of(broken)


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
