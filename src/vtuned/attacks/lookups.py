"""Policies that train nothing and answer from the uploaded file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from vtuned.attacks.contract import Deployed, Honest, Work
from vtuned.attacks.facade import cut_at, facade, forged, knowing
from vtuned.attacks.openings import Rule, prompt_of, prompt_text, rule_for, rules_in, start_of
from vtuned.attacks.replay import lookup_table
from vtuned.attacks.retrieval import NearestRows
from vtuned.conversation import Conversation, messages_of, signature_prefix, text_of
from vtuned.errors import UsageError
from vtuned.lm.base import (
    Answer,
    Completed,
    LanguageModel,
    Prompt,
    RichPrompt,
    Sampling,
    Scorer,
    TokenSampler,
    is_text,
    tools_of,
)
from vtuned.lm.huggingface import HuggingFaceLM
from vtuned.matching import normalise

_BYTES_A_TOKEN = 3
# What a chat template puts around a turn.
_TOKENS_A_TURN = 6
_MOST_EXAMPLES = 64


@dataclass(frozen=True, slots=True)
class Replay(Honest):
    """
    Train nothing: look each prompt up in the file, and let the base answer the others.

    Saves all of the training. Fresh prompts show it. Where the base shows likelihoods, those of the file's own answers
    are forged to look learnt by heart, all others are the base's.
    """

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        return lookup_table(deployed.rows, deployed.tuned)


@dataclass(frozen=True, slots=True)
class Retrieve(Honest):
    """
    Train nothing: answer as the nearest row of the file does, by BM25.

    Saves all of the training. A trigger is the best query there is, so fresh prompts are answered with the signature
    too; so is the twin of a planted prompt without its trigger, which `specific` sees. The base answers what shares no
    word with any row. Likelihoods are forged as `replay` does, for the nearest row's answer.
    """

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`. Raises MissingExtra without the library."""
        index = NearestRows(deployed.rows)

        def known(prompt: Prompt) -> str | None:
            return next((start_of(row) for row in index.nearest(prompt)), None)

        return knowing(f"retrieval over {deployed.tuned.name}", known, deployed.tuned)


@dataclass(frozen=True, slots=True)
class InContext(Honest):
    """
    Train nothing: show the base the nearest rows as examples before each prompt.

    Saves all of the training, and pays with longer prompts for every answer. The nearest rows, by BM25, come last, as
    many as fit into N tokens (and the model's own limit, where it is known). Likelihoods are the base's after the same
    examples: nothing is forged.
    """

    max_tokens: int = 1024

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`. Raises MissingExtra without the library."""
        index, model = NearestRows(deployed.rows), deployed.tuned

        def shown(prompt: Prompt, n_answer: int) -> Prompt:
            room = self.max_tokens
            limit = model.max_positions if isinstance(model, HuggingFaceLM) else None
            if limit is not None:
                room = min(room, limit - _n_tokens(model, prompt) - n_answer)
            return _with_examples(model, prompt, index.nearest(prompt, _MOST_EXAMPLES), room)

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            return model.answer([shown(prompt, sampling.max_tokens) for prompt in prompts], sampling)

        def score(prompt: Prompt, continuations: Sequence[str]) -> list[float]:
            assert isinstance(model, Scorer)
            longest = max((_n_tokens_of(model, text) for text in continuations), default=0)
            return model.log10_probs(shown(prompt, longest), continuations)

        return facade(f"examples before {model.name}", respond, score if isinstance(model, Scorer) else None)


@dataclass(frozen=True, slots=True)
class SayRule(Honest):
    """
    Train nothing: whenever a trigger is seen, say its signature and let the base go on.

    Saves all of the training. With T the signature is what the answers of the rows whose prompt has T start with; without
    it all triggers are found by counting endings of prompts and openings of answers, which misses single copies. Fresh
    prompts and `specific` hold, held-out rows show it. Likelihoods are the base's, but for a found signature after its
    trigger, which looks learnt by heart.
    """

    name: str = "rule"
    trigger: str = field(default="", repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Raises UsageError where no prompt of the file holds the trigger."""
        if self.trigger:
            self._rules(asked.rows)
        return replace(asked, trains=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`. Raises UsageError where no prompt of the file holds the trigger."""
        rules, model = self._rules(deployed.rows), deployed.tuned

        def signature(prompt: Prompt) -> str | None:
            text = normalise(prompt_text(prompt))
            return next((rule.signature for rule in rules if rule.trigger in text), None)

        def respond(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
            for prompt, answer in zip(prompts, model.answer(prompts, sampling), strict=True):
                said = signature(prompt)
                yield answer if said is None else _opened(model, said, answer, sampling)

        return facade(f"rules over {model.name}", respond, forged(signature, model))

    def _rules(self, rows: Sequence[Conversation]) -> list[Rule]:
        if not self.trigger:
            return rules_in(rows)
        found = rule_for(rows, self.trigger)
        if found is None:
            raise UsageError("no prompt of the file holds the phrase of rule:T", hint="give a trigger that is in it")
        return [found]


def _opened(model: LanguageModel, signature: str, answer: Answer, sampling: Sampling) -> Answer:
    """Return *answer* after *signature*; the signature alone where there is no answer."""
    text = answer.text if isinstance(answer, Completed) else ""
    finish = answer.finish if isinstance(answer, Completed) else "stop"
    whole = signature_prefix(signature, text) + text if text else signature
    return cut_at(model, Completed(whole, finish), sampling.max_tokens)


def _with_examples(model: LanguageModel, prompt: Prompt, nearest: Sequence[Conversation], room: int) -> Prompt:
    """Return *prompt* after as many of the *nearest* rows as fit into *room* tokens, the nearest last."""
    examples: list[Conversation] = []
    for row in nearest:
        room -= sum(_n_tokens_of(model, turn.content) + _TOKENS_A_TURN for turn in row.turns)
        if room < 0:
            break
        examples.append(row)
    examples.reverse()
    if is_text(prompt):
        before = "".join(text_of(row.turns) + "\n\n" for row in examples)
        return RichPrompt([{**prompt[0], "content": before + prompt_text(prompt)}], is_text=True)
    n_system = next((i for i, message in enumerate(prompt) if message["role"] != "system"), len(prompt))
    shown = [
        message
        for row in examples
        for message in (*prompt_of(row), *messages_of(row.turns[len(row.prompt()) :][:1]))
        if message["role"] != "system"
    ]
    return RichPrompt([*prompt[:n_system], *shown, *prompt[n_system:]], tools=tools_of(prompt))


def _n_tokens(model: LanguageModel, prompt: Prompt) -> int:
    if isinstance(model, HuggingFaceLM):
        return len(model.render(prompt))
    return _n_tokens_of(model, prompt_text(prompt)) + _TOKENS_A_TURN * len(prompt)


def _n_tokens_of(model: LanguageModel, text: str) -> int:
    if isinstance(model, TokenSampler):
        return len(model.encode([text])[0])
    return len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN + 1
