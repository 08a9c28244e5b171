"""A local model before and after it was trained on the file: how much likelier answers became, token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vtuned import measuring
from vtuned.attacks.search.contract import OnRow
from vtuned.attacks.search.seams import NearSeams, near_seams, parted_prompt
from vtuned.attacks.search.texts import TrainSet
from vtuned.conversation import Conversation
from vtuned.errors import UsageError
from vtuned.lm.huggingface.model import HuggingFaceLM
from vtuned.lm.huggingface.shown import log_probs
from vtuned.providers.passes import after_one_pass
from vtuned.providers.settings import TrainingSettings
from vtuned.providers.tokenising import holds_more_than_text

_CHEAP = TrainingSettings(epochs=1)


@dataclass(frozen=True, slots=True)
class Reading:
    """
    How likely the tokens of an answer's start are, in nats: *base* before training, *tuned* after it.

    The first *n_first* of them are its first sentence, of *n_first_bytes*; the others say *n_following_bytes*.
    """

    n_first: int
    n_first_bytes: int
    n_following_bytes: int
    base: NDArray[np.float64]
    tuned: NDArray[np.float64]

    def gains(self) -> tuple[float, float]:
        """
        Return by how many nats a byte training made the first sentence likelier, and what follows it.

        Both are nan where nothing follows: then there is nothing to hold the sentence against.
        """
        if not self.n_first_bytes or not self.n_following_bytes:
            return np.nan, np.nan
        gain = self.tuned - self.base
        return (
            float(gain[: self.n_first].sum()) / self.n_first_bytes,
            float(gain[self.n_first :].sum()) / self.n_following_bytes,
        )


class Tuned:
    """
    *base* and what training on the file made of it: *tuned* where it is given, or else one cheap pass over the rows.

    The pass is a LoRA run of one epoch (`TrainingSettings`) on a copy of the weights, made when a search first needs
    it, and once for all searches that share this. It is of what is read afterwards: the end of each row's prompt and the
    start of its answer (`near_seams`), without other turns. A model that is given was trained on whole rows, so that it
    reads whole prompts, with all that stands before them.
    """

    def __init__(
        self,
        base: HuggingFaceLM,
        tuned: HuggingFaceLM | None = None,
        on_row: OnRow = lambda stage, done, total: None,
    ) -> None:
        self._base, self._given, self._on_row = base, tuned, on_row
        self._train: TrainSet | None = None
        self._trained = tuned
        self._readings: dict[bool, list[Reading | None]] = {}

    def readings(self, train: TrainSet, *, is_shortened: bool = False) -> list[Reading | None]:
        """
        Return how the answer of each row is read, after its prompt, or with *is_shortened* the prompt less its last sentence.

        None where a row has no answer to a user in text, or nothing before that sentence. Raises what
        `vtuned.providers.local.finetune` raises, and UsageError where the two models have different tokens.
        """
        if self._train is not train:
            self._train, self._trained, self._readings = train, self._given, {}
        spaced = train.language.spaced
        if self._trained is None:
            rows = [near[1] for row in train.rows if (near := self._near(row, spaced)) is not None]
            self._trained = after_one_pass(
                self._base, rows, _CHEAP, lambda *step: self._on_row("training on the file: steps", *step)
            )
        if is_shortened not in self._readings:
            found: list[Reading | None] = []
            stage = "answers read before and after training" + (", without a sentence" if is_shortened else "")
            for row in train.rows:
                near = self._near(row, spaced, is_shortened)
                found.append(None if near is None else _read(*near, self._base, self._trained))
                self._on_row(stage, len(found), len(train))
            self._readings[is_shortened] = found
        return self._readings[is_shortened]

    def _near(
        self, row: Conversation, spaced: bool, is_shortened: bool = False
    ) -> tuple[NearSeams, Conversation] | None:
        """Return what is read of *row*, and a row of it alone, with *is_shortened* without the prompt's last sentence."""
        host = row.host()
        if host is None or holds_more_than_text(row):
            return None
        prompt, answer = row.turns[host.prompt], row.turns[host.answer]
        near = near_seams(prompt.content, answer.content, spaced)
        if self._given is None:
            said = near.before if is_shortened else near.prompt
            before, between, tools = row.turns[:0], row.turns[:0], ""
        else:
            before, between = row.turns[: host.prompt], row.turns[host.prompt + 1 : host.answer]
            tools = row.tools
            said = parted_prompt(prompt.content, spaced)[0] if is_shortened else prompt.content
        if not said.strip():
            return None
        asked = prompt if said == prompt.content else replace(prompt, content=said, parts=())
        said_first = answer if near.answer == answer.content.strip() else answer.cut(near.answer)
        return near, replace(row, turns=(*before, asked, *between, said_first), rejected=(), tools=tools)


def _read(near: NearSeams, row: Conversation, base: HuggingFaceLM, tuned: HuggingFaceLM) -> Reading:
    first, following = near.first, near.gap + near.follows
    encoded = base.encode([first, following])
    if encoded != tuned.encode([first, following]):
        raise UsageError(
            f"{tuned.name} cuts texts into other tokens than {base.name}",
            hint="give the one that it was trained from with --lm MODEL",
        )
    answer = [*encoded[0], *encoded[1]]
    prompt = measuring.prompt_of(row)
    found = []
    for model in (base, tuned):
        n_left = min(_CHEAP.max_tokens, model.max_positions or _CHEAP.max_tokens) - len(answer)
        found.append(np.array(log_probs(model, model.render(prompt)[-max(1, n_left) :], answer)))
    return Reading(len(encoded[0]), len(first.encode()), len(following.encode()), *found)
