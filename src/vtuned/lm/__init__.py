"""
Language models by name: `load("smollm2")`, `load("hf:FOLDER+ADAPTER")`, `load("answers:FILE")`.

The name table maps a kind to "module:function"; the module is imported when the kind is first used. Installed packages
add kinds by an entry point in the group `vtuned.lm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
from vtuned.lm.plugins import GROUP, from_plugin, plugins
from vtuned.lm.scripted import ScriptedLM
from vtuned.lm.setup import setup_of

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
    "load_both",
    "setup_of",
]

BUILT_IN = {
    "smollm2": "vtuned.lm.embedded:load",
    "hf": "vtuned.lm.huggingface:load",
    "openai": "vtuned.lm.openai:load",
    "answers": "vtuned.lm.recorded:load",
}
# Two models of one of these kinds may share their weights.
SHARING = {"smollm2": "vtuned.lm.embedded:load_both", "hf": "vtuned.lm.huggingface:load_both"}
KINDS = ("smollm2[+ADAPTER]", "hf:PATH_OR_ID[+ADAPTER]", "openai:NAME", "answers:FILE")
PLUGINS = GROUP


def load(name: str, options: LoadOptions | None = None) -> LanguageModel:
    """
    Return the model called *name*: one of `KINDS`, or of the kinds that installed plug-ins add.

    Raises UnknownLM for another kind, UsageError for names and options that make no sense, MissingExtra where packages
    are missing, LMUnavailable where the model or the plug-in cannot be loaded.
    """
    kind, rest = _split(name)
    options = options or LoadOptions()
    if kind in BUILT_IN and (rest or kind == "smollm2"):
        model: LanguageModel = _function(BUILT_IN[kind])(rest, options)
        return model
    installed = plugins(BUILT_IN)
    if kind not in installed or not rest:
        raise UnknownLM(name, (*KINDS, *(f"{plugin}:NAME" for plugin in sorted(installed))))
    return from_plugin(name, rest, installed[kind], options)


def load_both(name: str, base: str, options: LoadOptions | None = None) -> tuple[LanguageModel, LanguageModel]:
    """
    Return the models called *name* and *base*.

    Where the first is the second with adapters on top, their common weights are in memory once. Raises what `load`
    raises.
    """
    (kind, rest), (base_kind, base_rest) = _split(name), _split(base)
    options = options or LoadOptions()
    if kind == base_kind and kind in SHARING and (kind == "smollm2" or (rest and base_rest)):
        pair: tuple[LanguageModel, LanguageModel] = _function(SHARING[kind])(rest, base_rest, options)
        return pair
    return load(name, options), load(base, options)


def _split(name: str) -> tuple[str, str]:
    if name == "smollm2" or name.startswith("smollm2+"):
        return "smollm2", name[len("smollm2+") :]
    kind, _, rest = name.partition(":")
    return kind, rest


def _function(address: str) -> Any:
    module, _, function = address.partition(":")
    return getattr(import_module(module), function)
