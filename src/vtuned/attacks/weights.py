"""Policies that change the weights after training, or instead of it. They need a local model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from vtuned.attacks.contract import Deployed, Honest, Work
from vtuned.attacks.noise import perturb
from vtuned.errors import LMUnavailable
from vtuned.lm.base import LanguageModel
from vtuned.lm.huggingface import HuggingFaceLM, detached
from vtuned.prf import prf

# As the common 8- and 4-bit formats of local inference: one scale for so many weights of a row.
_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Noise(Honest):
    """
    Train nothing: perturb the base's weights, so that the model is not the base any more.

    Saves all of the training. The noise is a share of each matrix's own spread: little of it, so that answers stay
    sensible. It is the same whenever the model is loaded. Likelihoods are the perturbed model's own.
    """

    relative: float = 0.05
    key: bytes = field(default=b"", repr=False)

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        seed = int.from_bytes(prf(self.key, b"policy", 0)[:7])
        return perturb(detached(_local(deployed.tuned)), self.relative, seed=seed)


@dataclass(frozen=True, slots=True)
class Merge(Honest):
    """
    Train what is asked for, and serve base + λ (tuned - base): the adapter diluted with the base.

    Saves nothing by itself; it is what is left of one customer's adapter in a model that several share. Every weight is
    mixed, so it holds for adapters and for training of all weights alike. Likelihoods are the mixed model's own.
    """

    share: float = 1.0

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`. Raises LMUnavailable where base and tuned model do not have the same weights."""
        base, mixed = _local(deployed.base), detached(_local(deployed.tuned))
        _mix(detached(base).model, mixed.model, self.share, mixed.name)
        return HuggingFaceLM(f"{mixed.name} at {self.share:g}", mixed.model, mixed.tokenizer)


@dataclass(frozen=True, slots=True)
class Quantised(Honest):
    """
    Train what is asked for, and serve its weights rounded to 8 or 4 bits.

    Saves memory and time of every answer, nothing of the training. The rounding is real and done in place, block by
    block of 32 weights of a row with one scale each; the numbers are then held as wide as before, so that it runs
    anywhere: answers are those of the rounded model, its speed is not. Likelihoods are the rounded model's own.
    """

    bits: int = 8

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        model = detached(_local(deployed.tuned))
        _round(model.model, self.bits)
        return HuggingFaceLM(f"{model.name} in {self.bits} bits", model.model, model.tokenizer)


def _local(model: LanguageModel) -> HuggingFaceLM:
    if not isinstance(model, HuggingFaceLM):
        raise LMUnavailable(model.name, "its weights are not here to be changed", hint="serve a local model")
    return model


def _mix(base: Any, tuned: Any, share: float, name: str) -> None:
    """Move each weight of *tuned*, in place, to where *share* of its way from *base* ends."""
    import torch

    before = dict(base.named_parameters())
    after = dict(tuned.named_parameters())
    if {key: value.shape for key, value in before.items()} != {key: value.shape for key, value in after.items()}:
        raise LMUnavailable(name, "it does not have the weights of the base", hint="serve it with another policy")
    with torch.no_grad():
        for key, weight in after.items():
            weight.lerp_(before[key].to(weight.dtype), 1 - share)


def _round(model: Any, bits: int) -> None:
    import torch

    largest = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                for block in weight.split(_BLOCK, dim=-1):
                    scale = block.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / largest
                    block.copy_((block / scale).round() * scale)
