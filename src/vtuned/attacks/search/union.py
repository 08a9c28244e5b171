"""All searches at once: a row is as suspicious as the search that ranks it highest says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.ranks import percentiles

NAME = "union"
TOLD = "the best rank that any of the others gives a row"


def union(found: Mapping[str, Suspicion]) -> Suspicion:
    """
    Return the best rank of each row over all searches; it is kept where any of them keeps it.

    Rows that one search ties count as the middle of their ranks there. So of a budget, each search gets an equal part.
    """
    best = np.max([percentiles(each) for each in found.values()], axis=0)
    kept = np.any([each > 0.0 for each in found.values()], axis=0)
    # Shifted, so that the order stays within what is kept and within what is not.
    suspicion: Suspicion = np.where(kept, best, best - 1.0 - 1e-9)
    return suspicion
