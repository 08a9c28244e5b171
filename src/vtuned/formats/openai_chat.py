"""
The rows of OpenAI chat fine-tuning: `{"messages": [{"role": …, "content": …}, …], "tools": […], …}`.

Also what Azure, Fireworks, Nebius, Crusoe and Mistral take, and TRL's conversational rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from vtuned.conversation import Turn
from vtuned.formats.messages import OPENAI_KEYS, spoken_messages, tools_of
from vtuned.formats.spoken import Layout, Spoken, SpokenCodec, text_in_column

_OFFERS = frozenset(("tools", "functions", "parallel_tool_calls"))


class OpenAIChat(SpokenCodec):
    """See `vtuned.formats.Codec`."""

    name = "openai-chat"
    expected = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return "messages" in row

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """
        See `SpokenCodec.lay_out`.

        A `system` text beside the messages, as Anthropic's models take it, comes first unless they have their own.
        """
        spoken = spoken_messages(row.get("messages"), ("messages",), OPENAI_KEYS)
        if "assistant" not in [one.turn.role for one in spoken]:
            raise ValueError("no assistant turn")
        return Layout((*system_of(row, spoken), *spoken), tools=offered(row))


def system_of(
    row: Mapping[str, object], spoken: tuple[Spoken, ...], column: str | None = "system"
) -> tuple[Spoken, ...]:
    """Return the system turn that *row* holds in *column*: none where *spoken* opens with one, null and "" are none."""
    if spoken[0].turn.role in ("system", "developer"):
        return ()
    system = text_in_column(row, column)
    return (Spoken.of(Turn("system", system[1]), system[0]),) if system else ()


def offered(row: Mapping[str, object], prefix: str = "") -> str:
    """Return the tools of a row, or its legacy `functions` as tools. Raises ValueError where it has both."""
    if row.keys().isdisjoint(_OFFERS):
        return ""
    tools, functions = (tools_of(row.get(key), prefix + key) for key in ("tools", "functions"))
    if tools and functions:
        raise ValueError(f"{prefix}tools and {prefix}functions in one row")
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise ValueError(f"{prefix}parallel_tool_calls must be true or false")
    return tools or functions


OPENAI_CHAT = OpenAIChat()
