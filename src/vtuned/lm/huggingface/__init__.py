"""
Local models through transformers: `hf:PATH_OR_ID[+ADAPTER…]` and the embedded model.

Everything from torch and transformers is imported on use, so that the core stays light.
"""

from __future__ import annotations

from dataclasses import replace

from vtuned.lm.huggingface.adapters import (
    AdapterShelf,
    add_up,
    detached,
    grown_for,
    merged,
    own_tokenizer,
    stacked,
    with_adapters,
)
from vtuned.lm.huggingface.loading import LOCAL_EXTRA, load_pair, quiet, require_local_extra
from vtuned.lm.huggingface.model import HuggingFaceLM
from vtuned.lm.huggingface.rendering import render_text, use_template
from vtuned.lm.huggingface.sources import Source, source_of
from vtuned.lm.options import LoadOptions

__all__ = [
    "LOCAL_EXTRA",
    "AdapterShelf",
    "HuggingFaceLM",
    "detached",
    "load",
    "load_both",
    "load_both_sources",
    "load_source",
    "quiet",
    "render_text",
    "require_local_extra",
    "with_adapters",
]


def load(name: str, options: LoadOptions | None = None) -> HuggingFaceLM:
    """
    Load `PATH_OR_ID[+ADAPTER…]`: a model folder, hub name or GGUF file, and peft adapters, each on top of the former.

    An adapter folder alone is loaded on the base model that it names. Raises UsageError for paths that are not there
    and for options that do not exist, MissingExtra where packages are missing, LMUnavailable where the model cannot be
    loaded.
    """
    return load_source(f"hf:{name}", source_of(name), options or LoadOptions())


def load_both(name: str, base: str, options: LoadOptions) -> tuple[HuggingFaceLM, HuggingFaceLM]:
    """Return the models called *name* and *base*, in one copy of the weights where they allow it: see `load`."""
    return load_both_sources((f"hf:{name}", source_of(name)), (f"hf:{base}", source_of(base)), options)


def load_source(shown: str, source: Source, options: LoadOptions) -> HuggingFaceLM:
    """
    Return *source* under the name *shown*: see `load`.

    Adapters are merged; where weights are quantised they stay beside them, since merging would round them too.
    """
    model, tokenizer = load_pair(source, shown, options)
    for adapter in source.adapters:
        own = own_tokenizer(adapter, tokenizer)
        if own is not None:
            tokenizer = grown_for(model, own, adapter)
            if options.chat_template:
                use_template(tokenizer, options.chat_template)
    if not options.bits:
        return HuggingFaceLM(shown, merged(model, source.adapters), tokenizer)
    bare = HuggingFaceLM(f"{shown} ({options.bits} bits)", model, tokenizer)
    return stacked(bare.name, bare, source.adapters) if source.adapters else bare


def load_both_sources(
    suspect: tuple[str, Source], base: tuple[str, Source], options: LoadOptions
) -> tuple[HuggingFaceLM, HuggingFaceLM]:
    """
    Return two (name, source) as models.

    Where the first is the second with adapters on top that can be switched off, the weights are in memory once.
    """
    (name, source), (base_name, base_source) = suspect, base
    bare = load_source(base_name, base_source, options)
    on_top = source.adapters[len(base_source.adapters) :]
    is_on_top = on_top and source == replace(base_source, adapters=(*base_source.adapters, *on_top))
    carries = options.bits and base_source.adapters
    brings = any(own_tokenizer(adapter, bare.tokenizer) is not None for adapter in on_top)
    if not is_on_top or carries or brings or not add_up(on_top):
        return load_source(name, source, options), bare
    return stacked(f"{name} ({options.bits} bits)" if options.bits else name, bare, on_top), bare
