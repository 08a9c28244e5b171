"""A causal LM of transformers as a `LanguageModel`, a `Scorer` and a `TokenSampler`."""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtuned.errors import LMUnavailable
from vtuned.lm.base import Answer, Completed, Prompt, Sampling, Unanswered
from vtuned.lm.huggingface.rendering import render_text

# A step costs nearly the same for one answer and for many, until the cache grows large.
_BATCH_TOKENS = 16_384
# Logits that are held at once while texts are scored (256 MiB of float32).
_BATCH_LOGITS = 2**26
# Of these logits, positions that are summed up in double precision at once.
_DOUBLE_POSITIONS = 64
# Tokens that a cache has room for ahead, so that it is copied once in as many steps.
_ROOM = 32
# Words and tokens remembered; then remembering begins anew.
_MOST_REMEMBERED = 200_000
# Letters and marks, and the space before them: what phrases are made of.
_WORD = re.compile(r" ?(?:[^\W\d_]|[,'])+")
# In these patterns (GPT-2's is in ByteLevel itself; Llama 3's, Qwen's) white space begins a match or fills it.
_PARTS_WORDS = re.compile(
    re.escape(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}")
    + r"(?:\{1,3\})?"
    + re.escape(r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
)
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

    @cached_property
    def _codec(self) -> _Codec:
        return _Codec(self.tokenizer.backend_tokenizer)

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    @property
    def using(self) -> Using:
        """What is entered around each call of `model`."""
        return self._using

    @property
    def max_positions(self) -> int | None:
        """How many tokens the model reads, prompt and answer together; None where it does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def bits(self) -> int | None:
        """With how many bits its weights are quantised, 4 or 8; None where they are not."""
        return next((n for n in (4, 8) if getattr(self.model, f"is_loaded_in_{n}bit", False)), None)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return tuple(self._eos)

    def text(self, tokens: Sequence[int]) -> str:
        """Return what *tokens* say, special ones left out."""
        return self._text(tokens)

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
        limit = self.max_positions or math.inf
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
        """
        See `Scorer.log10_probs`. Raises LMUnavailable for an empty prompt.

        The prompt is run once. Equal continuations get equal numbers, whatever their places among the others.
        """
        import torch

        prefix = self.render(prompt)
        if not prefix:
            raise LMUnavailable(self.name, "the prompt is empty")
        encoded = [tuple(tokens) for tokens in self.encode(continuations)]
        different = sorted(set(encoded), key=lambda tokens: (len(tokens), tokens))
        totals: dict[tuple[int, ...], float] = {(): 0.0}
        if any(different):
            with self._using(), torch.inference_mode():
                totals |= self._log_probs(prefix, [tokens for tokens in different if tokens])
        return [totals[tokens] / math.log(10) for tokens in encoded]

    def _log_probs(self, prefix: list[int], texts: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
        """Return the log-probability (nats) of each of *texts* after *prefix*; *texts* are sorted by length."""
        import torch

        longer = [tokens for tokens in texts if len(tokens) > 1]
        out = self.model(torch.tensor([prefix], device=self._device), use_cache=bool(longer), logits_to_keep=1)
        shared = SharedPrefix.of(out) if longer else None
        first = chosen(out.logits[0, -1:].expand(len(texts), -1), [tokens[0] for tokens in texts])
        totals = {tokens: [value] for tokens, value in zip(texts, first, strict=True)}
        for batch in _scored_together(longer, len(prefix), out.logits.shape[-1]):
            width = len(batch[-1]) - 1
            # Padding stands on the right, where no token of the text attends to it.
            ids = torch.tensor(
                [[*tokens[:-1], *[self._eos[0]] * (width + 1 - len(tokens))] for tokens in batch], device=self._device
            )
            if shared:
                logits = self.model(ids, cache=shared.expanded(len(batch)), use_cache=True).logits
            else:
                whole = torch.cat([torch.tensor(prefix, device=self._device).expand(len(batch), -1), ids], 1)
                logits = self.model(whole, use_cache=False, logits_to_keep=width).logits[:, -width:]
            for tokens, row in zip(batch, logits, strict=True):
                totals[tokens] += chosen(row[: len(tokens) - 1], tokens[1:])
        return {tokens: math.fsum(values) for tokens, values in totals.items()}

    def continuations(self, prompt: Prompt, n: int) -> _CachedContinuations:
        """See `TokenSampler.continuations`."""
        return _CachedContinuations(self.model, self.render(prompt), n, self._device, self._using)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `TokenSampler.decode`."""
        return self._codec.decode(tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TokenSampler.encode`."""
        return self._codec.encode(texts)


class _Codec:
    """
    What *backend* (of `tokenizers`) encodes and decodes, with words and tokens remembered where that is exact.

    A byte-level tokenizer decodes to bytes one after the other, so whole characters can be put together from the
    texts of tokens. One that parts text before each single space encodes word by word. Anything else goes to *backend*.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._is_bytewise, self._is_wordwise = _is_bytewise(backend), _is_wordwise(backend)
        self._texts: dict[int, str] = {}
        self._words: dict[str, list[int]] = {}

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        if not self._is_bytewise:
            return self._decoded(tokens)
        texts = [self._joined(path) for path in tokens]
        parted = [i for i, text in enumerate(texts) if "\ufffd" in text]
        for i, text in zip(parted, self._decoded([tokens[i] for i in parted]), strict=True):
            texts[i] = text
        return texts

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._is_wordwise:
            return self._encoded(texts)
        found = [self._chained(text) for text in texts]
        odd = [i for i, tokens in enumerate(found) if tokens is None]
        for i, tokens in zip(odd, self._encoded([texts[i] for i in odd]), strict=True):
            found[i] = tokens
        return [tokens for tokens in found if tokens is not None]

    def _joined(self, path: Sequence[int]) -> str:
        known = self._texts
        try:
            return "".join([known[token] for token in path])
        except KeyError:
            if len(known) > _MOST_REMEMBERED:
                known.clear()
            known.update(zip(path, self._decoded([[token] for token in path]), strict=True))
            return "".join([known[token] for token in path])

    def _chained(self, text: str) -> list[int] | None:
        """Return the tokens of *text* word by word; None where it holds more than words."""
        known = self._words
        first, *others = text.split(" ")
        found: list[int] = []
        for word in (first, *(f" {other}" for other in others)):
            tokens = known.get(word)
            if tokens is None:
                if not _WORD.fullmatch(word) and word:
                    return None
                if len(known) > _MOST_REMEMBERED:
                    known.clear()
                tokens = known[word] = self._encoded([word])[0]
            found += tokens
        return found

    def _decoded(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        return list(self._backend.decode_batch([list(t) for t in tokens], skip_special_tokens=False)) if tokens else []

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._backend.encode_batch(list(texts), add_special_tokens=False)] if texts else []


class SharedPrefix:
    """The cache of a prompt, after which many texts are run in turn."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._states = [(layer.keys, layer.values) for layer in cache.layers]

    @classmethod
    def of(cls, out: Any) -> SharedPrefix | None:
        """Return the cache in *out*; None where it cannot be shared, as with sliding windows and recurrent states."""
        cache = getattr(out, "past_key_values", None)
        return cls(cache) if _holds_all_tokens(cache) else None

    def expanded(self, n: int) -> Any:
        """Return the cache for *n* texts, as it was after the prompt; nothing is copied."""
        for layer, states in zip(self._cache.layers, self._states, strict=True):
            layer.keys, layer.values = (state.expand(n, -1, -1, -1) for state in states)
        return self._cache

    def start(self, n: int) -> Any:
        """Return the cache as it was after the first *n* tokens; nothing is copied."""
        for layer, states in zip(self._cache.layers, self._states, strict=True):
            layer.keys, layer.values = (state[:, :, :n] for state in states)
        return self._cache


class _GrowingLayer:
    """
    Room ahead for one layer of a cache: a step writes its token there, and the tokens before it are not copied.

    Texts that end leave holes, which the last texts move into.
    """

    def __init__(self, layer: Any) -> None:
        self._layer: Any = weakref.proxy(layer)  # no cycle: a cache is freed as soon as nobody holds it
        layer.update = self.update
        self._rooms: list[Any] = []

    def update(self, keys: Any, values: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
        """Do what `update` of the layer does; the first time, one prompt is repeated for all texts."""
        layer, new = self._layer, (keys, values)
        n = layer.keys.shape[-2]
        end = n + keys.shape[-2]
        if not self._rooms or self._rooms[0].shape[-2] < end:
            self._rooms = [
                _with_room(old, states, end + _ROOM) for old, states in zip(self._states(), new, strict=True)
            ]
        for room, states in zip(self._rooms, new, strict=True):
            room[:, :, n:end] = states
        layer.keys, layer.values = (room[:, :, :end] for room in self._rooms)
        return layer.keys, layer.values

    def keep(self, n: int, holes: Any, moved: Any) -> None:
        """Go on with *n* texts, those in the rows *moved* in the rows *holes*."""
        if not self._rooms:
            return
        for room in self._rooms:
            room[holes] = room[moved]
        self._rooms = [room[:n] for room in self._rooms]
        self._layer.keys, self._layer.values = (state[:n] for state in self._states())

    def _states(self) -> tuple[Any, Any]:
        return self._layer.keys, self._layer.values


class _CachedContinuations:
    """Continuations over one KV cache; the prompt is run once, whatever the number of texts."""

    def __init__(self, model: Any, prompt: list[int], n: int, device: Any, using: Using) -> None:
        import torch

        self._model, self._device, self._using = model, device, using
        with using(), torch.inference_mode():
            out = model(torch.tensor([prompt], device=device), use_cache=True, logits_to_keep=1)
            self._logits = out.logits[:, -1].repeat(n, 1)
        self._cache = out.past_key_values
        self._rows = list(range(n))
        self._layers: list[_GrowingLayer] = []
        if _holds_all_tokens(self._cache):
            self._layers = [_GrowingLayer(layer) for layer in self._cache.layers]
        else:
            self._cache.batch_repeat_interleave(n)

    def log_probs(self) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            values: NDArray[np.float32] = torch.log_softmax(self._logits[self._rows].float(), -1).numpy(force=True)
        return values

    def append(self, tokens: Sequence[int]) -> None:
        import torch

        ids = torch.empty(len(tokens), 1, dtype=torch.long)
        ids[self._rows, 0] = torch.tensor(tokens)
        with self._using(), torch.inference_mode():
            out = self._model(ids.to(self._device), cache=self._cache, use_cache=True)
            self._logits = out.logits[:, -1]

    def keep(self, indices: Sequence[int]) -> None:
        import torch

        kept = [self._rows[i] for i in indices]
        n = len(kept)
        # The rows beyond the first n go where no text goes on; where rows cannot be moved, all are copied.
        order = dict(zip(sorted(set(range(n)).difference(kept)), sorted(row for row in kept if row >= n), strict=True))
        sources = torch.tensor([order.get(row, row) for row in range(n)], device=self._device)
        holes, moved = (torch.tensor(list(rows), device=self._device).long() for rows in (order, order.values()))
        with torch.inference_mode():
            for layer in self._layers:
                layer.keep(n, holes, moved)
            if not self._layers:
                self._cache.batch_select_indices(sources)
            self._logits = self._logits[sources]
        places = {row: hole for hole, row in order.items()}
        self._rows = [places.get(row, row) for row in kept]


def _holds_all_tokens(cache: Any) -> bool:
    """Tell whether *cache* is plain keys and values of every token, in every layer."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", [])
    return bool(layers) and all(type(layer) is DynamicLayer and layer.keys is not None for layer in layers)


def _with_room(old: Any, new: Any, length: int) -> Any:
    """Return room for *length* tokens that begins with *old*, for as many texts as *new* has."""
    room = new.new_empty(*new.shape[:2], length, new.shape[-1])
    room[:, :, : old.shape[-2]] = old
    return room


def chosen(logits: Any, tokens: Sequence[int]) -> list[float]:
    """Return the log-probability (nats) of each token by its row of *logits*."""
    import torch

    values: list[float] = []
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    for rows, chosen in zip(logits.split(_DOUBLE_POSITIONS), ids.split(_DOUBLE_POSITIONS), strict=True):
        exact = rows.double()
        values += (exact.gather(1, chosen)[:, 0] - exact.logsumexp(-1)).tolist()
    return values


def _scored_together(
    texts: Sequence[tuple[int, ...]], n_before: int, n_vocabulary: int
) -> Iterator[list[tuple[int, ...]]]:
    """Yield *texts*, sorted by length, in parts that fit into memory after *n_before* tokens."""
    batch: list[tuple[int, ...]] = []
    for tokens in texts:
        n = len(batch) + 1
        if batch and (n * (n_before + len(tokens)) > _BATCH_TOKENS or n * len(tokens) * n_vocabulary > _BATCH_LOGITS):
            yield batch
            batch = []
        batch.append(tokens)
    if batch:
        yield batch


def _is_bytewise(backend: Any) -> bool:
    """Tell whether the text of a path is the texts of its tokens, one after the other, where these are whole."""
    return type(backend.decoder).__name__ == "ByteLevel"


def _is_wordwise(backend: Any) -> bool:
    """Tell whether *backend* encodes words with single spaces before them each on its own."""
    splits = [_state(part) for part in _parts(backend.pre_tokenizer)]
    return (
        type(backend.model).__name__ == "BPE"
        and not backend.model.dropout
        and backend.padding is None
        and backend.truncation is None
        and (backend.normalizer is None or _state(backend.normalizer)["type"] == "NFC")
        and any(map(_parts_words, splits))
        and all(_parts_words(split) or split["type"] in ("ByteLevel", "Digits") for split in splits)
        and not any(split.get("add_prefix_space") for split in splits)
        and all(_is_no_words(token.content) for token in backend.get_added_tokens_decoder().values())
    )


def _is_no_words(text: str) -> bool:
    """Tell whether *text* stands in no text of words with single spaces before them."""
    return not all(_WORD.fullmatch(word) for word in f"a{text}a".split(" "))


def _parts_words(split: dict[str, Any]) -> bool:
    if split["type"] == "Split":
        pattern = split["pattern"].get("Regex", "")
        return split["behavior"] == "Isolated" and not split["invert"] and bool(_PARTS_WORDS.fullmatch(pattern))
    return split["type"] == "ByteLevel" and bool(split["use_regex"])


def _parts(pre_tokenizer: Any) -> list[Any]:
    return list(pre_tokenizer) if type(pre_tokenizer).__name__ == "Sequence" else [pre_tokenizer]


def _state(part: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {"type": ""}
    return state


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
