"""What `verify` is to judge: a receipt and a model that the user names, or those of a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from vtuned.cli import console, services
from vtuned.errors import RunError, ServiceError, UsageError
from vtuned.jobs import journal as journals
from vtuned.jobs.base import Checkpoint, FineTuningService
from vtuned.jobs.following import check_succeeded
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import Run, run_of
from vtuned.jobs.services import KEY_VARIABLES
from vtuned.jobs.submitting import refreshed
from vtuned.lm import addresses
from vtuned.lm.endpoint_access import DEFAULT_URL


@dataclass(frozen=True, slots=True)
class Suspect:
    """
    The *receipt*, the *model* by its name, and how its endpoint is reached.

    *folder* is that of the run, None where there is none; *checkpoints* are to be asked too.
    """

    receipt: Path
    model: str
    base_url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    folder: Path | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    def answers_path(self, model: str) -> Path | None:
        """
        Return where the answers of an endpoint's *model* go, None for other models.

        In the folder of the run or else beside the receipt: receipt.json and openai:org/x give receipt.org-x.answers.jsonl.
        """
        if not model.startswith("openai:"):
            return None
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model.partition(":")[2]).strip("-.")[:80] or "model"
        if self.folder is not None:
            return self.folder / f"answers.{slug}.jsonl"
        return self.receipt.with_name(f"{self.receipt.stem}.{slug}.answers.jsonl")


def suspect(
    receipt: Path | None,
    model: str | None,
    run: Path | None,
    *,
    checkpoints: bool,
    base_url: str | None,
    api_key: str | None,
    timeout: float,
) -> Suspect:
    """
    Return what is to be judged; a run's service is asked where the run does not say yet what its model is called.

    Raises UsageError, RunError, ServiceError where the job has no model yet, JobFailed where it never will.
    """
    if run is None:
        if checkpoints:
            raise UsageError("--checkpoints needs a run", hint="name its folder with --run DIR")
        if receipt is None or model is None:
            raise UsageError("RECEIPT and --model are needed, or --run DIR", hint="see `vtuned verify --help`")
        return Suspect(receipt, model, base_url, api_key)
    journal = journals.opened(run)
    stands = run_of(journal.entries)
    path = receipt or (Path(stands.first.receipt) if stands.first.receipt else None)
    if path is None:
        raise RunError(run, "this run does not say where its receipt is", hint="vtuned verify RECEIPT --run DIR")
    needs_service = checkpoints or (model is None and not stands.model)
    service = services.service_of(journal, base_url, None, timeout) if needs_service else None
    if service is not None and model is None:
        stands = _finished(journal, service, stands)
    key = api_key or os.environ.get(stands.first.key_variable or KEY_VARIABLES.get(stands.first.service or "", ""))
    return Suspect(
        path,
        model or f"openai:{stands.model}",
        base_url or _address(run, stands, service),
        key,
        run,
        _checkpoints(service, stands) if service is not None and checkpoints else (),
    )


def _finished(journal: Journal, service: FineTuningService, stands: Run) -> Run:
    """Return the run once more, when its job has a model."""
    if stands.job is None:
        raise RunError(journal.folder, "nothing was submitted in this run yet", hint="run `vtuned submit` again")
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        job = refreshed(journal, service, stands.job) if not stands.model else stands.job
    check_succeeded(service.name, job)
    if not job.fine_tuned_model:
        reason = f"job {job.id} has no model yet ({job.status})"
        raise ServiceError(service.name, reason, hint=f"vtuned job wait {journal.folder}")
    return run_of(journal.entries)


def _checkpoints(service: FineTuningService, stands: Run) -> tuple[Checkpoint, ...]:
    assert stands.job is not None
    with console.stages() as stages:
        stages(f"asking {service.address}", 0, 0)
        return tuple(service.checkpoints(stands.job.id))


def _address(folder: Path, stands: Run, service: FineTuningService | None) -> str | None:
    """Return where the model of a run answers, None for the usual address. Raises RunError where it was not kept."""
    found = inference_url(stands, service)
    usual = os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    if found is None and stands.first.address != addresses.shown(usual):
        raise RunError(folder, f"the address {stands.first.address} was not kept whole", hint="give it with --base-url")
    return found


def inference_url(stands: Run, service: FineTuningService | None) -> str | None:
    """Return the base URL under which a run's model answers, as far as the run says it."""
    elsewhere = service.inference_url if service is not None else INFERENCE.get(stands.first.service or "")
    return elsewhere or stands.first.base_url


# Where the vendors' own services answer, for runs whose service need not be asked.
INFERENCE = {"together": "https://api.together.ai/v1", "fireworks": "https://api.fireworks.ai/inference/v1"}
