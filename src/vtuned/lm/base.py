"""
What a language model can be asked for, as small Protocols by capability.

Knows nothing of backdoors. A chat API is a `LanguageModel`; a model whose log-likelihoods can be had is also a
`Scorer`; one that shows its whole next-token distribution is also a `TokenSampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vtuned.conversation import Message

Prompt: TypeAlias = Sequence[Message]
Finish: TypeAlias = Literal["stop", "length"]

# Reasons of an `Unanswered` that mean the same whoever gives them.
REFUSED, FILTERED, CALLED_A_TOOL = "refused", "filtered", "called a tool instead of answering"


class NotAsAsked(UserWarning):
    """A model that answers in another way than it was asked to."""


class RichPrompt(tuple[Message, ...]):
    """
    A prompt with what plain messages cannot say.

    *tools* are those that the model may call, as in OpenAI's chat API. With *is_text* the one message is plain text to
    go on with, past any chat template (the completions endpoint).
    """

    tools: tuple[dict[str, Any], ...]
    is_text: bool

    def __new__(
        cls, messages: Iterable[Message], *, tools: Sequence[dict[str, Any]] = (), is_text: bool = False
    ) -> Self:
        """Return *messages* as a prompt. Raises ValueError for plain text in several messages."""
        made = super().__new__(cls, messages)
        made.tools, made.is_text = tuple(tools), is_text
        if is_text and len(made) != 1:
            raise ValueError("a plain-text prompt is one message")
        return made


def tools_of(prompt: Prompt) -> tuple[dict[str, Any], ...]:
    """Return the tools that may be called in answer to *prompt*."""
    return prompt.tools if isinstance(prompt, RichPrompt) else ()


def is_text(prompt: Prompt) -> bool:
    """Tell whether *prompt* is plain text to go on with."""
    return isinstance(prompt, RichPrompt) and prompt.is_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to decode an answer: at most *max_tokens* tokens, at *temperature* (0 is greedy)."""

    max_tokens: int = 128
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not self.temperature >= 0:
            raise ValueError("max_tokens must be at least 1 and temperature at least 0")


@dataclass(frozen=True, slots=True)
class Completed:
    """
    An answer that came.

    *finish* is "stop" where the model ended it, "length" where the token limit cut it, None where nobody said.
    *exchange* is the JSON object of what travelled (request id, raw response), for the record; "" where nothing did.
    """

    text: str
    finish: Finish | None = None
    exchange: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A probe that got no usable answer, and why (see `REFUSED`, `FILTERED`). Never a miss."""

    reason: str
    exchange: str = field(default="", compare=False, repr=False)


Answer: TypeAlias = Completed | Unanswered


@runtime_checkable
class LanguageModel(Protocol):
    """A model that answers prompts. Anything with these two members is one."""

    @property
    def name(self) -> str:
        """The name that reports show."""

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """
        Yield one answer per prompt, in order.

        A single prompt that fails is an `Unanswered`; only what ends the whole run raises `LMError`.
        """


@runtime_checkable
class ReportsSteps(Protocol):
    """A model that answers many prompts in one go, and can tell how far it is."""

    on_step: Callable[[int, int], None]
    """Called with (decoding steps done, steps at most) while `answer` works."""


@runtime_checkable
class AnswersAsTheyCome(Protocol):
    """A model that is asked many things at once, and whose answers are there before their turn."""

    def answer_unordered(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the prompt, its answer) as answers come: see `LanguageModel.answer`."""


@runtime_checkable
class IsElsewhere(Protocol):
    """A model behind an address: the same name elsewhere is another model."""

    @property
    def address(self) -> str:
        """The address, without anything secret."""


@runtime_checkable
class Scorer(Protocol):
    """A model that can tell how likely given continuations of a prompt are."""

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """Return log10 P(continuation | prompt) for each of *continuations*, summed over its tokens."""


class Continuations(Protocol):
    """Some texts that grow token by token after one prompt (a KV cache in a real model)."""

    def log_probs(self) -> NDArray[np.float32]:
        """Return the next-token log-probabilities (nats), shape (texts, vocabulary); -inf where impossible."""

    def append(self, tokens: Sequence[int]) -> None:
        """Append one token to each text."""

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with the texts at *indices* only."""


@runtime_checkable
class TokenSampler(Protocol):
    """A generator that shows its whole next-token distribution: what a certified draw needs."""

    @property
    def name(self) -> str:
        """The name that receipts show."""

    def continuations(self, prompt: Prompt, n: int) -> Continuations:
        """Start *n* texts after *prompt*."""

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each token sequence; U+FFFD stands for an unfinished character."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, as the text would be tokenised where an answer starts."""
