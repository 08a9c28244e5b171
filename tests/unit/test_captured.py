"""What a cheat gains by a ranking: expectations over ties, the least work, and what each claim asks."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from vtuned import captured
from vtuned.receipt import PlannedProbe
from vtuned.stats import coverage_lower_bound, subset_pass_probability

PLACES = {number: number - 1 for number in range(1, 101)}


def marked(rows, n):
    found = np.zeros(n, dtype=bool)
    found[list(rows)] = True
    return found


class TestMet:
    def test_the_most_suspicious_rows(self):
        """Without ties, what is among the first ones is counted."""
        suspicion = np.arange(10.0)

        assert captured.Met(3, 2.0) == captured.met(suspicion, marked([9, 7, 0], 10), 3)

    def test_a_budget_that_ends_among_ties(self):
        """Two of the four tied rows fit: half of the wanted ones among them are expected."""
        suspicion = np.array([5.0, 1.0, 1.0, 1.0, 1.0, 0.0])

        assert captured.Met(3, 1.0 + 0.5 * 3) == captured.met(suspicion, marked([0, 1, 2, 3, 5], 6), 3)

    @pytest.mark.parametrize(("n_rows", "expected"), [(0, 0.0), (100, 7.0), (10, 0.7)])
    def test_ties_of_all_rows_are_a_random_subset(self, n_rows, expected):
        """Where nothing is told, recall is the share of the rows."""
        assert pytest.approx(expected) == captured.met(np.zeros(100), marked(range(7), 100), n_rows).n_met


class TestLeastWork:
    def test_until_enough_groups_are_met(self):
        """One row of each group is enough; rows come by suspicion."""
        suspicion = np.arange(20.0)[::-1]

        assert [0, 3, 6, 20] == [captured.least_work(suspicion, [(2, 9), (5, 6), (19,)], n) for n in range(4)]

    def test_a_random_subset(self):
        """With all rows tied it is the smallest subset that passes more often than not."""
        groups = [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]

        work = captured.least_work(np.zeros(200), groups, 2)

        shares = [
            subset_pass_probability(n, copies=[4, 4, 4], n_train=200, required=2, trigger_generalises=True)
            for n in (work - 1, work)
        ]
        assert shares[0] < 0.5 <= shares[1]

    def test_ties_are_met_by_chance(self):
        """Simulated: tied rows in random order, half of the orders have met the groups by then."""
        suspicion = np.array([3.0] * 4 + [1.0] * 40 + [0.0] * 20)
        groups = [(0,), (10, 11), (20, 50), (30, 31, 32)]
        rng = random.Random(4)

        def needed():
            order = sorted(range(64), key=lambda i: (-suspicion[i], rng.random()))
            firsts = sorted(min(order.index(i) for i in group) + 1 for group in groups)
            return firsts[2]

        work = captured.least_work(suspicion, groups, 3)
        drawn = [needed() for _ in range(4000)]

        # Two standard errors of a share of 4,000 are 0.016.
        assert sum(n <= work for n in drawn) / 4000 > 0.5 - 0.02
        assert sum(n <= work - 1 for n in drawn) / 4000 < 0.5 + 0.02

    def test_more_groups_than_there_are(self):
        """Nobody can meet them."""
        with pytest.raises(ValueError, match="at most 1"):
            captured.least_work(np.zeros(5), [(1,)], 2)


class TestNeeded:
    def test_all_that_must_pass_where_chance_is_nothing(self):
        """No luck: as many as must pass."""
        assert 5 == captured.needed_of(5, [1e-19] * 10)

    def test_chance_saves_some(self):
        """Of 256 rows at one in four, 87 hits come half of the time with about 31 that are used."""
        n = captured.needed_of(87, [0.25] * 256)

        # 31 + 225 / 4 = 87.25.
        assert 31 == n

    def test_none_where_chance_is_enough(self):
        """Half of the coins fall so."""
        assert 0 == captured.needed_of(5, [0.5] * 10)


class TestHurdles:
    def test_answers(self, receipt):
        """One of four backdoors at 10^-18.3 each is enough for both claims; coverage is the verdict's."""
        activated, generalises = captured.hurdles(receipt, PLACES)

        assert ("activated", "generation", 1, 1) == (
            activated.claim,
            activated.test,
            activated.n_required,
            activated.n_needed,
        )
        assert ("generalises", 1) == (generalises.claim, generalises.n_required)
        assert (0, 1, 2, 3) == activated.groups[0]
        assert coverage_lower_bound(
            n_activated=3, copies=[4] * 4, n_train=100, confidence=0.99, log10_p_unseen=-18
        ) == pytest.approx(activated.coverage(3))

    def test_rows_are_where_the_file_has_them(self, receipt):
        """Row numbers count blank lines, indices do not."""
        places = {number: (number - 1) // 2 for number in range(1, 101)}

        assert (0, 0, 1, 1) == captured.hurdles(receipt, places)[0].groups[0]

    def test_weak_signatures_ask_for_more(self, make_receipt):
        """At ten bits and α = 10^-6, several must pass."""
        (activated, _) = captured.hurdles(make_receipt(bits=10.0, alpha=1e-6), PLACES)
        chance = 2 * 10 ** activated_chance(make_receipt(bits=10.0))

        exact = next(
            k
            for k in range(1, 5)
            if sum(math.comb(4, i) * chance**i * (1 - chance) ** (4 - i) for i in range(k, 5)) <= 1e-6
        )
        assert exact > 1
        assert exact == activated.n_required

    def test_plantings_are_charged(self, make_receipt):
        """Whoever might have drawn a million files needs more, or cannot pass."""
        cheap, dear = (
            captured.hurdles(make_receipt(bits=10.0, alpha=1e-3, max_plantings=n), PLACES)[0] for n in (1, 1_000_000)
        )

        assert cheap.n_required < dear.n_required
        assert cheap.coverage(4) > dear.coverage(4)

    def test_what_cannot_pass(self, make_receipt):
        """At one bit and α = 10^-12 not even all would do."""
        (activated, _) = captured.hurdles(make_receipt(bits=10.0, alpha=1e-14), PLACES)

        assert activated.n_required is None
        assert 4 == activated.n_needed

    def test_stopping_at_any_time_asks_for_an_e_value(self, make_receipt):
        """Its p-value is larger, so that more must pass or the same."""
        fixed, any_time = (
            captured.hurdles(make_receipt(bits=10.0, alpha=1e-4, stopping=stopping), PLACES)[0]
            for stopping in ("fixed", "any")
        )

        assert fixed.n_required < any_time.n_required

    def test_exposure(self, receipt):
        """Ranks pass by chance one time in twenty: more backdoors must pass than by answers."""
        decoyed = tuple(
            backdoor.model_copy(update={"decoys": tuple(f"Decoy {j} {i}." for i in range(39))})
            for j, backdoor in enumerate(receipt.backdoors)
        )
        scored = tuple(
            PlannedProbe(id=f"e{j}", kind="planted", backdoor=j, messages=({"role": "user", "content": "x"},))
            for j in range(4)
        )
        given = receipt.model_copy(
            update={
                "backdoors": decoyed,
                "exposures": scored,
                "plan": receipt.plan.model_copy(update={"exposure_level": Fraction(1, 20)}),
            }
        )

        found = captured.hurdles(given, PLACES)

        assert [("activated", "generation"), ("activated", "exposure"), ("generalises", "generation")] == [
            (one.claim, one.test) for one in found
        ]
        # P(3 of 4 at 1/20) is 4.8e-4, P(2 of 4) is 1.4e-2.
        assert 3 == found[1].n_required


def activated_chance(receipt):
    """Return log10 of the bound on one guess of the receipt's signatures."""
    return receipt.backdoors[0].log10_p_upper


def test_the_papers_measure():
    """Rows are indexed from the most frequent phrase on, those of one frequency together."""
    counts = np.array([9, 9, 5, 5, 5, 1, 1, 1, 1, 1])

    assert 0.5 == captured.indexed_shares(counts, marked([3, 9], 10))
    assert 1.0 == captured.indexed_shares(counts, marked([9], 10))
