"""What `verify` and `margin` do with rows that were never sent: read them, measure models on them, compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtuned import calibration, formats, heldout, measuring
from vtuned.calibration import CalibratedMargin
from vtuned.cli import console, models
from vtuned.errors import UsageError
from vtuned.formats.base import Codec
from vtuned.heldout import HeldOut
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.recorded import RecordedLM
from vtuned.measuring import AUTO, CHRF, LOSS, MEASURES, HeldOutRow, Measured
from vtuned.probes import AnswerRecord
from vtuned.receipt import GainMargin, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is asked of held-out *rows*: by which *measure*, and where the margin comes from."""

    rows: Sequence[HeldOutRow]
    n_left_out: int
    measure: str
    fixed_margin: GainMargin | None = None
    margin: float | None = None
    margin_model: str | None = None
    calibrated: CalibratedMargin | None = None

    def measure_of(self, asked: Sequence[LanguageModel]) -> str:
        """
        Return by what the models *asked* are measured. Raises UsageError where they cannot be, or not with the margin.

        `auto` scores nothing that an endpoint would see: only models in this process are measured by their losses.
        """
        elsewhere = [model.name for model in asked if isinstance(model, RecordedLM)]
        if elsewhere:
            raise UsageError(
                f"{elsewhere[0]} cannot be asked held-out rows", hint="leave --holdout out, or name a model to ask"
            )
        is_loss = all(isinstance(model, Scorer) for model in asked)
        measure = (LOSS if is_loss else CHRF) if self.measure == AUTO else self.measure
        if self.fixed_margin is not None and measure != LOSS:
            raise UsageError(
                f"the margin in this receipt is in {MEASURES[LOSS]}, and the rows are measured by {MEASURES[measure]}",
                hint="give --measure loss, or the receipt as it was before `vtuned margin`",
            )
        if measure != LOSS:
            # Before anybody is asked: a missing package must not cost answers.
            measuring.score_named(measure)
        return measure

    def check_base(self, base: str) -> None:
        """Raise UsageError where the margin in the receipt is a gain over another base than *base*."""
        if self.fixed_margin is not None and self.fixed_margin.base != base:
            raise UsageError(
                f"the margin in this receipt is a gain over {self.fixed_margin.base}, and the base is {base}",
                hint=f"give --base {self.fixed_margin.base}, or the receipt as it was before `vtuned margin`",
            )

    def measured(
        self, measure: str, model: LanguageModel, answers: Iterable[AnswerRecord], stages: console.Stages
    ) -> list[Measured]:
        """Return the *measure* of each row on *model*, by its *answers* unless by its losses."""
        if measure == LOSS:
            return losses(model, self.rows, stages)
        return measuring.scores(measuring.score_named(measure), self.rows, answers)

    def held_out(
        self,
        measure: str,
        suspect: tuple[str, list[Measured]],
        base: tuple[str, list[Measured]],
        planted_only: tuple[str, list[Measured]] | None = None,
    ) -> HeldOut:
        """Return what the measured rows show. Each model is given as its name and what was measured on it."""
        margin, source = self.margin, heldout.BY_HAND
        if self.fixed_margin is not None:
            margin, source = self.fixed_margin.nats_per_byte, "fixed in the receipt"
        elif planted_only is not None:
            margin = measuring.margin_of(measuring.most_gains(measure, planted_only[1], base[1]))
            source = f"measured on {planted_only[0]}"
        elif margin is None and measure == LOSS and self.calibrated is not None:
            found = self.calibrated
            margin = found.nats_per_byte
            source = f"{heldout.CALIBRATED}: the largest on {found.n_sets} data sets, {found.conditions}"
        gains = measuring.gains(measure, suspect[1], base[1])
        return heldout.held_out(
            gains,
            measure=MEASURES[measure],
            n_left_out=self.n_left_out + len(self.rows) - len(gains),
            n_silent=measuring.n_silent(suspect[1], base[1]),
            margin=margin,
            margin_source="not measured" if margin is None else source,
        )


def comparison(
    path: Path | None,
    shape: str | Codec,
    made: Receipt,
    *,
    measure: str = AUTO,
    margin: float | None = None,
    margin_model: str | None = None,
) -> Comparison | None:
    """
    Return what is to be compared on the rows in *path*; None without one.

    Raises UsageError where options contradict each other, DatasetError for rows that cannot be used.
    """
    if path is None:
        if measure != AUTO or margin is not None or margin_model is not None:
            raise UsageError(
                "--measure, --margin and --margin-model are for held-out rows", hint="name them: --holdout"
            )
        return None
    if measure not in (AUTO, *MEASURES):
        raise UsageError(f"unknown --measure {measure!r}", hint=f"known: {', '.join((AUTO, *MEASURES))}")
    if sum(given is not None for given in (margin, margin_model, made.plan.gain_margin)) > 1:
        raise UsageError(
            "the margin comes from one of the receipt, --margin-model and --margin",
            hint="leave out what the receipt fixes, and give one of the others",
        )
    if margin == 0:
        raise UsageError(
            "a margin of 0 is no margin: any gain at all exceeds it",
            hint="measure G with --margin-model, or fix it in the receipt with `vtuned margin`",
        )
    rows, n_left_out = read(path, shape)
    n_planted = sum(len(backdoor.rows) for backdoor in made.backdoors)
    if made.plan.gain_margin is not None and made.plan.gain_margin.rows != measuring.digest(rows):
        raise UsageError(
            f"the margin in this receipt was measured on other rows than those of {path}",
            hint="give the file that `vtuned margin` had, or the receipt as it was before `vtuned margin`",
        )
    return Comparison(
        rows=rows,
        n_left_out=n_left_out,
        measure=measure,
        fixed_margin=made.plan.gain_margin,
        margin=margin,
        margin_model=margin_model,
        calibrated=calibration.margin(n_planted) if n_planted else None,
    )


def read(path: Path, shape: str | Codec) -> tuple[list[HeldOutRow], int]:
    """Return the rows in *path* that can be measured and how many cannot. Raises DatasetError."""
    rows, n_left_out = measuring.held_out_rows(row.conversation for row in formats.read_rows(path, shape))
    if len(rows) < measuring.FEW_ROWS:
        console.say(f"note: {len(rows)} held-out rows show only large gains; {measuring.FEW_ROWS} or more are better")
    return rows, n_left_out


def base_of(model: str, base: str | None) -> str:
    """Return the name of the base that held-out gains are over. Raises UsageError where nobody names one."""
    found = base or models.base_in(model)
    if found is None:
        raise UsageError(
            f"what {model} gains on held-out rows is a gain over its base, which its name does not say",
            hint="name it with --base MODEL",
        )
    return found


def losses(model: LanguageModel, rows: Sequence[HeldOutRow], stages: console.Stages) -> list[Measured]:
    """Return the losses of *model* on *rows*. Raises UsageError where it gives no likelihoods."""
    scorer = models.scorer(model, asked_for=True)
    if scorer is None:
        raise UsageError(
            f"{model.name} gives no likelihoods of given texts", hint="measure answers, such as with --measure chrf"
        )
    return measuring.losses(scorer, rows, lambda done, total: stages(f"held-out rows, {model.name}", done, total))
