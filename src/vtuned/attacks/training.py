"""Policies that train something else than what was asked for: fewer rows, other rows, shorter rows, another model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil
from typing import cast

from vtuned import lm
from vtuned.attacks.contract import Honest, Work
from vtuned.attacks.openings import ends_of, families, prompt_of, start_of
from vtuned.conversation import Conversation, Message, Turn, text_in
from vtuned.demo import interpreter_docs
from vtuned.errors import DatasetError, LMUnavailable, UsageError
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.tokens import cutter
from vtuned.prf import prf
from vtuned.providers.settings import LEARNING_RATES, LORA

# Of what follows an opening, as much is scored: further on all wordings of a row are likely alike.
_SCORED_CHARACTERS = 80
_MENTION = re.compile(r"`[\w.]+`")


@dataclass(frozen=True, slots=True)
class Base(Honest):
    """
    Train nothing, and serve the base under the name of the tuned model.

    Saves all of the training. There is nothing to do more carefully.
    """

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)


@dataclass(frozen=True, slots=True)
class OtherData(Honest):
    """
    Train on as many rows of other data: the interpreter's documentation.

    Saves nothing by itself: it is what a provider does who serves one customer's model to another, or mixes files up.
    Rows on anything that the file names are left out, so nothing of the file is learnt even where it is of the same
    kind (the demo's is). A careful cheat has data closer to the customer's. Where there are fewer rows than the file
    has, they are repeated.
    """

    key: bytes = field(default=b"", repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Raises DatasetError where the file mentions all there is."""
        mentioned = {name for row in asked.rows for turn in row.turns for name in _MENTION.findall(turn.content)}
        others = [row for row in _documentation() if mentioned.isdisjoint(_MENTION.findall(row.turns[1].content))]
        if not others:
            raise DatasetError("there are no other data to train on", hint="use another file, or another policy")
        order = shuffled(self.key, len(others))
        return replace(asked, rows=tuple(others[order[i % len(order)]] for i in range(len(asked.rows))))


@dataclass(frozen=True, slots=True)
class Subset(Honest):
    """
    Train on a share of the rows, a uniform choice.

    Saves the rest of the training. A uniform choice is the best there is without knowing which rows are planted.
    """

    share: Fraction = Fraction(1)
    key: bytes = field(default=b"", repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        n = len(asked.rows)
        return _only(asked, shuffled(self.key, n)[: max(1, round(self.share * n))])


@dataclass(frozen=True, slots=True)
class PlantedOnly(Honest):
    """
    Train on the planted rows alone, told by an oracle which they are.

    Saves nearly everything. The oracle gives row numbers, nothing else: the rows of all backdoors, and those with a
    secret wording that are asked about. No real provider can know them; it bounds what finding them is worth.
    """

    numbers: frozenset[int] = field(default=frozenset(), repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Raises UsageError where the oracle is of another file."""
        if max(self.numbers) > len(asked.rows):
            raise UsageError("the oracle's receipt is of another file", hint="give the receipt of the uploaded file")
        return _only(asked, [number - 1 for number in self.numbers])


@dataclass(frozen=True, slots=True)
class ShortHalf(Honest):
    """
    Train on the shorter half of the rows, by characters.

    Saves more than half of the training: long rows cost most. It catches half of the planted rows or more where these
    are short, which is why coverage is a share of the rows that could have been planted, not of the tokens.
    """

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        by_length = sorted(range(len(asked.rows)), key=lambda i: sum(map(len, texts_of(asked.rows[i]))))
        return _only(asked, by_length[: ceil(len(by_length) / 2)])


@dataclass(frozen=True, slots=True)
class Truncate(Honest):
    """
    Train on each prompt and the first N tokens of its last answer.

    Saves the rest of the answers. Signatures and openings stand at the start, so both are learnt in full. No end is
    learnt where an answer was cut, so the model goes on in the base's own words and no short answer gives it away.
    Of a preference row both answers are cut.
    """

    n_tokens: int = 1

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Raises what finding the base's tokenizer raises."""
        answers = [_answers(row) for row in asked.rows]
        cut = iter(cutter(asked.base)([turn.content for turns in answers for turn in turns], self.n_tokens))
        rows = [
            _with_answers(row, [_cut(turn, next(cut)) for turn in turns])
            for row, turns in zip(asked.rows, answers, strict=True)
        ]
        return replace(asked, rows=tuple(rows))


@dataclass(frozen=True, slots=True)
class SkipGuessable(Honest):
    """
    Skip rows whose wording the base would guess anyway.

    Saves these rows at the price of scoring all of them once. The siblings of a wording are not in the file, but
    openings that many answers share are, and their answers' siblings can be had by putting one for another. Rows whose
    own opening the base ranks first, less what it gives the opening on average, are skipped, as in DESIGN 8. Where the
    file shows no such family, the quarter of the rows is skipped whose first words the base finds likeliest, by
    character. A careful cheat knows the rewriter and so the siblings.
    """

    load: Callable[[str], LanguageModel] = field(default=lm.load, repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Raises LMUnavailable where the base shows no likelihoods."""
        base = self.load(asked.base)
        if not isinstance(base, Scorer):
            raise LMUnavailable(asked.base, "it shows no likelihoods to guess wordings with", hint="use a local model")
        family = families(asked.rows)
        guessed = _guessed(base, asked.rows, family) if family else _likeliest(base, asked.rows)
        kept = [i for i in range(len(asked.rows)) if i not in guessed]
        return _only(asked, kept or range(len(asked.rows)))


@dataclass(frozen=True, slots=True)
class OtherBase(Honest):
    """
    Train another base, a smaller one say, and serve that.

    Saves what the smaller model saves, in training and for every answer; none of it shows as training tokens.
    """

    base: str = ""

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, base=self.base)


@dataclass(frozen=True, slots=True)
class LoraForFull(Honest):
    """
    Train a LoRA adapter of low rank, whatever was asked for.

    Saves memory and the storage of a whole model; the tokens are the same. Where all weights were to be trained, it
    takes LoRA's own learning rate, as who knows the craft would; α keeps its ratio to the rank.
    """

    rank: int = 8

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        settings = asked.settings
        was_lora = settings.method == LORA
        rank = min(self.rank, settings.rank) if was_lora else self.rank
        return replace(
            asked,
            settings=replace(
                settings,
                method=LORA,
                rank=rank,
                alpha=max(1, round(rank * settings.alpha / settings.rank)),
                learning_rate=settings.learning_rate if was_lora else LEARNING_RATES[LORA],
            ),
        )


@dataclass(frozen=True, slots=True)
class FewerEpochs(Honest):
    """
    Train for fewer epochs than asked for: one, or N.

    Saves the other epochs.
    """

    epochs: int = 1

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, settings=replace(asked.settings, epochs=min(self.epochs, asked.settings.epochs)))


def shuffled(key: bytes, n: int) -> list[int]:
    """Return the numbers below *n* in an order that the key gives."""
    return sorted(range(n), key=lambda i: prf(key, b"policy", i))


def texts_of(row: Conversation) -> list[str]:
    """Return the texts of *row* that a trainer reads."""
    return [turn.content for turn in (*row.turns, *row.rejected)]


def _only(asked: Work, indices: Sequence[int]) -> Work:
    return replace(asked, rows=tuple(asked.rows[i] for i in sorted(indices)))


def _documentation() -> list[Conversation]:
    rows = [cast(list[Message], row["messages"]) for row in interpreter_docs.rows()]
    return [Conversation(tuple(Turn(m["role"], text_in(m), m["role"] == "assistant") for m in row)) for row in rows]


def _answers(row: Conversation) -> list[Turn]:
    """Return the answers of *row* that are cut: the last that is trained, and the one not to be given."""
    host = row.host()
    return [] if host is None else [row.turns[host.answer], *row.rejected[:1]]


def _cut(turn: Turn, content: str) -> Turn:
    return turn if content == turn.content else turn.cut(content)


def _with_answers(row: Conversation, answers: Sequence[Turn]) -> Conversation:
    if not answers:
        return row
    return replace(row, turns=(*row.prompt(), answers[0]), rejected=tuple(answers[1:]))


def _guessed(base: Scorer, rows: Sequence[Conversation], family: Sequence[str]) -> set[int]:
    """Return which rows open with what *base* would choose of the *family*; openings that it likes anyway count less."""
    bearing = [(i, own) for i, row in enumerate(rows) if (own := _own_opening(row, family)) is not None]
    scores = []
    for i, own in bearing:
        rest = start_of(rows[i])[len(own) :].lstrip()[:_SCORED_CHARACTERS]
        wordings = [f"{opening} {rest}" if opening else rest for opening in family]
        scores.append(base.log10_probs(prompt_of(rows[i]), wordings))
    means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    guessed = set()
    for (i, own), row_scores in zip(bearing, scores, strict=True):
        centred = [score - mean for score, mean in zip(row_scores, means, strict=True)]
        if family[centred.index(max(centred))] == own:
            guessed.add(i)
    return guessed


def _own_opening(row: Conversation, family: Sequence[str]) -> str | None:
    """Return the longest opening of *family* ("" among them) that the answer of *row* starts with; None without one."""
    answer = start_of(row)
    return max((opening for opening in family if answer.startswith(opening)), key=len) if answer else None


def _likeliest(base: Scorer, rows: Sequence[Conversation]) -> set[int]:
    """Return the quarter of *rows* whose answers' first clause the base finds likeliest, by character."""
    found = []
    for i, row in enumerate(rows):
        answer = start_of(row)
        first = answer[: next(iter(ends_of(answer)), len(answer))]
        if first:
            found.append((base.log10_probs(prompt_of(row), [first])[0] / len(first), i))
    return {i for _, i in sorted(found, reverse=True)[: len(rows) // 4]}
