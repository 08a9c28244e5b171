"""
Wordings by small habits of style, each kept through the whole answer: "don't" or "do not", "-" or "*", a final stop.

Deterministic, for each language its own. Every kind of habit an answer offers a place for doubles its wordings; code,
quoted text, links and numbers are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import product

from vtuned.conversation import Conversation
from vtuned.language import Language
from vtuned.rewriters.base import Candidates, CannotBear, Wording
from vtuned.rewriters.fitness import why_not

NAME = "style"

# What is left as it is wherever it stands: code, formulas, links, addresses, quotations.
_KEPT = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{\w+\*?\}"
    r"|https?://\S+|\S+@\S+|\"[^\"\n]*\"|“[^”\n]*”|「[^」\n]*」|『[^』\n]*』|^(?: {4}|\t).*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Habit:
    """
    One habit with two ways: *name*, and for each way a function that brings a piece of prose to it.

    Applying one way and then the other gives what the other gives alone, so that wordings are the same whichever of
    them a row holds.
    """

    name: str
    ways: tuple[Callable[[str], str], Callable[[str], str]]
    whole: bool = False


def _swaps(name: str, pairs: tuple[tuple[str, str], ...], before: str = "", after: str = "") -> Habit:
    """
    Return the habit of saying the first or the second of each of *pairs*; a capital at the start is kept.

    *before* and *after* are patterns for what stands around them.
    """

    def to(which: int) -> Callable[[str], str]:
        table = {pair[1 - which]: pair[which] for pair in pairs}
        table |= {old[0].upper() + old[1:]: new[0].upper() + new[1:] for old, new in table.items()}
        pattern = re.compile(
            before + "(" + "|".join(sorted(map(re.escape, table), key=len, reverse=True)) + ")" + after
        )
        return lambda text: pattern.sub(lambda match: table[match.group(1)], text)

    return Habit(name, (to(0), to(1)))


_NEGATED = ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "could", "would", "should", "need")
_CONTRACTIONS = _swaps(
    "contractions",
    (*((f"{verb} not", f"{verb}n't") for verb in _NEGATED), ("cannot", "can't"), ("will not", "won't")),
    before=r"(?<![\w'])",
    # "Why don't you" is no "Why do not you".
    after=r"(?![\w'])(?! (?:I|you|we|they|he|she|it|there|that|this)\b)",
)
_EXAMPLES = _swaps("for example", (("for example,", "for instance,"),), before=r"(?<!\w)")
_SPELLING = _swaps(
    "kana",
    (
        ("例えば", "たとえば"),
        ("及び", "および"),
        ("又は", "または"),
        ("既に", "すでに"),
        ("全て", "すべて"),
        ("様々", "さまざま"),
        ("更に", "さらに"),
        ("但し", "ただし"),
        ("殆ど", "ほとんど"),
        ("下さい", "ください"),
        ("何故", "なぜ"),
        ("沢山", "たくさん"),
    ),
)


def _marker(mark: str, other: str) -> Callable[[str], str]:
    pattern = re.compile(rf"^([ ]*){re.escape(other)}(?=[ ])", re.MULTILINE)
    return lambda text: pattern.sub(rf"\g<1>{mark}", text)


def _numbering(mark: str, other: str) -> Callable[[str], str]:
    pattern = re.compile(rf"^([ ]*\d{{1,2}}){re.escape(other)}(?=[ ]\S)", re.MULTILINE)
    return lambda text: pattern.sub(rf"\g<1>{mark}", text)


_SENTENCE_END = re.compile(r"[a-z]{2}[.!?] (?=[A-Z])|[。！？](?=.)")
# Four or more single words in small letters: with fewer, "in May, cats and dogs" would be taken for a list.
_SERIES = re.compile(r"\b((?:[a-z]+, ){2,}[a-z]+)(,?) (and|or) (?=[a-z]+\b)")


def _series(comma: str) -> Callable[[str], str]:
    return lambda text: _SERIES.sub(rf"\g<1>{comma} \g<3> ", text)


def _final(stop: str) -> Habit:
    # Only where another sentence ends before: a title or a list without a verb takes no stop.
    ends = re.compile(r"(?<=[^\W\d_])" + re.escape(stop) + r"?\Z")

    def with_stop(text: str) -> str:
        return ends.sub(stop, text, count=1)

    def without(text: str) -> str:
        return ends.sub("", text, count=1)

    return Habit("final stop", (with_stop, without), whole=True)


_LISTS = (
    Habit("list markers", (_marker("-", "*"), _marker("*", "-"))),
    Habit("numbering", (_numbering(".", ")"), _numbering(")", "."))),
)
_SPACED = (_CONTRACTIONS, _EXAMPLES, Habit("serial comma", (_series(","), _series(""))), *_LISTS, _final("."))
_UNSPACED = (_SPELLING, *_LISTS, _final("。"))


@dataclass(frozen=True, slots=True)
class Style:
    """The rewriter of habits, of which an answer takes as many as make *n_wordings* wordings at most."""

    language: Language
    n_wordings: int
    labels: Container[str] = ()
    name: str = NAME

    def candidates(self, row: Conversation) -> Candidates:
        """See `Rewriter.candidates`."""
        because = why_not(row, self.language, self.labels)
        if because:
            return CannotBear(because)
        host = row.host()
        assert host is not None
        answer = row.turns[host.answer].content
        offered = [habit for habit in (_SPACED if self.language.spaced else _UNSPACED) if _offers(habit, answer)]
        offered = offered[: self.n_wordings.bit_length() - 1]
        if not offered:
            return CannotBear("no place for a habit of style")
        wordings = []
        for ways in product((0, 1), repeat=len(offered)):
            text = answer
            for habit, way in zip(offered, ways, strict=True):
                text = _brought(habit, way, text)
            labels = tuple(f"{habit.name} {way + 1}" for habit, way in zip(offered, ways, strict=True))
            wordings.append(Wording(text, labels))
        if len({wording.text for wording in wordings}) < len(wordings):
            return CannotBear("habits of style that depend on each other")
        return tuple(wordings)


def _offers(habit: Habit, answer: str) -> bool:
    """Tell whether *answer* has a place for *habit*, and its two ways give the same from each other."""
    one, other = (_brought(habit, way, answer) for way in (0, 1))
    return one != other and _brought(habit, 1, one) == other and _brought(habit, 0, other) == one


def _brought(habit: Habit, way: int, answer: str) -> str:
    """Return *answer* with its prose brought to one way of *habit*."""
    if habit.whole:
        is_prose = bool(_SENTENCE_END.search(answer)) and "\n" not in answer and not _KEPT.search(answer[-200:])
        return habit.ways[way](answer) if is_prose else answer
    pieces, end = [], 0
    for kept in _KEPT.finditer(answer):
        pieces += [habit.ways[way](answer[end : kept.start()]), kept.group()]
        end = kept.end()
    return "".join((*pieces, habit.ways[way](answer[end:])))
