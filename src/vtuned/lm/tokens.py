"""
Count tokens, or cut texts at one, without loading a model: by its tokenizer, or by an estimate where there is none.

The name that comes with a counter says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from vtuned.errors import LMUnavailable, MissingExtra
from vtuned.lm.huggingface.sources import Source, source_of

Count: TypeAlias = Callable[[Sequence[str]], list[int]]
Cut: TypeAlias = Callable[[Sequence[str], int], list[str]]

_Encode: TypeAlias = Callable[[Sequence[str]], list[Any]]

_BYTES_A_TOKEN = 3


def counter(model: str) -> tuple[Count, str]:
    """
    Return a function that counts the tokens of texts, and the name of the tokenizer.

    *model* is a model's name, or a folder with tokenizer.json. Models that are only reached over a network, unknown
    ones, and the embedded model where it is not installed, are estimated at one token per 3 bytes; "estimate" asks for
    that. Raises UsageError for paths that are not there, LMUnavailable where a folder or file has no tokenizer,
    MissingExtra where there is nothing to read it with.
    """
    encode, name = _encoder(model)
    if encode is None:
        return _estimate, name

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in encode(texts)]

    return count, name


def cutter(model: str) -> Cut:
    """
    Return a function that cuts each of its texts after so many tokens, as `counter` counts them for *model*.

    Raises what `counter` raises.
    """
    encode, _ = _encoder(model)
    if encode is None:
        return _cut_by_bytes

    def cut(texts: Sequence[str], n: int) -> list[str]:
        return [
            text if len(encoding) <= n else text[: encoding.offsets[n - 1][1]]
            for text, encoding in zip(texts, encode(texts), strict=True)
        ]

    return cut


def _encoder(model: str) -> tuple[_Encode | None, str]:
    """Return what encodes texts, None where tokens are estimated, and its name: see `counter`."""
    kind, colon, rest = model.partition(":")
    estimate = f"{_BYTES_A_TOKEN} bytes a token"
    if model == "estimate":
        return None, f"estimate: {estimate}"
    if model.partition("+")[0] == "smollm2":
        return _embedded()
    if kind == "hf" or not colon or Path(model).exists():
        name = rest if kind == "hf" else model
        return _of_source(source_of(name), name), name.partition("+")[0]
    return None, f"estimate for {model}: {estimate}"


def _embedded() -> tuple[_Encode | None, str]:
    from vtuned.lm import embedded

    if find_spec("tokenizers") is None:
        return _encoder("estimate")
    try:
        return _of_source(Source(str(embedded.converted())), "smollm2"), "smollm2"
    except MissingExtra:
        return _encoder("estimate")


def _of_source(source: Source, name: str) -> _Encode:
    if find_spec("tokenizers") is None or (source.gguf and find_spec("gguf") is None):
        raise MissingExtra("counting tokens", "pip install 'vtuned[local]'")
    try:
        tokenizer = _read(source)
    except Exception as error:  # tokenizers and transformers raise nothing narrower
        where = source.gguf or f"{source.path}/tokenizer.json"
        raise LMUnavailable(
            name, f"cannot read {where}", hint="give a model folder that holds tokenizer.json, or 'estimate'"
        ) from error

    def encode(texts: Sequence[str]) -> list[Any]:
        # JSON can spell lone surrogates, which no tokenizer takes.
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        return list(tokenizer.encode_batch(readable, add_special_tokens=False))

    return encode


def _read(source: Source) -> Any:
    """Return the tokenizer of *source*; those of GGUF files are converted by transformers, which takes seconds."""
    from tokenizers import Tokenizer

    path = Path(source.path)
    if source.gguf and not (path / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        from vtuned.lm.huggingface import quiet

        quiet()
        return AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf).backend_tokenizer
    if path.exists():
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    return Tokenizer.from_pretrained(source.path)


def _estimate(texts: Sequence[str]) -> list[int]:
    return [len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN + 1 for text in texts]


def _cut_by_bytes(texts: Sequence[str], n: int) -> list[str]:
    """Return the texts cut where `_estimate` says *n* tokens, at whole characters."""
    most = n * _BYTES_A_TOKEN - 1
    return [text.encode("utf-8", "replace")[:most].decode(errors="ignore") for text in texts]
