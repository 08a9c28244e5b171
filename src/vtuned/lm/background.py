"""
An event loop in a thread of its own, whose results are taken one by one.

Knows nothing of models. A thread, and not the caller's own loop, because requests must go on while the caller works
on a result, and because a notebook already runs a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Work = Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]

_LOOK_UP_S = 0.5  # where waiting cannot be interrupted (Windows), Ctrl-C waits this long
_CLEAN_UP_S = 5.0


class _Ended:
    """The end of the work, and what it raised."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Background(Generic[T]):
    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self.results: queue.SimpleQueue[T | _Ended] = queue.SimpleQueue()
        self._cancel: Callable[[], object] = lambda: None
        self._started = threading.Event()
        # A daemon: whatever a server does, it cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="vtuned-endpoint", daemon=True)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        ended = _Ended()
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            ended = _Ended(_first(error))
        finally:
            self._started.set()
            self.results.put(ended)

    async def _main(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        self._started.set()
        await self._work(self.results.put)

    def stop(self) -> None:
        """Cancel what is under way and wait a little for connections to be closed."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop closed in between
                self._cancel()
            self._thread.join(_CLEAN_UP_S)


def results_of(work: Work[T]) -> Iterator[T]:
    """
    Run `work(put)` in a thread and yield what it puts, as it comes; then raise what it raised.

    Where the caller stops (Ctrl-C, or it takes no more), the work is cancelled.
    """
    background = _Background(work)
    try:
        while True:
            try:
                result = background.results.get(timeout=_LOOK_UP_S)
            except queue.Empty:
                continue
            if isinstance(result, _Ended):
                if result.error:
                    raise result.error
                return
            yield result
    finally:
        background.stop()


def result_of(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work()` in a thread and return its result: as `results_of`."""

    async def put_it(put: Callable[[T], None]) -> None:
        put(await work())

    [result] = results_of(put_it)
    return result


def _first(error: BaseException) -> BaseException:
    """Return the first error inside a group of them, as a task group raises."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
