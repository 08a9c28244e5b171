"""Held-out gain: all signs gone through, whole numbers, scipy, and laws that hold for all differences."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import stats as scipy_stats

from vtuned.stats import gain_upper_bound, log10_signed_rank_p_value, signed_rank_interval

# 5e-11 in log10 is 1.15e-10 of the probability.
LOG10_TOLERANCE = 5e-11
LAWS = settings(max_examples=80, deadline=None, derandomize=True)

small = st.lists(st.integers(-4, 4), max_size=9)
reals = st.lists(st.floats(-100, 100, allow_subnormal=False), max_size=30)
# Sixteenths: sums and margins are exact, and ties are common.
sixteenths = st.lists(st.integers(-64, 64).map(lambda k: k / 16), max_size=30)


def doubled_ranks(values):
    """Return twice the mid-rank of the size of each value, zeros included."""
    sizes = [abs(value) for value in values]
    return [2 * sum(other < size for other in sizes) + sizes.count(size) + 1 for size in sizes]


def sum_counts(values):
    """Return how many signs of the values that are not zero give each doubled rank sum, and the sum seen."""
    ranks = doubled_ranks(values)
    n_bytes = len(values) // 8 + 1
    # One whole number holds all counts, n_bytes each: adding a rank is a shift.
    packed = 1
    for rank, value in zip(ranks, values, strict=True):
        if value:
            packed += packed << 8 * n_bytes * rank
    raw = packed.to_bytes(n_bytes * (sum(ranks) + 1), "little")
    counts = [int.from_bytes(raw[i : i + n_bytes], "little") for i in range(0, len(raw), n_bytes)]
    return counts, sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)


def exact_p_value(values):
    """Return P(rank sum >= the one seen) over all signs, counted in whole numbers."""
    counts, seen = sum_counts(values)
    return Fraction(sum(counts[seen:]), sum(counts))


def log10_of(probability):
    """Return the log10 of an exact probability."""
    with mp.workdps(40):
        return float(mp.log10(mpf(probability.numerator) / probability.denominator))


def close(expected):
    """Match *expected* within the tolerance of a log10 probability."""
    return pytest.approx(expected, rel=1e-14, abs=LOG10_TOLERANCE)


def normal(n, shift, seed, digits=None):
    """Return *n* normal differences about *shift*, rounded to *digits*."""
    rng = random.Random(seed)
    values = [rng.gauss(shift, 1.0) for _ in range(n)]
    return values if digits is None else [round(value, digits) for value in values]


class TestSignedRankPValue:
    """The exact one-sided test."""

    def test_agrees_with_all_signs_of_small_cases(self):
        """With ties and zeros in every arrangement of up to five rows, it is the share of all signs, term by term."""
        for n in range(6):
            for values in itertools.combinations_with_replacement(range(-3, 4), n):
                ranks = doubled_ranks(values)
                seen = sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)
                sums = [
                    sum(rank for rank, value, up in zip(ranks, values, ups, strict=True) if up and value)
                    for ups in itertools.product((False, True), repeat=n)
                ]
                expected = Fraction(sum(total >= seen for total in sums), len(sums))
                assert close(log10_of(expected)) == log10_signed_rank_p_value(values)

    @pytest.mark.parametrize("shift", [-0.5, 0.0, 0.3, 1.0])
    @pytest.mark.parametrize("n", [1, 5, 20, 50])
    def test_agrees_with_scipy_without_ties(self, n, shift):
        """Where scipy has an exact answer, without ties, zeros and underflow, it is the same."""
        values = normal(n, shift, seed=n)
        expected = scipy_stats.wilcoxon(values, alternative="greater", method="exact").pvalue

        assert pytest.approx(math.log10(expected), abs=1e-9) == log10_signed_rank_p_value(values)

    @pytest.mark.parametrize("digits", [None, 2, 1, 0])
    @pytest.mark.parametrize(("n", "shift"), [(30, 1.0), (100, 0.5), (150, 3.0), (150, -0.3), (150, 0.0)])
    def test_agrees_with_whole_numbers(self, n, shift, digits):
        """From p near 1 down to 10**-45, with ties of all kinds, ten digits are right."""
        values = normal(n, shift, seed=n, digits=digits)

        assert close(log10_of(exact_p_value(values))) == log10_signed_rank_p_value(values)

    @pytest.mark.parametrize("n_below", [0, 1, 2, 3])
    def test_it_is_exact_far_below_the_least_float(self, n_below):
        """Of 1,500 rows all gain but the none to three smallest: 1, 2, 5 and 14 of 2**1500 signs are as good."""
        values = [-float(i) if i <= n_below else float(i) for i in range(1, 1501)]
        # Sets of distinct ranks with a sum of at most 0, 1, 3 and 6.
        n_ways = {0: 1, 1: 2, 2: 5, 3: 14}[n_below]

        assert close(math.log10(n_ways) - 1500 * math.log10(2)) == log10_signed_rank_p_value(values)

    def test_all_gains_alike_are_the_sign_test(self):
        """With one size there is nothing to rank: 10 gains and 90 rows that did not change are 2**-10."""
        assert close(-10 * math.log10(2)) == log10_signed_rank_p_value([1.0] * 10 + [0.0] * 90)
        assert close(math.log10(11 / 1024)) == log10_signed_rank_p_value([1.0] * 9 + [-1.0])

    def test_nothing_measured_and_nothing_gained_are_one(self):
        """Without rows, or where no row differs from the margin, p is 1."""
        assert 0.0 == log10_signed_rank_p_value([])
        assert 0.0 == log10_signed_rank_p_value([0.0] * 50)
        assert 0.0 == log10_signed_rank_p_value([0.3] * 50, margin=0.3)
        assert 0.0 == log10_signed_rank_p_value([-1.0, -2.0])

    def test_a_margin_is_taken_off_each_difference(self):
        """A gain of 3, 4 and 5 exceeds 2 and 5/2 on all rows, and 4 on one of the two that differ from it."""
        values = [3.0, 4.0, 5.0]

        assert close(math.log10(1 / 8)) == log10_signed_rank_p_value(values, margin=2.0)
        assert close(math.log10(1 / 8)) == log10_signed_rank_p_value(values, margin=2.5)
        assert close(math.log10(3 / 4)) == log10_signed_rank_p_value(values, margin=4.0)
        assert 0.0 == log10_signed_rank_p_value(values, margin=5.0)

    @pytest.mark.parametrize("law", [(3, 2, 1, 1, 1), (1, 1, 2, 1, 1), (4, 1, 0, 1, 2), (1, 5, 0, 5, 0)])
    def test_it_is_valid_where_a_gain_of_a_size_is_at_most_as_likely_as_a_loss_of_it(self, law):
        """Over all outcomes of four rows with such a law on -2 ... 2, P(p <= a) <= a for every a."""
        assert law[3] <= law[1]
        assert law[4] <= law[0]
        weights = {value: Fraction(weight, sum(law)) for value, weight in zip(range(-2, 3), law, strict=True)}
        chances: dict[float, Fraction] = {}
        for values in itertools.product(weights, repeat=4):
            p = round(log10_signed_rank_p_value(values), 9)
            chances[p] = chances.get(p, Fraction(0)) + math.prod(weights[value] for value in values)
        for p in chances:
            assert float(sum(chance for other, chance in chances.items() if other <= p)) <= 10**p * (1 + 1e-8)

    @pytest.mark.parametrize("centre", [0, -1, -2])
    def test_it_is_valid_for_symmetric_rows_with_one_centre_within_the_margin(self, centre):
        """Four rows that are each one of two, or of three, numbers about the centre, and no two alike."""
        rows = [(-3, 3), (-2, 0, 2), (-1, 1), (-3, 0, 3)]
        outcomes = [[centre + value for value in values] for values in itertools.product(*rows)]
        ps = [log10_signed_rank_p_value(values) for values in outcomes]
        for p in ps:
            assert sum(other <= p + 1e-9 for other in ps) / len(ps) <= 10**p * (1 + 1e-8)

    def test_a_larger_gain_of_one_row_may_make_other_ties(self):
        """In the margin it is monotone; in one row it need not be, where that row joins another in its rank."""
        assert close(math.log10(6 / 16)) == log10_signed_rank_p_value([-4, 1, 1, 2])
        assert close(math.log10(7 / 16)) == log10_signed_rank_p_value([-4, 1, 2, 2])

    @LAWS
    @given(values=small)
    def test_agrees_with_whole_numbers_at_random(self, values):
        """Small integers, mostly tied."""
        assert close(log10_of(exact_p_value(values))) == log10_signed_rank_p_value(values)

    @LAWS
    @given(values=sixteenths, margins=st.tuples(st.integers(-80, 80), st.integers(-80, 80)))
    def test_a_larger_margin_never_lowers_it(self, values, margins):
        """It rises with the margin, ties and zeros or not, but for rounding."""
        low, high = sorted(margin / 16 for margin in margins)

        assert log10_signed_rank_p_value(values, low) <= log10_signed_rank_p_value(values, high) + 1e-12

    @LAWS
    @given(values=reals.filter(lambda values: len({abs(v) for v in values} | {0.0}) == len(values) + 1), data=st.data())
    def test_a_larger_gain_never_raises_it_without_ties(self, values, data):
        """Where neither the old nor the new rows are tied, more gain on one row is never less evidence."""
        if not values:
            return
        i = data.draw(st.integers(0, len(values) - 1))
        more = [*values[:i], values[i] + data.draw(st.floats(0.001, 100)), *values[i + 1 :]]
        if len({abs(v) for v in more} | {0.0}) == len(more) + 1:
            assert log10_signed_rank_p_value(more) <= log10_signed_rank_p_value(values) + 1e-12

    @LAWS
    @given(values=reals, rng=st.randoms())
    def test_the_order_of_the_rows_is_irrelevant(self, values, rng):
        """The same rows in another order give the same digits."""
        shuffled = rng.sample(values, len(values))

        assert log10_signed_rank_p_value(values) == log10_signed_rank_p_value(shuffled)

    @LAWS
    @given(values=sixteenths)
    def test_gains_and_losses_overlap_in_what_was_seen(self, values):
        """The tails from both ends add up to 1 and the probability of exactly this sum."""
        counts, seen = sum_counts(values)
        both = 10 ** log10_signed_rank_p_value(values) + 10 ** log10_signed_rank_p_value([-v for v in values])

        assert pytest.approx(1 + counts[seen] / sum(counts), abs=1e-10) == both

    @pytest.mark.parametrize(("values", "margin"), [([math.nan], 0.0), ([1.0, math.inf], 0.0), ([1.0], math.nan)])
    def test_what_is_not_finite_is_refused(self, values, margin):
        """A loss that overflowed is no difference."""
        with pytest.raises(ValueError, match="must be finite"):
            log10_signed_rank_p_value(values, margin)


class TestInterval:
    """The exact interval of the centre."""

    def test_the_ends_are_the_walsh_averages_of_the_tables(self):
        """For ten rows at 95 % the tables have 8: at most 8 has probability 0.0244, so the ninth from either end."""
        values = normal(10, 0.4, seed=10)
        averages = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))

        assert (averages[8], averages[-9]) == signed_rank_interval(values, 0.95)

    @pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
    @pytest.mark.parametrize("n", [1, 4, 8, 13, 60])
    def test_it_holds_the_margins_that_the_test_does_not_reject(self, n, confidence):
        """Without ties it inverts the test: a margin is below it iff p is at most the miss of that side."""
        values = normal(n, 0.2, seed=n)
        lower, upper = signed_rank_interval(values, confidence)
        log10_miss = math.log10((1 - confidence) / 2)
        for margin in [*normal(40, 0.2, seed=99), lower - 1e-9, lower + 1e-9, upper - 1e-9, upper + 1e-9]:
            if math.isinf(margin):
                continue
            exceeds = log10_signed_rank_p_value(values, margin) <= log10_miss
            falls_short = log10_signed_rank_p_value([-v for v in values], -margin) <= log10_miss
            assert (margin < lower, upper < margin) == (exceeds, falls_short)

    @pytest.mark.parametrize("confidence", [0.5, 0.75, 0.875, 0.9])
    def test_it_covers_the_centre_of_rows_with_ties(self, confidence):
        """Over all outcomes of five rows on few numbers each, symmetric about 0, neither side misses too often."""
        rows = [(-1, 1), (-1, 0, 1), (-2, 2), (-1, 1), (-2, -1, 1, 2)]
        outcomes = list(itertools.product(*rows))
        intervals = [signed_rank_interval(values, confidence) for values in outcomes]
        most = (1 - confidence) / 2 * len(outcomes)

        assert sum(lower > 0 for lower, _ in intervals) <= most
        assert sum(upper < 0 for _, upper in intervals) <= most
        assert sum(gain_upper_bound(values, confidence) < 0 for values in outcomes) <= 2 * most

    def test_one_side_at_95_is_a_side_of_two_at_90(self):
        """The one-sided bound puts all of the doubt above."""
        values = normal(30, 0.5, seed=3)

        assert signed_rank_interval(values, 0.9)[1] == gain_upper_bound(values, 0.95)

    def test_too_few_rows_bound_nothing(self):
        """Four rows miss one side with 1/16 at best, so 95 % is out of reach; 15/16 is not."""
        values = [1.0, 2.0, 4.0, 8.0]

        assert (-math.inf, math.inf) == signed_rank_interval([])
        assert (-math.inf, math.inf) == signed_rank_interval(values)
        assert math.inf == gain_upper_bound(values, 0.95)
        assert 8.0 == gain_upper_bound(values, 15 / 16)
        assert (1.0, 8.0) == signed_rank_interval(values, 7 / 8)

    def test_all_rows_alike_leave_no_doubt(self):
        """A gain that is the same on every row is its own interval; large ones do not overflow."""
        assert (0.25, 0.25) == signed_rank_interval([0.25] * 20)
        assert (1.5e308, 1.5e308) == signed_rank_interval([1.5e308] * 20)

    @LAWS
    @given(values=sixteenths, shift=st.integers(-64, 64), confidence=st.floats(0.01, 0.999))
    def test_it_moves_with_the_rows(self, values, shift, confidence):
        """A shift of all rows shifts it, turning their signs turns it round, and the order is irrelevant."""
        lower, upper = signed_rank_interval(values, confidence)

        assert (lower + shift, upper + shift) == signed_rank_interval([v + shift for v in values], confidence)
        assert (-upper, -lower) == signed_rank_interval([-v for v in reversed(values)], confidence)

    @LAWS
    @given(values=reals, confidences=st.tuples(st.floats(0.01, 0.999), st.floats(0.01, 0.999)))
    def test_more_confidence_is_never_narrower(self, values, confidences):
        """The interval of less confidence lies within that of more, and so do the bounds."""
        low, high = sorted(confidences)
        inner, outer = signed_rank_interval(values, low), signed_rank_interval(values, high)

        assert outer[0] <= inner[0]
        assert inner[1] <= outer[1]
        assert gain_upper_bound(values, low) <= gain_upper_bound(values, high)

    @LAWS
    @given(values=reals.filter(bool), more=st.floats(0, 100), data=st.data())
    def test_a_larger_gain_of_one_row_never_lowers_it(self, values, more, data):
        """Both ends rise with every row."""
        i = data.draw(st.integers(0, len(values) - 1))
        raised = [*values[:i], values[i] + more, *values[i + 1 :]]

        assert signed_rank_interval(values, 0.8)[0] <= signed_rank_interval(raised, 0.8)[0]
        assert gain_upper_bound(values, 0.8) <= gain_upper_bound(raised, 0.8)

    @pytest.mark.parametrize("function", [signed_rank_interval, gain_upper_bound], ids=["interval", "bound"])
    @pytest.mark.parametrize("n", [1, 30])
    def test_illegal_arguments_are_refused(self, function, n):
        """Confidences outside (0, 1) and differences that are no numbers are errors, be the rows few or many."""
        for confidence in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="confidence must"):
                function([1.0] * n, confidence)
        with pytest.raises(ValueError, match="must be finite"):
            function([math.nan] * n)
