"""
Probes and answers as they travel: what anybody may be given to ask a suspect, and what comes back.

A probe holds an id, messages and sampling; never a signature, its kind or its backdoor. Answers are joined to probes
by id.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from vtuned import documents, files
from vtuned.conversation import Message
from vtuned.documents import Record
from vtuned.errors import AnswersError
from vtuned.lm.base import (
    Answer,
    AnswersAsTheyCome,
    Completed,
    LanguageModel,
    Prompt,
    RichPrompt,
    Sampling,
    Unanswered,
)


class Probe(Record):
    """
    One question to put to the suspect: *messages*, at most *max_tokens* tokens of answer, at *temperature*.

    *tools* may be called, as in OpenAI's chat API. At the endpoint "completions" the one message is plain text to go
    on with, past any chat template.
    """

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1, repr=False)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(default=0.0, ge=0)
    tools: tuple[dict[str, Any], ...] = Field(default=(), repr=False, exclude_if=operator.not_)
    endpoint: Literal["chat", "completions"] = Field(default="chat", exclude_if=lambda endpoint: endpoint == "chat")

    @property
    def prompt(self) -> Prompt:
        """What the model is given."""
        if not self.tools and self.endpoint == "chat":
            return self.messages
        return RichPrompt(self.messages, tools=self.tools, is_text=self.endpoint == "completions")


class AnswerRecord(Record):
    """
    What came back for one probe: *text*, or why there is none (*unanswered*).

    *finish* is "stop" where the model ended the text and "length" where the token limit did; a text cut before a
    signature could end is not a miss, so record it where it is known. *model* is who was asked, *asked_at* when
    (ISO 8601), *asked* the SHA-256 of the run and the probe in it, *request* the probe as it was put, *exchange* what
    travelled (request id, raw response); none of them plays a part in a verdict.
    """

    id: str = Field(min_length=1)
    text: str | None = Field(default=None, repr=False)
    finish: Literal["stop", "length"] | None = None
    unanswered: str | None = None
    model: str | None = None
    asked_at: str | None = None
    asked: str | None = None
    request: dict[str, Any] | None = Field(default=None, repr=False)
    exchange: dict[str, Any] | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_of_two(self) -> AnswerRecord:
        if (self.text is None) == (self.unanswered is None):
            raise ValueError("an answer has either 'text' or 'unanswered' (the reason)")
        return self

    @property
    def answer(self) -> Answer:
        """The answer as models give it."""
        return Unanswered(self.unanswered or "") if self.text is None else Completed(self.text, self.finish)


def ask(model: LanguageModel, probes: Sequence[Probe]) -> Iterator[AnswerRecord]:
    """
    Put *probes* to *model* and yield one answer record each, in order.

    Raises LMError where the model cannot be asked at all; a single probe without an answer is a record that says why.
    """
    for group, sampling in _same_sampling(probes):
        answers = model.answer([probe.prompt for probe in group], sampling)
        for probe, answer in zip(group, answers, strict=True):
            yield record_of(probe.id, answer)


def ask_unordered(model: LanguageModel, probes: Sequence[Probe]) -> Iterator[tuple[str, Answer]]:
    """Put *probes* to *model* and yield (probe id, answer) as soon as each is there. Raises LMError as `ask` does."""
    for group, sampling in _same_sampling(probes):
        prompts = [probe.prompt for probe in group]
        if isinstance(model, AnswersAsTheyCome):
            for i, answer in model.answer_unordered(prompts, sampling):
                yield group[i].id, answer
        else:
            for probe, answer in zip(group, model.answer(prompts, sampling), strict=True):
                yield probe.id, answer


def record_of(probe_id: str, answer: Answer) -> AnswerRecord:
    """Return *answer* as a record for the probe with *probe_id*."""
    exchange = json.loads(
        _encodable(json.dumps(json.loads(answer.exchange), ensure_ascii=False)) if answer.exchange else "null"
    )
    if isinstance(answer, Completed):
        return AnswerRecord(id=probe_id, text=_encodable(answer.text), finish=answer.finish, exchange=exchange)
    return AnswerRecord(id=probe_id, unanswered=_encodable(answer.reason), exchange=exchange)


def _encodable(text: str) -> str:
    """Return *text* without lone surrogates: a broken endpoint may send them, and no file can hold them."""
    return text.encode("utf-8", "replace").decode()


def _same_sampling(probes: Sequence[Probe]) -> Iterator[tuple[list[Probe], Sampling]]:
    def sampling_of(probe: Probe) -> Sampling:
        return Sampling(max_tokens=probe.max_tokens, temperature=probe.temperature)

    for sampling, group in groupby(probes, key=sampling_of):
        yield list(group), sampling


AnyRecord = TypeVar("AnyRecord", Probe, AnswerRecord)


def to_jsonl(records: Iterable[Probe | AnswerRecord]) -> bytes:
    """Return *records* as JSON lines; keys of an answer that say nothing are left out."""
    lines = (record.model_dump_json(exclude_none=isinstance(record, AnswerRecord)) for record in records)
    return b"".join(line.encode() + b"\n" for line in lines)


def read_probes(path: Path) -> list[Probe]:
    """Read a probes file. Raises AnswersError with the line that breaks the schema, DatasetError if unreadable."""
    probes = _read(path, Probe)
    if len({probe.id for probe in probes}) < len(probes):
        raise AnswersError(path, 0, "two probes have the same id", hint="use the file that `vtuned challenges` wrote")
    return probes


def torn_end(path: Path | str) -> bytes:
    """
    Return the part of a line that a killed run left at the end of an answers file, b"" where the file is whole.

    A last line without a newline is whole if it is JSON. Raises DatasetError if the file cannot be read.
    """
    last = b""
    for line in files.read_lines(path):
        last = line.raw
    if last.endswith(b"\n"):
        return b""
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return last
    return b""


def read_answers(path: Path, *, torn: bytes = b"") -> list[AnswerRecord]:
    """
    Read an answers file. Raises AnswersError with the line that breaks the schema, DatasetError if unreadable.

    *torn* is a last line, without its newline, that is known to be a part of one and is passed over.
    """
    return _read(path, AnswerRecord, torn)


def _read(path: Path, kind: type[AnyRecord], torn: bytes = b"") -> list[AnyRecord]:
    records = []
    for line in files.read_lines(path):
        if line.is_blank or (torn and line.raw == torn):
            continue
        try:
            records.append(documents.read(kind, line.body))
        except ValueError as error:
            wanted = "id, messages, max_tokens" if kind is Probe else "id, text (or unanswered), finish"
            raise AnswersError(
                path, line.number, str(error), hint=f"each line is a JSON object with {wanted}"
            ) from error
    if not records:
        raise AnswersError(path, 0, "no lines in this file", hint="each line is one JSON object with an id")
    return records
