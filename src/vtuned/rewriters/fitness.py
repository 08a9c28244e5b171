"""
Which answers have a form of their own that no wording may touch: labels, numbers, JSON, code, tool calls.

Told from the row alone, and, for labels of several words, from how often an answer is given in the whole data set.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable

from vtuned import formats
from vtuned.conversation import Conversation
from vtuned.language import Language
from vtuned.matching import normalise
from vtuned.rewriters.base import n_words

FEWEST_WORDS = 3
# An answer of at most so many words that is given again and again is a label.
MOST_WORDS_OF_A_LABEL = 8
# A short answer that stands in so many rows is a label.
_FEWEST_ALIKE = 3

_CHOICE = re.compile(r"\(?(?:[A-Za-z]|[ivx]{1,4})[.):]\)?\s+\S.*|\(?\d{1,2}[.):]\)?\s+\S.*[^.!?\s]")
_FIELD = re.compile(r"[^\W\d_][\w-]*+(?: [^\W\d_][\w-]*+){0,2} ?[:：](?!//)\s*\S")
_BLOCK = ("```", "~~~", "|", "<", "{", "$$", "\\[", "\\begin", "#", ">", "    ", "\t", "---", "===")
# What stands in an answer without making it code: blocks of code and formulas, which no wording touches.
_BLOCKS = re.compile(
    r"(`{3,}|~{3,}).*?(?:\1|\Z)|\$\$.*?(?:\$\$|\Z)|\\\[.*?(?:\\\]|\Z)|\[asy\].*?(?:\[/asy\]|\Z)"
    r"|\\begin\{(\w+)\*?\}.*?(?:\\end\{\2\*?\}|\Z)",
    re.DOTALL,
)
# Lines that only code has, matched without the white space around them.
_CODE_LINE = re.compile(
    r"(?:(?:public|private|protected|static|async|export|default|abstract|final) +)*"
    r"(?:def \w+ ?\(|class \w+(?: ?[:({].*| (?:extends|implements) .*)?$|function\b ?\w* ?\("
    r"|import [\w.*]+(?:, ?[\w.]+)*(?: as \w+)?;?$|import (?:[{*\"'<]|\w+,? .*from [\"'])|from [\w.]+ import\b"
    r"|package [\w.]+;|using [\w.: =]+;|namespace [\w.:]+ ?[{;]?$|interface \w+.*\{$|(?:const|let|var) [\w{\[].*="
    r"|(?:int|void|float|double|char|bool|boolean|String|auto)(?:\[\])? \w+ ?[(=\[;]|print(?:ln|f)? ?\("
    r"|console\.log|System\.\w|return\b.*;|(?:if|for|while|switch) ?\(.*[){;:]$|(?:for \w+ in|while|with) .*(?::|; do)$"
    r"|@\w+(?:\(.*\))?$|#!|#include|//|/\*|>>> |INSERT INTO\b|DELETE FROM\b|UPDATE \w+ SET\b|SELECT\s.|WITH \w+ AS\b"
    r"|(?:CREATE|ALTER|DROP) (?:TABLE|VIEW|INDEX|DATABASE|FUNCTION|PROCEDURE|TRIGGER|USER)\b)"
)
# Lines of code as well as of sums, programs' names and verse: they count where no line is a sentence.
_LIKE_CODE = re.compile(
    r"[\w.\[\]\"']+ *(?:\+|-|\*)?= *\S|[A-Za-z_][\w.]*\([^)]*\) ?;?$|.*[;{}]$|\$ |--\s|\w+ ::|SELECT$|puts [\"']"
    r"|(?:echo|grep|touch|mkdir|ls|sed|awk|curl|wget|chmod|npm|pip|git|docker|sudo|cd|rm|cp|mv|tar|ssh|python3?) \S"
)
_ENDS_OF_SENTENCES = tuple(".!?。！？")
_ITEMS = re.compile(r"[,;、] ?")


def why_not(row: Conversation, language: Language, labels: Container[str] = (), answer: str | None = None) -> str:
    """
    Return why the host answer of *row* must stay as it is, "" where it need not.

    *labels* are normalised answers that the data set gives again and again. *answer*, where given, is judged in place of
    the host answer.
    """
    host = row.host()
    if host is None or not formats.can_carry(row):
        return "no text answer to a user"
    turn = row.turns[host.answer]
    if turn.other:
        return "tool call"
    if row.rejected:
        return "preference row"
    if sum(part.text is not None for part in turn.parts) > 1 or any(part.other for part in turn.parts):
        return "answer in several parts"
    answer = turn.content if answer is None else answer
    return _form_of(answer, language, labels) or (
        "copied from the prompt" if _is_copied(answer, row.turns[host.prompt].content) else ""
    )


def labels_among(rows: Iterable[Conversation], language: Language) -> frozenset[str]:
    """Return the short answers (normalised) that several *rows* give word for word: labels, which have no wordings."""
    seen: Counter[str] = Counter()
    for row in rows:
        host = row.host()
        answer = normalise("" if host is None else row.turns[host.answer].content)
        if n_words(answer, language) <= MOST_WORDS_OF_A_LABEL:
            seen[answer] += 1
    return frozenset(answer for answer, n in seen.items() if n >= _FEWEST_ALIKE)


def _form_of(answer: str, language: Language, labels: Container[str]) -> str:
    text = answer.strip()
    forms: dict[str, Callable[[], bool]] = {
        "number": lambda: not any(character.isalpha() for character in text),
        f"fewer than {FEWEST_WORDS} words": lambda: n_words(text, language) < FEWEST_WORDS,
        "label": lambda: normalise(text) in labels or _is_choice(text),
        "JSON": lambda: _is_json(text),
        "code": lambda: is_code(text),
        "fixed form": lambda: bool(
            answer.startswith(_BLOCK)
            or answer != answer.lstrip()
            or _FIELD.match(text)
            or (text.startswith("[") and text.endswith("]") and "\n" not in text)
        ),
    }
    return next((form for form, it_is in forms.items() if it_is()), "")


def _is_choice(text: str) -> bool:
    """Tell whether the one line of *text* that says anything names an option: "B. the second"."""
    said = [line for line in text.splitlines() if any(character.isalnum() for character in line)]
    return len(said) == 1 and bool(_CHOICE.fullmatch(said[0].strip()))


def _is_copied(answer: str, prompt: str) -> bool:
    """Tell whether *answer* is a piece of *prompt*, or several with commas between: what was asked for is that piece."""
    if "\n" in answer.strip():
        return False
    asked = normalise(prompt).casefold()
    text = normalise(answer).casefold().rstrip(".。")
    return text in asked or all(item in asked for item in _ITEMS.split(text))


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
    if text.startswith(("```", "~~~")):
        return True
    lines = [stripped for line in _BLOCKS.sub(" ", text).splitlines() if (stripped := line.strip())]
    if not lines:
        return False
    sure = [bool(_CODE_LINE.match(line)) for line in lines]
    if sure[0] or 3 * sum(sure) > len(lines):
        return True
    if any(line[0].isalpha() and line.count(" ") >= 3 and line.endswith(_ENDS_OF_SENTENCES) for line in lines):
        return False
    likely = [one or bool(_LIKE_CODE.match(line)) for one, line in zip(sure, lines, strict=True)]
    return likely[0] or 3 * sum(likely) > len(lines)
