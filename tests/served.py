"""A real server in a process of its own, on a free port, and one in a thread; both with a tiny model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DONE = ("succeeded", "failed", "cancelled")


# A shell makes what it starts in the background deaf to SIGINT, and so all that comes of it.
_HEARS_CTRL_C = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vtuned.cli import main; main()"
)


class Server:
    """
    `vtuned provider serve` in a process: *url* once it takes requests.

    *arguments* are the command's own, such as "--policy", "base". `kill` is kill -9; `stop` is SIGTERM; `start` starts it
    again on the same folder and port. *before* is Python that its process runs first.
    """

    def __init__(self, data: Path, model: Path | str, *arguments: object, before: str = "") -> None:
        self.data = data
        self._code = before + _HEARS_CTRL_C
        self._arguments = [
            "--data",
            data,
            "--model",
            f"tiny={model if ':' in str(model) or model == 'smollm2' else f'hf:{model}'}",
            *arguments,
        ]
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.log: list[str] = []

    def start(self, seconds: float = 120.0) -> Server:
        """Start the server and wait until it takes requests."""
        port = self.url.rpartition(":")[2].partition("/")[0] or "0"
        command = [sys.executable, "-c", self._code, "provider", "serve", "--json", "--port", port, *self._arguments]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert self.process.stdout is not None
        threading.Thread(target=self._read_log, args=(self.process,), daemon=True).start()
        told: list[str] = []
        reader = threading.Thread(target=self._read_answer, args=(self.process, told), daemon=True)
        reader.start()
        reader.join(seconds)
        assert told, "\n".join(self.log)
        self.url = json.loads(told[0])["base_url"]
        return self

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            self.log += iter(stream.readline, "")

    def _read_answer(self, process: subprocess.Popen[str], told: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            text = ""
            for line in stream:
                text += line
                if line.rstrip() == "}":
                    told.append(text)
                    return

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code."""
        return self._end(number)

    def _end(self, number: int) -> int:
        process = self.process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(60)
        self.process = None
        return code


@contextmanager
def server(data: Path, model: Path | str, *arguments: object) -> Iterator[Server]:
    """Serve the base model in the folder *model* as `tiny` while the block runs."""
    running = Server(data, model, *arguments)
    try:
        yield running.start()
    finally:
        running.stop()


@contextmanager
def in_thread(settings: Any) -> Iterator[str]:
    """Serve in this process while the block runs; its base URL."""
    import socket

    import uvicorn

    from vtuned.server.app import application

    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application(settings), log_config=None, timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until(lambda: running.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            running.should_exit = True
            thread.join(60)


def until(condition: Any, seconds: float = 120.0) -> Any:
    """Return what *condition* returns once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def finished(client: Any, job_id: str, seconds: float = 180.0) -> Any:
    """Return a job of the openai SDK's *client* once it is done."""

    def done() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in _DONE else None

    return until(done, seconds)
