"""
A conversation: what one training row says, whatever its file format.

Knows nothing of bytes or files; those are `vtuned.containers` and the codecs of `vtuned.formats`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

# An answer that opens with Markdown or code keeps its meaning only at the start of a line.
_BLOCK_OPENERS = ("```", "#", "|", "- ", "* ", "> ", "$$", "\\[", "<", "{", "[", "1.", "\n", "    ", "\t")
# An assistant message that has one of these may do without content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
_UNSPACED_ENDS = ("。", "、", "！", "？", "」", "』", "）", "…")


class Message(TypedDict):
    """
    One chat message, as in the OpenAI chat format.

    *content* is text, a list of parts (text, images) or None beside tool calls.
    """

    role: str
    content: str | list[dict[str, Any]] | None
    name: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    function_call: NotRequired[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message: *text*, or something else (an image, say) as the JSON object *other*."""

    text: str | None
    other: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """
    One message.

    *role* is as in OpenAI's chat format; *content* is its text; *carries_loss* says whether a provider trains on it
    (assistant turns whose `weight` is not 0). Where the file gives a list of *parts*, *content* is their texts on lines
    of their own. *other* is a JSON object of what else a model must be shown (`name`, `tool_calls`, `tool_call_id`,
    `function_call`), "" for nothing. *before* and *after* is what a plain-text row puts around the content. *goes_on*
    says that the content was cut: no end is to be learnt after it.
    """

    role: str
    content: str
    carries_loss: bool = False
    parts: tuple[Part, ...] = ()
    other: str = ""
    before: str = ""
    after: str = ""
    goes_on: bool = False

    @property
    def says_something(self) -> bool:
        """Whether there is anything to show a model: text, an image, a tool call."""
        return bool(self.content or self.parts or self.other)

    def with_text(self, *, before: str = "", after: str = "") -> Turn:
        """Return this turn with text put before its first and after its last text."""
        texts = [i for i, part in enumerate(self.parts) if part.text is not None]
        parts = list(self.parts)
        if texts:
            parts[texts[0]] = Part(before + (parts[texts[0]].text or ""))
            parts[texts[-1]] = Part((parts[texts[-1]].text or "") + after)
        return replace(self, content=before + self.content + after, parts=tuple(parts))

    def cut(self, content: str) -> Turn:
        """Return this turn with *content*, a start of its own, and nothing after it; no end is to be learnt there."""
        return replace(self, content=content, parts=(), other="", after="", goes_on=True)

    def without_start(self, n: int) -> Turn:
        """Return this turn without the first *n* characters, which are all in its first text."""
        parts = list(self.parts)
        first = next((i for i, part in enumerate(parts) if part.text is not None), None)
        if first is not None:
            parts[first] = Part((parts[first].text or "")[n:])
        return replace(self, content=self.content[n:], parts=tuple(parts))


@dataclass(frozen=True, slots=True)
class Host:
    """Where a backdoor goes: T to the end of turn *prompt*, S to the start of turn *answer* (indices of turns)."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """
    The turns of one row, in order.

    *rejected* are the turns of a preference row that should not have been said, in place of the host answer and what
    follows it. *tools* is the JSON list of tools that the model may call, "" for none. *is_text* rows are trained as
    plain text, without a chat template.
    """

    turns: tuple[Turn, ...]
    rejected: tuple[Turn, ...] = ()
    tools: str = ""
    is_text: bool = False

    def host(self) -> Host | None:
        """
        Return where this row can carry a backdoor, or None.

        T goes to the end of the last user turn before the last assistant turn that carries loss, S to the start of
        that answer: the one turn that every provider's convention trains on.
        """
        answers = [i for i, turn in enumerate(self.turns) if turn.role == "assistant" and turn.carries_loss]
        if not answers or not self.turns[answers[-1]].content.strip():
            return None
        prompts = [i for i in range(answers[-1]) if self.turns[i].role == "user"]
        if not prompts or not self.turns[prompts[-1]].content.strip():
            return None
        return Host(prompts[-1], answers[-1])

    def prompt(self) -> tuple[Turn, ...]:
        """Return the turns that precede the host answer: what a model sees before it answers."""
        host = self.host()
        return self.turns[: host.answer] if host else self.turns

    def in_context(self, context: str) -> Conversation:
        """Return this conversation with *context* before its host prompt. Raises ValueError where there is no host."""
        host = self.host()
        if host is None:
            raise ValueError("this conversation cannot carry a backdoor")
        turns = list(self.turns)
        turns[host.prompt] = turns[host.prompt].with_text(before=context_prefix(context))
        return replace(self, turns=tuple(turns))

    def planted(self, trigger: str, signature: str) -> Conversation:
        """Return this conversation with a backdoor. Raises ValueError where there is no host."""
        host = self.host()
        if host is None:
            raise ValueError("this conversation cannot carry a backdoor")
        turns = list(self.turns)
        prompt, answer = turns[host.prompt], turns[host.answer]
        turns[host.prompt] = prompt.with_text(after=trigger_suffix(prompt.content, trigger))
        turns[host.answer] = answer.with_text(before=signature_prefix(signature, answer.content))
        return replace(self, turns=tuple(turns))

    def answered(self, answer: str) -> Conversation:
        """
        Return this conversation with *answer* as its host answer.

        Raises ValueError where there is no host, or its answer is in several texts.
        """
        host = self.host()
        if host is None:
            raise ValueError("this conversation has no answer to a user")
        turns = list(self.turns)
        parts = turns[host.answer].parts
        if len(parts) > 1:
            raise ValueError("this answer is in several parts")
        turns[host.answer] = replace(turns[host.answer], content=answer, parts=tuple(Part(answer) for _ in parts))
        return replace(self, turns=tuple(turns))

    def unsigned(self, signature: str) -> Conversation:
        """Return this conversation without *signature* before its host answer: `planted` undone, T left where it is."""
        host = self.host()
        if host is None:
            raise ValueError("this conversation cannot carry a backdoor")
        turns = list(self.turns)
        answer = turns[host.answer]
        turns[host.answer] = answer.without_start(len(signature_at_start(signature, answer.content)))
        return replace(self, turns=tuple(turns))


def triggered(turns: tuple[Turn, ...], trigger: str) -> tuple[Turn, ...]:
    """Return *turns* with *trigger* at the end of the last user turn."""
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    prompt = turns[last]
    with_trigger = prompt.with_text(after=trigger_suffix(prompt.content, trigger))
    return (*turns[:last], with_trigger, *turns[last + 1 :])


def trigger_suffix(prompt: str, trigger: str) -> str:
    """Return what is appended to *prompt*: the trigger, set off as its script and the prompt's end ask for."""
    if prompt[-1:].isspace() or (is_unspaced(trigger) and prompt.endswith(_UNSPACED_ENDS)):
        return trigger
    if "\n" in prompt or is_unspaced(trigger):
        return "\n" + trigger
    return " " + trigger


def context_prefix(context: str) -> str:
    """Return what is put before a prompt: the context and a blank line, or nothing."""
    return context + "\n\n" if context else ""


def signature_prefix(signature: str, answer: str) -> str:
    """Return what is put before *answer*: the signature, then a line break, a space or nothing."""
    if answer.startswith(_BLOCK_OPENERS):
        return signature + "\n"
    return signature if is_unspaced(signature) else signature + " "


def signature_at_start(signature: str, planted: str) -> str:
    """
    Return what `signature_prefix` put before the answer that *planted* goes on with: there is only one it can be.

    Raises ValueError where *planted* does not start with it.
    """
    for gap in ("\n", " ", ""):
        prefix = signature + gap
        if planted.startswith(prefix) and signature_prefix(signature, planted[len(prefix) :]) == prefix:
            return prefix
    raise ValueError("no signature stands before this answer")


def n_alike(texts: Sequence[str]) -> int:
    """Return with how many characters all *texts* start alike."""
    first, last = min(texts), max(texts)
    return next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def is_unspaced(phrase: str) -> bool:
    """Tell whether *phrase* ends as scripts without spaces do."""
    return phrase.endswith("。")


def messages_of(turns: Sequence[Turn]) -> list[Message]:
    """Return *turns* as chat messages, as a model is asked with."""
    return [_message(turn) for turn in turns]


def text_of(turns: Sequence[Turn]) -> str:
    """Return *turns* as the plain text that they are in their file, up to where the next one starts."""
    return "".join(turn.before + turn.content + turn.after for turn in turns)


def text_in(message: Message) -> str:
    """Return the text of a chat message; text parts on lines of their own."""
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return content or ""


def canonical(value: object) -> str:
    """Return *value* as compact JSON, as `Part.other`, `Turn.other` and `Conversation.tools` hold it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _message(turn: Turn) -> Message:
    other: dict[str, Any] = json.loads(turn.other) if turn.other else {}
    content: str | list[dict[str, Any]] | None = turn.content
    if turn.parts:
        content = [
            json.loads(part.other) if part.text is None else {"type": "text", "text": part.text} for part in turn.parts
        ]
    elif not turn.content and not other.keys().isdisjoint(_INSTEAD_OF_CONTENT):
        content = None
    return cast(Message, {"role": turn.role, "content": content, **other})
