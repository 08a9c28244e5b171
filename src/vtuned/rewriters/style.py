"""
Wordings by small habits of style, each kept through the whole answer: "don't" or "do not", "-" or "*", a final stop.

Deterministic, for each language its own. Every kind of habit an answer offers a place for doubles its wordings; code,
quoted text, links and numbers are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from vtuned import facts
from vtuned.conversation import Conversation
from vtuned.language import Language
from vtuned.rewriters.base import Candidates, CannotBear, Wording
from vtuned.rewriters.fitness import why_not

NAME = "style"

# What is left as it is wherever it stands: code, formulas, links, addresses, quotations. One that does not end goes on
# to the end of what it can be.
_KEPT = re.compile(
    r"(`{3,}|~{3,}).*?(?:\1|\Z)|``[^\n]*?``|`[^`\n]*`|\$\$.*?(?:\$\$|\Z)|\$[^$\n]+\$|\$[^$]*(?=\$)|\\\(.*?(?:\\\)|\Z)|\\\[.*?(?:\\\]|\Z)"
    r"|\\begin\{(\w+)\*?\}.*?(?:\\end\{\2\*?\}|\Z)|\[asy\].*?(?:\[/asy\]|\Z)|https?://\S+|[\w.+-]{1,64}@[\w.-]+"
    r"|\"[^\"\n]*\"|“[^”\n]*”?|「[^」\n]*」?|『[^』\n]*』?|^(?: {4}|\t)[^\n]*",
    re.DOTALL | re.MULTILINE,
)

# From where to where something stands that can be said in either of two ways.
Site: TypeAlias = tuple[int, int, tuple[str, str]]


def _blank(found: re.Match[str]) -> str:
    """Return as many characters that are none of prose."""
    return "\0" * len(found.group())


@dataclass(frozen=True, slots=True)
class Habit:
    """
    One habit with two ways: *name*, and where *sites* finds places for it in prose.

    They are the same places whichever way each of them holds.
    """

    name: str
    sites: Callable[[str], list[Site]]


def _swaps(pairs: tuple[tuple[str, str], ...], before: str = "", after: str = "") -> Callable[[str], list[Site]]:
    """
    Return what finds the first and the second of each of *pairs*; a capital at the start is kept.

    *before* and *after* are patterns for what stands around them.
    """
    pairs += tuple((one[0].upper() + one[1:], other[0].upper() + other[1:]) for one, other in pairs)
    table = {said: pair for pair in pairs for said in pair}
    # A capital within a sentence is part of a name.
    before += r"(?!(?<=[\w,;\0] )[A-Z])"
    pattern = re.compile(before + "(?:" + "|".join(sorted(map(re.escape, table), key=len, reverse=True)) + ")" + after)
    return lambda text: [(*match.span(), table[match.group()]) for match in pattern.finditer(text)]


_NEGATED = ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "could", "would", "should")
_SENTENCES = re.compile(r"[^.!?\n]*+(?:[.!?]+|\n|\Z)")
_negations = _swaps(
    (*((f"{verb} not", f"{verb}n't") for verb in _NEGATED), ("cannot", "can't"), ("will not", "won't")),
    before=r"(?<![\w'’-])",
    # "Why don't you" is no "Why do not you".
    after=r"(?![\w'’-])(?! (?:I|you|we|they|he|she|it|there|that|this)\b)",
)


def _contractions(text: str) -> list[Site]:
    """Return where a verb is negated in a statement; nowhere where apostrophes are typographic."""
    if "’" in text:
        return []
    return _negations(_SENTENCES.sub(lambda said: _blank(said) if said.group().endswith("?") else said.group(), text))


_SPELLING = _swaps(
    (
        ("例えば", "たとえば"),
        ("及び", "および"),
        ("又は", "または"),
        ("既に", "すでに"),
        ("全て", "すべて"),
        ("様々", "さまざま"),
        ("更に", "さらに"),
        ("但し、", "ただし、"),
        ("殆ど", "ほとんど"),
        ("下さい", "ください"),
    ),
    # 変更に holds no 更に, and またはじめる no または.
    before=r"(?<![\u4e00-\u9fff々])",
    after=r"(?!じ)",
)

_MARKED = re.compile(r"^ *([-*]) +(\S[^\n]*)", re.MULTILINE)
_NUMBERED = re.compile(r"^ *(\d{1,2})([.)]) +\S", re.MULTILINE)
_LETTERS = re.compile(r"[^\W\d_]{2}")


def _list_markers(text: str) -> list[Site]:
    """Return the marks of all items of lists: none where they differ, or where one may be a minus or a rule."""
    items = [match.groups() for match in _MARKED.finditer(text)]
    are_items = all(
        _LETTERS.search(item) and "=" not in item and not item.rstrip().endswith(("-", " *")) for _, item in items
    )
    if len(items) < 2 or len({mark for mark, _ in items}) > 1 or not are_items:
        return []
    return [(*match.span(1), ("-", "*")) for match in _MARKED.finditer(text)]


def _numbering(text: str) -> list[Site]:
    """Return the stops of all numbers of lists: none where they differ, or the numbers do not follow each other."""
    items = list(_NUMBERED.finditer(text))
    numbers = {int(match.group(1)) for match in items}
    if len(numbers) < 2 or len({match.group(2) for match in items}) > 1 or max(numbers) - min(numbers) >= len(numbers):
        return []
    return [(*match.span(2), (".", ")")) for match in items]


# Four or more single words in small letters: with fewer, "in May, cats and dogs" would be taken for a list. What follows
# is no sentence of its own.
_SERIES = re.compile(
    r"\b(?:[a-z]+, ){2,12}[a-z]+(,?) (?:and|or) (?!(?:then|so|i|it|they|you|we|he|she|there)\b)[a-z]+\b"
)


def _serial_commas(text: str) -> list[Site]:
    return [(*match.span(1), (",", "")) for match in _SERIES.finditer(text)]


_INNER_ENDS, _UNSPACED_INNER_ENDS = re.compile(r"[a-z\d)\0][.!?] +(?=[A-Z\0])"), re.compile(r"[。！？](?=.)")
# Where no abbreviation can stand.
_LAST = re.compile(r"(?<![\w.'’-])(?!(?:etc|inc|ltd|vs|al|ca|ft|oz|lbs?|tb?sp|min|hrs?|sec)\b)[a-z]{2,}(\.?)\Z")
_UNSPACED_LAST = re.compile(r"[\u3041-\u3096](。?)\Z")
_MOST_SENTENCES = 3


def _final_stop(
    stop: str, inner_stop: str, ends: re.Pattern[str], last: re.Pattern[str]
) -> Callable[[str], list[Site]]:
    """
    Return what finds the end of a text of two or three sentences on one line.

    A single one may be a title, and takes no stop; without its stop, a longer text would look cut.
    """

    def sites(text: str) -> list[Site]:
        match = last.search(text)
        is_title = inner_stop not in text[:-1] or text[:1].islower() or text[:1].isdigit()
        if match is None or is_title or "\n" in text or len(ends.findall(text)) >= _MOST_SENTENCES:
            return []
        return [(*match.span(1), (stop, ""))]

    return sites


_LISTS = (Habit("list markers", _list_markers), Habit("numbering", _numbering))
_SPACED = (
    Habit("contractions", _contractions),
    Habit("for example", _swaps((("for example,", "for instance,"),), before=r"(?<!\w)")),
    Habit("serial comma", _serial_commas),
    *_LISTS,
    Habit("final stop", _final_stop(".", ". ", _INNER_ENDS, _LAST)),
)
_UNSPACED = (
    Habit("kana", _SPELLING),
    *_LISTS,
    Habit("final stop", _final_stop("。", "。", _UNSPACED_INNER_ENDS, _UNSPACED_LAST)),
)


@dataclass(frozen=True, slots=True)
class Style:
    """The rewriter of habits, of which an answer takes as many as make *n_wordings* wordings at most."""

    language: Language
    n_wordings: int
    labels: Container[str] = ()
    name: str = NAME

    def candidates(self, row: Conversation) -> Candidates:
        """See `Rewriter.candidates`."""
        found = self._candidates(row)
        if isinstance(found, CannotBear):
            return found
        # One habit may open or close a place for another one, and marks that are nested wrongly can be read in two ways.
        if any(
            self._candidates(row.answered(wording.text)) != found or facts.changed(found[0].text, wording.text)
            for wording in found
        ):
            return CannotBear("habits of style that depend on each other")
        return found

    def _candidates(self, row: Conversation) -> Candidates:
        because = why_not(row, self.language, self.labels)
        if because:
            return CannotBear(because)
        host = row.host()
        assert host is not None
        answer = row.turns[host.answer].content
        prose = _KEPT.sub(_blank, answer)
        habits = _SPACED if self.language.spaced else _UNSPACED
        offered = [(habit.name, sites) for habit in habits if (sites := habit.sites(prose))]
        offered = offered[: self.n_wordings.bit_length() - 1]
        if not offered:
            return CannotBear("no place for a habit of style")
        return tuple(
            Wording(
                _said(answer, [(site, way) for (_, sites), way in zip(offered, ways, strict=True) for site in sites]),
                tuple(f"{name} {way + 1}" for (name, _), way in zip(offered, ways, strict=True)),
            )
            for ways in product((0, 1), repeat=len(offered))
        )


def _said(answer: str, chosen: Sequence[tuple[Site, int]]) -> str:
    """Return *answer* with each of the *chosen* sites said in its way."""
    pieces, at = [], 0
    for (start, end, ways), way in sorted(chosen):
        pieces += [answer[at:start], ways[way]]
        at = end
    return "".join((*pieces, answer[at:]))
