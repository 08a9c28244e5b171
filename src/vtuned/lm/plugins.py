"""
Kinds of models that installed packages add, by an entry point in the group `vtuned.lm`.

A plug-in is anybody's code: whatever it raises or gives becomes an error that names its package. No message repeats the
text of its errors, which may hold a key or a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from vtuned.errors import LMUnavailable, VtunedError
from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling, Unanswered
from vtuned.lm.options import LoadOptions

GROUP = "vtuned.lm"
_FINISHES = ("stop", "length", None)


def plugins(built_in: Mapping[str, str]) -> dict[str, EntryPoint]:
    """Return the kinds that installed packages add; *built_in* names win, then the first package found."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name not in built_in:
            found.setdefault(entry.name, entry)
    return found


def from_plugin(name: str, rest: str, entry: EntryPoint, options: LoadOptions) -> LanguageModel:
    """Return the model called *name* of the plug-in *entry*. Raises LMUnavailable where it gives none."""
    package = entry.dist.name if entry.dist else entry.value
    with _blaming(name, package):
        model = entry.load()(rest, options)
        is_model = isinstance(model, LanguageModel)
        own_name = model.name if is_model else ""
        able = [member for member in (*_PASSED_ON, "answer_unordered") if hasattr(model, member)]
    if not is_model or not isinstance(own_name, str):
        gave = "a model whose name is no text" if is_model else f"a {type(model).__name__}, which is no LanguageModel"
        raise LMUnavailable(name, f"the plug-in {package} gave {gave}", hint=_hint(package))
    if type(model).__module__.startswith("vtuned."):
        return cast(LanguageModel, model)  # keeps its promises, and some commands need its very class
    members = {member: _answer_unordered if member == "answer_unordered" else _passed_on(member) for member in able}
    return cast(LanguageModel, type("PluginLM", (_Checked,), members)(model, own_name, package))


def _hint(package: str) -> str:
    return f"ask the makers of {package}, or remove it"


@contextmanager
def _blaming(name: str, package: str) -> Iterator[None]:
    """Turn whatever the plug-in raises into an error that names it."""
    try:
        yield
    except VtunedError:
        raise
    except _failures() as error:
        reason = f"the plug-in {package} failed: {type(error).__name__}"
        raise LMUnavailable(name, reason, hint=_hint(package)) from error


def _failures() -> tuple[type[BaseException], ...]:
    import asyncio

    return Exception, SystemExit, asyncio.CancelledError


class _Checked:
    """A plug-in's model, whose answers are what they must be."""

    def __init__(self, model: Any, name: str, package: str) -> None:
        self._model, self._name, self._package = model, name, package

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`. Raises LMUnavailable where it does not keep to that."""
        n = 0
        with _blaming(self._name, self._package):
            for given in self._model.answer(prompts, sampling):
                n += 1
                self._require(n <= len(prompts), "more answers than prompts")
                yield self._checked(given)
        self._require(n == len(prompts), f"{n} answers to {len(prompts)} prompts")

    def _checked(self, given: object) -> Answer:
        if not isinstance(given, Completed | Unanswered):
            raise self._broken(f"a {type(given).__name__} as an answer")
        text = given.text if isinstance(given, Completed) else given.reason
        self._require(isinstance(text, str) and isinstance(given.exchange, str), "an answer whose text is no text")
        self._require(not given.exchange or _is_object(given.exchange), "an answer whose exchange is no JSON object")
        if isinstance(given, Completed):
            self._require(given.finish in _FINISHES, "an answer whose finish is neither stop, length nor None")
        return given

    def _require(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise self._broken(otherwise)

    def _broken(self, gave: str) -> LMUnavailable:
        return LMUnavailable(self._name, f"the plug-in {self._package} gave {gave}", hint=_hint(self._package))


def _answer_unordered(self: _Checked, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
    """See `AnswersAsTheyCome.answer_unordered`: each prompt once."""
    left = set(range(len(prompts)))
    with _blaming(self._name, self._package):
        for i, given in self._model.answer_unordered(prompts, sampling):
            self._require(type(i) is int and i in left, "two answers to one prompt, or one to none")
            left.remove(i)
            yield i, self._checked(given)
    self._require(not left, f"{len(prompts) - len(left)} answers to {len(prompts)} prompts")


# What a model may be able to do besides: see `vtuned.lm.base`.
_PASSED_ON = ("address", "log10_probs", "continuations", "decode", "encode", "on_step")


def _passed_on(member: str) -> property:
    """Return a property that is the *member* of the plug-in's model; functions in it are blamed on the plug-in."""

    def get(self: _Checked) -> Any:
        with _blaming(self._name, self._package):
            value = getattr(self._model, member)
        return _blamed(self, value) if callable(value) and member != "on_step" else value

    def put(self: _Checked, value: Any) -> None:
        setattr(self._model, member, value)

    return property(get, put)


def _blamed(checked: _Checked, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with _blaming(checked._name, checked._package):  # noqa: SLF001 - a method in all but place
            return function(*arguments)

    return call


def _is_object(exchange: str) -> bool:
    try:
        return isinstance(json.loads(exchange), dict)
    except (ValueError, RecursionError):
        return False
