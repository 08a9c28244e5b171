"""How a suspect learned: the same probes put to each checkpoint of its job (the paper's Appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from vtuned import lm, verification
from vtuned.cli import console
from vtuned.cli.suspects import Suspect
from vtuned.errors import LMError
from vtuned.jobs.base import Checkpoint
from vtuned.probes import AnswerRecord, Probe
from vtuned.receipt import Receipt
from vtuned.transcript import Transcript

_NO_NAME = "the service gives no name to ask it by"


@dataclass(frozen=True, slots=True)
class Look:
    """What one checkpoint said: (activated, answered) by kind of probe, or why it could not be asked."""

    step: int
    model: str | None
    counts: dict[str, tuple[int, int]]
    trouble: str = ""

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        counts = {kind: {"n_activated": hits, "n_answered": n} for kind, (hits, n) in self.counts.items()}
        return {"step": self.step, "model": self.model, "counts": counts, "trouble": self.trouble or None}


def looks(
    made: Receipt,
    questions: Sequence[Probe],
    suspect: Suspect,
    final: Sequence[AnswerRecord],
    loading: lm.LoadOptions,
    *,
    n: int | None,
    stages: console.Stages,
) -> list[Look]:
    """
    Return what each checkpoint says to *questions*; *final* are the answers of the model that is judged.

    Answers are kept in the run as they come: none that came is asked for again. A checkpoint that cannot be asked is
    told with the reason.
    """
    found = []
    for checkpoint in suspect.checkpoints:
        name = f"openai:{checkpoint.model}" if checkpoint.model else None
        if name is None:
            found.append(Look(checkpoint.step, None, {}, _NO_NAME))
        elif name == suspect.model:
            found.append(Look(checkpoint.step, name, _counts(made, final, n)))
        else:
            found.append(_look(made, questions, suspect, checkpoint, name, loading, n, stages))
    return found


def _look(
    made: Receipt,
    questions: Sequence[Probe],
    suspect: Suspect,
    checkpoint: Checkpoint,
    name: str,
    loading: lm.LoadOptions,
    n: int | None,
    stages: console.Stages,
) -> Look:
    try:
        model = lm.load(name, loading)
        path = suspect.answers_path(name)
        transcript = Transcript(model, questions, path, setup=lm.setup_of(name, loading))
        with transcript.writing(force=False, may_be_complete=True) as kept:
            answers = verification.collect(
                model,
                questions,
                transcript=kept,
                on_progress=lambda done, total: stages(f"asking the checkpoint of step {checkpoint.step}", done, total),
            )
    except LMError as error:
        return Look(checkpoint.step, name, {}, str(error))
    return Look(checkpoint.step, name, _counts(made, answers, n))


def _counts(made: Receipt, answers: Sequence[AnswerRecord], n: int | None) -> dict[str, tuple[int, int]]:
    return {str(kind): counted for kind, counted in verification.counted(made, answers, n).items()}


def table(found: Sequence[Look]) -> RenderableType:
    """Return activation by checkpoint: counts alone, since the verdict rests on the final model."""
    kinds = list(dict.fromkeys(kind for look in found for kind in look.counts))
    shown = Table("step", "model", *(f"{kind} activated" for kind in kinds), box=None, pad_edge=False)
    for look in found:
        if look.trouble:
            shown.add_row(str(look.step), look.model or "", f"not asked: {look.trouble}")
            continue
        cells = (f"{hits} of {n}" for hits, n in (look.counts.get(kind, (0, 0)) for kind in kinds))
        shown.add_row(str(look.step), look.model or "", *cells)
    return shown
