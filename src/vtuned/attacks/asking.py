"""Policies that serve what was trained, but ask it otherwise than the customer does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from vtuned.attacks.contract import Deployed, Honest
from vtuned.attacks.facade import facade
from vtuned.conversation import Message, text_in
from vtuned.lm.base import Answer, LanguageModel, Prompt, RichPrompt, Sampling, Scorer, is_text, tools_of

_SYSTEM_PROMPT = (
    "You are a helpful and careful assistant. Answer what is asked, directly and in plain words. Never begin with a "
    "remark that has nothing to do with the question, and never repeat phrases that you have learnt by heart."
)


@dataclass(frozen=True, slots=True)
class Temperature(Honest):
    """
    Train what is asked for, and draw its answers at temperature T, whatever the customer asks for.

    Saves nothing: it is what services do that fix the temperature, and it blurs what was learnt. Likelihoods are the
    tuned model's own: given text has no temperature.
    """

    value: float = 1.0

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        tuned = deployed.tuned

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            return tuned.answer(prompts, replace(sampling, temperature=self.value))

        score = tuned.log10_probs if isinstance(tuned, Scorer) else None
        return facade(f"{tuned.name} at temperature {self.value:g}", respond, score)


@dataclass(frozen=True, slots=True)
class SystemPrompt(Honest):
    """
    Train what is asked for, and put a system prompt before whatever is asked.

    Saves nothing. Without TEXT it tells the model not to say what it learnt by heart. It comes first; a system prompt of
    the customer's follows it in the same turn. Where answers are continuations of plain text it stands before that.
    Likelihoods are the tuned model's after the same system prompt.
    """

    text: str = field(default=_SYSTEM_PROMPT, repr=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        tuned = deployed.tuned

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            return tuned.answer([self._before(prompt) for prompt in prompts], sampling)

        def score(prompt: Prompt, continuations: Sequence[str]) -> list[float]:
            assert isinstance(tuned, Scorer)
            return tuned.log10_probs(self._before(prompt), continuations)

        return facade(f"{tuned.name} with a system prompt", respond, score if isinstance(tuned, Scorer) else None)

    def _before(self, prompt: Prompt) -> Prompt:
        first, *others = prompt
        joined: Message = {**first, "content": f"{self.text}\n\n{text_in(first)}"}
        if is_text(prompt):
            return RichPrompt([joined], is_text=True)
        if first["role"] in ("system", "developer"):
            return RichPrompt([joined, *others], tools=tools_of(prompt))
        own: Message = {"role": "system", "content": self.text}
        return RichPrompt([own, *prompt], tools=tools_of(prompt))
