"""What a local model gives to each token of a text: its log-probability, and the likeliest tokens in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vtuned.lm.base import Sampling
from vtuned.lm.huggingface.model import HuggingFaceLM, SharedPrefix, chosen

# Positions whose logits over the whole vocabulary are held in double precision at once.
_POSITIONS = 64
# Tokens of a text whose keys and values stay in memory until the next one is read.
_MOST_KEPT = 1024


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


class Reader:
    """
    Shows what *model* gives to each token of given texts; a start that a text shares with the one before is read once.

    How long a text takes therefore tells what was read before it: a reader is for texts of one owner.
    """

    def __init__(self, model: HuggingFaceLM) -> None:
        self._model = model
        self._forget()

    def _forget(self) -> None:
        self._tokens, self._shown, self._n_likeliest = list[int](), list[ShownToken](), 0
        self._read: SharedPrefix | None = None

    def given(self, tokens: Sequence[int], n_likeliest: int) -> list[ShownToken]:
        """Return the *tokens* of a text as the model reads them, by one pass."""
        import torch

        model, n_read = self._model, self._n_read(tokens, n_likeliest)
        # What follows the last token that is known comes from reading this token again.
        cache, known = (self._read.start(n_read), self._shown[: n_read + 1]) if self._read and n_read else (None, [])
        self._forget()
        ids = torch.tensor([list(tokens[n_read:])], device=model.model.device)
        with model.using(), torch.inference_mode():
            out = model.model(ids, cache=cache, use_cache=True)
            logits = out.logits[0, :-1]
            shown = known or [ShownToken(tokens[0], _said(model, tokens[0]), None)]
            for start in range(0, len(logits), _POSITIONS):
                rows = logits[start : start + _POSITIONS].double().log_softmax(-1)
                shown += [
                    _shown(model, token, row, n_likeliest)
                    for token, row in zip(tokens[len(shown) :], rows, strict=False)
                ]
        self._tokens, self._shown, self._n_likeliest = list(tokens), shown, n_likeliest
        self._read = SharedPrefix.of(out) if len(tokens) <= _MOST_KEPT else None
        return list(shown)

    def _n_read(self, tokens: Sequence[int], n_likeliest: int) -> int:
        """Return how many of *tokens* need not be read again: the last one always is, for what comes of it."""
        if self._read is None or n_likeliest != self._n_likeliest:
            return 0
        pairs = enumerate(zip(tokens, self._tokens, strict=False))
        n_alike = next((i for i, (one, other) in pairs if one != other), min(len(tokens), len(self._tokens)))
        return max(0, n_alike - 1)


def log_probs(model: HuggingFaceLM, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Return the log-probability (nats) of each token of *answer* after *prompt*, which has a token at least."""
    import torch

    if not answer:
        return []
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=model.model.device)
    with model.using(), torch.inference_mode():
        logits = model.model(ids, use_cache=False, logits_to_keep=len(answer)).logits[0, -len(answer) :]
        return chosen(logits, answer)


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
            out = model.model(ids, cache=cache, use_cache=True, logits_to_keep=1)
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
