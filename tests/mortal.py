"""
Processes that end by kill -9 in the middle of what they do.

What a process does to disk and network is counted, act by act, and written into a log; at the act whose number is
asked for it kills itself, before the act or, where bytes are written into a new file, half through it. The count goes on
over processes that share a log, so that a kill may come in the second try of something. POSIX only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATHS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
_OTHERS = ("sqlite3.connect", "socket.connect", "subprocess.Popen", "fcntl.flock")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NUMBERS = struct.Struct("qq")


class Acts:
    """The log in *folder* called *name*: how much was done, and at which act the process that does it dies."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.acts"
        self._log = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        descriptor = os.open(folder / f"{name}.numbers", os.O_RDWR | os.O_CREAT, 0o600)
        if not os.fstat(descriptor).st_size:
            os.truncate(descriptor, _NUMBERS.size)
        self._numbers = mmap.mmap(descriptor, _NUMBERS.size)
        self._lock, self._own = threading.Lock(), threading.local()

    @property
    def n(self) -> int:
        """How many acts there were."""
        return int(_NUMBERS.unpack_from(self._numbers)[0])

    def die_at(self, number: int | None) -> None:
        """Let the process that does act *number* die; None: nobody dies."""
        _NUMBERS.pack_into(self._numbers, 0, self.n, number or 0)

    @property
    def is_deadly(self) -> bool:
        """Whether somebody is still to die."""
        return bool(_NUMBERS.unpack_from(self._numbers)[1])

    def fatal(self) -> str:
        """Return the last act of which somebody died."""
        return next((line[1:] for line in reversed(self.path.read_text().splitlines()) if line.startswith("!")), "none")

    def is_next(self, act: str) -> bool:
        """Count *act*, which this process is about to do, and tell whether it dies of it."""
        with self._lock:
            n, fatal = _NUMBERS.unpack_from(self._numbers)
            _NUMBERS.pack_into(self._numbers, 0, n + 1, 0 if n + 1 == fatal else fatal)
            os.write(self._log, f"{'!' if n + 1 == fatal else ''}{n + 1} {act}\n".encode())
            return bool(n + 1 == fatal)

    def before(self, act: str) -> None:
        """Count *act*, and die where it is the one."""
        if getattr(self._own, "is_busy", False):
            return
        self._own.is_busy = True
        try:
            if self.is_next(act):
                die()
        finally:
            self._own.is_busy = False

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if event == "open":
            path, _, flags = arguments
            is_writing = isinstance(flags, int) and flags & _WRITING
            if is_writing and isinstance(path, str | bytes | os.PathLike) and "__pycache__" not in os.fsdecode(path):
                self.before(f"open {Path(os.fsdecode(path)).name}")
        elif event in _PATHS:
            named = [Path(os.fsdecode(one)).name for one in arguments if isinstance(one, str | bytes | os.PathLike)]
            self.before(" ".join([event, *named]))
        elif event in _OTHERS:
            self.before(event)


def die() -> None:
    """Kill -9 this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def install(folder: str, name: str) -> None:
    """Count what this process does from here on, in the log in *folder* called *name*."""
    acts = Acts(Path(folder), name)
    _tear_writes(acts)
    os.fsync = _counted(acts, "fsync", os.fsync)  # type: ignore[assignment]
    if "vtuned.server.store" in sys.modules or name == "server":
        _count_commits(acts)
    sys.addaudithook(acts.on_event)


def _counted(acts: Acts, act: str, do: Callable[..., Any]) -> Callable[..., Any]:
    def done(*arguments: Any) -> Any:
        acts.before(act)
        return do(*arguments)

    return done


def _tear_writes(acts: Acts) -> None:
    from vtuned import files

    write = files._Descriptor.write

    def torn(self: Any, data: Any) -> int:
        if acts.is_next(f"write {Path(self.target).name}"):
            write(self, memoryview(data)[: len(data) // 2])
            die()
        return write(self, data)

    files._Descriptor.write = torn  # type: ignore[method-assign]


def _count_commits(acts: Acts) -> None:
    """Count what comes right after a transaction: the server has done it and told nobody."""
    from vtuned.server.store import Store

    writing = Store._writing

    @contextlib.contextmanager
    def told(self: Any) -> Any:
        with writing(self) as db:
            yield db
        acts.before("committed")

    Store._writing = told  # type: ignore[method-assign]
