"""What a search of the uploaded file is, and what it sees: the rows, and never the receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.texts import TrainSet

Suspicion = NDArray[np.float64]
# Called with (what is being done, rows done, rows in all) by searches that take long.
OnRow = Callable[[str, int, int], None]


class Attack(Protocol):
    """One way to rank the rows of a training file by how likely they are planted. The same file gets the same ranks."""

    @property
    def name(self) -> str:
        """What `--attacks` takes."""

    @property
    def told(self) -> str:
        """What it looks for, in one line."""

    def suspicion(self, train: TrainSet) -> Suspicion:
        """
        Return one finite number for each row, in the order of the file: higher is more suspicious.

        The attack would keep the rows above 0. Rows with the same number are tied: which of them are taken first is a
        matter of chance, and whoever counts what is found counts its expectation.
        """
