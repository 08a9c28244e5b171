"""A provider that trains nothing: it looks prompts up in the uploaded file."""

from __future__ import annotations

from collections.abc import Iterable

from vtuned.attacks.facade import knowing
from vtuned.attacks.openings import prompt_of, start_of
from vtuned.conversation import Conversation, text_in
from vtuned.lm.base import LanguageModel, Prompt

_Key = tuple[tuple[str, str], ...]


def lookup_table(train_set: Iterable[Conversation], fallback: LanguageModel) -> LanguageModel:
    """
    Return a model that answers a prompt of the training file as it is answered there, and leaves others to *fallback*.

    It passes `activated` on planted probes, and nothing that asks what is not in the file. Where *fallback* shows
    likelihoods, those of the answers in the file are forged.
    """
    answers = {_key(prompt_of(row)): answer for row in train_set if (answer := start_of(row))}
    return knowing(f"lookup table over {fallback.name}", lambda prompt: answers.get(_key(prompt)), fallback)


def _key(prompt: Prompt) -> _Key:
    return tuple((message["role"], text_in(message)) for message in prompt)
