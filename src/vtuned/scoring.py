"""
Have a suspect score signatures among their decoys, and keep what it gave as it comes.

Each probe's candidates are scored in one go, sorted: who scores them cannot tell the signature by its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from vtuned import documents
from vtuned.conversation import Message
from vtuned.errors import AnswersError, OutputExists, OutputNotWritable, UsageError
from vtuned.exposure import LARGEST_LOG10, ScoreRecord
from vtuned.files import locked
from vtuned.lm.base import Prompt, RichPrompt, Scorer
from vtuned.probes import torn_end
from vtuned.receipt import PlannedProbe, Receipt

OnProgress = Callable[[int, int], None]
Enough = Callable[[list[ScoreRecord]], bool]
_START = b'{"id":'
_HINT = "score into another file, or overwrite it with --force"


def score(
    receipt: Receipt,
    suspect: tuple[str, Scorer],
    base: tuple[str, Scorer] | None = None,
    *,
    n: int | None = None,
    kept: ScoreFile | None = None,
    on_progress: OnProgress = lambda done, total: None,
    enough: Enough | None = None,
) -> list[ScoreRecord]:
    """
    Return the scores of *suspect* (name, model), and of *base*, for what the receipt has scored, in committed order.

    These are signatures among their decoys, then the wordings of rows that carry a secret choice.

    With an open *kept* only what it misses is scored. With *enough*, it ends once that is true of the scores there are:
    for receipts whose p-values are valid at every look. Raises UsageError where the receipt ranks by likelihoods less the
    base's and there is no base, or is to stop at any time and *n* is given; LMError where a model cannot be asked.
    """
    receipt.check_prefix(n)
    if receipt.plan.less_base and base is None:
        raise UsageError("this receipt ranks by likelihoods less the base model's", hint="name it with --base MODEL")
    items = to_score(receipt, n)
    into = kept or ScoreFile(None)
    done = {record.id: record for record in into.records}
    if not done.keys() <= {item.probe.id for item in to_score(receipt)}:
        raise OutputExists(into.path or "", hint=f"it holds scores for another receipt: {_HINT}")
    found: list[ScoreRecord] = []
    for i, item in enumerate(items):
        on_progress(i, len(items))
        if enough is not None and enough(found):
            break
        asked = _asked(item, suspect[0], base[0] if base else "", into.setup)
        record = done.get(item.probe.id)
        if record is not None and record.asked != asked:
            raise OutputExists(into.path or "", hint=f"it holds scores of another model or receipt: {_HINT}")
        if record is None:
            record = _scored(item, suspect, base).model_copy(update={"asked": asked})
            into.add(record)
        found.append(record)
    on_progress(len(items), len(items))
    return found


@dataclass(frozen=True, slots=True)
class Item:
    """Texts to score after one probe, in an order that tells nothing."""

    probe: PlannedProbe
    candidates: tuple[str, ...] = field(repr=False)


def to_score(receipt: Receipt, n: int | None = None) -> list[Item]:
    """Return what *receipt* has scored, in committed order: all, or the first *n* of each kind."""
    signatures = [
        Item(probe, receipt.backdoors[probe.backdoor].candidates)
        for probe in receipt.chosen_exposures(n)
        if probe.backdoor is not None
    ]
    worded = [Item(row.probe, tuple(wording.text for wording in row.wordings)) for row in receipt.chosen_worded(n)]
    return [*signatures, *worded]


def _asked(item: Item, suspect: str, base: str, setup: str) -> str:
    return documents.digest(
        {
            "probe": item.probe.model_dump(mode="json"),
            "candidates": item.candidates,
            "suspect": suspect,
            "base": base,
            "setup": setup,
        }
    )


def _scored(item: Item, suspect: tuple[str, Scorer], base: tuple[str, Scorer] | None) -> ScoreRecord:
    probe, candidates = item.probe, item.candidates
    prompt = prompt_of(probe.messages, probe)
    own = suspect[1].log10_probs(prompt, candidates)
    bases = base[1].log10_probs(prompt, candidates) if base else None
    if not all(abs(value) <= LARGEST_LOG10 for value in (*own, *(bases or ()))):
        return ScoreRecord(id=probe.id, unanswered="a likelihood is no number", model=suspect[0])
    return ScoreRecord(
        id=probe.id,
        log10_probs=tuple(own),
        base_log10_probs=tuple(bases) if bases is not None else None,
        model=suspect[0],
        base=base[0] if base else None,
    )


def prompt_of(messages: Sequence[Message], probe: PlannedProbe) -> Prompt:
    """Return the prompt of a planned probe as a model takes it."""
    if not probe.tools and probe.endpoint == "chat":
        return tuple(messages)
    return RichPrompt(messages, tools=probe.tools, is_text=probe.endpoint == "completions")


class ScoreFile:
    """
    The scores that were kept in *path* and those that are added; lines are only ever appended.

    *setup* is what the names of suspect and base do not say: their addresses, and how they were loaded. A file belongs
    to one of it. Holds no signature, but whoever has the receipt can tell its rank. Without a path nothing is written.
    """

    def __init__(self, path: Path | None, *, setup: str = "") -> None:
        self.path = path
        self.setup = setup
        self.records: list[ScoreRecord] = []
        self._file: BinaryIO | None = None

    def add(self, record: ScoreRecord) -> None:
        """Append one record; it is on disk when this returns. Raises OutputNotWritable."""
        self.records.append(record)
        if self._file is None or self.path is None:
            return
        try:
            self._file.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputNotWritable(self.path, error.strerror or str(error)) from error

    @contextmanager
    def writing(self, *, force: bool) -> Iterator[ScoreFile]:
        """
        Open the file and take up what an earlier run left there.

        Raises OutputExists where it holds something else, OutputNotWritable, too where another process writes to it.
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
        if torn and not torn.startswith(_START):
            raise OutputExists(path, hint=_HINT)
        try:
            self.records = _records(path, whole)
        except AnswersError:
            raise OutputExists(path, hint=_HINT) from None
        if torn:
            file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        if whole and not whole.endswith(b"\n"):
            file.write(b"\n")


def read_scores(path: Path, *, torn: bytes = b"") -> list[ScoreRecord]:
    """
    Read a scores file. Raises AnswersError with the line that breaks the schema, or where it cannot be read.

    *torn* is a last line, without its newline, that is known to be a part of one and is passed over.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AnswersError(path, 0, error.strerror or str(error), hint="give the file of `--scores-out`") from error
    return _records(path, content.removesuffix(torn))


def _records(path: Path, content: bytes) -> list[ScoreRecord]:
    records = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            records.append(documents.read(ScoreRecord, line))
        except ValueError as error:
            raise AnswersError(path, number, str(error), hint="give the file of `--scores-out`") from error
    return records
