"""The server's memory: one SQLite file, which the server and its worker share and which survives kill -9 of both."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from vtuned.errors import OutputNotWritable
from vtuned.server.records import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    UNFINISHED,
    Checkpoint,
    Event,
    File,
    Job,
    Model,
    Part,
    Upload,
)

Stored: TypeAlias = File | Upload | Part | Job | Event | Checkpoint | Model
_T = TypeVar("_T", File, Upload, Part, Job, Event, Checkpoint, Model)

_TABLES: dict[type[Any], str] = {
    File: "files",
    Upload: "uploads",
    Part: "parts",
    Job: "jobs",
    Event: "events",
    Checkpoint: "checkpoints",
    Model: "models",
}
_UNIQUE = {
    "files": "UNIQUE (tenant, mark)",
    "jobs": "UNIQUE (tenant, mark)",
    "checkpoints": "UNIQUE (job, step)",
}
_WAIT_S = 30.0


class Store:
    """Records by kind. Every change is one transaction; equal ids are never kept twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._open() as db:
                db.execute("PRAGMA journal_mode = WAL")
                for kind, table in _TABLES.items():
                    columns = [field.name for field in fields(kind)]
                    keys = [f"{columns[0]} UNIQUE", *columns[1:], *filter(None, [_UNIQUE.get(table)])]
                    db.execute(f"CREATE TABLE IF NOT EXISTS {table} (n INTEGER PRIMARY KEY, {', '.join(keys)})")
                db.execute("CREATE TABLE IF NOT EXISTS counts (what UNIQUE, n)")
        except (OSError, sqlite3.Error) as error:
            raise OutputNotWritable(path, str(error)) from error

    def add(self, *records: Stored) -> bool:
        """Add *records*, all or none; tell whether they were new."""
        try:
            with self._writing() as db:
                for record in records:
                    _insert(db, record)
        except sqlite3.IntegrityError:
            return False
        return True

    def all(self, kind: type[_T], **equal: object) -> list[_T]:
        """Return the records of *kind* whose columns are *equal* to these, oldest first."""
        where = " AND ".join(f"{column} = ?" for column in equal) or "1"
        names = ", ".join(field.name for field in fields(kind))
        sql = f"SELECT {names} FROM {_TABLES[kind]} WHERE {where} ORDER BY n"  # noqa: S608, our own names
        with self._open() as db:
            return [kind(*row) for row in db.execute(sql, tuple(equal.values()))]

    def find(self, kind: type[_T], **equal: object) -> _T | None:
        """Return the first record of *kind* with these columns, or None."""
        return next(iter(self.all(kind, **equal)), None)

    def remove(self, kind: type[Stored], identifier: str) -> None:
        """Forget one record."""
        with self._writing() as db:
            db.execute(f"DELETE FROM {_TABLES[kind]} WHERE id = ?", (identifier,))  # noqa: S608, our own names

    def move_upload(self, identifier: str, status: str, made: File | None = None) -> bool:
        """Give a pending upload its last *status*, with the file that was made of it; tell whether it was pending."""
        with self._writing() as db:
            sql = "UPDATE uploads SET status = ?, file = ? WHERE id = ? AND status = 'pending'"
            moved = db.execute(sql, (status, made.id if made else None, identifier)).rowcount == 1
            if moved and made is not None:
                _insert(db, made)
            return moved

    def move_job(self, identifier: str, status: str, *, only: Sequence[str] = UNFINISHED, **changes: object) -> bool:
        """Give a job that stands at one of *only* another *status*, and *changes*; tell whether it stood there."""
        with self._writing() as db:
            return _move(db, identifier, status, only, changes)

    def finish_job(self, identifier: str, model: Model, event: Event, trained_tokens: int) -> bool:
        """Let a running job succeed: its model appears with it, or neither does where it was cancelled meanwhile."""
        changes = {"model": model.id, "finished": now(), "trained_tokens": trained_tokens}
        with self._writing() as db:
            if not _move(db, identifier, "succeeded", (RUNNING,), changes):
                return False
            _insert(db, model)
            _insert(db, event)
            return True

    def fail_job(self, identifier: str, error: str, event: Event) -> bool:
        """Let an unfinished job fail with *error* (JSON)."""
        with self._writing() as db:
            if not _move(db, identifier, FAILED, UNFINISHED, {"error": error, "finished": now()}):
                return False
            _insert(db, event)
            return True

    def cancel_job(self, identifier: str, event: Event) -> bool:
        """Cancel an unfinished job."""
        with self._writing() as db:
            if not _move(db, identifier, CANCELLED, UNFINISHED, {"finished": now()}):
                return False
            _insert(db, event)
            return True

    def set_steps(self, identifier: str, n_steps: int) -> None:
        """Note how many steps a job takes."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET n_steps = ? WHERE id = ?", (n_steps, identifier))

    def count_death(self, identifier: str) -> int:
        """Note that a job's worker ended without a word; return how often that happened."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET n_deaths = n_deaths + 1 WHERE id = ?", (identifier,))
            found = db.execute("SELECT n_deaths FROM jobs WHERE id = ?", (identifier,)).fetchone()
            return int(found[0])

    def next_job(self) -> Job | None:
        """Return the job to work on: one that was interrupted, else the one that waits longest."""
        return self.find(Job, status=RUNNING) or self.find(Job, status=QUEUED)

    def count_answers(self, model: str, n: int) -> None:
        """Note that *model* answered *n* prompts."""
        with self._writing() as db:
            db.execute("UPDATE models SET n_answered = n_answered + ? WHERE id = ?", (n, model))

    def count_request(self) -> int:
        """Note one request; return how many there were before it, in the life of this folder."""
        with self._writing() as db:
            db.execute("INSERT INTO counts VALUES ('requests', 1) ON CONFLICT (what) DO UPDATE SET n = n + 1")
            return int(db.execute("SELECT n FROM counts WHERE what = 'requests'").fetchone()[0]) - 1

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def now() -> int:
    """Return the time in whole seconds, as OpenAI's objects have it."""
    return int(time.time())


def _insert(db: sqlite3.Connection, record: Stored) -> None:
    names = [field.name for field in fields(record)]
    marks = ", ".join("?" * len(names))
    sql = f"INSERT INTO {_TABLES[type(record)]} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608, our own names
    db.execute(sql, astuple(record))


def _move(
    db: sqlite3.Connection,
    identifier: str,
    status: str,
    only: Sequence[str],
    changes: dict[str, Any] | dict[str, object],
) -> bool:
    values = {"status": status, **changes}
    sets = ", ".join(f"{column} = ?" for column in values)
    sql = f"UPDATE jobs SET {sets} WHERE id = ? AND status IN ({', '.join('?' * len(only))})"  # noqa: S608, our own names
    return db.execute(sql, (*values.values(), identifier, *only)).rowcount == 1
