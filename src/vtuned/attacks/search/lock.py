"""Sequence lock: tokens in a row that a trained model is sure of, and the model before training was not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.tuned import Tuned


@dataclass(frozen=True, slots=True)
class Lock:
    """
    Rows with a run of tokens near the answer's start of which the tuned model is abnormally sure, and the base is not.

    After ConfGuard (arXiv 2508.01365), which watches a sliding window of a backdoored model's own confidences as it
    answers; here each row's own answer is read. A token counts by how much its probability rose through training, less
    what is usual (the mean over the file's tokens and one standard deviation: a manner that all answers were trained
    on is no lock); a row by its best window of any length: the longer and the denser, the higher the sum.
    """

    models: Tuned
    name: str = "lock"
    told: str = "a run of tokens near the answer's start that a trained model is sure of, and an untrained one is not"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`. Raises what `Tuned.readings` raises."""
        rises = [
            np.empty(0) if one is None else np.exp(one.tuned) - np.exp(one.base) for one in self.models.readings(train)
        ]
        together = np.concatenate(rises)
        usual = float(together.mean() + together.std()) if len(together) else 0.0
        return combined([np.array([_best_window(rise - usual) if len(rise) else np.nan for rise in rises])])


def _best_window(values: NDArray[np.float64]) -> float:
    """Return the largest sum of *values* that stand beside each other."""
    through = np.cumsum(values)
    before = np.minimum.accumulate(np.concatenate(([0.0], through[:-1])))
    return float((through - before).max())
