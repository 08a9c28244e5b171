"""
A provider in a process of its own: `python -m vtuned.gauntlet.child`, told what to serve on standard input.

It ends with whoever started it, whose end of its standard input closes, in whatever way that ended: a server that went on
would keep its folder from the next one. What it is told is in no list of processes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from vtuned.errors import VtunedError
from vtuned.server.app import Settings
from vtuned.server.running import serve

_HOST = "127.0.0.1"


def main() -> int:
    """Read one line of JSON, and serve; return the exit code."""
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("vtuned.server").setLevel(logging.INFO)
    settings = Settings(
        data=Path(told["data"]),
        models=told["models"],
        policy=told["policy"],
        oracle=Path(told["oracle"]) if told["oracle"] else None,
    )
    try:
        serve(settings, _HOST, told["port"], lambda url: _say(url=url))
    except VtunedError as error:
        _say(error=str(error), hint=error.hint)
        return error.exit_code
    return 0


def _say(**facts: str) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
