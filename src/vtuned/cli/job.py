"""`vtuned job`: look at fine-tuning jobs, wait for them, and take over jobs that were made without us."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vtuned.cli import console, following, options, services
from vtuned.errors import EXIT_COULD_NOT_TELL, RunError, UsageError, VtunedError
from vtuned.jobs import journal as journals
from vtuned.jobs.following import check_succeeded
from vtuned.jobs.journal import Adopted, Seen
from vtuned.jobs.runs import job_in, run_of
from vtuned.jobs.services import Connection, connected
from vtuned.jobs.submitting import refreshed
from vtuned.lm import addresses

job = typer.Typer(
    name="job",
    help="Look at fine-tuning jobs, wait for them, or take over one that was made without vtuned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_MOST_LISTED = 50


@job.command()
def status(
    run: services.RunFolder = None,
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """Say where a job stands, as its service tells it now."""
    journal = services.opened(run)
    if run_of(journal.entries).job is not None:
        service = services.service_of(journal, base_url, api_key_env, timeout)
        with console.stages() as stages:
            stages(f"asking {service.address}", 0, 0)
            refreshed(journal, service, job_in(journal))
    _show(journal, json=json)


@job.command()
def wait(
    run: services.RunFolder = None,
    poll: Annotated[
        float | None,
        typer.Option(min=0.05, metavar="SECONDS", help="Pause between two looks.", show_default="2, growing to 60"),
    ] = None,
    at_most: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Leave after so long, with exit code 3.")
    ] = None,
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """
    Wait until a job has ended, showing what its service tells. Ctrl-C leaves at once; the job goes on.

    Exit code 0 where the job succeeded, else 2 (a file was refused) or 3.
    """
    journal = services.opened(run)
    service = services.service_of(journal, base_url, api_key_env, timeout)
    ended = following.wait(journal, service, job_in(journal), json=json, poll=poll, at_most=at_most)
    _show(journal, json=json)
    check_succeeded(service.name, ended)
    if not ended.has_ended:
        raise typer.Exit(EXIT_COULD_NOT_TELL)


@job.command()
def events(
    run: services.RunFolder = None,
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """Show what the service told of a job, the oldest first."""
    journal = services.opened(run)
    service = services.service_of(journal, base_url, api_key_env, timeout)
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        found = service.events(job_in(journal).id, None)
    mask = services.mask_of(run_of(journal.entries))
    if json:
        console.show_json({"events": [_masked(event.model_dump(mode="json"), mask) for event in found]})
        return
    for event in found:
        console.show(Text(services.event_line(event, mask)))


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return JSON with each of its texts masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(one, mask) for one in value]
    return {name: _masked(one, mask) for name, one in value.items()} if isinstance(value, dict) else value


@job.command()
def checkpoints(
    run: services.RunFolder = None,
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """Show the checkpoints that the service keeps of a job; OpenAI keeps those of the last three epochs."""
    journal = services.opened(run)
    service = services.service_of(journal, base_url, api_key_env, timeout)
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        found = service.checkpoints(job_in(journal).id)
    if json:
        console.show_json({"checkpoints": [checkpoint.model_dump(mode="json") for checkpoint in found]})
        return
    table = Table("step", "model", "loss", "made at", box=None, pad_edge=False)
    for one in found:
        loss = one.metrics.get("train_loss")
        table.add_row(
            str(one.step),
            one.model or "cannot be asked",
            "" if loss is None else f"{loss:.3f}",
            services.moment(one.created_at),
        )
    console.show(table if found else Text("the service keeps no checkpoints of this job"))


@job.command()
def cancel(
    run: services.RunFolder = None,
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """Stop a job at its service."""
    journal = services.opened(run)
    service = services.service_of(journal, base_url, api_key_env, timeout)
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        journal.add(Seen(job=service.cancel(job_in(journal).id)))
    _show(journal, json=json)


@job.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to look for runs.")] = Path(),
    remote: Annotated[bool, typer.Option("--remote", help="List the account's jobs at the service instead.")] = False,
    service: services.Service = "openai",
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """List the runs in a folder or, with --remote, the jobs at a service, the newest first."""
    if remote:
        _list_remote(service, Connection(base_url=base_url, key_variable=api_key_env, timeout_s=timeout), json=json)
        return
    table, kept = Table("run", "state", "model", "service", box=None, pad_edge=False), []
    for path in services.runs_in(folder):
        try:
            run = run_of(journals.opened(path).entries)
        except VtunedError as error:
            kept.append({"run": str(path), "state": "damaged", "error": str(error)})
            table.add_row(path.name, "damaged", "", "")
            continue
        kept.append(services.facts_of(path, run))
        table.add_row(path.name, run.state, run.model or "", run.first.address)
    if json:
        console.show_json({"runs": kept})
    else:
        console.show(table if kept else Text("there are no runs in this folder"))


def _list_remote(kind: str, connection: Connection, *, json: bool) -> None:
    service = connected(kind, connection)
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        found = [one for one, _ in zip(service.list(), range(_MOST_LISTED), strict=False)]
    if json:
        # The service's own words may quote rows, and there is no receipt here that says what to hide.
        console.show_json({"jobs": [one.model_dump(mode="json", exclude={"error_message"}) for one in found]})
        return
    table = Table("job", "status", "model", "made at", box=None, pad_edge=False)
    for one in found:
        table.add_row(*services.job_line(one))
    console.show(table if found else Text("this account has no jobs"))


@job.command()
def adopt(
    what: Annotated[
        str,
        typer.Argument(metavar="ID|ENDPOINT", help="A job's id, or the base URL under which a tuned model answers."),
    ],
    run: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the run.")],
    receipt: Annotated[Path | None, typer.Option(metavar="RECEIPT", help="Note where the receipt lies.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the endpoint calls the tuned model; with an ENDPOINT.")
    ] = None,
    service: services.Service = "openai",
    base_url: services.BaseUrl = None,
    api_key_env: services.KeyVariable = None,
    timeout: services.Timeout = 120.0,
    json: options.Json = False,
) -> None:
    """
    Take over a job that was made without vtuned: in a dashboard, by a colleague, on a network without an API.

    With a job's id all of `vtuned job` works; of an endpoint only the address and the model's name are kept.
    """
    kept = services.receipt_path(receipt)
    noted = str(kept.resolve()) if kept else None
    if "://" in what:
        if not model:
            raise UsageError("an endpoint serves several models", hint="say which with --model NAME")
        entry = Adopted(
            service=None,
            base_url=services.kept_url(addresses.checked(what)),
            address=addresses.shown(what) or addresses.place_of(what),
            key_variable=api_key_env,
            receipt=noted,
            model=model,
        )
        _empty(run).add(entry)
    else:
        if model:
            raise UsageError("the service says what a job's model is called", hint="leave --model out")
        connection = Connection(base_url=base_url, key_variable=api_key_env, timeout_s=timeout)
        found = connected(service, connection)
        with console.stages() as stages:
            stages(f"asking {found.address}", 0, 0)
            there = found.get(what)
        entry = Adopted(
            service=service,
            base_url=services.kept_url(base_url),
            address=found.address,
            key_variable=api_key_env,
            receipt=noted,
            job=there,
        )
        _empty(run).add(entry)
    _show(journals.opened(run), json=json)


def _empty(folder: Path) -> journals.Journal:
    """Return a new journal in *folder*. Raises RunError where there is a run already."""
    journal = journals.begun(folder)
    if journal.entries:
        raise RunError(folder, "there is a run in this folder already", hint="adopt into another folder")
    return journal


def _show(journal: journals.Journal, *, json: bool) -> None:
    run = run_of(journal.entries)
    if json:
        console.show_json(services.facts_of(journal.folder, run))
    else:
        console.show(services.card(journal.folder, run))
