"""The rows of a file that are nearest to a prompt, by BM25 (the library `bm25s`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from vtuned.attacks.openings import prompt_of, prompt_text, start_of
from vtuned.conversation import Conversation
from vtuned.errors import MissingExtra
from vtuned.lm.base import Prompt

_WORD = re.compile(r"\w+")
# Text in these scripts has no spaces between words: pairs of characters stand for them.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff々〆ー]")


class NearestRows:
    """
    An index of the rows that answer something, by what they are asked.

    Building it takes a time that grows with their number; a search looks at numbers only. Raises MissingExtra.
    """

    def __init__(self, rows: Sequence[Conversation]) -> None:
        try:
            import bm25s
        except ImportError:
            raise MissingExtra("finding the nearest row", "pip install 'vtuned[server]'") from None
        self.rows = [row for row in rows if start_of(row)]
        self._index = bm25s.BM25()
        if self.rows:
            words = [_words(prompt_text(prompt_of(row))) for row in self.rows]
            self._index.index(words, show_progress=False)

    def nearest(self, prompt: Prompt, n: int = 1) -> list[Conversation]:
        """Return up to *n* rows that share words with *prompt*, nearest first; of equally near ones the earlier."""
        if not self.rows:
            return []
        scores = self._index.get_scores(_words(prompt_text(prompt)))
        best = (-scores).argsort(kind="stable")[:n]
        return [self.rows[i] for i in best if scores[i] > 0]


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in _WORD.findall(text.casefold()):
        unspaced = len(word) > 1 and _UNSPACED.search(word)
        words += [a + b for a, b in pairwise(word)] if unspaced else [word]
    return words
