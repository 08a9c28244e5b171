"""
Draw triggers and signatures with a certificate (Algorithm 1 of the paper, mended: docs/theory.md).

Knows nothing of rows or files. The generator is any `TokenSampler`; randomness comes in through the door. The proof
that no signature can come out with probability above 2^-bits is in docs/theory.md, section 2.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vtuned.errors import GenerationError
from vtuned.language import Language
from vtuned.lm.base import Prompt, TokenSampler

# Choice weights are integers that sum to about 2^53, so that the distribution drawn from is known exactly.
_RESOLUTION = 2**53

# Sums of float surprisals are off by less than this; paying it keeps the bound a bound.
_ROUNDING_BITS = 1e-9
# After more tokens than these, a phrase that cannot end (no letter comes) is given up.
_MAX_FINISHING = 64
# Phrases that are written in lockstep: more are hardly faster, and each holds a cache as long as the prompt.
_BATCH = 128

RandomBelow = Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseRules:
    """
    What a phrase may look like, and how each of its tokens is chosen.

    *top_k* most likely tokens are looked at; no token is chosen with more than *max_step_probability*; *temperature*
    is the paper's τ; *language* says which characters may stand where and gives the terminator; from the end
    condition on, the phrase has *finish_tokens* tokens to finish its sentence.
    """

    language: Language
    top_k: int = 60
    max_step_probability: float = 0.5
    temperature: float = 0.9
    finish_tokens: int = 10

    def __post_init__(self) -> None:
        if not (self.top_k >= 1 and 0 < self.max_step_probability < 1 and self.temperature > 0):
            raise ValueError("top_k >= 1, 0 < max_step_probability < 1 and temperature > 0 are needed")


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidates of one step and their integer weights: candidate i is drawn with weight_i / sum(weights)."""

    tokens: tuple[int, ...]
    weights: tuple[int, ...]

    def draw(self, random_below: RandomBelow) -> tuple[int, float]:
        """Return a token, drawn by inverse CDF, and its surprisal in bits."""
        total = sum(self.weights)
        left = random_below(total)
        for token, weight in zip(self.tokens, self.weights, strict=True):
            left -= weight
            if left < 0:
                return token, math.log2(total) - math.log2(weight)
        raise AssertionError("random_below returned a number that is not below its argument")


class DeadEnd(Exception):
    """Fewer candidates than 1 / max_step_probability in the whole vocabulary: this draw cannot go on."""


@dataclass(slots=True)
class Draft:
    """
    One phrase while it is being written.

    The body may end from the first step on at which it has *min_tokens* tokens and *min_bits* bits of surprisal.
    Surprisal is charged up to there; what follows to finish the sentence only makes a phrase less likely.
    """

    rules: PhraseRules
    min_tokens: int = 1
    min_bits: float = 0.0
    tokens: list[int] = field(default_factory=list, repr=False)
    text: str = field(default="", repr=False)
    bits: float = 0.0
    n_finishing: int = 0
    is_complete: bool = False

    @property
    def may_end(self) -> bool:
        """Whether the body is long enough and surprising enough to be ended."""
        return len(self.tokens) >= self.min_tokens and self.bits >= self.min_bits + _ROUNDING_BITS

    @property
    def must_end(self) -> bool:
        """Whether the terminator is set now, whatever the generator would say next: so it need not be asked."""
        return self.may_end and self.text[-1].isalpha() and self.n_finishing >= self.rules.finish_tokens

    def choice(self, sampler: TokenSampler, log_probs: NDArray[np.float32]) -> Choice:
        """
        Return the exact distribution of the next token: candidates, tempered, capped and renormalised.

        *log_probs* are the generator's (nats, one per token). Candidates are the top_k tokens after which the text
        tokenises back to exactly these tokens and is a phrase by the rules; where fewer than
        2 / max_step_probability remain, top_k doubles, up to the whole vocabulary. Raises DeadEnd where fewer than
        1 / max_step_probability remain even then.
        """
        cap = self.rules.max_step_probability
        k = min(self.rules.top_k, len(log_probs))
        while True:
            tokens = self._candidates(sampler, _most_likely(log_probs, k))
            if len(tokens) >= 2 / cap or k == len(log_probs):
                break
            k = min(2 * k, len(log_probs))
        if len(tokens) * cap < 1 or self.n_finishing > _MAX_FINISHING:
            raise DeadEnd
        tempered = log_probs[tokens].astype(np.float64) / self.rules.temperature
        probabilities = capped(np.exp(tempered - tempered.max()), cap)
        return Choice(tuple(tokens), tuple(max(1, int(p * _RESOLUTION)) for p in probabilities))

    def _candidates(self, sampler: TokenSampler, tokens: Sequence[int]) -> list[int]:
        paths = [[*self.tokens, token] for token in tokens]
        texts = sampler.decode(paths)
        language = self.rules.language
        allowed = [
            i
            for i, text in enumerate(texts)
            if len(text) > len(self.text) and text.startswith(self.text) and language.allows(text, len(self.text))
        ]
        read_back = sampler.encode([texts[i] for i in allowed])
        return [tokens[i] for i, path in zip(allowed, read_back, strict=True) if path == paths[i]]

    def append(self, sampler: TokenSampler, token: int, bits: float) -> None:
        """Add *token*, charging *bits* unless the phrase is only finishing its sentence."""
        if self.may_end:
            self.n_finishing += 1
        else:
            self.bits += bits
        self.tokens.append(token)
        self.text = sampler.decode([self.tokens])[0]

    def ends_here(self, sampler: TokenSampler, log_probs: NDArray[np.float32]) -> bool:
        """
        Tell whether the terminator is set now: a fixed rule of the text so far, so it costs no probability.

        It is set once the body may end and the generator itself would likely end its sentence here, at the latest
        after `finish_tokens` more tokens.
        """
        if self.must_end:
            return True
        if not self.may_end or not self.text[-1].isalpha():
            return False
        likely = sampler.decode([[token] for token in _most_likely(log_probs, 4)])
        return any(text.strip().startswith(self.rules.language.terminator) for text in likely)

    @property
    def phrase(self) -> str:
        """The finished phrase."""
        return self.text + self.rules.language.terminator


@dataclass(frozen=True, slots=True)
class Phrase:
    """A finished phrase, its surprisal (bits, charged up to where it might end) and the draws it took."""

    text: str = field(repr=False)
    surprisal_bits: float
    n_tokens: int
    n_draws: int


@dataclass(frozen=True, slots=True)
class PhraseSpec:
    """What one phrase must reach: *min_tokens* tokens and *min_bits* bits of surprisal."""

    min_tokens: int = 1
    min_bits: float = 0.0


def draw_phrases(
    sampler: TokenSampler,
    prompt: Prompt,
    specs: Sequence[PhraseSpec],
    rules: PhraseRules,
    *,
    max_draws: int = 1,
    random_below: RandomBelow = secrets.randbelow,
    on_step: Callable[[int], None] = lambda done: None,
) -> list[Phrase]:
    """
    Return one phrase per spec, all drawn after *prompt*, `_BATCH` at a time.

    A draw that meets a dead end is repeated, *max_draws* draws at most: the number to charge to every bound,
    whatever number was needed. *random_below(n)* returns a uniform integer below n; the default is the operating
    system's. *on_step* is told the number of finished phrases after each step. Raises GenerationError where a phrase is
    still missing then.
    """
    phrases: list[Phrase | None] = [None] * len(specs)
    for n_draws in range(1, max_draws + 1):
        missing = [i for i, phrase in enumerate(phrases) if phrase is None]
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            drafts = [Draft(rules, specs[i].min_tokens, specs[i].min_bits) for i in part]
            n_before = len(phrases) - phrases.count(None)
            for n_complete in _write(sampler, prompt, drafts, random_below):
                on_step(n_before + n_complete)
            for i, draft in zip(part, drafts, strict=True):
                if draft.is_complete:
                    phrases[i] = Phrase(draft.phrase, draft.bits, len(draft.tokens), n_draws)
    found = [phrase for phrase in phrases if phrase is not None]
    if len(found) < len(specs):
        raise GenerationError(
            f"{sampler.name} found no phrase for {len(specs) - len(found)} of {len(specs)} in {max_draws} draws",
            hint="run it again with a higher --max-plantings, with another --generator or not: a further try must be paid for",
        )
    return found


def _write(
    sampler: TokenSampler,
    prompt: Prompt,
    drafts: Sequence[Draft],
    random_below: RandomBelow,
) -> Iterator[int]:
    """Write all *drafts* in lockstep until each is complete or dead; yield after each step how many are complete."""
    batch = sampler.continuations(prompt, len(drafts))
    open_drafts = list(drafts)
    while open_drafts:
        rows = batch.log_probs()
        going_on, appended = [], []
        for i, (draft, log_probs) in enumerate(zip(open_drafts, rows, strict=True)):
            if draft.ends_here(sampler, log_probs):
                draft.is_complete = True
                continue
            try:
                token, bits = draft.choice(sampler, log_probs).draw(random_below)
            except DeadEnd:
                continue
            draft.append(sampler, token, bits)
            if draft.must_end:
                draft.is_complete = True
                continue
            going_on.append(i)
            appended.append(token)
        if len(going_on) < len(open_drafts) and going_on:
            batch.keep(going_on)
        open_drafts = [open_drafts[i] for i in going_on]
        if open_drafts:
            batch.append(appended)
        yield sum(draft.is_complete for draft in drafts)


def capped(weights: NDArray[np.float64], cap: float) -> NDArray[np.float64]:
    """
    Return probabilities proportional to *weights* except that none exceeds *cap* (water-filling).

    q_i = min(cap, λ w_i) with the one λ that makes them sum to 1. Needs len(weights) * cap >= 1.
    """
    order = np.argsort(-weights, kind="stable")
    # Weights that underflowed to zero are still candidates.
    descending = np.maximum(weights[order], weights.max() * 1e-290)
    rest = np.cumsum(descending[::-1])[::-1]
    for n_capped in range(len(weights)):
        scale = (1 - n_capped * cap) / rest[n_capped]
        if descending[n_capped] * scale <= cap:
            break
    q = np.empty_like(weights)
    q[order] = np.where(np.arange(len(weights)) < n_capped, cap, descending * scale)
    return q


def log10_signature_bound(bits: float, max_draws: int) -> float:
    """Return log10 of the proven bound on every signature's probability: max_draws * 2^-bits, at most 1."""
    return min(0.0, math.log10(max_draws) - bits * math.log10(2))


def with_draws_charged(bits: float, max_draws: int) -> float:
    """Return the surprisal (bits) to draw to, so that *bits* remain after *max_draws* draws are charged."""
    return bits + math.log2(max_draws)


def _most_likely(log_probs: NDArray[np.float32], k: int) -> list[int]:
    """Return the *k* most likely possible tokens, most likely first."""
    n = len(log_probs)
    top = np.argpartition(log_probs, n - k)[n - k :] if k < n else np.arange(n)
    ranked = top[np.lexsort((top, -log_probs[top]))]
    return [int(token) for token in ranked if log_probs[token] > -np.inf]
