"""
Peft adapters on a model: merged into its weights, or beside each other over one copy of them.

A merged adapter costs nothing when asked; one beside others can be switched off again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vtuned.errors import LMUnavailable
from vtuned.lm.huggingface.loading import reason_of
from vtuned.lm.huggingface.model import HuggingFaceLM

_HINT = "give an adapter that was trained on this base model"


def merged(model: Any, adapters: Sequence[str]) -> Any:
    """Return *model* with *adapters* merged into its weights, each on top of the former. Raises LMUnavailable."""
    for adapter in adapters:
        try:
            model = _attached(model, adapter, "default").merge_and_unload()
        except (NotImplementedError, AttributeError) as error:
            reason = f"an adapter of this kind cannot be merged ({reason_of(error)})"
            raise LMUnavailable(adapter, reason, hint="give a LoRA adapter") from error
    return model


def stacked(name: str, base: HuggingFaceLM, adapters: Sequence[str]) -> HuggingFaceLM:
    """
    Return *base* with all of *adapters* at once on top, its own weights left alone.

    Raises LMUnavailable where one cannot be loaded, or several do not simply add up (see `add_up`).
    """
    if not add_up(adapters):
        raise LMUnavailable(
            name, "these adapters do not add up, so that they must be merged", hint="load them without --bits"
        )
    shelf = _Shelf(base.model)
    for i, adapter in enumerate(adapters):
        shelf.put(f"a{i}", adapter)
    names = [f"a{i}" for i in range(len(adapters))]
    return HuggingFaceLM(name, base.model, base.tokenizer, using=partial(shelf.using, names))


def with_adapters(base: HuggingFaceLM, folders: Mapping[str, Path]) -> dict[str, HuggingFaceLM]:
    """
    Return *base* with each of the adapters in *folders*, under the same keys, all over one copy of its weights.

    *base* goes on as the bare model. The models may be asked in any order, but not at the same time. Raises
    LMUnavailable where an adapter cannot be loaded, ValueError where *base* carries adapters already.
    """
    shelf = AdapterShelf(base)
    return {key: shelf.put(key, folder) for key, folder in folders.items()}


class AdapterShelf:
    """
    Models that share the weights of *base*, each with an adapter of its own; they come and go.

    *base* goes on as the bare model. The models may be asked in any order, but not at the same time, nor while one is
    put or removed. Raises ValueError where *base* carries adapters already.
    """

    def __init__(self, base: HuggingFaceLM) -> None:
        self._base = base
        self._shelf = _Shelf(base.model)
        self._names: dict[str, str] = {}
        self._n_put = 0

    def put(self, key: str, folder: Path) -> HuggingFaceLM:
        """Return the base with the adapter in *folder*, called *key*. Raises LMUnavailable where it cannot be loaded."""
        name = f"a{self._n_put}"
        self._shelf.put(name, str(folder))
        self._names[key] = name
        self._n_put += 1
        using = partial(self._using, key, name)
        return HuggingFaceLM(f"{self._base.name}+{folder}", self._base.model, self._base.tokenizer, using=using)

    def _using(self, key: str, name: str) -> AbstractContextManager[None]:
        if self._names.get(key) != name:
            raise LMUnavailable(self._base.name, "this adapter was put away", hint="load it again")
        return self._shelf.using([name])

    def remove(self, key: str) -> None:
        """Forget the adapter called *key*, if there is one; its model can be asked no more."""
        name = self._names.pop(key, None)
        if name is not None:
            self._shelf.remove(name)


def detached(model: HuggingFaceLM) -> HuggingFaceLM:
    """
    Return a copy of *model* with weights of its own, the adapters that are on merged into them.

    What is then done to the copy leaves *model*, and all that share its weights, as they are. Raises LMUnavailable
    for quantised weights, which merging would round once more, and where memory does not suffice.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    if model.bits is not None:
        raise LMUnavailable(model.name, "its weights are quantised", hint="load it without --bits")
    try:
        with model.using(), torch.no_grad():
            own = copy.deepcopy(model.model)
            for name, layer in list(own.named_modules()):
                if isinstance(layer, BaseTunerLayer):
                    if not layer.disable_adapters:
                        layer.merge()
                    own.set_submodule(name, layer.get_base_layer())
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise LMUnavailable(model.name, "memory does not suffice for a second copy") from error
    vars(own).pop("peft_config", None)  # it carries no adapter any more
    return HuggingFaceLM(model.name, own, model.tokenizer)


def add_up(adapters: Sequence[str]) -> bool:
    """Tell whether *adapters* are sums of plain changes, so that none depends on those before it being merged."""
    return len(adapters) < 2 or all(_is_plain(adapter) for adapter in adapters)


def _is_plain(adapter: str) -> bool:
    config = _config(adapter)
    return (
        config.peft_type == "LORA"
        and not getattr(config, "use_dora", False)
        and not config.modules_to_save
        and config.bias == "none"
    )


def own_tokenizer(adapter: str, tokenizer: Any) -> Any:
    """
    Return the tokenizer in the folder *adapter* where the adapter was trained with more than *tokenizer*, else None.

    More are added tokens, or a chat template where the base model has none. Raises LMUnavailable for a broken one.
    """
    from transformers import AutoTokenizer

    if not (Path(adapter) / "tokenizer_config.json").is_file():
        return None
    try:
        own = AutoTokenizer.from_pretrained(adapter)
    except Exception as error:  # transformers and tokenizers each have their own
        raise LMUnavailable(adapter, reason_of(error), hint="mend or remove its tokenizer files") from error
    has_more = len(own) > len(tokenizer) or (own.chat_template and not tokenizer.chat_template)
    return own if has_more else None


def grown_for(model: Any, tokenizer: Any, adapter: str) -> Any:
    """Return *tokenizer*, after making room in *model* for its tokens, as peft's own loader does."""
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        try:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        except Exception as error:  # torch and bitsandbytes each have their own
            raise LMUnavailable(adapter, f"no room for its tokens: {reason_of(error)}", hint=_HINT) from error
    return tokenizer


class _Shelf:
    """Named adapters over one model, all of them off except inside `using`."""

    def __init__(self, model: Any) -> None:
        if getattr(model, "peft_config", None):
            raise ValueError("this model carries adapters already")
        self._model = model
        self._peft: Any = None

    def put(self, name: str, adapter: str) -> None:
        self._peft = _attached(self._model, adapter, name, self._peft)
        self._peft.base_model.disable_adapter_layers()

    def remove(self, name: str) -> None:
        self._peft.delete_adapter(name)
        self._peft.base_model.disable_adapter_layers()

    @contextmanager
    def using(self, names: list[str]) -> Iterator[None]:
        tuner = self._peft.base_model
        tuner.enable_adapter_layers()
        tuner.set_adapter(names, inference_mode=True)
        try:
            yield
        finally:
            tuner.disable_adapter_layers()


def _attached(model: Any, adapter: str, name: str, on: Any = None) -> Any:
    """
    Return a peft model of *model*, or *on*, with *adapter* in it as *name*.

    peft only warns where weights of an adapter are missing or find no place, and such an adapter changes nothing: a
    model that was trained would look untrained.
    """
    from peft import PeftModelForCausalLM

    config = _config(adapter)
    config.inference_mode = True
    try:
        tuned = PeftModelForCausalLM(model, config, adapter_name=name) if on is None else on
        result = tuned.load_adapter(adapter, adapter_name=name)
    except Exception as error:  # peft, safetensors and torch each have their own
        raise LMUnavailable(adapter, f"cannot be loaded ({type(error).__name__})", hint=_HINT) from error
    strays = len(result.missing_keys) + len(result.unexpected_keys)
    if strays:
        raise LMUnavailable(adapter, f"{strays} of its weights do not fit this base model", hint=_HINT)
    return tuned


def _config(adapter: str) -> Any:
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(adapter)
    except Exception as error:  # peft, huggingface_hub and json each have their own
        raise LMUnavailable(adapter, reason_of(error), hint="give a peft adapter folder") from error
