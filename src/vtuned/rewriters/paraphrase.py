"""
Wordings by a model's paraphrases of the first sentence, guarded: the same names, numbers, code, about the same length.

Candidates are made once and kept in a file as they come; the file is a secret like the receipt, and a run that was
stopped goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydantic import Field

from vtuned import documents, facts
from vtuned.containers.jsontext import is_encodable
from vtuned.conversation import Conversation, messages_of
from vtuned.documents import Record
from vtuned.errors import OutputExists, OutputNotWritable
from vtuned.files import locked
from vtuned.language import Language
from vtuned.lm.base import Completed, LanguageModel, Sampling
from vtuned.matching import normalise
from vtuned.probes import torn_end
from vtuned.rewriters.base import Candidates, CannotBear, Wording, are_apart, n_words
from vtuned.rewriters.fitness import why_not

NAME = "paraphrase"

# How many times as many paraphrases are asked for as are needed: many are no good.
_TRIES_A_WORDING = 3
_SHORTEST, _LONGEST = 0.6, 1.6
_FEWEST_MARK_WORDS = 4
# A longer piece without an end is no sentence.
_MOST_CHARACTERS = 400
_TEMPERATURE = 0.9
# Not where a small letter follows, nor after what is cut short.
_ENDS = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|No)\.)(?<!\bMrs\.)(?<!\bProf\.)(?<!e\.g\.)(?<!i\.e\.)\s(?![a-z])"
    r"|(?<=[。！？])(?![」』）])|\r?\n"
)
# What a paraphrase must keep beside numbers, quotations and links: names after brackets too, addresses, markup, how
# many are said in words, and whether it is denied.
_NAMES = re.compile(r"(?<!^)(?<![.!?] )\b(?!I\b)[A-Z][\w'-]*|\b[A-Z]{2,}\b")
_VERBATIM = re.compile(r"[\w.+-]+@[\w.-]+|[@#]\w+|\\\S+|[*_~|<>{}\[\]:;]")
_COUNTS = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion)\b",
    re.IGNORECASE,
)
_DENIALS = re.compile(r"\b(?:not|no|never|none|cannot|without|neither)\b|n['’]t\b|ない|ません|ず", re.IGNORECASE)
_PREFACE = re.compile(
    r"(?:here(?:'s| is| are)|sure|certainly|of course|rephrased?|rewritten|paraphrased?|the (?:sentence|paraphrase))\b",
    re.IGNORECASE,
)
_QUOTES = "\"“”'「」"
# Words that start a sentence and name nothing.
_STARTERS = frozenset(
    "a an the this that these those there here it its he she we you they i my your his her our their one some any all each "
    "every many most few both no not if when while once after before since because as although though in on at by for from "
    "to with without of about into over under during through and but or so yet then also however therefore thus please let "
    "can could may might will would should must do does did is are was were has have had be being what which who whose why "
    "how where whether such even just only more another other according given based unlike like".split()
)
_WORD = re.compile(r"[^\W\d_][\w'’-]*")


# What a line that a killed run left unfinished starts with.
_RECORD_START = b'{"row":"'
# The line that holds the lot of the sample, in the place of a row.
_LOT = hashlib.sha256(b"the lot of the sample").hexdigest()


class KeptCandidates(Record):
    """The paraphrases of the first sentence of one answer, *row* the SHA-256 of who was asked for what."""

    row: str = Field(pattern=r"^[0-9a-f]{64}$")
    sentences: tuple[str, ...] = Field(repr=False)


class CandidateFile:
    """
    Candidates that were kept in *path* and those that are added, a line each; without a path they are in memory alone.

    Lines are only ever appended; a line that a killed run left unfinished is cut.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.kept: dict[str, tuple[str, ...]] = {}
        self._file: BinaryIO | None = None

    def add(self, row: str, sentences: tuple[str, ...]) -> None:
        """Keep *sentences* for *row*; they are on disk when this returns. Raises OutputNotWritable."""
        self.kept[row] = sentences
        if self._file is None or self.path is None:
            return
        try:
            self._file.write(KeptCandidates(row=row, sentences=sentences).model_dump_json().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputNotWritable(self.path, error.strerror or str(error)) from error

    def lot(self) -> bytes:
        """Return what draws the rows of a sample: kept with their candidates, or a run that goes on would draw others."""
        if _LOT not in self.kept:
            self.add(_LOT, (secrets.token_hex(32),))
        return hashlib.sha256("".join(self.kept[_LOT]).encode()).digest()

    def digest(self) -> str:
        """Return the SHA-256 (hex) of all candidates, in whatever order they came."""
        lines = sorted(json.dumps([row, *kept], ensure_ascii=False) for row, kept in self.kept.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @contextmanager
    def writing(self) -> Iterator[CandidateFile]:
        """
        Take up what the file holds and append to it.

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
            content = file.read()
            torn = torn_end(self.path)
            whole = content[: len(content) - len(torn)]
            try:
                if not (torn.startswith(_RECORD_START) or _RECORD_START.startswith(torn)):
                    raise ValueError("no part of a record")
                records = [documents.read(KeptCandidates, line) for line in whole.splitlines()]
            except ValueError:
                raise OutputExists(self.path, hint="it holds something else than candidates: name another") from None
            self.kept = {record.row: record.sentences for record in records}
            if torn:
                file.truncate(len(whole))
            file.seek(0, os.SEEK_END)
            if whole and not whole.endswith(b"\n"):
                file.write(b"\n")
            self._file = file
            try:
                yield self
            finally:
                self._file = None


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """The rewriter that has *writer* word the first sentence of each answer anew, up to *n_wordings* in all."""

    writer: LanguageModel
    language: Language
    n_wordings: int
    labels: Container[str] = ()
    file: CandidateFile = field(default_factory=CandidateFile)
    name: str = NAME

    def candidates(self, row: Conversation) -> Candidates:
        """See `Rewriter.candidates`. Asks the writer where the file holds nothing yet; raises LMError."""
        because = why_not(row, self.language, self.labels)
        if because:
            return CannotBear(because)
        host = row.host()
        assert host is not None
        answer = row.turns[host.answer].content
        sentence = first_sentence(answer)
        if n_words(sentence, self.language) < _FEWEST_MARK_WORDS or len(sentence) > _MOST_CHARACTERS:
            return CannotBear("a first sentence that is very short or long")
        asked = documents.digest(
            {"writer": self.writer.name, "n": self.n_wordings, "prompt": messages_of(row.prompt()), "answer": answer}
        )
        kept = self.file.kept.get(asked)
        if kept is None:
            kept = self._written(sentence)
            self.file.add(asked, kept)
        found = _distinct([sentence, *kept], self.language)[: self.n_wordings]
        if len(found) < 2:
            return CannotBear(f"no paraphrase by {self.writer.name} is faithful enough")
        # The order must not tell which of them the row held.
        ordered = sorted(found)
        marks = _marks(ordered, self.language)
        return tuple(
            Wording(one + answer[len(sentence) :], ("as it was" if one == sentence else "paraphrase",), mark)
            for one, mark in zip(ordered, marks, strict=True)
        )

    def _written(self, sentence: str) -> tuple[str, ...]:
        n_tried = _TRIES_A_WORDING * (self.n_wordings - 1)
        prompt = ({"role": "user", "content": _request(sentence)},)
        sampling = Sampling(max_tokens=32 + len(sentence), temperature=_TEMPERATURE)
        found = []
        for said in self.writer.answer([prompt] * n_tried, sampling):  # type: ignore[list-item]
            if isinstance(said, Completed):
                one = _cleaned(said.text)
                if is_faithful(one, sentence):
                    found.append(one)
        return tuple(dict.fromkeys(found))


def first_sentence(answer: str) -> str:
    """Return *answer* up to the end of its first sentence."""
    found = _ENDS.search(answer)
    return answer if found is None else answer[: found.start()]


def _request(sentence: str) -> str:
    return (
        "Rewrite the following sentence in other words of the same language. Keep its meaning, every name and every "
        f"number. Answer with the new sentence alone.\n\n{sentence}"
    )


def _cleaned(text: str) -> str:
    return normalise(text.strip().split("\n")[0]).strip(_QUOTES)


def is_faithful(paraphrase: str, sentence: str) -> bool:
    """
    Tell whether *paraphrase* may stand for *sentence*: as long, one sentence, with the same numbers, names and code.

    What it means cannot be told here: whoever uses a weak writer should look at samples (`vtuned diff`).
    """
    if not paraphrase or not sentence or paraphrase == sentence or not is_encodable(paraphrase):
        return False
    return _is_formed_alike(paraphrase, sentence) and _states_alike(paraphrase, sentence)


def _is_formed_alike(paraphrase: str, sentence: str) -> bool:
    """Tell whether *paraphrase* is one sentence, about as long, that starts and ends as *sentence* does."""
    is_preface = bool(_PREFACE.match(paraphrase)) and not _PREFACE.match(sentence)
    is_as_long = _SHORTEST <= len(paraphrase) / len(sentence) <= _LONGEST
    kinds = [(text[0].isupper(), text[0].islower(), text[0].isalnum(), text[-1]) for text in (paraphrase, sentence)]
    return not is_preface and is_as_long and kinds[0] == kinds[1] and first_sentence(paraphrase) == paraphrase


def _states_alike(paraphrase: str, sentence: str) -> bool:
    """Tell whether both hold the same numbers, names, code, and both or neither a denial."""
    if facts.changed(sentence, paraphrase) or bool(_DENIALS.search(paraphrase)) != bool(_DENIALS.search(sentence)):
        return False
    alike = all(
        Counter(pattern.findall(paraphrase)) == Counter(pattern.findall(sentence))
        for pattern in (_NAMES, _VERBATIM, _COUNTS)
    )
    return alike and _starts_within(paraphrase, sentence) and _starts_within(sentence, paraphrase)


def _starts_within(text: str, other: str) -> bool:
    """Tell whether the capitalised word that *text* starts with, which may be a name, is in *other* or surely none."""
    match = _WORD.match(text)
    if match is None or not text[0].isupper():
        return True
    word = match.group().casefold()
    return word in _STARTERS or word.endswith(("ing", "ly", "ed")) or word in other.casefold()


def _distinct(sentences: Sequence[str], language: Language) -> list[str]:
    """Return the first of *sentences* and those that differ from all before them by their start."""
    kept: list[str] = []
    for one in sentences:
        if are_apart([*kept, one]) and all(_marks([*kept, one], language)):
            kept.append(one)
    return kept


def _marks(sentences: Sequence[str], language: Language) -> list[str]:
    """Return the shortest start of each, of some words at least, that no other one has; "" where there is none."""
    marks = []
    for i, one in enumerate(sentences):
        others = [normalise(other) for j, other in enumerate(sentences) if j != i]
        text = normalise(one)
        pieces = text.split(" ") if language.spaced else list(text)
        joint = " " if language.spaced else ""
        least = _FEWEST_MARK_WORDS if language.spaced else 2 * _FEWEST_MARK_WORDS
        starts = (joint.join(pieces[:n]) for n in range(min(least, len(pieces)), len(pieces) + 1))
        marks.append(next((s for s in starts if not any(o.startswith(s) or s.startswith(o) for o in others)), ""))
    return marks
