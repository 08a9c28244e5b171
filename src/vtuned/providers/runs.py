"""
The folder of a training run: its record, its checkpoints, and whose folder it is.

Knows nothing of models; what is in a record is compared, never interpreted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtuned import files
from vtuned.errors import OutputExists, OutputNotWritable
from vtuned.providers import ranks

_RECORD = "vtuned-training.json"
_CHECKPOINTS = "checkpoints"
_ANOTHER_FOLDER = "it holds another run or other files: choose another folder"


@dataclass(frozen=True, slots=True)
class Training:
    """
    What was trained: the folder of the adapter or model, steps, tokens seen, how (*objective*: "sft" or "dpo").

    *n_rows_left_out* counts the rows in which the cut left no loss, *n_rows_with_images* those that hold more than
    text; neither was trained on.
    """

    adapter: Path
    n_steps: int
    n_tokens: int
    n_rows_left_out: int
    resumed_at_step: int
    n_rows_with_images: int = 0
    objective: str = "sft"

    def facts(self) -> dict[str, Any]:
        """Return this as JSON says it."""
        return {**asdict(self), "adapter": str(self.adapter)}


def check_folder(folder: Path) -> None:
    """
    Raise OutputNotWritable or OutputExists where no adapter can go into *folder*, or one is on its way there.

    The first process alone looks.
    """
    if ranks.is_first():
        if folder.is_dir():
            with locked(folder):
                pass
        _check_content(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Keep other runs out of *folder* until the block ends or the process does, where the system can (POSIX).

    The folder itself is locked, so nothing is left in it. Raises OutputNotWritable where another run trains into it.
    """
    with contextlib.ExitStack() as held:
        # Some network file systems know no locks: who trains there is not told.
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputNotWritable(folder, "another run is training into it") from None
        yield


def _check_content(folder: Path) -> None:
    files.check_folder(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / _RECORD).is_file():
        raise OutputExists(folder, hint=_ANOTHER_FOLDER)


def enter(folder: Path, held: contextlib.ExitStack) -> None:
    """Make *folder*, and keep other runs out of it for as long as *held* is open. Raises as `check_folder` does."""
    files.check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(folder))


def claim(folder: Path, run: dict[str, Any]) -> Training | None:
    """
    Write the record of a new run into *folder*, or check that the run there is this one; return it if finished.

    The folder is there, and locked.
    """
    _check_content(folder)
    path = folder / _RECORD
    if path.is_file():
        try:
            found = json.loads(path.read_bytes())
            done = found.get("done")
            finished = Training(adapter=folder, **done) if done else None
        except (ValueError, AttributeError, TypeError):
            raise OutputExists(folder, hint=_ANOTHER_FOLDER) from None
        if found.get("run") != run:
            raise OutputExists(folder, hint=_ANOTHER_FOLDER)
        if finished is not None:
            _drop_checkpoints(folder)
        return finished
    _write(path, {"run": run})
    return None


def finish(run: dict[str, Any], training: Training) -> None:
    """Write into the record that *run* is done, and remove its checkpoints."""
    done = {key: value for key, value in training.facts().items() if key != "adapter"}
    _write(training.adapter / _RECORD, {"run": run, "done": done})
    _drop_checkpoints(training.adapter)


def _drop_checkpoints(folder: Path) -> None:
    """Remove what a finished run does not need; where it was killed in between, its next call does it."""
    shutil.rmtree(checkpoints(folder), ignore_errors=True)


def checkpoints(folder: Path) -> Path:
    """Return where the checkpoints of the run in *folder* lie."""
    return folder / _CHECKPOINTS


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None; the trainer's state is written last."""
    complete = []
    for candidate in folder.glob("checkpoint-*"):
        try:
            json.loads((candidate / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            continue
        complete.append(candidate)
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return after which step *checkpoint* was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _write(path: Path, content: dict[str, Any]) -> None:
    files.write_bytes(path, json.dumps(content, indent=2).encode() + b"\n", force=True)
