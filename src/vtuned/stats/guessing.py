"""
How likely a provider that knows nothing of a signature passes its test.

Knows the number of probes and the bound on a guess; knows nothing of how signatures are drawn or matched.
"""

from __future__ import annotations

import math
from fractions import Fraction

from vtuned.stats._arguments import check_count, check_log10
from vtuned.stats.tails import log10_binomial_tail


def required_activations(ratio: Fraction, n: int) -> int:
    """
    Return the least count that is at least *ratio* of *n*: the paper's rN (section 4.2), rounded up.

    Exact: with floats `ceil(0.14 * 50)` is 8. `Fraction("0.14")` is the decimal; `Fraction(0.14)` is the float.

    Raises ValueError unless 0 < *ratio* <= 1 and *n* >= 1.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.ceil(ratio * n)


def log10_guess_bound(n: int, required: int, log10_p_upper: float) -> float:
    """
    Return log10 of min(1, floor(n / required) * p_upper), a bound on passing by guessing.

    It holds for one signature shared by all *n* probes, however the answers were chosen, as long as they do not depend
    on the signature: *n* answers can say at most floor(n / required) different signatures *required* times each, and
    each of those is the true one with probability at most 10**log10_p_upper. A uniform codebook attains it.
    Ours, proved in docs/theory.md. *n* counts every probe of the backdoor, over all runs and endpoints.

    Raises ValueError if *n* is negative, or *log10_p_upper* is positive or not a number.
    """
    check_count("n", n)
    check_log10("log10_p_upper", log10_p_upper)
    if required <= 0:
        return 0.0
    if required > n:
        return -math.inf
    return min(0.0, math.log10(n // required) + log10_p_upper)


def log10_paper_p_value(required: int, n: int, log10_p_upper: float) -> float:
    """
    Return log10 of the paper's p-value, 1 - BinCDF(required - 1; n, p_upper) (Eq. 1).

    Kept to reproduce the paper's tables. It is not valid where one signature is shared by all probes: Eq. 1 takes the
    activations for independent, yet a guess that is right on one probe is right on all that it was given for. With
    p_upper = 1/200, 5 of 10 are passed with probability 1e-2, and Eq. 1 says 8e-10. Use `log10_guess_bound`.

    Raises ValueError if *n* is negative, or *log10_p_upper* is positive or not a number.
    """
    return log10_binomial_tail(required, n, log10_p_upper)
