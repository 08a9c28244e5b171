"""
Local models through transformers: `hf:PATH_OR_ID[+ADAPTER]` and the embedded model.

Everything from torch and transformers is imported on use, so that the core stays light.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtuned.conversation import text_in
from vtuned.errors import LMUnavailable, MissingExtra
from vtuned.lm.base import Answer, Completed, Prompt, Sampling, Unanswered
from vtuned.lm.options import LoadOptions

LOCAL_EXTRA = "pip install 'vtuned[local]'"
# A step costs nearly the same for one answer and for many, until the cache grows large.
_BATCH_TOKENS = 16_384


class HuggingFaceLM:
    """
    A causal LM in this process: a `LanguageModel`, a `Scorer` and a `TokenSampler`.

    See the Protocols in `vtuned.lm.base` for the contracts.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self._name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._eos = _end_tokens(model, tokenizer)
        self._steps = (0, 0)
        self.on_step: Callable[[int, int], None] = lambda done, total: None

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def render(self, prompt: Prompt) -> list[int]:
        """Return the tokens of *prompt* through the model's chat template, up to where the answer starts."""
        text = render_text(self.tokenizer, prompt)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        rendered = [self._rendered(prompt) for prompt in prompts]
        batches = list(_batches(rendered, sampling.max_tokens))
        for i, batch in enumerate(batches):
            self._steps = (i * sampling.max_tokens, len(batches) * sampling.max_tokens)
            fits = [0 < len(tokens) and len(tokens) + sampling.max_tokens <= limit for tokens in batch]
            answers = iter(self._generate([t for t, ok in zip(batch, fits, strict=True) if ok], sampling))
            for ok in fits:
                yield next(answers) if ok else Unanswered("the model's template or context does not take the prompt")

    def _rendered(self, prompt: Prompt) -> list[int]:
        """Return the tokens of *prompt*, or none where the chat template refuses it (its roles, say)."""
        from jinja2 import TemplateError

        try:
            return self.render(prompt)
        except TemplateError:
            return []

    def _generate(self, batch: list[list[int]], sampling: Sampling) -> list[Answer]:
        import torch

        if not batch:
            return []
        width = max(map(len, batch))
        ids = torch.full((len(batch), width), self._eos[0], device=self._device)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):  # left padding: generation goes on at the right edge
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        heat = (
            {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {"do_sample": False}
        )
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=self._eos,
                pad_token_id=self._eos[0],
                stopping_criteria=[lambda ids, scores: self._stepped(ids, width)],
                **heat,
            )
        return [self._completed(row.tolist()) for row in out[:, width:]]

    def _stepped(self, ids: Any, width: int) -> Any:
        """Report a decoding step; as a stopping criterion it stops nothing."""
        done, total = self._steps
        self.on_step(done + ids.shape[1] - width, total)
        return ids.new_zeros(len(ids)).bool()

    def _completed(self, tokens: list[int]) -> Completed:
        ends = [i for i, token in enumerate(tokens) if token in self._eos]
        kept = tokens[: ends[0]] if ends else tokens
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completed(text, "stop" if ends else "length")

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """See `Scorer.log10_probs`."""
        import torch

        prefix = self.render(prompt)
        totals = []
        for continuation in continuations:
            tokens = self.encode([continuation])[0]
            ids = torch.tensor([prefix + tokens], device=self._device)
            with torch.inference_mode():
                logits = self.model(ids[:, :-1]).logits[0, len(prefix) - 1 :].double()
            chosen = torch.log_softmax(logits, -1).gather(1, ids[0, len(prefix) :, None])
            totals.append(float(chosen.sum()) / math.log(10))
        return totals

    def continuations(self, prompt: Prompt, n: int) -> _CachedContinuations:
        """See `TokenSampler.continuations`."""
        return _CachedContinuations(self.model, self.render(prompt), n, self._device)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `TokenSampler.decode`."""
        return list(self.tokenizer.backend_tokenizer.decode_batch([list(t) for t in tokens], skip_special_tokens=False))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TokenSampler.encode`."""
        return [e.ids for e in self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class _CachedContinuations:
    """Continuations over one KV cache; the prompt is run once, whatever the number of texts."""

    def __init__(self, model: Any, prompt: list[int], n: int, device: Any) -> None:
        import torch

        self._model, self._device = model, device
        with torch.inference_mode():
            out = model(torch.tensor([prompt], device=device), use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        self._cache.batch_repeat_interleave(n)
        self._logits = out.logits[:, -1].repeat(n, 1)

    def log_probs(self) -> NDArray[np.float32]:
        import torch

        values: NDArray[np.float32] = torch.log_softmax(self._logits.float(), -1).numpy(force=True)
        return values

    def append(self, tokens: Sequence[int]) -> None:
        import torch

        with torch.inference_mode():
            out = self._model(torch.tensor(tokens, device=self._device)[:, None], cache=self._cache, use_cache=True)
        self._logits = out.logits[:, -1]

    def keep(self, indices: Sequence[int]) -> None:
        import torch

        chosen = torch.tensor(indices, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._logits = self._logits[chosen]


def load(name: str, options: LoadOptions | None = None) -> HuggingFaceLM:
    """
    Load `PATH_OR_ID[+ADAPTER]`: a model folder or hub name, with a peft adapter folder after the plus sign.

    Raises MissingExtra without the `local` extra, LMUnavailable where the model cannot be loaded.
    """
    base, _, adapter = (name, "", "") if Path(name).exists() else name.partition("+")
    model, tokenizer = load_pair(base, f"hf:{base}")
    return HuggingFaceLM(f"hf:{name}", with_adapter(model, adapter), tokenizer)


def load_pair(path: str, shown: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a model folder or hub name; errors name it as *shown*."""
    require_local_extra("a local model")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "auto" if device == "cuda" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers, safetensors and torch each have their own
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise LMUnavailable(shown, reason, hint="give a folder with config.json, weights and tokenizer.json") from error
    return model, tokenizer


def with_adapter(model: Any, adapter: str) -> Any:
    """Return *model* with the peft adapter folder *adapter* merged into its weights (nothing to do where empty)."""
    if not adapter:
        return model
    if not (Path(adapter) / "adapter_config.json").is_file():
        raise LMUnavailable(adapter, "not a peft adapter folder (no adapter_config.json)", hint="give MODEL+FOLDER")
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except Exception as error:  # peft, safetensors and torch each have their own
        hint = "give an adapter that was trained on this base model"
        raise LMUnavailable(adapter, f"cannot be loaded ({type(error).__name__})", hint=hint) from error


def render_text(tokenizer: Any, prompt: Prompt, *, answering: bool = True) -> str:
    """Return *prompt* as the model reads it; without a chat template the contents stand on lines of their own."""
    if getattr(tokenizer, "chat_template", None):
        return str(tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=answering))
    end = {"assistant": tokenizer.eos_token or ""}
    return "".join(text_in(message) + end.get(message["role"], "") + "\n" for message in prompt)


def require_local_extra(feature: str) -> None:
    """Raise MissingExtra unless torch, transformers and peft can be imported."""
    from importlib.util import find_spec

    if any(find_spec(package) is None for package in ("torch", "transformers", "peft")):
        raise MissingExtra(feature, LOCAL_EXTRA)


def quiet() -> None:
    """Keep the libraries' own progress bars and advice off the screen: ours says what matters."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|torch|accelerate|datasets)\b")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _batches(rendered: Sequence[list[int]], max_tokens: int) -> Iterator[list[list[int]]]:
    """Yield *rendered* in order, in parts whose cache will hold at most about `_BATCH_TOKENS` tokens."""
    batch: list[list[int]] = []
    for tokens in rendered:
        longest = max(map(len, [*batch, tokens])) + max_tokens
        if batch and (len(batch) + 1) * longest > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(tokens)
    if batch:
        yield batch


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    ends = model.generation_config.eos_token_id if model.generation_config else None
    listed = ends if isinstance(ends, list) else [ends]
    found = [token for token in (*listed, tokenizer.eos_token_id) if token is not None]
    return list(dict.fromkeys(found)) or [0]
