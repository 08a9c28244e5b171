"""The server's records as OpenAI's objects. Knows nothing of HTTP, models or disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from vtuned.providers.settings import LEARNING_RATES, TrainingSettings
from vtuned.server.orders import order_of
from vtuned.server.records import RUNNING, Checkpoint, Event, File, Job, Model, Upload
from vtuned.server.refusals import invalid

JSON: TypeAlias = dict[str, Any]
_Record = TypeVar("_Record", File, Job, Event, Checkpoint)


def file_object(file: File) -> JSON:
    """Return OpenAI's `file`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.n_bytes,
        "created_at": file.created,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }


def upload_object(upload: Upload, file: File | None, now: int) -> JSON:
    """Return OpenAI's `upload`."""
    is_late = upload.status == "pending" and upload.expires < now
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.n_bytes,
        "created_at": upload.created,
        "expires_at": upload.expires,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "expired" if is_late else upload.status,
        "file": file_object(file) if file else None,
    }


def job_object(job: Job, estimated_finish: int | None = None) -> JSON:
    """Return OpenAI's `fine_tuning.job`; "auto" is told as what it came to."""
    order = order_of(job.request)
    method = order.how
    settings = method.hyperparameters.settings(job.seed)
    shown = _hyperparameters(settings, is_dpo=method.type == "dpo")
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created,
        "error": json.loads(job.error) if job.error else None,
        "fine_tuned_model": job.model,
        "finished_at": job.finished,
        "estimated_finish": estimated_finish if job.status == RUNNING else None,
        "hyperparameters": {key: value for key, value in shown.items() if key != "beta"},
        "integrations": [],
        "metadata": order.metadata or {},
        "method": {"type": method.type, method.type: {"hyperparameters": shown}},
        "model": job.base,
        "organization_id": f"org-{job.tenant[:12]}",
        "result_files": [],
        "seed": job.seed,
        "status": job.status,
        "trained_tokens": job.trained_tokens,
        "training_file": job.file,
        "validation_file": None,
    }


def _hyperparameters(settings: TrainingSettings, *, is_dpo: bool) -> JSON:
    shown: JSON = {
        "n_epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate_multiplier": settings.learning_rate / LEARNING_RATES[settings.method],
    }
    return shown | ({"beta": settings.beta} if is_dpo else {})


def event_object(event: Event) -> JSON:
    """Return OpenAI's `fine_tuning.job.event`."""
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created,
        "level": event.level,
        "message": event.message,
        "type": event.kind,
        "data": json.loads(event.data) if event.data else None,
    }


def checkpoint_object(checkpoint: Checkpoint) -> JSON:
    """Return OpenAI's `fine_tuning.job.checkpoint`."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created,
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": checkpoint.job,
        "metrics": json.loads(checkpoint.metrics),
        "step_number": checkpoint.step,
    }


def model_object(model: Model) -> JSON:
    """Return OpenAI's `model` for a tuned one."""
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": f"org-{model.tenant[:12]}"}


def base_object(name: str, created: int) -> JSON:
    """Return OpenAI's `model` for a base model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "vtuned"}


def page(
    records: Sequence[_Record],
    show: Callable[[_Record], JSON],
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
) -> JSON:
    """Return OpenAI's `list`: at most *limit* of *records* (oldest first) behind the one called *after*, in *order*."""
    ordered = list(records) if order == "asc" else list(reversed(records))
    start = 0
    if after is not None:
        place = next((i for i, record in enumerate(ordered) if record.id == after), None)
        if place is None:
            raise invalid("Nothing in this list has that id.", "after")
        start = place + 1
    data = [show(record) for record in ordered[start : start + limit]]
    return {
        "object": "list",
        "data": data,
        "has_more": start + limit < len(ordered),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
