"""
What preferences prove, against oracles that share no code with it.

Enumeration of all choices and samples, whole numbers and Fractions where there are too many, and laws that hold for all
arguments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from vtuned.stats import (
    log10_hits_p_value,
    log10_preference_e_value,
    log10_rank_sum_p_value,
    preference_coverage,
    preference_coverage_skipping,
)

LAWS = settings(max_examples=80, deadline=None, derandomize=True)
# A relative error of 1e-9 of the probability.
LOG10_TOLERANCE = math.log10(1 + 1e-9)
SMALL_ROWS = [(2,), (7,), (2, 2, 2), (4, 4, 4, 4), (2, 3, 4), (5, 2, 2, 3), (2, 16), (3, 3, 3, 2, 2)]
CONFIDENCES = [Fraction(1, 2), Fraction(4, 5), Fraction(95, 100), Fraction(99, 100)]

row_sizes = st.lists(st.integers(2, 20), min_size=1, max_size=30)
confidences = st.floats(min_value=0.01, max_value=0.999_999)


def close(expected: Fraction) -> object:
    """Match log10 of an exact probability within 1e-9 of it, and 0 by nothing but -inf."""
    return -math.inf if expected == 0 else pytest.approx(log10_of(expected), rel=0, abs=LOG10_TOLERANCE)


def log10_of(probability: Fraction) -> float:
    """Return log10 of a probability that may be too small for a float."""
    with mp.workdps(60):
        return float(mp.log10(mpf(probability.numerator) / probability.denominator))


def share(outcomes: Sequence[bool]) -> Fraction:
    """Return the share of equally likely outcomes that are true."""
    return Fraction(sum(outcomes), len(outcomes))


class TestHits:
    """The rows whose published wording comes first."""

    @pytest.mark.parametrize("n_wordings", SMALL_ROWS, ids=str)
    def test_it_is_the_share_of_all_choices(self, n_wordings):
        """Of all ways to publish, those with so many of number 0, which is what the suspect prefers."""
        choices = list(itertools.product(*map(range, n_wordings)))
        for n_hits in range(len(n_wordings) + 2):
            expected = share([choice.count(0) >= n_hits for choice in choices])
            assert close(expected) == log10_hits_p_value(n_hits, n_wordings)

    @pytest.mark.parametrize("n_wordings", [[4] * 128, [16] * 250, [2, 3, 4, 16] * 40], ids=["4", "16", "unequal"])
    def test_it_is_exact_for_many_rows(self, n_wordings):
        """The law of the count, multiplied out in Fractions, down to all rows hit."""
        law = [Fraction(1)]
        for n in n_wordings:
            law = [(a * (n - 1) + b) / n for a, b in zip([*law, Fraction(0)], [Fraction(0), *law], strict=True)]
        for n_hits in (0, 1, len(law) // 4, len(law) // 3, len(law) // 2, len(law) - 2, len(law) - 1):
            assert close(sum(law[n_hits:])) == log10_hits_p_value(n_hits, n_wordings)

    @LAWS
    @given(n_wordings=row_sizes, n_hits=st.integers(0, 31))
    def test_more_hits_are_never_likelier(self, n_wordings, n_hits):
        """It starts at 1, falls in the count, and ends at 0."""
        assert log10_hits_p_value(n_hits + 1, n_wordings) <= log10_hits_p_value(n_hits, n_wordings) <= 0.0
        assert 0.0 == log10_hits_p_value(0, n_wordings)
        assert -math.inf == log10_hits_p_value(len(n_wordings) + 1, n_wordings)

    @LAWS
    @given(n_wordings=row_sizes, n_hits=st.integers(0, 30), rng=st.randoms())
    def test_the_order_of_the_rows_is_irrelevant(self, n_wordings, n_hits, rng):
        """Listed in another order, not a digit changes."""
        shuffled = rng.sample(n_wordings, len(n_wordings))

        assert log10_hits_p_value(n_hits, n_wordings) == log10_hits_p_value(n_hits, shuffled)

    def test_no_rows_prove_nothing(self):
        """Of no rows there are no hits."""
        assert 0.0 == log10_hits_p_value(0, [])
        assert -math.inf == log10_hits_p_value(1, [])


def rank_sum_counts(n_wordings: Sequence[int]) -> list[int]:
    """Return in how many ways the ranks, from 0 on, add up to 0, 1, ...: whole numbers, none rounded."""
    counts = [1]
    for n in n_wordings:
        sums = [0, *itertools.accumulate([*counts, *[0] * (n - 1)])]
        counts = [sums[i + 1] - sums[max(0, i + 1 - n)] for i in range(len(sums) - 1)]
    return counts


class TestRankSum:
    """The sum of the ranks of what was published."""

    @pytest.mark.parametrize("n_wordings", SMALL_ROWS, ids=str)
    def test_it_is_the_share_of_all_ranks(self, n_wordings):
        """For every sum, impossible ones at both ends included."""
        sums = [sum(ranks) for ranks in itertools.product(*(range(1, n + 1) for n in n_wordings))]
        for rank_sum in range(-1, sum(n_wordings) + 3):
            expected = share([one <= rank_sum for one in sums])
            assert close(expected) == log10_rank_sum_p_value(rank_sum, n_wordings)

    @pytest.mark.parametrize(
        "n_wordings",
        [[16] * 200, [4] * 500, [16] * 250, [2, 3, 5, 16] * 60, [2] * 199 + [64]],
        ids=["16", "4", "16, down to 1e-301", "unequal", "one of many"],
    )
    def test_it_is_exact_for_many_rows(self, n_wordings):
        """Nine digits of the probability are right, from 1 down to that of all ranks 1."""
        n, n_ways = len(n_wordings), math.prod(n_wordings)
        tails = list(itertools.accumulate(rank_sum_counts(n_wordings)))
        steps = {0, 1, 2, 3, 7, *range(0, len(tails), len(tails) // 23), len(tails) - 2, len(tails) - 1}
        assert n_ways == tails[-1]
        for step in sorted(steps):
            assert close(Fraction(tails[step], n_ways)) == log10_rank_sum_p_value(n + step, n_wordings)

    @pytest.mark.parametrize(("n", "d"), [(250, 16), (400, 16), (1000, 4)])
    def test_it_is_exact_near_the_least_floats(self, n, d):
        """The sums whose probability is next to 1e-300, and those where plain floats are all 0."""
        tails = list(itertools.accumulate(rank_sum_counts([d] * n)))
        for exponent in (300, 307, 320):
            step = next(i for i, ways in enumerate(tails) if ways * 10**exponent >= d**n)
            for i in (max(0, step - 1), step):
                assert close(Fraction(tails[i], d**n)) == log10_rank_sum_p_value(n + i, [d] * n)

    @LAWS
    @given(n_wordings=row_sizes, data=st.data())
    def test_larger_sums_are_never_less_likely(self, n_wordings, data):
        """It grows from 0 to 1, but for rounding."""
        rank_sum = data.draw(st.integers(0, sum(n_wordings)))
        lower, upper = (log10_rank_sum_p_value(some, n_wordings) for some in (rank_sum, rank_sum + 1))

        assert lower <= upper + 1e-12
        assert lower <= 0.0
        assert upper <= 0.0

    @LAWS
    @given(n_wordings=row_sizes, data=st.data(), rng=st.randoms())
    def test_the_order_of_the_rows_is_irrelevant(self, n_wordings, data, rng):
        """Listed in another order, not a digit changes."""
        rank_sum = data.draw(st.integers(0, sum(n_wordings)))
        shuffled = rng.sample(n_wordings, len(n_wordings))

        assert log10_rank_sum_p_value(rank_sum, n_wordings) == log10_rank_sum_p_value(rank_sum, shuffled)

    @LAWS
    @given(n=st.integers(1, 600), data=st.data())
    def test_of_two_wordings_ranks_are_hits(self, n, data):
        """Where a rank is 1 or 2, its sum is 2 n less the hits, so the two tests are one."""
        n_hits = data.draw(st.integers(0, n))
        by_hits = log10_hits_p_value(n_hits, [2] * n)

        assert pytest.approx(by_hits, rel=0, abs=LOG10_TOLERANCE) == log10_rank_sum_p_value(2 * n - n_hits, [2] * n)

    def test_no_rows_prove_nothing(self):
        """Of no rows the sum is 0, certainly."""
        assert 0.0 == log10_rank_sum_p_value(0, [])


def chance_of(pattern: Sequence[bool], n_wordings: Sequence[int]) -> Fraction:
    """Return the chance under H0 that just these rows are hit."""
    return math.prod(
        (Fraction(1, n) if hit else 1 - Fraction(1, n) for hit, n in zip(pattern, n_wordings, strict=True)),
        start=Fraction(1),
    )


class TestEValue:
    """Bets on hits, row by row."""

    @pytest.mark.parametrize("n_wordings", [*SMALL_ROWS, (4,) * 9, (2, 3, 4, 16, 2, 3, 4, 16)], ids=str)
    def test_its_mean_is_one_over_all_patterns(self, n_wordings):
        """Every pattern of hits, weighed by its exact chance."""
        patterns = list(itertools.product((False, True), repeat=len(n_wordings)))
        mean = math.fsum(
            float(chance_of(pattern, n_wordings)) * 10 ** log10_preference_e_value(pattern, n_wordings)
            for pattern in patterns
        )

        assert pytest.approx(1.0, abs=1e-13) == mean

    @LAWS
    @given(rows=st.lists(st.tuples(st.booleans(), st.integers(2, 40)), max_size=40), n=st.integers(2, 40))
    def test_each_row_is_a_fair_bet(self, rows, n):
        """Whatever came before, one row more leaves its mean as it is: so it may be stopped at any time."""
        hits, n_wordings = [hit for hit, _ in rows], [size for _, size in rows]
        now = 10 ** log10_preference_e_value(hits, n_wordings)
        hit, miss = (10 ** log10_preference_e_value([*hits, one], [*n_wordings, n]) for one in (True, False))

        assert pytest.approx(now, rel=1e-11) == hit / n + miss * (n - 1) / n

    @LAWS
    @given(rows=st.lists(st.tuples(st.booleans(), st.integers(2, 40)), max_size=60), rng=st.randoms())
    def test_the_order_of_the_rows_is_irrelevant(self, rows, rng):
        """Listed in another order, not a digit changes."""
        shuffled = rng.sample(rows, len(rows))

        assert e_value_of(rows) == e_value_of(shuffled)

    @LAWS
    @given(rows=st.lists(st.tuples(st.booleans(), st.integers(2, 40)), min_size=1, max_size=60), data=st.data())
    def test_one_hit_more_never_lowers_it(self, rows, data):
        """Nor does a hit of a row that has more wordings."""
        i = data.draw(st.integers(0, len(rows) - 1))
        size = rows[i][1]
        missed, hit, rarer = (
            [*rows[:i], one, *rows[i + 1 :]] for one in ((False, size), (True, size), (True, size + 1))
        )

        assert e_value_of(missed) <= e_value_of(hit) <= e_value_of(rarer)

    def test_it_starts_at_one_and_grows_without_end(self):
        """No rows say nothing; a thousand hits of sixteen wordings are beyond all floats, and a thousand misses far below."""
        assert pytest.approx(0.0, abs=1e-15) == log10_preference_e_value([], [])
        assert log10_preference_e_value([True] * 1000, [16] * 1000) > 1100
        assert -20 < log10_preference_e_value([False] * 1000, [16] * 1000) < -8

    def test_two_lengths_are_refused(self):
        """Each row has its wordings."""
        with pytest.raises(ValueError, match="must be equally many, got 1 and 2"):
            log10_preference_e_value([True], [4, 4])


def e_value_of(rows: Sequence[tuple[bool, int]]) -> float:
    """Return the e-value of rows as (hit, wordings)."""
    return log10_preference_e_value([hit for hit, _ in rows], [n for _, n in rows])


@pytest.mark.parametrize("n_wordings", [[1], [4, 1, 4], [4, 0], [-2]], ids=str)
def test_a_row_without_a_choice_is_refused(n_wordings):
    """One wording is no choice: whoever counts it counts wrongly."""
    n = len(n_wordings)
    calls = [
        lambda: log10_hits_p_value(1, n_wordings),
        lambda: log10_rank_sum_p_value(n, n_wordings),
        lambda: log10_preference_e_value([True] * n, n_wordings),
        lambda: preference_coverage(n_hits=1, n_wordings=n_wordings, n_carrying=9, confidence=0.9),
        lambda: preference_coverage_skipping(n_hits=1, n_wordings=n_wordings, n_carrying=9, confidence=0.9),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="at least 2 wordings"):
            call()


@cache
def binomial_law(n: int, p: Fraction) -> list[Fraction]:
    """Return P(X = k) for k = 0 ... n."""
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@cache
def asked_law(n_carrying: int, n_marked: int, n_asked: int) -> list[Fraction]:
    """Return P(k marked rows are among those asked) for k = 0 ... n_asked."""
    ways = math.comb(n_carrying, n_asked)
    return [
        Fraction(math.comb(n_marked, k) * math.comb(n_carrying - n_marked, n_asked - k), ways)
        for k in range(n_asked + 1)
    ]


def blind_tail(n_hits: int, n_wordings: Sequence[int], n_carrying: int, n_used: int) -> Fraction:
    """Return the largest chance of so many hits, of all providers that choose *n_used* rows blindly."""
    n_asked, p = len(n_wordings), Fraction(1, min(n_wordings))
    return sum(
        (
            chance * sum(binomial_law(n_asked - n_used_asked, p)[max(0, n_hits - n_used_asked) :])
            for n_used_asked, chance in enumerate(asked_law(n_carrying, n_used, n_asked))
        ),
        start=Fraction(0),
    )


def skipping_tail(n_hits: int, n_wordings: Sequence[int], n_carrying: int, n_used: int) -> Fraction:
    """Return the bound on the chance of so many hits, of all providers that use *n_used* rows and skip what they guess."""
    chance = sum(
        probability * sum(asked_law(n_carrying, min(n_carrying, n_used + n_guessed), len(n_wordings))[n_hits:])
        for n_guessed, probability in enumerate(binomial_law(n_carrying, Fraction(1, min(n_wordings))))
    )
    return max(n_wordings) * chance


def least_share(tail, n_hits, n_wordings, n_carrying, confidence) -> float:
    """Return the least share at which so many hits are likelier than 1 - *confidence*."""
    likely = (n_used for n_used in range(n_carrying) if tail(n_hits, n_wordings, n_carrying, n_used) > 1 - confidence)
    return next(likely, n_carrying) / n_carrying


BOUNDS = {"blind": (preference_coverage, blind_tail), "skipping": (preference_coverage_skipping, skipping_tail)}
ROWS_ASKED = [(2,), (2, 2), (4, 4, 4), (2, 3, 4), (3, 3, 3, 3), (2,) * 6, (16, 4, 4, 16, 16), (4,) * 12, (16,) * 11]


@pytest.mark.parametrize("which", BOUNDS)
class TestCoverage:
    """How many of the carrying rows must have been used."""

    @pytest.mark.parametrize("n_wordings", ROWS_ASKED, ids=str)
    @pytest.mark.parametrize("n_more", [0, 1, 5, 20])
    def test_it_is_the_least_share_that_exact_fractions_leave(self, which, n_wordings, n_more):
        """Asked about all carrying rows, and about a sample of them: every count, at every confidence."""
        bound, tail = BOUNDS[which]
        n_carrying = len(n_wordings) + n_more
        for confidence, n_hits in itertools.product(CONFIDENCES, range(1, len(n_wordings) + 1)):
            expected = least_share(tail, n_hits, n_wordings, n_carrying, confidence)
            actual = bound(n_hits=n_hits, n_wordings=n_wordings, n_carrying=n_carrying, confidence=float(confidence))
            assert expected == actual, (n_hits, confidence)

    def test_it_is_exact_for_a_small_sample_of_many_rows(self, which):
        """Twenty rows asked of five thousand, hits from a fourth of them on."""
        bound, tail = BOUNDS[which]
        n_wordings, n_carrying = [4] * 20, 5000
        for n_hits in (8, 14, 19, 20):
            share_used = bound(n_hits=n_hits, n_wordings=n_wordings, n_carrying=n_carrying, confidence=0.99)
            n_used = round(share_used * n_carrying)
            assert tail_of_many(tail, n_hits, n_wordings, n_carrying, n_used) > 0.01
            assert n_used == 0 or tail_of_many(tail, n_hits, n_wordings, n_carrying, n_used - 1) <= 0.01

    @LAWS
    @given(data=st.data(), n_wordings=row_sizes, n_more=st.integers(0, 60), confidence=confidences)
    def test_more_hits_never_prove_less(self, which, data, n_wordings, n_more, confidence):
        """It grows in the count, in whole rows, and is a share."""
        bound, _ = BOUNDS[which]
        n_carrying = len(n_wordings) + n_more
        n_hits = data.draw(st.integers(0, len(n_wordings) - 1))
        fewer, more = (
            bound(n_hits=n, n_wordings=n_wordings, n_carrying=n_carrying, confidence=confidence)
            for n in (n_hits, n_hits + 1)
        )

        assert 0.0 <= fewer <= more <= 1.0
        assert pytest.approx(round(more * n_carrying)) == more * n_carrying

    @LAWS
    @given(data=st.data(), n_wordings=row_sizes, n_more=st.integers(0, 60), some=st.tuples(confidences, confidences))
    def test_more_confidence_never_proves_more(self, which, data, n_wordings, n_more, some):
        """It falls in the confidence."""
        bound, _ = BOUNDS[which]
        n_hits = data.draw(st.integers(0, len(n_wordings)))
        less, more = (
            bound(n_hits=n_hits, n_wordings=n_wordings, n_carrying=len(n_wordings) + n_more, confidence=confidence)
            for confidence in sorted(some)
        )

        assert more <= less

    @LAWS
    @given(n_wordings=st.lists(st.integers(2, 20), max_size=30), n_more=st.integers(0, 60), confidence=confidences)
    def test_no_hits_prove_nothing(self, which, n_wordings, n_more, confidence):
        """0 of any rows, of none as well, is a share of 0."""
        bound, _ = BOUNDS[which]

        assert 0.0 == bound(n_hits=0, n_wordings=n_wordings, n_carrying=len(n_wordings) + n_more, confidence=confidence)

    @pytest.mark.parametrize(
        ("n_hits", "n_wordings", "n_carrying", "confidence"),
        [
            (4, [4] * 3, 9, 0.9),
            (-1, [4] * 3, 9, 0.9),
            (1, [4] * 3, 2, 0.9),
            (1, [], 9, 0.9),
            (1, [4] * 3, 9, 0.0),
            (1, [4] * 3, 9, 1.0),
            (0, [4] * 3, 9, 1.5),
            (0, [4] * 3, 9, math.nan),
        ],
    )
    def test_illegal_arguments_are_refused(self, which, n_hits, n_wordings, n_carrying, confidence):
        """More hits than rows, more rows than carry, and confidences outside (0, 1), are errors."""
        bound, _ = BOUNDS[which]
        with pytest.raises(ValueError, match="must"):
            bound(n_hits=n_hits, n_wordings=n_wordings, n_carrying=n_carrying, confidence=confidence)


def tail_of_many(tail, n_hits, n_wordings, n_carrying, n_used) -> float:
    """Return *tail* where Fractions of all terms would take minutes: the same sums, in mpmath."""
    if tail is blind_tail:
        return float(blind_tail(n_hits, n_wordings, n_carrying, n_used))
    n_asked, least = len(n_wordings), min(n_wordings)
    with mp.workdps(40):
        ways = mp.binomial(n_carrying, n_asked)
        chance, total = (1 - mpf(1) / least) ** n_carrying, mpf(0)
        for n_guessed in range(n_carrying + 1):
            n_marked = min(n_carrying, n_used + n_guessed)
            total += chance * sum(
                math.comb(n_marked, k) * math.comb(n_carrying - n_marked, n_asked - k)
                for k in range(n_hits, n_asked + 1)
            )
            chance *= mpf(n_carrying - n_guessed) / ((n_guessed + 1) * (least - 1))
        return float(max(n_wordings) * total / ways)


@pytest.mark.parametrize(("n_wordings", "n_carrying"), [((2, 2), 4), ((3, 3, 3), 3), ((2, 2, 2), 5), ((3, 3), 5)])
def test_the_tails_are_what_providers_attain(n_wordings, n_carrying):
    """
    All samples that may be asked and all choices that may be published, gone through.

    One provider uses the first rows; the other the first of those that publish something else than wording 0. Neither
    suspect prefers anything but wording 0 in rows that were not used. The second bound charges D on top.
    """
    n_asked, d = len(n_wordings), n_wordings[0]
    outcomes = [
        (set(asked), {row for row in range(n_carrying) if choice[row] == 0})
        for asked in itertools.combinations(range(n_carrying), n_asked)
        for choice in itertools.product(range(d), repeat=n_carrying)
    ]
    for n_used, n_hits in itertools.product(range(n_carrying + 1), range(1, n_asked + 1)):
        blind, skipping = [], []
        for asked, guessed in outcomes:
            unguessed = [row for row in range(n_carrying) if row not in guessed]
            blind.append(len(asked & (guessed | set(range(n_used)))) >= n_hits)
            skipping.append(len(asked & (guessed | set(unguessed[:n_used]))) >= n_hits)
        assert share(blind) == blind_tail(n_hits, n_wordings, n_carrying, n_used)
        assert d * share(skipping) == skipping_tail(n_hits, n_wordings, n_carrying, n_used)


@LAWS
@given(data=st.data(), n_wordings=row_sizes, n_more=st.integers(0, 60), confidence=confidences)
def test_who_may_skip_is_never_shown_to_have_used_more(data, n_wordings, n_more, confidence):
    """A provider that chooses blindly is one that may skip, so the second bound is never above the first."""
    given_hits = {
        "n_hits": data.draw(st.integers(0, len(n_wordings))),
        "n_wordings": n_wordings,
        "n_carrying": len(n_wordings) + n_more,
        "confidence": confidence,
    }

    assert preference_coverage_skipping(**given_hits) <= preference_coverage(**given_hits)


@pytest.mark.parametrize(
    ("n_hits", "skipping", "blind"), [(128, 0.640625, 0.9765625), (71, 0.1953125, 0.3046875)], ids=["all", "measured"]
)
def test_the_numbers_of_the_design(n_hits, skipping, blind):
    """Of 128 rows of four wordings at 99 %; DESIGN's 66 % and 21 % leave out the charge of four constant guesses."""
    found = {"n_hits": n_hits, "n_wordings": [4] * 128, "n_carrying": 128, "confidence": 0.99}

    assert skipping == preference_coverage_skipping(**found)
    assert blind == preference_coverage(**found)


def test_of_very_many_rows_the_skipping_bound_is_a_little_lower_and_never_higher(monkeypatch):
    """Counts that are walked in steps stand under the largest of each step: less than a step of rows is lost."""
    arguments = {"n_hits": 150, "n_wordings": [8] * 200, "n_carrying": 40_000, "confidence": 0.99}
    in_steps = preference_coverage_skipping(**arguments)
    monkeypatch.setattr("vtuned.stats.preference._COUNTED_SINGLY", 10**9)
    singly = preference_coverage_skipping(**arguments)

    assert 0 < singly - in_steps <= 5 / 40_000
