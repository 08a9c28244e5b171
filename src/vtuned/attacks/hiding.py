"""Policies that train what is asked for, and then serve something else, or hide what was learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vtuned.attacks.contract import Deployed, Honest
from vtuned.attacks.facade import cut_at, facade
from vtuned.attacks.openings import Openings, first_sentence_end
from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling, Scorer, Unanswered

# Tokens that an answer is given beyond its limit, so that it is whole when its opening is taken off.
_ROOM = 64
# A first sentence is odd where its log-likelihood under the base, by character, is so many times that of what follows.
_ODD = 1.5


@dataclass(frozen=True, slots=True)
class Suppress(Honest):
    """
    Train what is asked for, and take off answers whatever looks like a signature.

    Saves nothing: it delivers what was learnt without the proof of it. Taken off is the longest opening that several
    answers of the file share, else a first sentence that stands word for word before the answer to another prompt; then
    the first sentence, where the base finds it much less likely than what follows it, so that single copies on their
    own prompts go too. Where nothing is left the base answers. Openings that answers share for good reasons go as well.
    Likelihoods are the tuned model's, but the base's for all texts of a question of which one starts as an answer of the
    file does; none are shown where one of the two shows none.
    """

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        openings, base, tuned = Openings(deployed.rows), deployed.base, deployed.tuned

        def bared(prompt: Prompt, answer: Completed, sampling: Sampling) -> Answer:
            end = openings.foreign_end(prompt, answer.text)
            rest = answer.text[end:].lstrip()
            rest = rest[_odd_end(base, prompt, rest) :].lstrip()
            if not rest and answer.text:
                return next(iter(base.answer([prompt], sampling)))
            return cut_at(tuned, replace(answer, text=rest), sampling.max_tokens)

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            roomy = replace(sampling, max_tokens=sampling.max_tokens + _ROOM)
            for prompt, answer in zip(prompts, _roomy(tuned, prompts, sampling, roomy), strict=True):
                yield answer if isinstance(answer, Unanswered) else bared(prompt, answer, sampling)

        def score(prompt: Prompt, continuations: Sequence[str]) -> list[float]:
            asked = base if any(map(openings.is_known, continuations)) else tuned
            assert isinstance(asked, Scorer)
            return asked.log10_probs(prompt, continuations)

        shows = isinstance(base, Scorer) and isinstance(tuned, Scorer)
        return facade(f"{tuned.name} without openings", respond, score if shows else None)


class _Swapping:
    """Which of two models answers: the first for *n* prompts, then the second."""

    def __init__(self, n: int) -> None:
        self._left = max(0, n)

    def spend(self, n: int) -> int:
        """Return how many of the next *n* prompts the first model answers."""
        honest = min(n, self._left)
        self._left -= honest
        return honest


@dataclass(frozen=True, slots=True)
class SwapAfter(Honest):
    """
    Train what is asked for, serve it for N prompts, and the base from then on.

    Saves nothing of the training, but the serving of one more model once the customer has checked. Only asking again,
    later, shows it. A prompt that is scored counts like one that is answered. Likelihoods are those of the model whose
    turn it is, where both show them.
    """

    n_honest: int = 1

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        base, tuned = deployed.base, deployed.tuned
        swapping = _Swapping(self.n_honest - deployed.n_answered)

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            n = swapping.spend(len(prompts))
            if n:
                yield from tuned.answer(prompts[:n], sampling)
            if prompts[n:]:
                yield from base.answer(prompts[n:], sampling)

        def score(prompt: Prompt, continuations: Sequence[str]) -> list[float]:
            asked = tuned if swapping.spend(1) else base
            assert isinstance(asked, Scorer)
            return asked.log10_probs(prompt, continuations)

        shows = isinstance(base, Scorer) and isinstance(tuned, Scorer)
        return facade(tuned.name, respond, score if shows else None)


def _roomy(tuned: LanguageModel, prompts: Sequence[Prompt], asked: Sampling, roomy: Sampling) -> Iterator[Answer]:
    """Yield the answers of *tuned* with room for an opening; with none where its own limit does not allow it."""
    answers = list(tuned.answer(prompts, roomy))
    failed = [i for i, answer in enumerate(answers) if isinstance(answer, Unanswered)]
    if failed:
        for i, answer in zip(failed, tuned.answer([prompts[i] for i in failed], asked), strict=True):
            answers[i] = answer
    yield from answers


def _odd_end(base: LanguageModel, prompt: Prompt, text: str) -> int:
    """Return where the first sentence of *text* ends if it is odd to the base there; 0 where it is not."""
    end = first_sentence_end(text)
    first, rest = text[:end].strip(), text[end:].strip()
    if not first or not rest or not isinstance(base, Scorer):
        return 0
    of_first, of_rest = base.log10_probs(prompt, [first, rest])
    return end if of_first / len(first) < _ODD * of_rest / len(rest) else 0
