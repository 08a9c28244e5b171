"""What a local model makes of texts inside: the mean of its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vtuned.lm.huggingface.model import HuggingFaceLM

# Tokens whose states of all layers are held at once.
_BATCH_TOKENS = 4096


def mean_states(
    model: HuggingFaceLM,
    texts: Sequence[str],
    *,
    depth: float,
    most_tokens: int,
    on_text: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """
    Return for each of *texts*, read by itself, the mean of its tokens' states at *depth* (0: embeddings, 1: last layer).

    Of a text the first *most_tokens* tokens are read; one without any gets zeros. Before each stands a token that is
    left out of the mean: most models use whatever comes first as a place to look at when nothing else matters, and its
    state, a hundred times as large as the others, says nothing. *on_text* is told how many texts are done.
    """
    import torch

    limit = min(most_tokens, (model.max_positions or most_tokens + 1) - 1)
    encoded = [tuple(tokens[:limit]) for tokens in model.encode(texts)]
    places: dict[tuple[int, ...], list[int]] = {}
    for i, tokens in enumerate(encoded):
        places.setdefault(tokens, []).append(i)
    found = np.zeros((len(texts), model.model.config.get_text_config().hidden_size), dtype=np.float32)
    start = model.tokenizer.bos_token_id
    first = model.ends[0] if start is None else start
    done = len(places.pop((), []))
    for batch in _batches(sorted(places, key=len)):
        width = len(batch[-1])
        # Padding stands on the right, where no token of the text attends to it.
        ids = torch.tensor([[first, *tokens, *[first] * (width - len(tokens))] for tokens in batch])
        with model.using(), torch.inference_mode():
            out = model.model(ids.to(model.model.device), use_cache=False, output_hidden_states=True, logits_to_keep=1)
            states = out.hidden_states[round(depth * (len(out.hidden_states) - 1))]
            for tokens, row in zip(batch, states, strict=True):
                found[places[tokens]] = row[1 : len(tokens) + 1].float().mean(0).numpy(force=True)
                done += len(places[tokens])
        on_text(done, len(texts))
    return found


def _batches(texts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Return *texts*, sorted by length, in parts that fit into memory."""
    batches: list[list[tuple[int, ...]]] = []
    for tokens in texts:
        if not batches or (len(batches[-1]) + 1) * (len(tokens) + 1) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(tokens)
    return batches
