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
from typing import Any, BinaryIO

from vtuned import documents
from vtuned.errors import AnswersError, OutputExists, OutputNotWritable
from vtuned.files import locked
from vtuned.lm.base import CALLED_A_TOOL, FILTERED, REFUSED, Answer, IsElsewhere, LanguageModel
from vtuned.probes import AnswerRecord, Probe, read_answers, record_of, to_jsonl, torn_end

# What the model or its filter said is an answer; only a probe that nothing came back for may be asked again.
_FINAL = (REFUSED, FILTERED, CALLED_A_TOOL)
_START = b'{"id":'
_JUDGE_IT = "judge it with `vtuned judge`, ask anew into another file, or overwrite it with --force"


class Transcript:
    """
    The answers of *model* to *questions*: those that were on disk, and those that are added.

    *setup* is what else of the model its name does not say (how it was loaded). A file belongs to one model, set-up and
    set of questions: more questions for the same file would be a second look that nobody charged.
    """

    def __init__(
        self, model: LanguageModel, questions: Sequence[Probe], path: Path | None = None, *, setup: str = ""
    ) -> None:
        self.model = with_address(model)
        self.path = path
        self.records: list[AnswerRecord] = []
        self.n_kept = 0
        self._questions = {probe.id: probe for probe in questions}
        everything = documents.digest({"setup": setup, "probes": [_content(probe) for probe in questions]})
        self._digests = {
            probe.id: documents.digest({"run": everything, "probe": _content(probe)}) for probe in questions
        }
        self._file: BinaryIO | None = None

    @property
    def missing(self) -> list[Probe]:
        """The questions that nothing came back for yet, in order."""
        answered = {record.id for record in self.records if record.text is not None or record.unanswered in _FINAL}
        return [probe for probe in self._questions.values() if probe.id not in answered]

    def add(self, probe_id: str, answer: Answer) -> None:
        """Append one answer; it is on disk when this returns. Raises OutputNotWritable on a full disk."""
        context = {
            "model": self.model,
            "asked_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "asked": self._digests[probe_id],
            "request": _content(self._questions[probe_id]),
        }
        record = record_of(probe_id, answer).model_copy(update=context)
        if self._file is not None and self.path is not None:
            try:
                self._file.write(to_jsonl([record]))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OutputNotWritable(self.path, error.strerror or str(error)) from error
        self.records.append(record)

    @contextmanager
    def writing(self, *, force: bool, may_be_complete: bool = False) -> Iterator[Transcript]:
        """
        Open the file, take up what an earlier run of the same questions and model left there, and append to it.

        Raises OutputExists where it holds something else, or answers to all of the questions already, unless it
        *may_be_complete*: nobody should take old answers for new ones. Raises OutputNotWritable where another process
        is writing to it.
        """
        if self.path is None:
            yield self
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise OutputNotWritable(self.path, error.strerror or str(error)) from error
        with os.fdopen(descriptor, "r+b") as file, locked(file, self.path):
            if force:
                file.truncate(0)
            self._take_up(file, self.path)
            if self.records and not self.missing and not may_be_complete:
                raise OutputExists(self.path, hint=f"it holds an answer to every probe already: {_JUDGE_IT}")
            with contextlib.suppress(OSError):
                os.chmod(self.path, 0o600)
            self._file = file
            try:
                yield self
            finally:
                self._file = None

    def _take_up(self, file: BinaryIO, path: Path) -> None:
        """Read what is there, and let the file end with its last whole line: a killed run may leave a part of one."""
        content = file.read()
        torn = torn_end(path)
        whole = content[: len(content) - len(torn)]
        if whole:
            self.records = self._own_records(path, torn)
            self.n_kept = len(self.records)
        elif torn and not torn.startswith(_START):
            raise OutputExists(path)
        if torn:
            file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        if whole and not whole.endswith(b"\n"):
            file.write(b"\n")

    def _own_records(self, path: Path, torn: bytes) -> list[AnswerRecord]:
        try:
            records = read_answers(path, torn=torn)
        except AnswersError:
            raise OutputExists(path) from None
        for record in records:
            if record.model != self.model or record.asked != self._digests.get(record.id):
                raise OutputExists(path, hint=f"it holds answers of another model or to other probes: {_JUDGE_IT}")
        return records


def with_address(model: LanguageModel) -> str:
    """Return the name of a model, and where it answers if that is elsewhere."""
    return f"{model.name} at {model.address}" if isinstance(model, IsElsewhere) else model.name


def _content(probe: Probe) -> dict[str, Any]:
    return probe.model_dump(mode="json")
