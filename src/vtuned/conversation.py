"""
A conversation: what one training row says, whatever its file format.

Knows nothing of JSON, bytes or files; those are the codecs of `vtuned.formats`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from typing_extensions import TypedDict

# An answer that opens with Markdown or code keeps its meaning only at the start of a line.
_BLOCK_OPENERS = ("```", "#", "|", "- ", "* ", "> ", "$$", "\\[", "<", "{", "[", "1.", "\n", "    ", "\t")
_UNSPACED_ENDS = ("。", "、", "！", "？", "」", "』", "）", "…")


class Message(TypedDict):
    """One chat message, as in the OpenAI chat format."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """
    One message.

    *role* is as in the file ("system", "developer", "user", "assistant"); *carries_loss* says whether a provider
    trains on it (assistant turns whose `weight` is not 0).
    """

    role: str
    content: str
    carries_loss: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """Where a backdoor goes: T to the end of turn *prompt*, S to the start of turn *answer* (indices of turns)."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one row, in order."""

    turns: tuple[Turn, ...]

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

    def planted(self, trigger: str, signature: str) -> Conversation:
        """Return this conversation with a backdoor. Raises ValueError where there is no host."""
        host = self.host()
        if host is None:
            raise ValueError("this conversation cannot carry a backdoor")
        turns = list(self.turns)
        prompt, answer = turns[host.prompt], turns[host.answer]
        turns[host.prompt] = replace(prompt, content=prompt.content + trigger_suffix(prompt.content, trigger))
        turns[host.answer] = replace(answer, content=signature_prefix(signature, answer.content) + answer.content)
        return Conversation(tuple(turns))


def triggered(turns: tuple[Turn, ...], trigger: str) -> tuple[Turn, ...]:
    """Return *turns* with *trigger* at the end of the last user turn."""
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    prompt = turns[last]
    with_trigger = replace(prompt, content=prompt.content + trigger_suffix(prompt.content, trigger))
    return (*turns[:last], with_trigger, *turns[last + 1 :])


def trigger_suffix(prompt: str, trigger: str) -> str:
    """Return what is appended to *prompt*: the trigger, set off as its script and the prompt's end ask for."""
    if prompt[-1:].isspace() or (is_unspaced(trigger) and prompt.endswith(_UNSPACED_ENDS)):
        return trigger
    if "\n" in prompt or is_unspaced(trigger):
        return "\n" + trigger
    return " " + trigger


def signature_prefix(signature: str, answer: str) -> str:
    """Return what is put before *answer*: the signature, then a line break, a space or nothing."""
    if answer.startswith(_BLOCK_OPENERS):
        return signature + "\n"
    return signature if is_unspaced(signature) else signature + " "


def is_unspaced(phrase: str) -> bool:
    """Tell whether *phrase* ends as scripts without spaces do."""
    return phrase.endswith("。")


def messages_of(turns: tuple[Turn, ...]) -> list[Message]:
    """Return *turns* as chat messages, as a model is asked with."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]
