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
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from vtuned.errors import DatasetError, OutputExists, OutputNotWritable, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BOM = b"\xef\xbb\xbf"

_TEMPORARY = re.compile(r"\.vtuned-[0-9a-f]{16}\.tmp")

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
        return before, *parted(self.raw[len(before) :])

    @property
    def body(self) -> bytes:
        """The line without its newline and without a byte order mark."""
        return self.parts()[1]

    @property
    def is_blank(self) -> bool:
        """Whether nothing but JSON's white space is on the line."""
        return not self.body.strip(b" \t\r\n")


def parted(raw: bytes) -> tuple[bytes, bytes]:
    """Return a line without its newline, and that."""
    if raw.endswith(b"\r\n"):
        return raw[:-2], b"\r\n"
    return (raw[:-1], b"\n") if raw.endswith(b"\n") else (raw, b"")


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


def check_folder_target(target: FolderTarget, *, force: bool) -> None:
    """
    Fail early, before long work, if *target* cannot be written.

    Raises OutputExists if something is there and not *force* or, with *force*, if a folder there holds anything but
    files of the names that are to be written; OutputNotWritable as `check_target` does.
    """
    found = _stat(target.path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        if found is not None and force:
            raise OutputNotWritable(target.path, "it is not a folder")
        check_target(target.path, force=force)
        return
    if not force:
        raise OutputExists(target.path)
    target.check_only_ours(Path(target.path))
    check_target(Path(os.path.realpath(target.path)) / secrets.token_hex(8), force=force)
    check_target(Path(os.path.realpath(target.path)).parent / secrets.token_hex(8), force=force)


def check_distinct(output: Path | str, *inputs: Path | str) -> None:
    """Raise UsageError if *output* is one of the *inputs*: not even --force may destroy what is being read."""
    for given in inputs:
        if os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
            raise UsageError(f"{output} is an input of this command", hint="choose another name for the output")


def check_outside(path: Path | str, folder: Path | str, what: str) -> None:
    """Raise UsageError if *path* is *folder* or lies in it, links followed; *what* says what the folder is. Or OutputNotWritable."""
    for one in (path, folder):
        _stat(one)
    place = Path(os.path.realpath(path))
    if any(_is_same(parent, folder) for parent in (place, *place.parents)):
        raise UsageError(f"{path} lies in {folder}, {what}", hint="give a place outside that folder")


def stamp_of(path: Path | str) -> tuple[int, int, int]:
    """Return what tells that a file was changed or replaced. Raises DatasetError if that cannot be told."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_size, found.st_mtime_ns, found.st_ino


def check_folder(path: Path) -> None:
    """Raise OutputNotWritable if *path* can be no folder of ours: a file, or in a place where nobody may write."""
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputNotWritable(path, f"{folder} is not a folder")
    # What this leaves where it is killed in its middle, the same command removes when it is given again.
    _sweep(folder)
    try:
        probe = _temporary_in(folder)
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)  # another process may have swept it
    except OSError as error:
        raise OutputNotWritable(path, error.strerror or str(error)) from error


@dataclass(frozen=True, slots=True)
class FolderTarget:
    """A folder to write: *names* are those of the files that it will hold. A *secret* one gets mode 0700."""

    path: Path | str
    names: frozenset[str]
    secret: bool = False

    def check_only_ours(self, folder: Path) -> None:
        """Raise OutputExists if *folder* holds anything but files of these names: nothing else is ever removed."""
        with _reporting(self.path):
            odd = sorted(e.name for e in os.scandir(folder) if e.name not in self.names or not _is_plain(e))
        if odd:
            raise OutputExists(
                self.path, hint=f"choose another folder: this one holds {odd[0]}, which is not ours to overwrite"
            )


Target: TypeAlias = tuple[Path | str, bool] | FolderTarget


@contextmanager
def atomic_writers(*targets: Target, force: bool) -> Iterator[list[BinaryIO | Path]]:
    """
    Write several files or folders together: all of them appear when the block ends, or none does.

    A target is (path, secret): a secret file gets mode 0600, any other what the umask leaves; or a folder, for which
    the block is given the path of an empty one to write files into (see `new_file`). The bytes go to
    nameless temporary files in the targets' folders and are put in place in the order given. Whatever ends the block
    early, Ctrl-C included, leaves the targets as they were. Should putting a later one in place fail, the earlier
    ones are taken back, save files that *force* has already made replace an older file.

    Raises OutputExists, OutputNotWritable, or UsageError if two targets are one file.
    """
    outputs = [_OutputFolder(t) if isinstance(t, FolderTarget) else _Output(*t) for t in targets]
    if len({output.final for output in outputs}) < len(outputs):
        raise UsageError(
            "two outputs have the same path: " + ", ".join(str(output.path) for output in outputs),
            hint="give each output its own path",
        )
    for folder in outputs:
        for output in outputs:
            if isinstance(folder, _OutputFolder) and output is not folder:
                check_outside(output.path, folder.path, "a folder that is written as a whole")
    for output in outputs:
        output.check(force=force)
    try:
        yield [output.open() for output in outputs]
        for output in outputs:
            output.finish()
        _place_all(outputs, force=force)
    except OutputNotWritable as error:
        raise next((told for output in outputs if (told := output.told(error))), error) from error.__cause__
    finally:
        for output in outputs:
            output.discard()


@contextmanager
def atomic_writer(path: Path | str, *, force: bool, secret: bool = False) -> Iterator[BinaryIO]:
    """Write one file that appears whole when the block ends, or not at all. See `atomic_writers`."""
    with atomic_writers((path, secret), force=force) as (file,):
        assert not isinstance(file, Path)
        yield file


def write_bytes(path: Path | str, data: bytes, *, force: bool, secret: bool = False) -> None:
    """Write *data* to a file, atomically. See `atomic_writers`."""
    with atomic_writer(path, force=force, secret=secret) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """
    Create a file in a folder that `atomic_writers` gave, and bring it to disk when the block ends.

    Raises OutputNotWritable, in the block too.
    """
    with _reporting(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
    file = cast(BinaryIO, io.BufferedWriter(_Descriptor(descriptor, path)))
    try:
        yield file
        with _reporting(path):
            file.flush()
            os.fsync(file.fileno())
    finally:
        # Closing flushes, which fails again on a full disk; the first failure is on its way already.
        with contextlib.suppress(OSError, OutputNotWritable):
            file.close()


class _Output:
    """One target and the temporary file that will become it."""

    def __init__(self, path: Path | str, secret: bool) -> None:
        self.path, self.secret = path, secret
        # A link is written through: the file that it points to is replaced, not the link.
        self.final = Path(os.path.realpath(path))
        self.temporary = _temporary_in(self.final.parent)
        self.file: BinaryIO | None = None
        self.held: int | None = None
        self.identity: tuple[int, int] | None = None
        self.was_there = False

    def check(self, *, force: bool) -> None:
        """See `check_target`."""
        check_target(self.path, force=force)

    def open(self) -> BinaryIO:
        """Create the temporary file, with the mode that it is to keep: the kernel applies the umask."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with _reporting(self.path):
            _sweep(self.final.parent)
            while True:
                descriptor = os.open(self.temporary, flags, 0o600 if self.secret else 0o666)
                self.file = cast(BinaryIO, io.BufferedWriter(_Descriptor(descriptor, self.path)))
                self.held = os.dup(descriptor)
                found = os.fstat(descriptor)
                if _is_held(self.held):
                    break
                self.discard()
                self.temporary = _temporary_in(self.final.parent)
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

    def told(self, error: OutputNotWritable) -> OutputNotWritable | None:
        """See `_OutputFolder.told`: a file's errors name it anyway."""

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
        _let_go(self)


class _OutputFolder:
    """One folder, the temporary one that will become it, and the older one that it takes the place of."""

    def __init__(self, target: FolderTarget) -> None:
        self.target, self.path = target, target.path
        self.final = Path(os.path.realpath(target.path))
        self.temporary = _temporary_in(self.final.parent)
        self.older = self.final.parent / f".vtuned-{secrets.token_hex(8)}.old"
        self.held: int | None = None
        self.identity: tuple[int, int] | None = None

    def check(self, *, force: bool) -> None:
        """See `check_folder_target`."""
        check_folder_target(self.target, force=force)

    def open(self) -> Path:
        """Create the temporary folder."""
        with _reporting(self.path):
            _sweep(self.final.parent)
            self._make()
            while not self._is_held():
                self.temporary = _temporary_in(self.final.parent)
                self._make()
            found = self.temporary.stat()
        self.identity = found.st_dev, found.st_ino
        return self.temporary

    def _make(self) -> None:
        self.temporary.mkdir(0o700 if self.target.secret else 0o777)

    def _is_held(self) -> bool:
        """See `_is_held`; where the system knows no locks a folder cannot be opened."""
        _let_go(self)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            self.held = os.open(self.temporary, os.O_RDONLY)
        return _is_held(self.held) if self.held is not None else self.temporary.is_dir()

    def finish(self) -> None:
        """Bring the names in the folder to disk; its files are there already."""
        self.target.check_only_ours(self.temporary)
        _sync_folder(self.temporary)

    def told(self, error: OutputNotWritable) -> OutputNotWritable | None:
        """Return *error* with the final name of a file in the temporary folder, None if it is about another file."""
        path = Path(error.path)
        if not path.is_relative_to(self.temporary):
            return None
        return OutputNotWritable(Path(self.path) / path.relative_to(self.temporary), error.reason)

    def place(self, *, force: bool) -> None:
        """Give the temporary folder its final name, and move an older folder out of the way."""
        with _reporting(self.path):
            if force and os.path.lexists(self.final):
                self.final.rename(self.older)
                self.target.check_only_ours(self.older)
            elif os.path.lexists(self.final):
                raise FileExistsError
            self.temporary.rename(self.final)
        _sync_folder(self.final.parent)

    def take_back(self) -> None:
        """Put the older folder, or nothing, in the place of ours."""
        with contextlib.suppress(OSError):
            if self._is_placed():
                self.final.rename(self.temporary)
            if os.path.lexists(self.older):
                self.older.rename(self.final)

    def discard(self) -> None:
        """Remove the temporary folder and, once ours is in place, the older one: the files that we write, and it."""
        _remove(self.temporary, self.target.names)
        if self._is_placed():
            _remove(self.older, self.target.names)
        _let_go(self)

    def _is_placed(self) -> bool:
        with contextlib.suppress(OSError):
            found = os.lstat(self.final)
            return (found.st_dev, found.st_ino) == self.identity
        return False


class _Descriptor(io.FileIO):
    """A file whose failed writes name the target, so that a full disk is told apart from failures of the caller."""

    def __init__(self, descriptor: int, target: Path | str) -> None:
        super().__init__(descriptor, "wb")
        self.target = target

    def write(self, data: ReadableBuffer, /) -> int:
        """See `io.FileIO.write`. Raises OutputNotWritable."""
        with _reporting(self.target):
            return super().write(data)


def _temporary_in(folder: Path) -> Path:
    return folder / f".vtuned-{secrets.token_hex(8)}.tmp"


def _is_held(descriptor: int) -> bool:
    """
    Lock a temporary file for as long as it is open, which tells others that somebody is at work on it.

    Return False where it was swept before it was locked. Where the system knows no locks nothing is ever swept.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


def _let_go(output: _Output | _OutputFolder) -> None:
    if output.held is not None:
        os.close(output.held)
        output.held = None


def _sweep(folder: Path) -> None:
    """Remove the temporary files and folders that writers of ours left in *folder* when they were killed."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        for entry in list(os.scandir(folder)):
            if not _TEMPORARY.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError), contextlib.ExitStack() as held:
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                held.callback(os.close, descriptor)
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _drop(entry)


def _drop(entry: os.DirEntry[str]) -> None:
    """Remove a file, or a folder of files."""
    if entry.is_dir(follow_symlinks=False):
        for one in os.scandir(entry.path):
            os.unlink(one.path)
        Path(entry.path).rmdir()
    else:
        os.unlink(entry.path)


def _remove(folder: Path, names: frozenset[str]) -> None:
    """Remove the files of these names in *folder* and, if nothing else is there, the folder."""
    with contextlib.suppress(OSError):
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / name)
        folder.rmdir()


def _is_same(path: Path, folder: Path | str) -> bool:
    """Tell whether both are one place, which need not be there; *path* holds no links."""
    try:
        return os.path.samefile(path, folder)
    except OSError:
        return path == Path(os.path.realpath(folder))


def _is_plain(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _place_all(outputs: Sequence[_Output | _OutputFolder], *, force: bool) -> None:
    try:
        for output in outputs:
            output.place(force=force)
    except BaseException:
        for output in reversed(outputs):
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
def locked(file: BinaryIO, path: Path) -> Iterator[None]:
    """Keep other processes from appending to *file*, where the system can (POSIX)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputNotWritable(path, "another run is writing to it") from None
    except OSError:
        # Some network file systems know no locks; what is appended stays whole lines all the same.
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


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
