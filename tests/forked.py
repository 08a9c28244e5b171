"""
`vtuned` run many times without starting Python anew: a process that has imported it forks for each command.

Each command is a process of its own, which can be killed at a given line of a run's journal. POSIX only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self


class Forked:
    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, folder: Path, *arguments: object, key: str | None = "sk-very-secret-1234567890", **how) -> tuple:
        """
        Run `vtuned ARGUMENTS` in *folder*; return (exit code, standard output, standard error).

        With `kill_at=N` it is killed at the Nth line that it writes into a journal: `when` is "before", "torn" or "after".
        With `interrupt_after_s` it is interrupted (SIGINT) after so long, with `interrupt_when` once there is a file of that name.
        With `acts=(folder, name)` what it does is counted
        there, and it may die of it: see `mortal`.
        """
        asked = {"folder": str(folder), "arguments": [str(a) for a in arguments], "key": key, **how}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        return code, (folder / ".out").read_text(), (folder / ".err").read_text()


def _killed_at(number: int, when: str) -> None:
    """Make this process kill itself at the *number*th line of a journal."""
    from vtuned.jobs.journal import Journal

    add, seen = Journal.add, 0

    def counted(journal, entry):
        nonlocal seen
        seen += 1
        if seen == number and when == "torn":
            with open(journal.path, "ab") as file:
                file.write(b'{"before":"12')
        if seen == number and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        add(journal, entry)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.add = counted


def _interrupted_when(path: str) -> None:
    """Send SIGINT to this process once there is a file *path*, which its main thread looks for."""

    def look(*_) -> None:
        if os.path.exists(path):
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def _child(asked: dict) -> int:
    os.chdir(asked["folder"])
    for name, number in ((".out", 1), (".err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked["key"] is not None:
        os.environ[asked.get("variable", "OPENAI_API_KEY")] = asked["key"]
    if asked.get("kill_at"):
        _killed_at(asked["kill_at"], asked.get("when", "before"))
    if asked.get("acts"):
        import mortal

        mortal.install(*asked["acts"])
    if asked.get("interrupt_after_s"):
        signal.setitimer(signal.ITIMER_REAL, asked["interrupt_after_s"])
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    if asked.get("interrupt_when"):
        _interrupted_when(asked["interrupt_when"])
    sys.argv = ["vtuned", *asked["arguments"]]
    from vtuned.cli import main

    try:
        return main() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _warm_up() -> None:
    """Do once what every command would do anew: import the package's parts, and build what is built on first use."""
    import openai

    import vtuned.cli.job
    import vtuned.cli.plant
    import vtuned.cli.submit
    import vtuned.cli.verify
    import vtuned.jobs.openai  # noqa: F401
    from vtuned import receipt
    from vtuned.jobs import base, journal

    for module in (base, journal, receipt):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, base.Record):
                kind.model_rebuild()
    with contextlib.suppress(openai.OpenAIError):
        openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1", max_retries=0).fine_tuning.jobs.list()


def _serve() -> None:
    _warm_up()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = _child(json.loads(line))
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
    os._exit(0)  # taking down what was imported takes seconds
