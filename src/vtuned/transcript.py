"""
An answers file that grows as answers come: what was answered is on disk, so a run that was stopped goes on.

Lines are only ever appended. The file is an answers file like any other: `vtuned judge` reads it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from vtuned import documents, files
from vtuned.errors import AnswersError, OutputExists, OutputNotWritable
from vtuned.lm.base import CALLED_A_TOOL, FILTERED, REFUSED, Answer, IsElsewhere, LanguageModel
from vtuned.probes import AnswerRecord, Probe, read_answers, record_of, to_jsonl

# What the model or its filter said is an answer; only a probe that nothing came back for may be asked again.
_FINAL = (REFUSED, FILTERED, CALLED_A_TOOL)
_START = b'{"id":'
_JUDGE_IT = "judge it with `vtuned judge`, ask anew into another file, or overwrite it with --force"


class Transcript:
    """The answers of *model* to *questions*: those that were on disk, and those that are added."""

    def __init__(self, model: LanguageModel, questions: Sequence[Probe], path: Path | None = None) -> None:
        self.model = f"{model.name} at {model.address}" if isinstance(model, IsElsewhere) else model.name
        self.path = path
        self.records: list[AnswerRecord] = []
        self.n_kept = 0
        self._digests = {probe.id: digest_of(probe) for probe in questions}
        self._questions = questions
        self._file: BinaryIO | None = None

    @property
    def missing(self) -> list[Probe]:
        """The questions that nothing came back for yet, in order."""
        answered = {record.id for record in self.records if record.text is not None or record.unanswered in _FINAL}
        return [probe for probe in self._questions if probe.id not in answered]

    def add(self, probe_id: str, answer: Answer) -> None:
        """Append one answer; it is on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        context = {"model": self.model, "asked_at": now, "asked": self._digests[probe_id]}
        record = record_of(probe_id, answer).model_copy(update=context)
        if self._file is not None:
            self._file.write(to_jsonl([record]))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records.append(record)

    @contextmanager
    def writing(self, *, force: bool) -> Iterator[Transcript]:
        """
        Open the file, take up what an earlier run of the same questions and model left there, and append to it.

        Raises OutputExists where it holds something else, or answers to all of the questions already: nobody should
        take old answers for new ones. Raises OutputNotWritable where another process is writing to it.
        """
        if self.path is None:
            yield self
            return
        if force or not os.path.lexists(self.path):
            files.write_bytes(self.path, b"", force=force, secret=True)
        try:
            file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise OutputNotWritable(self.path, error.strerror or str(error)) from error
        with file, _locked(file, self.path):
            self._take_up(file, self.path)
            self._file = file
            try:
                yield self
            finally:
                self._file = None

    def _take_up(self, file: BinaryIO, path: Path) -> None:
        """Read what is there and put the end of the file after its last whole line: a killed run may leave a part."""
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end:
            self.records = self._own_records(path, content[end:])
            self.n_kept = len(self.records)
        elif content and not content.startswith(_START):
            raise OutputExists(path)
        file.truncate(end)
        file.seek(end)
        if self.records and not self.missing:
            raise OutputExists(path, hint=f"it holds an answer to every probe already: {_JUDGE_IT}")

    def _own_records(self, path: Path, torn: bytes) -> list[AnswerRecord]:
        try:
            records = read_answers(path, torn=torn)
        except AnswersError:
            raise OutputExists(path) from None
        for record in records:
            if record.model != self.model or record.asked != self._digests.get(record.id):
                raise OutputExists(path, hint=f"it holds answers of another model or to other probes: {_JUDGE_IT}")
        return records


def digest_of(probe: Probe) -> str:
    """Return the SHA-256 (hex) of a probe as it is asked: messages and sampling."""
    return documents.digest(probe.model_dump(mode="json"))


@contextmanager
def _locked(file: BinaryIO, path: Path) -> Iterator[None]:
    """Keep other processes from appending to *file*, where the system can (POSIX)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputNotWritable(path, "another run is writing to it") from None
    except OSError:
        # Some network file systems know no locks; what is appended stays whole lines all the same.
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
