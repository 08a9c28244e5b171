"""
What `vtuned watch` has spent and what came of it, on disk: SQLite in WAL mode, one row a check.

A backdoor is spent in a transaction of its own before its probe is sent, so a process that is killed at any moment asks
none twice. Processes that share a ledger take turns. Answers hold signatures: the file is its owner's alone. Decides
nothing; `vtuned.watching` does.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from vtuned.documents import Record
from vtuned.errors import LedgerError, OutputNotWritable, UsageError, VtunedError
from vtuned.probes import AnswerRecord

State = Literal["active", "silent", "unknown"]
Came = Literal["activated", "silent", "unanswered"]

FORMAT: Literal["vtuned.check/1"] = "vtuned.check/1"
# "vtun": tells a ledger from any other SQLite file.
_APPLICATION_ID = 0x7674756E
_SCHEMA_VERSION = 1
_PATIENCE_S = 30.0
_HEADER_BYTES = 100
_RESTORE = "restore it from your backup; a new one (--ledger FILE) would ask again what this one knows to be spent"
# The rest of SQLite's operational errors say that the content is not what a ledger's is.
_CANNOT_WRITE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

_SCHEMA = """
CREATE TABLE receipt (digest TEXT NOT NULL);
CREATE TABLE checks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    model TEXT NOT NULL,
    n_spent INTEGER NOT NULL DEFAULT 0,
    n_activated INTEGER NOT NULL DEFAULT 0,
    n_silent INTEGER NOT NULL DEFAULT 0,
    n_unanswered INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'unknown' CHECK (state IN ('active', 'silent', 'unknown')),
    previous TEXT CHECK (previous IN ('active', 'silent')),
    log10_p REAL NOT NULL DEFAULT 0,
    beta REAL NOT NULL DEFAULT 1,
    reason TEXT NOT NULL DEFAULT '',
    hook TEXT NOT NULL DEFAULT ''
);
CREATE TABLE spent (
    backdoor INTEGER PRIMARY KEY,
    probe TEXT NOT NULL,
    "check" INTEGER REFERENCES checks (number)
);
CREATE TABLE answers (
    backdoor INTEGER PRIMARY KEY REFERENCES spent (backdoor),
    came TEXT NOT NULL CHECK (came IN ('activated', 'silent', 'unanswered')),
    record TEXT NOT NULL
);
"""


class Check(Record):
    """
    One look at a model: *n_spent* backdoors were asked; how many activated, were silent, or went unanswered.

    *state* is what it says of the model, *previous* what the last check of the same model that could tell said. A check
    that was killed has no *finished_at* and stays "unknown". *log10_p* bounds the probability of so many activations
    under H0; *beta* is the probability that an honest provider's model is as silent as this. *hook* says what came of
    the hook, where one was due.
    """

    format: Literal["vtuned.check/1"] = FORMAT
    number: int = Field(ge=1)
    started_at: str
    finished_at: str | None
    model: str
    n_spent: int
    n_activated: int
    n_silent: int
    n_unanswered: int
    state: State
    previous: Literal["active", "silent"] | None
    log10_p: float = Field(le=0)
    beta: float = Field(ge=0, le=1)
    reason: str
    hook: str


_COLUMNS = tuple(name for name in Check.model_fields if name != "format")


class Ledger:
    """The checks of one receipt, in the file *path*. See `opened`."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self._database = path, database

    @property
    def receipt_digest(self) -> str:
        """The digest of the receipt that it belongs to, as it was planted."""
        return str(self._one("SELECT digest FROM receipt")[0])

    def checks(self) -> list[Check]:
        """Return every check, the oldest first. Raises LedgerError."""
        rows = self._database.execute(f"SELECT {', '.join(_COLUMNS)} FROM checks ORDER BY number")  # noqa: S608, our names
        return [self._check_in(row) for row in rows]

    def check(self, number: int) -> Check:
        """Return check *number*. Raises LedgerError."""
        return self._check_in(self._one(f"SELECT {', '.join(_COLUMNS)} FROM checks WHERE number = ?", number))  # noqa: S608

    def _check_in(self, row: Sequence[object]) -> Check:
        try:
            return Check.model_validate(dict(zip(_COLUMNS, row, strict=True)))
        except ValueError as error:
            raise LedgerError(self.path, "a check in this ledger is damaged", hint=_RESTORE) from error

    def spent(self) -> set[int]:
        """Return the backdoors (indices) that are spent."""
        return {backdoor for (backdoor,) in self._database.execute("SELECT backdoor FROM spent")}

    def answers(self) -> list[AnswerRecord]:
        """Return every answer that came: secret, since they hold signatures. Raises LedgerError."""
        rows = self._database.execute("SELECT record FROM answers ORDER BY backdoor")
        try:
            return [AnswerRecord.model_validate_json(record) for (record,) in rows]
        except ValueError as error:
            raise LedgerError(self.path, "an answer in this ledger is damaged", hint=_RESTORE) from error

    def spend_elsewhere(self, probes: Iterable[tuple[int, str]]) -> int:
        """Note backdoors, with a probe of each, that somebody asked outside of any check; return how many are new."""
        with self._transaction():
            before = self.spent()
            self._database.executemany("INSERT OR IGNORE INTO spent (backdoor, probe) VALUES (?, ?)", probes)
            return len(self.spent() - before)

    def begin(self, model: str, at: str) -> int:
        """Open a check of *model* and return its number."""
        with self._transaction():
            (previous,) = self._one(
                "SELECT (SELECT state FROM checks WHERE model = ? AND state != 'unknown' ORDER BY number DESC LIMIT 1)",
                model,
            )
            cursor = self._database.execute(
                "INSERT INTO checks (started_at, model, previous) VALUES (?, ?, ?)", (at, model, previous)
            )
            return int(cursor.lastrowid or 0)

    def spend(self, number: int, order: Sequence[tuple[int, str]], n: int) -> list[str]:
        """
        Spend up to *n* more backdoors in check *number*: the first unspent ones of *order* (backdoor, probe id).

        They are spent, on disk, when this returns; returns the probes to ask, once each.
        """
        with self._transaction():
            spent = self.spent()
            taken = [(backdoor, probe) for backdoor, probe in order if backdoor not in spent][:n]
            rows = [(backdoor, probe, number) for backdoor, probe in taken]
            self._database.executemany('INSERT INTO spent (backdoor, probe, "check") VALUES (?, ?, ?)', rows)
            self._database.execute("UPDATE checks SET n_spent = n_spent + ? WHERE number = ?", (len(taken), number))
        return [probe for _, probe in taken]

    def add(self, number: int, backdoor: int, came: Came, record: AnswerRecord) -> None:
        """Keep what came for a spent backdoor; it is on disk when this returns."""
        column = {"activated": "n_activated", "silent": "n_silent", "unanswered": "n_unanswered"}[came]
        with self._transaction():
            content = record.model_dump_json(exclude_none=True)
            self._database.execute("INSERT INTO answers VALUES (?, ?, ?)", (backdoor, came, content))
            self._database.execute(f"UPDATE checks SET {column} = {column} + 1 WHERE number = ?", (number,))  # noqa: S608

    def finish(self, number: int, *, state: State, log10_p: float, beta: float, reason: str, at: str) -> Check:
        """Close check *number* and return it."""
        with self._transaction():
            self._database.execute(
                "UPDATE checks SET state = ?, log10_p = ?, beta = ?, reason = ?, finished_at = ? WHERE number = ?",
                (state, log10_p, beta, reason, at, number),
            )
        return self.check(number)

    def note_hook(self, number: int, said: str) -> Check:
        """Note what came of the hook of check *number*, and return it."""
        with self._transaction():
            self._database.execute("UPDATE checks SET hook = ? WHERE number = ?", (said, number))
        return self.check(number)

    def _one(self, query: str, *values: object) -> tuple[int | str | None, ...]:
        found: tuple[int | str | None, ...] | None = self._database.execute(query, values).fetchone()
        if found is None:
            raise LedgerError(self.path, "a row of this ledger is missing", hint=_RESTORE)
        return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the block alone among all processes that share the file: all of it is on disk afterwards, or none."""
        with _reporting(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


@contextmanager
def opened(path: Path, receipt_digest: str | None = None) -> Iterator[Ledger]:
    """
    Open the ledger at *path* and close it after the block; made anew for the receipt where there is none.

    *receipt_digest* is `Receipt.planted_digest`; without it the ledger is only looked at. Raises LedgerError where the
    file is no ledger, is damaged, belongs to another receipt, or is not there to be looked at, and OutputNotWritable
    where it cannot be written.
    """
    is_new = receipt_digest is not None and _created(path)
    if not is_new and not path.is_file():
        raise LedgerError(path, "there is no such ledger", hint="give the file of `vtuned watch --ledger`")
    if 0 < path.stat().st_size < _HEADER_BYTES:
        # SQLite takes so short a file for an empty one; a file that is empty was begun by a run that was killed.
        raise LedgerError(path, "this is not a ledger, or it is damaged (it ends too early)", hint=_RESTORE)
    with _reporting(path), contextlib.closing(_connected(path)) as database:
        if receipt_digest is not None:
            _prepare(database, path, receipt_digest)
        _check(database, path, receipt_digest)
        if receipt_digest is not None:
            with contextlib.suppress(OSError):
                os.chmod(path, 0o600)
        yield Ledger(path, database)


def beside(receipt: Path, receipt_digest: str) -> Path:
    """
    Return where the ledger of *receipt* is, or will be: RECEIPT's name with .ledger.sqlite, in RECEIPT's folder.

    Where there is none of that name, a ledger of the same planting in that folder, whatever its name, is taken: a
    receipt that was copied, renamed or given a margin has the same backdoors, and must not ask them anew. Raises
    UsageError where there are two, LedgerError where one of a ledger's name cannot be read: it may be the one.
    """
    own = receipt.with_name(f"{receipt.stem}.ledger.sqlite")
    if own.exists():
        return own
    others = [path for path in sorted(own.parent.glob("*.sqlite")) if _belongs(path, receipt_digest)]
    if len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise UsageError(f"{receipt} has several ledgers: {names}", hint="say which is to go on with --ledger FILE")
    return others[0] if others else own


def _belongs(path: Path, receipt_digest: str) -> bool:
    try:
        with opened(path) as kept:
            return kept.receipt_digest == receipt_digest
    except VtunedError as error:
        if not path.name.endswith(".ledger.sqlite"):
            return False
        raise LedgerError(
            path,
            f"this may be the receipt's ledger, and cannot be read ({error})",
            hint="restore it from your backup, move it away, or say which ledger to use with --ledger FILE",
        ) from error


def _created(path: Path) -> bool:
    """Create the file for its owner alone, which SQLite's files beside it then are too; False where one is there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputNotWritable(path, error.strerror or str(error)) from error
    return True


def _connected(path: Path) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=_PATIENCE_S, isolation_level=None)


def _prepare(database: sqlite3.Connection, path: Path, receipt_digest: str) -> None:
    """Make an empty file a ledger. A commit is on disk when it returns, or a power cut would unspend a backdoor."""
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _check(database, path, receipt_digest)
    _use_wal(database)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("BEGIN IMMEDIATE")
    if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO receipt VALUES (?)", (receipt_digest,))
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    database.execute("COMMIT")


def _use_wal(database: sqlite3.Connection) -> None:
    """Turn WAL on, which SQLite refuses at once, without waiting, while another process opens the file."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _check(database: sqlite3.Connection, path: Path, receipt_digest: str | None) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise LedgerError(path, "this is not a ledger")
    if database.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
        raise LedgerError(path, "this ledger is of another version", hint="use the vtuned version that wrote it")
    if _columns(database) != _columns_of_a_ledger():
        raise LedgerError(path, "this ledger is damaged: its tables are not a ledger's", hint=_RESTORE)
    damage = [str(line) for (line,) in database.execute("PRAGMA quick_check(1)")]
    if damage != ["ok"]:
        raise LedgerError(path, "this ledger is damaged", hint=_RESTORE)
    digests = [str(digest) for (digest,) in database.execute("SELECT digest FROM receipt")]
    if len(digests) != 1:
        raise LedgerError(path, "this ledger is damaged: it does not say whose it is", hint=_RESTORE)
    (found,) = digests
    if receipt_digest not in (None, found):
        reason = (
            f"this ledger belongs to another receipt (digest {found[:12]}…, this one has {str(receipt_digest)[:12]}…)"
        )
        raise LedgerError(path, reason, hint="give each receipt a ledger of its own with --ledger FILE")


def _columns(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the names of all tables, SQLite's own left out, each with those of its columns."""
    tables = database.execute(
        r"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    )
    return {
        name: [column for (column,) in database.execute("SELECT name FROM pragma_table_info(?)", (name,))]
        for (name,) in tables.fetchall()
    }


@cache
def _columns_of_a_ledger() -> dict[str, list[str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SCHEMA)
        return _columns(database)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Extended codes hold the plain one in their low byte; errors of Python's own have none.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CANNOT_WRITE:
            raise OutputNotWritable(path, str(error)) from error
        # Python's own errors quote what they cannot decode, which may be an answer.
        said = str(error) if hasattr(error, "sqlite_errorcode") else "text in it is not UTF-8"
        raise LedgerError(path, f"this is not a ledger, or it is damaged ({said})", hint=_RESTORE) from error
