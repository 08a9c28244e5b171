"""The rank of a signature among its decoys: all orders gone through, exact levels, and laws."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtuned.stats import exposure_bits, exposure_level, log10_rank_p_value

LAWS = settings(max_examples=80, deadline=None, derandomize=True)
LEVELS = (
    Fraction(1, 100),
    Fraction(1, 20),
    Fraction(1, 5),
    Fraction(1, 4),
    Fraction(1, 3),
    Fraction(1, 2),
    Fraction(1),
)

levels = st.fractions(min_value=Fraction(1, 10**6), max_value=1)
decoys = st.integers(0, 10**6)


def ranks(n_decoys):
    """Return a strategy of (n_at_or_above, n_decoys)."""
    return st.tuples(st.integers(0, n_decoys), st.just(n_decoys))


class TestRankPValue:
    """(1 + n_at_or_above) / (n_decoys + 1)."""

    @pytest.mark.parametrize("n_decoys", range(5))
    def test_it_is_valid_for_every_score_with_ties(self, n_decoys):
        """Whatever the scores, one of D + 1 candidates taken at random has p <= a with probability at most a."""
        for scores in itertools.product(range(n_decoys + 1), repeat=n_decoys + 1):
            # Of other candidates than itself, each counts those that score no worse.
            n_above = [sum(other >= score for other in scores) - 1 for score in scores]
            ps = sorted(log10_rank_p_value(n, n_decoys) for n in n_above)
            shares = [Fraction(i, n_decoys + 1) for i in range(1, n_decoys + 2)]
            assert all(math.log10(share) <= p + 1e-15 for p, share in zip(ps, shares, strict=True))

    @pytest.mark.parametrize("n_decoys", [1, 2, 40, 999])
    def test_it_is_exact_without_ties(self, n_decoys):
        """Over all ranks it takes each multiple of 1 / (D + 1) once."""
        expected = [math.log10(Fraction(rank, n_decoys + 1)) for rank in range(1, n_decoys + 2)]

        assert pytest.approx(expected, abs=1e-14) == [log10_rank_p_value(n, n_decoys) for n in range(n_decoys + 1)]

    def test_a_constant_score_shows_nothing(self):
        """Where all decoys tie with the signature p is 1; without decoys it is 1 too."""
        assert 0.0 == log10_rank_p_value(40, 40)
        assert 0.0 == log10_rank_p_value(0, 0)

    def test_the_best_of_999_decoys_is_one_in_a_thousand(self):
        """The signature itself is counted, so p is never 0."""
        assert -3.0 == log10_rank_p_value(0, 999)

    @LAWS
    @given(rank=decoys.flatmap(ranks))
    def test_it_is_monotone_in_both(self, rank):
        """One more decoy above never lowers it; one more decoy below always does."""
        n_at_or_above, n_decoys = rank
        p = log10_rank_p_value(n_at_or_above, n_decoys)

        assert log10_rank_p_value(n_at_or_above, n_decoys + 1) < p <= 0.0
        assert p <= log10_rank_p_value(n_at_or_above + 1, n_decoys + 1)

    @LAWS
    @given(rank=decoys.flatmap(ranks))
    def test_the_ranks_from_above_and_below_overlap_in_the_signature(self, rank):
        """Without ties, the p-values from the two ends add up to 1 + 1 / (D + 1)."""
        n_at_or_above, n_decoys = rank
        both = 10 ** log10_rank_p_value(n_at_or_above, n_decoys)
        both += 10 ** log10_rank_p_value(n_decoys - n_at_or_above, n_decoys)

        assert pytest.approx(1 + 1 / (n_decoys + 1)) == both

    @pytest.mark.parametrize(("n_at_or_above", "n_decoys"), [(-1, 5), (6, 5), (0, -1)])
    @pytest.mark.parametrize("function", [log10_rank_p_value, exposure_bits], ids=["p-value", "bits"])
    def test_illegal_counts_are_refused(self, function, n_at_or_above, n_decoys):
        """More decoys above than there are, or a negative count, is an error."""
        with pytest.raises(ValueError, match="must not"):
            function(n_at_or_above, n_decoys)


class TestExposureBits:
    """Carlini's exposure."""

    def test_the_best_of_1023_decoys_has_ten_bits(self):
        """Exposure is log2 of the inverse rank; the last has none."""
        assert 10.0 == exposure_bits(0, 1023)
        assert 9.0 == exposure_bits(1, 1023)
        assert 0.0 == exposure_bits(1023, 1023)

    @LAWS
    @given(rank=decoys.flatmap(ranks))
    def test_it_says_the_same_as_the_p_value(self, rank):
        """Bits are -log2 of the p-value."""
        assert pytest.approx(-log10_rank_p_value(*rank) / math.log10(2), abs=1e-12) == exposure_bits(*rank)


class TestExposureLevel:
    """What a level really is."""

    @pytest.mark.parametrize("level", LEVELS, ids=str)
    @pytest.mark.parametrize("n_decoys", [0, 1, 3, 19, 40, 99])
    def test_it_is_the_chance_of_passing(self, level, n_decoys):
        """It is the share of ranks whose p-value is at most the level, counted in exact fractions."""
        n_passing = sum(Fraction(rank, n_decoys + 1) <= level for rank in range(1, n_decoys + 2))

        assert Fraction(n_passing, n_decoys + 1) == exposure_level(level, n_decoys)

    def test_forty_decoys_make_five_percent_two_in_forty_one(self):
        """No float in between: 1/20 of 40 is 2, of 41 still 2."""
        assert Fraction(2, 41) == exposure_level(Fraction(1, 20), 40)
        assert Fraction(1, 20) == exposure_level(Fraction(1, 20), 39)
        assert Fraction(3, 10) == exposure_level(Fraction("0.3"), 9)

    def test_too_few_decoys_leave_no_level(self):
        """With 18 decoys no rank reaches 1/20."""
        assert 0 == exposure_level(Fraction(1, 20), 18)

    @LAWS
    @given(levels=st.tuples(levels, levels), n_decoys=decoys)
    def test_it_is_never_above_the_level_and_less_than_one_rank_below(self, levels, n_decoys):
        """It rises with the level, stays within it, and falls short by less than 1 / (D + 1)."""
        low, high = sorted(levels)
        attained = exposure_level(low, n_decoys)

        assert attained <= exposure_level(high, n_decoys)
        assert low - Fraction(1, n_decoys + 1) < attained <= low

    @pytest.mark.parametrize(
        ("level", "n_decoys"), [(Fraction(0), 5), (Fraction(-1, 2), 5), (Fraction(11, 10), 5), (Fraction(1, 2), -1)]
    )
    def test_illegal_levels_are_refused(self, level, n_decoys):
        """A level outside (0, 1], or a negative count, is an error."""
        with pytest.raises(ValueError, match="must"):
            exposure_level(level, n_decoys)
