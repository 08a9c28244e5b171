"""
Draws and their certificate.

A toy generator of a dozen tokens is walked along every path it can take, in exact fractions: what the proof says of
every model is seen here of one.
"""

from __future__ import annotations

import inspect
import math
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtuned import generation, phrases
from vtuned.conversation import Conversation, Turn
from vtuned.errors import GenerationError
from vtuned.generation import (
    Choice,
    DeadEnd,
    Draft,
    PhraseRules,
    PhraseSpec,
    capped,
    draw_phrases,
    log10_signature_bound,
    with_draws_charged,
)
from vtuned.language import ASCII, UNSPACED
from vtuned.lm.base import Prompt
from vtuned.lm.words import WordSampler
from vtuned.matching import normalise

LAWS = settings(max_examples=120, deadline=None, derandomize=True)
PROMPT = ({"role": "user", "content": "Write one sentence."},)
# " cat" + "s" and " d" + "og" tokenise to " cats" and " dog"; "é", "." and the newline may stand in no phrase.
WORDS = ("The", "So", " cat", " cats", "s", " d", "og", " dog", " sat", " on", " a", "ed", "ing", "é", ".", "\n")
LogProbs = Callable[[tuple[int, ...]], Sequence[float]]


def by_prefix(prefix: tuple[int, ...]) -> list[float]:
    """Return scores that depend on all of *prefix*: some tokens likely, some not, some impossible."""
    seed = sum((i + 2) * (token + 3) for i, token in enumerate(prefix))
    scores = [float((seed * 7 + token * 5) % 11) / 3 for token in range(len(WORDS))]
    scores[seed % 5] += 4.0
    scores[7 + seed % 3] = -math.inf
    return scores


@dataclass
class ToySampler:
    """A `TokenSampler` of *words* that reads a text by the longest word that fits, from left to right."""

    words: Sequence[str] = WORDS
    scores: LogProbs = by_prefix
    n_started: int = 0
    name: str = "toy"
    looked_at: list[int] = field(default_factory=list)

    def log_probs(self, prefix: Sequence[int]) -> NDArray[np.float32]:
        """Return the next-token log-probabilities after *prefix*."""
        scores = np.array(self.scores(tuple(prefix)), dtype=np.float64)
        return (scores - np.log(np.exp(scores).sum())).astype(np.float32)

    def continuations(self, prompt: object, n: int) -> ToyContinuations:
        self.n_started += 1
        return ToyContinuations(self, [[] for _ in range(n)])

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        self.looked_at.append(len(tokens))
        return ["".join(self.words[token] for token in path) for path in tokens]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._read(text) for text in texts]

    def _read(self, text: str) -> list[int]:
        path = []
        while text:
            fitting = [token for token, word in enumerate(self.words) if text.startswith(word)]
            path.append(max(fitting, key=lambda token: len(self.words[token])))
            text = text[len(self.words[path[-1]]) :]
        return path


@dataclass
class ToyContinuations:
    """Some texts of a `ToySampler`."""

    sampler: ToySampler
    paths: list[list[int]]

    def log_probs(self) -> NDArray[np.float32]:
        return np.stack([self.sampler.log_probs(path) for path in self.paths])

    def append(self, tokens: Sequence[int]) -> None:
        for path, token in zip(self.paths, tokens, strict=True):
            path.append(token)

    def keep(self, indices: Sequence[int]) -> None:
        self.paths = [self.paths[i] for i in indices]


@dataclass(frozen=True)
class Outcome:
    """One way that a draw can end: its phrase (None: a dead end), its exact probability, its path, its bits."""

    phrase: str | None
    probability: Fraction
    path: tuple[int, ...]
    bits: float


def outcomes(sampler: ToySampler, draft: Draft, probability: Fraction = Fraction(1)) -> Iterator[Outcome]:
    """Walk every path on which a draw can go on from *draft*, by the steps of the drawing itself."""
    log_probs = sampler.log_probs(draft.tokens)
    if draft.ends_here(sampler, log_probs):
        yield Outcome(draft.phrase, probability, tuple(draft.tokens), draft.bits)
        return
    try:
        choice = draft.choice(sampler, log_probs)
    except DeadEnd:
        yield Outcome(None, probability, tuple(draft.tokens), draft.bits)
        return
    total, before = sum(choice.weights), 0
    for weight in choice.weights:
        token, bits = choice.draw(lambda _, at=before: at)
        before += weight
        branch = replace(draft, tokens=list(draft.tokens))
        branch.append(sampler, token, bits)
        yield from outcomes(sampler, branch, probability * Fraction(weight, total))


# Bits, cap, tokens to finish with, top_k.
CASES = {
    "1-bit": (1.0, 0.5, 2, 60),
    "4-bits": (4.0, 0.5, 2, 60),
    "7.5-bits": (7.5, 0.5, 1, 60),
    "9-bits-nothing-to-finish": (9.0, 0.5, 0, 60),
    "6-bits-loose-cap": (6.0, 0.9, 1, 60),
    "6-bits-tight-cap": (6.0, 0.4, 1, 60),
    "6-bits-few-candidates": (6.0, 0.5, 1, 3),
}


def rules_of(case: str) -> PhraseRules:
    """Return the rules of one of `CASES`."""
    _, cap, finish_tokens, top_k = CASES[case]
    return PhraseRules(
        language=ASCII, top_k=top_k, max_step_probability=cap, temperature=0.9, finish_tokens=finish_tokens
    )


@cache
def every_outcome(case: str) -> list[Outcome]:
    """Return every end of every path of one of `CASES`."""
    return list(outcomes(ToySampler(), Draft(rules_of(case), min_bits=CASES[case][0])))


@pytest.mark.parametrize("case", CASES)
class TestCertificate:
    def test_probabilities_sum_to_one(self, case: str) -> None:
        """Every draw ends in one of the phrases, and none is left out: exactly, not nearly."""
        assert Fraction(1) == sum(outcome.probability for outcome in every_outcome(case))

    def test_no_path_of_this_generator_ends_without_a_phrase(self, case: str) -> None:
        """The cases below speak of phrases, so that dead ends have to be none."""
        assert [] == [outcome.path for outcome in every_outcome(case) if outcome.phrase is None]

    def test_no_phrase_is_likelier_than_its_bits(self, case: str) -> None:
        """2^-e bounds every phrase, the likeliest too; 1e-12 of it is left to the floats that add up bits."""
        likeliest = max(outcome.probability for outcome in every_outcome(case))

        assert likeliest <= Fraction(2 ** -CASES[case][0]) * (1 + Fraction(1, 10**12))

    def test_surprisal_is_never_more_than_the_improbability(self, case: str) -> None:
        """The bits that are charged can be claimed: p is 2^-bits at most."""
        worst = max(math.log2(outcome.probability) + outcome.bits for outcome in every_outcome(case))

        assert worst <= 1e-12

    def test_each_phrase_has_one_path(self, case: str) -> None:
        """No string can be reached in two ways, or its probability would be the sum of both."""
        phrases = [outcome.phrase for outcome in every_outcome(case)]

        assert len(phrases) == len(set(phrases))

    def test_no_phrase_begins_another(self, case: str) -> None:
        """At most one signature matches an answer that starts with it."""
        phrases = sorted(str(outcome.phrase) for outcome in every_outcome(case))

        # In sorted order a phrase stands right before those that it begins.
        assert [] == [one for one, next_one in pairwise(phrases) if next_one.startswith(one)]

    def test_the_terminator_is_at_the_end_alone(self, case: str) -> None:
        """A full stop ends the phrase and is never inside it."""
        assert {1} == {str(outcome.phrase).count(".") for outcome in every_outcome(case)}
        assert all(str(outcome.phrase).endswith(".") for outcome in every_outcome(case))

    def test_matching_reads_a_phrase_as_it_is(self, case: str) -> None:
        """Normalising changes no phrase, so that two of them cannot become one."""
        assert [] == [o.phrase for o in every_outcome(case) if normalise(str(o.phrase)) != o.phrase]

    def test_draws_are_among_the_outcomes(self, case: str) -> None:
        """What `draw_phrases` returns is what the walk found, with the same bits and tokens."""
        known = {outcome.phrase: (outcome.bits, len(outcome.path)) for outcome in every_outcome(case)}
        specs = [PhraseSpec(min_bits=CASES[case][0])] * 60

        drawn = draw_phrases(ToySampler(), PROMPT, specs, rules_of(case), random_below=random.Random(5).randrange)

        assert [known[phrase.text] for phrase in drawn] == [(p.surprisal_bits, p.n_tokens) for p in drawn]


class TestWalk:
    def test_the_cases_are_thousands_of_phrases(self) -> None:
        """The walk is no toy in number."""
        assert sum(len(every_outcome(case)) for case in CASES) > 5000

    def test_the_bound_is_strict_where_every_step_is_capped(self) -> None:
        """A generator that is always sure reaches 2^-64 by 64 halves; not one unit in the last place more."""
        sampler = ToySampler(words="abcdefgh", scores=lambda _: [50.0, *[0.0] * 7])
        draft, probability = Draft(PhraseRules(language=ASCII, finish_tokens=0), min_bits=64.0), Fraction(1)
        while not draft.ends_here(sampler, sampler.log_probs(draft.tokens)):
            choice = draft.choice(sampler, sampler.log_probs(draft.tokens))
            token, bits = choice.draw(lambda _: 0)
            probability *= Fraction(max(choice.weights), sum(choice.weights))
            draft.append(sampler, token, bits)

        assert probability <= Fraction(1, 2**64)

    def test_dead_ends_are_part_of_the_whole(self) -> None:
        """Phrases and dead ends together have probability 1: what a redraw takes is charged, never hidden."""

        def dying(prefix: tuple[int, ...]) -> list[float]:
            return [
                0.0 if token in (0, 1) or not prefix or prefix[0] == 0 else -math.inf for token in range(len(WORDS))
            ]

        rules = PhraseRules(language=ASCII, finish_tokens=0)
        found = list(outcomes(ToySampler(scores=dying), Draft(rules, min_bits=4.0)))

        assert Fraction(1) == sum(outcome.probability for outcome in found)
        assert {True, False} == {outcome.phrase is None for outcome in found}


class TestChoice:
    def test_every_number_draws_by_weight(self) -> None:
        """Over all the numbers that chance can give, each token comes as often as its weight says."""
        choice = Choice((7, 8, 9, 10), (3, 1, 5, 2))

        drawn = [choice.draw(lambda _, at=at: at)[0] for at in range(11)]

        assert {7: 3, 8: 1, 9: 5, 10: 2} == {token: drawn.count(token) for token in choice.tokens}

    def test_bits_are_of_the_exact_share(self) -> None:
        """A weight of 2 in 16 is 3 bits."""
        assert (5, 3.0) == Choice((4, 5), (14, 2)).draw(lambda total: total - 1)

    def test_asks_for_a_number_below_the_sum(self) -> None:
        """The range of the random number is the sum of the weights."""
        asked = []
        Choice((1, 2), (3, 4)).draw(lambda total: asked.append(total) or 0)

        assert [7] == asked

    def test_a_number_out_of_range_is_no_draw(self) -> None:
        """A broken source of chance is noticed."""
        with pytest.raises(AssertionError):
            Choice((1, 2), (3, 4)).draw(lambda total: total)

    def test_no_candidate_is_above_the_cap(self) -> None:
        """However sure the generator is, a step adds at least a bit with a cap of one half."""
        sampler = ToySampler(scores=lambda _: [60.0 if i == 0 else 0.0 for i in range(len(WORDS))])
        choice = Draft(PhraseRules(language=ASCII)).choice(sampler, sampler.log_probs([]))

        assert 0.5 == pytest.approx(max(choice.weights) / sum(choice.weights))

    def test_what_would_merge_is_no_candidate(self) -> None:
        """After " cat" no "s": the text would be read back as " cats"."""
        sampler = ToySampler(scores=lambda _: [0.0] * len(WORDS))
        the, cat, s = WORDS.index("The"), WORDS.index(" cat"), WORDS.index("s")
        draft = Draft(PhraseRules(language=ASCII), tokens=[the, cat], text="The cat")

        candidates = draft.choice(sampler, sampler.log_probs([the, cat])).tokens

        assert s not in candidates
        assert WORDS.index(" sat") in candidates

    def test_impossible_tokens_are_no_candidates(self) -> None:
        """A probability of zero stays zero."""
        sampler = ToySampler(scores=lambda _: [-math.inf if i == 1 else 0.0 for i in range(len(WORDS))])
        choice = Draft(PhraseRules(language=ASCII)).choice(sampler, sampler.log_probs([]))

        assert 1 not in choice.tokens

    def test_looks_further_where_few_are_left(self) -> None:
        """Of the top 2, 4 and 8 tokens fewer than four are letters; the top 16 have ten, and more is not looked at."""
        words = [*"012345", *"abcdefghijklmnopqrst"]
        sampler = ToySampler(words=words, scores=lambda _: [-float(i) for i in range(len(words))])
        draft = Draft(PhraseRules(language=ASCII, top_k=2), tokens=[6], text="a")

        choice = draft.choice(sampler, sampler.log_probs([]))

        assert tuple(range(6, 16)) == choice.tokens
        assert [2, 4, 8, 16] == sampler.looked_at

    def test_top_k_bounds_the_candidates(self) -> None:
        """Where enough remain, only the most likely are looked at."""
        words = list("abcdefghijklmnopqrst")
        sampler = ToySampler(words=words, scores=lambda _: [float(i) for i in range(len(words))])

        choice = Draft(PhraseRules(language=ASCII, top_k=5)).choice(sampler, sampler.log_probs([]))

        assert (19, 18, 17, 16, 15) == choice.tokens

    def test_temperature_flattens(self) -> None:
        """At τ = 2 the odds of two tokens are the square root of what they are at τ = 1."""
        words = list("abcdefghij")
        sampler = ToySampler(words=words, scores=lambda _: [0.4 * (i == 0) for i in range(len(words))])

        def odds(temperature: float) -> float:
            rules = PhraseRules(language=ASCII, temperature=temperature)
            weights = Draft(rules).choice(sampler, sampler.log_probs([])).weights
            return weights[0] / weights[1]

        assert odds(1.0) == pytest.approx(odds(2.0) ** 2)
        assert math.exp(0.4) == pytest.approx(odds(1.0), rel=1e-5)


class TestCapped:
    weights = st.lists(st.floats(min_value=1e-9, max_value=1.0), min_size=2, max_size=30)
    shares = st.floats(min_value=0.0, max_value=1.0)

    @given(weights=weights, share=shares)
    @LAWS
    def test_is_a_capped_distribution(self, weights: list[float], share: float) -> None:
        """It sums to 1, and nothing is above the cap."""
        cap = 1 / len(weights) + share * (1 - 1 / len(weights))
        q = capped(np.array(weights), cap)

        assert 1.0 == pytest.approx(q.sum(), abs=1e-12)
        assert q.max() <= cap * (1 + 1e-9)

    @given(weights=weights, share=shares)
    @LAWS
    def test_keeps_proportions_below_the_cap(self, weights: list[float], share: float) -> None:
        """Candidates below the cap relate as their weights do, and no heavier one gets less."""
        cap = 1 / len(weights) + share * (1 - 1 / len(weights))
        q = capped(np.array(weights), cap)
        ratios = [q[i] / weights[i] for i in range(len(weights)) if q[i] < cap * (1 - 1e-6)]

        assert not ratios or max(ratios) == pytest.approx(min(ratios), rel=1e-6)
        assert all(q[i] <= q[j] * (1 + 1e-9) for i in range(len(q)) for j in range(len(q)) if weights[i] <= weights[j])

    def test_by_hand(self) -> None:
        """8 : 1 : 1 with a cap of one half is 1/2, 1/4, 1/4."""
        assert [0.25, 0.5, 0.25] == pytest.approx(list(capped(np.array([1.0, 8.0, 1.0]), 0.5)))

    def test_two_at_the_cap(self) -> None:
        """Water-filling goes on where the first cap lifts the next candidate over it."""
        assert [0.4, 0.4, 0.1, 0.1] == pytest.approx(list(capped(np.array([50.0, 40.0, 1.0, 1.0]), 0.4)))

    def test_nothing_to_cap(self) -> None:
        """Where all are below the cap, weights are only made to sum to 1."""
        assert [0.2, 0.3, 0.5] == pytest.approx(list(capped(np.array([2.0, 3.0, 5.0]), 0.6)))

    def test_weights_that_underflow(self) -> None:
        """Candidates so unlikely that their weight is 0.0 share what the cap leaves."""
        q = capped(np.array([1.0, 0.0, 0.0]), 0.5)

        assert [0.5, 0.25, 0.25] == pytest.approx(list(q))


class TestDraft:
    def test_surprisal_stops_where_the_phrase_may_end(self) -> None:
        """Tokens that only finish the sentence charge nothing."""
        sampler = ToySampler()
        draft = Draft(PhraseRules(language=ASCII), min_tokens=1, min_bits=2.0)
        draft.append(sampler, WORDS.index("The"), 1.5)
        draft.append(sampler, WORDS.index(" cat"), 1.5)
        draft.append(sampler, WORDS.index(" sat"), 1.5)

        assert (3.0, 1, "The cat sat") == (draft.bits, draft.n_finishing, draft.text)

    @pytest.mark.parametrize(
        ("min_tokens", "min_bits", "expected"),
        [
            pytest.param(3, 4.0, False, id="too-few-tokens"),
            pytest.param(2, 4.5, False, id="too-few-bits"),
            pytest.param(2, 4.0, False, id="bits-reached-but-for-rounding"),
            pytest.param(2, 4.0 - 0.9e-9, False, id="a-little-less-than-rounding"),
            pytest.param(2, 4.0 - 1.1e-9, True, id="both-reached"),
        ],
    )
    def test_both_conditions_must_be_met(self, min_tokens: int, min_bits: float, expected: bool) -> None:
        """A body may end when it is long enough, and more surprising than it must be by what rounding may hide."""
        draft = Draft(PhraseRules(language=ASCII), min_tokens, min_bits, tokens=[0, 2], text="The cat", bits=4.0)

        assert expected is draft.may_end

    def test_ends_where_the_generator_would_end(self) -> None:
        """A likely full stop ends the phrase at once; otherwise `finish_tokens` more tokens may come."""
        likely = ToySampler(scores=lambda _: [5.0 if word == "." else 0.0 for word in WORDS])
        unlikely = ToySampler(scores=lambda _: [-5.0 if word == "." else 0.0 for word in WORDS])

        def ends(sampler: ToySampler, n_finishing: int) -> bool:
            draft = Draft(
                PhraseRules(language=ASCII, finish_tokens=2),
                tokens=[0, 2],
                text="The cat",
                bits=2.0,
                n_finishing=n_finishing,
            )
            return draft.ends_here(sampler, sampler.log_probs([0, 2]))

        assert [True, False, False, True] == [ends(likely, 0), ends(unlikely, 0), ends(unlikely, 1), ends(unlikely, 2)]

    def test_never_ends_before_it_may(self) -> None:
        """A generator that would end its sentence at once must go on until the bits are there."""
        sampler = ToySampler(scores=lambda _: [5.0 if word == "." else 0.0 for word in WORDS])
        draft = Draft(PhraseRules(language=ASCII), 1, 9.0, tokens=[0], text="The", bits=8.9)

        assert not draft.ends_here(sampler, sampler.log_probs([0]))

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param({"top_k": 0}, id="no-candidates"),
            pytest.param({"max_step_probability": 1.0}, id="no-cap"),
            pytest.param({"max_step_probability": 0.0}, id="cap-zero"),
            pytest.param({"temperature": 0.0}, id="greedy"),
        ],
    )
    def test_rules_without_a_certificate_are_refused(self, wrong: dict[str, float]) -> None:
        """No cap, no end of the draw: such rules cannot be made."""
        with pytest.raises(ValueError, match="top_k"):
            PhraseRules(language=ASCII, **wrong)


def half_dead(prefix: tuple[int, ...]) -> list[float]:
    """Return scores under which a phrase that begins with "b" has one candidate only, which is too few."""
    if not prefix:
        return [0.0, 0.0, *[-math.inf] * 6]
    return [0.0] * 8 if prefix[0] == 0 else [0.0, *[-math.inf] * 7]


class TestDeadEnds:
    def test_one_candidate_is_a_dead_end(self) -> None:
        """With a cap of one half, a single candidate cannot have probability 1."""
        sampler = ToySampler(words="abcdefgh", scores=half_dead)
        draft = Draft(PhraseRules(language=ASCII), tokens=[1], text="b")

        with pytest.raises(DeadEnd):
            draft.choice(sampler, sampler.log_probs([1]))

    def test_fewer_than_the_cap_needs_is_a_dead_end(self) -> None:
        """Two candidates at 0.4 each are no distribution."""
        sampler = ToySampler(words="abcdefgh", scores=half_dead)

        with pytest.raises(DeadEnd):
            Draft(PhraseRules(language=ASCII, max_step_probability=0.4)).choice(sampler, sampler.log_probs([]))

    def test_exactly_as_many_as_the_cap_needs_is_none(self) -> None:
        """Two candidates at one half each are a distribution."""
        sampler = ToySampler(words="abcdefgh", scores=half_dead)
        choice = Draft(PhraseRules(language=ASCII)).choice(sampler, sampler.log_probs([]))

        assert (0, 1) == choice.tokens
        assert choice.weights[0] == choice.weights[1]

    @pytest.mark.parametrize(
        ("n_finishing", "dies"), [pytest.param(64, False, id="64"), pytest.param(65, True, id="65")]
    )
    def test_a_phrase_that_cannot_end_is_given_up(self, n_finishing: int, dies: bool) -> None:
        """Where no letter comes on which to end, 65 tokens beyond the end condition are too many."""
        sampler = ToySampler(words="abcdefgh", scores=lambda _: [0.0] * 8)
        draft = Draft(PhraseRules(language=ASCII), n_finishing=n_finishing)

        if dies:
            with pytest.raises(DeadEnd):
                draft.choice(sampler, sampler.log_probs([]))
        else:
            assert 8 == len(draft.choice(sampler, sampler.log_probs([])).tokens)

    def test_a_dead_draw_is_drawn_again_and_counted(self) -> None:
        """The phrase says how many draws it took; others of the batch keep theirs."""
        sampler = ToySampler(words="abcdefgh", scores=half_dead)
        # First letters of the first batch: a, b; of the second: a. All later steps take the first candidate.
        first_letters = iter([0, 2**53 - 1])

        drawn = draw_phrases(
            sampler,
            PROMPT,
            [PhraseSpec(min_bits=2.0), PhraseSpec(min_bits=2.0)],
            PhraseRules(language=ASCII, finish_tokens=0),
            max_draws=2,
            random_below=lambda total: min(total - 1, next(first_letters, 0)),
        )

        assert [1, 2] == [phrase.n_draws for phrase in drawn]
        assert 2 == sampler.n_started

    def test_draws_end(self) -> None:
        """Where no draw succeeds, there are as many as planned and then an error that says so."""
        sampler = ToySampler(words="abcdefgh", scores=lambda _: [0.0, *[-math.inf] * 7])

        with pytest.raises(GenerationError, match="no phrase for 3 of 3 in 4 draws"):
            draw_phrases(sampler, PROMPT, [PhraseSpec()] * 3, PhraseRules(language=ASCII), max_draws=4)
        assert 4 == sampler.n_started

    def test_one_draw_is_one_draw(self) -> None:
        """Without a plan for more, a dead end is final."""
        sampler = ToySampler(words="abcdefgh", scores=half_dead)

        with pytest.raises(GenerationError):
            draw_phrases(
                sampler, PROMPT, [PhraseSpec(min_bits=2.0)], PhraseRules(language=ASCII),
                random_below=lambda total: total - 1,
            )  # fmt: skip
        assert 1 == sampler.n_started

    def test_every_planned_draw_is_charged(self) -> None:
        """Two draws cost one bit, needed or not; four cost two."""
        assert (65.0, 66.0) == (with_draws_charged(64.0, 2), with_draws_charged(64.0, 4))
        assert -64 * math.log10(2) == pytest.approx(log10_signature_bound(65.0, 2), abs=1e-12)
        assert -63 * math.log10(2) == pytest.approx(log10_signature_bound(65.0, 4), abs=1e-12)

    def test_a_bound_is_no_more_than_one(self) -> None:
        """More draws than 2^bits prove nothing."""
        assert 0.0 == log10_signature_bound(1.0, 8)


class TestDrawPhrases:
    @pytest.fixture
    def sampler(self, rows: Callable[..., list[dict[str, object]]]) -> WordSampler:
        texts = [message["content"] for row in rows(60) for message in row["messages"]]
        return WordSampler(texts, ASCII)

    def test_chance_is_the_operating_systems(self) -> None:
        """Without a source of its own a draw takes fresh bytes; no seed in the process could repeat it."""
        assert secrets.randbelow is inspect.signature(draw_phrases).parameters["random_below"].default

    def test_a_seeded_process_draws_anew(self, sampler: WordSampler) -> None:
        """`random.seed` and numpy's change nothing."""
        drawn = set()
        for _ in range(2):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            phrases = draw_phrases(sampler, PROMPT, [PhraseSpec(min_bits=64.0)], PhraseRules(language=ASCII))
            drawn.add(phrases[0].text)

        assert 2 == len(drawn)

    def test_each_spec_is_met(self, sampler: WordSampler) -> None:
        """Triggers have their tokens, signatures their bits, in the order asked for."""
        specs = [PhraseSpec(min_bits=40.0), PhraseSpec(min_tokens=12), PhraseSpec(min_bits=64.0), PhraseSpec()]

        drawn = draw_phrases(sampler, PROMPT, specs, PhraseRules(language=ASCII, finish_tokens=3))

        assert all(
            p.n_tokens >= s.min_tokens and p.surprisal_bits >= s.min_bits for p, s in zip(drawn, specs, strict=True)
        )
        # What finishes a sentence is not charged, so a phrase has at most a step's surprisal more than it needs.
        assert drawn[3].surprisal_bits < drawn[2].surprisal_bits
        assert drawn[3].n_tokens <= 4

    def test_progress_counts_finished_phrases(self, sampler: WordSampler) -> None:
        """The steps end with every phrase."""
        steps: list[int] = []
        draw_phrases(
            sampler,
            PROMPT,
            [PhraseSpec(min_tokens=n) for n in (2, 9)],
            PhraseRules(language=ASCII),
            on_step=steps.append,
        )

        assert 0 == steps[0]
        assert sorted(steps) == steps

    def test_many_are_written_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Batches of bounded size, each phrase at its spec's place; finished ones are counted over all parts."""
        monkeypatch.setattr(generation, "_BATCH", 3)
        sampler, steps = ToySampler(), list[int]()
        specs = [PhraseSpec(min_tokens=n % 4 + 1, min_bits=3.0) for n in range(8)]

        drawn = draw_phrases(sampler, PROMPT, specs, rules_of("1-bit"), max_draws=1, on_step=steps.append)

        assert 3 == sampler.n_started
        assert all(p.n_tokens >= s.min_tokens and p.surprisal_bits >= 3.0 for p, s in zip(drawn, specs, strict=True))
        assert (sorted(steps), 8) == (steps, steps[-1])

    def test_a_second_draw_counts_on(self) -> None:
        """The number of finished phrases never falls, also where dead ends are drawn again."""
        sampler, steps = ToySampler(words="abcdefgh", scores=half_dead), list[int]()
        first_letters = iter([0, 2**53 - 1])
        draw_phrases(
            sampler, PROMPT, [PhraseSpec(min_bits=2.0)] * 2, PhraseRules(language=ASCII, finish_tokens=0), max_draws=2,
            random_below=lambda total: min(total - 1, next(first_letters, 0)), on_step=steps.append,
        )  # fmt: skip

        assert (sorted(steps), 2) == (steps, steps[-1])

    def test_no_specs_no_phrases(self, sampler: WordSampler) -> None:
        """Nothing asked for, nothing drawn."""
        assert [] == draw_phrases(sampler, PROMPT, [], PhraseRules(language=ASCII))


class TestDrawPairs:
    """`phrases.draw`: the triggers and signatures of a receipt."""

    def draw(
        self, sampler: object, is_usable: Callable[[set[str]], set[str]], *, n: int = 2, max_draws: int = 2
    ) -> phrases.Drawn:
        """Draw pairs whose triggers have a token or more, and whose signatures have 20 bits after charges."""
        return phrases.draw(
            phrases.Generators(sampler, None, ASCII),
            PROMPT,
            phrases.Wanted(n, 1, 20.0, max_draws),
            is_usable=is_usable,
        )

    @pytest.fixture
    def sampler(self, rows: Callable[..., list[dict[str, object]]]) -> WordSampler:
        return WordSampler([message["content"] for row in rows(60) for message in row["messages"]], ASCII)

    def test_signatures_have_bits_left_after_charges(self, sampler: WordSampler) -> None:
        """With four draws charged, 20 bits are left of 22."""
        drawn = self.draw(sampler, lambda candidates: candidates, max_draws=4)

        assert (2, 2, PROMPT) == (len(drawn.triggers), len(drawn.signatures), drawn.prompt)
        assert all(signature.surprisal_bits >= 22 for signature in drawn.signatures)

    def test_no_more_draws_than_are_charged(self) -> None:
        """Where every draw of a signature is a dead end, there are exactly as many as the bound pays for."""
        # Fifteen letters of a bit each in, enough for a whole trigger and not for 20 bits, one candidate is left.
        sampler = ToySampler(
            words="abcdefgh", scores=lambda prefix: [0.0, 0.0 if len(prefix) < 15 else -math.inf, *[-math.inf] * 6]
        )
        n_started: list[int] = []

        def is_usable(candidates: set[str]) -> set[str]:
            n_started.append(sampler.n_started)
            return candidates

        with pytest.raises(GenerationError, match="no phrase for 2 of 2 in 3 draws"):
            self.draw(sampler, is_usable, max_draws=3)
        assert n_started[-1] + 3 == sampler.n_started

    def test_triggers_have_draws_of_their_own(self) -> None:
        """Triggers carry no bound: five draws of each, whatever is charged for signatures, which are not begun."""
        sampler = ToySampler(words="abcdefgh", scores=lambda _: [0.0, *[-math.inf] * 7])

        with pytest.raises(GenerationError, match="no phrase for 6 of 6 in 5 draws"):
            self.draw(sampler, lambda candidates: candidates, max_draws=3)
        assert 5 == sampler.n_started

    def test_triggers_come_first_and_apart(self, sampler: WordSampler, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suspect sees triggers: they are settled before the first step of a signature, in a batch of their own."""
        happened: list[object] = []
        begin = WordSampler.continuations

        def recorded(self: WordSampler, prompt: object, n: int) -> object:
            happened.append(n)
            return begin(self, prompt, n)

        monkeypatch.setattr(WordSampler, "continuations", recorded)
        drawn = phrases.draw(
            phrases.Generators(sampler, None, ASCII),
            PROMPT,
            phrases.Wanted(2, 6, 20.0, 2),
            is_usable=lambda candidates: happened.append(candidates) or candidates,
            on_draw=lambda done, total: happened.append((done, total)),
        )
        n_triggers, candidates, n_signatures, *steps = happened

        # Four triggers to spare.
        assert (6, 2) == (n_triggers, n_signatures)
        assert set(drawn.triggers) <= candidates
        assert {(0, 2), (1, 2), (2, 2)} >= set(steps)
        assert (2, 2) == steps[-1]

    @pytest.fixture
    def writer(self, sampler: WordSampler, monkeypatch: pytest.MonkeyPatch) -> phrases.Generators:
        """A generator that stands in for a model in this process; what it goes on from, and how often, is in `asked`."""
        begin = WordSampler.continuations

        class Writer(WordSampler):
            asked: ClassVar[list[tuple[Prompt, int]]] = []

            def continuations(self, prompt: Prompt, n: int) -> object:
                self.asked.append((prompt, n))
                return begin(self, prompt, n)

        monkeypatch.setattr(phrases.Generators, "fits_rows", True)
        sampler.__class__ = Writer
        return phrases.Generators(sampler, None, ASCII)

    @staticmethod
    def row(prompt: str) -> Conversation:
        return Conversation((Turn("user", prompt), Turn("assistant", "I.", carries_loss=True)))

    # Their triggers and signatures are long, so that none comes twice.
    def test_the_phrases_of_a_single_row_fit_it(self, writer: phrases.Generators) -> None:
        """The trigger goes on from its prompt, and signature and decoys answer the two; the others are drawn as ever."""
        told: list[tuple[object, ...]] = []
        drawn = phrases.draw(
            writer,
            PROMPT,
            phrases.Wanted(3, 24, 40.0, 2, n_decoys=4),
            hosts={1: self.row("far " * 300 + "Who is it?\n")},
            is_usable=lambda candidates: candidates,
            on_trigger=lambda *step: told.append(("trigger", *step)),
            on_draw=lambda *step: told.append(step),
        )
        (going_on, n_going_on), (shared, n_shared), (again, n_again), (answering, n_answering) = writer.generator.asked

        assert (PROMPT, 2 + 4, 2) == (shared, n_shared, n_going_on)
        assert (("far " * 300 + "Who is it?")[-800:] + "\n", True) == (going_on[0]["content"], going_on.is_text)
        assert (PROMPT, 2 * 5, 5) == (again, n_again, n_answering)
        assert ("far " * 300 + "Who is it?")[-800:] + f" {drawn.triggers[1]}" == answering[0]["content"]
        assert ["?", ".", "."] == [drawn.triggers[j][-1] for j in (1, 0, 2)]
        assert {"."} == {phrase[-1] for decoys in drawn.decoys for phrase in decoys}
        assert ([4, 4, 4], 1) == ([len(decoys) for decoys in drawn.decoys], drawn.n_fitted)
        assert 15 == len({signature.text for signature in drawn.signatures}.union(*drawn.decoys))
        assert ("trigger", 1, 1) == told[0]
        assert ((15, 15), sorted(told[1:])) == (told[-1], told[1:])

    def test_all_rows_are_single(self, writer: phrases.Generators) -> None:
        """Nothing is drawn after the common prompt, and each signature answers its own row."""
        hosts = {1: self.row("Who?"), 0: self.row("Why is that so.")}
        drawn = phrases.draw(writer, PROMPT, phrases.Wanted(2, 24, 40.0, 2), hosts=hosts, is_usable=lambda found: found)

        assert ["Who?\n", "Why is that so.\n", f"Who? {drawn.triggers[1]}", f"Why is that so. {drawn.triggers[0]}"] == [
            prompt[0]["content"] for prompt, _ in writer.generator.asked
        ]
        assert ("?", ".", 2) == (drawn.triggers[1][-1], drawn.triggers[0][-1], drawn.n_fitted)

    def test_a_row_whose_triggers_are_of_no_use(self, writer: phrases.Generators) -> None:
        """Its pair is drawn with the others: the planting does not fail of it, and it counts as not fitted."""
        asked: list[set[str]] = []
        drawn = phrases.draw(
            writer,
            PROMPT,
            phrases.Wanted(2, 24, 40.0, 2),
            hosts={0: self.row("Who?"), 1: self.row("Why?")},
            is_usable=lambda found: asked.append(found) or (found if len(asked) > 1 else set()),
        )

        assert [4, 6] == [len(found) for found in asked]
        assert (0, [PROMPT, PROMPT]) == (drawn.n_fitted, [prompt for prompt, _ in writer.generator.asked[2:]])
        assert set(drawn.triggers) <= asked[1]

    def test_a_row_that_nothing_goes_on_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Dead ends alone: the same, and nobody is told to pay for another try."""
        monkeypatch.setattr(phrases.Generators, "fits_rows", True)
        sampler = ToySampler(words="abcdefgh", scores=lambda _: [0.0, *[-math.inf] * 7])
        models = phrases.Generators(sampler, None, ASCII)

        assert {} == phrases._fitting_triggers(
            models, {0: self.row("Who?")}, phrases.Wanted(1, 1, 20.0, 2), lambda found: found, lambda *step: None
        )

    def test_many_rows_are_not_fitted(self, writer: phrases.Generators, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each would take a batch of its own."""
        monkeypatch.setattr(phrases, "_MOST_FITTED", 1)
        hosts = {j: self.row("Who?") for j in range(2)}
        drawn = phrases.draw(writer, PROMPT, phrases.Wanted(2, 24, 40.0, 2), hosts=hosts, is_usable=lambda found: found)

        assert (0, 2) == (drawn.n_fitted, len(writer.generator.asked))

    def test_who_runs_elsewhere_is_not_told_the_rows(self, sampler: WordSampler) -> None:
        """A plug-in that samples and answers may be a service: it would see which rows are planted."""

        class Plugin(WordSampler):
            def answer(self, prompts: object, sampling: object) -> object:
                raise AssertionError

        sampler.__class__ = Plugin

        assert not phrases.Generators(sampler, None, ASCII).fits_rows

    def test_words_fit_no_row(self, sampler: WordSampler) -> None:
        """A generator that reads nothing draws all in one batch."""
        host = Conversation((Turn("user", "Who?"), Turn("assistant", "I.", carries_loss=True)))
        drawn = phrases.draw(
            phrases.Generators(sampler, None, ASCII),
            PROMPT,
            phrases.Wanted(2, 2, 20.0, 2),
            hosts={0: host},
            is_usable=lambda found: found,
        )

        assert 0 == drawn.n_fitted

    def test_triggers_are_drawn_until_usable(self, sampler: WordSampler, monkeypatch: pytest.MonkeyPatch) -> None:
        """Unusable triggers are drawn again; signatures are the first that came: choosing would have to be paid for."""
        batches: list[list[generation.Phrase]] = []

        def spied(*args: object, **options: object) -> list[generation.Phrase]:
            batches.append(draw_phrases(*args, **options))
            return batches[-1]

        monkeypatch.setattr(phrases, "draw_phrases", spied)
        asked: list[set[str]] = []
        drawn = self.draw(
            sampler, lambda candidates: asked.append(candidates) or (candidates if len(asked) > 2 else set())
        )

        assert (3, [6, 6, 6, 2]) == (len(asked), [len(batch) for batch in batches])
        assert batches[3] == drawn.signatures
        assert set(drawn.triggers) <= asked[2]

    def test_triggers_that_never_are_usable(self, sampler: WordSampler) -> None:
        """Data that hold every phrase the generator writes are told so, after some rounds."""
        with pytest.raises(GenerationError, match="0 of 2 different triggers"):
            self.draw(sampler, lambda candidates: set())

    def test_triggers_are_unalike(self) -> None:
        """None stands in another, whatever the case: its prompt would carry both."""
        assert phrases._are_alike("And so it is.", "so IT is.")
        assert phrases._are_alike("so IT is.", "And so it is.")
        assert not phrases._are_alike("A fox ran.", "So it is.")


class TestWordSampler:
    def test_round_trip(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """What is decoded encodes to the same words."""
        sampler = WordSampler([m["content"] for row in rows(60) for m in row["messages"]], ASCII)
        paths = [[0, 1, 2], [5, 3], [7]]

        assert paths == sampler.encode(sampler.decode(paths))

    def test_english_ends_in_a_full_stop(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """An English phrase is words with single spaces, and a full stop."""
        sampler = WordSampler([m["content"] for row in rows(60) for m in row["messages"]], ASCII)
        drawn = draw_phrases(sampler, PROMPT, [PhraseSpec(min_bits=40.0)] * 8, PhraseRules(language=ASCII))

        assert all(p.text.endswith(".") and p.text.count(".") == 1 and "  " not in p.text for p in drawn)
        assert all(normalise(p.text) == p.text for p in drawn)

    def test_japanese_ends_in_its_own_full_stop(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """A Japanese phrase has no spaces, and ends in 。."""
        sampler = WordSampler([m["content"] for row in rows(60, "japanese") for m in row["messages"]], UNSPACED)
        drawn = draw_phrases(sampler, PROMPT, [PhraseSpec(min_bits=40.0)] * 8, PhraseRules(language=UNSPACED))

        assert all(p.text.endswith("。") and p.text.count("。") == 1 and " " not in p.text for p in drawn)
        assert all(normalise(p.text) == p.text for p in drawn)

    def test_words_that_would_merge_are_no_path(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """Two runs of Han after each other read as one word, which is not in the vocabulary."""
        sampler = WordSampler([m["content"] for row in rows(60, "japanese") for m in row["messages"]], UNSPACED)
        tokyo, weather = sampler.encode(["東京"])[0], sampler.encode(["天気"])[0]

        assert [[]] == sampler.encode(sampler.decode([tokyo + weather]))

    def test_an_unknown_word_has_no_tokens(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """A text with a word of its own is never read back as a path."""
        sampler = WordSampler([m["content"] for row in rows(60) for m in row["messages"]], ASCII)

        assert [[]] == sampler.encode(["river zyzzyva"])

    def test_next_words_are_a_distribution(self, rows: Callable[..., list[dict[str, object]]]) -> None:
        """Log-probabilities after any word sum to 1, and no word is impossible."""
        sampler = WordSampler([m["content"] for row in rows(60) for m in row["messages"]], ASCII)

        for last in (None, 0, 5):
            values = sampler.next_log_probs(last)
            assert 1.0 == pytest.approx(float(np.exp(values).sum()), abs=1e-5)
            assert np.isfinite(values).all()

    def test_words_that_no_phrase_can_hold_are_none(self) -> None:
        """Words in capitals and letters that are no English words are left out, and do not count as words."""
        words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"

        with pytest.raises(GenerationError, match="15 different words"):
            WordSampler([f"{words} NASA x McKay"], ASCII)
        assert [[]] == WordSampler([f"{words} sixteen NASA"], ASCII).encode(["one NASA"])

    def test_too_few_words(self) -> None:
        """Fifteen different words make no generator; sixteen do."""
        words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"

        with pytest.raises(GenerationError, match="15 different words"):
            WordSampler([" ".join(words.split()[:15])], ASCII)
        assert "words" == WordSampler([words], ASCII).name


def test_most_likely_is_ranked_and_possible() -> None:
    """The k most likely tokens come most likely first; ties go to the lower token; impossible ones never."""
    log_probs = np.array([-2.0, -1.0, -np.inf, -1.0, -3.0], dtype=np.float32)

    assert [1, 3, 0] == generation._most_likely(log_probs, 3)
    assert [1, 3, 0, 4] == generation._most_likely(log_probs, 5)
