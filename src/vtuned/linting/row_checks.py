"""
Which rows break a rule: one small test for each kind of rule that looks at rows one by one.

Pure. What needs other rows, or tokens, is in `vtuned.linting.passes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise

from vtuned.containers.jsonvalue import as_object
from vtuned.dataset import spelled_out
from vtuned.formats import CODECS, Row
from vtuned.linting.rules import Kind, Rule

_CHAT = "openai-chat"


def _has_other_format(row: Row, rule: Rule) -> bool:
    return row.codec.name not in rule.words


def _has_several_formats(row: Row, rule: Rule) -> bool:
    value = as_object(row.raw.value())
    return sum(codec.name in rule.words and codec.recognises(value) for codec in CODECS) > 1


def _has_other_fields(row: Row, rule: Rule) -> bool:
    return not as_object(row.raw.value()).keys() <= set(rule.words)


def _has_other_roles(row: Row, rule: Rule) -> bool:
    return any(turn.role not in rule.words for turn in row.conversation.turns)


def _starts_otherwise(row: Row, rule: Rule) -> bool:
    return row.codec.name == _CHAT and row.conversation.turns[0].role not in rule.words


def _ends_otherwise(row: Row, rule: Rule) -> bool:
    return row.codec.name == _CHAT and row.conversation.turns[-1].role not in rule.words


def _repeats_a_role(row: Row, rule: Rule) -> bool:
    """Tell whether one of two roles speaks twice in a row. Rows with tools are let pass: no source says how they count."""
    turns = row.conversation.turns
    if row.codec.name != _CHAT or any(turn.role in ("tool", "function") or turn.other for turn in turns):
        return False
    roles = [turn.role for turn in turns if turn.role in rule.words]
    return any(one == other for one, other in pairwise(roles))


def _has_other_content(row: Row, rule: Rule) -> bool:
    return rule.value == "text" and any(turn.parts for turn in row.conversation.turns)


def _has_words(row: Row, rule: Rule) -> bool:
    return bool(rule.words) and holds_word(row, rule.words)


ROW_CHECKS: Mapping[Kind, Callable[[Row, Rule], bool]] = {
    "formats": _has_other_format,
    "one_format": _has_several_formats,
    "fields": _has_other_fields,
    "roles": _has_other_roles,
    "first_role": _starts_otherwise,
    "last_role": _ends_otherwise,
    "alternating": _repeats_a_role,
    "content": _has_other_content,
    "moderation": _has_words,
}


def holds_word(row: Row, words: tuple[str, ...]) -> bool:
    """Tell whether one of *words* stands in the row as a word of its own, whatever its case."""
    rejected = (turn.content for turn in row.conversation.rejected)
    return _pattern(words).search("\n".join((spelled_out(row.conversation), *rejected))) is not None


@lru_cache(maxsize=8)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    # Scripts without spaces have no word of its own: there a word is looked for anywhere.
    spelt = (rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(word) for word in words)
    return re.compile("|".join(spelt), re.IGNORECASE)
