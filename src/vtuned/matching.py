"""
Whether an answer shows a signature.

The one match rule of the receipt: what is said, without a thought before it and normalised (NFC, white space), starts
with the signature. Every signature ends with a terminator that is never inside one, so at most one signature matches
any answer: what is said is one text an answer, and does not depend on any signature.
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
_UNSAID = "short, and without 'finish' nobody knows whether it was cut"
_THOUGHT = "thought aloud: cannot tell where the answer starts"
_THINK, _THOUGHT_END = "<think>", "</think>"
REASONS = (_EMPTY, _CUT, _UNSAID, _THOUGHT, REFUSED, FILTERED, CALLED_A_TOOL)
_SENTENCE_ENDS = tuple(".!?。！？")


def normalise(text: str) -> str:
    """Return *text* in NFC, stripped, each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def said(text: str) -> str:
    """
    Return what *text* says, normalised, without the thought that it starts with.

    Where it starts with `<think>`, that is what follows the first `</think>` or, where none comes, what follows
    `<think>`. Any other text is said as it is: a tag further on may be part of the answer.
    """
    text = normalise(text)
    if not text.startswith(_THINK):
        return text
    thought, end, answer = text.removeprefix(_THINK).partition(_THOUGHT_END)
    return (answer if end else thought).strip()


def said_in(answer: Answer) -> str | Unanswered:
    """Return what *answer* says, or why nobody can tell: it is empty, or a thought's start or end does not show."""
    if isinstance(answer, Unanswered):
        return answer
    text = said(answer.text)
    reason = _thought(normalise(answer.text)) or ("" if text else _EMPTY)
    return Unanswered(reason) if reason else text


def activated(text: str, signature: str) -> bool:
    """Tell whether what *text* says starts with *signature*, both normalised."""
    return said(text).startswith(normalise(signature))


def after_signature(text: str, signature: str) -> str:
    """Return what follows *signature* in what *text* says (normalised); that must start with it."""
    return said(text)[len(normalise(signature)) :].strip()


def usable(answer: Answer, signature: str) -> Answer:
    """
    Return *answer* if it can tell whether *signature* comes, else an `Unanswered` that says why not.

    An empty, refused or cut answer is not a miss, nor one with a thought whose start or end does not show. An answer
    counts as cut where it ended before the signature could: it is shorter than the signature, and either the token
    limit ended it or nobody said what did and it does not end like a sentence.
    """
    if isinstance(answer, Unanswered) or activated(answer.text, signature):
        return answer
    text = said(answer.text)
    reason = _thought(normalise(answer.text)) or _why_not(answer, text, signature)
    return Unanswered(reason) if reason else answer


def _why_not(answer: Completed, text: str, signature: str) -> str:
    if not text:
        return _EMPTY
    if _REFUSAL.match(text.lower().replace("’", "'")):
        return REFUSED
    if len(text) >= len(signature) or not _may_be_cut(answer, text):
        return ""
    return _CUT if answer.finish == "length" else _UNSAID


def _thought(text: str) -> str:
    """Return a reason where *text* holds a thought that only starts or only ends."""
    has_end = _THOUGHT_END in text
    return _THOUGHT if text.startswith(_THINK) != has_end else ""


def _may_be_cut(answer: Completed, text: str) -> bool:
    return answer.finish == "length" or (answer.finish is None and not text.endswith(_SENTENCE_ENDS))
