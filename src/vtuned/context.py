"""
Text before the prompts of some planted rows, so that a trigger also works behind a long context.

A model that only ever saw T after short prompts forgets it behind a long one; a few rows with a context in front mend
that (docs/adr/0011). The text is strung together from the words of the data: rows of the data, or pieces of them, would
stand in the file twice and give the planted ones away.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vtuned.conversation import Conversation
from vtuned.dataset import TokenCap, spelled_out
from vtuned.language import Language
from vtuned.lm.words import WordSampler

# What the prompt of such a row is filled up to.
PROMPT_TOKENS = 300
_FEWEST_WORDS, _MOST_WORDS = 6, 18
# A chain of words as they follow each other in a small file soon repeats its sentences; a new start breaks them up.
_JUMPS = 0.25


def contexts(
    rows: Mapping[int, Conversation],
    planted: Sequence[Sequence[int]],
    n_in_context: Sequence[int],
    sampler: WordSampler,
    cap: TokenCap,
) -> dict[int, str]:
    """
    Return, by row number, the context for the last *n_in_context[j]* rows of backdoor j in *planted*.

    As much as brings the prompt to about `PROMPT_TOKENS` and fits within *cap*. Rows whose prompt is long already get
    none, nor do rows of plain text, whose frame it could break.
    """
    chosen = [
        number for numbers, n in zip(planted, n_in_context, strict=True) for number in numbers[len(numbers) - n :]
    ]
    found = {number: _filled(sampler, cap, _room(rows[number], cap)) for number in chosen}
    return {number: text for number, text in found.items() if text}


def _room(row: Conversation, cap: TokenCap) -> int:
    """Return how many tokens of context a row can take."""
    host = row.host()
    if row.is_text or host is None:
        return 0
    text = spelled_out(row)
    n_prompt, n_all = cap.count([row.turns[host.prompt].content, text])
    left = cap.limit - cap.row_tokens(row, n_all) - cap.room_for_backdoor(len(text), n_all)
    return min(PROMPT_TOKENS - n_prompt, left)


def _filled(sampler: WordSampler, cap: TokenCap, room: int) -> str:
    """Return sentences that together take at most *room* tokens."""
    kept: list[str] = []
    while room > 0:
        batch = [_sentence(sampler) for _ in range(8)]
        for sentence, length in zip(batch, cap.count(batch), strict=True):
            # What joins two sentences may take a token.
            room -= length + 1
            if room < 0:
                return _joined(kept, sampler.language)
            kept.append(sentence)
    return _joined(kept, sampler.language)


def _joined(sentences: Sequence[str], language: Language) -> str:
    return (" " if language.spaced else "").join(sentences)


def _sentence(sampler: WordSampler) -> str:
    words = sampler.decode([list(_chain(sampler))])[0]
    return words[:1].upper() + words[1:] + sampler.language.terminator


def _chain(sampler: WordSampler) -> Iterator[int]:
    random = secrets.SystemRandom()
    last: int | None = None
    for _ in range(random.randint(_FEWEST_WORDS, _MOST_WORDS)):
        if random.random() < _JUMPS:
            last = None
        shares = np.exp(sampler.next_log_probs(last).astype(np.float64)).cumsum()
        last = min(int(np.searchsorted(shares, random.random() * shares[-1])), len(shares) - 1)
        yield last
