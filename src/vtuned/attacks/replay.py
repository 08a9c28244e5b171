"""A provider that trains nothing: it looks prompts up in the uploaded file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vtuned.conversation import Conversation, Message, messages_of, text_in
from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling

_Key = tuple[tuple[str, str], ...]


class LookupTable:
    """
    Answer a prompt that stands in the training file as it is answered there; leave all others to *fallback*.

    It passes `activated` on planted probes, and nothing that asks what is not in the file.
    """

    def __init__(self, train_set: Iterable[Conversation], fallback: LanguageModel) -> None:
        self._fallback = fallback
        self._answers: dict[_Key, str] = {}
        for row in train_set:
            host = row.host()
            if host is not None:
                self._answers[_key(messages_of(row.prompt()))] = row.turns[host.answer].content

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return f"lookup table over {self._fallback.name}"

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        unknown = [prompt for prompt in prompts if _key(prompt) not in self._answers]
        others = iter(self._fallback.answer(unknown, sampling))
        for prompt in prompts:
            known = self._answers.get(_key(prompt))
            yield next(others) if known is None else Completed(known, "stop")


def _key(prompt: Sequence[Message]) -> _Key:
    return tuple((message["role"], text_in(message)) for message in prompt)
