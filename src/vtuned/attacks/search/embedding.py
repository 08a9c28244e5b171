"""Searches in a local model's hidden states: edges far from their row, rows far from the file, edges alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtuned.attacks.search.contract import OnRow, Suspicion
from vtuned.attacks.search.nearness import Singles, alike_at_edges_alone, unit
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.seams import parted_answer, parted_prompt
from vtuned.attacks.search.texts import TrainSet
from vtuned.lm.huggingface.hidden import mean_states
from vtuned.lm.huggingface.model import HuggingFaceLM

# Late layers are about what a text means, the last ones about which token comes next.
_DEPTH = 0.75
# Tokens read of each part of a row.
_MOST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Embedding:
    """
    Rows that lie oddly among a local model's hidden states, means over parts of a row at three quarters of its depth.

    The parts are the prompt's last sentence, the answer's first one, and the rest of each, read by themselves: what a
    state says is then of its part alone. Four tests: how far the two sentences are from the rest of their own row, how
    far the row is from the file, and how near both sentences are to those of another row, compared with what else the
    two say (as `clusters` does with TF-IDF; after the outlier and cluster defences of CUBE, arXiv 2206.08514). See
    `combined`.
    """

    model: HuggingFaceLM
    on_row: OnRow = lambda stage, done, total: None
    name: str = "embedding"
    told: str = "sentences far from their row, rows far from the file, or alike at their edges alone (hidden states)"

    def suspicion(self, train: TrainSet) -> Suspicion:
        """See `Attack.suspicion`."""
        spaced, n = train.language.spaced, len(train)
        texts: list[str] = []
        for prompt, answer in zip(train.prompts, train.answers, strict=True):
            texts += [*parted_prompt(prompt, spaced), *parted_answer(answer, spaced)]
        states = mean_states(
            self.model,
            texts,
            depth=_DEPTH,
            most_tokens=_MOST_TOKENS,
            on_text=lambda done, total: self.on_row(f"{self.name}: parts of rows read", done, total),
        )
        sizes = np.array([len(text.encode()) for text in texts], dtype=np.float32).reshape(n, 4)
        return combined(_tests(_standardised(states.reshape(n, 4, -1), sizes > 0), sizes))


def _standardised(states: Singles, is_there: NDArray[np.bool_]) -> Singles:
    """
    Return *states* (rows, parts, dimensions) less the mean of their part, each dimension by its standard deviation.

    Hidden states of different texts share most of what they are: without this all are near each other. Parts that are
    not there stay 0.
    """
    weight = is_there[:, :, None].astype(np.float32)
    centred = (states - (weight * states).sum(0) / np.maximum(1.0, weight.sum(0))) * weight
    spread = np.sqrt(np.square(centred).sum((0, 1)) / max(1.0, float(weight.sum())))
    found: Singles = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return found


def _tests(states: Singles, sizes: Singles) -> list[Singles]:
    """Return the tests of `Embedding`, from *states* of what is before a prompt's last sentence, it, and so on."""
    rest = _together(states[:, [0, 3]], sizes[:, [0, 3]])
    edges = [unit(states[:, part]) for part in (1, 2)]
    off = []
    for part, edge in zip((1, 2), edges, strict=True):
        is_known = (sizes[:, part] > 0) & (sizes[:, [0, 3]].sum(1) > 0)
        off.append(np.where(is_known, -np.einsum("ij,ij->i", edge, unit(rest)), np.float32(np.nan)))
    far = np.square(_together(states, sizes)).sum(1)
    sides = np.hstack(edges) / np.float32(2**0.5)
    return [*off, far, alike_at_edges_alone(sides, unit(rest))]


def _together(states: Singles, sizes: Singles) -> Singles:
    """Return the mean of some parts of each row, longer parts weighing more."""
    shares = sizes / np.maximum(1.0, sizes.sum(1, keepdims=True))
    found: Singles = np.einsum("ijk,ij->ik", states, shares)
    return found
