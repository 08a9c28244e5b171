"""
A certified generator over any model that shows only text: words proposed by the model, chosen by us.

At each slot of a phrase the model is asked which words could come next. Of the B usable ones that are kept, one is
chosen uniformly, with our own randomness. So no phrase of n slots has probability above B^-n, whatever the model says
and even if it is random, hostile, or sees every word chosen so far: the B words of a slot are there before the integer
that chooses among them, and a phrase can be cut into words in one way only (docs/theory.md, section 2, Codebook).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vtuned.conversation import Message, text_in
from vtuned.errors import GenerationError, LMUnavailable
from vtuned.language import Language
from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling, Unanswered
from vtuned.lm.words import WordSampler

# 4 bits a word: 17 words for 64 bits and a second draw, a long sentence still. With 64 words a slot it would be 11, but
# models run out of words that fit long before, and the data's own words would have to stand in.
WORDS_A_SLOT = 16
# Some of the words proposed are no single words, or the same in another case.
_ASKED_FOR = 24
_N_SHOTS = 2
_MAX_LETTERS = 24
_PROPOSING = Sampling(max_tokens=192, temperature=0.7)
# Where no space parts words, every two letters are one.
_PAIR = re.compile(r"[^\W\d_]{2}")
_SEPARATORS = re.compile(r"[,;|/\n\r\t،；，、､]|(?<!\w)\d+[.):]")
_AROUND = " \u3000*_`#\"'“”‘’«»「」『』[](){}<>.。!?！？…-–—•·:："


class Codebook:
    """
    A `TokenSampler` whose tokens are the words that *model* proposed so far, *size* of them possible at each slot.

    Where the model proposes too few usable words, those that follow in *texts* fill up. A proposal is never told apart
    from such a word, so the certificate does not depend on how well the model plays its part. Raises GenerationError
    where *texts* hold too few words to fill up with.
    """

    def __init__(
        self, model: LanguageModel, texts: Iterable[str], language: Language, *, size: int = WORDS_A_SLOT
    ) -> None:
        self.model = model
        self._language = language
        self._size = size
        self._word = language.word if language.spaced else _PAIR
        self._joiner = " " if language.spaced else ""
        self._reserve = WordSampler(texts, replace(language, word=self._word))
        n_different = len({word.casefold() for word in self._following([])})
        if n_different < size:
            raise GenerationError(
                f"the data hold only {n_different} different words to fill up a codebook of {size}",
                hint="use --generator smollm2, or give more rows",
            )
        self._words: list[str] = []
        self._token_of: dict[str, int] = {}
        self._n_kept = self._n_proposed = 0
        self._first_reason = ""

    @property
    def share_proposed(self) -> float | None:
        """The share of the words kept so far that the model proposed; None before the first slot."""
        return self._n_proposed / self._n_kept if self._n_kept else None

    def require_proposals(self) -> None:
        """Raise LMUnavailable where slots were filled, and none of their words was the model's."""
        if self._n_kept and not self._n_proposed:
            reason = f"proposed no usable word ({self._first_reason or 'none was a single word'})"
            raise LMUnavailable(self.model.name, reason, hint="mend that, or use --generator words")

    @property
    def name(self) -> str:
        """See `TokenSampler.name`."""
        return f"{self.model.name} (codebook of {self._size} words a slot)"

    def continuations(self, prompt: Prompt, n: int) -> _CodebookContinuations:
        """See `TokenSampler.continuations`."""
        return _CodebookContinuations(self, prompt, n)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `TokenSampler.decode`."""
        return [self._joiner.join(self._words[token] for token in path) for path in tokens]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TokenSampler.encode`; a text with a word that was never proposed has no tokens."""
        paths = [[self._token_of.get(word, -1) for word in self._cut(text)] for text in texts]
        return [path if -1 not in path else [] for path in paths]

    def next_log_probs(self, prompt: Prompt, texts: Sequence[str]) -> NDArray[np.float32]:
        """
        Ask for the next word of all *texts* at once; return log-probabilities, shape (texts, words so far).

        The words of a text's slot are equally likely and all others impossible. Raises what the model raises.
        """
        different = list(dict.fromkeys(texts))
        requests = [self._request(prompt, text) for text in different]
        answers = self.model.answer(requests, _PROPOSING)
        slots = {text: self._slot(text, answer) for text, answer in zip(different, answers, strict=True)}
        log_probs = np.full((len(texts), len(self._words)), -np.inf, dtype=np.float32)
        for row, text in zip(log_probs, texts, strict=True):
            row[slots[text]] = -np.log(len(slots[text]))
        return log_probs

    def _request(self, prompt: Prompt, text: str) -> Prompt:
        """Return the question for the next word of *text*, after two such questions that the data answer."""
        examples = [text_in(message) for message in prompt if message["role"] == "assistant"]
        listed = "\n".join(f"- {example}" for example in examples)
        task = "\n".join(text_in(message) for message in prompt[-1:])
        intro = f'Somebody was asked: "{task}"\nSuch sentences are:\n{listed}\n\nYou only propose words for another.\n'
        messages: list[Message] = []
        for example in examples[:_N_SHOTS]:
            words = self._word.findall(example)
            half = len(words) // 2
            proposed = dict.fromkeys([*words[half : half + 1], *self._following(words[:half][-1:])[:_ASKED_FOR]])
            messages += [
                {"role": "user", "content": self._question(self._joiner.join(words[:half]))},
                {"role": "assistant", "content": ", ".join(list(proposed)[:_ASKED_FOR])},
            ]
        messages.append({"role": "user", "content": self._question(text)})
        return ({"role": "user", "content": intro + text_in(messages[0])}, *messages[1:])

    def _question(self, text: str) -> str:
        units = "single words" if self._language.spaced else "pairs of letters"
        place = f'that could come next after: "{text}"' if text else "that it could begin with."
        return f"List {_ASKED_FOR} different {units}, separated by commas and nothing else, {place}"

    def _slot(self, text: str, answer: Answer) -> list[int]:
        """Return the tokens of the words that may come after *text*: `size` of them, the model's before the data's."""
        last = self._cut(text)[-1:]
        folded = [word.casefold() for word in last]
        proposed = self._proposed(answer, is_first=not text)
        if isinstance(answer, Unanswered) and not self._first_reason:
            self._first_reason = answer.reason
        words = [*proposed, *self._following(last)]
        found: dict[str, str] = {}
        for word in sorted(words, key=lambda word: word.casefold() in folded):
            if len(found) == self._size:
                break
            if self._fits(text, word):
                found.setdefault(word.casefold(), word)
        self._n_kept += len(found)
        self._n_proposed += len(found.keys() & {word.casefold() for word in proposed})
        return [self._token(word) for word in found.values()]

    def _proposed(self, answer: Answer, *, is_first: bool) -> list[str]:
        """
        Return the words in an answer, however it lists them; none where there is no answer.

        Lists are often written in capitals: what the data write in small letters is, unless it *is_first*.
        """
        if not isinstance(answer, Completed):
            return []
        said = unicodedata.normalize("NFC", answer.text.rpartition("</think>")[2]).replace("’", "'")
        pieces = [piece.strip(_AROUND) for piece in _SEPARATORS.split(said)]
        if answer.finish == "length":
            pieces.pop()
        if not self._language.spaced:
            pieces = [piece[:2] for piece in pieces]
        words = [piece for piece in pieces if len(piece) <= _MAX_LETTERS and self._word.fullmatch(piece)]
        return words if is_first else [w.lower() if self._reserve.encode([w.lower()])[0] else w for w in words]

    def _following(self, last: Sequence[str]) -> list[str]:
        """Return the words of the data, those first that follow the word *last* there."""
        known = self._reserve.encode(last)[0] if last else []
        log_probs = self._reserve.next_log_probs(known[0] if known else None)
        # After a word that the data do not hold, the frequent ones first.
        order = range(len(log_probs)) if last and not known else np.argsort(-log_probs, kind="stable")
        return self._reserve.decode([[int(token)] for token in order])

    def _fits(self, text: str, word: str) -> bool:
        """Tell whether a phrase can go on with *word*, and from there on."""
        more = f"{text}{self._joiner if text else ''}{word}{' and' if self._language.spaced else ''}"
        return self._language.allows(more, len(text))

    def _token(self, word: str) -> int:
        if word not in self._token_of:
            self._token_of[word] = len(self._words)
            self._words.append(word)
        return self._token_of[word]

    def _cut(self, text: str) -> list[str]:
        """Cut *text* into words, in the only way there is: at its spaces or, where there are none, after every pair."""
        if self._language.spaced:
            return text.split(" ") if text else []
        return [text[i : i + 2] for i in range(0, len(text), 2)]


class _CodebookContinuations:
    def __init__(self, codebook: Codebook, prompt: Prompt, n: int) -> None:
        self._codebook = codebook
        self._prompt = prompt
        self._paths: list[list[int]] = [[] for _ in range(n)]

    def log_probs(self) -> NDArray[np.float32]:
        return self._codebook.next_log_probs(self._prompt, self._codebook.decode(self._paths))

    def append(self, tokens: Sequence[int]) -> None:
        for path, token in zip(self._paths, tokens, strict=True):
            path.append(token)

    def keep(self, indices: Sequence[int]) -> None:
        self._paths = [self._paths[i] for i in indices]
