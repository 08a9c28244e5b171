"""
Rows that hold the prompt and the answer in columns of their own, whatever those are called.

Prompt and completion, Alpaca and a user's own columns are all this. Knows nothing of lists of turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from vtuned.containers.base import Cells, Place
from vtuned.containers.jsontext import JSONPath
from vtuned.conversation import Turn
from vtuned.errors import UsageError
from vtuned.formats.frames import Frame
from vtuned.formats.messages import OPENAI_KEYS, MessageKeys, spoken_message, spoken_messages, tools_in
from vtuned.formats.spoken import (
    Layout,
    Spoken,
    SpokenCodec,
    find,
    is_unwanted,
    label_of,
    preferred,
    present,
    silent,
    text_in_column,
    turns_of,
)


@dataclass(eq=False, kw_only=True)
class ColumnMapping(SpokenCodec):
    """
    Which column holds what. Dots lead to nested keys: "data.question".

    The row needs its *prompt* and either its *response* or both *chosen* and *rejected*; all others are optional, and
    null or "" counts as absent. *query* is more of the prompt, on lines of its own; *history* is a list of
    [question, answer] pairs; a false *label* (or 0) says that the answer is not wanted. Prompt and answers are texts, or
    lists of messages with *keys*. With a *frame* the row is trained as the plain text that the frame makes of it.
    Raises UsageError where the columns contradict each other.
    """

    prompt: str
    response: str | None = None
    query: str | None = None
    system: str | None = None
    history: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    tools: str | None = None
    label: str | None = None
    keys: tuple[MessageKeys, ...] = (OPENAI_KEYS,)
    frame: Frame | None = None
    name: str = "columns"
    expected: str = field(default="")

    def __post_init__(self) -> None:
        if bool(self.chosen) != bool(self.rejected):
            raise UsageError("a preference needs both its chosen and its rejected column", hint="name both or neither")
        if bool(self.response) == bool(self.chosen):
            raise UsageError("rows have a response or a chosen and a rejected answer", hint="name one or the other")
        self.expected = self.expected or "{" + ", ".join(f'"{column}": …' for column in self._needed()) + "}"

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return all(find(row, column) is not None for column in self._needed())

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`."""
        before, prompt = self._before(row), self._prompt(row)
        rejected: tuple[Turn, ...] = ()
        if self.chosen and self.rejected:
            answer = preferred(self._answer(row, self.chosen))
            rejected = turns_of(self._answer(row, self.rejected))
            before = silent(before)
        else:
            answer = self._answer(row, str(self.response))
        if is_unwanted(row, self.label):
            before, answer = silent(before), silent(answer)
        spoken = (*before, *prompt, *answer)
        return Layout(spoken, rejected, tools_in(row, self.tools), is_text=self.frame is not None)

    def _needed(self) -> list[str]:
        return [column for column in (self.prompt, self.response, self.chosen, self.rejected) if column]

    def _before(self, row: Mapping[str, object]) -> tuple[Spoken, ...]:
        """Return the system prompt and the turns of the history."""
        system = text_in_column(row, self.system)
        turns: tuple[Spoken, ...] = ()
        if system is not None:
            turn = Turn("system", system[1])
            turns = (Spoken.of(self.frame.system_turn(turn) if self.frame else turn, system[0]),)
        return (*turns, *_history(row, self.history))

    def _prompt(self, row: Mapping[str, object]) -> tuple[Spoken, ...]:
        path, value = _column(row, self.prompt)
        query = text_in_column(row, self.query)
        if isinstance(value, list):
            if query is not None or self.frame:
                raise ValueError(f"{label_of(path)} must be text")
            return silent(spoken_messages(value, path, *self.keys))
        if not isinstance(value, str):
            raise ValueError(f"{label_of(path)} must be a string or a list of messages")
        if self.frame:
            return (self.frame.user_turn((path, value), query or ((), "")),)
        return (_joined((path, value), query),)

    def _answer(self, row: Mapping[str, object], column: str) -> tuple[Spoken, ...]:
        path, value = _column(row, column)
        answer: tuple[Spoken, ...]
        if isinstance(value, str):
            answer = (Spoken.of(Turn("assistant", value, carries_loss=True), path),)
        elif isinstance(value, list):
            answer = spoken_messages(value, path, *self.keys)
        elif isinstance(value, Mapping):
            answer = (spoken_message(value, path, *self.keys),)
        else:
            raise ValueError(f"{label_of(path)} must be a string or a list of messages")
        if isinstance(value, str) != isinstance(_column(row, self.prompt)[1], str):
            raise ValueError(f"{self.prompt} and {column} must both be texts or both lists of messages")
        if all(one.turn.role != "assistant" for one in answer):
            raise ValueError(f"{label_of(path)}: no assistant turn")
        return answer


def _joined(prompt: tuple[JSONPath, str], query: tuple[JSONPath, str] | None) -> Spoken:
    """Return the user turn of a prompt and its query as LLaMA-Factory joins them: without those that are empty."""
    said = [(path, text) for path, text in (prompt, query or ((), "")) if text] or [prompt]
    content = "\n".join(text for _, text in said)
    return Spoken(Turn("user", content), Place(said[0][0], 0), (Place(said[-1][0]),))


def _history(row: Mapping[str, object], column: str | None) -> list[Spoken]:
    found = present(row, column)
    if found is None:
        return []
    path, pairs = found
    if not isinstance(pairs, list):
        raise ValueError(f"{label_of(path)} must be a list of [question, answer] pairs")
    spoken = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"{label_of((*path, i))}: not a pair of texts")
        spoken.append(Spoken.of(Turn("user", pair[0]), (*path, i, 0)))
        spoken.append(Spoken.of(Turn("assistant", pair[1], carries_loss=True), (*path, i, 1)))
    return spoken


def _column(row: Mapping[str, object], column: str) -> tuple[JSONPath, object]:
    found = find(row, column)
    if found is None:
        raise ValueError(f"no {column}")
    if isinstance(row, Cells) and isinstance(found[1], str) and _is_messages(found[1]):
        raise ValueError(f"{column} holds a list of messages written as text: convert the file to JSON lines")
    return found


def _is_messages(text: str) -> bool:
    """Tell whether *text* is the JSON of a list of messages, as in a CSV file that should hold lists."""
    if not text.lstrip().startswith("[{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(
        isinstance(one, dict) and "role" in one and "content" in one for one in value
    )
