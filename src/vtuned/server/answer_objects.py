"""Answers as OpenAI's objects. Knows nothing of models or HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from vtuned.lm.huggingface.shown import ShownToken
from vtuned.server.answering import Piece

JSON: TypeAlias = dict[str, Any]


def usage(n_prompt: int, n_answer: int) -> JSON:
    """Return OpenAI's `usage`."""
    return {"prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer}


def chat_logprobs(tokens: Sequence[ShownToken]) -> JSON:
    """Return the `logprobs` of a chat choice."""
    content = [
        {
            **_entry(token.text, token.log_prob or 0.0),
            "top_logprobs": [_entry(text, value) for text, value in token.likeliest],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(text: str, log_prob: float) -> JSON:
    is_whole = "\ufffd" not in text
    return {"token": text, "bytes": list(text.encode()) if is_whole else None, "logprob": _finite(log_prob)}


def _finite(value: float) -> float:
    """Return *value* as JSON can say it."""
    return max(value, -9999.0)


def prompt_logprobs(tokens: Sequence[ShownToken]) -> list[JSON | None]:
    """Return vLLM's `prompt_logprobs`: for each token of the prompt its own entry first; null for the first token."""
    return [
        None
        if token.log_prob is None
        else {str(token.id): {"logprob": _finite(token.log_prob), "rank": None, "decoded_token": token.text}}
        for token in tokens
    ]


def text_logprobs(tokens: Sequence[ShownToken]) -> JSON:
    """
    Return the `logprobs` of a completion choice.

    The first token of a text has no log-probability. OpenAI's API says null there, which its own SDK's model refuses;
    here it is 0.
    """
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.log_prob or 0.0) for token in tokens],
        "top_logprobs": [{text: _finite(value) for text, value in token.likeliest} for token in tokens],
        "text_offset": offsets,
    }


def chat_completion(
    identifier: str, created: int, model: str, piece: Piece, *, with_logprobs: bool, n_prompt: int
) -> JSON:
    """Return OpenAI's `chat.completion`."""
    message = {"role": "assistant", "content": piece.text, "refusal": piece.refusal}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": piece.finish,
        "logprobs": chat_logprobs(piece.tokens) if with_logprobs else None,
    }
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage(n_prompt, piece.n_tokens),
    }


def chat_chunk(
    identifier: str, created: int, model: str, delta: JSON, piece: Piece | None = None, *, with_logprobs: bool = False
) -> JSON:
    """Return OpenAI's `chat.completion.chunk`."""
    shown = chat_logprobs(piece.tokens) if piece is not None and with_logprobs and piece.tokens else None
    choice = {"index": 0, "delta": delta, "finish_reason": piece.finish if piece else None, "logprobs": shown}
    return {
        "id": identifier,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [choice],
    }


def text_completion(identifier: str, created: int, model: str, choices: list[JSON], counted: JSON | None) -> JSON:
    """Return OpenAI's `text_completion`, also for pieces of a stream."""
    return {
        "id": identifier,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        **({"usage": counted} if counted is not None else {}),
    }


def text_choice(index: int, text: str, finish: str | None, logprobs: JSON | None) -> JSON:
    """Return one choice of a `text_completion`."""
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}
