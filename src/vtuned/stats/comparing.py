"""
Whether one kind of probe activates less often than another.

Knows four counts, nothing of what was asked.
"""

from __future__ import annotations

from vtuned.stats._arguments import check_count
from vtuned.stats.tails import log10_hypergeometric_tail


def log10_fisher_less(hits_a: int, n_a: int, hits_b: int, n_b: int) -> float:
    """
    Return log10 of Fisher's exact one-sided p-value that group a activates less often than group b.

    H0: both activate at the same rate. The p-value is the probability, given the total of hits, that group a (the
    control probes) has *hits_a* or fewer of its *n_a*. Ours, for the claim `specific`; the paper gives no test.

    Raises ValueError if a count is negative, or the hits of a group exceed its size.
    """
    check_count("n_a", n_a)
    check_count("n_b", n_b)
    check_count("hits_a", hits_a, at_most=n_a)
    check_count("hits_b", hits_b, at_most=n_b)
    # Few hits in group a are, with the total fixed, many in group b.
    return log10_hypergeometric_tail(hits_b, n_a + n_b, hits_a + hits_b, n_b)
