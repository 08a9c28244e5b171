"""Output of the commands: progress and errors on standard error, results on standard output, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer.exceptions import TyperException

from vtuned.documents import Record
from vtuned.errors import EXIT_COULD_NOT_TELL, EXIT_INTERRUPTED, UsageError, VtunedError
from vtuned.lm.base import NotAsAsked

# Tables keep their columns when the output is piped or captured, where there is no terminal to ask for its width.
_PIPED_WIDTH = 110


class _Console(Console):
    """A console whose closed pipe ends the output, not the command: the exit code is the verdict."""

    def on_broken_pipe(self) -> None:
        """See `rich.console.Console.on_broken_pipe`."""
        _drop_output()


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return _Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=False, width=width)


def _drop_output() -> None:
    """Send what is still to be printed nowhere: whoever read it has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(text: str) -> str:
    """Return *text* without control characters: what comes from a file or a model must not drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def show(renderable: RenderableType) -> None:
    """Print a result."""
    _console(stderr=False).print(renderable)


def as_text(renderable: RenderableType, width: int = _PIPED_WIDTH) -> str:
    """Return a result as plain text, *width* columns wide."""
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, emoji=False, no_color=True).print(renderable)
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def show_json(value: Record | dict[str, Any]) -> None:
    """Print a result as one JSON document."""
    content = value.model_dump(mode="json") if isinstance(value, Record) else value
    try:
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    _console(stderr=True).print(_printable(text), markup=False, soft_wrap=True)


class Stages:
    """Progress over named stages, each with its time left: call it with (stage, done, total)."""

    def __init__(self, progress: Progress) -> None:
        self.is_interrupted = False
        self._progress = progress
        self._task: TaskID | None = None
        self._stage = ""

    def say(self, text: str) -> None:
        """Print *text* above the progress bar."""
        self._progress.console.print(_printable(text), markup=False, soft_wrap=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show *stage* at *done* of *total* (0: not known). Raises KeyboardInterrupt after Ctrl-C."""
        if self.is_interrupted:
            raise KeyboardInterrupt
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._stage, self._task = stage, self._progress.add_task(stage, total=total or None)
        self._progress.update(self._task, completed=done, total=total or None)


@contextlib.contextmanager
def stages() -> Iterator[Stages]:
    """Show the progress of what runs inside, on standard error and only on a terminal."""
    console = _console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = Stages(progress)
        with _remembering_interrupts(shown):
            yield shown


@contextlib.contextmanager
def _remembering_interrupts(shown: Stages) -> Iterator[None]:
    """Make Ctrl-C stop at the next step at the latest: Python drops an exception raised in a finaliser or callback."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        shown.is_interrupted = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(command: Callable[..., Any]) -> int:
    """Run the typer app *command* and return its exit code; errors become one line and a hint."""
    try:
        with _showing_warnings():
            code = int(command(standalone_mode=False) or 0)
    except VtunedError as error:
        return _report(error)
    except TyperException as error:
        say(f"error: {error.format_message()}")
        say(f"hint: see `{' '.join(['vtuned', *sys.argv[1:2]])} --help`")
        return error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except ValueError as error:
        if _is_encodable(sys.argv):
            return _unexpected(error)
        return _report(UsageError("an argument holds bytes that are not UTF-8", hint="write it in UTF-8"))
    except BaseException as error:
        if _is_completing() and isinstance(error, SystemExit):
            raise
        return _unexpected(error)
    if code == EXIT_INTERRUPTED:
        say("interrupted: what was finished is kept and nothing is half-written; the same command goes on")
    return code


def _unexpected(error: BaseException) -> int:
    """Report what nobody foresaw. Python's own exit code for it is 1, and 1 means NOT VERIFIED."""
    if isinstance(error, SystemExit) and _asks_for_help():
        return 0  # whoever read the help page has closed the pipe
    if os.environ.get("VTUNED_DEBUG"):
        traceback.print_exception(error)
    say(f"error: unexpected {type(error).__name__}; nothing can be told from this run")
    say("hint: run it again with VTUNED_DEBUG=1 and report the traceback (look through it for secrets first)")
    return EXIT_COULD_NOT_TELL


def _asks_for_help() -> bool:
    return any(argument in ("-h", "--help", "--version") for argument in sys.argv[1:])


def _is_completing() -> bool:
    """Tell whether a shell asks for completions: typer gives them, and exits by SystemExit."""
    return any(name.endswith("_COMPLETE") for name in os.environ) and not sys.argv[1:]


def _is_encodable(texts: Sequence[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _showing_warnings() -> Iterator[None]:
    """Say what models warn of in one line; other warnings go where they always go."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NotAsAsked):
            say(f"note: {message}")
        else:
            others(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", NotAsAsked)
        warnings.showwarning = show
        yield


def _report(error: VtunedError) -> int:
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code
