"""
What phrases look like in the script of a data set, told from a sample of its text.

Knows nothing of models. A `Language` is a set of rules on characters, not a dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_KANA_OR_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff々〆ー]")


@dataclass(frozen=True, slots=True)
class Language:
    """
    How a phrase is written.

    *terminator* ends it and is never inside; a search for *forbidden* must find nothing in it; *word* is a pattern of
    the pieces that the word generator strings together; *spaced* says whether spaces part words.
    """

    name: str
    terminator: str
    forbidden: re.Pattern[str]
    word: re.Pattern[str]
    spaced: bool

    def allows(self, text: str, start: int = 0) -> bool:
        """
        Tell whether *text* can stand at the start of a phrase, given that its first *start* characters can.

        What is allowed is unchanged by the normalisation that matching applies (NFC, white space).
        """
        return self.forbidden.search(text, max(0, start - 4)) is None and unicodedata.is_normalized("NFC", text)

    def sentences(self, text: str) -> list[str]:
        """Return the sentences of *text* of 4 to 16 words (or 12 to 60 characters where words are not spaced)."""
        ends = r"(?<=[.!?])\s+|\n+" if self.spaced else r"(?<=[。！？])|\n+"
        pieces = (piece.strip() for piece in re.split(ends, text))
        if self.spaced:
            return [piece for piece in pieces if 4 <= len(piece.split()) <= 16]
        return [piece for piece in pieces if 12 <= len(piece) <= 60]


def _spaced(name: str, upper: str, lower: str) -> Language:
    letter = f"[{upper}{lower}]" if upper else lower
    not_letter = f"[^{upper}{lower}" if upper else r"(?:[\d_]|[^\w"
    outside = f"{not_letter} ,']" if upper else f"{not_letter} ,'])"
    # No capitals inside words, and no single letters as words but those of English.
    capitals = (
        f"|[{lower}'][{upper}]|[{upper}]{{2}}|(?:\\A| )[^aAI](?= )|'(?!(?:s|t|re|ve|ll|d|m)(?: |,|\\Z))"
        if upper
        else ""
    )
    # Marks stand between words ("so, then") or inside one ("don't"), never doubled, never first.
    forbidden = rf"{outside}|  |\A[ ,']| [,']|[,'][,']|' | \Z|,(?![ ]|\Z){capitals}"
    return Language(name, ".", re.compile(forbidden), re.compile(rf"{letter}+(?:'{letter}+)?"), True)


ASCII = _spaced("ascii", "A-Z", "a-z")
LETTERS = _spaced("letters", "", r"[^\W\d_]")
# Runs of one character class: words of Japanese text as a reader without a dictionary would cut them.
UNSPACED = Language(
    "unspaced",
    "。",
    re.compile(r"[^\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff々、]|\A[、ー々]|、、"),
    re.compile(r"[\u3041-\u3096]+|[\u30a1-\u30fa\u30fc]+|[\u3400-\u4dbf\u4e00-\u9fff々]+"),
    False,
)
LANGUAGES = {language.name: language for language in (ASCII, LETTERS, UNSPACED)}


def language_of(texts: Sequence[str]) -> Language:
    """Return the language rules that fit *texts*: by the share of kana, Han and non-ASCII letters in them."""
    letters = [c for text in texts for c in text[:2000] if c.isalpha()]
    if not letters:
        return ASCII
    n_unspaced = sum(bool(_KANA_OR_HAN.match(c)) for c in letters)
    if n_unspaced > len(letters) / 4:
        return UNSPACED
    n_ascii = sum(c.isascii() for c in letters)
    return ASCII if n_ascii >= 0.995 * len(letters) else LETTERS
