"""
How often a backdoor is seen after honest training: measured counts, and what they say of a plan and of a verdict.

Pure: the measured cells come with the package (calibration.json, written by `python bench/calibrate.py`). Knows copies,
epochs and counts; nothing of rows, models or receipts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files as resources
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vtuned import documents
from vtuned.documents import ExactFraction, Record
from vtuned.stats import clopper_pearson

FORMAT: Literal["vtuned.calibration/1"] = "vtuned.calibration/1"

Test: TypeAlias = Literal["generation", "exposure"]
Kind: TypeAlias = Literal["planted", "fresh"]

_CONFIDENCE = 0.95
# The curve of `exposures_estimate`: the dose at which half are seen and the steepness, both of every order that a
# training run can have. So fine that neither the estimate nor the ends of its interval are off by more than two percent.
_STEP = 1 / 32
_LOG2_MIDDLES = np.arange(-3.0, 8.0 + _STEP / 2, _STEP)
_LOG2_EPOCHS = np.arange(-4.0, 8.0 + _STEP / 2, _STEP)
_STEEPNESSES = 2.0 ** np.arange(-1.0, 5.01, 0.25)

_Floats: TypeAlias = NDArray[np.float64]


class Cell(Record):
    """
    One measured count: *n_seen* of *n_backdoors* backdoors passed the *test* on *kind* prompts.

    They had *copies* rows each, and *model* (of *n_parameters*) was trained on these for *epochs*, honestly, by *method*
    with *learning_rate*, *batch_size* and LoRA's *rank*. *level* is the chance of passing unseen, 0 for generation.
    *source* says which run.
    """

    model: str
    n_parameters: int = Field(ge=1)
    copies: int = Field(ge=1)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    method: str
    kind: Kind
    test: Test
    level: ExactFraction = Fraction(0)
    n_backdoors: int = Field(ge=1)
    n_seen: int = Field(ge=0)
    source: str

    @model_validator(mode="after")
    def _counts(self) -> Cell:
        if self.n_seen > self.n_backdoors or not 0 <= self.level < 1:
            raise ValueError("n_seen exceeds n_backdoors, or level is no chance")
        return self

    @property
    def dose(self) -> int:
        """How often the backdoor was trained on."""
        return self.copies * self.epochs


class MarginCell(Record):
    """
    One measured G of `learned the task`: *nats_per_byte*, by `vtuned.measuring.margin_of`, on *n_rows* held-out rows.

    *model* was trained for *epochs* on *n_planted_rows* planted rows of *data* alone, as the rest says.
    """

    model: str
    n_parameters: int = Field(ge=1)
    n_planted_rows: int = Field(ge=1)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    method: str
    data: str
    n_rows: int = Field(ge=1)
    nats_per_byte: float = Field(ge=0)


class WordingCell(Record):
    """
    One measured count: in *n_hits* of *n_rows* rows of *n_wordings* wordings the published one came first.

    *by* log-likelihoods or text, of the rows answered; *rewriter* made the wordings, and *model* was trained on the
    rows honestly, as the rest says.
    """

    model: str
    n_parameters: int = Field(ge=1)
    rewriter: str
    by: str
    n_wordings: int = Field(ge=2)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    method: str
    n_rows: int = Field(ge=1)
    n_hits: int = Field(ge=0)
    source: str


class HitRate(Record):
    """
    How often an honest model prefers what was published: *n_hits* of *n_rows* rows, with *n_wordings* each.

    *advantage* is the least share of the way from chance to certainty that fits (95 %, Clopper-Pearson). Measured after
    *epochs*; *conditions* say of which model, *sources* are the runs.
    """

    n_hits: int
    n_rows: int
    n_wordings: int
    advantage: float
    epochs: int
    conditions: str
    sources: tuple[str, ...]

    def expected(self, n_wordings: int) -> float:
        """Return the share of hits with *n_wordings* wordings, the advantage being what it is."""
        return 1 / n_wordings + self.advantage * (1 - 1 / n_wordings)


class Calibration(Record):
    """All cells that were measured."""

    format: Literal["vtuned.calibration/1"] = FORMAT
    cells: tuple[Cell, ...]
    margins: tuple[MarginCell, ...] = ()
    wordings: tuple[WordingCell, ...] = ()


class CalibratedMargin(Record):
    """The largest of the G of *n_sets* data sets, in *nats_per_byte*; *conditions* say what was trained on how much."""

    nats_per_byte: float = Field(ge=0)
    n_sets: int = Field(ge=1)
    conditions: str


class Rate(Record):
    """
    How often a backdoor is seen: *n_seen* of *n_backdoors*, a rate from *low* to *high* (95 %, Clopper-Pearson).

    Measured with *copies* copies and *epochs* epochs, the nearest there are to what was asked for; *extrapolates* says
    in words how these differ, nothing where they do not. *conditions* say of which model and training; *sources* are
    the runs.
    """

    n_seen: int
    n_backdoors: int
    low: float
    high: float
    copies: int
    epochs: int
    conditions: str
    sources: tuple[str, ...]
    extrapolates: tuple[str, ...]


class DoseEstimate(Record):
    """
    How many epochs the counts look like: *epochs* is the likeliest number, *low* to *high* its interval.

    An epoch is one of the measured training runs; half of the rows used in all of 4 epochs look like 2. *epochs* and
    *high* are None where there is no upper end: everything was seen that could be. *bound* says how they were found.
    """

    epochs: float | None
    low: float
    high: float | None
    confidence: float
    bound: str


@lru_cache(maxsize=1)
def shipped() -> Calibration:
    """Return what was measured and comes with the package."""
    return documents.read(Calibration, (resources("vtuned") / "calibration.json").read_bytes())


def measured() -> tuple[Cell, ...]:
    """Return the cells that come with the package."""
    return shipped().cells


def margin(n_planted_rows: int, cells: Sequence[MarginCell] | None = None) -> CalibratedMargin | None:
    """
    Return a G for a file with *n_planted_rows*, for who measured none; None where so many were not measured.

    More planted rows teach more, so it is the largest measured with the next higher number of them. Measured with other
    models and on other data than the user's, it excludes nothing by itself.
    """
    some = shipped().margins if cells is None else cells
    enough = [cell for cell in some if cell.n_planted_rows >= n_planted_rows]
    if not enough:
        return None
    n = min(cell.n_planted_rows for cell in enough)
    chosen = [cell for cell in enough if cell.n_planted_rows == n]
    models = ", ".join(sorted({cell.model for cell in chosen}))
    epochs = ", ".join(map(str, sorted({cell.epochs for cell in chosen})))
    return CalibratedMargin(
        nats_per_byte=max(cell.nats_per_byte for cell in chosen),
        n_sets=len({cell.data for cell in chosen}),
        conditions=f"{models}, {epochs} epochs on {n} planted rows alone",
    )


def rate(
    *,
    copies: int,
    epochs: int,
    test: Test,
    kind: Kind = "planted",
    n_parameters: int | None = None,
    cells: Sequence[Cell] | None = None,
) -> Rate | None:
    """
    Return how often a backdoor of so many *copies* is seen after so many *epochs*, as measured; None if nothing was.

    The nearest cells by the size of the model, where it is known, and then by the ratios of copies and epochs; of
    two that are as near, the one of the smaller dose. Cells alike in all three are taken together.
    """
    some = [cell for cell in (measured() if cells is None else cells) if (cell.test, cell.kind) == (test, kind)]
    if not some:
        return None

    def distance(cell: Cell) -> tuple[float, float, int, int]:
        size = (
            0.0
            if n_parameters is None or _is_same_size(cell, n_parameters)
            else math.log(cell.n_parameters / n_parameters)
        )
        doses = abs(math.log(cell.copies / copies)) + abs(math.log(cell.epochs / epochs))
        # Two ways to the same distance must not differ by a rounding error.
        return round(abs(size), 9), round(doses, 9), cell.dose, cell.copies

    nearest = min(map(distance, some))
    chosen = [cell for cell in some if distance(cell) == nearest]
    n_seen, n_backdoors = (sum(getattr(cell, name) for cell in chosen) for name in ("n_seen", "n_backdoors"))
    low, high = clopper_pearson(n_seen, n_backdoors, _CONFIDENCE)
    return Rate(
        n_seen=n_seen,
        n_backdoors=n_backdoors,
        low=low,
        high=high,
        copies=chosen[0].copies,
        epochs=chosen[0].epochs,
        conditions=_conditions(chosen),
        sources=tuple(dict.fromkeys(cell.source for cell in chosen)),
        extrapolates=_differences(chosen, copies, epochs, n_parameters),
    )


def hit_rate(
    *,
    rewriter: str,
    by: str,
    epochs: int,
    n_parameters: int | None = None,
    cells: Sequence[WordingCell] | None = None,
) -> HitRate | None:
    """
    Return how often what was published is preferred after so many *epochs*, as measured; None where nothing was.

    Of the nearest model, where its size is known, and then of as many epochs or the next lower number: training for
    longer is taken to lose nothing. Where none so short was measured, of the shortest.
    """
    some = [
        cell for cell in (shipped().wordings if cells is None else cells) if (cell.rewriter, cell.by) == (rewriter, by)
    ]
    if not some:
        return None
    if n_parameters is not None:
        sizes = {cell.n_parameters for cell in some}
        nearest = min(sizes, key=lambda size: abs(math.log(size / n_parameters)))
        some = [cell for cell in some if cell.n_parameters == nearest]
    not_longer = [cell.epochs for cell in some if cell.epochs <= epochs]
    chosen_epochs = max(not_longer) if not_longer else min(cell.epochs for cell in some)
    n_wordings = min(cell.n_wordings for cell in some if cell.epochs == chosen_epochs)
    chosen = [cell for cell in some if (cell.epochs, cell.n_wordings) == (chosen_epochs, n_wordings)]
    n_hits, n_rows = sum(cell.n_hits for cell in chosen), sum(cell.n_rows for cell in chosen)
    low, _ = clopper_pearson(n_hits, n_rows, _CONFIDENCE)
    models = ", ".join(sorted({f"{cell.model} ({cell.n_parameters / 1e6:.0f}M)" for cell in chosen}))
    return HitRate(
        n_hits=n_hits,
        n_rows=n_rows,
        n_wordings=n_wordings,
        advantage=max(0.0, (low - 1 / n_wordings) / (1 - 1 / n_wordings)),
        epochs=chosen_epochs,
        conditions=f"{models}, learning rate {chosen[0].learning_rate:g}, batch {chosen[0].batch_size}",
        sources=tuple(dict.fromkeys(cell.source for cell in chosen)),
    )


def least_rate(
    *,
    copies: int,
    epochs: int,
    test: Test,
    kind: Kind = "planted",
    n_parameters: int | None = None,
    cells: Sequence[Cell] | None = None,
) -> float | None:
    """
    Return the lower end of how often a backdoor is seen, as far as measurements go; None if nothing was measured.

    A backdoor with more copies, trained on for longer, is taken to be seen no less often. So this is the highest of the
    lower ends (95 %) of `rate` at no more copies and no more epochs, and 0 where no such are measured.
    """
    some = [cell for cell in (measured() if cells is None else cells) if (cell.test, cell.kind) == (test, kind)]
    if not some:
        return None
    doses = {(cell.copies, cell.epochs) for cell in some if cell.copies <= copies and cell.epochs <= epochs}
    found = [
        rate(copies=c, epochs=e, test=test, kind=kind, n_parameters=n_parameters, cells=some) for c, e in sorted(doses)
    ]
    # With another size nearest, that dose may be missing and `rate` answers with a larger one.
    return max((one.low for one in found if one and one.copies <= copies and one.epochs <= epochs), default=0.0)


def exposures_estimate(
    by_copies: Sequence[tuple[int, int, int]],
    *,
    test: Test,
    kind: Kind = "planted",
    level: Fraction = Fraction(0),
    confidence: float = _CONFIDENCE,
    cells: Sequence[Cell] | None = None,
) -> DoseEstimate | None:
    """
    Return how many epochs *by_copies*, (copies, backdoors seen, backdoors) each, look like.

    A backdoor of c copies is seen after E epochs with probability level + (1 - level) F(c E), F logistic in the
    logarithm of the dose. The curve's two parameters are fitted to the measured cells and these counts together; the
    estimate maximises the likelihood, and the interval holds the epochs whose profile likelihood (the curve refitted
    for each) is within the chi-square limit of the maximum. It is approximate, and only as good as the likeness of this
    training to the measured one; the ratio between copies needs no such likeness, which is why two are needed.

    None where fewer than two different numbers of copies were asked, or nothing was measured by this *test* on this
    *kind*. Raises ValueError for counts that cannot be and a *confidence* that is not between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if any(copies < 1 or not 0 <= n_seen <= n for copies, n_seen, n in by_copies):
        raise ValueError("by_copies must hold copies, how many were seen, and of how many")
    asked = [one for one in by_copies if one[2]]
    some = [cell for cell in (measured() if cells is None else cells) if (cell.test, cell.kind) == (test, kind)]
    if len({copies for copies, _, _ in asked}) < 2 or not some:
        return None
    fit = _log_likelihood(
        -_LOG2_MIDDLES,
        [(cell.dose, cell.n_seen, cell.n_backdoors) for cell in some],
        [float(cell.level) for cell in some],
    )
    # How far the epochs are past the middle: on the grid of both, from the last middle to the first one.
    log2_past = np.arange(len(_LOG2_EPOCHS) + len(_LOG2_MIDDLES) - 1) * _STEP + _LOG2_EPOCHS[0] - _LOG2_MIDDLES[-1]
    found = _log_likelihood(log2_past, asked, [float(level)] * len(asked))
    n_middles = len(_LOG2_MIDDLES)
    profile = np.array([(fit[::-1] + found[i : i + n_middles]).max() for i in range(len(_LOG2_EPOCHS))])
    inside = np.flatnonzero(profile >= profile.max() - NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / 2)
    epochs = 2.0**_LOG2_EPOCHS
    best, last = int(profile.argmax()), len(epochs) - 1
    is_all, is_none = (all(n_seen == all_or_none * n for _, n_seen, n in asked) for all_or_none in (1, 0))
    return DoseEstimate(
        epochs=None if is_all or best == last else 0.0 if is_none or best == 0 else float(epochs[best]),
        low=0.0 if inside[0] == 0 else float(epochs[inside[0]]),
        high=None if inside[-1] == last else float(epochs[inside[-1]]),
        confidence=confidence,
        bound="maximum likelihood on a logistic curve of the dose fitted to the measured cells; interval by profile likelihood",
    )


def _log_likelihood(log2_past: _Floats, counts: Sequence[tuple[int, int, int]], levels: Sequence[float]) -> _Floats:
    """
    Return, in [distance, steepness], the log-likelihood of the *counts*, (copies, seen, backdoors) each.

    *log2_past* says how far one copy's dose is past the middle of the curve.
    """
    total: _Floats = np.zeros((len(log2_past), len(_STEEPNESSES)))
    for (copies, n_seen, n), level in zip(counts, levels, strict=True):
        past_middle = _STEEPNESSES * (log2_past[:, None] * math.log(2) + math.log(copies))
        ln_missed = -np.logaddexp(0.0, past_middle) + math.log1p(-level)
        ln_seen = -np.logaddexp(0.0, -past_middle) + math.log1p(-level)
        ln_seen = np.logaddexp(ln_seen, math.log(level)) if level else ln_seen
        total += n_seen * ln_seen + (n - n_seen) * ln_missed
    return total


def _conditions(cells: Sequence[Cell]) -> str:
    models = " and ".join(dict.fromkeys(f"{cell.model} ({size_in_words(cell.n_parameters)})" for cell in cells))
    rates = " and ".join(f"{lr:g}" for lr in sorted({cell.learning_rate for cell in cells}))
    batches = " and ".join(str(n) for n in sorted({cell.batch_size for cell in cells}))
    methods = " and ".join(dict.fromkeys(f"{c.method} of rank {c.rank}" if c.rank else c.method for c in cells))
    return f"{models}, {methods}, learning rate {rates}, batch {batches}"


def _differences(cells: Sequence[Cell], copies: int, epochs: int, n_parameters: int | None) -> tuple[str, ...]:
    sizes = " and ".join(size_in_words(n) for n in sorted({cell.n_parameters for cell in cells}))
    found = []
    if n_parameters is None:
        found.append(f"the size of your model is not known; measured with {sizes} parameters")
    elif not all(_is_same_size(cell, n_parameters) for cell in cells):
        found.append(f"{size_in_words(n_parameters)} parameters, measured with {sizes}")
    for what, asked, measured_at in (("copies", copies, cells[0].copies), ("epochs", epochs, cells[0].epochs)):
        if asked != measured_at:
            found.append(
                f"{asked} {what if asked > 1 else what.replace('ies', 'y').removesuffix('s')}, measured with {measured_at}"
            )
    return tuple(found)


def _is_same_size(cell: Cell, n_parameters: int) -> bool:
    """Tell whether two numbers of parameters are the same as people say them."""
    return abs(math.log(cell.n_parameters / n_parameters)) < 0.1


def size_in_words(n_parameters: int) -> str:
    """Return a number of parameters as people write it: "135M", "8B"."""
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if n_parameters >= unit:
            return f"{n_parameters / unit:.3g}{name}"
    return str(n_parameters)
