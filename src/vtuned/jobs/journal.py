"""
What happened in a run, in order, in a file to which lines are only ever appended.

Each line carries a digest of the one before it, so that a damaged journal is told from one that a kill cut short: the
first is refused, of the second the torn line is dropped. Knows nothing of services.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeAlias

from pydantic import Field

from vtuned import documents, files
from vtuned.documents import Record
from vtuned.errors import OutputNotWritable, RunError
from vtuned.files import locked
from vtuned.jobs.base import Exchange, Job

FORMAT: Literal["vtuned.run/1"] = "vtuned.run/1"
NAME = "journal.jsonl"
LOCK = "lock"
_PATIENCE_S = 10.0
_RESTORE = "restore it from your backup, or adopt the job into a new run: vtuned job adopt ID --run DIR"

Which = Literal["training", "validation"]


class SentFile(Record):
    """A file of the user's: where it is, what it holds, and the name under which the service gets it."""

    path: str
    sha256: str
    n_bytes: int
    name: str


class Planned(Record):
    """
    What the run is to do. *receipt* is where the receipt lies; its content is nowhere in a run.

    *base_url* is None where the address carries something secret, or is the vendor's own; *address* is what may be shown
    of it. *key_variable* is the name of the environment's variable that holds the key.
    """

    kind: Literal["planned"] = "planned"
    format: Literal["vtuned.run/1"] = FORMAT
    mark: str
    service: str
    base_url: str | None = None
    address: str
    key_variable: str | None = None
    receipt: str | None = None
    training: SentFile
    validation: SentFile | None = None
    request: dict[str, Any]


class Adopted(Record):
    """A job, or an endpoint alone, that was made without us."""

    kind: Literal["adopted"] = "adopted"
    format: Literal["vtuned.run/1"] = FORMAT
    service: str | None = None
    base_url: str | None = None
    address: str
    key_variable: str | None = None
    receipt: str | None = None
    job: Job | None = None
    model: str | None = None


class Intended(Record):
    """A request that is about to be sent: from here on it may have been done. *stamp* tells the file that it carries."""

    kind: Literal["intended"] = "intended"
    what: Literal["training", "validation", "job"]
    since: int
    stamp: tuple[int, ...] | None = None


class Begun(Record):
    """How far an upload in parts has come."""

    kind: Literal["begun"] = "begun"
    what: Which
    facts: dict[str, Any]


class Uploaded(Record):
    """A file that the service holds; *found* where an earlier try had brought it there."""

    kind: Literal["uploaded"] = "uploaded"
    what: Which
    id: str
    found: bool


class Seen(Record):
    """The job, as the service told of it; *found* where an earlier try had created it."""

    kind: Literal["seen"] = "seen"
    job: Job
    found: bool = False


class Exchanged(Record):
    """One exchange with the service. Of a response that is the same as the last one of its kind, only that is said."""

    kind: Literal["exchanged"] = "exchanged"
    exchange: Exchange
    same: bool = False


Entry: TypeAlias = Annotated[
    Planned | Adopted | Intended | Begun | Uploaded | Seen | Exchanged, Field(discriminator="kind")
]


class _Line(Record):
    before: str
    at: str
    entry: Entry


@dataclass(slots=True)
class Journal:
    """The entries of the run in *folder*, and the way to add one. See `opened` and `begun`."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    _end: int = 0
    _last: str = ""
    _responses: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / NAME

    def add(self, entry: Entry) -> None:
        """Append *entry*; it is on disk when this returns. Raises OutputNotWritable, RunError where others damaged it."""
        with self._open() as file:
            self._take_up(file)
            at = datetime.now(UTC).isoformat(timespec="seconds")
            raw = _Line(before=self._last, at=at, entry=entry).model_dump_json(exclude_none=True).encode() + b"\n"
            try:
                file.seek(self._end)
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise OutputNotWritable(self.path, error.strerror or str(error)) from error
            self._note(entry, raw)

    def exchanged(self, exchange: Exchange) -> None:
        """Append an exchange, without a response that was there before."""
        kept = json.dumps(exchange.response, sort_keys=True)
        same = exchange.response is not None and self._responses.get(exchange.did) == kept
        self._responses[exchange.did] = kept
        self.add(Exchanged(exchange=exchange.model_copy(update={"response": None}) if same else exchange, same=same))

    def read(self) -> None:
        """Take up what is there. Raises RunError, OutputNotWritable."""
        with self._open() as file:
            self._take_up(file)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise OutputNotWritable(self.path, error.strerror or str(error)) from error
        with os.fdopen(descriptor, "r+b") as file, _waiting_for(file, self.path):
            yield file

    def _take_up(self, file: BinaryIO) -> None:
        """Read the lines that are new to us, and drop the part of one that a kill left at the end."""
        file.seek(self._end)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for raw in whole.splitlines(keepends=True):
            self._note(self._entry(raw), raw)
        if len(whole) < len(content):
            file.truncate(self._end)

    def _entry(self, raw: bytes) -> Entry:
        number = len(self.entries) + 1
        try:
            line = documents.read(_Line, raw)
        except ValueError as error:
            raise RunError(self.path, f"line {number} of this journal is damaged ({error})", hint=_RESTORE) from None
        if line.before != self._last:
            reason = f"line {number} of this journal does not follow the one before it"
            raise RunError(self.path, reason, hint=_RESTORE)
        if (number == 1) != isinstance(line.entry, Planned | Adopted):
            raise RunError(self.path, f"line {number} of this journal is out of place", hint=_RESTORE)
        return line.entry

    def _note(self, entry: Entry, raw: bytes) -> None:
        self.entries.append(entry)
        self._end += len(raw)
        self._last = hashlib.sha256(raw).hexdigest()[:16]


@contextmanager
def _waiting_for(file: BinaryIO, path: Path) -> Iterator[None]:
    """Hold the lock of *file*, for which another process may have to be waited a moment. Raises OutputNotWritable."""
    until = time.monotonic() + _PATIENCE_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(file, path))
            except OutputNotWritable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                break
        yield


def is_run(folder: Path) -> bool:
    """Tell whether a run is in *folder*."""
    return (folder / NAME).is_file() and (folder / NAME).stat().st_size > 0


def opened(folder: Path) -> Journal:
    """Return the journal of the run in *folder*. Raises RunError where there is none or it is damaged."""
    if not is_run(folder):
        raise RunError(
            folder, "there is no run in this folder", hint="`vtuned submit` or `vtuned job adopt` begins one"
        )
    journal = Journal(folder)
    journal.read()
    if not journal.entries:
        raise RunError(
            folder, "there is no run in this folder", hint="`vtuned submit` or `vtuned job adopt` begins one"
        )
    return journal


def begun(folder: Path) -> Journal:
    """
    Return the journal in *folder*, an empty one where there is none; folder and file are made for their owner alone.

    Raises RunError where the folder holds other things, OutputNotWritable.
    """
    files.check_folder(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / NAME).exists() and any(entry.name != LOCK for entry in os.scandir(folder)):
            raise RunError(folder, "this folder holds other things than a run")
        os.close(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise OutputNotWritable(folder, error.strerror or str(error)) from error
    journal = Journal(folder)
    journal.read()
    return journal


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from submitting in *folder*. Raises OutputNotWritable where one does."""
    path = folder / LOCK
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise OutputNotWritable(path, error.strerror or str(error)) from error
    with os.fdopen(descriptor, "r+b") as file, locked(file, folder):
        yield
