"""
What the suspect gains over the base model on rows that were never sent.

Pure: losses or scores come in, one pair a row. Which row, and how it was measured, is known to who measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from vtuned.documents import Record
from vtuned.stats import log10_signed_rank_p_value, signed_rank_interval

_CONFIDENCE = 0.95
BY_HAND = "given by hand"
CALIBRATED = "calibrated"


class HeldOut(Record):
    """
    The gain over the base on *n_rows* held-out rows, by *measure*: base less suspect for losses, the reverse for scores.

    *n_better* rows gain; *n_left_out* more rows of the file could not be measured on both models. Of these the suspect
    was silent on *n_silent* that the base answered: in p-values and interval they count as worse than any other row,
    since it may have chosen them. *mean_gain* is that of the measured rows. *centre_interval* holds the centre of the
    differences with 95 % confidence (None where the rows are too few for a bound). *log10_p_changed* is that of no gain, *log10_p_learned* of no gain above the *margin*
    G, None where nobody measured G. *margin_source* says where G is from.
    """

    measure: str
    n_rows: int = Field(ge=0)
    n_better: int = Field(ge=0)
    n_left_out: int = Field(default=0, ge=0)
    n_silent: int = Field(default=0, ge=0)
    mean_gain: float | None
    centre_interval: tuple[float | None, float | None]
    margin: float | None
    margin_source: str
    log10_p_changed: float = Field(le=0)
    log10_p_learned: float | None = Field(default=None, le=0)


def held_out(
    gains: Sequence[float],
    *,
    measure: str,
    n_left_out: int = 0,
    n_silent: int = 0,
    margin: float | None = None,
    margin_source: str = "not measured",
) -> HeldOut:
    """
    Return what *gains* over the base, one a measured row, and *n_silent* rows that the suspect did not answer show.

    Raises ValueError where a gain is not finite.
    """
    # As far below any gain and the margin that no row has a higher rank.
    worst = -1.0 - 2.0 * max(map(abs, (*gains, margin or 0.0)))
    tested = [*gains, *[worst] * n_silent]
    low, high = signed_rank_interval(tested, _CONFIDENCE)
    return HeldOut(
        measure=measure,
        n_rows=len(gains),
        n_better=sum(gain > 0 for gain in gains),
        n_left_out=n_left_out,
        n_silent=n_silent,
        mean_gain=sum(gains) / len(gains) if gains else None,
        centre_interval=(_finite(low), _finite(high)),
        margin=margin,
        margin_source=margin_source,
        log10_p_changed=log10_signed_rank_p_value(tested),
        log10_p_learned=None if margin is None else log10_signed_rank_p_value(tested, margin),
    )


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None
