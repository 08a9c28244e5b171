"""
A model that was asked elsewhere: `answers:FILE` gives the recorded answer to each probe.

`verify` and `ask` match records by probe id; a plain `LanguageModel.answer` cannot, since prompts carry no id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vtuned.lm.base import Answer, Prompt, Sampling, Unanswered
from vtuned.lm.options import LoadOptions
from vtuned.probes import AnswerRecord, read_answers, torn_end


class RecordedLM:
    """Recorded answers by probe id; as a `LanguageModel` it has nothing to say to a prompt without an id."""

    def __init__(self, name: str, records: Sequence[AnswerRecord]) -> None:
        self._name = name
        self.records = list(records)

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        for _ in prompts:
            yield Unanswered("recorded answers are joined by probe id, not by prompt")


def load(path: str, _options: LoadOptions | None = None) -> RecordedLM:
    """Read the answers file at *path*. Raises AnswersError, DatasetError."""
    return RecordedLM(f"answers:{path}", read_answers(Path(path), torn=torn_end(path)))
