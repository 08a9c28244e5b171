"""
Rows as a trainer takes them: token ids, and which of them carry loss.

Built here because trl's shortcuts either train on the prompt too or refuse chat templates without generation marks
(SmolLM2's among them). Everything is rendered as it will be when the model is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from vtuned.conversation import Conversation, Turn, messages_of, text_of
from vtuned.errors import DatasetError
from vtuned.lm.base import Prompt, RichPrompt
from vtuned.lm.huggingface import render_text

MASKED = -100  # torch's cross entropy skips this label

Example: TypeAlias = dict[str, list[int]]
"""`input_ids` and `labels` of one row; of a preference row `prompt_ids`, `chosen_ids` and `rejected_ids`."""


def holds_more_than_text(row: Conversation) -> bool:
    """Tell whether *row* holds images or other things that no text model can be trained on."""
    return any(part.text is None for turn in (*row.turns, *row.rejected) for part in turn.parts)


def carries_loss(example: Example) -> bool:
    """Tell whether there is anything to learn in *example*."""
    if "labels" in example:
        return any(label != MASKED for label in example["labels"])
    return bool(example["chosen_ids"] and example["rejected_ids"])


def digest_of(examples: Iterable[Example]) -> str:
    """Return the SHA-256 (hex) of what a trainer reads: the ids and labels of each example, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def tokenise(tokenizer: Any, row: Conversation, max_tokens: int) -> Example:
    """
    Return `input_ids` and `labels` of *row*, loss on the assistant turns that carry it and on their end token only.

    A turn that goes on has no end token to learn.

    Raises DatasetError where the chat template refuses the row or rewrites earlier turns, so that no span of the text
    is the answer.
    """
    spans, text = _text_spans(tokenizer, row) if row.is_text else _answer_spans(tokenizer, row)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(start <= begin and end <= stop and begin < end for start, stop in spans) else MASKED
        for token, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": list(encoded["input_ids"])[:max_tokens], "labels": labels[:max_tokens]}


def tokenise_pair(tokenizer: Any, row: Conversation, max_tokens: int) -> Example:
    """
    Return `prompt_ids`, `chosen_ids` and `rejected_ids` of a preference row, each answer with its end token.

    The prompt is tokenised by itself, as it is when the model is asked. Answers are cut so that no sequence is longer
    than *max_tokens*. Raises DatasetError as `tokenise` does.
    """
    at = _answer_at(row)
    prompt = _rendered(tokenizer, row, row.turns[:at], answering=True)
    encoded = {"prompt": prompt}
    for name, answer in (("chosen", row.turns[at:]), ("rejected", row.rejected)):
        whole = _ended(tokenizer, row, (*row.turns[:at], *answer))
        if not whole.startswith(prompt):
            raise _rewritten()
        encoded[name] = whole[len(prompt) :]
    ids = {f"{name}_ids": _ids(tokenizer, text) for name, text in encoded.items()}
    left = max(0, max_tokens - len(ids["prompt_ids"]))
    return {name: tokens if name == "prompt_ids" else tokens[:left] for name, tokens in ids.items()}


def _answer_at(row: Conversation) -> int:
    host = row.host()
    if host is not None:
        return host.answer
    answers = [i for i, turn in enumerate(row.turns) if turn.role == "assistant"]
    if not answers:
        raise DatasetError("a preference row has no answer", hint="remove it, or give it a preferred answer")
    return answers[-1]


def _answer_spans(tokenizer: Any, row: Conversation) -> tuple[list[tuple[int, int]], str]:
    """Return where the trained answers stand in the rendered row, in characters, and the rendered row."""
    text = _rendered(tokenizer, row, row.turns)
    spans = []
    for i, turn in enumerate(row.turns):
        if turn.carries_loss:
            before = _rendered(tokenizer, row, row.turns[:i], answering=True) if i else ""
            through = _rendered(tokenizer, row, row.turns[: i + 1]).rstrip()
            if not (text.startswith(through) and through.startswith(before)):
                raise _rewritten()
            cut = len(before) + len(turn.content)
            is_open = turn.goes_on and text[len(before) : cut] == turn.content
            spans.append((len(before), cut if is_open else len(through)))
    return spans, text


def _text_spans(tokenizer: Any, row: Conversation) -> tuple[list[tuple[int, int]], str]:
    """Return where the trained answers stand in a plain-text row, and the row; an answer that ends it is ended."""
    text = _ended(tokenizer, row, row.turns)
    at = text.index(text_of(row.turns))
    spans = []
    for i, turn in enumerate(row.turns):
        start = at + len(turn.before)
        at = start + len(turn.content) + len(turn.after)
        if turn.carries_loss:
            is_last = i == len(row.turns) - 1 and not turn.after
            spans.append((start, len(text) if is_last else start + len(turn.content)))
    return spans, text


def _ended(tokenizer: Any, row: Conversation, turns: Sequence[Turn]) -> str:
    """Return *turns* as the model reads them, through the end token of the last where it has an end."""
    text = _rendered(tokenizer, row, turns)
    if turns[-1].goes_on:
        return text[: text.rindex(turns[-1].content) + len(turns[-1].content)]
    if not row.is_text:
        return text.rstrip()
    end = tokenizer.eos_token or ""
    return text if end and text.endswith(end) else text + end


def _rendered(tokenizer: Any, row: Conversation, turns: Sequence[Turn], *, answering: bool = False) -> str:
    """Return *turns* of *row* as the model reads them. Raises DatasetError where the chat template refuses them."""
    from jinja2 import TemplateError

    try:
        return render_text(tokenizer, _prompt(row, turns, answering=answering), answering=answering)
    except TemplateError as error:
        raise DatasetError(
            f"the model's chat template refuses a row: {error}", hint="use rows with its roles, or another base model"
        ) from error


def _prompt(row: Conversation, turns: Sequence[Turn], *, answering: bool) -> Prompt:
    if row.is_text:
        # A preference row's answer starts after what stands before it in the file.
        opening = row.turns[len(turns)].before if answering and len(turns) < len(row.turns) else ""
        return RichPrompt(messages_of([Turn("user", text_of(turns) + opening)]), is_text=True)
    tools = json.loads(row.tools) if row.tools else ()
    return RichPrompt(messages_of(turns), tools=tools)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _rewritten() -> DatasetError:
    return DatasetError(
        "the model's chat template rewrites earlier turns, so answers cannot be told apart",
        hint="use single-turn rows or another base model",
    )
