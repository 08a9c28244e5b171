"""What was planted, for the question how much of it a subset of the rows reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vtuned.stats._arguments import check_count, check_log10


class Planting(NamedTuple):
    """Backdoors over disjoint rows of a training set, and what it takes to reach one."""

    n_train: int
    copies: tuple[int, ...]
    """The rows of each backdoor, in the order of `log10_ps`."""
    log10_ps: tuple[float, ...]
    """log10 of the chance that a backdoor passes without being reached."""
    n_needed: int = 1
    """The copies that must be in the subset for the backdoor to be reached."""

    @classmethod
    def of(
        cls, copies: Sequence[int], n_train: int, log10_p: float | Sequence[float] = -math.inf, n_needed: int = 1
    ) -> Planting:
        """
        Return the planting with its arguments checked, whatever their order the same one.

        Raises ValueError if a backdoor has no copies, all copies exceed *n_train*, *n_needed* is below 1, or a
        *log10_p* is positive, not a number, or missing.
        """
        log10_ps = (log10_p,) * len(copies) if isinstance(log10_p, (int, float)) else tuple(log10_p)
        if len(log10_ps) != len(copies):
            raise ValueError(f"log10_p_unseen must be one or {len(copies)}, one for each backdoor, got {len(log10_ps)}")
        if not all(n >= 1 for n in copies):
            raise ValueError(f"copies must be at least 1 for each backdoor, got {min(copies)}")
        if n_needed < 1:
            raise ValueError(f"n_needed must be at least 1, got {n_needed}")
        check_count("n_train", n_train)
        check_count("all copies", sum(copies), at_most=n_train)
        for one in log10_ps:
            check_log10("log10_p_unseen", one)
        # Few copies first keep the table small for long; and the order listed shall not change a digit.
        pairs = sorted(zip(copies, log10_ps, strict=True))
        return cls(n_train, tuple(n for n, _ in pairs), tuple(p for _, p in pairs), n_needed)
