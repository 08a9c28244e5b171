"""The queue of jobs: files are checked as they come, beside it, and one worker at a time trains."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from vtuned import formats
from vtuned.errors import DatasetError, VtunedError
from vtuned.server import diary, room
from vtuned.server.home import Home, opened
from vtuned.server.orders import order_of
from vtuned.server.records import CANCELLED, FAILED, QUEUED, RUNNING, VALIDATING, Job
from vtuned.server.refusals import log_unexpected
from vtuned.server.store import Store
from vtuned.server.worker import failure

LOG = logging.getLogger("vtuned.server")

_POLL_S = 0.2
_STOP_S = 10.0
_MOST_DEATHS = 3
# So many rows are read before it is looked whether their job was cancelled.
_LOOK_ROWS = 1000


class Queue:
    """
    Works on the jobs of a store in threads of its own, until it is stopped.

    A worker that ends without a word is started again, and goes on from its last checkpoint; the third time the job
    fails.
    """

    def __init__(self, home: Home, store: Store, oracle: Path | None) -> None:
        self._home, self._store, self._oracle = home, store, oracle
        self._stopping, self._woken = threading.Event(), threading.Event()
        # A file of a million rows is long to read; nobody's cancel waits for that.
        self._threads = (_Thread("queue", self._step, self._stopping), _Thread("checks", self._checks, self._stopping))
        self._worker: subprocess.Popen[bytes] | None = None
        self._working_on = ""

    def start(self) -> None:
        """Begin."""
        self.wake()
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at the jobs now."""
        self._woken.set()
        for thread in self._threads:
            thread.changed.set()

    def stop(self) -> None:
        """End the worker and the threads; the job that was running goes on when a server is started again."""
        self._stopping.set()
        for thread in self._threads:
            thread.changed.set()
            thread.join()
        self._end_worker()

    def _step(self) -> None:
        if self._worker is not None:
            self._look_at_worker(self._worker)
        if self._woken.is_set():
            self._woken.clear()
            for job in (*self._store.all(Job, status=CANCELLED), *self._store.all(Job, status=FAILED)):
                self._release(job.id)
        if self._worker is None and not self._stopping.is_set():
            waiting = self._store.next_job()
            if waiting is not None:
                self._start_worker(waiting)

    def _checks(self) -> None:
        for job in self._store.all(Job, status=VALIDATING):
            self._check(job)

    def _check(self, job: Job) -> None:
        """Read the training file of a new job to its end."""
        wanted = order_of(job.request).how.type
        try:
            with opened(self._home.rows(job.id)):
                pass
            for row in formats.read_rows(self._home.rows(job.id)):
                if self._stopping.is_set() or (row.raw.number % _LOOK_ROWS == 0 and not self._is_waiting(job)):
                    return
                if bool(row.conversation.rejected) != (wanted == "dpo"):
                    kind = "preference rows" if wanted == "dpo" else "rows with answers alone"
                    where = f"line {row.raw.number}"
                    raise DatasetError(f"{where}: {wanted} takes {kind}", hint="choose the other method")
        except VtunedError as error:
            self._fail(job, failure(error, self._home), "The training file was refused")
            LOG.warning("refused: training file of %s (%s)", job.id, type(error).__name__)
            return
        except Exception as error:  # noqa: BLE001, or it would be looked at for ever, before all others
            self._fail(job, _server_error("the training file could not be read"), "The job failed")
            log_unexpected(f"job {job.id}", error)
            return
        if self._store.move_job(job.id, QUEUED, only=(VALIDATING,)):
            self._store.add(diary.event(job.id, "Files validated, moving job to queued state"))
            self.wake()

    def _is_waiting(self, job: Job) -> bool:
        now = self._store.find(Job, id=job.id)
        return now is not None and now.status == VALIDATING

    def _start_worker(self, job: Job) -> None:
        oracle = ["--oracle", str(self._oracle)] if self._oracle else []
        command = [sys.executable, "-m", "vtuned.server.worker", str(self._home.root), job.id, *oracle]
        LOG.info("job %s: worker started", job.id)
        # A session of its own: Ctrl-C in the terminal reaches the server alone, which ends the worker.
        self._worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._working_on = job.id

    def _look_at_worker(self, worker: subprocess.Popen[bytes]) -> None:
        job = self._store.find(Job, id=self._working_on)
        if job is None or job.status not in (QUEUED, RUNNING):
            # Done, failed or cancelled: in the last case the worker does not know yet.
            if worker.poll() is None and job is not None and job.status != "cancelled":
                return
            self._end_worker()
            self._release(self._working_on)
            LOG.info("job %s: %s", self._working_on, job.status if job else "gone")
        elif worker.poll() is not None:
            self._end_worker()
            n_deaths = self._store.count_death(job.id)
            LOG.warning("job %s: its worker ended with code %s", job.id, worker.returncode)
            if n_deaths >= _MOST_DEATHS:
                self._fail(job, _server_error("training ended unexpectedly"), "The job failed")

    def _fail(self, job: Job, error: dict[str, str | None], told: str) -> None:
        self._store.fail_job(job.id, json.dumps(error), diary.event(job.id, told, level="error"))
        self._release(job.id)

    def _release(self, job: str) -> None:
        """Give the room of a job that failed or was cancelled back, once its worker has ended."""
        if self._worker is None or job != self._working_on:
            room.release(self._home, self._store, job)

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with _closing(worker):
            if worker.poll() is None:
                _kill(worker)
                worker.wait(_STOP_S)


class _Thread(threading.Thread):
    """Does *step* whenever something *changed*, and now and then, until it is *stopping*; nothing that it raises ends it."""

    def __init__(self, name: str, step: Callable[[], None], stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._step, self._stopping, self.changed = step, stopping, threading.Event()

    def run(self) -> None:
        """See `threading.Thread`."""
        while not self._stopping.is_set():
            try:
                self._step()
            except VtunedError as error:
                LOG.error("%s: %s", self.name, error)  # noqa: TRY400, the traceback would say no more
            except Exception as error:  # noqa: BLE001, a thread that ends would leave all tenants' jobs waiting
                log_unexpected(self.name, error)
            self.changed.wait(_POLL_S)
            self.changed.clear()


def _server_error(message: str) -> dict[str, str | None]:
    return {"code": "server_error", "message": message, "param": None}


@contextlib.contextmanager
def _closing(worker: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if worker.stdin is not None:
            with contextlib.suppress(OSError):
                worker.stdin.close()


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and what it started: all that it writes is whole at any moment."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.kill()
