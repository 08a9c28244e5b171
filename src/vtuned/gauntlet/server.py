"""A provider's server in a process of its own, for as long as a block runs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vtuned.errors import ServiceError, UsageError
from vtuned.jobs.waiting import outcome_of

_START_S = 300.0
_STOP_S = 30.0


@contextmanager
def serving(
    data: Path, models: Mapping[str, str], policy: str, *, oracle: Path | None, port: int, log: Path
) -> Iterator[str]:
    """
    Serve *models* under *policy* from the folder *data* while the block runs; give the base URL.

    *port* 0 is any free one. The server ends with the block, and with this process, however that ends. *log* gets what it
    logs. Raises UsageError where it refuses to start, ServiceError where it does not come up.
    """
    told = {
        "data": str(data),
        "models": dict(models),
        "policy": policy,
        "oracle": str(oracle) if oracle else None,
        "port": port,
    }
    with log.open("ab") as errors, contextlib.ExitStack() as started:
        # A session of its own: Ctrl-C in the terminal reaches this process alone, which ends the server in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "vtuned.gauntlet.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        started.callback(_end, process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()
        yield _url(process, port)


def _url(process: subprocess.Popen[bytes], port: int) -> str:
    assert process.stdout is not None
    stream = process.stdout
    hint = "see server.log in the folder of the round"
    if port:
        hint = f"the round began at port {port}: if others use it now, remove the round's folder to begin it anew"
    try:
        line = outcome_of(stream.readline, within_s=_START_S)
        said = json.loads(line or b"{}")
    except (TimeoutError, ValueError):
        said = {}
    if "error" in said:
        raise UsageError(f"the server did not start: {said['error']}", hint=hint if port else said["hint"])
    if "url" not in said:
        raise ServiceError("provider", "the server did not start", hint=hint)
    return str(said["url"])


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)
    finally:
        process.stdout.close()
