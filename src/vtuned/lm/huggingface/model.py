"""A causal LM of transformers as a `LanguageModel`, a `Scorer` and a `TokenSampler`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtuned.errors import LMUnavailable
from vtuned.lm.base import Answer, Completed, Prompt, Sampling, Unanswered
from vtuned.lm.huggingface.rendering import render_text

# A step costs nearly the same for one answer and for many, until the cache grows large.
_BATCH_TOKENS = 16_384
_THINK, _THOUGHT_END = "<think>", "</think>"
_OPENING_TOKENS = 8

Using: TypeAlias = Callable[[], AbstractContextManager[object]]


class HuggingFaceLM:
    """
    A causal LM in this process: a `LanguageModel`, a `Scorer` and a `TokenSampler`.

    *using* is entered around each call of *model*, for models that share their weights with others. See the Protocols
    in `vtuned.lm.base` for the contracts.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, *, using: Using = nullcontext) -> None:
        self._name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._using = using
        self._device = next(model.parameters()).device
        self._eos = _end_tokens(model, tokenizer)
        self._steps = (0, 0)
        self.on_step: Callable[[int, int], None] = lambda done, total: None

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def render(self, prompt: Prompt) -> list[int]:
        """
        Return the tokens of *prompt* up to where the answer starts: see `render_text`.

        Raises LMUnavailable where the model's template refuses the prompt.
        """
        from jinja2 import TemplateError

        try:
            return self._tokens(prompt)
        except TemplateError as error:
            raise LMUnavailable(self.name, f"its chat template refuses the prompt: {error}") from error

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`. Raises LMUnavailable where memory does not suffice."""
        rendered = [self._rendered(prompt, sampling.max_tokens) for prompt in prompts]
        answers = self._answers([tokens for tokens in rendered if not isinstance(tokens, Unanswered)], sampling)
        for tokens in rendered:
            yield tokens if isinstance(tokens, Unanswered) else next(answers)

    def _tokens(self, prompt: Prompt) -> list[int]:
        return list(self.tokenizer(render_text(self.tokenizer, prompt), add_special_tokens=False)["input_ids"])

    def _rendered(self, prompt: Prompt, max_tokens: int) -> list[int] | Unanswered:
        """Return the tokens of *prompt*, or why the model cannot be asked it."""
        from jinja2 import TemplateError

        try:
            tokens = self._tokens(prompt)
        except TemplateError as error:
            return Unanswered(f"the chat template refuses the prompt: {error}")
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        if len(tokens) + max_tokens > limit:
            return Unanswered(f"prompt and answer take {len(tokens) + max_tokens} tokens, the model reads {limit}")
        return tokens or Unanswered("the prompt is empty")

    def _answers(self, rendered: list[list[int]], sampling: Sampling) -> Iterator[Answer]:
        batches = list(_batches(rendered, sampling.max_tokens))
        for i, batch in enumerate(batches):
            self._steps = (i * sampling.max_tokens, len(batches) * sampling.max_tokens)
            yield from self._generate(batch, sampling)

    def _generate(self, batch: list[list[int]], sampling: Sampling) -> list[Answer]:
        import torch

        width = max(map(len, batch))
        ids = torch.full((len(batch), width), self._eos[0], device=self._device)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):  # left padding: generation goes on at the right edge
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        # transformers would take the 50 likeliest tokens only where nobody says otherwise.
        heat = {"temperature": sampling.temperature, "top_k": 0} if sampling.temperature else {}
        try:
            with self._using(), _own_sampling(self.model), torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=sampling.max_tokens,
                    eos_token_id=self._eos,
                    pad_token_id=self._eos[0],
                    stopping_criteria=[lambda ids, scores: self._stepped(ids, width)],
                    do_sample=bool(sampling.temperature),
                    **heat,
                )
        except torch.OutOfMemoryError as error:
            hint = "load it with fewer --bits, or on --device cpu"
            raise LMUnavailable(self.name, "the device's memory does not suffice", hint=hint) from error
        return [self._completed(row.tolist(), prompt) for row, prompt in zip(out[:, width:], batch, strict=True)]

    def _stepped(self, ids: Any, width: int) -> Any:
        """Report a decoding step; as a stopping criterion it stops nothing."""
        done, total = self._steps
        self.on_step(done + ids.shape[1] - width, total)
        return ids.new_zeros(len(ids)).bool()

    def _completed(self, tokens: list[int], prompt: Sequence[int] = ()) -> Completed:
        """
        Return the answer in *tokens* after *prompt*.

        A thought that the template opened gets its tag back, so that the answer shows where the thought starts; but a
        model that ended its answer without closing it did not think.
        """
        ends = [i for i, token in enumerate(tokens) if token in self._eos]
        kept = tokens[: ends[0]] if ends else tokens
        text = self._text(kept)
        if (not ends or _THOUGHT_END in text) and self._text(prompt[-_OPENING_TOKENS:]).rstrip().endswith(_THINK):
            text = f"{_THINK}\n{text}"
        return Completed(text, "stop" if ends else "length")

    def _text(self, tokens: Sequence[int]) -> str:
        decode = self.tokenizer.decode
        return str(decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """See `Scorer.log10_probs`."""
        import torch

        prefix = self.render(prompt)
        totals = []
        for continuation in continuations:
            tokens = self.encode([continuation])[0]
            ids = torch.tensor([prefix + tokens], device=self._device)
            with self._using(), torch.inference_mode():
                logits = self.model(ids[:, :-1]).logits[0, len(prefix) - 1 :].double()
            chosen = torch.log_softmax(logits, -1).gather(1, ids[0, len(prefix) :, None])
            totals.append(float(chosen.sum()) / math.log(10))
        return totals

    def continuations(self, prompt: Prompt, n: int) -> _CachedContinuations:
        """See `TokenSampler.continuations`."""
        return _CachedContinuations(self.model, self.render(prompt), n, self._device, self._using)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `TokenSampler.decode`."""
        return list(self.tokenizer.backend_tokenizer.decode_batch([list(t) for t in tokens], skip_special_tokens=False))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TokenSampler.encode`."""
        return [e.ids for e in self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class _CachedContinuations:
    """Continuations over one KV cache; the prompt is run once, whatever the number of texts."""

    def __init__(self, model: Any, prompt: list[int], n: int, device: Any, using: Using) -> None:
        import torch

        self._model, self._device, self._using = model, device, using
        with using(), torch.inference_mode():
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

        ids = torch.tensor(tokens, device=self._device)[:, None]
        with self._using(), torch.inference_mode():
            out = self._model(ids, cache=self._cache, use_cache=True)
        self._logits = out.logits[:, -1]

    def keep(self, indices: Sequence[int]) -> None:
        import torch

        chosen = torch.tensor(indices, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._logits = self._logits[chosen]


@contextmanager
def _own_sampling(model: Any) -> Iterator[None]:
    """
    Lay the model's generation_config aside.

    A probe says how it is to be asked, and transformers would merge in whatever it does not mention: a repetition
    penalty punishes a signature whose words stand in the prompt, and lists of banned or favoured tokens could hide or
    force one. What is tested is the weights, not a file beside them. Only its end tokens are kept (`_end_tokens`).
    """
    from transformers import GenerationConfig

    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    theirs, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = theirs


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
