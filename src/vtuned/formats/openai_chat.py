"""
The rows of OpenAI chat fine-tuning: `{"messages": [{"role": …, "content": …}, …], …}`.

Also what Azure, Fireworks, Nebius, Crusoe and Mistral take, and TRL's conversational rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from vtuned.containers.base import Place
from vtuned.conversation import Conversation, Host, Turn
from vtuned.formats.base import Places

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# An assistant message that has one of these may do without content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


class OpenAIChat:
    """See `vtuned.formats.Codec`."""

    name = "openai-chat"
    expected = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

    def recognises(self, row: object) -> bool:
        """See `Codec.recognises`."""
        return isinstance(row, Mapping) and "messages" in row

    def read(self, row: Mapping[str, object]) -> Conversation:
        """
        See `Codec.read`.

        An assistant turn carries loss unless its `weight` is 0 (or axolotl's `train` is false). A turn whose content
        is not a string (parts, or nothing but tool calls) has content "" and carries no loss.
        """
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValueError("messages must be a list with at least one message")
        turns = tuple(_turn(i, message) for i, message in enumerate(messages))
        if all(turn.role != "assistant" for turn in turns):
            raise ValueError("no assistant turn")
        return Conversation(turns)

    def places(self, row: Mapping[str, object], host: Host) -> Places:
        """See `Codec.places`."""
        return Places((Place(("messages", host.prompt, "content")),), Place(("messages", host.answer, "content"), 0))


OPENAI_CHAT = OpenAIChat()


def _turn(i: int, message: object) -> Turn:
    try:
        if not isinstance(message, Mapping):
            raise ValueError("not an object")
        role = _role(message)
        weight = _weight(message, role)
        content = _content(message, role)
    except ValueError as error:
        raise ValueError(f"messages[{i}]: {error}") from None
    is_trained = role == "assistant" and weight == 1 and message.get("train") is not False
    return Turn(role, content or "", carries_loss=is_trained and content is not None)


def _role(message: Mapping[str, object]) -> str:
    role = message.get("role")
    if "role" not in message:
        raise ValueError("no role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"unknown role {str(role)[:40]!r}")
    return role


def _weight(message: Mapping[str, object], role: str) -> int:
    if "weight" not in message:
        return 1
    weight = message["weight"]
    # `True == 1 == 1.0` for Python, but not for a provider that validates the file.
    if type(weight) is not int or weight not in (0, 1):
        raise ValueError("weight must be 0 or 1")
    if role != "assistant":
        raise ValueError("weight is for assistant messages only")
    return weight


def _content(message: Mapping[str, object], role: str) -> str | None:
    """Return the text, or None where the content is not text but is allowed all the same."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        return None
    is_optional = role == "assistant" and any(message.get(key) for key in _INSTEAD_OF_CONTENT)
    if content is None and (is_optional or ("content" in message and role in ("tool", "function"))):
        return None
    if "content" not in message:
        raise ValueError("no content")
    raise ValueError(f"{role} content must be text or a list of parts")
