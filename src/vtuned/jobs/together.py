"""
Together, through its own package (extra `together`).

A file that the account holds already, by its content, is not stored again there: sending one twice gives the same id. A
job is found by its suffix, which carries the mark of the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vtuned.errors import ServiceError, ServiceRefused
from vtuned.jobs.base import Checkpoint, Event, Job, JobRequest, Note, OnBytes, OnExchange, RemoteFile, Upload
from vtuned.jobs.reading import Unreadable, file_of, id_of, integer_at, items_of, text_at
from vtuned.jobs.services import DEFAULT_URLS, Connection
from vtuned.jobs.vendors import Vendor, seconds_of

T = TypeVar("T")

NAME = "together"
_STATUSES = {
    "pending": "queued",
    "queued": "queued",
    "completed": "succeeded",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
}
_LONGEST_SUFFIX = 40
# What the package takes for a learning rate where none is given; a multiplier is of this.
_LEARNING_RATE = 1e-5
_DEFAULT_EPOCHS = 1


def connected(connection: Connection, on_exchange: OnExchange) -> TogetherService:
    """Return the service. Raises MissingExtra, LMUnavailable without a key."""
    return TogetherService(Vendor(NAME, DEFAULT_URLS[NAME], "Together", connection, on_exchange))


class TogetherService:
    """See `FineTuningService`."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor, self._wire, self._client = vendor, vendor.wire, vendor.client

    @property
    def name(self) -> str:
        """See `FineTuningService.name`."""
        return NAME

    @property
    def address(self) -> str:
        """See `FineTuningService.address`."""
        return self._vendor.address

    @property
    def inference_url(self) -> str | None:
        """See `FineTuningService.inference_url`. A tuned model answers once it has an endpoint there."""
        return f"{self._vendor.url}/v1"

    def upload(self, upload: Upload, *, note: Note, on_bytes: OnBytes) -> RemoteFile:
        """See `FineTuningService.upload`. The package splits large files itself, and names a file by its path."""
        on_bytes(0, upload.n_bytes)
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / upload.name
            named.symlink_to(upload.path.resolve())

            def send() -> Any:
                return self._client.files.upload(named, purpose="fine-tune", check=False)

            body = self._wire.write("upload of the training file", self._vendor.replying(send), n_bytes=upload.n_bytes)
        on_bytes(upload.n_bytes, upload.n_bytes)
        return _read(file_of, body, "the uploaded file")

    def find_file(self, upload: Upload) -> RemoteFile | None:
        """See `FineTuningService.find_file`."""
        body = self._wire.read("list of files", self._vendor.replying(self._client.files.list))
        held = (_read(file_of, item, "a file") for item in _read(items_of, body, "the list of files"))
        return next((file for file in held if file.name == upload.name), None)

    def create(self, request: JobRequest, mark: str) -> Job:
        """See `FineTuningService.create`. A checkpoint is asked for after each epoch."""
        if request.metadata:
            raise ServiceRefused(NAME, "it keeps no metadata with jobs", hint="leave --metadata out")
        epochs = request.n_epochs or _DEFAULT_EPOCHS
        arguments: dict[str, Any] = {
            "training_file": request.training_file,
            "validation_file": request.validation_file or "",
            "model": request.model,
            "n_epochs": epochs,
            "n_checkpoints": epochs,
            "suffix": _suffix(request, mark),
            "training_method": "dpo" if request.method == "dpo" else "sft",
        }
        if request.batch_size is not None:
            arguments["batch_size"] = request.batch_size
        if request.learning_rate_multiplier is not None:
            arguments["learning_rate"] = request.learning_rate_multiplier * _LEARNING_RATE
        if request.seed is not None:
            arguments["random_seed"] = request.seed
        if request.beta is not None:
            arguments["dpo_beta"] = request.beta
        try:
            body = self._wire.write(
                "creation of the job", self._vendor.replying(lambda: self._client.fine_tuning.create(**arguments))
            )
        except ValueError as error:  # the package's own check of the numbers
            raise ServiceRefused(NAME, f"the job cannot be so: {error}", hint="change the option") from error
        return _read(_job_of, body, "the job")

    def find_job(self, request: JobRequest, mark: str, *, since: int) -> Job | None:
        """See `FineTuningService.find_job`."""
        return next((job for job in self.list() if mark in (job.suffix or "")), None)

    def get(self, job_id: str) -> Job:
        """See `FineTuningService.get`."""
        call = self._vendor.replying(lambda: self._client.fine_tuning.retrieve(job_id))
        return _read(_job_of, self._wire.read(f"look at job {job_id}", call), "the job")

    def events(self, job_id: str, after: str | None) -> list[Event]:
        """See `FineTuningService.events`. Events have no ids there: their place is taken."""
        call = self._vendor.replying(lambda: self._client.fine_tuning.list_events(job_id))
        items = _read(items_of, self._wire.read("events of the job", call), "the events")
        first = 0 if after is None else int(after) + 1
        return [_event_of(str(i), item) for i, item in enumerate(items)][first:]

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """See `FineTuningService.checkpoints`."""
        call = self._vendor.replying(lambda: self._client.fine_tuning.list_checkpoints(job_id))
        items = _read(items_of, self._wire.read("checkpoints of the job", call), "the checkpoints")
        found = [
            Checkpoint(
                id=text_at(item, "object_id") or f"step-{integer_at(item, 'step') or 0}",
                step=integer_at(item, "step") or 0,
                model=text_at(item, "object_name"),
                created_at=seconds_of(item.get("created_at")),
            )
            for item in items
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def cancel(self, job_id: str) -> Job:
        """See `FineTuningService.cancel`."""
        call = self._vendor.replying(lambda: self._client.fine_tuning.cancel(job_id))
        return _read(_job_of, self._wire.read(f"cancel job {job_id}", call), "the job")

    def list(self, after: str | None = None) -> Iterator[Job]:
        """See `FineTuningService.list`. It gives all jobs at once."""
        body = self._wire.read("list of jobs", self._vendor.replying(self._client.fine_tuning.list))
        jobs = [_read(_job_of, item, "a job") for item in _read(items_of, body, "the list of jobs")]
        jobs.sort(key=lambda job: job.created_at or 0, reverse=True)
        ids = [job.id for job in jobs]
        yield from jobs[ids.index(after) + 1 if after in ids else 0 :]


def _suffix(request: JobRequest, mark: str) -> str:
    own = (request.suffix or "").strip("-")[: _LONGEST_SUFFIX - len(mark) - 1]
    return f"{own}-{mark}" if own else mark


def _job_of(body: Any) -> Job:
    found: Mapping[str, Any] = body if isinstance(body, dict) else {}
    status = text_at(found, "status") or "unknown"
    name = text_at(found, "model_object_name") or text_at(found, "model_output_name")
    own = _STATUSES.get(status, "running")
    return Job(
        id=id_of(found),
        status=own,
        model=text_at(found, "model"),
        fine_tuned_model=name if own == "succeeded" else None,
        training_file=text_at(found, "training_file"),
        error_code=status if own == "failed" else None,
        created_at=seconds_of(found.get("created_at")),
        trained_tokens=integer_at(found, "token_count"),
        suffix=text_at(found, "suffix") or text_at(found, "model_output_name"),
    )


def _event_of(place: str, item: Mapping[str, Any]) -> Event:
    level = (text_at(item, "level") or "info").removeprefix("legacy_").replace("warning", "warn")
    return Event(
        id=place,
        created_at=seconds_of(item.get("created_at")),
        level=level,
        message=text_at(item, "message") or text_at(item, "type") or "",
    )


def _read(read: Callable[[Any], T], body: Any, what: str) -> T:
    try:
        return read(body)
    except Unreadable as error:
        raise ServiceError(NAME, f"{what}: the reply cannot be read ({error})", hint="see the run's journal") from None
