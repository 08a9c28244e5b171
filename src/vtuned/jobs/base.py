"""
What a fine-tuning service is to us, and the records that it deals in, in the words of the OpenAI protocol.

Knows nothing of networks or files of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from vtuned.documents import Record

Method = Literal["supervised", "dpo"]

SUCCEEDED = "succeeded"
# Any other status, a new one too, is taken for one that may still change.
ENDED = (SUCCEEDED, "failed", "cancelled")


class JobRequest(Record):
    """
    What a service is asked to do: fine-tune *model* on the uploaded file with the id *training_file*.

    None leaves a choice to the service. *metadata* is kept with the job where the service can.
    """

    model: str = Field(min_length=1)
    training_file: str
    validation_file: str | None = None
    method: Method = "supervised"
    n_epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    beta: float | None = Field(default=None, gt=0)
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class Job(Record):
    """
    A job as its service last told of it; times are seconds since 1970.

    *error_code*, *error_param* and *error_message* say why it failed; the message is the service's own and may quote rows.
    """

    id: str = Field(min_length=1)
    status: str
    model: str | None = None
    fine_tuned_model: str | None = None
    training_file: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_message: str | None = Field(default=None, repr=False)
    created_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    trained_tokens: int | None = None
    suffix: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether its status can change no more."""
        return self.status in ENDED


class Event(Record):
    """Something that a service tells of a job; *data* holds metrics, such as step and train_loss."""

    id: str
    created_at: int | None = None
    level: str = "info"
    message: str = Field(default="", repr=False)
    data: dict[str, Any] = Field(default_factory=dict)


class Checkpoint(Record):
    """A model as it was after *step* steps; *model* is the name to ask it by, None where it cannot be asked."""

    id: str
    step: int
    model: str | None
    created_at: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class RemoteFile(Record):
    """A file that a service holds."""

    id: str = Field(min_length=1)
    name: str
    n_bytes: int | None = None


class Exchange(Record):
    """One request that was sent and what came back, without anything secret of the address or key."""

    did: str
    status: int | None = None
    request_id: str | None = None
    trouble: str | None = None
    response: Any = None


OnExchange = Callable[[Exchange], None]
OnBytes = Callable[[int, int], None]
Note = Callable[[Mapping[str, Any]], None]


class CannotSearch(Exception):
    """The service offers no way to look for what an earlier run may have left there."""


class Upload(Record):
    """
    What to upload, and what is there of it already.

    *name* is unique to the run: by it and *n_bytes* the file is told from all others. *begun* is what an earlier try noted
    about an upload in parts.
    """

    path: Path
    name: str
    n_bytes: int
    begun: dict[str, Any] = Field(default_factory=dict)


class FineTuningService(Protocol):
    """
    A service that fine-tunes. Every method raises ServiceError where it cannot be asked and ServiceRefused for bad input.

    Reading is repeated where that may help. Writing is sent again only where it is certain that nothing was done: whoever
    is told ServiceError about it looks with `find_file` and `find_job` before trying anew.
    """

    @property
    def name(self) -> str:
        """What kind of service it is, such as "openai"."""

    @property
    def address(self) -> str:
        """What may be shown of where it is."""

    @property
    def inference_url(self) -> str | None:
        """The base URL under which its models answer; None where that is the address of the service."""

    def upload(self, upload: Upload, *, note: Note, on_bytes: OnBytes) -> RemoteFile:
        """Upload a training file; *note* keeps what a later try needs to go on in the middle."""

    def find_file(self, upload: Upload) -> RemoteFile | None:
        """Return the file of an earlier `upload`, None where there is none. Raises CannotSearch."""

    def create(self, request: JobRequest, mark: str) -> Job:
        """Create the job; *mark* is unique to the run."""

    def find_job(self, request: JobRequest, mark: str, *, since: int) -> Job | None:
        """Return the job of an earlier `create`, made at *since* or later, None where there is none. Raises CannotSearch."""

    def get(self, job_id: str) -> Job:
        """Return a job as it is now."""

    def events(self, job_id: str, after: str | None) -> list[Event]:
        """Return what was told of a job after the event with the id *after*, the oldest first."""

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Return the checkpoints that are kept, the earliest first."""

    def cancel(self, job_id: str) -> Job:
        """Stop a job."""

    def list(self, after: str | None = None) -> Iterator[Job]:
        """Yield the account's jobs, the newest first, from the one after *after* on."""
