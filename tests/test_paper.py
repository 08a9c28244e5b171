"""
Numbers of the paper, each with its section.

Where the paper's text and its numbers differ, both readings are pinned.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

import pytest

from vtuned.stats import (
    log10_guess_bound,
    log10_hypergeometric_tail,
    log10_paper_p_value,
    required_activations,
)

LOG10_P_UPPER = -40.0
RATIO = Fraction("0.10")
ONE_PERCENT, HALF, NINETY_NINE_PERCENT = Fraction("0.01"), Fraction("0.5"), Fraction("0.99")


def exact_hypergeometric_tail(required: int, n_train: int, n_backdoors: int, n_subset: int) -> Fraction:
    """Return P(B >= required) of section 6.1, mended, in whole numbers."""
    ways = sum(
        math.comb(n_backdoors, k) * math.comb(n_train - n_backdoors, n_subset - k)
        for k in range(required, min(n_backdoors, n_subset) + 1)
    )
    return Fraction(ways, math.comb(n_train, n_subset))


def least_subset(required: int, n_train: int, n_backdoors: int, chance: Fraction) -> int:
    """Return the least number of rows that holds *required* planted ones with at least this chance."""
    return bisect_left(
        range(n_train + 1),
        math.log10(chance),
        key=lambda n_subset: log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset),
    )


def exact_log10_binomial_tail(required: int, n: int) -> float:
    """Return log10 of the right-hand side of Eq. 1 for p_upper = 10**-40, summed in whole numbers."""
    one = 10**40
    return math.log10(sum(math.comb(n, k) * (one - 1) ** (n - k) for k in range(required, n + 1))) - 40 * n


class TestEquation1:
    """Section 4.2, Eq. 1, with the settings of section 5: r = 10 %, N = 0.5 % of |D|, p_upper about 10**-40."""

    @pytest.mark.parametrize(
        ("n_rows", "n_backdoors", "required"),
        [(7_200, 36, 4), (87_400, 437, 44)],
        ids=["smallest data set", "largest data set"],
    )
    def test_the_data_sets_of_section_5(self, n_rows, n_backdoors, required):
        """Section 5: 7,200 to 87,400 rows, N = 0.5 %, r = 10 %: 4 of 36 to 44 of 437 signatures."""
        exact = exact_log10_binomial_tail(required, n_backdoors)

        assert n_backdoors == Fraction("0.005") * n_rows
        assert required == required_activations(RATIO, n_backdoors)
        assert pytest.approx(exact, abs=1e-10) == log10_paper_p_value(required, n_backdoors, LOG10_P_UPPER)

    @pytest.mark.parametrize("n", [7, 8, 10], ids=["N rounded down", "N rounded up", "n = 10 prompts"])
    def test_ten_percent_of_at_most_ten_is_one_signature(self, n):
        """
        Sections 4.2 and 5.3: 1,500 rows give N = 7.5, and n = 10 prompts suffice.

        With r = 10 % one signature passes, and Eq. 1 is n * p_upper: the paper's "p-values of ~10**-40".
        """
        required = required_activations(RATIO, n)

        assert 1 == required
        assert pytest.approx(math.log10(n) - 40, abs=1e-10) == log10_paper_p_value(required, n, LOG10_P_UPPER)

    def test_full_activation_of_ten_prompts(self):
        """Section 5.3: all signatures found. Eq. 1 for 10 of 10 would be 10**-400; for one guess it is 10**-40."""
        assert -400.0 == log10_paper_p_value(10, 10, LOG10_P_UPPER)
        assert -40.0 == log10_guess_bound(10, 10, LOG10_P_UPPER)

    def test_one_signature_of_ten_is_the_same_in_both_readings(self):
        """Eq. 1 holds at rN = 1, where dependence does not matter: n * p_upper bounds both."""
        expected = log10_guess_bound(10, 1, LOG10_P_UPPER)

        assert -39.0 == expected
        assert pytest.approx(expected, abs=1e-10) == log10_paper_p_value(1, 10, LOG10_P_UPPER)

    def test_seven_of_fifty_is_fourteen_percent(self):
        """Section 4.2, rN: floats make 0.14 * 50 need 8 signatures; as a Fraction it is 7."""
        assert 8 == math.ceil(0.14 * 50)
        assert 7 == required_activations(Fraction("0.14"), 50)


class TestSection61:
    """Section 6.1: a provider that trains on a random subset."""

    @pytest.mark.parametrize(
        ("n_train", "n_backdoors", "required", "chance", "percent"),
        [
            pytest.param(100, 6, 3, ONE_PERCENT, "10", id="K=100, B >= rN, 1 %"),
            pytest.param(100, 6, 3, HALF, "43", id="K=100, B >= rN, 50 %"),
            pytest.param(10_000, 50, 25, ONE_PERCENT, "33.2", id="K=10000, B >= rN, 1 %"),
            pytest.param(10_000, 50, 25, HALF, "49.0", id="K=10000, B >= rN, 50 %"),
            pytest.param(100, 6, 4, ONE_PERCENT, "19", id="K=100, B > rN, 1 % (the paper's 19 %)"),
            pytest.param(100, 6, 4, HALF, "58", id="K=100, B > rN, 50 % (the paper's 58 %)"),
            pytest.param(10_000, 50, 26, ONE_PERCENT, "35.0", id="K=10000, B > rN, 1 % (the paper's 35 %)"),
            pytest.param(10_000, 50, 26, HALF, "51.0", id="K=10000, B > rN, 50 % (the paper's 51 %)"),
            pytest.param(10_000, 50, 5, ONE_PERCENT, "2.65", id="r = 10 %, 1 %"),
            pytest.param(10_000, 50, 5, HALF, "9.3", id="r = 10 %, 50 %"),
            pytest.param(10_000, 50, 5, NINETY_NINE_PERCENT, "21.5", id="r = 10 %, 99 %"),
        ],
    )
    def test_least_subset(self, n_train, n_backdoors, required, chance, percent):
        """
        The share of the rows that a cheat must train on for such a chance to hold enough planted rows.

        The formula says B >= rN; the illustrations (19 % and 58 %, 35 % and 51 %) are those of B > rN; the experiments
        use r = 10 %, not the illustrated r = 0.5. That the subset is the least one is checked in whole numbers.
        """
        n_subset = least_subset(required, n_train, n_backdoors, chance)
        one_row_fewer = exact_hypergeometric_tail(required, n_train, n_backdoors, n_subset - 1)
        n_decimals = len(percent.partition(".")[2])

        assert one_row_fewer < chance <= exact_hypergeometric_tail(required, n_train, n_backdoors, n_subset)
        assert Fraction(percent) == round(Fraction(100 * n_subset, n_train), n_decimals)

    def test_half_of_the_backdoors_in_both_readings(self):
        """With r = 0.5, at least rN is 3 of 6 and 25 of 50; more than rN is one more."""
        assert 3 == required_activations(Fraction("0.5"), 6)
        assert 25 == required_activations(Fraction("0.5"), 50)

    def test_the_chances_at_the_papers_subsets(self):
        """With 19 % of 100 rows the chance of at least 3 of 6 is 8 %, not 1 %; with 58 % it is 79 %, not 50 %."""
        chances = [10 ** log10_hypergeometric_tail(3, 100, 6, n_subset) for n_subset in (19, 58)]

        assert pytest.approx([0.08, 0.79], abs=0.01) == chances

    def test_the_printed_sign_gives_no_probability(self):
        """As printed, with K_subset + k, the terms add up to more than 1; with K_subset - k all of them to 1."""
        printed = Fraction(sum(math.comb(6, k) * math.comb(94, 10 + k) for k in range(3, 11)), math.comb(100, 10))

        assert printed > 1
        assert 1 == exact_hypergeometric_tail(0, 100, 6, 10)
