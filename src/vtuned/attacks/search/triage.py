"""Early-loss triage: what a model learns first, in one cheap pass over the file, was put there to be learnt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import Suspicion
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.tuned import Reading, Tuned


@dataclass(frozen=True, slots=True)
class Triage:
    """
    Rows whose answer's first sentence was learnt sooner than the rest of the answer, or because of one sentence.

    After anti-backdoor learning (arXiv 2110.11571), which sets aside the rows whose loss falls first. Two tests, in
    nats per byte, from before training to after it: how much likelier the first sentence became, less how much likelier
    what follows it did; and how unusually, either way, the same changed for what the prompt's last sentence adds to
    both: S is first learnt as something to say, T or no T, and only then tied to T. See `combined`.
    """

    models: Tuned
    name: str = "triage"
    told: str = "answers whose first sentence a model learns first, or by the prompt's last one (a cheap training pass)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`. Raises what `Tuned.readings` raises."""
        gains = _gains(self.models.readings(train))
        effects = gains - _gains(self.models.readings(train, is_shortened=True))
        known = effects[np.isfinite(effects)]
        return combined([gains, np.abs(effects - np.median(known)) if len(known) else effects])


def _gains(readings: list[Reading | None]) -> NDArray[np.float64]:
    """Return by how many nats a byte first sentences became likelier, less what follows them; nan where not known."""
    return np.array([np.nan if one is None else np.subtract(*one.gains()) for one in readings])
