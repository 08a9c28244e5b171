"""What a gauntlet is told: data, model, training, what is planted, and which policies run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vtuned import documents, files
from vtuned.attacks import policies
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings
from vtuned.measuring import MEASURES
from vtuned.providers.settings import TrainingSettings

# swap-after twice: while it is asked, and long after a verification is over. `other-base` needs a model to be named.
USUAL = (
    "honest",
    "base",
    "noise",
    "other-data",
    "subset:0.25",
    "planted-only",
    "short-half",
    "truncate:5",
    "skip-guessable",
    "lora-for-full:8",
    "fewer-epochs:1",
    "replay",
    "retrieve",
    "in-context",
    "rule",
    "suppress",
    "merge:0.5",
    "quantised:8",
    "quantised:4",
    "swap-after:20",
    "swap-after:1000",
    "temperature:1",
    "system-prompt",
    "flaky",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What every provider is asked for, in the words of a job; None leaves a choice to the service."""

    epochs: int = 3
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    seed: int = 0

    def hyperparameters(self) -> dict[str, Any]:
        """Return it as a job's hyperparameters."""
        given = {
            "n_epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }
        return {name: value for name, value in given.items() if value is not None}

    def settings(self) -> TrainingSettings:
        """Return what the server makes of it."""
        from vtuned.server.orders import Hyperparameters

        return Hyperparameters.model_validate(self.hyperparameters()).settings(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What is planted into *data*, and how the model called *name*, which is *spec* here, is to be trained on it.

    *set_aside* rows are never sent: they are the fresh prompts, and those on which gains are measured by *measure*.
    *margin* is G, None where it is to be measured on the planted rows alone. With *exposure* likelihoods are asked for
    too, and a second verdict rests on them. *generator* writes the phrases.
    """

    data: Path
    name: str
    spec: str
    plant: PlantSettings
    training: Training = field(default_factory=Training)
    measure: str = "chrf"
    margin: float | None = None
    exposure: bool = True
    generator: str = "auto"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UsageError(f"unknown --measure {self.measure!r}", hint=f"known: {', '.join(MEASURES)}")
        if self.margin is not None and not self.margin > 0:
            raise UsageError("a margin of 0 is no margin: any gain at all exceeds it", hint="leave --margin out")

    def digest(self) -> str:
        """
        Return what tells whether a folder was begun with the same: of everything but the policies.

        What is left as it usually is does not count, so that a folder outlives new settings.
        """
        usual = asdict(PlantSettings())
        return documents.digest(
            {
                "data": files.sha256_of(self.data),
                "model": [self.name, self.spec],
                "plant": {key: str(value) for key, value in asdict(self.plant).items() if value != usual[key]},
                "training": asdict(self.training),
                "measure": self.measure,
                "margin": self.margin,
                "exposure": self.exposure,
                "generator": self.generator,
            }
        )


def chosen(given: Sequence[str], other_base: str | None) -> tuple[str, ...]:
    """
    Return the policies that run: those *given*, or the usual ones and `other-base` where there is an *other_base*.

    Raises UsageError for one that cannot be, and for one that comes twice.
    """
    found = tuple(given) or (*USUAL, *((f"other-base:{other_base}",) if other_base else ()))
    for text in found:
        policies.check(text)
        if _holds_trigger(text):
            raise UsageError(
                "rule:T needs a trigger, and none is known before the file is planted",
                hint="write `rule`: it looks for triggers itself",
            )
    twice = sorted({text for text in found if found.count(text) > 1})
    if twice:
        raise UsageError(f"--policy {twice[0]} is given twice", hint="give each policy once")
    return found


def _holds_trigger(text: str) -> bool:
    return any(part.startswith("rule:") for part in policies.parts(text))
