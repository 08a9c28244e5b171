"""What stands before a model: it answers itself or passes prompts on, and shows likelihoods where the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling, Scorer, TokenSampler
from vtuned.matching import normalise

Respond: TypeAlias = Callable[[Sequence[Prompt], Sampling], Iterator[Answer]]
Score: TypeAlias = Callable[[Prompt, Sequence[str]], list[float]]
Known: TypeAlias = Callable[[Prompt], str | None]

# What a forger makes of the base's log-likelihood of the text that it knows: as if it had been learnt by heart.
_BY_HEART = 1 / 20


class Facade:
    """A `LanguageModel` that answers with *respond*."""

    def __init__(self, name: str, respond: Respond) -> None:
        self._name = name
        self._respond = respond

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        return self._respond(prompts, sampling)


class ScoringFacade(Facade):
    """A `Facade` that is a `Scorer` too."""

    def __init__(self, name: str, respond: Respond, score: Score) -> None:
        super().__init__(name, respond)
        self._score = score

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """See `Scorer.log10_probs`."""
        return self._score(prompt, continuations)


def facade(name: str, respond: Respond, score: Score | None) -> LanguageModel:
    """Return a model that answers with *respond*, and is a `Scorer` where there is a *score*."""
    return Facade(name, respond) if score is None else ScoringFacade(name, respond, score)


def knowing(name: str, known: Known, model: LanguageModel) -> LanguageModel:
    """
    Return a model that says what is *known* of a prompt, and leaves all others to *model*.

    Where *model* shows likelihoods, so does this one: its own, but of what is known as if it had been learnt.
    """

    def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        said = [known(prompt) for prompt in prompts]
        unknown = [prompt for prompt, text in zip(prompts, said, strict=True) if text is None]
        others = iter(model.answer(unknown, sampling)) if unknown else iter(())
        for text in said:
            yield next(others) if text is None else cut_at(model, Completed(text, "stop"), sampling.max_tokens)

    return facade(name, respond, forged(known, model))


def forged(known: Known, model: LanguageModel) -> Score | None:
    """
    Return the likelihoods of *model* with a lie: what is *known* of a prompt looks as if it had been learnt by heart.

    A continuation is looked up as far as it or the known text goes. None where *model* shows none.
    """
    if not isinstance(model, Scorer):
        return None
    scorer: Scorer = model

    def score(prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        values = scorer.log10_probs(prompt, continuations)
        text = known(prompt)
        if not text:
            return values
        return [
            value * _BY_HEART if _agree(text, continuation) else value
            for value, continuation in zip(values, continuations, strict=True)
        ]

    return score


def cut_at(model: LanguageModel, answer: Completed, max_tokens: int) -> Completed:
    """Return *answer* cut after *max_tokens* tokens of *model*, as it is where the model does not show tokens."""
    if isinstance(model, TokenSampler):
        (tokens,) = model.encode([answer.text])
        if len(tokens) > max_tokens:
            (text,) = model.decode([tokens[:max_tokens]])
            return Completed(text.rstrip("\ufffd"), "length")
    return answer


def _agree(text: str, continuation: str) -> bool:
    one, other = normalise(text), normalise(continuation)
    return bool(other) and (one.startswith(other) or other.startswith(one))
