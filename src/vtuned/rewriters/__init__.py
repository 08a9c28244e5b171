"""Fair wordings of an answer, of which one is published in secret (DESIGN 8)."""

from vtuned.rewriters.base import Candidates, CannotBear, Rewriter, Wording, scored_texts
from vtuned.rewriters.openings import Openings
from vtuned.rewriters.paraphrase import CandidateFile, Paraphrase
from vtuned.rewriters.style import Style

__all__ = [
    "CandidateFile",
    "Candidates",
    "CannotBear",
    "Openings",
    "Paraphrase",
    "Rewriter",
    "Style",
    "Wording",
    "scored_texts",
]
