"""The e-value: exact factors, laws, and the best that a provider and a customer can make of it together."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtuned.stats import log10_e_p_value, log10_e_value, log10_guess_bound

LAWS = settings(max_examples=80, deadline=None, derandomize=True)

log10_probabilities = st.floats(min_value=-400.0, max_value=0.0) | st.floats(min_value=-2.0, max_value=0.0)
backdoors = st.lists(st.tuples(st.booleans(), log10_probabilities), max_size=20)


def e_value(passed, ps):
    """Return the e-value itself, for probabilities that a float can hold."""
    return 10 ** log10_e_value(passed, [math.log10(p) for p in ps])


def best_expectation(n_words, n_probes, required):
    """
    Return the largest mean of the e-value over all that a provider and a customer can do together.

    Two backdoors share nothing; each signature is one of *n_words*. At every step they stop, or ask a backdoor and say
    the word that is best for them, knowing which backdoors have passed. Everything that is asked for is tried.
    """
    log10_p = log10_guess_bound(n_probes, required, -math.log10(n_words))

    def factor(said, passed):
        return 10 ** log10_e_value([passed], [log10_p]) if said or passed else 1.0

    @cache
    def value(first, second):
        best = factor(*first) * factor(*second)
        for (said, passed), other in ((first, second), (second, first)):
            if passed or sum(said) == n_probes:
                continue
            # Each word that was said too rarely so far, and one that was not said yet.
            unsaid = (0,) if len(said) < n_words else ()
            for times in {*said, *unsaid} - {required}:
                rest = list(said)
                if times:
                    rest.remove(times)
                n_open = n_words - said.count(required)
                hit = 1 / n_open if times + 1 == required else 0.0
                mean = hit * value(((), True), other)
                if hit < 1:
                    mean += (1 - hit) * value((tuple(sorted([*rest, times + 1])), False), other)
                best = max(best, mean)
        return best

    return value(((), False), ((), False))


class TestEValue:
    """The product of 1/2 + 1/2 [passed] / p."""

    @pytest.mark.parametrize("m", range(5))
    def test_agrees_with_exact_fractions(self, m):
        """For every outcome of up to four backdoors it is the product of the exact factors."""
        ps = [Fraction(1, 3), Fraction(1), Fraction(1, 1000), Fraction(1, 4096)][:m]
        for passed in itertools.product((False, True), repeat=m):
            factors = [Fraction(1, 2) + (1 / p if hit else 0) / 2 for hit, p in zip(passed, ps, strict=True)]
            assert pytest.approx(float(math.prod(factors)), rel=1e-12) == e_value(passed, ps)

    @pytest.mark.parametrize("m", range(1, 5))
    def test_its_mean_is_one_where_the_bounds_are_attained(self, m):
        """Over independent backdoors that pass with exactly p, the mean is 1, not merely below."""
        ps = [0.3, 1e-3, 0.5, 1.0][:m]
        mean = sum(
            math.prod(p if hit else 1 - p for hit, p in zip(passed, ps, strict=True)) * e_value(passed, ps)
            for passed in itertools.product((False, True), repeat=m)
        )

        assert pytest.approx(1.0, abs=1e-12) == mean

    def test_it_has_exact_values_at_its_ends(self):
        """None begun says nothing, none passed costs a half each, and what cannot be guessed says everything."""
        log10_2 = math.log10(2)

        assert 0.0 == log10_e_value([], [])
        assert -3 * log10_2 == pytest.approx(log10_e_value([False] * 3, [-19.0, -400.0, -math.inf]))
        assert 0.0 == log10_e_value([True], [0.0])
        assert math.inf == log10_e_value([True, False], [-math.inf, -1.0])
        assert 400.0 - log10_2 == pytest.approx(log10_e_value([True], [-400.0]), rel=1e-15)

    @LAWS
    @given(backdoors=backdoors, rng=st.randoms())
    def test_the_order_of_the_backdoors_is_irrelevant(self, backdoors, rng):
        """Listed in another order, not a digit changes."""
        shuffled = rng.sample(backdoors, len(backdoors))

        assert log10_e_value(*split(backdoors)) == log10_e_value(*split(shuffled))

    @LAWS
    @given(backdoors=backdoors.filter(bool), data=st.data())
    def test_one_more_pass_never_lowers_it(self, backdoors, data):
        """A backdoor that passes later counts more than it did, so a factor is at most its last value."""
        i = data.draw(st.integers(0, len(backdoors) - 1))
        passed, log10_ps = split(backdoors)
        without, with_it = [*passed[:i], False, *passed[i + 1 :]], [*passed[:i], True, *passed[i + 1 :]]

        assert log10_e_value(without, log10_ps) <= log10_e_value(with_it, log10_ps)

    @LAWS
    @given(backdoors=backdoors.filter(bool), other=log10_probabilities)
    def test_a_likelier_guess_never_raises_it(self, backdoors, other):
        """It falls in each of the bounds, but for rounding."""
        passed, log10_ps = split(backdoors)
        low, high = sorted((log10_ps[0], other))
        e_low, e_high = (log10_e_value(passed, [log10_p, *log10_ps[1:]]) for log10_p in (low, high))

        assert e_high <= e_low + 1e-12 * max(1.0, abs(e_low))

    @LAWS
    @given(backdoors=backdoors)
    def test_one_more_begun_costs_a_half_until_it_passes(self, backdoors):
        """Beginning a backdoor is a stake of one half."""
        passed, log10_ps = split(backdoors)
        begun = log10_e_value([*passed, False], [*log10_ps, -19.0])

        assert pytest.approx(log10_e_value(passed, log10_ps) - math.log10(2)) == begun

    @pytest.mark.parametrize(("passed", "log10_ps"), [([True], []), ([True], [0.1]), ([False], [math.nan])])
    def test_illegal_arguments_are_refused(self, passed, log10_ps):
        """Lists of two lengths, or a log10 that is of no probability, are errors."""
        with pytest.raises(ValueError, match="must be"):
            log10_e_value(passed, log10_ps)


def split(backdoors):
    """Return the passes and the bounds of backdoors."""
    return [hit for hit, _ in backdoors], [log10_p for _, log10_p in backdoors]


class TestStopping:
    """What stopping, order and guesses can make of it, gone through in full."""

    @pytest.mark.parametrize(
        ("n_words", "n_probes", "required"),
        [(2, 1, 1), (3, 2, 1), (5, 2, 1), (4, 4, 2), (5, 5, 2), (4, 3, 3), (2, 4, 2)],
    )
    def test_no_provider_and_no_stopping_rule_bring_its_mean_above_one(self, n_words, n_probes, required):
        """Any order of probes, any words, any stop, all knowing which backdoors have passed: the mean is at most 1."""
        assert pytest.approx(1.0, abs=1e-12) == best_expectation(n_words, n_probes, required)

    def test_a_probe_that_depends_on_hits_breaks_it(self):
        """
        The next probe may depend on a backdoor's own signature only by the backdoor being open.

        Two hits of four are needed, so q is 2 of 8. A provider that is shown its first hit repeats that word, and
        passes with 3 of 8.
        """
        n_words, n, required = 8, 4, 2

        def passes(signature):
            said = []
            while len(said) < n:
                said.append(signature if signature in said else len(said))
            return Counter(said)[signature] >= required

        log10_p = log10_guess_bound(n, required, -math.log10(n_words))
        mean = sum(10 ** log10_e_value([passes(word)], [log10_p]) for word in range(n_words)) / n_words

        assert 3 == sum(passes(word) for word in range(n_words))
        assert pytest.approx(1.25) == mean

    def test_an_order_that_depends_on_passes_needs_signatures_drawn_apart(self):
        """
        Two signatures of two bits, the second bit of one written in letters that tell the first bit of the other.

        Each string has probability 1/4 at most, given all that was drawn before. A provider that is told whether the
        one passed knows half of the other, and the mean of the e-value is 9/8.
        """
        log10_ps = [log10_guess_bound(4, 1, math.log10(1 / 4)), log10_guess_bound(1, 1, math.log10(1 / 4))]
        mean = 0.0
        for a1, a2, b1, b2 in itertools.product((0, 1), repeat=4):
            told = (b1, ("xy" if a1 == 0 else "zw")[b2])
            passed = told in {(0, "x"), (1, "x"), (0, "y"), (1, "y")}
            guess = (0 if passed else 1, 0)
            mean += 10 ** log10_e_value([passed, (a1, a2) == guess], log10_ps) / 16

        assert pytest.approx(9 / 8) == mean


class TestEPValue:
    """The p-value that is valid at every look."""

    def test_it_is_one_over_e_and_at_most_one(self):
        """Evidence of 10**5 is a p-value of 10**-5; none, or evidence against, is 1."""
        assert -5.0 == log10_e_p_value(5.0)
        assert 0.0 == log10_e_p_value(0.0)
        assert 0.0 == log10_e_p_value(-7.0)
        assert -math.inf == log10_e_p_value(math.inf)
        assert 0.0 == log10_e_p_value(-math.inf)

    @LAWS
    @given(log10_es=st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
    def test_more_evidence_is_never_a_larger_p_value(self, log10_es):
        """It falls in e."""
        low, high = sorted(log10_es)

        assert log10_e_p_value(high) <= log10_e_p_value(low) <= 0.0

    def test_no_number_is_refused(self):
        """What is not a number is an error."""
        with pytest.raises(ValueError, match="must be a number"):
            log10_e_p_value(math.nan)
