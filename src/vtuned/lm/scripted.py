"""A language model that follows a script: for tests, examples and documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vtuned.lm.base import Answer, Completed, Prompt, Sampling


class ScriptedLM:
    """
    Answer every prompt by calling *script* with it.

    The script returns a text (a completed answer) or an `Answer`. Every prompt that was asked is kept, in order, in
    `asked`.
    """

    def __init__(self, script: Callable[[Prompt], str | Answer], name: str = "scripted") -> None:
        self._script = script
        self._name = name
        self.asked: list[Prompt] = []

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        for prompt in prompts:
            self.asked.append(prompt)
            said = self._script(prompt)
            yield Completed(said, "stop") if isinstance(said, str) else said
