"""Fine-tuning services and runs as several commands take them, and how a job is shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vtuned import receipt as receipts
from vtuned.errors import RunError, UsageError, VtunedError
from vtuned.jobs import journal as journals
from vtuned.jobs.base import Event, FineTuningService, Job
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import Run, run_of
from vtuned.jobs.services import KINDS, Connection, connected
from vtuned.lm import addresses

_SERVICE = "The service"
SUFFIX = ".run"

Service = Annotated[
    str, typer.Option(metavar="|".join(KINDS), rich_help_panel=_SERVICE, help="Whose protocol the service speaks.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_SERVICE, help="Where the service is.", show_default="OPENAI_BASE_URL, else the vendor's own"
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        rich_help_panel=_SERVICE,
        help="The environment's variable that holds the key; the key itself is never kept.",
        show_default="OPENAI_API_KEY, TOGETHER_API_KEY, FIREWORKS_API_KEY",
    ),
]
Timeout = Annotated[
    float, typer.Option(min=1, rich_help_panel=_SERVICE, help="Seconds to wait for a reply; a large file gets more.")
]
RunFolder = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="The folder of the run.", show_default=f"the only *{SUFFIX} folder here"),
]


def beside(train: Path) -> Path:
    """Return the folder of the run of a training file: train.jsonl gives train.run, beside it."""
    return train.with_name(f"{train.name.partition('.')[0] or train.name}{SUFFIX}")


def runs_in(folder: Path) -> list[Path]:
    """Return the folders with a run in *folder*."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and journals.is_run(path))
    except OSError as error:
        raise RunError(folder, error.strerror or str(error), hint="name a folder that you may read") from error


def opened(run: Path | None) -> Journal:
    """Return the journal of *run*, or of the only run here. Raises UsageError, RunError."""
    if run is not None:
        return journals.opened(run)
    here = runs_in(Path())
    if len(here) != 1:
        found = ", ".join(path.name for path in here) or "none"
        raise UsageError(f"name the run: in this folder there are {found}", hint="`vtuned job list` shows them")
    return journals.opened(here[0])


def kept_url(base_url: str | None) -> str | None:
    """Return *base_url* as a run keeps it: not at all where it carries anything that may be a secret."""
    url = (base_url or "").strip()
    return url if url and addresses.shown(url).rstrip("/") == url.rstrip("/") else None


def service_of(journal: Journal, base_url: str | None, key_variable: str | None, timeout: float) -> FineTuningService:
    """Return the service of a run; every exchange with it goes into the journal. Raises UsageError, RunError, LMError."""
    first = run_of(journal.entries).first
    if first.service is None:
        raise RunError(journal.folder, "this run is an endpoint alone, without a job", hint="verify it: --run")
    service = connected(
        first.service,
        Connection(
            base_url=base_url or first.base_url,
            key_variable=key_variable or first.key_variable,
            timeout_s=timeout,
        ),
        on_exchange=journal.exchanged,
    )
    if service.address != first.address:
        reason = f"this run is at {first.address}, not at {service.address}"
        raise RunError(journal.folder, reason, hint="give the address that it was submitted to with --base-url")
    return service


def facts_of(folder: Path, run: Run) -> dict[str, Any]:
    """Return where a run stands, for JSON."""
    first, mask = run.first, mask_of(run)
    job = run.job.model_dump(mode="json") if run.job else None
    if job and job["error_message"]:
        job["error_message"] = mask(job["error_message"])
    return {
        "run": str(folder),
        "service": first.service,
        "address": first.address,
        "receipt": first.receipt,
        "state": run.state,
        "model": run.model,
        "job": job,
        "files": dict(run.uploaded),
    }


def card(folder: Path, run: Run) -> RenderableType:
    """Return where a run stands, for people."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(folder, run):
        table.add_row(name, Text(value))
    return table


def _lines(folder: Path, run: Run) -> Iterable[tuple[str, str]]:
    yield "run", str(folder)
    yield "service", " ".join(part for part in (run.first.service, f"({run.first.address})") if part)
    yield "state", run.state
    job = run.job
    if job is not None:
        yield "job", job.id
        if job.model:
            yield "base model", job.model
        if job.trained_tokens is not None:
            yield "tokens", f"{job.trained_tokens:,} trained, says the service"
        if job.error_code or job.error_message:
            yield "error", mask_of(run)(" ".join(part for part in (job.error_code, job.error_message) if part))
        if job.estimated_finish and not job.has_ended:
            yield "expected", moment(job.estimated_finish)
    if run.model:
        yield "model", run.model
    if run.first.receipt:
        yield "receipt", run.first.receipt


def event_line(event: Event, mask: Any) -> str:
    """Return an event as one line."""
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{moment(event.created_at)} {level}{mask(event.message)}".strip()


def moment(seconds: int | None) -> str:
    """Return a time as text, "" for none."""
    try:
        return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return ""


def mask_of(run: Run) -> Any:
    """
    Return what takes the run's triggers and signatures out of a text: a service may quote a row.

    Without a readable receipt it takes out nothing, since nothing is known to be secret.
    """
    try:
        made = receipts.read_receipt(Path(run.first.receipt)) if run.first.receipt else None
    except VtunedError:
        made = None
    secret = [text for one in (made.backdoors if made else ()) for text in (one.trigger, one.signature)]

    def masked(text: str) -> str:
        for phrase in secret:
            text = text.replace(phrase, "[secret]").replace(phrase.rstrip(".。"), "[secret]")
        return text

    return masked


def receipt_path(path: Path | None) -> Path | None:
    """Return the path of a receipt that can be read, None without one. Raises ReceiptError."""
    if path is not None:
        receipts.read_receipt(path)
    return path


def job_line(job: Job) -> tuple[str, str, str, str]:
    """Return a job as the cells of a table."""
    return job.id, job.status, job.fine_tuned_model or job.model or "", moment(job.created_at)
