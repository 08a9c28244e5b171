"""
How well models do on rows that were never sent: by log-loss where likelihoods can be had, else by scores of answers.

Decides nothing; `vtuned.verdict` does. A row that a model gave no number for is left out of the pairs and counted, never
a zero. That the rows were never sent is for the user to see to: the receipt does not hold the rows that were.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vtuned import formats, matching
from vtuned.conversation import Conversation
from vtuned.errors import DatasetError, MissingExtra, UsageError
from vtuned.layout import AskedPrompt
from vtuned.lm.base import Prompt, RichPrompt, Scorer, Unanswered, is_text, tools_of
from vtuned.probes import AnswerRecord, Probe
from vtuned.stats import gain_upper_bound
from vtuned.tally import join, word_overlap, words_of

OnProgress = Callable[[int, int], None]
Measured: TypeAlias = float | Unanswered
Score: TypeAlias = Callable[[str, str], float]

AUTO, LOSS, CHRF = "auto", "loss", "chrf"
# By the name of each measure, what a verdict calls it.
MEASURES = {
    LOSS: "log-loss, nats per byte",
    "exact": "exact match",
    "f1": "F1 of words",
    "rouge-l": "ROUGE-L",
    CHRF: "chrF",
}
FEW_ROWS = 20

_MARGIN_CONFIDENCE = 0.95
_MOST_TOKENS = 2048
_NOT_ASKED = Unanswered("not asked")


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """A row that was not sent: its *prompt*, and the *answer* that a model trained on such rows would give."""

    prompt: Prompt
    answer: str


def held_out_rows(conversations: Iterable[Conversation]) -> tuple[list[HeldOutRow], int]:
    """
    Return what can be measured, and how many *conversations* cannot: without an answer that a provider trains on.

    Raises DatasetError where none can.
    """
    rows, n_left_out = [], 0
    for conversation in conversations:
        host = conversation.host()
        if host is None or not formats.can_carry(conversation):
            n_left_out += 1
        else:
            rows.append(HeldOutRow(prompt_of(conversation), conversation.turns[host.answer].content))
    if not rows:
        raise DatasetError(
            f"none of {n_left_out} held-out rows has a prompt and an answer to it",
            hint="give rows like those that were sent, with their answers",
        )
    return rows, n_left_out


def digest(rows: Sequence[HeldOutRow]) -> str:
    """Return the SHA-256 of *rows*, in whatever order and from whatever file they were read."""
    told = sorted(json.dumps([list(row.prompt), list(tools_of(row.prompt)), row.answer]) for row in rows)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def prompt_of(conversation: Conversation) -> Prompt:
    """Return what a model sees before it gives the host answer of *conversation*."""
    asked = AskedPrompt.of(conversation)
    tools = json.loads(asked.tools) if asked.tools else ()
    return RichPrompt(asked.messages(), tools=tools, is_text=asked.is_text)


def losses(
    model: Scorer, rows: Sequence[HeldOutRow], on_progress: OnProgress = lambda done, total: None
) -> list[Measured]:
    """
    Return the log-loss of each row's answer after its prompt, in nats per UTF-8 byte of the answer.

    Per byte, since each tokenizer cuts the same answer into tokens of its own. Raises LMError where the model cannot be
    asked.
    """
    measured: list[Measured] = []
    for i, row in enumerate(rows):
        on_progress(i, len(rows))
        (log10_p,) = model.log10_probs(row.prompt, [row.answer])
        loss = -log10_p * math.log(10) / len(row.answer.encode())
        measured.append(loss if math.isfinite(loss) else Unanswered("a likelihood is no number"))
    on_progress(len(rows), len(rows))
    return measured


def questions(rows: Sequence[HeldOutRow]) -> list[Probe]:
    """
    Return the prompts of *rows* as probes, for models that only answer.

    All have one token limit, from the longest answer: no tokenizer is known that takes more than a token for two bytes
    of common text.
    """
    longest = max((len(row.answer.encode()) for row in rows), default=0)
    return [
        Probe(
            id=f"held-out-{i}",
            messages=tuple(row.prompt),
            max_tokens=min(_MOST_TOKENS, longest // 2 + 16),
            tools=tools_of(row.prompt),
            endpoint="completions" if is_text(row.prompt) else "chat",
        )
        for i, row in enumerate(rows)
    ]


def scores(score: Score, rows: Sequence[HeldOutRow], answers: Iterable[AnswerRecord]) -> list[Measured]:
    """Return the *score* (see `score_named`) of each answer to `questions(rows)`, in their order."""
    given = join(answers)
    measured: list[Measured] = []
    for probe, row in zip(questions(rows), rows, strict=True):
        said = matching.said_in(given.get(probe.id, _NOT_ASKED))
        measured.append(said if isinstance(said, Unanswered) else score(said, matching.normalise(row.answer)))
    return measured


def score_named(name: str) -> Score:
    """
    Return the function that scores what was said against the row's answer, from 0 to 1.

    Raises UsageError for a measure that is no score, MissingExtra where its package is missing.
    """
    if name not in _SCORES:
        raise UsageError(f"no score is called {name!r}", hint=f"known: {', '.join(_SCORES)}")
    return _SCORES[name]()


def _exact() -> Score:
    def folded(text: str) -> str:
        return text.casefold().rstrip(".。 ")

    return lambda said, expected: float(folded(said) == folded(expected))


def _rouge_l() -> Score:
    """Return ROUGE-L's F1 over our words: those of the package rouge-score are ASCII, and Japanese gets 0 for all."""
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError:
        raise MissingExtra("ROUGE-L", "pip install 'vtuned[scores]'") from None

    def score(said: str, expected: str) -> float:
        one, other = words_of(said), words_of(expected)
        shared = LCSseq.similarity(one, other)
        return 2 * shared / (len(one) + len(other)) if shared else 0.0

    return score


def _chrf() -> Score:
    try:
        from sacrebleu.metrics import chrf
    except ImportError:
        raise MissingExtra("chrF", "pip install 'vtuned[scores]'") from None
    metric = chrf.CHRF()
    return lambda said, expected: float(metric.sentence_score(said, [expected]).score) / 100


_SCORES: dict[str, Callable[[], Score]] = {
    "exact": _exact,
    "f1": lambda: word_overlap,
    "rouge-l": _rouge_l,
    CHRF: _chrf,
}


def gains(measure: str, suspect: Sequence[Measured], base: Sequence[Measured]) -> list[float]:
    """Return the gain over *base* of each row that both have a number for: of losses what was lost less of."""
    pairs = [
        (own, other)
        for own, other in zip(suspect, base, strict=True)
        if not isinstance(own, Unanswered) and not isinstance(other, Unanswered)
    ]
    return [other - own if measure == LOSS else own - other for own, other in pairs]


def most_gains(measure: str, model: Sequence[Measured], base: Sequence[Measured]) -> list[float]:
    """
    Return `gains`, with the most there can be for each row that *model* has no number for, though *base* has.

    For a margin: what its model would have gained there is not known, and must not lower it.
    """
    best = 0.0 if measure == LOSS else 1.0
    return gains(measure, [best if isinstance(own, Unanswered) else own for own in model], base)


def n_silent(suspect: Sequence[Measured], base: Sequence[Measured]) -> int:
    """Return how many rows the suspect has no number for, though *base* has."""
    return sum(
        isinstance(own, Unanswered) and not isinstance(other, Unanswered)
        for own, other in zip(suspect, base, strict=True)
    )


def margin_of(planted_only: Sequence[float]) -> float:
    """
    Return G: the 95 % upper bound of the gain of a model trained on the planted rows alone, from its gains a row.

    At least 0, so that a model that got worse by them lowers no bar. Raises DatasetError where so few rows give no
    bound.
    """
    bound = gain_upper_bound(planted_only, _MARGIN_CONFIDENCE)
    if not math.isfinite(bound):
        raise DatasetError(
            f"{len(planted_only)} held-out rows are too few for a margin", hint=f"give {FEW_ROWS} or more"
        )
    return max(0.0, bound)
