"""
A generator made of the data set's own words: `--generator words`.

For data whose language the LM does not speak, and for machines without torch. It chains words as they follow each
other in the data, so it shows its whole next-token distribution and the certificate is the same as for an LM
(docs/adr/0003). It reads worse than a language model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vtuned.errors import GenerationError
from vtuned.language import Language
from vtuned.lm.base import Prompt

_N_WORDS = 4096
_N_FOLLOWERS = 128
# Every word stays possible after every other, so that no chain ends in a word that nothing followed.
_UNSEEN = -30.0


class WordSampler:
    """
    A `TokenSampler` over the most frequent words of *texts*: word j follows word i as often as it does there.

    Raises GenerationError where *texts* hold fewer than 16 different words.
    """

    name = "words"

    def __init__(self, texts: Iterable[str], language: Language) -> None:
        self.language = language
        sentences = [[m.group() for m in language.word.finditer(line)] for text in texts for line in _clauses(text)]
        counts = Counter(word for words in sentences for word in words if len(word) <= 24)
        continued = " and" if language.spaced else ""
        self._words = [word for word, _ in counts.most_common() if language.allows(word + continued)][:_N_WORDS]
        if len(self._words) < 16:
            raise GenerationError(
                f"the data hold only {len(self._words)} different words to make phrases of",
                hint="use --generator smollm2, or give more rows",
            )
        self._token_of = {word: token for token, word in enumerate(self._words)}
        self._starts: Counter[int] = Counter()
        self._followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for words in sentences:
            tokens = [self._token_of.get(word, -1) for word in words]
            self._starts.update(token for token in tokens[:1] if token >= 0)
            for before, after in pairwise(tokens):
                if before >= 0 and after >= 0:
                    self._followers[before][after] += 1

    def continuations(self, prompt: Prompt, n: int) -> _WordContinuations:
        """See `TokenSampler.continuations`; the prompt plays no part."""
        return _WordContinuations(self, n)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `TokenSampler.decode`."""
        joiner = " " if self.language.spaced else ""
        return [joiner.join(self._words[token] for token in path) for path in tokens]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TokenSampler.encode`; a text with an unknown word has no tokens."""
        paths = [[self._token_of.get(m.group(), -1) for m in self.language.word.finditer(text)] for text in texts]
        return [path if -1 not in path else [] for path in paths]

    def next_log_probs(self, last: int | None) -> NDArray[np.float32]:
        """Return the log-probabilities (nats) of the word after *last* (None: the first word), shape (words,)."""
        counts = self._starts if last is None else self._followers.get(last, Counter())
        scores = np.full(len(self._words), _UNSEEN)
        for token, count in counts.most_common(_N_FOLLOWERS):
            scores[token] = np.log(count)
        scores -= scores.max()
        values: NDArray[np.float32] = (scores - np.log(np.exp(scores).sum())).astype(np.float32)
        return values


class _WordContinuations:
    def __init__(self, sampler: WordSampler, n: int) -> None:
        self._sampler = sampler
        self._last: list[int | None] = [None] * n

    def log_probs(self) -> NDArray[np.float32]:
        return np.stack([self._sampler.next_log_probs(last) for last in self._last])

    def append(self, tokens: Sequence[int]) -> None:
        self._last = list(tokens)

    def keep(self, indices: Sequence[int]) -> None:
        self._last = [self._last[i] for i in indices]


def _clauses(text: str) -> list[str]:
    """Cut *text* where no word chain should pass: at the ends of sentences and lines."""
    for end in '!?\n。！？「」『』（）()[]{}<>:;"':
        text = text.replace(end, ".")
    return text.split(".")
