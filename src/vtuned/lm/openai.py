"""
Models behind an OpenAI-compatible endpoint: `openai:NAME`.

OpenAI, Azure's /openai/v1, vLLM, SGLang, llama.cpp, Ollama, Together, Fireworks, Mistral and others speak it. The
`openai` package is imported on use.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from vtuned.conversation import text_in
from vtuned.errors import LMUnavailable, UsageError
from vtuned.lm.background import results_of
from vtuned.lm.base import Answer, NotAsAsked, Prompt, Sampling, Scorer, Unanswered, is_text, tools_of
from vtuned.lm.endpoint import Endpoint, Exchange, Request, Session
from vtuned.lm.endpoint_pace import Retries
from vtuned.lm.endpoint_replies import answer_of, thought_apart
from vtuned.lm.endpoint_scores import Capabilities, EndpointScorer, Way, discover
from vtuned.lm.options import LoadOptions


class OpenAILM:
    """
    A model that is asked over HTTP, many prompts at a time: a `LanguageModel` that `AnswersAsTheyCome`.

    Where the server shows log-probabilities of given text, `scorer()` is a `Scorer`.
    """

    def __init__(self, model: str, options: LoadOptions, *, retries: Retries | None = None) -> None:
        _check(model, options)
        self._name = f"openai:{model}"
        self._endpoint = Endpoint(self._name, model, options, retries or Retries())
        self._found: tuple[Capabilities, tuple[Way, ...]] | None = None
        self._has_warned = False

    def __repr__(self) -> str:
        return f"OpenAILM({self._name!r})"

    @property
    def name(self) -> str:
        """See `LanguageModel.name`."""
        return self._name

    @property
    def address(self) -> str:
        """See `IsElsewhere.address`."""
        return self._endpoint.address

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        """See `LanguageModel.answer`."""
        waiting: dict[int, Answer] = {}
        n_given = 0
        for i, answer in self.answer_unordered(prompts, sampling):
            waiting[i] = answer
            while n_given in waiting:
                yield waiting.pop(n_given)
                n_given += 1

    def answer_unordered(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """
        See `AnswersAsTheyCome.answer_unordered`. Raises LMUnavailable where no prompt can be answered.

        Warns (`NotAsAsked`) once where the server takes no temperature.
        """

        async def work(put: Callable[[tuple[int, Answer]], None]) -> None:
            async with self._endpoint.session() as session:
                todo = iter(enumerate(prompts))

                async def ask_some() -> None:
                    for i, prompt in todo:
                        put((i, await self._answer(session, prompt, sampling)))

                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._endpoint.most, len(prompts))):
                        group.create_task(ask_some())

        for result in results_of(work):
            self._warn_of_temperature(sampling)
            yield result

    def _warn_of_temperature(self, sampling: Sampling) -> None:
        if self._has_warned or self._endpoint.takes_temperature:
            return
        self._has_warned = True
        said = f"{self._name} takes no temperature: it answers at its own, not at {sampling.temperature:g}"
        warnings.warn(said, NotAsAsked, stacklevel=3)

    async def _answer(self, session: Session, prompt: Prompt, sampling: Sampling) -> Answer:
        if not _is_encodable(prompt):
            return Unanswered("the prompt cannot be written as UTF-8")
        exchange = await session.ask(_request(prompt, sampling))
        answer = answer_of(exchange.reply, record_of(exchange, self._endpoint.hidden))
        if isinstance(answer, Unanswered):
            return replace(answer, reason=self._endpoint.hidden(answer.reason))
        return replace(answer, text=self._endpoint.without_key(answer.text))

    def capabilities(self) -> Capabilities:
        """Return what the endpoint can do, asked once with neutral text. Never raises: see `Capabilities.notes`."""
        return self._discovered()[0]

    def scorer(self) -> Scorer | None:
        """
        Return a scorer of given text, or None where the server shows no such thing.

        Raises LMUnavailable where it cannot be reached.
        """
        found, ways = self._discovered()
        if not found.reachable:
            raise LMUnavailable(self._name, "; ".join(found.notes), hint="check the address and that the server runs")
        return EndpointScorer(self._endpoint, ways) if ways else None

    def _discovered(self) -> tuple[Capabilities, tuple[Way, ...]]:
        if self._found is None:
            self._found = discover(self._endpoint)
        return self._found


def load(rest: str, options: LoadOptions) -> OpenAILM:
    """
    Return the model that the endpoint of *options* calls *rest*; nothing is sent yet.

    Raises LMUnavailable without a key where one is needed, UsageError for options that cannot be.
    """
    return OpenAILM(rest, options)


def capabilities(model: OpenAILM) -> Capabilities:
    """Return what the endpoint of *model* can do: see `OpenAILM.capabilities`."""
    return model.capabilities()


def record_of(exchange: Exchange, hidden: Callable[[str], str]) -> str:
    """Return *exchange* as the JSON object that goes with its answer; *hidden* takes out what must not be kept."""
    reply = exchange.reply
    body = reply.body if isinstance(reply.body, dict) else {}
    record = {
        "request_id": reply.headers.get("x-request-id") or reply.headers.get("apim-request-id") or body.get("id"),
        "status": reply.status,
        "model": body.get("model"),
        "system_fingerprint": body.get("system_fingerprint"),
        "started": exchange.started.isoformat(),
        "ended": exchange.ended.isoformat(),
        "tries": exchange.n_tries,
        "sent": dict(exchange.sent),
        "not_taken": list(exchange.not_taken) or None,
        "reasoning_apart": bool(reply.choice and thought_apart(reply.choice)),
        "trouble": reply.trouble or None,
        "response": reply.body,
    }
    text = json.dumps(_each_text(record, hidden), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return JSON *value* with each text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(inner, change) for key, inner in value.items()}
    return [_each_text(inner, change) for inner in value] if isinstance(value, list) else value


def _request(prompt: Prompt, sampling: Sampling) -> Request:
    parameters: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if is_text(prompt):
        return Request("completions", text_in(prompt[0]), parameters)
    if tools_of(prompt):
        parameters["tools"] = list(tools_of(prompt))
    return Request("chat", list(prompt), parameters)


def _is_encodable(prompt: Prompt) -> bool:
    """Tell whether *prompt* can travel: a lone surrogate cannot."""
    try:
        json.dumps([*prompt, *tools_of(prompt)], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(model: str, options: LoadOptions) -> None:
    if options.concurrency < 1 or not options.spacing >= 0 or not options.timeout > 0:
        raise UsageError("concurrency must be at least 1, spacing at least 0 and the timeout above 0")
    try:
        model.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "the model's name is not UTF-8", hint="give the name under which the server lists it"
        ) from None
