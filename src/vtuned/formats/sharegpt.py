"""
ShareGPT rows: `{"conversations": [{"from": "human", "value": "…"}, …], "system": "…", "tools": "…"}`.

Many such files have `role` and `content` in their items; LLaMA-Factory's preference rows have one message each as
`chosen` and `rejected`. `MessagesMapping` is the same under any names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vtuned.conversation import Turn
from vtuned.formats.messages import FUNCTION_CALL, OPENAI_KEYS, MessageKeys, spoken_message, spoken_messages, tools_in
from vtuned.formats.openai_chat import system_of
from vtuned.formats.spoken import Layout, Spoken, SpokenCodec, find, is_unwanted, preferred, present, silent, turns_of

SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": FUNCTION_CALL,
    "observation": "tool",
    "tool": "tool",
}
SHAREGPT_KEYS = (MessageKeys("from", "value", SHAREGPT_ROLES), MessageKeys(roles=SHAREGPT_ROLES))


@dataclass(eq=False, kw_only=True)
class MessagesMapping(SpokenCodec):
    """
    Which column holds the *messages*, under which *keys*; all other columns are optional, null and "" are absent.

    With *chosen* and *rejected* (answers of one message or several) the messages are their shared prompt; a row that
    lacks them is an ordinary one unless *is_ranked*. A false *label* says that the answers are not wanted.
    """

    messages: str
    keys: tuple[MessageKeys, ...] = (OPENAI_KEYS,)
    system: str | None = None
    tools: str | None = None
    chosen: str = ""
    rejected: str = ""
    label: str | None = None
    is_ranked: bool = False
    name: str = "columns"
    expected: str = field(default="")

    def __post_init__(self) -> None:
        self.expected = self.expected or "{" + ", ".join(f'"{column}": …' for column in self._needed()) + "}"

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return all(find(row, column) is not None for column in self._needed())

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`."""
        path, messages = find(row, self.messages) or ((self.messages,), None)
        spoken = spoken_messages(messages, path, *self.keys)
        spoken = (*system_of(row, spoken, self.system), *spoken)
        rejected: tuple[Turn, ...] = ()
        if self._is_preference(row):
            spoken = (*silent(spoken), *preferred(self._answer(row, self.chosen)))
            rejected = turns_of(self._answer(row, self.rejected))
        if all(one.turn.role != "assistant" for one in spoken):
            raise ValueError("no assistant turn")
        if is_unwanted(row, self.label):
            spoken = silent(spoken)
        return Layout(spoken, rejected, tools_in(row, self.tools))

    def _needed(self) -> list[str]:
        return [self.messages, self.chosen, self.rejected] if self.is_ranked else [self.messages]

    def _is_preference(self, row: Mapping[str, object]) -> bool:
        """Tell whether *row* holds two answers. Raises ValueError where it holds one of them."""
        has = [present(row, column) is not None for column in (self.chosen, self.rejected)]
        if has[0] != has[1]:
            raise ValueError(f"{self.chosen} and {self.rejected} belong together")
        return has[0]

    def _answer(self, row: Mapping[str, object], column: str) -> tuple[Spoken, ...]:
        path, value = find(row, column) or ((column,), None)
        if isinstance(value, str):
            return (Spoken.of(Turn("assistant", value), path),)
        if isinstance(value, Mapping):
            return (spoken_message(value, path, *self.keys),)
        return spoken_messages(value, path, *self.keys)


SHAREGPT = MessagesMapping(
    messages="conversations",
    keys=SHAREGPT_KEYS,
    system="system",
    tools="tools",
    chosen="chosen",
    rejected="rejected",
    name="sharegpt",
    expected='{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}',
)
