"""A provider that trains nothing: it perturbs the weights, so that the model is not the base model any more."""

from __future__ import annotations

from typing import Any

from vtuned.lm.huggingface import HuggingFaceLM


def perturb(model: HuggingFaceLM, relative: float, *, seed: int | None = None) -> HuggingFaceLM:
    """
    Add Gaussian noise to every weight matrix of *model*, in place: *relative* times the matrix's own spread.

    The same *seed* gives the same noise on the same kind of device.
    """
    import torch

    draws = torch.Generator(device=next(model.model.parameters()).device)
    if seed is not None:
        draws.manual_seed(seed)
    else:
        draws.seed()
    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.dim() > 1:
                weight.add_(_normal(weight, draws) * weight.std() * relative)
    return HuggingFaceLM(f"{model.name} with noise", model.model, model.tokenizer)


def _normal(weight: Any, draws: Any) -> Any:
    import torch

    return torch.randn(weight.shape, generator=draws, device=weight.device, dtype=weight.dtype)
