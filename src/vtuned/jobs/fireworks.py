"""
Fireworks, through its own package (extra `fireworks`).

Data sets and jobs get their ids from us, made of the run's mark: what is there already is found by its id, and cannot be
made twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vtuned import files
from vtuned.errors import ServiceError, ServiceRefused
from vtuned.jobs.base import Checkpoint, Event, Job, JobRequest, Note, OnBytes, OnExchange, RemoteFile, Upload
from vtuned.jobs.reading import text_at
from vtuned.jobs.services import DEFAULT_URLS, Connection
from vtuned.jobs.vendors import Vendor, seconds_of
from vtuned.lm.endpoint_replies import Reply

NAME = "fireworks"
_ACCOUNT = "FIREWORKS_ACCOUNT_ID"
# Above this the package's own way by signed addresses is taken.
_DIRECT_BYTES = 150_000_000
_SUPERVISED, _DPO = "supervisedFineTuningJobs", "dpoJobs"
_STATUSES = {
    "CREATING": "validating_files",
    "CREATING_INPUT_DATASET": "validating_files",
    "VALIDATING": "validating_files",
    "PENDING": "queued",
    "IDLE": "queued",
    "PAUSED": "queued",
    "RE_QUEUEING": "queued",
    "COMPLETED": "succeeded",
    "EARLY_STOPPED": "succeeded",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "CANCELLED": "cancelled",
}
_PAGE, _MOST_PAGES = 100, 50


def connected(connection: Connection, on_exchange: OnExchange) -> FireworksService:
    """Return the service. Raises MissingExtra, LMUnavailable without a key, ServiceRefused without an account."""
    vendor = Vendor(NAME, DEFAULT_URLS[NAME], "Fireworks", connection, on_exchange)
    if not os.environ.get(_ACCOUNT):
        raise ServiceRefused(NAME, "it is not known whose account is meant", hint=f"set {_ACCOUNT}")
    return FireworksService(vendor)


class FireworksService:
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
        """See `FineTuningService.inference_url`. A tuned model answers once it is deployed there."""
        return f"{self._vendor.url}/inference/v1"

    def upload(self, upload: Upload, *, note: Note, on_bytes: OnBytes) -> RemoteFile:
        """See `FineTuningService.upload`: a data set is made, unless it is there, and then filled."""
        dataset_id = _dataset_id(upload)
        n_rows = sum(not line.is_blank for line in files.read_lines(upload.path))
        dataset = {"user_uploaded": {}, "example_count": str(n_rows)}
        self._wire.write(
            "creation of the data set",
            self._vendor.replying(lambda: self._client.datasets.create(dataset_id=dataset_id, dataset=dataset)),
            unless=_is_there_already,
        )
        on_bytes(0, upload.n_bytes)
        send = self._direct if upload.n_bytes <= _DIRECT_BYTES else self._by_signed_address
        self._wire.write(
            "upload of the training file",
            self._vendor.replying(lambda: send(dataset_id, upload)),
            n_bytes=upload.n_bytes,
        )
        on_bytes(upload.n_bytes, upload.n_bytes)
        return RemoteFile(id=dataset_id, name=upload.name, n_bytes=upload.n_bytes)

    def _direct(self, dataset_id: str, upload: Upload) -> Any:
        with open(upload.path, "rb") as file:
            return self._client.datasets.upload(dataset_id, file=(upload.name, file))

    def _by_signed_address(self, dataset_id: str, upload: Upload) -> Any:
        from fireworks.lib.dataset_upload import upload_dataset_shards

        return upload_dataset_shards(self._client, dataset_id, str(upload.path))

    def find_file(self, upload: Upload) -> RemoteFile | None:
        """See `FineTuningService.find_file`. One that is not whole yet is not there: it may be filled again."""
        call = self._vendor.replying(lambda: self._client.datasets.get(_dataset_id(upload)))
        body = self._wire.read("look for the data set", call, unless=_is_missing)
        if not isinstance(body, dict) or body.get("state") != "READY":
            return None
        return RemoteFile(id=_dataset_id(upload), name=upload.name, n_bytes=upload.n_bytes)

    def create(self, request: JobRequest, mark: str) -> Job:
        """See `FineTuningService.create`. No rows are set apart for evaluation: all that was sent is to be trained on."""
        unknown = [
            option
            for option, value in (
                ("--seed", request.seed),
                ("--learning-rate-multiplier", request.learning_rate_multiplier),
                ("--metadata", request.metadata or None),
            )
            if value is not None
        ]
        if unknown:
            raise ServiceRefused(NAME, f"it does not take {', '.join(unknown)}", hint="leave that out")
        make = self._create_dpo if request.method == "dpo" else self._create_supervised
        body = self._wire.write(
            "creation of the job", self._vendor.replying(lambda: make(request, mark)), unless=_is_there_already
        )
        return _job_of(body) if body is not None else self.get(_job_id(request, mark))

    def _create_supervised(self, request: JobRequest, mark: str) -> Any:
        optional = {
            "epochs": request.n_epochs,
            "batch_size_samples": request.batch_size,
            "evaluation_dataset": self._dataset_name(request.validation_file),
            "display_name": request.suffix,
        }
        return self._client.supervised_fine_tuning_jobs.create(
            dataset=self._dataset_name(request.training_file),
            supervised_fine_tuning_job_id=f"job-{mark}",
            base_model=request.model,
            eval_auto_carveout=False,
            early_stop=False,
            **{name: value for name, value in optional.items() if value is not None},
        )

    def _create_dpo(self, request: JobRequest, mark: str) -> Any:
        training = {"base_model": request.model, "epochs": request.n_epochs, "batch_size_samples": request.batch_size}
        loss = {"method": "DPO", **({"dpo": {"beta": request.beta}} if request.beta is not None else {})}
        return self._client.dpo_jobs.create(
            dataset=self._dataset_name(request.training_file),
            dpo_job_id=f"job-{mark}",
            loss_config=loss,
            training_config={name: value for name, value in training.items() if value is not None},
            **({"display_name": request.suffix} if request.suffix else {}),
        )

    def _dataset_name(self, dataset_id: str | None) -> str | None:
        return f"accounts/{self._client.account_id}/datasets/{dataset_id}" if dataset_id else None

    def find_job(self, request: JobRequest, mark: str, *, since: int) -> Job | None:
        """See `FineTuningService.find_job`."""
        body = self._wire.read("look for the job", self._getting(_job_id(request, mark)), unless=_is_missing)
        return None if body is None else _job_of(body)

    def get(self, job_id: str) -> Job:
        """See `FineTuningService.get`. An id may be a job's whole name; alone it is that of a supervised job."""
        return _job_of(self._wire.read(f"look at job {job_id}", self._getting(job_id)))

    def _getting(self, job_id: str) -> Any:
        kind, bare = _parts(job_id)
        jobs = self._client.dpo_jobs if kind == _DPO else self._client.supervised_fine_tuning_jobs
        return self._vendor.replying(lambda: jobs.get(bare))

    def events(self, job_id: str, after: str | None) -> list[Event]:
        """See `FineTuningService.events`. The service tells none."""
        return []

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """See `FineTuningService.checkpoints`. The service lists none that could be asked."""
        return []

    def cancel(self, job_id: str) -> Job:
        """See `FineTuningService.cancel`."""
        kind, bare = _parts(job_id)
        jobs = self._client.dpo_jobs if kind == _DPO else self._client.supervised_fine_tuning_jobs
        self._wire.read(f"cancel job {job_id}", self._vendor.replying(lambda: jobs.cancel(bare, body={})))
        return self.get(job_id)

    def list(self, after: str | None = None) -> Iterator[Job]:
        """See `FineTuningService.list`: the supervised ones."""
        is_past, token = after is None, ""
        for _ in range(_MOST_PAGES):
            page = {"page_size": _PAGE, **({"page_token": token} if token else {})}
            call = self._vendor.replying(partial(self._client.supervised_fine_tuning_jobs.list, **page))
            body = self._wire.read("list of jobs", call)
            for item in body.get(_SUPERVISED) or body.get("supervised_fine_tuning_jobs") or ():
                job = _job_of(item)
                if is_past:
                    yield job
                is_past = is_past or job.id == after
            token = body.get("nextPageToken") or ""
            if not token:
                return


def _dataset_id(upload: Upload) -> str:
    return upload.name.partition(".")[0]


def _job_id(request: JobRequest, mark: str) -> str:
    return f"{_DPO if request.method == 'dpo' else _SUPERVISED}/job-{mark}"


def _parts(job_id: str) -> tuple[str, str]:
    """Return the kind of a job and its bare id, of accounts/A/KIND/ID, KIND/ID or ID."""
    *before, bare = job_id.split("/")
    return (before[-1] if before else _SUPERVISED), bare


def _is_there_already(reply: Reply) -> bool:
    return reply.status == 409


def _is_missing(reply: Reply) -> bool:
    return reply.status == 404


def _job_of(body: Any) -> Job:
    found: Mapping[str, Any] = body if isinstance(body, dict) else {}
    name = text_at(found, "name")
    if not name:
        raise ServiceError(NAME, "the job: the reply cannot be read (no name in it)", hint="see the run's journal")
    training = found.get("trainingConfig")
    config: Mapping[str, Any] = training if isinstance(training, dict) else found
    told = found.get("status")
    said: Mapping[str, Any] = told if isinstance(told, dict) else {}
    status = _STATUSES.get((text_at(found, "state") or "").removeprefix("JOB_STATE_"), "running")
    return Job(
        id="/".join(name.split("/")[-2:]),
        status=status,
        model=text_at(config, "baseModel"),
        fine_tuned_model=text_at(config, "outputModel") if status == "succeeded" else None,
        training_file=(text_at(found, "dataset") or "").rpartition("/")[2] or None,
        error_code=text_at(said, "code") if status == "failed" else None,
        error_message=text_at(said, "message") if status == "failed" else None,
        created_at=seconds_of(found.get("createTime")),
        finished_at=seconds_of(found.get("completedTime")),
        suffix=text_at(found, "displayName"),
    )
