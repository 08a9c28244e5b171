"""The room that a tenant takes: files, parts of uploads, and what jobs keep; and how it is given back."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from vtuned.server import records
from vtuned.server.home import Home
from vtuned.server.refusals import Refusal
from vtuned.server.state import State
from vtuned.server.store import Store, now


def check(state: State, tenant: str, n_bytes: int) -> None:
    """Raise Refusal unless *tenant* has room for *n_bytes* more. What is then added is added before others are checked."""
    if n_bytes > left(state, tenant):
        raise full()


def full() -> Refusal:
    """Return the refusal where there is no room."""
    message = "Your files and models take all the room that you have here: delete some."
    return Refusal(413, message, code="quota_exceeded")


def left(state: State, tenant: str) -> int:
    """Return how many bytes more *tenant* may bring, below 0 where models took too many. Expired uploads are given up first."""
    for upload in state.store.all(records.Upload, tenant=tenant, status="pending"):
        if upload.expires < now() and upload.id not in state.joining and state.store.move_upload(upload.id, "expired"):
            drop_parts(state, upload)
    return state.max_tenant_bytes - held(state.home, state.store, tenant)


def held(home: Home, store: Store, tenant: str) -> int:
    """Return how many bytes *tenant* takes. Rows that jobs share with a file, or with each other, count once."""
    parts = (
        part.n_bytes
        for upload in store.all(records.Upload, tenant=tenant, status="pending")
        for part in store.all(records.Part, upload=upload.id)
    )
    files = (home.file(file.id) for file in store.all(records.File, tenant=tenant))
    jobs = (path for job in store.all(records.Job, tenant=tenant) for path in home.job(job.id).rglob("*"))
    return sum(parts) + sum(_sizes(chain(files, jobs)).values())


def _sizes(paths: Iterable[Path]) -> dict[tuple[int, int], int]:
    """Return how large the files at *paths* are: one that has several names is there once."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            one = path.lstat()
            if stat.S_ISREG(one.st_mode):
                found[one.st_dev, one.st_ino] = one.st_size
    return found


def drop_parts(state: State, upload: records.Upload) -> None:
    """Remove the parts of an *upload* that is over."""
    for part in state.store.all(records.Part, upload=upload.id):
        state.home.part(part.id).unlink(missing_ok=True)
        state.store.remove(records.Part, part.id)


def release(home: Home, store: Store, job: str) -> None:
    """Remove what the job called *job* kept, its rows too, where it has ended and none of its models is left."""
    found = store.find(records.Job, id=job)
    if found is not None and found.status not in records.UNFINISHED and store.find(records.Model, job=job) is None:
        home.drop(f"jobs/{job}")
