"""How a model is reached or loaded, beside its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """
    What `vtuned.lm.load` may be told; each kind of model uses what concerns it.

    Endpoints: *base_url* and *api_key* (None: the environment's OPENAI_BASE_URL and OPENAI_API_KEY), at most
    *concurrency* requests at a time, *spacing* seconds at least between their starts, *timeout* seconds for each.
    Local models: *dtype* ("auto" or torch's name), *device* ("auto" or torch's name), *bits* (4 or 8: quantised as
    loaded), *chat_template* (a Jinja file in place of the tokenizer's).
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    spacing: float = 0.0
    timeout: float = 120.0
    dtype: str = "auto"
    device: str = "auto"
    bits: Literal[4, 8] | None = None
    chat_template: Path | None = None
