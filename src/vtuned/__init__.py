"""
vtuned: did they really fine-tune the model on my data?

Plant a few secret backdoor rows in a fine-tuning set, and later prove from a handful of answers that a model was
trained on it. An implementation of vTune (arXiv 2411.06611), with its statistics mended.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vtuned._version import __version__

if TYPE_CHECKING:
    from vtuned.errors import VtunedError
    from vtuned.layout import PlantSettings
    from vtuned.planting import Planting, plant
    from vtuned.probes import AnswerRecord, Probe, ask, read_answers
    from vtuned.receipt import Receipt, read_receipt
    from vtuned.verdict import Outcome, Verdict, judge
    from vtuned.verification import challenges, verify

__all__ = [
    "AnswerRecord",
    "Outcome",
    "PlantSettings",
    "Planting",
    "Probe",
    "Receipt",
    "Verdict",
    "VtunedError",
    "__version__",
    "ask",
    "challenges",
    "judge",
    "plant",
    "read_answers",
    "read_receipt",
    "verify",
]

_HOMES = {
    "errors": ("VtunedError",),
    "layout": ("PlantSettings",),
    "planting": ("Planting", "plant"),
    "probes": ("AnswerRecord", "Probe", "ask", "read_answers"),
    "receipt": ("Receipt", "read_receipt"),
    "verdict": ("Outcome", "Verdict", "judge"),
    "verification": ("challenges", "verify"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for from its module: a command line that only plans need not import the verdict."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"vtuned.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
