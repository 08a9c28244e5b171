"""
The numbers behind a verdict, against four oracles.

Enumeration in exact Fractions, scipy where it does not underflow, mpmath and whole numbers for the large and the
extreme, and laws that hold for all arguments.
"""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import stats as scipy_stats

import vtuned.stats
from vtuned.stats import (
    clopper_pearson,
    clopper_pearson_upper,
    log10_binomial_tail,
    log10_guess_bound,
    log10_hypergeometric_tail,
    log10_paper_p_value,
    log10_poisson_binomial_tail,
    required_activations,
)
from vtuned.stats.tails import _ln_factorial

# 5e-11 in log10 is 1.15e-10 of the probability. Below 10**-131072 a float does not have these digits, and two units
# in the last place are asked for.
LOG10_TOLERANCE = 5e-11
RATES = (Fraction(1, 1000), Fraction(1, 10), Fraction(1, 3), Fraction(1, 2), Fraction(9, 10), Fraction(999, 1000))
LAWS = settings(max_examples=80, deadline=None, derandomize=True)

counts = st.integers(min_value=0, max_value=300)
log10_probabilities = st.floats(min_value=-400.0, max_value=0.0) | st.floats(min_value=-2.0, max_value=0.0)


def close(expected: float) -> object:
    """Match *expected* within the tolerance of a log10 probability."""
    if math.isinf(expected):
        return expected
    return pytest.approx(expected, rel=0.0, abs=max(LOG10_TOLERANCE, 2.0 * math.ulp(expected)))


def log10_of(probability: Fraction) -> float:
    """Return the log10 of an exact probability."""
    if probability == 0:
        return -math.inf
    with mp.workdps(40):
        return float(mp.log10(mpf(probability.numerator) / probability.denominator))


def exact_tail(required: int, rates: Sequence[Fraction]) -> Fraction:
    """Return P(at least *required* successes), by going through all outcomes."""
    return sum(
        (
            math.prod((p if hit else 1 - p for hit, p in zip(outcome, rates, strict=True)), start=Fraction(1))
            for outcome in itertools.product((False, True), repeat=len(rates))
            if sum(outcome) >= required
        ),
        start=Fraction(0),
    )


def exact_share(n_train: int, n_subset: int, n_marked: int, wanted: range) -> Fraction:
    """Return the share of all subsets of the rows that hold a *wanted* number of the first *n_marked* ones."""
    subsets = list(itertools.combinations(range(n_train), n_subset))
    return Fraction(sum(sum(row < n_marked for row in subset) in wanted for subset in subsets), len(subsets))


def mpmath_binomial_tail(required: int, n: int, log10_p: float) -> float:
    """Return log10 P(X >= required), in whole numbers of 300 bits scaled from mpmath's logarithms of 60 digits."""
    with mp.workdps(60):
        p = mpf(10) ** mpf(log10_p)
        if required > n * p:
            return float(mp.log10(_mpmath_beyond_mean(required, n, p, 1 - p)))
        return float(mp.log1p(-_mpmath_beyond_mean(n - required + 1, n, 1 - p, p)) / mp.log(10))


def _mpmath_beyond_mean(required: int, n: int, p: mpf, q: mpf) -> mpf:
    ln_first = mp.loggamma(n + 1) - mp.loggamma(required + 1) - mp.loggamma(n - required + 1)
    ln_first += required * mp.log(p) + ((n - required) * mp.log(q) if n > required else 0)
    if required == n:
        return mp.exp(ln_first)
    bits = 300
    odds = int(mp.floor(p / q * mpf(2) ** bits))
    term = total = 1 << bits
    for k in range(required, n):
        term = (term * (n - k) * odds >> bits) // (k + 1)
        total += term
        if term < total >> 100:
            break
    return mp.exp(ln_first) * mpf(total) / mpf(2) ** bits


def random_large_cases(n_cases: int) -> list[tuple[int, int, float]]:
    """Return (required, n, log10_p) from ordinary to extreme; about a third lie within eight deviations of the mean."""
    rng = random.Random("vtuned.stats")
    cases = []
    for _ in range(n_cases):
        n = round(10 ** rng.uniform(0, 9))
        log10_p = -(10 ** rng.uniform(-3, math.log10(400)))
        mean = n * 10**log10_p
        deviation = math.sqrt(mean * max(0.0, 1 - 10**log10_p))
        required = rng.choice(
            [
                round(mean + deviation * rng.uniform(-8, 8)),
                rng.randint(1, n),
                round(10 ** rng.uniform(0, math.log10(n))),
            ]
        )
        cases.append((min(n, max(1, required)), n, log10_p))
    return cases


class TestBinomialTail:
    """P(X >= required) for equal, independent trials."""

    @pytest.mark.parametrize("rate", RATES, ids=str)
    def test_agrees_with_all_outcomes_of_small_cases(self, rate):
        """Going through all 2**n outcomes gives the same tail, for every n up to 7 and every count."""
        for n in range(8):
            for required in range(-1, n + 2):
                expected = log10_of(exact_tail(required, [rate] * n))
                assert close(expected) == log10_binomial_tail(required, n, math.log10(rate))

    @pytest.mark.parametrize(
        ("required", "n", "p"),
        [(1, 10, 1e-9), (5, 10, 0.005), (37, 64, 0.25), (40, 1000, 0.05), (480, 1000, 0.5), (999, 1000, 0.9)],
    )
    def test_agrees_with_scipy_where_scipy_does_not_underflow(self, required, n, p):
        """At everyday sizes scipy's survival function is the same number."""
        expected = scipy_stats.binom.logsf(required - 1, n, p) / math.log(10)

        assert close(expected) == log10_binomial_tail(required, n, math.log10(p))

    @pytest.mark.parametrize("case", random_large_cases(60), ids=str)
    def test_agrees_with_mpmath_on_large_and_extreme_cases(self, case):
        """From n = 1 to 10**9 and p down to 10**-400, ten digits of the probability are right."""
        assert close(mpmath_binomial_tail(*case)) == log10_binomial_tail(*case)

    @pytest.mark.parametrize(
        "case",
        [
            (1, 10**9, -400.0),
            (10, 10**9, -400.0),
            (10**8, 10**9, -400.0),
            (10**9, 10**9, -400.0),
            (500_050_000, 10**9, math.log10(0.5)),
            (499_950_000, 10**9, math.log10(0.5)),
            (1, 10**9, -9.0),
            (10**9 - 1, 10**9, -1e-12),
            (10**9, 10**9, -1e-300),
            (1, 1, -400.0),
        ],
        ids=str,
    )
    def test_agrees_with_mpmath_at_the_corners(self, case):
        """The largest n with the least p, the mean from both sides, and p next to 1 lose no digits."""
        assert close(mpmath_binomial_tail(*case)) == log10_binomial_tail(*case)

    def test_certain_and_impossible_counts_have_exact_values(self):
        """A count of none is certain, one beyond n or with p = 0 is impossible, and p = 1 reaches every count."""
        assert 0.0 == log10_binomial_tail(0, 5, -math.inf)
        assert 0.0 == log10_binomial_tail(-3, 5, -400.0)
        assert 0.0 == log10_binomial_tail(5, 5, 0.0)
        assert 0.0 == log10_binomial_tail(0, 0, -1.0)
        assert -math.inf == log10_binomial_tail(6, 5, 0.0)
        assert -math.inf == log10_binomial_tail(1, 5, -math.inf)
        assert -400.0 * 10**9 == log10_binomial_tail(10**9, 10**9, -400.0)

    def test_a_tail_next_to_one_keeps_the_digits_of_what_is_missing(self):
        """At least one of a hundred fair coins: what is missing from 1 is 2**-100, and not 0."""
        expected = math.log1p(-(2.0**-100)) / math.log(10)

        assert pytest.approx(expected, rel=1e-12, abs=0.0) == log10_binomial_tail(1, 100, math.log10(0.5))

    @pytest.mark.parametrize(("n", "log10_p"), [(-1, -1.0), (5, 0.1), (5, math.nan), (5, math.inf)])
    def test_illegal_arguments_are_refused(self, n, log10_p):
        """A negative n, or a log10 that is of no probability, is an error and never a number."""
        with pytest.raises(ValueError, match="must"):
            log10_binomial_tail(1, n, log10_p)

    @LAWS
    @given(required=counts, n=counts, log10_p=log10_probabilities)
    def test_more_required_is_never_likelier(self, required, n, log10_p):
        """The tail falls in the count required."""
        less, more = log10_binomial_tail(required, n, log10_p), log10_binomial_tail(required + 1, n, log10_p)

        assert more <= less <= 0.0

    @LAWS
    @given(required=counts, n=counts, log10_p=log10_probabilities)
    def test_more_trials_are_never_unlikelier(self, required, n, log10_p):
        """The tail grows with n, but for rounding."""
        tail = log10_binomial_tail(required, n, log10_p)

        assert tail <= log10_binomial_tail(required, n + 1, log10_p) + 1e-12

    @LAWS
    @given(required=counts, n=counts, log10_ps=st.tuples(log10_probabilities, log10_probabilities))
    def test_a_likelier_trial_makes_no_tail_unlikelier(self, required, n, log10_ps):
        """The tail grows with p, but for rounding."""
        low, high = (log10_binomial_tail(required, n, log10_p) for log10_p in sorted(log10_ps))

        assert low == -math.inf or low <= high + 1e-12 * max(1.0, -high)

    @LAWS
    @given(n=counts, log10_p=log10_probabilities)
    def test_at_least_none_is_certain(self, n, log10_p):
        """P(X >= 0) is 1, not nearly 1."""
        assert 0.0 == log10_binomial_tail(0, n, log10_p)

    @LAWS
    @given(required=counts, n=counts, p=st.floats(min_value=0.001, max_value=0.999))
    def test_hits_and_misses_add_up_to_one(self, required, n, p):
        """At least `required` hits, or at least n - required + 1 misses: exactly one of them happens."""
        hits = log10_binomial_tail(required, n, math.log10(p))
        misses = log10_binomial_tail(n - required + 1, n, math.log1p(-p) / math.log(10))

        assert pytest.approx(1.0, abs=1e-10) == 10**hits + 10**misses


class TestPoissonBinomialTail:
    """P(X >= required) for unequal, independent trials."""

    @pytest.mark.parametrize("m", range(7))
    def test_agrees_with_all_outcomes_of_small_cases(self, m):
        """Going through all 2**m outcomes of unequal trials gives the same tail for every count."""
        for required in range(-1, m + 2):
            expected = log10_of(exact_tail(required, RATES[:m]))
            assert close(expected) == log10_poisson_binomial_tail(required, [math.log10(rate) for rate in RATES[:m]])

    @pytest.mark.parametrize("required", [1, 3, 5, 8])
    def test_agrees_with_scipy_where_scipy_does_not_underflow(self, required):
        """For twenty trials scipy's survival function, a difference from 1, is the same number while above 1e-6."""
        ps = [0.9 / (i + 1) for i in range(20)]
        expected = math.log10(scipy_stats.poisson_binom.sf(required - 1, ps))

        assert pytest.approx(expected, abs=1e-9) == log10_poisson_binomial_tail(required, [math.log10(p) for p in ps])

    def test_agrees_with_exact_fractions_far_below_the_least_float(self):
        """Forty backdoors with bounds from 10**-10 to 10**-400 lose no digits."""
        exponents = [10 * (i + 1) for i in range(40)]
        pmf = [Fraction(1)]
        for exponent in exponents:
            p = Fraction(1, 10**exponent)
            pmf = [a * (1 - p) + b * p for a, b in zip([*pmf, Fraction(0)], [Fraction(0), *pmf], strict=True)]
        for required in range(1, 41):
            expected = log10_of(sum(pmf[required:], start=Fraction(0)))
            assert close(expected) == log10_poisson_binomial_tail(required, [-float(e) for e in exponents])

    @LAWS
    @given(required=st.integers(0, 60), m=st.integers(0, 60), log10_p=log10_probabilities)
    def test_equal_trials_are_binomial(self, required, m, log10_p):
        """Where all probabilities are equal, it is the binomial tail."""
        expected = log10_binomial_tail(required, m, log10_p)

        assert close(expected) == log10_poisson_binomial_tail(required, [log10_p] * m)

    @LAWS
    @given(required=st.integers(0, 20), log10_ps=st.lists(log10_probabilities, max_size=20), rng=st.randoms())
    def test_the_order_of_the_trials_is_irrelevant(self, required, log10_ps, rng):
        """The same backdoors listed in another order give the same digits."""
        shuffled = rng.sample(log10_ps, len(log10_ps))

        assert log10_poisson_binomial_tail(required, log10_ps) == log10_poisson_binomial_tail(required, shuffled)

    @LAWS
    @given(required=st.integers(0, 20), log10_ps=st.lists(log10_probabilities, max_size=20))
    def test_more_required_is_never_likelier(self, required, log10_ps):
        """The tail falls in the count required, but for rounding."""
        tail = log10_poisson_binomial_tail(required, log10_ps)

        assert tail <= 0.0
        assert log10_poisson_binomial_tail(required + 1, log10_ps) <= tail + 1e-12

    def test_certain_and_impossible_trials_are_counted(self):
        """A trial with p = 1 always succeeds, one with p = 0 never."""
        assert 0.0 == log10_poisson_binomial_tail(1, [0.0, -math.inf])
        assert -math.inf == log10_poisson_binomial_tail(2, [0.0, -math.inf])
        assert -3.0 == pytest.approx(log10_poisson_binomial_tail(2, [0.0, -math.inf, -3.0]))

    @pytest.mark.parametrize("log10_p", [0.5, math.nan])
    def test_illegal_probabilities_are_refused(self, log10_p):
        """One log10 that is of no probability among good ones is an error."""
        with pytest.raises(ValueError, match="log10_ps must"):
            log10_poisson_binomial_tail(1, [-1.0, log10_p])


class TestHypergeometricTail:
    """How many planted rows a uniform subset of the training set holds."""

    @pytest.mark.parametrize("n_train", range(8))
    def test_agrees_with_all_subsets_of_small_cases(self, n_train):
        """Going through all subsets of up to 7 rows gives the same tail for every count."""
        for n_backdoors, n_subset in itertools.product(range(n_train + 1), repeat=2):
            for required in range(-1, n_train + 2):
                expected = exact_share(n_train, n_subset, n_backdoors, range(required, n_train + 1))
                actual = log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset)
                assert close(log10_of(expected)) == actual

    @pytest.mark.parametrize(
        ("required", "n_train", "n_backdoors", "n_subset"),
        [(3, 100, 6, 10), (26, 10_000, 50, 3_503), (44, 87_400, 437, 9_000), (20, 7_200, 36, 7_000)],
    )
    def test_agrees_with_scipy_where_scipy_does_not_underflow(self, required, n_train, n_backdoors, n_subset):
        """At the paper's sizes scipy's survival function is the same number."""
        expected = scipy_stats.hypergeom.logsf(required - 1, n_train, n_backdoors, n_subset) / math.log(10)

        assert pytest.approx(expected, rel=1e-8) == log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset)

    @pytest.mark.parametrize("seed", range(20))
    def test_agrees_with_whole_numbers_on_large_cases(self, seed):
        """Up to 5,000 rows, sums of exact binomial coefficients give the same ten digits."""
        rng = random.Random(seed)
        n_train = rng.randint(100, 5000)
        n_backdoors, n_subset = rng.randint(1, n_train), rng.randint(1, n_train)
        low, high = max(0, n_subset + n_backdoors - n_train), min(n_backdoors, n_subset)
        required = rng.randint(low, high)
        ways = sum(
            math.comb(n_backdoors, k) * math.comb(n_train - n_backdoors, n_subset - k)
            for k in range(required, high + 1)
        )
        expected = log10_of(Fraction(ways, math.comb(n_train, n_subset)))

        assert close(expected) == log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset)

    @LAWS
    @given(data=st.data(), n_train=st.integers(1, 10**9))
    def test_backdoors_and_subset_can_change_places(self, data, n_train):
        """Which of the two sets was drawn at random makes no difference, but for rounding."""
        n_backdoors, n_subset = data.draw(st.integers(0, n_train)), data.draw(st.integers(0, n_train))
        required = data.draw(st.integers(0, min(n_backdoors, n_subset)))
        expected = log10_hypergeometric_tail(required, n_train, n_subset, n_backdoors)

        assert close(expected) == log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset)

    @LAWS
    @given(data=st.data(), n_train=st.integers(1, 2000))
    def test_a_larger_subset_never_holds_fewer(self, data, n_train):
        """The tail grows with the subset, falls in the count required, and is 1 for none."""
        n_backdoors, n_subset = data.draw(st.integers(0, n_train)), data.draw(st.integers(0, n_train - 1))
        required = data.draw(st.integers(0, n_backdoors))
        tail = log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset)

        assert tail <= log10_hypergeometric_tail(required, n_train, n_backdoors, n_subset + 1) + 1e-12
        assert log10_hypergeometric_tail(required + 1, n_train, n_backdoors, n_subset) <= tail <= 0.0
        assert 0.0 == log10_hypergeometric_tail(0, n_train, n_backdoors, n_subset)

    def test_a_tail_next_to_one_keeps_the_digits_of_what_is_missing(self):
        """At least one of 50 planted rows in half of 100: what is missing from 1 is 1 in C(100, 50), and not 0."""
        expected = math.log1p(-1 / math.comb(100, 50)) / math.log(10)

        assert pytest.approx(expected, rel=1e-12, abs=0.0) == log10_hypergeometric_tail(1, 100, 50, 50)

    @pytest.mark.parametrize(("n_train", "n_backdoors", "n_subset"), [(-1, 0, 0), (5, 6, 1), (5, 1, 6), (5, -1, 1)])
    def test_illegal_counts_are_refused(self, n_train, n_backdoors, n_subset):
        """A part larger than the whole, or a negative count, is an error."""
        with pytest.raises(ValueError, match="must not"):
            log10_hypergeometric_tail(1, n_train, n_backdoors, n_subset)


class TestGuessing:
    """What a provider that knows nothing of a signature can reach."""

    @pytest.mark.parametrize(
        ("ratio", "n", "expected"), [("0.14", 50, 7), ("0.1", 36, 4), ("1", 10, 10), ("1/3", 9, 3)]
    )
    def test_required_activations_are_exact(self, ratio, n, expected):
        """The least count that is at least the ratio, with no float in between."""
        assert expected == required_activations(Fraction(ratio), n)

    @pytest.mark.parametrize(("ratio", "n"), [("0", 10), ("-1/2", 10), ("11/10", 10), ("1/2", 0)])
    def test_illegal_ratios_and_counts_are_refused(self, ratio, n):
        """A ratio outside (0, 1], or no probes at all, is an error."""
        with pytest.raises(ValueError, match="must be"):
            required_activations(Fraction(ratio), n)

    @LAWS
    @given(ratio=st.fractions(min_value=Fraction(1, 1000), max_value=1), n=st.integers(1, 10**9))
    def test_required_activations_are_the_least_that_suffice(self, ratio, n):
        """The count reaches the ratio, and one fewer does not."""
        required = required_activations(ratio, n)

        assert Fraction(required - 1, n) < ratio <= Fraction(required, n)

    @pytest.mark.parametrize("n_words", [1, 2, 3, 4])
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_no_assignment_of_guesses_beats_the_bound_and_one_attains_it(self, n_words, n):
        """Over a uniform codebook, of all assignments of n guesses the best passes with floor(n/k) / B, or surely."""
        for required in range(1, n + 1):
            best = max(
                Fraction(sum(said >= required for said in Counter(guesses).values()), n_words)
                for guesses in itertools.product(range(n_words), repeat=n)
            )
            assert min(Fraction(1), Fraction(n // required, n_words)) == best
            assert close(log10_of(best)) == log10_guess_bound(n, required, -math.log10(n_words))

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
    def test_no_assignment_of_guesses_beats_the_bound_over_unequal_words(self, n):
        """Where words have unequal probabilities the largest of them still bounds every assignment."""
        words = (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8))
        for required in range(1, n + 1):
            best = max(
                sum((words[word] for word, said in Counter(guesses).items() if said >= required), start=Fraction(0))
                for guesses in itertools.product(range(len(words)), repeat=n)
            )
            assert log10_of(best) <= log10_guess_bound(n, required, math.log10(0.5)) + LOG10_TOLERANCE

    @pytest.mark.parametrize(
        ("n_words", "n", "required"), [(4, 5, 2), (5, 6, 3), (10, 5, 5), (200, 10, 5), (10**6, 10, 5), (3, 2, 1)]
    )
    def test_the_papers_binomial_is_below_the_truth_for_a_shared_signature(self, n_words, n, required):
        """Saying floor(n/k) words k times each passes more often than Eq. 1 allows: Eq. 1 is no p-value there."""
        guesses = [word for word in range(n // required) for _ in range(required)]
        truth = Fraction(sum(said >= required for said in Counter(guesses).values()), n_words)

        assert len(guesses) <= n
        assert log10_paper_p_value(required, n, -math.log10(n_words)) < log10_of(truth)

    def test_the_example_in_the_docstring_is_right(self):
        """With p_upper = 1/200, 5 of 10 are passed with probability 1e-2, and Eq. 1 says 8e-10."""
        assert close(-2.0) == log10_guess_bound(10, 5, -math.log10(200))
        assert pytest.approx(7.7e-10, rel=0.01) == 10 ** log10_paper_p_value(5, 10, -math.log10(200))

    def test_the_bound_has_exact_values_at_its_ends(self):
        """Nothing required is certain, more than was asked is impossible, and no bound exceeds 1."""
        assert 0.0 == log10_guess_bound(10, 0, -400.0)
        assert -math.inf == log10_guess_bound(10, 11, -1.0)
        assert -math.inf == log10_guess_bound(0, 1, -1.0)
        assert -math.inf == log10_guess_bound(10, 5, -math.inf)
        assert 0.0 == log10_guess_bound(10**9, 1, -3.0)
        assert -391.0 == log10_guess_bound(10**9, 1, -400.0)

    @LAWS
    @given(n=counts, required=counts, log10_ps=st.tuples(log10_probabilities, log10_probabilities))
    def test_the_bound_is_monotone(self, n, required, log10_ps):
        """More probes or a likelier guess never lower the bound, and more required never raises it."""
        low, high = sorted(log10_ps)
        bound = log10_guess_bound(n, required, low)

        assert log10_guess_bound(n, required + 1, low) <= bound
        assert bound <= log10_guess_bound(n + 1, required, low)
        assert bound <= log10_guess_bound(n, required, high)

    @pytest.mark.parametrize(("n", "log10_p_upper"), [(-1, -1.0), (10, 1.0), (10, math.nan)])
    def test_illegal_arguments_of_the_bound_are_refused(self, n, log10_p_upper):
        """A negative n, or a log10 that is of no probability, is an error."""
        with pytest.raises(ValueError, match="must"):
            log10_guess_bound(n, 1, log10_p_upper)


class TestClopperPearson:
    """Exact intervals of a rate."""

    @pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
    def test_agrees_with_scipy(self, confidence):
        """For all counts up to 12, scipy's exact binomial test has the same interval."""
        for n in range(1, 13):
            for n_hits in range(n + 1):
                interval = scipy_stats.binomtest(n_hits, n).proportion_ci(confidence, method="exact")
                expected = pytest.approx((interval.low, interval.high), abs=1e-12)
                assert expected == clopper_pearson(n_hits, n, confidence)

    @pytest.mark.parametrize(("n_hits", "n"), [(1, 10), (20, 20), (3, 100), (10**6, 10**9), (1, 10**9)])
    def test_bounds_are_the_rates_at_which_the_count_becomes_unlikely(self, n_hits, n):
        """At the lower end so many hits or more, at the upper end so few or fewer, have probability 2.5 %."""
        lower, upper = clopper_pearson(n_hits, n)
        at_least = 10 ** log10_binomial_tail(n_hits, n, math.log10(lower))
        at_most = 0.025 if n_hits == n else 10 ** log10_binomial_tail(n - n_hits, n, math.log1p(-upper) / math.log(10))

        assert pytest.approx((0.025, 0.025), rel=1e-6) == (at_least, at_most)

    def test_none_of_n_gives_the_rule_of_three(self):
        """No hit in a thousand: the one-sided bound is 1 - 0.05**(1/n), about 3/n, to all digits even for 10**9."""
        assert pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-12) == clopper_pearson_upper(0, 1000)
        assert pytest.approx(-math.expm1(math.log(0.05) / 1e9), rel=1e-12) == clopper_pearson_upper(0, 10**9)

    def test_one_side_at_95_is_a_side_of_two_at_90(self):
        """The one-sided bound puts all of the doubt above."""
        assert pytest.approx(clopper_pearson(3, 17, 0.90)[1]) == clopper_pearson_upper(3, 17, 0.95)

    def test_nothing_asked_means_nothing_known(self):
        """With no answers the rate may be anything; with all hits only the lower end is informative."""
        assert (0.0, 1.0) == clopper_pearson(0, 0)
        assert 1.0 == clopper_pearson_upper(0, 0)
        assert 1.0 == clopper_pearson(7, 7)[1]
        assert 0.0 == clopper_pearson(0, 7)[0]

    @pytest.mark.parametrize(
        ("n_hits", "n", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, -1, 0.9), (1, 5, 1.0), (1, 5, math.nan)]
    )
    @pytest.mark.parametrize("interval", [clopper_pearson, clopper_pearson_upper], ids=["two-sided", "one-sided"])
    def test_illegal_arguments_are_refused(self, interval, n_hits, n, confidence):
        """More hits than probes, negative counts and confidences outside (0, 1) are errors."""
        with pytest.raises(ValueError, match="must"):
            interval(n_hits, n, confidence)


class TestLnFactorial:
    """The logarithm that all first terms are made of."""

    @pytest.mark.parametrize("k", [0, 1, 255, 256, 257, 1000, 10**9, 10**20])
    def test_agrees_with_mpmath(self, k):
        """On both sides of the change to Stirling's series, 28 decimals are right."""
        with mp.workdps(80):
            assert abs(mp.loggamma(k + 1) - mpf(str(_ln_factorial(k)))) < mpf("1e-28") + mp.loggamma(k + 2) * mpf(
                "1e-49"
            )


class TestPackage:
    """What `vtuned.stats` offers and what it loads."""

    def test_all_names_are_sorted_and_there(self):
        """`__all__` is sorted, and each of its names can be imported."""
        assert sorted(vtuned.stats.__all__) == vtuned.stats.__all__
        assert all(callable(getattr(vtuned.stats, name)) for name in vtuned.stats.__all__)

    def test_the_import_loads_no_scipy(self):
        """The first interval loads scipy, not the import."""
        script = "import sys, vtuned.stats; print('scipy' in sys.modules)"

        assert (
            "False\n"
            == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        )
