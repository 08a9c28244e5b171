"""
What training on a file takes: rows, tokens and, at a price that the user gives, money.

No prices are kept here: they change often, and a wrong one is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vtuned import dataset
from vtuned.dataset import TokenCap
from vtuned.documents import Record

# Tokens are only counted here: no row is too long.
_NO_CAP = 2**31


class Cost(Record):
    """
    What a job would take. *n_tokens* are of one epoch, counted by *tokenizer* with an allowance for chat templates.

    *n_training_tokens* and *usd* are for all epochs, None where the service chooses their number or no price is given.
    """

    n_rows: int
    n_bytes: int
    row_format: str
    n_tokens: int
    longest_row: int
    tokenizer: str
    n_epochs: int | None
    n_training_tokens: int | None
    usd_per_million: float | None
    usd: float | None
    usd_per_epoch: float | None


def cost_of(
    train: Path,
    counter: tuple[dataset.CountTokens, str],
    *,
    n_epochs: int | None,
    usd_per_million: float | None,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Cost:
    """Return what training on *train* takes; nothing is sent. Raises DatasetError with the first bad row."""
    count, tokenizer = counter
    found = dataset.survey(str(train), TokenCap(_NO_CAP, count, tokenizer), on_bytes=on_bytes)
    per_epoch = None if usd_per_million is None else found.n_tokens * usd_per_million / 1e6
    return Cost(
        n_rows=found.n_rows,
        n_bytes=train.stat().st_size,
        row_format=found.row_format,
        n_tokens=found.n_tokens,
        longest_row=found.longest,
        tokenizer=tokenizer,
        n_epochs=n_epochs,
        n_training_tokens=None if n_epochs is None else n_epochs * found.n_tokens,
        usd_per_million=usd_per_million,
        usd=None if per_epoch is None or n_epochs is None else per_epoch * n_epochs,
        usd_per_epoch=per_epoch,
    )
