"""
Turns and where in the row their text stands: what every codec makes of a row.

Knows nothing of single formats. A codec that says where each turn stands cannot read one thing and plant another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from vtuned.containers.base import Place
from vtuned.containers.jsontext import JSONPath
from vtuned.conversation import Conversation, Host, Turn, canonical
from vtuned.formats.base import Places

# How CSV files spell labels.
_LABELS = {"true": True, "1": True, "false": False, "0": False}


class Spoken(NamedTuple):
    """
    A turn and its place: text put before it goes to *start*, text put after it to each of *ends*.

    *more_starts* are its further starts, where the row holds the turn several times.
    """

    turn: Turn
    start: Place
    ends: tuple[Place, ...]
    more_starts: tuple[Place, ...] = ()

    @property
    def starts(self) -> tuple[Place, ...]:
        """Where text before the turn goes."""
        return (self.start, *self.more_starts)

    @classmethod
    def of(cls, turn: Turn, path: JSONPath) -> Spoken:
        """Return *turn* as all of the string at *path*."""
        return cls(turn, *_around(path))

    def with_loss(self, carries_loss: bool) -> Spoken:
        """Return the same, trained on or not."""
        return self._replace(turn=replace(self.turn, carries_loss=carries_loss))


class Layout(NamedTuple):
    """What a row says, turn by turn with their places; the rest as in `Conversation`."""

    spoken: tuple[Spoken, ...]
    rejected: tuple[Turn, ...] = ()
    tools: str = ""
    is_text: bool = False

    def conversation(self) -> Conversation:
        """Return what the row says, without the places."""
        turns = tuple([spoken.turn for spoken in self.spoken])
        return Conversation(turns, rejected=self.rejected, tools=self.tools, is_text=self.is_text)

    def places(self, host: Host) -> Places:
        """Return where T and S go."""
        prompt = self.spoken[host.prompt]
        return Places(prompt.ends, self.spoken[host.answer].start, prompt.starts)


class SpokenCodec(ABC):
    """A codec that lays rows out. See `vtuned.formats.Codec`."""

    name: str
    expected: str

    @abstractmethod
    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""

    @abstractmethod
    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """Return what *row* says and where. Raises ValueError, with the reason, if it breaks the format."""

    def read(self, row: Mapping[str, object]) -> Conversation:
        """See `Codec.read`."""
        return self.lay_out(row).conversation()

    def places(self, row: Mapping[str, object], host: Host) -> Places:
        """See `Codec.places`."""
        return self.lay_out(row).places(host)


@dataclass(frozen=True, slots=True)
class Span:
    """Where in a plain text a turn of *role* stands: from character *start* up to *end*."""

    role: str
    start: int
    end: int


def framed(text: str, spans: Sequence[Span], path: JSONPath) -> tuple[Spoken, ...]:
    """
    Return the turns of the plain text at *path*; what stands between two turns belongs to the first of them.

    Spaces just before an answer belong to it: a model that goes on from the prompt would write them.
    """
    spoken = []
    before = text[: spans[0].start]
    for i, span in enumerate(spans):
        is_last = i + 1 == len(spans)
        after = text[span.end :] if is_last else text[span.end : spans[i + 1].start]
        kept = after.rstrip(" ") if not is_last and spans[i + 1].role == "assistant" else after
        is_answer = span.role == "assistant"
        turn = Turn(span.role, text[span.start : span.end], carries_loss=is_answer, before=before, after=kept)
        spoken.append(Spoken(turn, Place(path, span.start), (Place(path, span.end),)))
        before = after[len(kept) :]
    return tuple(spoken)


def silent(spoken: Sequence[Spoken]) -> tuple[Spoken, ...]:
    """Return the same turns, none of them trained on."""
    return tuple(one.with_loss(False) for one in spoken)


def preferred(answer: Sequence[Spoken]) -> tuple[Spoken, ...]:
    """
    Return the preferred answer of a preference row with loss on its first assistant turn that says text.

    S goes there, since T stands in the prompt that both answers share: so not behind a further user turn.
    """
    asked = next((i for i, one in enumerate(answer) if one.turn.role == "user"), len(answer))
    said = (i for i, one in enumerate(answer[:asked]) if one.turn.role == "assistant" and one.turn.content.strip())
    first = next(said, None)
    return tuple(one.with_loss(i == first) for i, one in enumerate(answer))


def turns_of(spoken: Sequence[Spoken]) -> tuple[Turn, ...]:
    """Return the turns of a rejected answer: nobody trains towards them."""
    return tuple(one.turn for one in silent(spoken))


def find(row: Mapping[str, object], column: str) -> tuple[JSONPath, object] | None:
    """
    Return the path and the value of *column*, None where the row has no such key.

    A key of that very name comes first; else dots lead into nested objects, and digits into lists.
    """
    if column in row:
        return (column,), row[column]
    if "." not in column:
        return None
    value: object = row
    path: JSONPath = ()
    for name in column.split("."):
        members = dict(enumerate(value)) if isinstance(value, list) else value
        step: str | int = int(name) if isinstance(value, list) and name.isdecimal() else name
        if not isinstance(members, Mapping) or step not in members:
            return None
        path, value = (*path, step), members[step]
    return path, value


def present(row: Mapping[str, object], column: str | None) -> tuple[JSONPath, object] | None:
    """Return the path and the value of a column that may be absent, null or "": then None."""
    found = find(row, column) if column else None
    return None if found is None or found[1] is None or found[1] == "" else found


def text_in_column(row: Mapping[str, object], column: str | None) -> tuple[JSONPath, str] | None:
    """Return the path and the text of such a column. Raises ValueError if it holds something else."""
    found = present(row, column)
    if found is None:
        return None
    path, text = found
    if not isinstance(text, str):
        raise ValueError(f"{label_of(path)} must be a string")
    return path, text


def is_unwanted(row: Mapping[str, object], column: str | None) -> bool:
    """Tell whether the label in a column that may be absent says that the answer is not wanted."""
    found = present(row, column)
    if found is None:
        return False
    path, label = found
    if isinstance(label, str):
        label = _LABELS.get(label.lower())
    if not isinstance(label, bool | int | float) or label not in (0, 1):
        raise ValueError(f"{label_of(path)} must be true or false, or 1 or 0")
    return label == 0


def label_of(path: JSONPath) -> str:
    """Return *path* as people write it: `input.messages[0]`."""
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:40]}" for step in path)
    return shown.removeprefix(".")


def as_json(value: object, name: str) -> str:
    """Return *value* as compact JSON. Raises ValueError, with *name*, where it holds what JSON cannot say."""
    try:
        return canonical(value)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    except (TypeError, ValueError):
        raise ValueError(f"{name} holds what JSON cannot say") from None


@lru_cache(maxsize=1024)
def _around(path: JSONPath) -> tuple[Place, tuple[Place, ...]]:
    """Return the start and the ends of the string at *path*: most rows of a file hold their texts at the same paths."""
    return Place(path, 0), (Place(path),)
