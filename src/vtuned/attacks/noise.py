"""A provider that trains nothing: it perturbs the weights, so that the model is not the base model any more."""

from __future__ import annotations

from vtuned.lm.huggingface import HuggingFaceLM


def perturb(model: HuggingFaceLM, relative: float) -> HuggingFaceLM:
    """Add Gaussian noise to every weight matrix of *model*, in place: *relative* times the matrix's own spread."""
    import torch

    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * relative)
    return HuggingFaceLM(f"{model.name} with noise", model.model, model.tokenizer)
