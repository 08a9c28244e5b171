"""Load weights and a tokenizer as `LoadOptions` say."""

from __future__ import annotations

import warnings
from importlib import util
from pathlib import Path
from typing import Any

from vtuned.errors import LMUnavailable, MissingExtra, UsageError
from vtuned.lm.huggingface.rendering import end_of_turn, use_template
from vtuned.lm.huggingface.sources import Source
from vtuned.lm.options import LoadOptions

LOCAL_EXTRA = "pip install 'vtuned[local]'"
BITS_EXTRA = "pip install 'vtuned[bits]'"
DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
# From here on float32 takes more than 8 GB, and half the bytes are worth bfloat16's rounding.
_LARGE = 2_000_000_000


def load_pair(source: Source, shown: str, options: LoadOptions) -> tuple[Any, Any]:
    """
    Return (model, tokenizer) of *source* without its adapters; errors name it as *shown*.

    Raises UsageError for options that do not exist or do not apply, MissingExtra without the packages they need,
    LMUnavailable where the machine or the model does not allow them.
    """
    if options.dtype not in DTYPES:
        raise UsageError(f"unknown --dtype {options.dtype!r}", hint=f"known: {', '.join(DTYPES)}")
    require_local_extra("a local model")
    if source.gguf and util.find_spec("gguf") is None:
        raise MissingExtra("a GGUF file", LOCAL_EXTRA)
    quiet()
    device = _device(options.device, shown)
    try:
        model, tokenizer = _loaded(source, device, options)
    except (UsageError, MissingExtra, LMUnavailable):
        raise
    except Exception as error:  # transformers, safetensors, bitsandbytes and torch each have their own
        raise LMUnavailable(shown, reason_of(error), hint=_hint(source, options)) from error
    if options.chat_template:
        use_template(tokenizer, options.chat_template)
    if source.gguf or options.chat_template:
        _stop_at_end_of_turn(model, tokenizer)
    return model, tokenizer


def _loaded(source: Source, device: Any, options: LoadOptions) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    gguf = {"gguf_file": source.gguf} if source.gguf else {}
    config = None if source.gguf else AutoConfig.from_pretrained(source.path)
    dtype = _dtype(options.dtype, device, config)
    arguments = {"dtype": dtype, **gguf, **_quantised(source, config, dtype, options.bits)}
    if device.type != "cpu" or options.bits:
        arguments["device_map"] = {"": device}  # straight to where it runs, not through this machine's memory
    model = AutoModelForCausalLM.from_pretrained(source.path, **arguments)
    return model, AutoTokenizer.from_pretrained(source.path, **gguf)


def _device(name: str, shown: str) -> Any:
    """Return the torch device called *name*; "auto" is the first of CUDA, MPS and CPU that is here."""
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown --device {name!r}", hint=f"known: {', '.join(DEVICES)}")
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if has_cuda else 0,
        "mps": int(has_mps),
    }[device.type]
    if (device.index or 0) >= here:
        raise LMUnavailable(
            shown, f"there is no device {name} here, as torch {torch.__version__} sees it", hint="use --device auto"
        )
    return device


def _dtype(name: str, device: Any, config: Any) -> Any:
    """
    Return torch's dtype called *name*; "auto" is the one that answers fastest without changing answers more than need be.

    On CUDA the checkpoint's own: that is what a provider serves. GGUF weights become bfloat16 there; they were rounded
    more coarsely before, and float16 overflows in models trained in bfloat16. On MPS likewise, but bfloat16 becomes
    float16 where macOS is too old for it. On a CPU float32, since half precision is mostly emulated and slower there;
    bfloat16 for large models stored so on CPUs that compute in it.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    stored = getattr(config, "dtype", None) if config is not None else torch.bfloat16
    if device.type == "cpu":
        fast = stored is torch.bfloat16 and _computes_in_bfloat16() and _n_parameters(config) >= _LARGE
        return torch.bfloat16 if fast else torch.float32
    if device.type == "mps" and stored is torch.bfloat16 and not torch.backends.mps.is_macos_or_newer(14, 0):
        return torch.float16
    return "auto" if config is not None else torch.bfloat16


def _computes_in_bfloat16() -> bool:
    import torch

    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public name for them
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def _n_parameters(config: Any) -> int:
    """Return how many weights a model of *config* has, without making them; 0 where it does not say."""
    import torch
    from transformers import AutoModelForCausalLM

    if config is None:
        return 0
    with torch.device("meta"):
        return sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())


def _quantised(source: Source, config: Any, dtype: Any, bits: int | None) -> dict[str, Any]:
    """Return the arguments that load *source* in *bits*, or a GGUF file as the dense weights that adapters need."""
    import torch

    if bits and (source.gguf or getattr(config, "quantization_config", None)):
        raise UsageError("--bits does not apply: these weights are quantised already", hint="leave --bits out")
    if source.gguf:
        from transformers import GgufConfig

        return {"quantization_config": GgufConfig(dequantize=True)}
    if not bits:
        return {}
    if util.find_spec("bitsandbytes") is None:
        raise MissingExtra("loading in 4 or 8 bits", BITS_EXTRA)
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    # NF4 is what QLoRA trains on; computing in float32 where nothing smaller was chosen.
    compute = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": four}


def _stop_at_end_of_turn(model: Any, tokenizer: Any) -> None:
    """
    Add the template's end of turn to the model's end tokens.

    A GGUF file names one end token, which for Gemma 3 is not the one that ends an answer; and a template of the user's
    own may end turns with another token than the model's files say.
    """
    end = end_of_turn(tokenizer)
    if end is None:
        return
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [token for token in (known,) if token is not None]
    model.generation_config.eos_token_id = list(dict.fromkeys([*listed, end]))


def reason_of(error: Exception) -> str:
    """Return the first line of what a library says, or the error's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _hint(source: Source, options: LoadOptions) -> str:
    if options.bits:
        return "leave --bits out, or load it on a machine where bitsandbytes works"
    if source.gguf:
        return "give a GGUF file of an architecture that transformers reads, or the model's own folder"
    if not Path(source.path).exists():
        return "give a model folder, or a hub name that can be reached or was downloaded before"
    return "give a folder with config.json, weights and tokenizer.json"


def require_local_extra(feature: str) -> None:
    """Raise MissingExtra unless torch, transformers and peft can be imported."""
    if any(util.find_spec(package) is None for package in ("torch", "transformers", "peft")):
        raise MissingExtra(feature, LOCAL_EXTRA)


def quiet() -> None:
    """Keep the libraries' own progress bars and advice off the screen: ours says what matters."""
    import logging as python_logging

    from transformers.utils import logging

    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|torch|accelerate|datasets|bitsandbytes)\b")
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
