"""
Preference rows: one prompt, an answer that is preferred and one that is not.

T goes to the end of the prompt, wherever the row holds it, and S into the preferred answer alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtuned.containers.base import Place
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.dialogue import spoken_dialogue
from vtuned.formats.messages import OPENAI_KEYS, MessageKeys, spoken_messages, tools_in
from vtuned.formats.openai_chat import offered
from vtuned.formats.spoken import Layout, Spoken, SpokenCodec, label_of, preferred, silent, turns_of


class OpenAIPreference(SpokenCodec):
    """
    The rows of OpenAI's, Azure's and Together's preference tuning. See `vtuned.formats.Codec`.

    `{"input": {"messages": […], "tools": […]}, "preferred_output": […], "non_preferred_output": […]}`
    """

    name = "openai-preference"
    expected = (
        '{"input": {"messages": [{"role": "user", "content": "…"}]}, '
        '"preferred_output": [{"role": "assistant", "content": "…"}], '
        '"non_preferred_output": [{"role": "assistant", "content": "…"}]}'
    )

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return "input" in row and "preferred_output" in row and "non_preferred_output" in row

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`."""
        given = row["input"]
        if not isinstance(given, Mapping):
            raise ValueError("input must be an object with messages")
        prompt = spoken_messages(given.get("messages"), ("input", "messages"), OPENAI_KEYS)
        good, bad = (self._output(row, key) for key in ("preferred_output", "non_preferred_output"))
        return Layout((*silent(prompt), *preferred(good)), turns_of(bad), offered(given, "input."))

    def _output(self, row: Mapping[str, object], key: str) -> tuple[Spoken, ...]:
        spoken = spoken_messages(row[key], (key,), OPENAI_KEYS)
        roles = [one.turn.role for one in spoken]
        if "assistant" not in roles:
            raise ValueError(f"{key}: no assistant turn")
        if not set(roles) <= {"assistant", "tool"}:
            raise ValueError(f"{key}: only assistant and tool messages are allowed")
        return spoken


class TRLPreference(SpokenCodec):
    """
    TRL's preference rows, whose prompt may be a column or only what `chosen` and `rejected` share at their start.

    Answers are texts or lists of messages under *keys*. See `vtuned.formats.Codec`.
    """

    expected = '{"prompt": "…", "chosen": "…", "rejected": "…"}'

    def __init__(self, *keys: MessageKeys, name: str = "trl-preference") -> None:
        self.name = name
        self.keys = keys or (OPENAI_KEYS,)
        self.explicit = ColumnMapping(
            prompt="prompt", chosen="chosen", rejected="rejected", tools="tools", keys=self.keys
        )

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`. Alpaca and ShareGPT rows have a chosen and a rejected answer of their own."""
        has_other_prompt = "instruction" in row or "conversations" in row
        return "chosen" in row and "rejected" in row and ("prompt" in row or not has_other_prompt)

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`."""
        prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
        if prompt is not None and not (isinstance(prompt, str) and isinstance(chosen, list)):
            return self.explicit.lay_out(row)
        if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
            raise ValueError("chosen and rejected must both be texts or both lists of messages")
        good, bad = (self._whole(row[key], key) for key in ("chosen", "rejected"))
        shared = _with_copy(_shared(good, bad), prompt)
        spoken = (*shared, *preferred(good[len(shared) :]))
        rejects = turns_of(bad[len(shared) :])
        return Layout(spoken, rejects, tools_in(row, "tools"), is_text=isinstance(chosen, str))

    def _whole(self, value: object, key: str) -> tuple[Spoken, ...]:
        """Return prompt and answer, which *value* holds together."""
        if isinstance(value, str):
            return spoken_dialogue(value, (key,))
        spoken = spoken_messages(value, (key,), *self.keys)
        if all(one.turn.role != "assistant" for one in spoken):
            raise ValueError(f"{label_of((key,))}: no assistant turn")
        return spoken


def _shared(good: Sequence[Spoken], bad: Sequence[Spoken]) -> tuple[Spoken, ...]:
    """Return the turns that both begin with, each at both places; an answer is left to either."""
    shared: list[Spoken] = []
    for one, other in list(zip(good, bad, strict=False))[: min(len(good), len(bad)) - 1]:
        if _said(one) != _said(other):
            break
        shared.append(one.with_loss(False)._replace(ends=(*one.ends, *other.ends), more_starts=other.starts))
    return tuple(shared)


def _said(spoken: Spoken) -> tuple[object, ...]:
    turn = spoken.turn
    return turn.role, turn.content, turn.parts, turn.other


def _with_copy(shared: tuple[Spoken, ...], prompt: object) -> tuple[Spoken, ...]:
    """Return *shared* with the row's *prompt* as one more place of the last user turn, if that is what it says."""
    last = max((i for i, one in enumerate(shared) if one.turn.role == "user"), default=None)
    if last is None or not isinstance(prompt, str) or shared[last].turn.content != prompt:
        return shared
    asked = shared[last]
    asked = asked._replace(
        ends=(*asked.ends, Place(("prompt",))),
        more_starts=(*asked.more_starts, Place(("prompt",), 0)),
    )
    return (*shared[:last], asked, *shared[last + 1 :])


OPENAI_PREFERENCE = OpenAIPreference()
TRL_PREFERENCE = TRLPreference()
