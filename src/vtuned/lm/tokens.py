"""Count tokens without loading a model: by the embedded model's tokenizer, or by an estimate where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from vtuned.errors import LMUnavailable, MissingExtra

_BYTES_A_TOKEN = 3


def counter(model: str) -> tuple[Callable[[Sequence[str]], list[int]], str]:
    """
    Return a function that counts the tokens of texts, and the name of the tokenizer.

    *model* is "smollm2" or a folder with tokenizer.json; "estimate", or the embedded model where it is not installed,
    gives one token per 3 bytes. Raises LMUnavailable where a folder has no tokenizer.
    """
    if model == "estimate":
        return _estimate, f"estimate: {_BYTES_A_TOKEN} bytes a token"
    if model == "smollm2":
        if find_spec("tokenizers") is None:
            return counter("estimate")
        from vtuned.lm import embedded

        try:
            model, name = str(embedded.converted()), "smollm2"
        except MissingExtra:
            return counter("estimate")
    else:
        name = model = model.removeprefix("hf:").partition("+")[0]
    return _from_folder(model, name), name


def _from_folder(folder: str, name: str) -> Callable[[Sequence[str]], list[int]]:
    if find_spec("tokenizers") is None:
        raise MissingExtra("counting tokens", "pip install 'vtuned[local]'")
    from tokenizers import Tokenizer

    path = f"{folder}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # tokenizers raises nothing narrower
        raise LMUnavailable(
            name, f"cannot read {path}", hint="give a model folder that holds tokenizer.json"
        ) from error

    def count(texts: Sequence[str]) -> list[int]:
        # JSON can spell lone surrogates, which no tokenizer takes.
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        return [len(encoding) for encoding in tokenizer.encode_batch(readable, add_special_tokens=False)]

    return count


def _estimate(texts: Sequence[str]) -> list[int]:
    return [len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN + 1 for text in texts]
