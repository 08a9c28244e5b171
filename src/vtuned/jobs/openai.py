"""
Services that speak OpenAI's fine-tuning protocol: OpenAI, Azure's /openai/v1, Nebius, Crusoe, and our own server.

The `openai` package sends the requests; what comes back is read by `vtuned.jobs.reading`.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from vtuned.errors import DatasetError, ServiceError
from vtuned.jobs.base import (
    CannotSearch,
    Checkpoint,
    Event,
    Job,
    JobRequest,
    Note,
    OnBytes,
    OnExchange,
    RemoteFile,
    Upload,
)
from vtuned.jobs.reading import Unreadable, checkpoint_of, event_of, file_of, id_of, items_of, job_of
from vtuned.jobs.wire import ONE_EACH, Wire
from vtuned.lm.endpoint_access import Access
from vtuned.lm.endpoint_pace import Retries
from vtuned.lm.endpoint_replies import Reply, reply_of

T = TypeVar("T")

NAME = "openai"
MARK = "run"
_PURPOSE = "fine-tune"
_CONNECT_S = 10.0
_AZURE = ("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com")
_MB = 1_000_000
# OpenAI refuses more in one request; on Azure larger files are taken and fail when the job runs.
_OPENAI_LIMIT_BYTES, _AZURE_LIMIT_BYTES = 512 * _MB, 150 * _MB
PART_BYTES = 64 * 1024 * 1024
_NOT_IMPLEMENTED = 501
_PAGE, _SHORT_PAGE, _MOST_PAGES = 100, 10, 50
# What an upload in parts may still be used for, less what a part may take.
_EXPIRES_S, _LEFT_S = 3600, 120
# The clocks of two machines differ at most so much.
_CLOCKS_S = 600


class OpenAIService:
    """See `FineTuningService`. *parts_above* (bytes) is what one request may carry, None: what the address is known for."""

    def __init__(
        self,
        access: Access,
        *,
        retries: Retries,
        timeout_s: float,
        on_exchange: OnExchange,
        parts_above: int | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._access, self._timeout_s = access, timeout_s
        host = (urlsplit(access.url).hostname or "").lower()
        self._is_azure = any(host == own or host.endswith(f".{own}") for own in _AZURE)
        self._parts_above = parts_above or (_AZURE_LIMIT_BYTES if self._is_azure else _OPENAI_LIMIT_BYTES)
        self._part_bytes = part_bytes
        self._wire = Wire(
            NAME, access.host, access.hidden, retries=retries, timeout_s=timeout_s, on_exchange=on_exchange
        )

    def __repr__(self) -> str:
        return f"OpenAIService({self.address!r})"

    @property
    def name(self) -> str:
        """See `FineTuningService.name`."""
        return NAME

    @property
    def address(self) -> str:
        """See `FineTuningService.address`."""
        return self._access.address

    @property
    def inference_url(self) -> str | None:
        """See `FineTuningService.inference_url`."""
        return None

    @cached_property
    def _client(self) -> Any:
        from openai import DefaultHttpxClient, OpenAI, Timeout

        # Azure's own header for keys; the package sends the other one.
        own = {"api-key": self._access.key} if self._is_azure else {}
        return OpenAI(
            **self._access.arguments(),
            timeout=Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_S)),
            default_headers={**ONE_EACH, **own},
            http_client=DefaultHttpxClient(trust_env=not self._access.is_loopback),
        )

    def upload(self, upload: Upload, *, note: Note, on_bytes: OnBytes) -> RemoteFile:
        """See `FineTuningService.upload`."""
        if upload.n_bytes <= self._parts_above:
            return self._in_one(upload, on_bytes)
        return self._in_parts(upload, note, on_bytes)

    def _in_one(self, upload: Upload, on_bytes: OnBytes) -> RemoteFile:
        on_bytes(0, upload.n_bytes)
        with _opened(upload) as file:

            def send() -> Any:
                file.seek(0)
                return self._client.files.with_raw_response.create(
                    file=(upload.name, file, "application/jsonl"),
                    purpose=_PURPOSE,
                    extra_headers={"Idempotency-Key": upload.name},
                )

            body = self._wire.write("upload of the training file", _replying(send), n_bytes=upload.n_bytes)
        on_bytes(upload.n_bytes, upload.n_bytes)
        return self._read(file_of, body, "the uploaded file")

    def _in_parts(self, upload: Upload, note: Note, on_bytes: OnBytes) -> RemoteFile:
        """Upload in parts; an earlier try that was killed goes on behind the last part it noted."""
        upload_id, parts = self._begun(upload, note)
        with _opened(upload) as file:
            for number in range(-(-upload.n_bytes // self._part_bytes)):
                on_bytes(min(number * self._part_bytes, upload.n_bytes), upload.n_bytes)
                if number < len(parts):
                    continue
                file.seek(number * self._part_bytes)
                data = file.read(self._part_bytes)

                def send(data: bytes = data) -> Any:
                    return self._client.uploads.parts.with_raw_response.create(
                        upload_id, data=("part", data, "application/octet-stream")
                    )

                body = self._wire.write("upload of a part of the file", _replying(send), n_bytes=len(data))
                parts.append(self._read(id_of, body, "a part"))
                note({"parts": list(parts)})
        on_bytes(upload.n_bytes, upload.n_bytes)

        def complete() -> Any:
            return self._client.uploads.with_raw_response.complete(upload_id, part_ids=parts)

        body = self._wire.write("completion of the upload", _replying(complete))
        return self._read(file_of, body.get("file") if isinstance(body, dict) else None, "the uploaded file")

    def _begun(self, upload: Upload, note: Note) -> tuple[str, list[str]]:
        begun = upload.begun
        is_usable = begun.get("part_bytes") == self._part_bytes and time.time() < begun.get("until", 0) - _LEFT_S
        if is_usable:
            return str(begun["upload_id"]), [str(part) for part in begun.get("parts", ())]

        def send() -> Any:
            return self._client.uploads.with_raw_response.create(
                bytes=upload.n_bytes, filename=upload.name, mime_type="application/jsonl", purpose=_PURPOSE
            )

        upload_id = self._read(id_of, self._wire.write("start of the upload", _replying(send)), "the upload")
        until = int(time.time()) + _EXPIRES_S
        note({"upload_id": upload_id, "part_bytes": self._part_bytes, "until": until, "parts": []})
        return upload_id, []

    def find_file(self, upload: Upload) -> RemoteFile | None:
        """See `FineTuningService.find_file`."""
        held = self._client.files.with_raw_response
        listed = self._paged(
            "list of files", lambda **page: held.list(purpose=_PURPOSE, **page), file_of, to_the_end=True
        )
        same = (found for found in listed if found.name == upload.name and found.n_bytes in (None, upload.n_bytes))
        return next(same, None)

    def create(self, request: JobRequest, mark: str) -> Job:
        """See `FineTuningService.create`. A service that takes no metadata gets none: the file's id tells the run too."""
        told = self._create(request, mark, {MARK: mark, **request.metadata})
        if told is None:
            told = self._create(request, mark, request.metadata)
        return self._read(job_of, told, "the job")

    def _create(self, request: JobRequest, mark: str, metadata: dict[str, str]) -> Any:
        """Return the reply, None where it was refused only for metadata that the user did not ask for."""
        arguments = {**_arguments(request), **({"metadata": metadata} if metadata else {})}

        def send() -> Any:
            return self._client.fine_tuning.jobs.with_raw_response.create(
                **arguments, extra_headers={"Idempotency-Key": f"{mark}-job"}
            )

        return self._wire.write(
            "creation of the job",
            _replying(send),
            unless=lambda reply: metadata != request.metadata and reply.does_not_take("metadata"),
        )

    def find_job(self, request: JobRequest, mark: str, *, since: int) -> Job | None:
        """See `FineTuningService.find_job`."""
        jobs = self._client.fine_tuning.jobs.with_raw_response
        for job in self._paged("list of jobs", jobs.list, job_of, to_the_end=True):
            if job.created_at is not None and job.created_at < since - _CLOCKS_S:
                continue
            if job.metadata.get(MARK) == mark:
                return job
            # Services that keep no metadata: the file is this run's own.
            if MARK not in job.metadata and job.training_file == request.training_file:
                return job
        return None

    def get(self, job_id: str) -> Job:
        """See `FineTuningService.get`."""
        jobs = self._client.fine_tuning.jobs.with_raw_response
        body = self._wire.read(f"look at job {job_id}", _replying(lambda: jobs.retrieve(job_id)))
        return self._read(job_of, body, "the job")

    def events(self, job_id: str, after: str | None) -> list[Event]:
        """See `FineTuningService.events`."""
        jobs = self._client.fine_tuning.jobs.with_raw_response
        # Each look is written down: a short page keeps what was told before from being written again and again.
        size = _PAGE if after is None else _SHORT_PAGE
        listed = self._paged("events of the job", lambda **page: jobs.list_events(job_id, **page), event_of, size=size)
        new = list(itertools.takewhile(lambda event: event.id != after, listed))
        new.reverse()  # what was told in the same second stays in order
        return sorted(new, key=lambda event: event.created_at or 0)

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """See `FineTuningService.checkpoints`."""
        kept = self._client.fine_tuning.jobs.checkpoints.with_raw_response
        listed = self._paged("checkpoints of the job", lambda **page: kept.list(job_id, **page), checkpoint_of)
        return sorted(listed, key=lambda checkpoint: checkpoint.step)

    def cancel(self, job_id: str) -> Job:
        """See `FineTuningService.cancel`. Cancelling twice is cancelling, so it may be sent again."""
        jobs = self._client.fine_tuning.jobs.with_raw_response
        body = self._wire.read(f"cancel job {job_id}", _replying(lambda: jobs.cancel(job_id)))
        return self._read(job_of, body, "the job")

    def list(self, after: str | None = None) -> Iterator[Job]:
        """See `FineTuningService.list`."""
        jobs = self._client.fine_tuning.jobs.with_raw_response
        return self._paged("list of jobs", jobs.list, job_of, after)

    def _paged(
        self,
        did: str,
        ask: Callable[..., Any],
        read: Callable[[Any], T],
        after: str | None = None,
        *,
        size: int = _PAGE,
        to_the_end: bool = False,
    ) -> Iterator[T]:
        """
        Yield what the pages hold, `_MOST_PAGES` at most.

        Where all are wanted, *to_the_end*, raises CannotSearch for more than that, or for a service without such a list.
        """
        for _ in range(_MOST_PAGES):
            page = {"limit": size, **({"after": after} if after else {})}
            body = self._wire.read(
                did, _replying(partial(ask, **page)), unless=lambda reply: to_the_end and _has_no_list(reply)
            )
            if body is None:
                raise CannotSearch
            items = self._read(items_of, body, did)
            yield from (self._read(read, item, did) for item in items)
            last = items[-1].get("id") if items else None
            if not isinstance(last, str) or last == after or not body.get("has_more"):
                return
            after = last
        if to_the_end:
            raise CannotSearch

    def _read(self, read: Callable[[Any], T], body: Any, what: str) -> T:
        try:
            return read(body)
        except Unreadable as error:
            hint = "the server does not speak the protocol; the run's journal holds what it sent"
            raise ServiceError(NAME, f"{what}: the reply cannot be read ({error})", hint=hint) from None


def _has_no_list(reply: Reply) -> bool:
    return reply.is_unknown_path or reply.status == _NOT_IMPLEMENTED


def _arguments(request: JobRequest) -> dict[str, Any]:
    """Return what `fine_tuning.jobs.create` is told of *request*."""
    names = ("n_epochs", "batch_size", "learning_rate_multiplier", *(("beta",) if request.method == "dpo" else ()))
    chosen = {name: value for name in names if (value := getattr(request, name)) is not None}
    method = {"type": request.method, request.method: {"hyperparameters": chosen}}
    optional = {name: getattr(request, name) for name in ("validation_file", "suffix", "seed")}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"model": request.model, "training_file": request.training_file, "method": method, **given}


def _replying(send: Callable[[], Any]) -> Callable[[], Reply]:
    """Return *send* with whatever comes of it as a `Reply`."""

    def reply() -> Reply:
        import openai

        try:
            response = send().http_response
        except openai.APITimeoutError as error:
            connected = type(error.__cause__).__name__ != "ConnectTimeout"
            return Reply(trouble="timed out" if connected else "cannot connect", connected=connected)
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            connected = type(error.__cause__).__name__ != "ConnectError"
            return Reply(trouble="connection lost" if connected else "cannot connect", connected=connected)
        except openai.OpenAIError as error:
            return Reply(trouble=f"unreadable response ({type(error).__name__})")
        return reply_of(response.status_code, response.headers, response.content)

    return reply


@contextlib.contextmanager
def _opened(upload: Upload) -> Iterator[IO[bytes]]:
    try:
        with open(upload.path, "rb") as file:
            yield file
    except OSError as error:
        raise DatasetError(f"cannot read {upload.path}: {error.strerror or error}") from error
