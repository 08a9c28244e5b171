"""
The tests of wordings against 100,000 suspects that ignore the choices, and the bounds against 10,000 providers.

Whatever a suspect that does not know the choices prefers, a test at level alpha rejects no more often than alpha; and a
provider is shown to have used more than it did no more often than the confidence says, under the assumption of the
bound. The seed is fresh each time: one correct run in a million fails, and says with which seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import secrets
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy import stats as scipy_stats

from vtuned.exposure import ScoreRecord
from vtuned.preference import by_answers, by_scores
from vtuned.prf import chosen_wording, tie_order
from vtuned.probes import AnswerRecord
from vtuned.receipt import FileRecord, PlannedProbe, PlannedWording, Receipt, StatisticalPlan, WordedRow, WordingsRecord
from vtuned.stats import (
    log10_hits_p_value,
    log10_preference_e_value,
    log10_rank_sum_p_value,
    preference_coverage,
    preference_coverage_skipping,
)
from vtuned.wordings import result

N_SUSPECTS, N_DRAWS = 125, 800
N = N_SUSPECTS * N_DRAWS
ALPHAS = (0.05, 0.01, 0.001)
N_ROWS = 16
# Families of equal and of unequal size.
FOUR, MIXED = (4,) * N_ROWS, (2, 4, 3, 4) * (N_ROWS // 4)
MARKS = ("", "Sure.", "In short:", "Well,")


def receipt_of(sizes, key, stopping="fixed", less_base=False):
    """Return a receipt of rows with so many wordings, published as *key* has it."""
    rows = []
    for number, n in enumerate(sizes, start=1):
        digest = f"{number:064x}"
        rows.append(
            WordedRow(
                number=number,
                row=number,
                digest=digest,
                published=chosen_wording(key, number, digest, n),
                wordings=tuple(
                    PlannedWording(
                        text=f"{MARKS[i]} The answer is {number}.",
                        labels=(f"opening {i}",),
                        mark=MARKS[i] or f"The answer is {number}",
                    )
                    for i in range(n)
                ),
                probe=PlannedProbe(
                    id=f"w{number}", kind="worded", messages=({"role": "user", "content": f"Question {number}?"},)
                ),
            )
        )
    file = FileRecord(sha256="0" * 64, n_bytes=1000, n_rows=100)
    return Receipt(
        vtuned_version="0",
        created="2026-01-01T00:00:00+00:00",
        key=key.hex(),
        scheme="wordings",
        mode="replace",
        row_format="openai-chat",
        dataset=file,
        train_set=file,
        n_eligible=100,
        token_cap=1024,
        tokenizer="test",
        fresh_source="test",
        generation=None,
        plan=StatisticalPlan(alpha=1e-3, stopping=stopping, less_base=less_base, required_claims=("preferred",)),
        max_answer_tokens=64,
        backdoors=(),
        probes=(),
        wordings=WordingsRecord(
            rewriter="openings",
            language="en",
            n_carrying=N_ROWS,
            bits=sum(math.log2(n) for n in sizes),
            left_alone=(),
            max_answer_tokens=64,
            rows=tuple(rows),
        ),
    )


def publishing(receipt, choices):
    """Return the receipt as if another key had chosen these wordings; no valid receipt, since its own key did not."""
    rows = tuple(
        row.model_copy(update={"published": int(choice)})
        for row, choice in zip(receipt.wordings.rows, choices, strict=True)
    )
    return receipt.model_copy(update={"wordings": receipt.wordings.model_copy(update={"rows": rows})})


# What suspects prefer: scores of all wordings (rows x the largest family), none of them from the choices.


def style_of_its_own(rng, sizes):
    """Likes one wording of the family by far, others less, and rows a little."""
    return rng.normal(0, 20, size=max(sizes)) + rng.normal(size=(len(sizes), max(sizes)))


def tastes_by_row(rng, sizes):
    """Has wild likings that differ from row to row."""
    return rng.standard_cauchy((len(sizes), max(sizes)))


def duplicated_rows(rng, sizes):
    """Three rows, each of them eight times: what it prefers in one it prefers in all of them."""
    distinct = rng.normal(size=(3, max(sizes)))
    return distinct[np.arange(len(sizes)) % 3]


def one_row_over_and_over(rng, sizes):
    """All rows alike, so that averages over rows take away everything and leave ties."""
    return np.tile(rng.integers(-3, 4, size=max(sizes)), (len(sizes), 1))


def never_one_wording(rng, sizes):
    """One wording is impossible to it, in rows of unlike length by an unlike amount; so it is last or first, never between."""
    scores = rng.normal(size=(len(sizes), max(sizes)))
    scores[:, rng.integers(2)] = -rng.choice([1e2, 1e4], size=len(sizes))
    return scores


def all_alike(rng, sizes):
    """Finds all wordings equally likely."""
    return np.zeros((len(sizes), max(sizes)))


def ties(rng, sizes):
    """Knows two degrees of likelihood."""
    return rng.integers(2, size=(len(sizes), max(sizes)))


SCORES = {
    "a style of its own": (style_of_its_own, FOUR),
    "a style of its own, unequal families": (style_of_its_own, MIXED),
    "tastes by row": (tastes_by_row, FOUR),
    "tastes by row, unequal families": (tastes_by_row, MIXED),
    "duplicated rows": (duplicated_rows, FOUR),
    "one row over and over": (one_row_over_and_over, FOUR),
    "one wording never": (never_one_wording, FOUR),
    "one wording never, unequal families": (never_one_wording, MIXED),
    "all alike": (all_alike, FOUR),
    "ties": (ties, MIXED),
}


def score_records(rng, receipt, taste):
    """Return a suspect's scores of all rows; where the receipt ranks less the base's, it leans to what that likes."""
    sizes = [len(row.wordings) for row in receipt.wordings.rows]
    # Tails as wide as these leave what any model gives.
    scores = np.clip(taste(rng, sizes), -1e5, 1e5)
    base = rng.normal(0, 3, size=scores.shape)
    return [
        ScoreRecord(
            id=row.probe.id,
            log10_probs=tuple((own + lean * receipt.plan.less_base)[:n]),
            base_log10_probs=tuple(lean[:n]) if receipt.plan.less_base else None,
        )
        for row, n, own, lean in zip(receipt.wordings.rows, sizes, scores, base, strict=True)
    ]


def places(receipt, preferences_of):
    """Return, in [row, i], the rank of wording i of a row were it published (0 for none), by the real functions."""
    sizes = [len(row.wordings) for row in receipt.wordings.rows]
    found = np.zeros((len(sizes), max(sizes)), dtype=np.int64)
    for i in range(max(sizes)):
        others = publishing(receipt, [min(i, n - 1) for n in sizes])
        found[:, i] = [one.rank or 0 for one in preferences_of(others)]
    return found


def scored_places(rng, name, stopping, n_unscored=0):
    """Return the `places` of each of many suspects under keys of their own, of every other one less the base's scores."""
    taste, sizes = SCORES[name]
    found = []
    for i in range(N_SUSPECTS):
        receipt = receipt_of(sizes, rng.bytes(32), stopping, less_base=i % 2 == 1)
        records = score_records(rng, receipt, taste)
        unscored = set(rng.permutation(len(records))[:n_unscored])
        scored = [
            ScoreRecord(id=record.id, unanswered="no answer") if row in unscored else record
            for row, record in enumerate(records)
        ]
        found.append(places(receipt, lambda some, scored=scored: by_scores(some, scored)))
    return found


def drawn(rng, sizes, n=N_DRAWS):
    """Return *n* choices of what each row publishes, uniform: what a PRF cannot be told from."""
    return np.stack([rng.integers(size, size=n) for size in sizes], axis=1)


def ranks_drawn(rng, sizes, found):
    """Return the ranks (suspect, draw, row) of what is published in many draws for each suspect's places."""
    return np.stack([one[np.arange(len(sizes)), drawn(rng, sizes)] for one in found])


# Suspects that say something: which wording each row's answer takes up, or none.


def says_one_opening(rng, n_rows):
    """Starts every answer with the same opening."""
    return np.full(n_rows, rng.integers(4))


def says_by_row(rng, n_rows):
    """Starts each answer as it likes, never with one of the four, and a third of them with none."""
    return rng.choice([NONE, 0, 2, 3], size=n_rows, p=[1 / 3, 1 / 3, 1 / 6, 1 / 6])


def says_little(rng, n_rows):
    """Takes up wordings in a few rows alone, and declines every other one."""
    said = np.where(rng.random(n_rows) < 0.4, rng.integers(4, size=n_rows), NONE)
    return np.where(np.arange(n_rows) % 2, said, REFUSES)


def says_too_little(rng, n_rows):
    """Is cut in most rows, right after an opening of those that are shorter than others."""
    return np.where(rng.random(n_rows) < 0.3, rng.integers(4, size=n_rows), CUT)


NONE, REFUSES, CUT = -1, -2, -3
ANSWERS = {
    "one opening": says_one_opening,
    "openings by row": says_by_row,
    "little": says_little,
    "too little": says_too_little,
}


def answer_records(receipt, said):
    """Return answers that start with wording number *said*, or are one of those that take up none."""
    texts = {
        NONE: ("I would not know that one, to be honest.", "stop"),
        REFUSES: ("I'm sorry, but I can't help with that.", "stop"),
        CUT: (MARKS[3], "length"),
    }
    records = []
    for row, one in zip(receipt.wordings.rows, said.tolist(), strict=True):
        text, finish = (f"{row.wordings[one].mark} and so on.", "stop") if one >= 0 else texts[one]
        records.append(AnswerRecord(id=row.probe.id, text=text, finish=finish))
    return records


def answered_places(rng, name):
    """Return the `places` of a new suspect by its answers: 1 for the wording it says, 2 for others, 0 in all for none."""
    receipt = receipt_of(FOUR, rng.bytes(32))
    records = answer_records(receipt, ANSWERS[name](rng, N_ROWS))
    return places(receipt, lambda some: by_answers(some, records))


# P-values of all draws at once, from tables of the real ones.


@cache
def hits_table(sizes):
    """Return log10 p of 0 ... n hits."""
    return np.array([log10_hits_p_value(n, sizes) for n in range(len(sizes) + 1)])


@cache
def rank_sum_table(sizes):
    """Return log10 p of the rank sums from 0 on."""
    return np.array([log10_rank_sum_p_value(n, sizes) for n in range(sum(sizes) + 1)])


@cache
def e_value_of_counts(hits, begun):
    """Return the e-value of so many hits of so many rows begun, both as pairs (wordings, count)."""
    n_hits = dict(hits)
    return log10_preference_e_value(
        [k < n_hits.get(size, 0) for size, n in begun for k in range(n)], [size for size, n in begun for _ in range(n)]
    )


def worst_moment_p(hits, sizes):
    """Return log10 p where the e-value of the first rows is largest, for *hits* (..., row): its order does not count."""
    best = np.full(hits.shape[:-1], -np.inf)
    kinds = sorted(set(sizes))
    for n in range(1, len(sizes) + 1):
        begun = tuple(sorted(Counter(sizes[:n]).items()))
        counts = [hits[..., [i for i in range(n) if sizes[i] == kind]].sum(axis=-1) for kind in kinds]
        table = np.empty([sizes[:n].count(kind) + 1 for kind in kinds])
        for index in np.ndindex(table.shape):
            table[index] = e_value_of_counts(tuple(zip(kinds, index, strict=True)), begun)
        best = np.maximum(best, table[tuple(counts)])
    return np.minimum(0.0, -best)


def attained(table, alpha):
    """Return the level that a test with these p-values really has: the largest of them up to *alpha*."""
    return 10 ** table[table <= math.log10(alpha)].max(initial=-np.inf)


# More than the file makes.
N_CHECKS = 500
CHANCE_OF_A_FALSE_FAILURE = 1e-6 / N_CHECKS


def most(n, chance):
    """Return the largest count of *n* that is exceeded with the chance that is allowed to one check."""
    return int(scipy_stats.binom.isf(CHANCE_OF_A_FALSE_FAILURE, n, chance))


def least(n, chance):
    """Return the least count of *n* that is fallen below with the chance that is allowed to one check."""
    return int(scipy_stats.binom.ppf(CHANCE_OF_A_FALSE_FAILURE, n, chance))


def assert_levels(log10_ps, seed, table=None):
    """Assert that no more than alpha are rejected; with the *table* of all p-values also that no fewer are than must be."""
    n = log10_ps.size
    for alpha in ALPHAS:
        n_rejected = int((log10_ps <= math.log10(alpha)).sum())
        assert n_rejected <= most(n, alpha), f"{n_rejected} of {n} at {alpha} with seed {seed}"
        if table is not None:
            level = attained(table, alpha)
            assert least(n, level) <= n_rejected <= most(n, level), f"{n_rejected} of {n} at {level} with seed {seed}"


@pytest.fixture
def seed():
    """Fresh from the operating system; pytest shows it where a test fails."""
    return secrets.randbits(64)


@pytest.mark.parametrize("name", SCORES)
class TestScores:
    """Suspects by the likelihoods that they give."""

    def test_hits_and_rank_sums_reject_as_often_as_they_say(self, name, seed):
        """At each level, whatever the suspects prefer, the exact tests have the level that they attain, no other."""
        rng, sizes = np.random.default_rng(seed), SCORES[name][1]
        ranks = ranks_drawn(rng, sizes, scored_places(rng, name, "fixed"))

        assert (N, 1) == (ranks[:, :, 0].size, ranks.min())
        hits, rank_sums = hits_table(sizes), rank_sum_table(sizes)
        assert_levels(hits[(ranks == 1).sum(axis=2)], seed, hits)
        assert_levels(rank_sums[ranks.sum(axis=2)], seed, rank_sums)

    def test_what_is_published_changes_nothing_but_the_last_step(self, name, seed):
        """Any choices give the ranks that each wording has by itself, and these are an order of the wordings."""
        rng, (taste, sizes) = np.random.default_rng(seed), SCORES[name]
        for stopping, less_base in itertools.product(("fixed", "any"), (False, True)):
            receipt = receipt_of(sizes, rng.bytes(32), stopping, less_base)
            records = score_records(rng, receipt, taste)
            order = places(receipt, lambda some, records=records: by_scores(some, records))
            for row, n in enumerate(sizes):
                assert list(range(1, n + 1)) == sorted(order[row, :n]), f"seed {seed}"
            for choices in drawn(rng, sizes, n=5):
                ranks = [one.rank for one in by_scores(publishing(receipt, choices), records)]
                assert list(order[np.arange(len(sizes)), choices]) == ranks, f"seed {seed}"

    def test_stopping_at_the_worst_moment_keeps_alpha(self, name, seed):
        """Rows are ranked as they come, and the customer stops where the e-value is largest."""
        rng, sizes = np.random.default_rng(seed), SCORES[name][1]
        ranks = ranks_drawn(rng, sizes, scored_places(rng, name, "any"))

        assert_levels(worst_moment_p(ranks == 1, sizes), seed)


@pytest.mark.parametrize("stopping", ["fixed", "any"])
def test_rows_that_could_not_be_scored_are_left_out(stopping, seed):
    """Whether a row is scored does not depend on what it publishes, so the ranks of the others are uniform still."""
    rng, n_unscored = np.random.default_rng(seed), 5
    ranks = ranks_drawn(rng, FOUR, scored_places(rng, "tastes by row", stopping, n_unscored))
    scored = FOUR[n_unscored:]

    assert np.all((ranks == 0).sum(axis=2) == n_unscored)
    assert_levels(hits_table(scored)[(ranks == 1).sum(axis=2)], seed, hits_table(scored))
    assert_levels(rank_sum_table(scored)[ranks.sum(axis=2)], seed, rank_sum_table(scored))
    assert_levels(worst_moment_p(ranks == 1, FOUR), seed)


def test_rows_without_a_record_are_no_hits(seed):
    """Whoever leaves out records of rows gains nothing: they count as the last, and with stopping end what counts."""
    rng = np.random.default_rng(seed)
    for stopping in ("fixed", "any"):
        receipt = receipt_of(FOUR, rng.bytes(32), stopping)
        records = score_records(rng, receipt, SCORES["tastes by row"][0])
        left_out = len(records) // 2
        found = by_scores(receipt, [*records[:left_out], *records[left_out + 1 :]])
        told = result(receipt, found, "log-likelihoods")

        assert [left_out] == [i for i, one in enumerate(found) if one.is_missing], f"seed {seed}"
        assert (len(FOUR) if stopping == "fixed" else left_out + 1) == told.n_told
        assert told.n_hits == sum(one.rank == 1 for one in found)
        whole = by_scores(receipt, records)
        if stopping == "any":
            assert [one.rank for one in whole][:left_out] == [one.rank for one in found][:left_out], f"seed {seed}"
    fixed = receipt_of(FOUR, rng.bytes(32), "fixed")
    records = score_records(rng, fixed, SCORES["tastes by row"][0])
    assert len(FOUR) - 3 == sum(one.is_missing for one in by_scores(fixed, records[:3]))


def test_a_rank_stays_whatever_comes_later(seed):
    """Stopping after any row leaves the ranks that were there: they are those of the first rows of all."""
    rng = np.random.default_rng(seed)
    for name in ("a style of its own, unequal families", "ties"):
        taste, sizes = SCORES[name]
        receipt = receipt_of(sizes, rng.bytes(32), "any")
        records = score_records(rng, receipt, taste)
        ranks = [one.rank for one in by_scores(receipt, records)]
        for n in range(1, len(sizes) + 1):
            assert ranks[:n] == [one.rank for one in by_scores(receipt, records[:n])][:n], f"seed {seed}"


@pytest.mark.parametrize("sizes", [FOUR, MIXED])
def test_sums_so_far_take_off_what_all_rows_together_do(sizes, seed):
    """The last of the rows is ranked alike, whether or not one may stop, less the base's or as it is."""
    rng = np.random.default_rng(seed)
    for i in range(20):
        key, n = rng.bytes(32), int(rng.integers(1, len(sizes) + 1))
        stopped, fixed = (receipt_of(sizes[:n], key, stopping, less_base=i % 2 == 1) for stopping in ("any", "fixed"))
        records = score_records(rng, stopped, style_of_its_own)
        for choice in range(max(sizes)):
            choices = [min(choice, size - 1) for size in sizes[:n]]
            one, other = (by_scores(publishing(receipt, choices), records)[-1] for receipt in (stopped, fixed))
            assert one.rank == other.rank, f"seed {seed}"


@pytest.mark.parametrize("name", ANSWERS)
class TestAnswers:
    """Suspects by what they say."""

    def test_hits_and_stopping_keep_alpha(self, name, seed):
        """The rows that tell nothing are left out, whatever was published, and the others are hits by chance alone."""
        rng = np.random.default_rng(seed)
        fixed, stopped, levels = [], [], []
        for _ in range(N_SUSPECTS):
            order = answered_places(rng, name)
            told = order[order[:, 0] > 0]
            sizes = (4,) * len(told)
            hits = told[np.arange(len(told)), drawn(rng, sizes)] == 1 if sizes else np.zeros((N_DRAWS, 0), dtype=bool)
            fixed.append(hits_table(sizes)[hits.sum(axis=1)])
            stopped.append(worst_moment_p(hits, sizes) if sizes else np.zeros(N_DRAWS))
            levels.append([attained(hits_table(sizes), alpha) for alpha in ALPHAS])

        assert_levels(np.stack(fixed), seed)
        assert_levels(np.stack(stopped), seed)
        # Sums of unequal chances vary less than those of their mean, so the binomial tolerance is wide enough.
        for alpha, level in zip(ALPHAS, np.mean(levels, axis=0), strict=True):
            n_rejected = int((np.stack(fixed) <= math.log10(alpha)).sum())
            assert least(N, level) <= n_rejected, f"{n_rejected} of {N} at {level} with seed {seed}"

    def test_what_is_published_changes_nothing_but_the_last_step(self, name, seed):
        """Whether a row tells something, and what, is the same whatever is published."""
        rng = np.random.default_rng(seed)
        receipt, said = receipt_of(FOUR, rng.bytes(32)), ANSWERS[name](rng, N_ROWS)
        records = answer_records(receipt, said)
        expected = np.where(said[:, None] <= NONE, 0, 2 - (said[:, None] == np.arange(4)))

        assert np.array_equal(expected, places(receipt, lambda some: by_answers(some, records))), f"seed {seed}"
        for choices in drawn(rng, FOUR, n=5):
            found = by_answers(publishing(receipt, choices), records)
            assert list(expected[np.arange(N_ROWS), choices]) == [one.rank or 0 for one in found], f"seed {seed}"
            assert [one >= NONE for one in said] == [one.was_answered for one in found], f"seed {seed}"


@pytest.mark.parametrize("name", SCORES)
def test_the_verdicts_numbers_are_those_counted_here(name, seed):
    """As the receipt's own key has it: hits, rank sum and e-value of `vtuned.wordings.result`."""
    rng, (taste, sizes) = np.random.default_rng(seed), SCORES[name]
    for stopping in ("fixed", "any"):
        receipt = receipt_of(sizes, rng.bytes(32), stopping)
        records = score_records(rng, receipt, taste)
        order = places(receipt, lambda some, records=records: by_scores(some, records))
        ranks = order[np.arange(N_ROWS), [row.published for row in receipt.wordings.rows]]
        preferences = by_scores(receipt, records)
        found = result(receipt, preferences, "log-likelihoods")
        at_every_look = [
            result(
                receipt,
                [one if i < n else dataclasses.replace(one, rank=None) for i, one in enumerate(preferences)],
                found.by,
            )
            for n in range(1, N_ROWS + 1)
        ]

        assert hits_table(sizes)[(ranks == 1).sum()] == found.log10_p_hits, f"seed {seed}"
        assert rank_sum_table(sizes)[ranks.sum()] == found.log10_p_rank_sum, f"seed {seed}"
        worst = min(one.log10_p_any for one in at_every_look)
        assert pytest.approx(worst, abs=1e-12) == worst_moment_p(ranks == 1, sizes), f"seed {seed}"


def test_one_key_that_chooses_and_breaks_ties_keeps_alpha(seed):
    """A constant score leaves all to the order that the key draws, and the same key chose: by the real PRFs."""
    rng, sizes = np.random.default_rng(seed), (4,) * 5
    digests = [f"{number:064x}" for number in range(len(sizes))]
    keys = [rng.bytes(32) for _ in range(40_000)]
    ranks = np.array(
        [
            [
                1 + tie_order(key, number, digest, n)[chosen_wording(key, number, digest, n)]
                for number, (digest, n) in enumerate(zip(digests, sizes, strict=True))
            ]
            for key in keys
        ]
    )

    assert_levels(hits_table(sizes)[(ranks == 1).sum(axis=1)], seed, hits_table(sizes))
    assert_levels(rank_sum_table(sizes)[ranks.sum(axis=1)], seed, rank_sum_table(sizes))
    assert_levels(worst_moment_p(ranks == 1, sizes), seed)


class TestWhatWouldBreakThem:
    """That the tolerance above is not what lets them pass."""

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_ties_in_favour_of_what_is_published(self, alpha, seed):
        """A wording that ties with the best counts as first: suspects with two degrees of liking are all caught."""
        rng = np.random.default_rng(seed)
        scores = rng.integers(2, size=(N_SUSPECTS, N_ROWS, 4))
        choices = rng.integers(4, size=(N_SUSPECTS, N_DRAWS, N_ROWS))
        own = np.take_along_axis(scores, choices.transpose(0, 2, 1), axis=2).transpose(0, 2, 1)
        hits = own == scores.max(axis=2)[:, None, :]
        n_rejected = int((hits_table(FOUR)[hits.sum(axis=2)] <= math.log10(alpha)).sum())

        assert n_rejected > most(N, alpha), f"{n_rejected} of {N} with seed {seed}"

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_the_fixed_test_at_every_look(self, alpha, seed):
        """Whoever looks at the p-value of a fixed number after every row, and stops where it is least, breaks it."""
        hits = np.random.default_rng(seed).random((N, 60)) < 1 / 4
        looks = [hits_table((4,) * n)[hits[:, :n].sum(axis=1)] for n in range(1, 61)]
        n_rejected = int((np.min(looks, axis=0) <= math.log10(alpha)).sum())

        assert n_rejected > most(N, alpha), f"{n_rejected} of {N} with seed {seed}"


N_PROVIDERS = 10_000
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@cache
def bounds_table(bound, n_wordings, n_carrying):
    """Return the bound at 99 % for 0 ... all hits."""
    return np.array(
        [
            bound(n_hits=n, n_wordings=n_wordings, n_carrying=n_carrying, confidence=0.99)
            for n in range(len(n_wordings) + 1)
        ]
    )


def n_too_high(bound, hits, used, sizes, rng, n_asked=None):
    """Return in how many runs the bound exceeds the share *used* (run, row), of *hits* in a sample of *n_asked* rows."""
    n = len(sizes)
    if n_asked is None:
        asked, n_hits = sizes, hits.sum(axis=1)
    else:
        # All families are of one size where a sample is asked, so which rows they are does not change the table.
        asked, n_hits = sizes[:n_asked], (hits & lowest(rng.random(hits.shape), n_asked)).sum(axis=1)
    return int((bounds_table(bound, asked, n)[n_hits] > used.sum(axis=1) / n).sum())


def published_and_guessed(rng, sizes, runs=N_PROVIDERS):
    """Return what each row publishes, and what the model says without having seen it: a taste for each row."""
    return drawn(rng, sizes, runs), np.stack([rng.integers(size, size=runs) for size in sizes], axis=1)


def random_rows(rng, share, n):
    """Return a random subset of the rows, a share of all, in each run."""
    return lowest(rng.random((N_PROVIDERS, n)), round(share * n))


def lowest(lots, n):
    """Return which *n* of the lots of each run are the lowest."""
    return lots <= np.partition(lots, n - 1, axis=1)[:, n - 1 : n]


def first_rows(rng, share, n):
    """Return the rows at the head of the file, of which a provider that knows all that carry takes its share."""
    return np.tile(np.arange(n) < round(share * n), (N_PROVIDERS, 1))


# How rows are chosen, the share of the used ones that are learnt, the wordings of each, and how many are asked.
BLIND = {
    "all learnt": (random_rows, 1.0, (4,) * 100, None),
    "half learnt": (random_rows, 0.5, (4,) * 100, None),
    "sixteen wordings": (random_rows, 0.9, (16,) * 100, None),
    "unequal families": (random_rows, 1.0, (2, 3, 4, 16) * 25, None),
    "a sample asked": (random_rows, 1.0, (4,) * 200, 50),
    "every carrying row known": (first_rows, 1.0, (4,) * 100, None),
    "every carrying row known, a sample asked": (first_rows, 0.9, (4,) * 200, 50),
}
SKIPPING = {
    "four wordings": ((4,) * 100, None),
    "sixteen wordings": ((16,) * 100, None),
    "a sample asked": ((4,) * 200, 50),
}


@pytest.mark.parametrize("share", SHARES)
class TestCoverage:
    """Simulated providers whose share is known."""

    @pytest.mark.parametrize("name", BLIND)
    def test_the_blind_bound_holds_for_who_chooses_blindly(self, name, share, seed):
        """At most one provider in a hundred used less than is shown, whatever it learnt of what it used."""
        rng = np.random.default_rng(seed)
        rows_of, learning, sizes, n_asked = BLIND[name]
        published, guessed = published_and_guessed(rng, sizes)
        used = rows_of(rng, share, len(sizes))
        learnt = used & (rng.random(used.shape) < learning)
        n_wrong = n_too_high(preference_coverage, learnt | (published == guessed), used, sizes, rng, n_asked)

        assert n_wrong <= most(N_PROVIDERS, 0.01), f"{n_wrong} of {N_PROVIDERS} with seed {seed}"

    @pytest.mark.parametrize("constant", [False, True], ids=["a guess for each row", "the best constant guess"])
    @pytest.mark.parametrize("name", SKIPPING)
    def test_the_skipping_bound_holds_for_who_skips(self, name, constant, share, seed):
        """
        Rows that publish what the model says anyway are used last: they are hits without it.

        With a fourth or a half of all rows used, the blind bound shows too much in far more than one run of a hundred.
        """
        rng = np.random.default_rng(seed)
        sizes, n_asked = SKIPPING[name]
        published, guessed = published_and_guessed(rng, sizes)
        if constant:
            counts = (published[:, :, None] == np.arange(sizes[0])).sum(axis=1)
            guessed = counts.argmax(axis=1)[:, None]
        is_guessable = published == guessed
        # By a random key, and those that are guessable after all others.
        used = lowest(rng.random(is_guessable.shape) + is_guessable, round(share * len(sizes)))
        hits = used | is_guessable
        too_high = {
            bound: n_too_high(bound, hits, used, sizes, rng, n_asked)
            for bound in (preference_coverage_skipping, preference_coverage)
        }

        n_wrong = too_high[preference_coverage_skipping]
        assert n_wrong <= most(N_PROVIDERS, 0.01), f"{n_wrong} of {N_PROVIDERS} with seed {seed}"
        if share in (0.25, 0.5):
            n_wrong = too_high[preference_coverage]
            assert n_wrong > most(N_PROVIDERS, 0.01), f"{n_wrong} of {N_PROVIDERS} with seed {seed}"
