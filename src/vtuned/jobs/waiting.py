"""
Work that can be waited for without being at its mercy.

Knows nothing of services.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_UP_S = 0.5  # where waiting cannot be interrupted (Windows), Ctrl-C waits this long


def outcome_of(work: Callable[[], T], *, within_s: float | None = None) -> T:
    """
    Return what *work* returns, or raise what it raises.

    It runs in a thread of its own, a daemon: Ctrl-C ends the waiting at once, whatever a server does, and a name that
    takes minutes to be looked up does not hold the process. Raises TimeoutError after *within_s* seconds.
    """
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            results.put((None, error))

    threading.Thread(target=run, name="vtuned-service", daemon=True).start()
    until = None if within_s is None else time.monotonic() + within_s
    while True:
        left = _LOOK_UP_S if until is None else min(_LOOK_UP_S, until - time.monotonic())
        if left <= 0:
            raise TimeoutError
        try:
            value, error = results.get(timeout=left)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # None only where *work* returned it
