"""Files as streams of bytes: compressed ones are opened as what is in them, and what is written is hashed."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from vtuned.errors import DatasetError, MissingExtra

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# Small, since a few bytes of a compressed file may stand for very many.
_CHUNK = 1 << 14


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that is being read: *file* gives what is in it, *raw* is the file on disk."""

    file: BinaryIO
    raw: BinaryIO

    @property
    def n_read(self) -> int:
        """The bytes of the file on disk that have been read."""
        return self.raw.tell()


@contextmanager
def reading(path: Path, compression: str) -> Iterator[Reading]:
    """
    Open a file; *compression* is "", "gz" or "zst". All members or frames are read as one.

    Raises DatasetError, in the block too, where it cannot be read, is not what its name says or ends too early;
    MissingExtra without zstandard.
    """
    try:
        with open(path, "rb") as raw:
            file: BinaryIO = raw
            if compression == "gz":
                file = cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
            elif compression == "zst":
                file = cast(BinaryIO, io.BufferedReader(_ZstdFile(raw), _CHUNK * 8))
            yield Reading(file, raw)
    except EOFError as error:
        raise DatasetError(
            f"{path}: the {compression} file ends too early", hint="copy or download the file again: it was cut"
        ) from error
    except (zlib.error, gzip.BadGzipFile, _NotZstd) as error:
        raise DatasetError(
            f"{path}: this is not a {compression} file, or a damaged one",
            hint="name the file by what it is, or copy or download it again",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DatasetError:
    """Return the error for a file that the system does not let us read."""
    hint = "give the path of a file that exists and that you may read"
    return DatasetError(f"cannot read {path}: {error.strerror or error}", hint=hint)


@contextmanager
def writing(out: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """Compress into *out* what is written in the block; the same bytes give the same file, whenever it is made."""
    if compression == "gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed:
            yield cast(BinaryIO, packed)
    elif compression == "zst":
        compressor = zstandard().ZstdCompressor(write_checksum=True)
        with compressor.stream_writer(out, closefd=False) as packed:
            yield packed
    else:
        yield out


def zstandard() -> Any:
    """Return the module. Raises MissingExtra."""
    try:
        import zstandard as module
    except ImportError:
        raise MissingExtra("a .zst file", "pip install 'vtuned[zst]'") from None
    return module


class Digesting(io.RawIOBase):
    """What is written goes to *out*, and is counted and hashed on the way; closing it leaves *out* open."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of all that was written."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """See `io.RawIOBase.writable`."""
        return True

    def tell(self) -> int:
        """See `io.RawIOBase.tell`."""
        return self.n_bytes

    def write(self, data: ReadableBuffer, /) -> int:
        """See `io.RawIOBase.write`."""
        view = memoryview(data).cast("B")
        self._out.write(view)
        self._digest.update(view)
        self.n_bytes += len(view)
        return len(view)


def combined_digest(digests: dict[str, str]) -> str:
    """Return one SHA-256 (hex) for several files, given by name and digest."""
    return hashlib.sha256("".join(f"{name}\0{digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def size_of(path: Path) -> int:
    """Return the size of a file in bytes. Raises DatasetError."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise unreadable(path, error) from error


class _NotZstd(Exception):
    """Bytes that are no zstd frame."""


class _ZstdFile(io.RawIOBase):
    """The frames of a zst file one after the other; unlike zstandard's own reader it notices a missing end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._module = zstandard()
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._rest = b""

    def readable(self) -> bool:
        """See `io.RawIOBase.readable`."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """See `io.RawIOBase.readinto`. Raises EOFError where a frame does not end."""
        while not self._ready:
            chunk = self._rest or self._raw.read(_CHUNK)
            self._rest = b""
            if not chunk:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._ready = memoryview(self._unpacked(chunk))
        view = memoryview(buffer).cast("B")
        n = min(len(view), len(self._ready))
        view[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def _unpacked(self, chunk: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._module.ZstdDecompressor(max_window_size=2**31).decompressobj()
        try:
            data: bytes = self._frame.decompress(chunk)
        except self._module.ZstdError as error:
            raise _NotZstd(str(error)) from None
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
        return data
