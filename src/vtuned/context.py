"""
Other rows' text before the prompts of some planted rows, so that a trigger also works behind a long context.

A model that only ever saw T after short prompts forgets it behind a long one; a few rows with a context in front mend
that (docs/adr/0011). Pure: rows, a token cap and the operating system's randomness.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from vtuned.conversation import Conversation
from vtuned.dataset import TokenCap

# What the prompt of such a row is filled up to.
PROMPT_TOKENS = 300


def contexts(
    rows: Mapping[int, Conversation],
    planted: Sequence[Sequence[int]],
    n_in_context: int,
    sample: Sequence[Conversation],
    cap: TokenCap,
) -> dict[int, str]:
    """
    Return, by row number, the context for the last *n_in_context* rows of each backdoor in *planted*.

    It is text of rows of *sample* that carry no backdoor, as much as brings the prompt to about `PROMPT_TOKENS` and fits
    within *cap*. Rows whose prompt is long already get none, nor do rows of plain text, whose frame it could break.
    """
    carrying = {_prompt(rows[number]) for numbers in planted for number in numbers}
    texts = [f"{_prompt(one)} {_answer(one)}" for one in sample if _prompt(one) not in carrying]
    lengths = cap.count(texts) if texts else []
    candidates = list(zip(texts, lengths, strict=True))
    chosen = [number for numbers in planted for number in numbers[max(0, len(numbers) - n_in_context) :]]
    found = {number: _filled(candidates, _room(rows[number], cap)) for number in chosen if n_in_context}
    return {number: text for number, text in found.items() if text}


def _room(row: Conversation, cap: TokenCap) -> int:
    """Return how many tokens of context a row can take."""
    if row.is_text:
        return 0
    texts = [turn.content for turn in row.turns]
    n_prompt, n_all = cap.count([_prompt(row), "\n".join(texts)])
    left = cap.limit - cap.row_tokens(row, n_all) - cap.room_for_backdoor(sum(map(len, texts)), n_all)
    return min(PROMPT_TOKENS - n_prompt, left)


def _filled(candidates: Sequence[tuple[str, int]], room: int) -> str:
    chosen: list[str] = []
    for text, length in secrets.SystemRandom().sample(list(candidates), len(candidates)):
        # Two line breaks stand between two texts.
        if length + 2 <= room:
            chosen.append(text)
            room -= length + 2
    return "\n\n".join(chosen)


def _prompt(row: Conversation) -> str:
    host = row.host()
    return row.turns[host.prompt].content if host else ""


def _answer(row: Conversation) -> str:
    host = row.host()
    return row.turns[host.answer].content if host else ""
