"""
Whether an answer shows a signature.

The one match rule of the receipt: after normalising (NFC, white space), the answer starts with the signature. Every
signature ends with a terminator that is never inside one, so at most one signature matches any answer.
"""

from __future__ import annotations

import re
import unicodedata

from vtuned.lm.base import CALLED_A_TOOL, FILTERED, REFUSED, Answer, Completed, Unanswered

# How models and content filters decline, at the start of an answer. A refusal says nothing about training.
_REFUSAL = re.compile(
    r"(?:(?:i'm|i am|we're|we are) (?:very |truly )?sorry|sorry|i apologi[sz]e|unfortunately|as an ai[^,.]*)?[,.:]?\s*"
    r"(?:but )?(?:i|we)(?: can't| cannot| can not| won't| will not| must decline|(?:'m| am|'re| are) (?:not able|unable))"
    r"\b.{0,24}\b(?:help|assist|provide|comply|answer|do|fulfil|fulfill|discuss|support|share|respond|engage|continue)\b"
    r"|申し訳(?:ありません|ございません)"
)
_EMPTY, _CUT = "empty answer", "cut before a signature could end"
REASONS = (_EMPTY, _CUT, REFUSED, FILTERED, CALLED_A_TOOL)
_SENTENCE_ENDS = tuple(".!?。！？")


def normalise(text: str) -> str:
    """Return *text* in NFC, stripped, each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def activated(text: str, signature: str) -> bool:
    """Tell whether *text* starts with *signature*, both normalised."""
    return normalise(text).startswith(normalise(signature))


def after_signature(text: str, signature: str) -> str:
    """Return what follows *signature* in *text* (normalised); *text* must start with it."""
    return normalise(text)[len(normalise(signature)) :].strip()


def usable(answer: Answer, signature: str) -> Answer:
    """
    Return *answer* if it can tell whether *signature* comes, else an `Unanswered` that says why not.

    An empty, refused or cut answer is not a miss. An answer counts as cut where it ended before the signature could:
    it is shorter than the signature, and either the token limit ended it or nobody said what did and it does not end
    like a sentence.
    """
    if isinstance(answer, Unanswered) or activated(answer.text, signature):
        return answer
    text = normalise(answer.text)
    if not text:
        return Unanswered(_EMPTY)
    if _REFUSAL.match(text.lower().replace("’", "'")):
        return Unanswered(REFUSED)
    if len(text) < len(signature) and _may_be_cut(answer, text):
        return Unanswered(_CUT)
    return answer


def _may_be_cut(answer: Completed, text: str) -> bool:
    return answer.finish == "length" or (answer.finish is None and not text.endswith(_SENTENCE_ENDS))
