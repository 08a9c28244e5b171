"""What a local model gives to each token of a text: its log-probability, and the likeliest tokens in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vtuned.lm.base import Sampling
from vtuned.lm.huggingface.model import HuggingFaceLM

# Positions whose logits over the whole vocabulary are held in double precision at once.
_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class ShownToken:
    """
    One token: its id, its text (U+FFFD for part of a character), and its log-probability in nats.

    The first token of a text has none: *log_prob* is None. *likeliest* are texts and log-probabilities of the likeliest
    tokens in its place, the likeliest first.
    """

    id: int
    text: str
    log_prob: float | None
    likeliest: tuple[tuple[str, float], ...] = ()


def given(model: HuggingFaceLM, tokens: Sequence[int], n_likeliest: int) -> list[ShownToken]:
    """Return the *tokens* of a given text as *model* reads them, by one pass."""
    import torch

    ids = torch.tensor([list(tokens)], device=model.model.device)
    with model.using(), torch.inference_mode():
        logits = model.model(ids, use_cache=False).logits[0, :-1]
        shown = [ShownToken(tokens[0], _said(model, tokens[0]), None)]
        for start in range(0, len(logits), _POSITIONS):
            rows = logits[start : start + _POSITIONS].double().log_softmax(-1)
            for i, row in enumerate(rows, start=start + 1):
                shown.append(_shown(model, tokens[i], row, n_likeliest))
    return shown


def generated(
    model: HuggingFaceLM, prompt: Sequence[int], sampling: Sampling, n_likeliest: int
) -> Iterator[ShownToken]:
    """
    Yield the tokens of an answer to *prompt* as they are drawn, the end token too.

    Log-probabilities are the model's own, whatever the temperature. Between two tokens other models that share the
    weights may be asked.
    """
    import torch

    ids, cache = torch.tensor([list(prompt)], device=model.model.device), None
    for _ in range(sampling.max_tokens):
        with model.using(), torch.inference_mode():
            out = model.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, row = out.past_key_values, out.logits[0, -1].double()
            token = _drawn(row, sampling.temperature)
            shown = _shown(model, token, row.log_softmax(-1), n_likeliest)
            ids = ids.new_tensor([[token]])
        yield shown
        if token in model.ends:
            return


def _drawn(logits: Any, temperature: float) -> int:
    import torch

    if not temperature:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1))


def _shown(model: HuggingFaceLM, token: int, log_probs: Any, n_likeliest: int) -> ShownToken:
    top = log_probs.topk(n_likeliest) if n_likeliest else None
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
    likeliest = tuple((_said(model, other), value) for other, value in pairs)
    return ShownToken(token, _said(model, token), float(log_probs[token]), likeliest)


def _said(model: HuggingFaceLM, token: int) -> str:
    return model.decode([[token]])[0]
