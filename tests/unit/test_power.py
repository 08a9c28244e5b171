"""
What a plan can promise, against all outcomes and all subsets of small cases.

And against the other tails of the package, and by laws that hold for all arguments.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from vtuned.stats import (
    log10_coverage_tail,
    log10_hypergeometric_tail,
    probability_at_most,
    smallest_passing_share,
    subset_pass_probability,
)

LAWS = settings(max_examples=60, deadline=None, derandomize=True)
RATES = (Fraction(1, 1000), Fraction(1, 2), Fraction(9, 10), Fraction(0), Fraction(1), Fraction(1, 3))
SMALL_PLANTINGS = [(1,), (3,), (1, 2), (2, 2), (1, 1, 1), (2, 1, 3), (4, 2), (1, 1, 2, 2)]

probabilities = st.floats(min_value=0.0, max_value=1.0)
plantings = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@cache
def exact_pass(copies: tuple[int, ...], n_train: int, n_subset: int, required: int, n_needed: int | None) -> Fraction:
    """Return the share of all subsets that pass; with *n_needed* None captured rows are counted, not backdoors."""
    planted = [j for j, n in enumerate(copies) for _ in range(n)]
    rows = planted + [None] * (n_train - len(planted))
    subsets = list(itertools.combinations(rows, n_subset))
    n_passing = 0
    for subset in subsets:
        captured = [subset.count(j) for j in range(len(copies))]
        n_active = sum(captured) if n_needed is None else sum(n >= n_needed for n in captured)
        n_passing += n_active >= required
    return Fraction(n_passing, len(subsets))


def mpmath_pass(copies, n_train: int, n_subset: int, required: int, n_needed: int) -> mpf:
    """Return the probability that *required* backdoors have *n_needed* rows in the subset, from whole numbers."""
    table = {(0, 0): 1}
    for n in copies:
        grown: dict[tuple[int, int], int] = {}
        for ((b, k), ways), i in itertools.product(table.items(), range(n + 1)):
            key = (b + i, k + (i >= n_needed))
            grown[key] = grown.get(key, 0) + ways * math.comb(n, i)
        table = grown
    n_clean = n_train - sum(copies)
    with mp.workdps(60):

        def ln_choose(n: int, k: int) -> mpf:
            return mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)

        return mp.fsum(
            ways * mp.exp(ln_choose(n_clean, n_subset - b) - ln_choose(n_train, n_subset))
            for (b, k), ways in table.items()
            if k >= required and 0 <= n_subset - b <= n_clean
        )


class TestProbabilityAtMost:
    """How likely an honest provider shows so few passes."""

    @pytest.mark.parametrize("m", range(7))
    def test_agrees_with_all_outcomes_of_small_cases(self, m):
        """Going through all outcomes of unequal backdoors gives the same probability for every count."""
        for n_passed in range(-1, m + 2):
            expected = sum(
                math.prod(p if hit else 1 - p for hit, p in zip(outcome, RATES, strict=False))
                for outcome in itertools.product((False, True), repeat=m)
                if sum(outcome) <= n_passed
            )
            actual = probability_at_most(n_passed, [float(p) for p in RATES[:m]])
            assert pytest.approx(float(expected), rel=1e-10, abs=0.0) == actual

    @LAWS
    @given(ps=st.lists(probabilities, max_size=20), n_passed=st.integers(-1, 21))
    def test_few_passes_and_few_failures_add_up_to_one(self, ps, n_passed):
        """At most n pass, or at most m - n - 1 fail: exactly one of them happens."""
        few_passes = probability_at_most(n_passed, ps)
        few_failures = probability_at_most(len(ps) - n_passed - 1, [1.0 - p for p in ps])

        assert pytest.approx(1.0, abs=1e-10) == few_passes + few_failures

    @LAWS
    @given(ps=st.lists(probabilities, min_size=1, max_size=20), n_passed=st.integers(0, 20), rng=st.randoms())
    def test_it_is_monotone_and_knows_no_order(self, ps, n_passed, rng):
        """More passes allowed never make it less likely, better backdoors never likelier, and order is nothing."""
        probability = probability_at_most(n_passed, ps)

        assert probability_at_most(n_passed - 1, ps) <= probability + 1e-12
        assert probability_at_most(n_passed, [math.sqrt(ps[0]), *ps[1:]]) <= probability + 1e-12
        assert probability_at_most(n_passed, rng.sample(ps, len(ps))) == probability

    def test_ends_are_exact(self):
        """All of them is the most that can pass, fewer than none never do, and sure backdoors all pass."""
        assert 1.0 == probability_at_most(2, [0.3, 0.4])
        assert 1.0 == probability_at_most(0, [])
        assert 0.0 == probability_at_most(-1, [0.3, 0.4])
        assert 0.0 == probability_at_most(1, [1.0, 1.0])
        assert pytest.approx(2.0**-100, rel=1e-12, abs=0.0) == probability_at_most(0, [1.0 - 2.0**-50] * 2)

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_illegal_probabilities_are_refused(self, p):
        """One number that is no probability among good ones is an error."""
        with pytest.raises(ValueError, match="must be between"):
            probability_at_most(1, [0.5, p])


class TestSubsetPassProbability:
    """The chance of a cheat who trains on a part."""

    @pytest.mark.parametrize("copies", SMALL_PLANTINGS, ids=str)
    @pytest.mark.parametrize("n_needed", [None, 1, 2, 3])
    def test_agrees_with_all_subsets_of_small_cases(self, copies, n_needed):
        """As the paper counts, and with one, two and three copies needed, for every size and count."""
        n_train = sum(copies) + 2
        for n_subset in range(n_train + 1):
            for required in range(sum(copies) + 2):
                actual = subset_pass_probability(
                    n_subset,
                    copies=copies,
                    n_train=n_train,
                    required=required,
                    n_needed=n_needed or 1,
                    trigger_generalises=n_needed is not None,
                )
                expected = exact_pass(copies, n_train, n_subset, required, n_needed)
                assert pytest.approx(float(expected), rel=1e-10, abs=0.0) == actual

    @pytest.mark.parametrize("n_subset", [10**3, 10**6, 4 * 10**8, 10**9 - 1])
    @pytest.mark.parametrize("n_needed", [1, 2, 3])
    @pytest.mark.parametrize("required", [1, 6, 12])
    def test_agrees_with_whole_numbers_on_large_cases(self, n_subset, n_needed, required):
        """Of 10**9 rows, with unequal copies, ten digits of the probability are right."""
        copies = (3, 4, 8) * 4
        expected = float(mpmath_pass(copies, 10**9, n_subset, required, n_needed))
        actual = subset_pass_probability(
            n_subset, copies=copies, n_train=10**9, required=required, n_needed=n_needed, trigger_generalises=True
        )

        assert pytest.approx(expected, rel=1e-10, abs=0.0) == actual

    @LAWS
    @given(data=st.data(), copies=plantings, n_clean=st.integers(0, 10**6), n_needed=st.integers(1, 4))
    def test_it_is_monotone(self, data, copies, n_clean, n_needed):
        """It grows with the subset, and falls in what is required and needed; order is nothing."""
        n_train = sum(copies) + n_clean
        n_subset, required = data.draw(st.integers(0, n_train - 1)), data.draw(st.integers(0, len(copies)))
        generalises = data.draw(st.booleans())

        def probability(size: int = n_subset, rows=copies, k: int = required, needed: int = n_needed) -> float:
            return subset_pass_probability(
                size, copies=rows, n_train=n_train, required=k, n_needed=needed, trigger_generalises=generalises
            )

        assert probability() <= probability(n_subset + 1) * (1 + 1e-10)
        assert probability(k=required + 1) <= probability() * (1 + 1e-10)
        assert probability(needed=n_needed + 1) <= probability() * (1 + 1e-10)
        assert probability(rows=copies[::-1]) == probability()

    def test_a_trigger_that_generalises_helps_the_cheat(self):
        """Half of the rows hold half of the planted ones, but one of four copies each nearly surely."""
        plan = {"copies": [4] * 16, "n_train": 10_000}
        as_counted = subset_pass_probability(4_000, **plan, required=32, trigger_generalises=False)
        as_it_is = subset_pass_probability(4_000, **plan, required=8, trigger_generalises=True)

        assert as_counted < 0.1
        assert as_it_is > 0.99

    def test_it_is_the_tail_that_coverage_inverts(self):
        """A cheat who learns all that it sees is the worst case of the coverage bound."""
        plan = {"copies": (1, 2, 4, 8) * 4, "n_train": 10_000}
        expected = 10 ** log10_coverage_tail(9, **plan, n_subset=2_000)
        actual = subset_pass_probability(2_000, **plan, required=9, trigger_generalises=True)

        assert pytest.approx(expected, rel=1e-10) == actual

    @pytest.mark.parametrize(
        ("n_subset", "copies", "n_needed"), [(-1, [1], 1), (6, [1], 1), (1, [0], 1), (1, [6], 1), (1, [1], 0)]
    )
    @pytest.mark.parametrize("generalises", [True, False])
    def test_illegal_arguments_are_refused(self, n_subset, copies, n_needed, generalises):
        """Subsets and backdoors beyond the training set, and no copies needed, are errors."""
        with pytest.raises(ValueError, match="must"):
            subset_pass_probability(
                n_subset, copies=copies, n_train=5, required=1, n_needed=n_needed, trigger_generalises=generalises
            )


class TestSmallestPassingShare:
    """How little a cheat can do with."""

    @pytest.mark.parametrize("copies", SMALL_PLANTINGS, ids=str)
    @pytest.mark.parametrize("n_needed", [None, 1, 2])
    @pytest.mark.parametrize("probability", ["1/20", "1/4", "1/2", "2/3", "99/100"])
    def test_it_is_the_least_that_passes_in_exact_fractions(self, copies, n_needed, probability):
        """Over all subsets of small sets, ties included: that share passes so often, one row fewer does not."""
        n_train = sum(copies) + 2
        most = sum(copies) if n_needed is None else sum(n >= n_needed for n in copies)
        for required in range(most + 1):
            expected = next(
                u
                for u in range(n_train + 1)
                if exact_pass(copies, n_train, u, required, n_needed) >= Fraction(probability)
            )
            share = smallest_passing_share(
                copies=copies,
                n_train=n_train,
                required=required,
                n_needed=n_needed or 1,
                trigger_generalises=n_needed is not None,
                probability=float(Fraction(probability)),
            )
            assert expected / n_train == share

    def test_it_is_the_papers_share_where_rows_are_counted(self):
        """Of 7,200 rows with 36 planted, the share that holds 18 with at least 1 %, and one row fewer does not."""
        share = smallest_passing_share(
            copies=[1] * 36, n_train=7_200, required=18, trigger_generalises=False, probability=0.01
        )
        n_subset = round(share * 7_200)

        assert log10_hypergeometric_tail(18, 7_200, 36, n_subset - 1) < -2.0
        assert log10_hypergeometric_tail(18, 7_200, 36, n_subset) >= -2.0

    @LAWS
    @given(
        data=st.data(),
        copies=plantings,
        n_clean=st.integers(0, 10**6),
        chances=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    )
    def test_it_is_monotone(self, data, copies, n_clean, chances):
        """A surer cheat, or one of whom more is asked, needs no fewer rows."""
        n_train = sum(copies) + n_clean
        required = data.draw(st.integers(0, len(copies) - 1))
        generalises = data.draw(st.booleans())
        low, high = sorted(chances)

        def share(k: int = required, probability: float = low) -> float:
            return smallest_passing_share(
                copies=copies, n_train=n_train, required=k, trigger_generalises=generalises, probability=probability
            )

        assert 0.0 <= share() <= share(probability=high) <= 1.0
        assert share() <= share(required + 1)

    @pytest.mark.parametrize(
        ("copies", "required", "n_needed", "generalises", "probability"),
        [
            ([1, 2], 3, 1, True, 0.5),
            ([1, 2], 2, 2, True, 0.5),
            ([1, 2], 4, 1, False, 0.5),
            ([1, 2], 1, 1, True, 0.0),
            ([1, 2], 1, 1, True, 1.0),
            ([1, 2], 1, 1, True, math.nan),
            ([1, 2], 1, 0, True, 0.5),
            ([1, 9], 1, 1, False, 0.5),
        ],
    )
    def test_illegal_arguments_are_refused(self, copies, required, n_needed, generalises, probability):
        """What not even the whole training set passes has no share, nor has a probability of 0 or 1."""
        with pytest.raises(ValueError, match="must"):
            smallest_passing_share(
                copies=copies,
                n_train=9,
                required=required,
                n_needed=n_needed,
                trigger_generalises=generalises,
                probability=probability,
            )
