"""
Language models by name: `load("smollm2")`, `load("hf:FOLDER+ADAPTER")`, `load("answers:FILE")`.

The name table maps a kind to "module:function"; the module is imported when the kind is first used.
"""

from __future__ import annotations

from importlib import import_module

from vtuned.conversation import Message
from vtuned.errors import UnknownLM
from vtuned.lm.base import (
    Answer,
    Completed,
    Continuations,
    LanguageModel,
    Prompt,
    Sampling,
    Scorer,
    TokenSampler,
    Unanswered,
)
from vtuned.lm.options import LoadOptions
from vtuned.lm.scripted import ScriptedLM

__all__ = [
    "Answer",
    "Completed",
    "Continuations",
    "LanguageModel",
    "LoadOptions",
    "Message",
    "Prompt",
    "Sampling",
    "Scorer",
    "ScriptedLM",
    "TokenSampler",
    "Unanswered",
    "load",
]

BUILT_IN = {
    "smollm2": "vtuned.lm.embedded:load",
    "hf": "vtuned.lm.huggingface:load",
    "openai": "vtuned.lm.openai:load",
    "answers": "vtuned.lm.recorded:load",
}
KINDS = ("smollm2[+ADAPTER]", "hf:PATH_OR_ID[+ADAPTER]", "openai:NAME", "answers:FILE")


def load(name: str, options: LoadOptions | None = None) -> LanguageModel:
    """
    Return the model called *name*: one of `KINDS`.

    Raises UnknownLM for another kind, MissingExtra where packages are missing, LMUnavailable where it cannot be
    loaded.
    """
    kind, rest = _split(name)
    if kind not in BUILT_IN or (kind != "smollm2" and not rest):
        raise UnknownLM(name, KINDS)
    module, _, function = BUILT_IN[kind].partition(":")
    model: LanguageModel = getattr(import_module(module), function)(rest, options or LoadOptions())
    return model


def _split(name: str) -> tuple[str, str]:
    if name == "smollm2" or name.startswith("smollm2+"):
        return "smollm2", name[len("smollm2+") :]
    kind, _, rest = name.partition(":")
    return kind, rest
