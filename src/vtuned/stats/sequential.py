"""
Evidence that may be looked at after every answer.

Knows which backdoors were begun, which of them passed, and how likely each was to pass; nothing of probes or answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtuned.stats._arguments import check_log10

_LN_10 = math.log(10.0)
# Not math.log10(2.0), whose last digit differs: a backdoor that passes with p = 1 counts exactly 1.
_LOG10_2 = math.log(2.0) / _LN_10


def log10_e_value(passed: Sequence[bool], log10_ps: Sequence[float]) -> float:
    """
    Return log10 of the e-value: the product of 1/2 + 1/2 [passed] / p over the backdoors that were begun.

    *log10_ps* are log10 of p, each the bound on passing under H0 over **all** planned probes of the backdoor, asked or
    not: `log10_guess_bound` at the planned n, or the attained level of an exposure test. A backdoor that was begun and
    has not passed so far counts 1/2; one that was not begun does not belong here. Under H0 the product ever reaches
    1 / alpha with probability at most alpha, so one may look at it after every answer and stop whenever one likes
    (Ville; proved in docs/theory.md, which says what the order of the probes may depend on). The halves are the
    stakes: were all staked, one backdoor that does not pass would end the test for good.

    None begun gives 0.0. A backdoor that passed with p = 0 gives infinity.

    Raises ValueError if the two differ in length, or a member of *log10_ps* is positive or not a number.
    """
    if len(passed) != len(log10_ps):
        raise ValueError(f"passed and log10_ps must be equally many, got {len(passed)} and {len(log10_ps)}")
    for log10_p in log10_ps:
        check_log10("log10_ps", log10_p)
    # fsum is exact: the order in which backdoors are listed shall not change a digit of the verdict.
    return math.fsum(_log10_factor(has_passed, log10_p) for has_passed, log10_p in zip(passed, log10_ps, strict=True))


def log10_e_p_value(log10_e: float) -> float:
    """
    Return log10 of min(1, 1 / e), the p-value that is valid at every look.

    The smallest of all looks is one too: whoever has seen it may keep it, whatever comes later.

    Raises ValueError if *log10_e* is not a number.
    """
    if math.isnan(log10_e):
        raise ValueError("log10_e must be a number, got nan")
    return min(0.0, -log10_e)


def _log10_factor(has_passed: bool, log10_p: float) -> float:
    """Return log10 of 1/2 + 1/2 [passed] / p, as (1 + p) / (2 p): 1 / p alone may be beyond all floats."""
    if not has_passed:
        return -_LOG10_2
    return math.log1p(10.0**log10_p) / _LN_10 - log10_p - _LOG10_2
