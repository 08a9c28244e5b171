"""
Answers of served models: whole or piece by piece, with tokens and their log-probabilities where the model shows them.

Knows nothing of HTTP; refusals are those of the API.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vtuned.errors import LMUnavailable
from vtuned.lm.base import FILTERED, REFUSED, Completed, Prompt, RichPrompt, Sampling, Scorer
from vtuned.lm.huggingface import HuggingFaceLM
from vtuned.lm.huggingface.shown import ShownToken, generated
from vtuned.server.orders import ChatMessage
from vtuned.server.refusals import Refusal, invalid
from vtuned.server.serving import Served

# What an answer may take where nobody says: enough for a paragraph or two, and soon over.
_DEFAULT_TOKENS = 512
_UNFINISHED = "\ufffd"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, its tokens, and how it is to be answered. *n_likeliest* is None where no log-probabilities are wanted."""

    prompt: Prompt
    tokens: tuple[int, ...]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    n_likeliest: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What comes of an answer at once; the last one says how it ended."""

    text: str
    tokens: tuple[ShownToken, ...] = ()
    n_tokens: int = 0
    finish: str | None = None
    refusal: str | None = None


@dataclass(slots=True)
class _Cut:
    """A text that grows, up to the first of *stops*; what could be the start of one is held back."""

    stops: tuple[str, ...]
    n_told: int = 0
    is_over: bool = False
    _longest: int = field(init=False)

    def __post_init__(self) -> None:
        self._longest = max(map(len, self.stops), default=1) - 1

    def more(self, text: str, *, is_last: bool) -> str:
        """Return what of *text*, all that has come so far, may be told now and was not told before."""
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        end = min(found) if found else len(text) if is_last else self._safe(text)
        self.is_over = bool(found)
        told, self.n_told = text[self.n_told : end], max(end, self.n_told)
        return told

    def _safe(self, text: str) -> int:
        whole = len(text.rstrip(_UNFINISHED))
        return max(0, min(whole, len(text) - self._longest))


def asked(
    served: Served,
    prompt: Prompt,
    *,
    n_tokens: int | None,
    temperature: float,
    stops: tuple[str, ...] = (),
    n_likeliest: int | None = None,
) -> Asked:
    """Return *prompt* as it is asked. Raises Refusal where the model cannot read it, or not answer at such length."""
    tokens = rendered(served, prompt)
    room = (served.speaker.max_positions or math.inf) - len(tokens)
    wanted = n_tokens or max(1, int(min(_DEFAULT_TOKENS, room)))
    if wanted > room:
        message = (
            f"Prompt and answer take {len(tokens) + wanted} tokens, the model reads {served.speaker.max_positions}."
        )
        raise invalid(message, "messages", code="context_length_exceeded")
    if n_likeliest is not None and not isinstance(served.model, HuggingFaceLM):
        raise invalid("This model shows no log-probabilities of its answers.", "logprobs", code="unsupported_parameter")
    return Asked(prompt, tokens, Sampling(max_tokens=wanted, temperature=temperature), stops, n_likeliest)


def rendered(served: Served, prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens of *prompt*. Raises Refusal where the model's chat template takes no such prompt."""
    try:
        tokens = tuple(served.speaker.render(prompt))
    except LMUnavailable as error:
        raise invalid("The model's chat template refuses these messages.", "messages") from error
    if not tokens:
        raise invalid("The prompt is empty.", "messages")
    return tokens


def whole(served: Served, question: Asked) -> Piece:
    """Return the whole answer in one piece."""
    shows_tokens = isinstance(served.model, HuggingFaceLM)
    if question.n_likeliest is not None or (question.stops and shows_tokens):
        pieces = list(pieces_of(served, question))
        tokens = tuple(token for piece in pieces for token in piece.tokens)
        n_tokens = sum(piece.n_tokens for piece in pieces)
        return Piece("".join(piece.text for piece in pieces), tokens, n_tokens, pieces[-1].finish)
    with served.alone():
        (answer,) = served.model.answer([question.prompt], question.sampling)
    if not isinstance(answer, Completed):
        return _unanswered(answer.reason)
    n_tokens = len(served.base.encode([answer.text])[0]) if answer.text else 0
    cut = _Cut(question.stops)
    text = cut.more(answer.text, is_last=True)
    return Piece(text, (), n_tokens, "stop" if cut.is_over else answer.finish or "stop")


def _unanswered(reason: str) -> Piece:
    if reason == FILTERED:
        return Piece("", finish="content_filter")
    if reason == REFUSED:
        return Piece("", finish="stop", refusal="The model refused to answer.")
    raise invalid(f"The model cannot answer this: {reason}", code="cannot_answer")


def pieces_of(served: Served, question: Asked) -> Iterator[Piece]:
    """Yield the answer as it comes; the last piece says how it ended."""
    model = served.model
    if not isinstance(model, HuggingFaceLM):
        answer = whole(served, question)
        words = answer.text.split(" ")
        for i, word in enumerate(words):
            yield Piece(word if i == 0 else f" {word}")
        yield Piece("", n_tokens=answer.n_tokens, finish=answer.finish, refusal=answer.refusal)
        return
    cut, held, ids, finish = _Cut(question.stops), list[ShownToken](), list[int](), "length"
    steps = generated(model, question.tokens, question.sampling, question.n_likeliest or 0)
    for token in _alone(served, steps):
        if token.id in model.ends:
            finish = "stop"
            break
        ids.append(token.id)
        held.append(token)
        text = cut.more(model.text(ids), is_last=False)
        if cut.is_over:
            yield Piece(text, _within(question, held), len(ids), "stop")
            return
        if text:
            yield Piece(text, _within(question, held))
            held = []
    last = cut.more(model.text(ids), is_last=True)
    yield Piece(last, _within(question, held), len(ids), "stop" if cut.is_over else finish)


def _within(question: Asked, tokens: Sequence[ShownToken]) -> tuple[ShownToken, ...]:
    return tuple(tokens) if question.n_likeliest is not None else ()


def _alone(served: Served, steps: Iterator[ShownToken]) -> Iterator[ShownToken]:
    """Yield what *steps* yields, each step with the weights to itself: between two, others are answered."""
    while True:
        with served.alone():
            token = next(steps, None)
        if token is None:
            return
        yield token


def prompt_tokens(served: Served, prompt: Prompt, text: str | None, n_likeliest: int) -> list[ShownToken]:
    """
    Return the tokens of *prompt*, and of *text* as the start of its answer, with their log-probabilities.

    A model that shows those of whole texts alone gives one token for the prompt and one for the text. Raises Refusal
    where it shows none.
    """
    model = served.model
    if served.reader is not None:
        tokens = [*rendered(served, prompt), *(served.speaker.encode([text])[0] if text else ())]
        _check_length(served, len(tokens))
        with served.alone():
            return served.reader.given(tokens, n_likeliest)
    if not isinstance(model, Scorer):
        raise invalid("This model shows no log-probabilities of given text.", code="unsupported_parameter")
    scorer: Scorer = model
    head = ShownToken(0, "", None)
    if not text:
        return [head]
    with served.alone():
        (value,) = scorer.log10_probs(prompt, [text])
    return [head, ShownToken(1, text, value * math.log(10))]


def echoed(served: Served, tokens: Sequence[int], n_likeliest: int) -> list[ShownToken]:
    """Return the *tokens* of a plain text with their log-probabilities. Raises Refusal where the model shows none."""
    if served.reader is None:
        raise invalid("This model shows no log-probabilities of given text.", "echo", code="unsupported_parameter")
    _check_length(served, len(tokens))
    with served.alone():
        return served.reader.given(tokens, n_likeliest)


def _check_length(served: Served, n_tokens: int) -> None:
    limit = served.speaker.max_positions or math.inf
    if n_tokens > limit:
        message = f"The text takes {n_tokens} tokens, the model reads {limit}."
        raise invalid(message, "messages", code="context_length_exceeded")


def chat_prompt(messages: Sequence[ChatMessage], tools: Sequence[dict[str, object]] | None) -> Prompt:
    """Return chat messages as a prompt. Raises Refusal for text that is not Unicode."""
    shown = [message.model_dump(exclude_none=True, mode="json") for message in messages]
    for message in shown:
        message.setdefault("content", None)
    try:
        json.dumps([shown, tools], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refusal(400, "The messages hold half a surrogate pair.", param="messages") from error
    return RichPrompt(shown, tools=list(tools or ()))  # type: ignore[arg-type]


def text_prompt(text: str) -> Prompt:
    """Return plain text as a prompt."""
    return RichPrompt([{"role": "user", "content": text}], is_text=True)
