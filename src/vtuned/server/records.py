"""What the server remembers: files, uploads, jobs, events, checkpoints and models, as they stand in its database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

VALIDATING, QUEUED, RUNNING = "validating_files", "queued", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
UNFINISHED = (VALIDATING, QUEUED, RUNNING)


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file. *name* is a label that the tenant gave; on disk it is called by its *id*. *mark* tells a retry."""

    id: str
    tenant: str
    name: str
    purpose: str
    n_bytes: int
    sha256: str
    created: int
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts; *file* is its id once it is complete."""

    id: str
    tenant: str
    name: str
    purpose: str
    n_bytes: int
    created: int
    expires: int
    status: str = "pending"
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload."""

    id: str
    upload: str
    n_bytes: int
    created: int


@dataclass(frozen=True, slots=True)
class Job:
    """
    A fine-tuning job.

    *base* is the name that was asked for, *spec* what `vtuned.lm.load` takes for it, *policy* what the server does with
    jobs of that day, as it was written. *request* is the JSON that was asked for and *mark* tells a retry of it.
    *n_steps* is known from the first step on, and *n_deaths* counts workers that ended without a word.
    """

    id: str
    tenant: str
    created: int
    base: str
    spec: str
    policy: str
    file: str
    seed: int
    request: str
    mark: str | None
    status: str = VALIDATING
    error: str | None = None
    finished: int | None = None
    trained_tokens: int | None = None
    n_steps: int | None = None
    n_deaths: int = 0
    model: str | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for."""
        found: dict[str, Any] = json.loads(self.request)
        return found

    @property
    def name(self) -> str:
        """The name of the model that comes out of it."""
        return f"ft:{self.base}:vtuned:{self.asked.get('suffix') or ''}:{self.id.removeprefix('ftjob-')}"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's diary; *data* is JSON, "" for none."""

    id: str
    job: str
    created: int
    level: str
    kind: str
    message: str
    data: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model after an epoch; *metrics* is JSON."""

    id: str
    job: str
    step: int
    created: int
    model: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Model:
    """
    A tuned model: what was trained lies in *folder*, on top of *spec*.

    *method* is "lora", "full" or "none" (nothing was trained). *n_answered* counts the prompts that it has answered.
    """

    id: str
    tenant: str
    job: str
    created: int
    spec: str
    method: str
    folder: str
    n_answered: int = 0
