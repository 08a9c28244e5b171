"""
From a training file to a job, each step written down before and after: whoever is killed anywhere goes on.

What a killed try may have left at the service is looked for before anything is sent again: the file by a name that no
other run has, the job by the mark of the run or by that file.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vtuned import files
from vtuned.errors import DatasetError, RunError, ServiceError
from vtuned.jobs.base import CannotSearch, FineTuningService, Job, JobRequest, RemoteFile, Upload
from vtuned.jobs.journal import Begun, Intended, Journal, Planned, Seen, SentFile, Uploaded, Which
from vtuned.jobs.runs import run_of

T = TypeVar("T")
OnStep = Callable[[str, int, int], None]

# A service may list what it has just been given a moment later.
_LOOK_AGAIN_S = 1.0
_EXTENSIONS = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants done: files, *request* (without ids of files), and where the service is."""

    train: Path
    validation: Path | None
    request: Mapping[str, Any]
    service: str
    base_url: str | None = field(repr=False)
    address: str
    key_variable: str | None
    receipt: Path | None


def planned(journal: Journal, order: Order) -> Planned:
    """
    Return the plan of the run in *journal*, which is *order* where the run is new.

    Raises RunError where the run is of another file, request or service, DatasetError where a file cannot be read.
    """
    if not journal.entries:
        mark = secrets.token_hex(8)
        journal.add(
            Planned(
                mark=mark,
                service=order.service,
                base_url=order.base_url,
                address=order.address,
                key_variable=order.key_variable,
                receipt=str(order.receipt.resolve()) if order.receipt else None,
                training=_sent(order.train, f"train-{mark}"),
                validation=_sent(order.validation, f"valid-{mark}") if order.validation else None,
                request=dict(order.request),
            )
        )
    first = journal.entries[0]
    if not isinstance(first, Planned):
        raise RunError(journal.folder, "this run was adopted", hint="submit into another folder with --run")
    _check_same(journal, first, order)
    return first


def _check_same(journal: Journal, plan: Planned, order: Order) -> None:
    if plan.training.sha256 != files.sha256_of(order.train):
        reason = f"this run belongs to another file than {order.train} (SHA-256 {plan.training.sha256[:12]}…)"
        raise RunError(journal.folder, reason, hint="submit into another folder with --run")
    kept = plan.validation.sha256 if plan.validation else None
    if kept != (files.sha256_of(order.validation) if order.validation else None):
        raise RunError(
            journal.folder, "this run has another validation file", hint="submit into another folder with --run"
        )
    if (plan.service, plan.address) != (order.service, order.address):
        reason = f"this run is at {plan.service} ({plan.address}), not at {order.service} ({order.address})"
        raise RunError(journal.folder, reason, hint="submit into another folder with --run")
    other = sorted(
        name for name in {*plan.request, *order.request} if plan.request.get(name) != order.request.get(name)
    )
    if other:
        reason = f"this run was begun with another {', '.join(other)}"
        raise RunError(journal.folder, reason, hint="give the same options, or submit into another folder with --run")


def check_file(path: Path) -> None:
    """Raise DatasetError unless *path* is a regular file; nothing of it is read, and no link followed."""
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"cannot read {path}: {reason}", hint="give a file that exists and that you may read"
        ) from error
    if stat.S_ISLNK(mode):
        raise DatasetError(
            f"{path} is a link", hint="name the file itself: what is sent is not left to where a link leads"
        )
    if not stat.S_ISREG(mode):
        raise DatasetError(f"{path} is no file", hint="give one training file; join shards first")


def _sent(path: Path, name: str) -> SentFile:
    check_file(path)
    n_bytes = path.stat().st_size
    if not n_bytes:
        raise DatasetError(f"{path} is empty", hint="give the training file that `vtuned plant` wrote")
    extension = path.suffix.lower() if path.suffix.lower() in _EXTENSIONS else ".jsonl"
    return SentFile(path=str(path.resolve()), sha256=files.sha256_of(path), n_bytes=n_bytes, name=name + extension)


def submit(
    journal: Journal,
    service: FineTuningService,
    *,
    again: bool = False,
    on_step: OnStep = lambda step, done, total: None,
) -> tuple[Job, bool]:
    """
    Bring the planned run in *journal* to a job; return it, and whether this call created it.

    With *again* what a killed try may have left is not looked for, but sent anew: for services that cannot be searched.
    Raises RunError, ServiceError, OutputNotWritable, DatasetError.
    """
    plan = journal.entries[0]
    assert isinstance(plan, Planned)
    job = run_of(journal.entries).job
    if job is not None:
        return job, False
    ids = {which: _uploaded(journal, service, which, again, on_step) for which in _files_of(plan)}
    request = JobRequest(training_file=ids["training"], validation_file=ids.get("validation"), **plan.request)
    on_step("creating the job", 0, 0)
    run = run_of(journal.entries)
    found = None
    if "job" in run.intended and not again:
        since = run.intended["job"].since
        found = _looked_for(
            journal,
            "the job",
            "look there, and `vtuned job adopt ID`",
            lambda: service.find_job(request, plan.mark, since=since),
        )
    if found is None:
        _check_same_files(journal, plan)
        journal.add(Intended(what="job", since=int(time.time())))
    job = found or service.create(request, plan.mark)
    journal.add(Seen(job=job, found=found is not None))
    return job, found is None


def _files_of(plan: Planned) -> dict[Which, SentFile]:
    return {"training": plan.training, **({"validation": plan.validation} if plan.validation else {})}


def _check_same_files(journal: Journal, plan: Planned) -> None:
    """Raise RunError where a file was changed since the run began: what the service holds is not what lies there."""
    for sent in _files_of(plan).values():
        if files.sha256_of(sent.path) != sent.sha256:
            raise RunError(
                journal.folder,
                f"{sent.path} was changed since this run began",
                hint="submit into another folder with --run",
            )


def _uploaded(journal: Journal, service: FineTuningService, which: Which, again: bool, on_step: OnStep) -> str:
    """Return the id of a file at the service, uploading it unless it is there."""
    plan, run = journal.entries[0], run_of(journal.entries)
    assert isinstance(plan, Planned)
    if which in run.uploaded:
        return run.uploaded[which]
    sent = _files_of(plan)[which]
    begun = {} if again else dict(run.begun.get(which, {}))
    upload = Upload(path=Path(sent.path), name=sent.name, n_bytes=sent.n_bytes, begun=begun)
    found: RemoteFile | None = None
    if which in run.intended:
        _check_untouched(journal, sent, run.intended[which].stamp)
    if which in run.intended and not again:
        on_step(f"looking for the {which} file", 0, 0)
        found = _looked_for(journal, f"the {which} file", "look there", lambda: service.find_file(upload))
    stamp = _stamp_of(sent)
    if found is None:
        _check_same_files(journal, plan)
        journal.add(Intended(what=which, since=int(time.time()), stamp=stamp))
    held = found or service.upload(
        upload,
        note=lambda facts: journal.add(Begun(what=which, facts=dict(facts))),
        on_bytes=lambda done, total: on_step(f"uploading the {which} file", done, total),
    )
    _check_untouched(journal, sent, stamp)
    journal.add(Uploaded(what=which, id=held.id, found=found is not None))
    return held.id


def _stamp_of(sent: SentFile) -> tuple[int, ...]:
    """Return what no change to a file leaves as it was, on POSIX a restored time of its last change neither."""
    return (*files.stamp_of(sent.path), os.stat(sent.path).st_ctime_ns)


def _check_untouched(journal: Journal, sent: SentFile, stamp: Sequence[int] | None) -> None:
    """
    Raise RunError where a file was touched since *stamp*, when its upload began.

    What the service holds of it may then be anything, also where it lies here as it was planned.
    """
    if stamp is not None and tuple(stamp) != _stamp_of(sent):
        reason = (
            f"{sent.path} was written, moved or given other rights since its upload began: what the service holds may be "
            "something else"
        )
        raise RunError(journal.folder, reason, hint="submit into another folder with --run")


def _looked_for(journal: Journal, what: str, advice: str, find: Callable[[], T | None]) -> T | None:
    """Return what *find* finds, at the second look at the latest. Raises ServiceError where it cannot be searched."""
    try:
        found = find()
        if found is None:
            time.sleep(_LOOK_AGAIN_S)
            found = find()
    except CannotSearch:
        reason = f"it is not known whether {what} arrived, and this service cannot be searched for it"
        raise ServiceError(_service(journal), reason, hint=f"{advice}, or send it anew with --again") from None
    return found


def _service(journal: Journal) -> str:
    return run_of(journal.entries).first.service or ""


def refreshed(journal: Journal, service: FineTuningService, job: Job) -> Job:
    """Return *job* as the service tells of it now, and write down what changed."""
    now = service.get(job.id)
    if now != job:
        journal.add(Seen(job=now))
    return now
