"""
The one door to disk: lines come in as bytes, files leave whole or not at all.

Knows nothing of JSON, rows or receipts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from vtuned.errors import DatasetError, OutputExists, OutputNotWritable, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BOM = b"\xef\xbb\xbf"

# What link(2) answers where hard links do not exist (FAT, some network and FUSE mounts).
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of a file, byte for byte.

    *number* counts from 1; *offset* is where it starts, in bytes from the start of the file; *raw* is all of it, the
    newline and, on line 1, a byte order mark included.
    """

    number: int
    offset: int
    raw: bytes

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Return (byte order mark, body, newline), which joined are *raw*; a mark is looked for on line 1 only."""
        before = BOM if self.number == 1 and self.raw.startswith(BOM) else b""
        after = b"\r\n" if self.raw.endswith(b"\r\n") else b"\n" if self.raw.endswith(b"\n") else b""
        return before, self.raw[len(before) : len(self.raw) - len(after)], after

    @property
    def body(self) -> bytes:
        """The line without its newline and without a byte order mark."""
        return self.parts()[1]

    @property
    def is_blank(self) -> bool:
        """Whether nothing but JSON's white space is on the line."""
        return not self.body.strip(b" \t\r\n")


def read_lines(path: Path | str) -> Iterator[Line]:
    """
    Yield the lines of a file, one in memory at a time; only a line feed ends a line.

    Raises DatasetError, on the first step, if the file cannot be read.
    """
    offset = 0
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                yield Line(number, offset, raw)
                offset += len(raw)
    except OSError as error:
        raise _unreadable(path, error) from error


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes in lower-case hex. Raises DatasetError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def check_target(path: Path | str, *, force: bool) -> None:
    """
    Fail early, before long work, if *path* cannot be written.

    Raises OutputExists if something is there and not *force*; OutputNotWritable if the folder is missing or
    read-only, or if *path* is a folder or a device. A full disk shows only on writing.
    """
    found = _stat(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OutputNotWritable(path, "it is a folder")
    if os.path.lexists(path) and not force:
        raise OutputExists(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OutputNotWritable(path, "it is not a regular file")
    folder = Path(os.path.realpath(path)).parent
    if _stat(folder) is None:
        raise OutputNotWritable(path, f"there is no folder {folder}")
    if not folder.is_dir():
        raise OutputNotWritable(path, f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputNotWritable(path, f"the folder {folder} is read-only")


def check_distinct(output: Path | str, *inputs: Path | str) -> None:
    """Raise UsageError if *output* is one of the *inputs*: not even --force may destroy what is being read."""
    for given in inputs:
        if os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
            raise UsageError(f"{output} is an input of this command", hint="choose another name for the output")


def check_folder(path: Path) -> None:
    """Raise OutputNotWritable if *path* can be no folder of ours: a file, or in a place where nobody may write."""
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputNotWritable(path, f"{folder} is not a folder")
    try:
        probe = folder / f".vtuned-{secrets.token_hex(8)}.tmp"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputNotWritable(path, error.strerror or str(error)) from error


@contextmanager
def atomic_writers(*targets: tuple[Path | str, bool], force: bool) -> Iterator[list[BinaryIO]]:
    """
    Write several files together: all of them appear when the block ends, or none does.

    A target is (path, secret): a secret file gets mode 0600, any other what the umask leaves. The bytes go to
    nameless temporary files in the targets' folders and are put in place in the order given. Whatever ends the block
    early, Ctrl-C included, leaves the targets as they were. Should putting a later file in place fail, the earlier
    ones are taken back, save those that *force* has already made replace an older file.

    Raises OutputExists, OutputNotWritable, or UsageError if two targets are one file.
    """
    outputs = [_Output(path, secret) for path, secret in targets]
    if len({output.final for output in outputs}) < len(outputs):
        raise UsageError(
            "two outputs have the same path: " + ", ".join(str(output.path) for output in outputs),
            hint="give each output its own path",
        )
    for output in outputs:
        check_target(output.path, force=force)
    try:
        yield [output.open() for output in outputs]
        for output in outputs:
            output.finish()
        _place_all(outputs, force=force)
    finally:
        for output in outputs:
            output.discard()


@contextmanager
def atomic_writer(path: Path | str, *, force: bool, secret: bool = False) -> Iterator[BinaryIO]:
    """Write one file that appears whole when the block ends, or not at all. See `atomic_writers`."""
    with atomic_writers((path, secret), force=force) as (file,):
        yield file


def write_bytes(path: Path | str, data: bytes, *, force: bool, secret: bool = False) -> None:
    """Write *data* to a file, atomically. See `atomic_writers`."""
    with atomic_writer(path, force=force, secret=secret) as file:
        file.write(data)


class _Output:
    """One target and the temporary file that will become it."""

    def __init__(self, path: Path | str, secret: bool) -> None:
        self.path, self.secret = path, secret
        # A link is written through: the file that it points to is replaced, not the link.
        self.final = Path(os.path.realpath(path))
        self.temporary = self.final.parent / f".vtuned-{secrets.token_hex(8)}.tmp"
        self.file: BinaryIO | None = None
        self.identity: tuple[int, int] | None = None
        self.was_there = False

    def open(self) -> BinaryIO:
        """Create the temporary file, with the mode that it is to keep: the kernel applies the umask."""
        with _reporting(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self.temporary, flags, 0o600 if self.secret else 0o666)
            self.file = cast(BinaryIO, io.BufferedWriter(_Descriptor(descriptor, self.path)))
            found = os.fstat(descriptor)
            self.identity = found.st_dev, found.st_ino
            return self.file

    def finish(self) -> None:
        """Bring the bytes to disk and close the temporary file."""
        assert self.file is not None
        with _reporting(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            if self.secret:
                os.chmod(self.temporary, 0o600)

    def place(self, *, force: bool) -> None:
        """Give the temporary file its final name."""
        with _reporting(self.path):
            self.was_there = os.path.lexists(self.final)
            if force:
                os.replace(self.temporary, self.final)
            else:
                _link(self.temporary, self.final)
        _sync_folder(self.final.parent)

    def take_back(self) -> None:
        """Remove the final file if it is ours and replaced nothing."""
        with contextlib.suppress(OSError):
            found = os.lstat(self.final)
            if (found.st_dev, found.st_ino) == self.identity and not self.was_there:
                os.unlink(self.final)

    def discard(self) -> None:
        """Close and remove the temporary file, if it is still there."""
        if self.file is not None:
            # Closing flushes, which fails again on a full disk; the first failure is on its way already.
            with contextlib.suppress(OSError, OutputNotWritable):
                self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)


class _Descriptor(io.FileIO):
    """A file whose failed writes name the target, so that a full disk is told apart from failures of the caller."""

    def __init__(self, descriptor: int, target: Path | str) -> None:
        super().__init__(descriptor, "wb")
        self.target = target

    def write(self, data: ReadableBuffer, /) -> int:
        """See `io.FileIO.write`. Raises OutputNotWritable."""
        with _reporting(self.target):
            return super().write(data)


def _place_all(outputs: list[_Output], *, force: bool) -> None:
    try:
        for output in outputs:
            output.place(force=force)
    except BaseException:
        for output in outputs:
            output.take_back()
        raise


def _link(temporary: Path, final: Path) -> None:
    """Name the file *final* unless that name is taken (FileExistsError)."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Without hard links: take the name first, then replace our own empty file.
        os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            os.replace(temporary, final)
        except BaseException:
            os.unlink(final)
            raise


def _sync_folder(folder: Path) -> None:
    """Bring the folder's names to disk, where the system lets us open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _reporting(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into OutputExists or OutputNotWritable for *path*."""
    try:
        yield
    except FileExistsError as error:
        raise OutputExists(path) from error
    except OSError as error:
        raise OutputNotWritable(path, error.strerror or str(error)) from error


def _stat(path: Path | str) -> os.stat_result | None:
    """Return what is at *path*, links followed, or None. Raises OutputNotWritable if that cannot be told."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputNotWritable(path, getattr(error, "strerror", None) or str(error)) from error


def _unreadable(path: Path | str, error: OSError) -> DatasetError:
    hint = "give the path of a file that exists and that you may read"
    return DatasetError(f"cannot read {path}: {error.strerror or error}", hint=hint)
