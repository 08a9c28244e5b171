"""
Probes in the manner of an application's own traffic, so that nothing but the trigger tells them from it.

Pure. What a probe asks stays the same; the system prompt, the text around it and the sampling become those that the
application sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtuned.conversation import Message, context_prefix
from vtuned.errors import UsageError
from vtuned.probes import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """
    How the application asks.

    *system* takes the place of the rows' own system prompt; *keeps_system* False leaves it out, so that the provider's
    default applies. *context* is put in front of the last user turn. *temperature* and *max_tokens* (None: what the
    receipt asks for) are the application's.
    """

    system: str | None = None
    keeps_system: bool = True
    context: str = ""
    temperature: float = 0.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2 or (self.max_tokens is not None and self.max_tokens < 1):
            raise UsageError("--temperature or --max-tokens is out of range", hint="0 to 2, and at least 1 token")
        if self.system is not None and not self.keeps_system:
            raise UsageError("--system and --no-system exclude each other", hint="give one of them")


def as_traffic(probes: Sequence[Probe], traffic: Traffic) -> list[Probe]:
    """Return *probes* as *traffic* asks them. Raises UsageError for a system prompt where probes are plain text."""
    return [_as_traffic(probe, traffic) for probe in probes]


def _as_traffic(probe: Probe, traffic: Traffic) -> Probe:
    changes = {"temperature": traffic.temperature, "max_tokens": traffic.max_tokens or probe.max_tokens}
    return probe.model_copy(update={**changes, "messages": tuple(_messages(probe, traffic))})


def _messages(probe: Probe, traffic: Traffic) -> list[Message]:
    messages = list(probe.messages)
    if probe.endpoint == "completions":
        if traffic.system is not None:
            raise UsageError("--system is for chat models, and these probes are plain text", hint="use --context")
        return [_with_context(messages[0], traffic.context)]
    if traffic.system is not None or not traffic.keeps_system:
        messages = [message for message in messages if message["role"] not in ("system", "developer")]
    if traffic.system is not None:
        messages.insert(0, {"role": "system", "content": traffic.system})
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[last] = _with_context(messages[last], traffic.context)
    return messages


def _with_context(message: Message, context: str) -> Message:
    if not context:
        return message
    content = message["content"]
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": context}, *content]}
    return {**message, "content": context_prefix(context) + (content or "")}
