"""
Every p-value of the product against 100,000 providers that do not know what the customer drew.

Whatever they and a customer who wants to see them caught do within the rules, a test at level alpha rejects no more
often than alpha. The seed is fresh each time: one correct run in a million fails, and says with which seed.
"""

from __future__ import annotations

import math
import secrets
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from scipy import stats as scipy_stats

from vtuned.stats import (
    exposure_level,
    gain_upper_bound,
    log10_binomial_tail,
    log10_coverage_tail,
    log10_e_p_value,
    log10_e_value,
    log10_guess_bound,
    log10_paper_p_value,
    log10_poisson_binomial_tail,
    log10_rank_p_value,
    log10_signed_rank_p_value,
    signed_rank_interval,
)

N = 100_000
ALPHAS = (0.05, 0.01, 0.001)


def looked_up(function, *columns):
    """Return `function(*row)` for each row of the whole-number *columns*, called once for each different row."""
    table = np.column_stack(columns).astype(np.int64)
    shifts = np.cumsum([0, *(int(column.max() - column.min()).bit_length() for column in table.T)])
    codes = sum((column - column.min()) << shift for column, shift in zip(table.T, shifts[:-1], strict=True))
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    return np.array([function(*row) for row in table[first].tolist()])[which]


def hits(signatures, guesses):
    """Return how many of the *guesses* (provider, backdoor, probe) are the signature (provider, backdoor)."""
    return (guesses == signatures[:, :, None]).sum(axis=2)


def words_said(rng, n_words, n_probes, times):
    """Return guesses of each provider for one backdoor: a word of its own *times* times, then the next one."""
    return (rng.integers(n_words, size=(N, 1)) + np.arange(n_probes) // times) % n_words


def p_of_passes(n_passed, log10_ps):
    """Return the p-value of so many backdoors passing."""
    return looked_up(lambda count: log10_poisson_binomial_tail(count, log10_ps), n_passed)


def generation_p(rng, backdoors):
    """Return p-values of providers that say each word as often as is needed; *backdoors* are (words, n, required)."""
    n_passed = sum(
        hits(rng.integers(n_words, size=(N, 1)), words_said(rng, n_words, n, required)[:, None, :])[:, 0] >= required
        for n_words, n, required in backdoors
    )
    return p_of_passes(
        n_passed, [log10_guess_bound(n, required, -math.log10(n_words)) for n_words, n, required in backdoors]
    )


def one_fixed_guess(rng):
    """Each provider says one word to all probes of a backdoor."""
    n_words, n = 20, 5
    signatures = rng.integers(n_words, size=(N, 3))
    guesses = np.repeat(rng.integers(n_words, size=(N, 3, 1)), n, axis=2)
    return p_of_passes(
        (hits(signatures, guesses) == n).sum(axis=1), [log10_guess_bound(n, n, -math.log10(n_words))] * 3
    )


def several_endpoints(rng):
    """A provider says other words at each of three endpoints; all probes count, and so do all hits."""
    n_words, n_endpoints, n, required = 121, 3, 4, 2
    signatures = rng.integers(n_words, size=(N, 1))
    guesses = words_said(rng, n_words, n_endpoints * n, required)
    passed = hits(signatures, guesses[:, None, :])[:, 0] >= required
    return p_of_passes(passed, [log10_guess_bound(n_endpoints * n, required, -math.log10(n_words))])


def several_looks(rng):
    """The endpoints are judged one by one; the customer keeps the smallest p-value, times their number."""
    n_words, n_looks, n, required = 400, 4, 10, 2
    signatures = rng.integers(n_words, size=(N, 1))
    bound = log10_guess_bound(n, required, -math.log10(n_words))
    ps = [
        p_of_passes(hits(signatures, words_said(rng, n_words, n, required)[:, None, :])[:, 0] >= required, [bound])
        for _ in range(n_looks)
    ]
    return np.min(ps, axis=0) + math.log10(n_looks)


def redraws_and_plantings(rng):
    """
    Of R draws the customer keeps the signature that the provider would say first; of L plantings the one that passes.

    The bound on a signature is charged R, the p-value L, whatever was needed.
    """
    n_words, n_draws, n_plantings, n_backdoors, n = 2000, 4, 5, 3, 5
    ps = []
    for _ in range(n_plantings):
        signatures = rng.integers(n_words, size=(N, n_backdoors, n_draws)).min(axis=2)
        bound = log10_guess_bound(n, 1, math.log10(n_draws / n_words))
        ps.append(p_of_passes((signatures < n).sum(axis=1), [bound] * n_backdoors))
    return np.min(ps, axis=0) + math.log10(n_plantings)


def smallest_of_three_tests(rng):
    """Fixed n, e-value and exposure on the same backdoors, and the smallest p-value of the three, times three."""
    n_words, n, n_backdoors, n_decoys = 100, 5, 4, 59
    signatures = rng.integers(n_words, size=(N, n_backdoors))
    passed = signatures < n
    bounds = [log10_guess_bound(n, 1, -math.log10(n_words))] * n_backdoors
    above = sum(rng.integers(n_words, size=(N, n_backdoors)) <= signatures for _ in range(n_decoys))
    level = exposure_level(Fraction(1, 20), n_decoys)
    ranked = looked_up(lambda count: log10_rank_p_value(count, n_decoys), above.ravel()) <= math.log10(level)
    ps = [
        p_of_passes(passed.sum(axis=1), bounds),
        worst_moment([passed[:, :j] for j in range(1, n_backdoors + 1)], bounds),
        p_of_passes(ranked.reshape(N, n_backdoors).sum(axis=1), [math.log10(level)] * n_backdoors),
    ]
    return np.min(ps, axis=0) + math.log10(3)


def worst_moment(moments, bounds):
    """Return the smallest p-value of the e-values at all *moments*: which of the first backdoors have passed."""
    best = np.full(N, -np.inf)
    for passed in moments:
        begun = bounds[: passed.shape[1]]
        codes = (passed << np.arange(passed.shape[1])).sum(axis=1)
        e_values = looked_up(
            lambda code, begun=begun: log10_e_value([bool(code >> j & 1) for j in range(len(begun))], begun), codes
        )
        best = np.maximum(best, e_values)
    return np.array([log10_e_p_value(e) for e in best])


def stopped_at_the_worst_moment(rng, n_words=(39, 40, 60, 80, 100, 150, 199, 400), n=3):
    """The probes go round the backdoors in the committed order, and the customer stops where the e-value is largest."""
    bounds = [log10_guess_bound(n, 1, -math.log10(words)) for words in n_words]
    signatures = np.column_stack([rng.integers(words, size=N) for words in n_words])
    moments = []
    for i in range(n):
        for j in range(len(n_words)):
            n_begun = len(n_words) if i else j + 1
            n_asked = i + (np.arange(n_begun) <= j)
            moments.append(signatures[:, :n_begun] < n_asked)
    return worst_moment(moments, bounds)


def stopped_among_easy_backdoors(rng):
    """Fourteen backdoors of two words each: small steps, so that the largest e-value comes near what it may be."""
    passed = rng.integers(2, size=(N, 14)) == rng.integers(2, size=(N, 14))
    bounds = [log10_guess_bound(1, 1, math.log10(1 / 2))] * 14
    return worst_moment([passed[:, :j] for j in range(1, 15)], bounds)


def stopped_at_the_worst_moment_of_signatures_drawn_together(rng):
    """
    In the committed order signatures need not be drawn apart: here one of two tells the last bit of the other.

    That one ends in x or y where the bit is 0, in z or w where it is 1. The provider says all that end in 0, and all
    that end in x: either passes with 1/2 at most, and the second only together with the first.
    """
    n_pairs = 5
    bits = rng.integers(2, size=(N, n_pairs, 2))
    ends_in_0 = bits[:, :, 0] == 0
    pairs = [ends_in_0, ends_in_0 & (bits[:, :, 1] == 0)]
    passed = np.stack(pairs if rng.integers(2) else pairs[::-1], axis=2).reshape(N, -1)
    return worst_moment([passed[:, :j] for j in range(1, 2 * n_pairs + 1)], [math.log10(1 / 2)] * (2 * n_pairs))


def adaptive_order(rng):
    """
    Which backdoor comes next, and when one is given up, depends on what passed; the provider never repeats a word.

    After a pass the next is the hardest that is left, after a failure the easiest; after two failures in a row a
    backdoor is given up halfway. The customer stops where the e-value is largest.
    """
    n_words, n = np.array([39, 60, 80, 120, 200, 400, 800, 1600]), 4
    m = len(n_words)
    bounds = [log10_guess_bound(n, 1, -math.log10(words)) for words in n_words]
    easiest, hardest = np.zeros(N, dtype=int), np.full(N, m - 1)
    n_failed, begun, passed = np.zeros(N, dtype=int), np.zeros(N, dtype=int), np.zeros(N, dtype=int)
    best = np.zeros(N)
    for i in range(m):
        takes_hardest = (n_failed == 0) & (i > 0)
        which = np.where(takes_hardest, hardest, easiest)
        hardest, easiest = hardest - takes_hardest, easiest + ~takes_hardest
        hit = rng.integers(n_words[which]) < np.where(n_failed >= 2, n // 2, n)
        n_failed = np.where(hit, 0, n_failed + 1)
        begun, passed = begun | 1 << which, passed | hit.astype(int) << which
        best = np.maximum(best, looked_up(partial(_e_value_of_masks, bounds), begun, passed))
    return np.array([log10_e_p_value(e) for e in best])


def _e_value_of_masks(bounds, begun, passed):
    members = [j for j in range(len(bounds)) if begun >> j & 1]
    return log10_e_value([bool(passed >> j & 1) for j in members], [bounds[j] for j in members])


def rank_among_decoys(rng, n_values, n_decoys=999):
    """One signature among its decoys, under a score that takes *n_values* values."""
    scores = rng.integers(n_values, size=N)
    # Decoys score independently, so how many are at or above is binomial.
    above = rng.binomial(n_decoys, 1 - scores / n_values)
    return looked_up(lambda count: log10_rank_p_value(count, n_decoys), above)


def ranks_of_backdoors(rng, n_values):
    """Twelve backdoors, each with decoys of its own, that count as seen from a level on."""
    n_backdoors, n_decoys = 12, 40
    scores = rng.integers(n_values, size=(N, n_backdoors))
    above = sum(rng.integers(n_values, size=(N, n_backdoors)) >= scores for _ in range(n_decoys))
    level = exposure_level(Fraction(1, 20), n_decoys)
    p = looked_up(lambda count: log10_rank_p_value(count, n_decoys), above.ravel()).reshape(N, n_backdoors)
    return p_of_passes((p <= math.log10(level)).sum(axis=1), [math.log10(level)] * n_backdoors)


def specific(rng, rate=0.5):
    """A signature comes with the trigger alone as often as without it alone, on as many pairs as chance has it."""
    n_differing = rng.binomial(30, 0.6, size=N)
    with_only = rng.binomial(n_differing, rate)
    return looked_up(lambda x, d: log10_binomial_tail(x, d, math.log10(0.5)), with_only, n_differing)


def coverage(rng):
    """A provider trained on 60 of 100 rows; 10 backdoors of one row are seen if trained on, or by a chance of 1/20."""
    planting = {"copies": [1] * 10, "n_train": 100, "n_subset": 60, "log10_p_unseen": math.log10(1 / 20)}
    n_trained = rng.hypergeometric(10, 90, 60, size=N)
    n_seen = n_trained + rng.binomial(10 - n_trained, 1 / 20)
    return looked_up(lambda count: log10_coverage_tail(count, **planting), n_seen)


def tied_gains(rng, centre=0):
    """Twelve rows of unlike laws on few numbers, symmetric about *centre*, many of them tied or equal to it."""
    sizes = np.array([1, 1, 1, 2, 2, 1, 1, 2, 1, 2, 1, 1])
    chance_of_zero = np.array([0.0, 0.5, 0.2] * 4)
    signs = rng.choice([-1, 1], size=(N, 12))
    return np.sort(centre + signs * sizes * (rng.random((N, 12)) >= chance_of_zero), axis=1)


def signed_ranks_with_ties(rng, centre, margin):
    """The gains are symmetric about a centre within the margin."""
    return looked_up(lambda *row: log10_signed_rank_p_value(row, margin), *tied_gains(rng, centre).T)


def signed_ranks_with_wild_rows(rng):
    """Thirty rows without ties, some a thousand times as wild as others; the mean of such has no law to rely on."""
    gains = rng.standard_cauchy((N, 30)) * np.logspace(0, 3, 30)
    ranks = np.abs(gains).argsort(axis=1).argsort(axis=1) + 1
    return looked_up(_p_value_of_rank_sum, (ranks * (gains > 0)).sum(axis=1))


def _p_value_of_rank_sum(rank_sum):
    """Return the p-value of thirty rows without ties with this sum of ranks above 0."""
    values = []
    for rank in range(30, 0, -1):
        values.append(rank if rank <= rank_sum else -rank)
        rank_sum -= max(0, values[-1])
    assert rank_sum == 0
    return log10_signed_rank_p_value(values)


SCENARIOS = {
    "one fixed guess": one_fixed_guess,
    "guesses spread over prompts": partial(generation_p, backdoors=[(201, 10, 1)]),
    "guesses spread, two of ten needed": partial(generation_p, backdoors=[(101, 10, 2)]),
    "guesses spread, a bound of a thousandth": partial(generation_p, backdoors=[(2001, 10, 5)]),
    "four alike backdoors": partial(generation_p, backdoors=[(60, 3, 1)] * 4),
    "unequal backdoors": partial(
        generation_p, backdoors=[(20, 3, 3), (50, 5, 2), (200, 10, 1), (2000, 10, 1), (400, 7, 3)]
    ),
    "several endpoints": several_endpoints,
    "several looks": several_looks,
    "redraws and plantings": redraws_and_plantings,
    "smallest of three tests": smallest_of_three_tests,
    "stopped at the worst moment": stopped_at_the_worst_moment,
    "stopped among easy backdoors": stopped_among_easy_backdoors,
    "stopped, signatures drawn together": stopped_at_the_worst_moment_of_signatures_drawn_together,
    "adaptive order": adaptive_order,
    "rank without ties": partial(rank_among_decoys, n_values=10**9),
    "rank with ties": partial(rank_among_decoys, n_values=200),
    "rank under a constant score": partial(rank_among_decoys, n_values=1),
    "ranks of backdoors": partial(ranks_of_backdoors, n_values=10**6),
    "ranks of backdoors with ties": partial(ranks_of_backdoors, n_values=30),
    "specific": specific,
    "specific, trigger in disfavour": partial(specific, rate=0.4),
    "coverage": coverage,
    "signed ranks with ties": partial(signed_ranks_with_ties, centre=0, margin=0.0),
    "signed ranks with ties at a margin": partial(signed_ranks_with_ties, centre=3, margin=3.0),
    "signed ranks below a margin": partial(signed_ranks_with_ties, centre=0, margin=0.5),
    "signed ranks of wild rows": signed_ranks_with_wild_rows,
}
# Those whose p-value takes every level here as it is: they show that the tolerance is not what lets the others pass.
ATTAINING = {
    "guesses spread over prompts": 0.05,
    "guesses spread, two of ten needed": 0.05,
    "several endpoints": 0.05,
    "guesses spread, a bound of a thousandth": 0.001,
    "rank without ties": 0.01,
}
N_BROKEN = 3
N_CHECKS = len(SCENARIOS) * len(ALPHAS) + len(ATTAINING) + N_BROKEN + 3 * len(ALPHAS)
CHANCE_OF_A_FALSE_FAILURE = 1e-6 / N_CHECKS


def most_rejections(alpha):
    """Return the largest count that a test at level *alpha* exceeds with the chance that is allowed to one check."""
    return int(scipy_stats.binom.isf(CHANCE_OF_A_FALSE_FAILURE, N, alpha))


def least_rejections(alpha):
    """Return the least count that a test which attains *alpha* falls below with the chance allowed to one check."""
    return int(scipy_stats.binom.ppf(CHANCE_OF_A_FALSE_FAILURE, N, alpha))


@pytest.fixture
def seed():
    """Fresh from the operating system; pytest shows it where a test fails."""
    return secrets.randbits(64)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_more_false_alarms_than_alpha(name, seed):
    """At each level, no more providers that know nothing are caught than chance allows."""
    log10_ps = SCENARIOS[name](np.random.default_rng(seed))
    counts = {alpha: int((log10_ps <= math.log10(alpha)).sum()) for alpha in ALPHAS}

    assert (N,) == log10_ps.shape
    for alpha in ALPHAS:
        assert counts[alpha] <= most_rejections(alpha), f"{name}: {counts} of {N} with seed {seed}"
    if name in ATTAINING:
        alpha = ATTAINING[name]
        assert least_rejections(alpha) <= counts[alpha], f"{name}: {counts} of {N} with seed {seed}"


def test_a_constant_score_never_passes(seed):
    """Where all candidates tie, p is 1 for every provider."""
    assert 0.0 == SCENARIOS["rank under a constant score"](np.random.default_rng(seed)).min()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_gain_is_bounded_too_low(alpha, seed):
    """The bounds of the gain miss its centre in no more runs than they say, with ties and rows of unlike laws."""
    gains = tied_gains(np.random.default_rng(seed)).T
    too_low = looked_up(lambda *row: gain_upper_bound(row, 1 - alpha) < 0, *gains).sum()
    outside = looked_up(lambda *row: signed_rank_interval(row, 1 - 2 * alpha), *gains)

    assert too_low <= most_rejections(alpha), f"seed {seed}"
    assert (outside[:, 1] < 0).sum() <= most_rejections(alpha), f"seed {seed}"
    assert (outside[:, 0] > 0).sum() <= most_rejections(alpha), f"seed {seed}"


@pytest.mark.parametrize(("alpha", "n_words"), [(0.05, 10), (0.01, 10), (0.001, 200)])
def test_the_papers_binomial_raises_false_alarms(alpha, n_words, seed):
    """Eq. 1 takes ten hits of one shared signature for independent: two words, five times each, beat every level."""
    n, required = 10, 5
    rng = np.random.default_rng(seed)
    n_hits = hits(rng.integers(n_words, size=(N, 1)), words_said(rng, n_words, n, required)[:, None, :])[:, 0]
    log10_ps = looked_up(lambda count: log10_paper_p_value(count, n, -math.log10(n_words)), n_hits)
    n_rejected = int((log10_ps <= math.log10(alpha)).sum())

    assert n_rejected > most_rejections(alpha), f"{n_rejected} of {N} with seed {seed}"
