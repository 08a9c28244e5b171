"""
Everything vtuned raises on purpose.

* VtunedError                 .hint
  + UsageError
  + DatasetError
    - UnreadableRow           .path .line .offset .reason
    - UnknownFormat           .path .line .offset .keys
    - EmptyDataset            .path
    - TooFewRows              .found .needed
    - RefusedByProvider       .path .provider .codes
  + GenerationError
  + ReceiptError
    - ReceiptTampered         .path .expected .actual
    - UnsupportedReceipt      .found .supported
    - WrongDataset            .path .expected .actual
  + AnswersError              .path .line .reason
  + LedgerError               .path .reason
  + RunError                  .path .reason
  + OutputError
    - OutputExists            .path
    - OutputNotWritable       .path .reason
  + MissingExtra              .feature .command
  + LMError                   (the model could not be asked: exit code 3)
    - UnknownLM               .name            (a bad argument: exit code 2)
    - LMUnavailable           .name .reason
  + ServiceError              .service .reason     (a service could not be asked: exit code 3)
    - ServiceRefused          .service .reason     (what it was given is bad: exit code 2)
    - JobFailed               .service .reason .id

Exit codes: 2 for bad arguments, data, receipts, answers, outputs and missing extras; 3 when a model or a service could
not be reached. A suspect that fails the test is NOT an error: see `vtuned.verdict.Verdict`.
No message ever holds a trigger, a signature or a key.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Protocol

EXIT_BAD_INPUT = 2
EXIT_COULD_NOT_TELL = 3
EXIT_INTERRUPTED = 130


class VtunedError(Exception):
    """Base of everything that vtuned raises on purpose: one line that says what and where, and a hint."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VtunedError):
    """Arguments that contradict each other or are out of range."""


class DatasetError(VtunedError):
    """The data set cannot be used as it is."""


class Located(Protocol):
    """Where a row is: *number* (from 1) of its *unit*, "line" or "row"; *offset* in bytes, None where it has none."""

    @property
    def path(self) -> Path | str:
        """The file."""

    @property
    def unit(self) -> str:
        """What the file counts."""

    @property
    def number(self) -> int:
        """Which one."""

    @property
    def offset(self) -> int | None:
        """Where it starts."""


class UnreadableRow(DatasetError):
    """A row that is not UTF-8, not JSON, or breaks its format; *line* is its number from 1, *offset* is in bytes."""

    def __init__(self, where: Located, reason: str, *, hint: str = "") -> None:
        self.path, self.line, self.offset, self.reason = str(where.path), where.number, where.offset, reason
        super().__init__(
            f"{place_of(where)}: {reason}", hint=hint or f"mend or remove that {where.unit}; nothing was written"
        )


class UnknownFormat(DatasetError):
    """A row whose keys belong to no known format, or to another format than the rows before it."""

    def __init__(self, where: Located, keys: Iterable[str], expected: str, *, looks_like: str | None = None) -> None:
        self.path, self.line, self.offset, self.keys = str(where.path), where.number, where.offset, tuple(keys)
        shown = ", ".join(repr(str(key)[:40]) for key in self.keys[:8]) or "no keys"
        found = f"this looks like {looks_like}" if looks_like else "unknown row format"
        super().__init__(
            f"{place_of(where)}: {found} with {shown}",
            hint=("convert it first: " if looks_like else "") + f"expected {expected}",
        )


class EmptyDataset(DatasetError):
    """A file without a single row."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: no rows in this file", hint="give a file with one conversation a row")


class TooFewRows(DatasetError):
    """Fewer rows that can carry a backdoor than the plan needs."""

    def __init__(self, found: int, needed: int, *, why: str = "", hint: str = "") -> None:
        self.found, self.needed = found, needed
        super().__init__(
            f"{needed} rows are needed, but only {found} can carry a backdoor{why}",
            hint=hint or "lower --backdoors or --copies, or give more data",
        )


class RefusedByProvider(DatasetError):
    """A file that breaks rules for which its provider documents that it refuses files; *codes* name them."""

    def __init__(self, path: Path | str, provider: str, codes: Iterable[str], reason: str, *, hint: str) -> None:
        self.path, self.provider, self.codes = str(path), provider, tuple(codes)
        super().__init__(f"{path}: {provider} would refuse this file: {reason}", hint=hint)


class GenerationError(VtunedError):
    """No phrase could be drawn within the plan's number of draws."""


class ReceiptError(VtunedError):
    """The receipt cannot be used: not a receipt, or one that breaks its own rules."""


class ReceiptTampered(ReceiptError):
    """The receipt's content does not match the digest written into it."""

    def __init__(self, path: Path | str, expected: str, actual: str) -> None:
        self.path, self.expected, self.actual = str(path), expected, actual
        super().__init__(
            f"{path}: the receipt was changed after it was written (digest {actual[:12]}…, it says {expected[:12]}…)",
            hint="use the receipt as `vtuned plant` wrote it; restore it from your backup",
        )


class UnsupportedReceipt(ReceiptError):
    """A receipt of another version of the format."""

    def __init__(self, path: Path | str, found: str, supported: str) -> None:
        self.path, self.found, self.supported = str(path), found, supported
        super().__init__(
            f"{path}: receipt format {found!r} is not supported (this version reads {supported!r})",
            hint="use the vtuned version that wrote it",
        )


class WrongDataset(ReceiptError):
    """A file that is not the one the receipt was made for."""

    def __init__(self, path: Path | str, expected: str, actual: str) -> None:
        self.path, self.expected, self.actual = str(path), expected, actual
        super().__init__(
            f"{path}: this receipt belongs to another file (SHA-256 {expected[:12]}…, this file has {actual[:12]}…)",
            hint="give the training file that `vtuned plant` wrote together with this receipt, unchanged",
        )


class AnswersError(VtunedError):
    """A probes or answers file that does not fit its schema or its receipt; *line* counts from 1."""

    def __init__(self, path: Path | str, line: int, reason: str, *, hint: str = "") -> None:
        self.path, self.line, self.reason = str(path), line, reason
        super().__init__(f"{path}, line {line}: {reason}" if line else f"{path}: {reason}", hint=hint)


class LedgerError(VtunedError):
    """A ledger of `vtuned watch` that is none, is damaged, or belongs to another receipt."""

    def __init__(self, path: Path | str, reason: str, *, hint: str = "give another file with --ledger") -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}", hint=hint)


class RunError(VtunedError):
    """A run directory that is none, is damaged, belongs to other data, or cannot do what is asked of it."""

    def __init__(self, path: Path | str, reason: str, *, hint: str = "give another folder with --run") -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}", hint=hint)


class OutputError(VtunedError):
    """A file that cannot be written."""


class OutputExists(OutputError):
    """The target is already there."""

    def __init__(self, path: Path | str, *, hint: str = "choose another name, or overwrite it with --force") -> None:
        self.path = str(path)
        super().__init__(f"{path} already exists", hint=hint)


class OutputNotWritable(OutputError):
    """The target's folder is missing, read-only or full."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"cannot write {path}: {reason}", hint="choose a folder that exists and that you may write to")


class MissingExtra(VtunedError):
    """A feature whose packages are not installed; *command* installs them."""

    def __init__(self, feature: str, command: str) -> None:
        self.feature, self.command = feature, command
        super().__init__(f"{feature} needs packages that are not installed", hint=f"run: {command}")


class LMError(VtunedError):
    """A model that could not be asked. Never a miss."""

    exit_code = EXIT_COULD_NOT_TELL


class UnknownLM(LMError):
    """A model name that says no known kind."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"unknown model {name!r}", hint="known kinds: " + ", ".join(known))


class LMUnavailable(LMError):
    """A model that is known but cannot be loaded or reached."""

    def __init__(self, name: str, reason: str, *, hint: str = "") -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name}: {reason}", hint=hint)


class ServiceError(VtunedError):
    """A fine-tuning service that could not be asked, or of which it is not known whether it did what it was asked."""

    exit_code = EXIT_COULD_NOT_TELL

    def __init__(self, service: str, reason: str, *, hint: str = "") -> None:
        self.service, self.reason = service, reason
        super().__init__(f"{service}: {reason}", hint=hint)


class ServiceRefused(ServiceError):
    """A request that a service turned down for what is in it: nothing was done."""

    exit_code = EXIT_BAD_INPUT


class JobFailed(ServiceError):
    """A fine-tuning job that ended without a model."""

    def __init__(self, service: str, id: str, reason: str, *, hint: str = "") -> None:
        self.id = id
        super().__init__(service, f"job {id} {reason}", hint=hint)


def raised(error: BaseException) -> str:
    """Return of which kind *error* is and where it was raised, without what it says: that may hold somebody's rows."""
    places = traceback.extract_tb(error.__traceback__)
    where = f"{PurePath(places[-1].filename).name}:{places[-1].lineno}" if places else "nowhere"
    return f"{type(error).__name__} at {where}"


def place_of(where: Located) -> str:
    """Return where a row is, as messages say it."""
    offset = "" if where.offset is None else f" (byte {where.offset})"
    return f"{where.path}, {where.unit} {where.number}{offset}"
