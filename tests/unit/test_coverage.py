"""
The bound on how much of the data was used, against four oracles.

Enumeration of all subsets in exact Fractions, mpmath and whole numbers for the large and the extreme, laws that hold
for all arguments, and simulated providers whose share is known.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from vtuned.stats import (
    _captures,
    clopper_pearson,
    coverage_lower_bound,
    hypergeometric_interval,
    log10_binomial_tail,
    log10_coverage_tail,
    log10_hypergeometric_tail,
    log10_poisson_binomial_tail,
)
from vtuned.stats._circle import at_most_fail
from vtuned.stats._planting import Planting

LOG10_TOLERANCE = 4e-11
LAWS = settings(max_examples=60, deadline=None, derandomize=True)
SMALL_PLANTINGS = [(1,), (3,), (1, 1), (1, 2), (2, 2), (1, 1, 1), (3, 1), (2, 1, 2), (1, 4, 1), (1, 1, 2, 2)]
CHANCES = (Fraction(1, 7), Fraction(1, 2), Fraction(0), Fraction(9, 10))

plantings = st.lists(st.integers(1, 5), min_size=1, max_size=8)
chances = st.floats(min_value=-30.0, max_value=0.0) | st.floats(min_value=-2.0, max_value=0.0) | st.just(-math.inf)


def close(expected: float) -> object:
    """Match *expected* within 1e-10 of the probability, or thirteen digits of a large logarithm."""
    return expected if math.isinf(expected) else pytest.approx(expected, rel=1e-13, abs=LOG10_TOLERANCE)


def log10_of(probability: Fraction | mpf) -> float:
    """Return the log10 of an exact probability, 0 included."""
    if probability == 0:
        return -math.inf
    with mp.workdps(60):
        if isinstance(probability, Fraction):
            probability = mpf(probability.numerator) / probability.denominator
        return float(mp.log10(probability))


def owners_of(copies: Sequence[int], n_train: int) -> list[int | None]:
    """Return the backdoor of each row, the planted ones first."""
    planted = [j for j, n in enumerate(copies) for _ in range(n)]
    return planted + [None] * (n_train - len(planted))


def passing_law(unseen: Sequence[Fraction], hits: set[int | None]) -> list[Fraction]:
    """Return P(passes = k) where the *hits* pass, and of the others each with its chance."""
    law = [Fraction(1)]
    for j, chance in enumerate(unseen):
        p = Fraction(1) if j in hits else chance
        law = [a * (1 - p) + b * p for a, b in zip([*law, Fraction(0)], [Fraction(0), *law], strict=True)]
    return law


@cache
def exact_tails(copies: tuple[int, ...], n_train: int, n_subset: int, unseen: tuple[Fraction, ...]) -> list[Fraction]:
    """Return P(at least k pass) for k = 0 ... m, by going through all subsets of the rows."""
    owners = owners_of(copies, n_train)
    subsets = list(itertools.combinations(owners, n_subset))
    laws = [passing_law(unseen, set(subset)) for subset in subsets]
    return [sum((sum(law[k:]) for law in laws), start=Fraction(0)) / len(subsets) for k in range(len(copies) + 1)]


def mpmath_tail(required: int, copies: Sequence[int], n_train: int, n_subset: int, log10_ps: Sequence[float]) -> mpf:
    """Return P(at least *required* pass), from the polynomial in full: whole numbers of ways times mpmath chances."""
    with mp.workdps(60):
        table = {(0, 0): mpf(1)}
        for n, log10_p in zip(copies, log10_ps, strict=True):
            p = mpf(0) if log10_p == -math.inf else mpf(10) ** mpf(log10_p)
            factor = [(0, 1, p), (0, 0, 1 - p), *((i, 1, mpf(math.comb(n, i))) for i in range(1, n + 1))]
            grown: dict[tuple[int, int], mpf] = {}
            for ((b, k), ways), (i, one, weight) in itertools.product(table.items(), factor):
                grown[b + i, k + one] = grown.get((b + i, k + one), mpf(0)) + ways * weight
            table = grown
        n_rows = sum(copies)
        n_clean = n_train - n_rows

        def ln_choose(n: int, k: int) -> mpf:
            return mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)

        ln_all = ln_choose(n_train, n_subset)
        rest = [
            mp.exp(ln_choose(n_clean, n_subset - b) - ln_all) if 0 <= n_subset - b <= n_clean else mpf(0)
            for b in range(n_rows + 1)
        ]
        return mp.fsum(ways * rest[b] for (b, k), ways in table.items() if k >= required)


def random_large_cases(n_cases: int) -> list[tuple[int, tuple[int, ...], int, int, tuple[float, ...]]]:
    """Return (required, copies, n_train, n_subset, log10_ps) from ordinary to extreme, unequal in all."""
    rng = random.Random("vtuned.stats.coverage")
    cases = []
    for _ in range(n_cases):
        copies = tuple(rng.choice((1, 1, 2, 3, 8)) for _ in range(rng.randint(2, 16)))
        n_train = rng.choice((sum(copies) + rng.randint(0, 100), round(10 ** rng.uniform(3, 9)), 10**9))
        n_subset = rng.choice((rng.randint(0, n_train), round(n_train ** rng.random())))
        log10_ps = tuple(rng.choice((-math.inf, -rng.random(), -(10 ** rng.uniform(-2, 2.6)))) for _ in copies)
        cases.append((rng.randint(1, len(copies)), copies, n_train, n_subset, log10_ps))
    return cases


class TestCoverageTail:
    """P(at least so many backdoors pass) for a uniform subset of the rows."""

    @pytest.mark.parametrize("copies", SMALL_PLANTINGS, ids=str)
    @pytest.mark.parametrize("n_clean", [0, 1, 3])
    def test_agrees_with_all_subsets_of_small_cases(self, copies, n_clean):
        """Going through all subsets gives the same tail for every size and count, with and without chance passes."""
        n_train = sum(copies) + n_clean
        for unseen in [CHANCES[: len(copies)], (Fraction(1, 7),) * len(copies), (Fraction(0),) * len(copies)]:
            log10_ps = [log10_of(p) for p in unseen]
            for n_subset in range(n_train + 1):
                tails = exact_tails(copies, n_train, n_subset, unseen)
                for required, expected in enumerate(tails):
                    actual = log10_coverage_tail(
                        required, copies=copies, n_train=n_train, n_subset=n_subset, log10_p_unseen=log10_ps
                    )
                    assert close(log10_of(expected)) == actual

    @pytest.mark.parametrize("case", random_large_cases(60), ids=lambda case: f"{case[0]}-of-{case[1:4]}")
    def test_agrees_with_mpmath_on_large_and_extreme_cases(self, case):
        """Up to 10**9 rows, unequal copies and chances down to 10**-400: ten digits of the probability are right."""
        required, copies, n_train, n_subset, log10_ps = case
        actual = log10_coverage_tail(
            required, copies=copies, n_train=n_train, n_subset=n_subset, log10_p_unseen=log10_ps
        )

        assert close(log10_of(mpmath_tail(*case))) == actual

    @pytest.mark.parametrize(
        "case",
        [
            (40, (1,) * 40, 10**9, 50, (-math.inf,) * 40),
            (40, (1,) * 40, 10**9, 3, (-20.0,) * 40),
            (24, (4,) * 24, 10**9, 478_000_000, (-math.inf,) * 24),
            (24, (1, 2, 4, 8) * 6, 10**9, 1000, (-19.27,) * 24),
            (22, (1, 2, 4, 8) * 6, 10**9, 10**9 - 1, (-19.27, -3.0) * 12),
            (12, (8,) * 12, 10**9, 0, (-200.0, -100.0) * 6),
            (64, (1,) * 63 + (2,), 10**9, 10_000, (-math.inf,) * 64),
            (2, (1500, 3), 10**9, 20_000, (-math.inf,) * 2),
        ],
        ids=lambda case: f"{case[0]}-of-{len(case[1])}-at-{case[3]}",
    )
    def test_agrees_with_mpmath_at_the_corners(self, case):
        """A handful of rows of 10**9, all rows but one, and nothing but chance lose no digits."""
        required, copies, n_train, n_subset, log10_ps = case
        actual = log10_coverage_tail(
            required, copies=copies, n_train=n_train, n_subset=n_subset, log10_p_unseen=log10_ps
        )

        assert close(log10_of(mpmath_tail(*case))) == actual

    def test_both_ways_to_the_number_agree(self):
        """
        The mean over a circle and the table in logarithms give eleven digits alike, and the circle hardly ever fails.

        Over all shares and ends of files from full of planted rows to 10**12 rows, with one, two or three copies needed.
        """
        rng = random.Random("circle")
        n_ordinary = n_left_to_the_table = 0
        for _ in range(2_000):
            copies = [rng.choice((1, 1, 2, 3, 4, 8, 20)) for _ in range(rng.randint(1, 20))]
            n_rows = sum(copies)
            n_train = n_rows + rng.choice((rng.randint(0, 5), rng.randint(0, 100), round(10 ** rng.uniform(2, 12))))
            n_rare = round(n_train ** rng.random())
            n_subset = min(max(1, rng.choice((rng.randint(0, n_train), n_rare, n_train - n_rare))), n_train - 1)
            mixed = [rng.choice((-math.inf, -rng.random(), -(10 ** rng.uniform(-2, 2.6)), 0.0)) for _ in copies]
            log10_ps = rng.choice((-math.inf, -1.3, mixed))
            planting = Planting.of(copies, n_train, log10_ps, rng.choice((1, 1, 2, 3)))
            n_missable = rng.randrange(len(copies))
            if not 0 < n_subset < n_train:
                continue
            on_circle, log10_bound = at_most_fail(n_missable, planting, n_subset)
            by_table = _captures._weighed(_captures._ln_given_captured(n_missable, planting), planting, n_subset)
            assert by_table <= log10_bound + 1e-9
            if on_circle is not None:
                assert pytest.approx(by_table, rel=1e-12, abs=1e-11) == on_circle, (planting, n_missable, n_subset)
            if by_table > -15.0:
                n_ordinary += 1
                n_left_to_the_table += on_circle is None

        assert n_ordinary > 1_000
        assert n_left_to_the_table <= n_ordinary / 100

    @pytest.mark.parametrize("n_single", [63, 109, 199, 299])
    @pytest.mark.parametrize("n_clean", [0, 1, 10**8])
    def test_a_subset_that_hardly_suffices_loses_no_digits(self, n_single, n_clean):
        """All of many single copies and one pair, in as many rows as there are backdoors: whole numbers of ways."""
        copies, n_train = [1] * n_single + [2], n_single + 2 + n_clean
        for n_subset in (n_single + 1, n_single + 2):
            # Both rows of the pair, or either of them and one more row of the clean ones.
            ways = (n_subset == n_single + 2) * (1 + 2 * n_clean) + (n_subset == n_single + 1) * 2
            with mp.workdps(60):
                expected = mp.log10(mpf(ways) / math.comb(n_train, n_subset)) if n_clean < 2 else None
                if expected is None:
                    ln_all = mp.loggamma(n_train + 1) - mp.loggamma(n_subset + 1) - mp.loggamma(n_train - n_subset + 1)
                    expected = (mp.log(ways) - ln_all) / mp.log(10)

            actual = log10_coverage_tail(len(copies), copies=copies, n_train=n_train, n_subset=n_subset)

            assert close(float(expected)) == actual

    def test_near_the_end_of_what_suffices_both_ways_agree(self):
        """Nearly all of many backdoors in little more rows than they need, where floats on a circle run out."""
        rng = random.Random("ends")
        for _ in range(120):
            m, n_needed = rng.randint(40, 130), rng.choice((1, 1, 2))
            copies = [rng.choice((1, 2, 2, 3)) + n_needed - 1 for _ in range(m)]
            n_train = sum(copies) + rng.choice((0, 1, 5, 200, 10**6))
            required = m - rng.randint(0, 5)
            n_subset = min(required * n_needed + rng.randint(0, 30), n_train - 1)
            planting = Planting.of(copies, n_train, rng.choice((-math.inf, -8.0)), n_needed)
            on_circle, log10_bound = at_most_fail(m - required, planting, n_subset)
            by_table = _captures._weighed(_captures._ln_given_captured(m - required, planting), planting, n_subset)

            assert by_table <= log10_bound + 1e-9
            if on_circle is not None:
                assert pytest.approx(by_table, rel=1e-12, abs=1e-11) == on_circle, (planting, required, n_subset)

    @pytest.mark.parametrize("required", [900, 1_100])
    def test_a_thousand_backdoors_alike_have_the_tail_of_independent_ones(self, required):
        """Of 10**15 rows each pair is reached as if by itself: 1,500 of them, without overflow."""
        log10_reached = math.log10(1.0 - 0.6**2)
        actual = log10_coverage_tail(required, copies=[2] * 1_500, n_train=10**15, n_subset=4 * 10**14)

        assert pytest.approx(log10_binomial_tail(required, 1_500, log10_reached), abs=1e-9) == actual

    @LAWS
    @given(data=st.data(), m=st.integers(1, 60), n_train=st.integers(60, 10**9))
    def test_single_copies_are_hypergeometric(self, data, m, n_train):
        """Where no backdoor has copies or chance passes, it is the hypergeometric tail."""
        required, n_subset = data.draw(st.integers(0, m + 1)), data.draw(st.integers(0, n_train))
        expected = log10_hypergeometric_tail(required, n_train, m, n_subset)

        assert close(expected) == log10_coverage_tail(required, copies=[1] * m, n_train=n_train, n_subset=n_subset)

    @LAWS
    @given(copies=plantings, required=st.integers(0, 9), chance=chances)
    def test_an_empty_subset_leaves_chance_alone(self, copies, required, chance):
        """With no rows used, equal chances pass binomially."""
        expected = log10_binomial_tail(required, len(copies), chance)
        actual = log10_coverage_tail(required, copies=copies, n_train=100, n_subset=0, log10_p_unseen=chance)

        assert close(expected) == actual

    @LAWS
    @given(log10_ps=st.lists(chances, min_size=1, max_size=12), required=st.integers(0, 13))
    def test_an_empty_subset_leaves_unequal_chances_alone(self, log10_ps, required):
        """With no rows used, unequal chances pass as independent trials do."""
        expected = log10_poisson_binomial_tail(required, log10_ps)
        actual = log10_coverage_tail(
            required, copies=[2] * len(log10_ps), n_train=100, n_subset=0, log10_p_unseen=log10_ps
        )

        assert close(expected) == actual

    @LAWS
    @given(data=st.data(), copies=plantings, n_clean=st.integers(0, 100), chance=chances)
    def test_the_tail_is_monotone(self, data, copies, n_clean, chance):
        """It grows with the subset and with the chances, and falls in the count required, but for rounding."""
        n_train = sum(copies) + n_clean
        n_subset = data.draw(st.integers(0, n_train - 1))
        required = data.draw(st.integers(0, len(copies)))
        likelier = data.draw(st.floats(min_value=max(chance, -1e3), max_value=0.0))

        def tail(required: int = required, n_subset: int = n_subset, chance: float = chance) -> float:
            return log10_coverage_tail(
                required, copies=copies, n_train=n_train, n_subset=n_subset, log10_p_unseen=chance
            )

        assert tail(required + 1) <= tail() + 1e-12
        assert tail() <= min(0.0, tail(n_subset=n_subset + 1) + 1e-10)
        assert tail() <= tail(chance=likelier) + 1e-10

    @LAWS
    @given(data=st.data(), copies=plantings, n_clean=st.integers(1, 100))
    def test_a_further_copy_and_a_smaller_training_set_make_no_pass_unlikelier(self, data, copies, n_clean):
        """The tail grows with the copies, and with the share that a subset of the same size is."""
        n_train = sum(copies) + n_clean
        n_subset, required = data.draw(st.integers(0, n_train)), data.draw(st.integers(0, len(copies)))
        more = [copies[0] + 1, *copies[1:]]
        tail = log10_coverage_tail(required, copies=copies, n_train=n_train, n_subset=n_subset)

        assert tail <= log10_coverage_tail(required, copies=more, n_train=n_train, n_subset=n_subset) + 1e-10
        assert log10_coverage_tail(required, copies=copies, n_train=n_train + 1, n_subset=n_subset) <= tail + 1e-10

    @LAWS
    @given(data=st.data(), m=st.integers(1, 40), n_train=st.integers(40, 10**6))
    def test_hits_and_misses_add_up_to_one(self, data, m, n_train):
        """At least k single rows are in the subset, or at least m - k + 1 are in what is left out."""
        n_subset, required = data.draw(st.integers(0, n_train)), data.draw(st.integers(0, m))
        hits = log10_coverage_tail(required, copies=[1] * m, n_train=n_train, n_subset=n_subset)
        misses = log10_coverage_tail(m - required + 1, copies=[1] * m, n_train=n_train, n_subset=n_train - n_subset)

        assert pytest.approx(1.0, abs=1e-10) == 10**hits + 10**misses

    @LAWS
    @given(
        pairs=st.lists(st.tuples(st.integers(1, 6), chances), min_size=1, max_size=10),
        rng=st.randoms(),
        required=st.integers(1, 10),
        n_subset=st.integers(0, 60),
    )
    def test_the_order_of_the_backdoors_is_irrelevant(self, pairs, rng, required, n_subset):
        """The same backdoors listed in another order give the same digits."""
        tails = {
            log10_coverage_tail(
                required,
                copies=[n for n, _ in listed],
                n_train=60,
                n_subset=n_subset,
                log10_p_unseen=[p for _, p in listed],
            )
            for listed in (pairs, rng.sample(pairs, len(pairs)))
        }

        assert 1 == len(tails)

    def test_certain_and_impossible_counts_have_exact_values(self):
        """None is certain, as is what chance or the whole set brings; more than there are is impossible."""
        assert 0.0 == log10_coverage_tail(0, copies=[1, 2], n_train=5, n_subset=0)
        assert 0.0 == log10_coverage_tail(-1, copies=[], n_train=0, n_subset=0)
        assert 0.0 == log10_coverage_tail(0, copies=[], n_train=0, n_subset=0)
        assert -math.inf == log10_coverage_tail(3, copies=[1, 2], n_train=5, n_subset=5)
        assert -math.inf == log10_coverage_tail(1, copies=[1, 2], n_train=5, n_subset=0)
        assert 0.0 == log10_coverage_tail(2, copies=[1, 2], n_train=5, n_subset=5)
        assert 0.0 == log10_coverage_tail(2, copies=[1, 2], n_train=5, n_subset=0, log10_p_unseen=0.0)

    @pytest.mark.parametrize(
        ("copies", "n_train", "n_subset", "log10_p"),
        [
            ([0, 1], 5, 1, -1.0),
            ([-1], 5, 1, -1.0),
            ([3, 3], 5, 1, -1.0),
            ([1], 5, 6, -1.0),
            ([1], 5, -1, -1.0),
            ([], -1, 0, -1.0),
            ([1], 5, 1, 0.1),
            ([1, 1], 5, 1, [-1.0, math.nan]),
            ([1, 1], 5, 1, [-1.0]),
        ],
    )
    def test_illegal_arguments_are_refused(self, copies, n_train, n_subset, log10_p):
        """Backdoors without rows or with more than there are, subsets beyond the set and no chances are errors."""
        with pytest.raises(ValueError, match="must"):
            log10_coverage_tail(1, copies=copies, n_train=n_train, n_subset=n_subset, log10_p_unseen=log10_p)


class TestCoverageLowerBound:
    """The least share of the rows that the count seen does not reject."""

    @pytest.mark.parametrize(
        ("n_activated", "copies", "expected"), [(20, [1] * 20, 0.794), (60, [1] * 60, 0.926), (60, [4] * 60, 0.478)]
    )
    @pytest.mark.parametrize("n_train", [10**6, 10**9])
    def test_the_figures_of_the_design(self, n_activated, copies, expected, n_train):
        """20 of 20 single copies at 99 %: 79 %; 60 of 60: 92.6 %; 60 of 60 with four copies: only 47.8 %."""
        bound = coverage_lower_bound(n_activated=n_activated, copies=copies, n_train=n_train, confidence=0.99)

        assert pytest.approx(expected, abs=1e-3) == bound

    @pytest.mark.parametrize("copies", SMALL_PLANTINGS, ids=str)
    @pytest.mark.parametrize("limit", ["1/100", "1/20", "1/10", "1/4", "1/3", "1/2"])
    def test_it_is_the_least_share_that_exact_fractions_do_not_reject(self, copies, limit):
        """Over all subsets of small sets, ties included: a share is rejected if its tail is the limit or less."""
        n_train = sum(copies) + 2
        for unseen in (CHANCES[: len(copies)], (Fraction(0),) * len(copies)):
            for n_activated in range(len(copies) + 1):
                expected = next(
                    u
                    for u in range(n_train + 1)
                    if exact_tails(copies, n_train, u, unseen)[n_activated] > Fraction(limit)
                )
                bound = coverage_lower_bound(
                    n_activated=n_activated,
                    copies=copies,
                    n_train=n_train,
                    confidence=float(1 - Fraction(limit)),
                    log10_p_unseen=[log10_of(p) for p in unseen],
                )
                assert expected / n_train == bound

    def test_a_limit_that_is_met_exactly_is_rejected(self):
        """One row of 100 seen with 99 %: one row has a chance of exactly 1 %, so it takes two."""
        assert 0.02 == coverage_lower_bound(n_activated=1, copies=[1], n_train=100, confidence=0.99)
        assert 0.11 == coverage_lower_bound(n_activated=1, copies=[1], n_train=100, confidence=0.9)

    def test_many_unequal_copies_need_no_table_far_from_the_limit(self, monkeypatch):
        """The search starts at half of the file, where a bound tells enough: the table would take minutes."""

        def never(*arguments):
            raise AssertionError("a table")

        monkeypatch.setattr(_captures, "_ln_given_captured", never)
        bound = coverage_lower_bound(n_activated=750, copies=[1, 2] * 500, n_train=1500, confidence=0.99)

        assert 0.5 < bound < 750 / 1000

    def test_what_is_certain_is_not_rejected(self):
        """51 rows of 100 hold one of 50, whatever the confidence; and files may have more rows than a machine word holds."""
        assert 0.51 >= coverage_lower_bound(n_activated=1, copies=[50], n_train=100, confidence=1e-12)
        assert 0.0 < coverage_lower_bound(n_activated=1, copies=[50], n_train=10**19, confidence=0.9) < 0.01

    def test_nothing_seen_bounds_nothing(self):
        """No activation is no evidence, and no backdoors are none either."""
        assert 0.0 == coverage_lower_bound(n_activated=0, copies=[1, 2], n_train=100, confidence=0.99)
        assert 0.0 == coverage_lower_bound(n_activated=0, copies=[], n_train=0, confidence=0.99)

    def test_what_chance_alone_may_do_bounds_nothing(self):
        """Backdoors that pass unseen half of the time say nothing when half of them pass."""
        bound = coverage_lower_bound(
            n_activated=10, copies=[1] * 20, n_train=1000, confidence=0.99, log10_p_unseen=math.log10(0.5)
        )

        assert 0.0 == bound

    @LAWS
    @given(
        data=st.data(),
        copies=plantings,
        n_clean=st.integers(0, 1000),
        confidences=st.tuples(st.floats(0.5, 0.999), st.floats(0.5, 0.999)),
        chance=chances,
    )
    def test_the_bound_is_monotone(self, data, copies, n_clean, confidences, chance):
        """More seen never lowers it; more confidence, a likelier chance or a further copy never raises it."""
        n_train = sum(copies) + 1 + n_clean
        n_activated = data.draw(st.integers(0, len(copies) - 1))
        low, high = sorted(confidences)

        def bound(n: int = n_activated, rows=copies, confidence: float = low, log10_p: float = chance) -> float:
            return coverage_lower_bound(
                n_activated=n, copies=rows, n_train=n_train, confidence=confidence, log10_p_unseen=log10_p
            )

        assert 0.0 <= bound() <= bound(n_activated + 1) <= 1.0
        assert bound(confidence=high) <= bound()
        assert bound(log10_p=chance / 2) <= bound()
        assert bound(rows=[copies[0] + 1, *copies[1:]]) <= bound()
        assert bound(rows=copies[::-1]) == bound()

    @pytest.mark.parametrize(
        ("copies", "log10_p_unseen"),
        [
            ((1,) * 24, -math.inf),
            ((1,) * 24, -1.0),
            ((1, 1, 1, 2, 2, 4, 4, 8) * 2, -1.3),
            ((1, 2, 3) * 5, (-0.5, -1.0, -math.inf) * 5),
        ],
        ids=["single", "single-chance", "unequal", "unequal-chances"],
    )
    @pytest.mark.parametrize("learning", [1.0, 0.8])
    def test_at_most_one_simulated_provider_in_a_hundred_is_below_its_bound(self, copies, log10_p_unseen, learning):
        """
        Whatever its share, and however badly it learned, a provider's bound at 99 % is hardly ever above its share.

        2,000 providers for each of ten shares from 5 % to 100 %. The failures among them are below a binomial number,
        whose 1 - 10**-6 quantile is the most that the test lets pass.
        """
        rng = np.random.default_rng(20_260)
        n_train, n_providers = 400, 2_000
        owners = np.array([-1 if owner is None else owner for owner in owners_of(copies, n_train)])
        unseen = 10.0 ** np.broadcast_to(np.asarray(log10_p_unseen, dtype=float), len(copies))
        bounds = np.array(
            [
                coverage_lower_bound(
                    n_activated=n, copies=copies, n_train=n_train, confidence=0.99, log10_p_unseen=log10_p_unseen
                )
                for n in range(len(copies) + 1)
            ]
        )
        most = next(k for k in range(n_providers) if log10_binomial_tail(k + 1, n_providers, -2.0) <= -6.0)
        for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95, 1.0):
            n_subset = round(share * n_train)
            order = rng.random((n_providers, n_train)).argsort(axis=1)
            used = order < n_subset
            seen = np.stack([used[:, owners == j].any(axis=1) for j in range(len(copies))], axis=1)
            learned = seen & (rng.random(seen.shape) < learning)
            # A backdoor that was seen but not learned may pass by chance, too.
            passed = learned | (rng.random(seen.shape) < unseen)
            n_wrong = int((bounds[passed.sum(axis=1)] > n_subset / n_train).sum())
            assert n_wrong <= most, share

    @pytest.mark.parametrize(
        ("n_activated", "copies", "n_train", "confidence"),
        [(3, [1, 1], 5, 0.9), (-1, [1], 5, 0.9), (1, [1], 5, 1.0), (1, [1], 5, math.nan), (1, [6], 5, 0.9)],
    )
    def test_illegal_arguments_are_refused(self, n_activated, copies, n_train, confidence):
        """More seen than planted, and confidences outside (0, 1), are errors."""
        with pytest.raises(ValueError, match="must"):
            coverage_lower_bound(n_activated=n_activated, copies=copies, n_train=n_train, confidence=confidence)


class TestHypergeometricInterval:
    """How many rows are marked, from a sample without replacement."""

    @pytest.mark.parametrize("confidence", [Fraction(1, 2), Fraction(4, 5), Fraction(95, 100)], ids=str)
    def test_it_holds_the_numbers_that_exact_fractions_do_not_reject(self, confidence):
        """For all samples of up to 9 rows: neither so many or more, nor so few or fewer, is half of the rest or less."""
        miss = (1 - confidence) / 2
        for n_train in range(1, 10):
            for n in range(n_train + 1):
                for n_hits in range(n + 1):
                    kept = [
                        n_marked
                        for n_marked in range(n_train + 1)
                        if self.share(n_train, n, n_marked, range(n_hits, n + 1)) > miss
                        and self.share(n_train, n, n_marked, range(n_hits + 1)) > miss
                    ]
                    assert (kept[0], kept[-1]) == hypergeometric_interval(n_hits, n, n_train, float(confidence))

    @staticmethod
    @cache
    def share(n_train: int, n: int, n_marked: int, wanted: range) -> Fraction:
        """Return the share of the samples that hold a *wanted* number of the marked rows."""
        ways = sum(math.comb(n_marked, k) * math.comb(n_train - n_marked, n - k) for k in wanted)
        return Fraction(ways, math.comb(n_train, n))

    @pytest.mark.parametrize(("n_hits", "n"), [(0, 50), (3, 50), (50, 50), (700, 1000)])
    def test_of_many_rows_it_is_that_of_a_rate(self, n_hits, n):
        """Of 10**9 rows a small sample is as good as one with replacement."""
        expected = pytest.approx(clopper_pearson(n_hits, n, 0.99), abs=1e-6)
        lower, upper = hypergeometric_interval(n_hits, n, 10**9, 0.99)

        assert expected == (lower / 10**9, upper / 10**9)

    @LAWS
    @given(data=st.data(), n_train=st.integers(1, 10**6))
    def test_it_is_monotone_and_symmetric(self, data, n_train):
        """More hits raise both ends, unmarked rows have the mirrored interval, and what was seen is in it."""
        n = data.draw(st.integers(1, n_train))
        n_hits = data.draw(st.integers(0, n - 1))
        lower, upper = hypergeometric_interval(n_hits, n, n_train)
        more = hypergeometric_interval(n_hits + 1, n, n_train)

        assert (n_train - upper, n_train - lower) == hypergeometric_interval(n - n_hits, n, n_train)
        assert n_hits <= lower <= upper <= n_train - (n - n_hits)
        assert lower <= more[0]
        assert upper <= more[1]

    def test_all_rows_seen_leave_no_doubt(self):
        """The interval of a full count is that count, and nothing seen may be anything."""
        assert (7, 7) == hypergeometric_interval(7, 20, 20)
        assert (0, 20) == hypergeometric_interval(0, 0, 20)

    @pytest.mark.parametrize(
        ("n_hits", "n", "n_train", "confidence"),
        [(-1, 5, 9, 0.9), (6, 5, 9, 0.9), (1, 10, 9, 0.9), (0, 0, -1, 0.9), (1, 5, 9, 0.0), (1, 5, 9, math.nan)],
    )
    def test_illegal_arguments_are_refused(self, n_hits, n, n_train, confidence):
        """More hits than rows seen, and more seen than there are, are errors."""
        with pytest.raises(ValueError, match="must"):
            hypergeometric_interval(n_hits, n, n_train, confidence)
