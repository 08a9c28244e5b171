"""
The server's folder: its database, its key, the bytes of files and parts, and the folders of jobs.

Names on disk are the server's own; what a tenant calls a file is never part of a path. Nothing is read through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vtuned import files
from vtuned.errors import DatasetError, OutputExists, OutputNotWritable, UsageError
from vtuned.server.records import File, Job, Part, Upload
from vtuned.server.store import Store

_DATABASE, _FOLDERS = "server.sqlite", ("files", "parts", "jobs")
# How what lies there is called when a server was killed before it had made its database.
_BEFORE_DATABASE = ("policy.key", "server.lock", f"{_DATABASE}-", ".vtuned-")
_KEY_BYTES = 32
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Home:
    """The folder *root* of a server, with everything in it private to whoever runs it."""

    root: Path

    @classmethod
    def made(cls, root: Path) -> Home:
        """
        Return the home in *root*, made where it is not there.

        Raises OutputNotWritable, OutputExists for a folder of others: what a server does not know in its own it removes.
        """
        files.check_folder(root)
        _check_ours(root)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in _FOLDERS:
                (root / part).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OutputNotWritable(root, error.strerror or str(error)) from error
        return cls(root)

    def store(self) -> Store:
        """Return the database in here. Raises OutputNotWritable."""
        return Store(self.root / _DATABASE)

    def key(self) -> bytes:
        """Return the secret from which policies draw: made once, by the operating system."""
        path = self.root / "policy.key"
        with contextlib.suppress(FileNotFoundError):
            key = path.read_bytes()
            if len(key) != _KEY_BYTES:
                raise UsageError(
                    f"{path} does not hold {_KEY_BYTES} bytes", hint="restore it, or choose another --data"
                )
            return key
        key = secrets.token_bytes(_KEY_BYTES)
        files.write_bytes(path, key, force=False, secret=True)
        return key

    def file(self, identifier: str) -> Path:
        """Return where the bytes of a file lie: JSON lines, whatever the tenant called it."""
        return self.root / "files" / f"{identifier}.jsonl"

    def part(self, identifier: str) -> Path:
        """Return where the bytes of a part of an upload lie."""
        return self.root / "parts" / identifier

    def job(self, identifier: str) -> Path:
        """Return the folder of a job."""
        return self.root / "jobs" / identifier

    def rows(self, identifier: str) -> Path:
        """Return the training file of a job: its own name for the bytes, so that deleting the file changes nothing."""
        return self.job(identifier) / "train.jsonl"

    def keep_rows(self, file: str, job: str) -> None:
        """Give the bytes of *file* a second name in the folder of *job*. Raises DatasetError where they are no file."""
        with opened(self.file(file)):
            pass
        self.job(job).mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(self.file(file), self.rows(job), follow_symlinks=False)
        except (OSError, NotImplementedError):
            # A file system without hard links.
            with opened(self.file(file)) as source, files.atomic_writer(self.rows(job), force=True) as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
        with opened(self.rows(job)):
            pass

    def drop(self, folder: str) -> None:
        """Remove a folder of a model."""
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def tidy(self, store: Store) -> None:
        """Remove what a server or worker that was killed left behind: half files, and whole ones that nobody knows."""
        for path in (*self.root.rglob(".vtuned-*"), *self.root.glob("jobs/**/.partial-*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        known = {file.id for file in store.all(File)}
        pending = {upload.id for upload in store.all(Upload, status="pending")}
        parts = {part.id for part in store.all(Part) if part.upload in pending}
        jobs = {job.id for job in store.all(Job)}
        for folder, names in (("files", known), ("parts", parts)):
            for path in (self.root / folder).iterdir():
                if path.stem not in names:
                    path.unlink(missing_ok=True)
        for path in (self.root / "jobs").iterdir():
            if path.name not in jobs:
                shutil.rmtree(path, ignore_errors=True)


def _check_ours(root: Path) -> None:
    if not root.is_dir() or (root / _DATABASE).is_file():
        return
    for entry in root.iterdir():
        is_empty = entry.name in _FOLDERS and entry.is_dir() and not any(entry.iterdir())
        if not is_empty and not entry.name.startswith(_BEFORE_DATABASE):
            raise OutputExists(
                root, hint="choose another --data: this folder holds something else than a server's data"
            )


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of ours. Raises DatasetError for a link, a device, and a file that is not there."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise DatasetError("the file is not there, or is a link", hint="upload it again") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DatasetError("the file is no regular file", hint="upload it again")
        yield file


def keep(source: BinaryIO, path: Path, limit: int) -> tuple[int, str]:
    """
    Write what *source* holds to *path*, whole or not at all; return its bytes and their SHA-256 (hex).

    Raises ValueError beyond *limit* bytes, OutputNotWritable.
    """
    digest, n_bytes = hashlib.sha256(), 0
    with files.atomic_writer(path, force=True, secret=True) as target:
        while chunk := source.read(_CHUNK_BYTES):
            n_bytes += len(chunk)
            if n_bytes > limit:
                raise ValueError(f"more than {limit} bytes")
            digest.update(chunk)
            target.write(chunk)
    return n_bytes, digest.hexdigest()


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which becomes *final* when the block ends, whole or not at all."""
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=final.parent))
    try:
        yield partial
        with contextlib.suppress(OSError):  # it is there already, written by a worker that was killed after this
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def only_one(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """
    Hold *path* for this process until the block ends or the process does, where the system can (POSIX).

    Raises OutputNotWritable where another process still holds it after *wait_s* seconds.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError):
            import fcntl

            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            held.callback(os.close, descriptor)
            end = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() >= end:
                        raise OutputNotWritable(path.parent, "another server works in it") from None
                    time.sleep(0.05)
        yield
