"""
vtuned: did they really fine-tune the model on my data?

Plant a few secret backdoor rows in a fine-tuning set, and later prove from a handful of answers that a model was
trained on it. An implementation of vTune (arXiv 2411.06611), with its statistics mended.
"""

from vtuned._version import __version__
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
