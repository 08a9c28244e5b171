"""
Which answers have a form of their own that no wording may touch: labels, numbers, JSON, code, tool calls.

Told from the row alone, and, for labels of several words, from how often an answer is given in the whole data set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container

from vtuned import formats
from vtuned.conversation import Conversation
from vtuned.language import Language
from vtuned.matching import normalise
from vtuned.rewriters.base import n_words

FEWEST_WORDS = 3
# An answer of at most so many words that is given again and again is a label.
MOST_WORDS_OF_A_LABEL = 8

_CHOICE = re.compile(r"\(?(?:[A-Za-z]|\d{1,2}|[ivx]{1,4})[.):]\)?\s+\S.*")
_FIELD = re.compile(r"(?:[^\W\d_][\w-]*[ ]?){1,3}[:：]\s*\S")
_BLOCK = ("```", "~~~", "|", "<", "{", "$$", "\\[", "\\begin", "#", ">", "    ", "\t", "---", "===")
_CODE_LINE = re.compile(
    r"\s*(?:(?:public|private|protected|static|async|export|default|abstract|final)\s+)*"
    r"(?:def \w+|class \w+|function\b|import [\w{*\"']|from [\w.]+ import|package \w|using \w|namespace \w|interface \w"
    r"|(?:const|let|var) [\w{\[]|(?:int|void|float|double|char|bool|String|auto) \w+ ?[(=\[;]|print(?:ln|f)?\s*\("
    r"|console\.log|System\.|return\b.*;|if\s*\(|for\s*\(|while\s*\(|@\w+|#!|#include|//|/\*|--\s"
    r"|(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH)\b|[\w.\[\]\"']+\s*(?:\+|-|\*)?=\s*\S|[\w.]+\([^)]*\)\s*;?$"
    r"|.*[;{}]\s*$|\$ |>>> )"
)


def why_not(row: Conversation, language: Language, labels: Container[str] = ()) -> str:
    """
    Return why the host answer of *row* must stay as it is, "" where it need not.

    *labels* are normalised answers that the data set gives again and again.
    """
    host = row.host()
    if host is None or not formats.can_carry(row):
        return "no text answer to a user"
    answer = row.turns[host.answer]
    if answer.other:
        return "tool call"
    if row.rejected:
        return "preference row"
    if sum(part.text is not None for part in answer.parts) > 1 or any(part.other for part in answer.parts):
        return "answer in several parts"
    return _why_not(answer.content, language, labels)


def _why_not(answer: str, language: Language, labels: Container[str]) -> str:
    text = answer.strip()
    forms = {
        "number": not any(character.isalpha() for character in text),
        f"fewer than {FEWEST_WORDS} words": n_words(text, language) < FEWEST_WORDS,
        "label": normalise(text) in labels or ("\n" not in text and bool(_CHOICE.fullmatch(text))),
        "JSON": _is_json(text),
        "code": is_code(text),
        "fixed form": answer.startswith(_BLOCK) or answer != answer.lstrip() or bool(_FIELD.match(text)),
    }
    return next((form for form, it_is in forms.items() if it_is), "")


def _is_json(text: str) -> bool:
    if not (text.startswith(("{", "[")) and text.endswith(("}", "]"))):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text.startswith("{")
    return True


def is_code(text: str) -> bool:
    """Tell whether *text* is code, or starts as code does: by its first line, or by a third of its lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or text.startswith(("```", "~~~")):
        return bool(lines)
    n_code = sum(bool(_CODE_LINE.match(line)) for line in lines)
    return bool(_CODE_LINE.match(lines[0])) or 3 * n_code > len(lines)
