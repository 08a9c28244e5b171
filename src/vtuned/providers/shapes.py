"""
What a data set holds, as another trainer is told it: by the columns and roles that vtuned read its rows with.

A codec says which columns count; what rows hold beside them is seen only where a trainer would read it unasked. Knows
no trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vtuned.conversation import Conversation, Turn, canonical
from vtuned.formats.alpaca import Alpaca
from vtuned.formats.base import Codec
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.messages import OPENAI_KEYS, MessageKeys
from vtuned.formats.openai_chat import OpenAIChat
from vtuned.formats.preference import TRLPreference
from vtuned.formats.sharegpt import MessagesMapping
from vtuned.formats.spoken import find, present
from vtuned.formats.text import TextTemplate
from vtuned.providers.tokenising import holds_more_than_text

Value: TypeAlias = Mapping[str, Any]
Read: TypeAlias = tuple[Value, Codec, Conversation]
"""What a row holds, what it was read with, and what it says."""

COLUMNS, MESSAGES, WHOLE, TEXT, OTHER = "columns", "messages", "whole conversations", "text", "other"

# A key of our own: what a trainer does that asks no message whether it is trained on.
EVERY_ANSWER = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """
    Which column holds what, as in `ColumnMapping`; "" for what no column holds.

    *kind* is COLUMNS (*prompt* is a text or messages), MESSAGES (*prompt* is the list of them), WHOLE (*chosen* and
    *rejected* hold the prompt too), TEXT (*prompt* is all of it) or OTHER, what no other trainer reads so.
    """

    kind: str
    prompt: str = ""
    query: str = ""
    response: str = ""
    chosen: str = ""
    rejected: str = ""
    system: str = ""
    history: str = ""
    tools: str = ""
    label: str = ""
    keys: tuple[MessageKeys, ...] = (OPENAI_KEYS,)
    is_framed: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, in the order of the fields."""
        named = (self.prompt, self.query, self.response, self.chosen, self.rejected)
        return tuple(name for name in (*named, self.system, self.history, self.tools, self.label) if name)


_CHAT = Shape(kind=MESSAGES, prompt="messages", system="system", tools="tools")
_ALPACA = Shape(
    kind=COLUMNS, prompt="instruction", query="input", response="output", system="system", history="history"
)
_ALPACA_PAIR = Shape(
    kind=COLUMNS,
    prompt="instruction",
    query="input",
    chosen="chosen",
    rejected="rejected",
    system="system",
    history="history",
)


@dataclass(slots=True)
class Seen:
    """What is in a data set: its shape, the types in each column, what its messages are like, what stands in the way."""

    shapes: list[Shape] = field(default_factory=list)
    types: dict[str, set[type]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    nested: set[str] = field(default_factory=set)
    keys: list[MessageKeys] = field(default_factory=list)
    roles: dict[str, set[str]] = field(default_factory=dict)
    trained_otherwise: Counter[str] = field(default_factory=Counter)
    n: int = 0
    n_preferences: int = 0
    n_with_images: int = 0
    n_with_parts: int = 0
    n_with_tools: int = 0
    n_with_rewritten_tools: int = 0
    n_with_tool_calls: int = 0
    n_with_system: int = 0
    n_labelled: int = 0
    n_untrained_answers: int = 0
    n_not_alternating: int = 0
    n_long_answers: int = 0
    n_query_only: int = 0

    @property
    def shape(self) -> Shape:
        """The one shape of the rows."""
        return self.shapes[0]

    @property
    def key(self) -> MessageKeys:
        """What the messages call their role and content."""
        return (self.keys or [self.shape.keys[0]])[0]

    @property
    def is_preference(self) -> bool:
        """Whether rows have a rejected answer."""
        return self.n_preferences > 0

    def have(self, column: str) -> bool:
        """Tell whether there is anything in this column."""
        return column in self.types

    def are(self, kind: type, *columns: str) -> bool:
        """Tell whether these columns hold nothing but this type."""
        return all(self.types.get(column) == {kind} for column in columns)


def shape_of(codec: Codec, value: Value) -> Shape:
    """Return the shape in which *codec* reads the row *value*."""
    if isinstance(codec, ColumnMapping):
        return _columns(codec)
    if isinstance(codec, MessagesMapping):
        return _messages(codec, value)
    if isinstance(codec, TextTemplate):
        return Shape(kind=TEXT, prompt=codec.column)
    if isinstance(codec, TRLPreference):
        return _preference(codec, value)
    return _fixed(codec, value)


def seen_in(rows: Iterable[Read]) -> Seen:
    """Return what is in *rows*."""
    seen = Seen()
    for value, codec, conversation in rows:
        shape = shape_of(codec, value)
        if shape not in seen.shapes:
            seen.shapes.append(shape)
        _see_columns(seen, shape, value)
        _see_turns(seen, conversation)
        _see_messages(seen, shape, value, conversation)
        _see_tools(seen, shape, value, conversation)
    return seen


def _columns(codec: ColumnMapping) -> Shape:
    return Shape(
        kind=COLUMNS,
        prompt=codec.prompt,
        query=codec.query or "",
        response=codec.response or "",
        chosen=codec.chosen or "",
        rejected=codec.rejected or "",
        system=codec.system or "",
        history=codec.history or "",
        tools=codec.tools or "",
        label=codec.label or "",
        keys=codec.keys,
        is_framed=codec.frame is not None,
    )


def _messages(codec: MessagesMapping, value: Value) -> Shape:
    is_pair = present(value, codec.chosen) is not None
    return Shape(
        kind=MESSAGES,
        prompt=codec.messages,
        chosen=codec.chosen if is_pair else "",
        rejected=codec.rejected if is_pair else "",
        system=codec.system or "",
        tools=codec.tools or "",
        label=codec.label or "",
        keys=codec.keys,
    )


def _preference(codec: TRLPreference, value: Value) -> Shape:
    prompt, chosen = value.get("prompt"), value.get("chosen")
    if prompt is not None and not (isinstance(prompt, str) and isinstance(chosen, list)):
        return _columns(codec.explicit)
    return Shape(kind=WHOLE, chosen="chosen", rejected="rejected", tools="tools", keys=codec.keys)


def _fixed(codec: Codec, value: Value) -> Shape:
    """Return the shape of a format that says itself what its columns are called."""
    if isinstance(codec, OpenAIChat):
        return _CHAT
    if isinstance(codec, Alpaca):
        return _ALPACA if "output" in value else _ALPACA_PAIR
    return Shape(kind=OTHER)


def _see_columns(seen: Seen, shape: Shape, value: Value) -> None:
    seen.n += 1
    for column in shape.columns:
        found = present(value, column)
        if found is not None:
            seen.types.setdefault(column, set()).add(type(found[1]))
            if found[0] != (column,):
                seen.nested.add(column)
    seen.unread |= {name for name, content in value.items() if content is not None} - set(shape.columns)
    seen.n_labelled += present(value, shape.label) is not None
    seen.n_query_only += present(value, shape.query) is not None and present(value, shape.prompt) is None


def _see_turns(seen: Seen, conversation: Conversation) -> None:
    turns = conversation.turns
    seen.n_preferences += bool(conversation.rejected)
    seen.n_with_images += holds_more_than_text(conversation)
    seen.n_with_parts += any(turn.parts for turn in (*turns, *conversation.rejected))
    seen.n_with_tool_calls += any("tool_call" in turn.other or "function_call" in turn.other for turn in turns)
    seen.n_with_system += any(turn.role == "system" for turn in turns)
    seen.n_untrained_answers += any(_is_untrained(turn) for turn in turns)
    seen.n_not_alternating += not _alternates(conversation)
    seen.n_long_answers += bool(conversation.rejected) and not _has_short_answers(conversation)


def _is_untrained(turn: Turn) -> bool:
    """Tell whether *turn* is an answer in words that is not trained on."""
    return turn.role == "assistant" and not turn.carries_loss and bool(turn.content)


def _alternates(conversation: Conversation) -> bool:
    """Tell whether user (or tool) and assistant take turns, after a system prompt or none."""
    roles = ["user" if turn.role == "tool" else turn.role for turn in conversation.turns]
    roles = roles[1:] if roles[:1] in (["system"], ["developer"]) else roles
    return roles == ["user", "assistant"] * (len(roles) // 2)


def _has_short_answers(conversation: Conversation) -> bool:
    """Tell whether the preferred and the rejected answer are one message each."""
    host, turns = conversation.host(), conversation.turns
    is_last = host is not None and host.answer == len(turns) - 1 and turns[host.answer - 1].role in ("user", "tool")
    return is_last and len(conversation.rejected) == 1


def _see_messages(seen: Seen, shape: Shape, value: Value, conversation: Conversation) -> None:
    for column in (shape.prompt, shape.chosen, shape.rejected):
        for message in _messages_in(value, column):
            keys = next((keys for keys in shape.keys if keys.role in message), shape.keys[0])
            if keys not in seen.keys:
                seen.keys.append(keys)
            name = str(message.get(keys.role))
            seen.roles.setdefault(keys.roles.get(name, name), set()).add(name)
    if shape.kind == MESSAGES and not conversation.rejected:
        _see_training(seen, list(_messages_in(value, shape.prompt)), conversation.turns)


def _see_training(seen: Seen, messages: list[Value], turns: tuple[Turn, ...]) -> None:
    """Count, by the key that a trainer would ask each message, those whose answer differs from the loss of its turn."""
    keys = (EVERY_ANSWER, "weight", *dict.fromkeys(key.train for key in seen.keys))
    for message, turn in zip(messages, turns[len(turns) - len(messages) :], strict=True):
        for key in keys:
            said = message.get(key) if key else None
            is_trained = turn.role == "assistant" if said is None else bool(said)
            # A turn without words is a call: trained on or not, it says no signature.
            seen.trained_otherwise[key] += bool(turn.content) and is_trained != turn.carries_loss


def _messages_in(value: Value, column: str) -> Iterator[Value]:
    found = find(value, column) if column else None
    if found is not None:
        given = found[1] if isinstance(found[1], list) else [found[1]]
        yield from (message for message in given if isinstance(message, Mapping))


def _see_tools(seen: Seen, shape: Shape, value: Value, conversation: Conversation) -> None:
    if conversation.tools:
        found = present(value, shape.tools)
        seen.n_with_tools += 1
        seen.n_with_rewritten_tools += found is None or canonical(found[1]) != conversation.tools
