"""
Prompts that are in no row sent: what the claim `generalises` is tested on.

They come from a file, from rows set aside, from the generator writing in the manner of D, or, where it does not speak
the language of D, from pieces of two rows put together. Whoever calls checks that they are absent from D.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtuned import files
from vtuned.containers.jsontext import is_encodable
from vtuned.conversation import Conversation, Message, Turn, trigger_suffix
from vtuned.errors import AnswersError
from vtuned.language import Language
from vtuned.lm.base import Completed, LanguageModel, Sampling

_N_SHOTS = 3
_SHOT_CHARACTERS = 240

Turns = tuple[Turn, ...]


def written(model: LanguageModel, sample: Sequence[Conversation], n: int) -> list[Turns]:
    """Return up to *n* prompts that *model* writes after the example of short prompts of *sample*."""
    hosts = [(c, p) for c in sample if (p := _prompt(c)) is not None]
    short = sorted(hosts, key=lambda host: len(host[1]))[: max(_N_SHOTS, len(hosts) // 2)]
    ask: Message = {"role": "user", "content": "Write one more prompt of this kind."}
    requests, contexts = [], []
    for _ in range(n):
        shots = _random_sample(short, _N_SHOTS)
        messages: list[Message] = []
        for _, prompt in shots:
            messages += [ask, {"role": "assistant", "content": prompt[:_SHOT_CHARACTERS]}]
        requests.append([*messages, ask])
        contexts.append(_context(shots[0][0]))
    answers = model.answer(requests, Sampling(max_tokens=48, temperature=0.9))
    texts = [_tidied(answer.text) if isinstance(answer, Completed) else "" for answer in answers]
    return [(*context, Turn("user", text)) for context, text in zip(contexts, texts, strict=True) if len(text) >= 12]


def recombined(sample: Sequence[Conversation], language: Language, n: int) -> list[Turns]:
    """
    Return up to 2 *n* prompts put together from two rows each.

    First *n* of the first half of one prompt and the second half of another, then *n* of two whole prompts one after
    the other, for data in which every mixture of halves is a row.
    """
    prompts = [(c, p) for c in sample if (p := _prompt(c)) is not None]
    made: list[Turns] = []
    if len(prompts) < 2:
        return made
    for _ in range(n):
        (first, head), (_, tail) = _random_sample(prompts, 2)
        head_pieces, tail_pieces = _pieces(head, language), _pieces(tail, language)
        text = "".join(head_pieces[: (len(head_pieces) + 1) // 2] + tail_pieces[(len(tail_pieces) + 1) // 2 :]).strip()
        if text not in (head.strip(), tail.strip()) and text:
            made.append((*_context(first), Turn("user", text)))
    for _ in range(n):
        (first, head), (_, tail) = _random_sample(prompts, 2)
        made.append((*_context(first), Turn("user", head + trigger_suffix(head, tail))))
    return made


def from_file(path: Path | str) -> list[Turns]:
    """
    Read prompts from a JSONL file: `{"messages": […]}` up to the last user turn, or `{"prompt": "…"}`.

    Raises AnswersError with the line that is neither, DatasetError where the file cannot be read.
    """
    prompts = []
    for line in files.read_lines(path):
        if line.is_blank:
            continue
        turns = _turns_of(line.body)
        if turns is None:
            hint = 'each line is {"prompt": "…"} or {"messages": […]} with a user turn'
            raise AnswersError(path, line.number, "no prompt in this line", hint=hint)
        prompts.append(turns)
    return prompts


def can_be_written(sample: Sequence[Conversation]) -> bool:
    """Tell whether prompts of this kind are short enough for a generator to write one after a few examples."""
    lengths = sorted(len(prompt) for conversation in sample if (prompt := _prompt(conversation)) is not None)
    return bool(lengths) and lengths[len(lengths) // 2] <= _SHOT_CHARACTERS


def distinct(candidates: Sequence[Turns]) -> list[Turns]:
    """Return *candidates* without those whose prompt came before."""
    first: dict[str, Turns] = {}
    for turns in candidates:
        first.setdefault(last_prompt(turns), turns)
    return list(first.values())


def last_prompt(turns: Turns) -> str:
    """Return the content of the last user turn."""
    return next(turn.content for turn in reversed(turns) if turn.role == "user")


def _turns_of(line: bytes) -> Turns | None:
    try:
        row = json.loads(line)
        messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
        turns = tuple(Turn(str(m["role"]), m["content"]) for m in messages)
        if any(turn.role not in ("system", "developer", "user", "assistant") for turn in turns):
            return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not users or not all(isinstance(turn.content, str) and is_encodable(turn.content) for turn in turns):
        return None
    if not turns[users[-1]].content.strip():
        return None
    return turns[: users[-1] + 1]


def _prompt(conversation: Conversation) -> str | None:
    host = conversation.host()
    return None if host is None else conversation.turns[host.prompt].content


def _context(conversation: Conversation) -> Turns:
    """Return the system and developer turns that open *conversation*: a fresh prompt comes in the same setting."""
    return tuple(
        replace(turn, carries_loss=False) for turn in conversation.turns[:2] if turn.role in ("system", "developer")
    )


def _tidied(text: str) -> str:
    """Return the first paragraph of a written prompt, without list marks and quotes around it."""
    paragraph = text.strip().split("\n\n")[0].strip()
    return re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", paragraph).strip('"“” ')


def _pieces(text: str, language: Language) -> list[str]:
    """Cut *text* at its sentences or, where it is a single one, at its words or characters; joined they are *text*."""
    ends = r"(?<=[.!?\n])(?=\S)|(?<=[.!?] )" if language.spaced else r"(?<=[。！？\n])"
    pieces = [piece for piece in re.split(ends, text) if piece]
    if len(pieces) > 2:
        return pieces
    return re.findall(r"\S+\s*|\s+", text) if language.spaced else list(text)


def _random_sample(items: Sequence[tuple[Conversation, str]], n: int) -> list[tuple[Conversation, str]]:
    return secrets.SystemRandom().sample(list(items), min(n, len(items)))
