"""
One OpenAI-compatible endpoint, asked through the `openai` package.

Knows how to reach it, what to do when it does not answer, and which names it wants for parameters. Knows nothing of
what an answer means: see `vtuned.lm.endpoint_replies`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from vtuned.errors import LMUnavailable
from vtuned.lm import addresses
from vtuned.lm.endpoint_access import access_to
from vtuned.lm.endpoint_pace import Pace, Retries, asked_to_wait_s
from vtuned.lm.endpoint_replies import Reply, reply_of
from vtuned.lm.options import LoadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai import AsyncOpenAI

_CONNECT_S = 10.0
_FORBIDDEN = 403  # once the key was good for an answer, this is about one prompt
_LONGER_THAN_WORDS = 16
_N_FORMS = 4  # a request is re-worded at most as often as there is something to learn


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request: *parameters* to the *path*, with *prompt* (messages for "chat", text for "completions").

    In *parameters*, `max_tokens` and `temperature` are sent under the names that the endpoint wants.
    """

    path: Literal["chat", "completions", "models"]
    prompt: Any = field(default=None, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    The *reply* that a request ended with.

    *sent* are the parameters of the last try, without prompt and tools; *not_taken* those that the server refuses.
    """

    reply: Reply
    n_tries: int
    started: datetime
    ended: datetime
    sent: Mapping[str, Any]
    not_taken: Sequence[str] = ()


class Endpoint:
    """
    An endpoint and what was learnt of it: whether it can be reached, and which parameters it takes.

    *host* and *address* are what may be shown of its URL: see `vtuned.lm.addresses`.
    """

    def __init__(self, name: str, model: str, options: LoadOptions, retries: Retries) -> None:
        self.name, self.model = name, model
        self.retries = retries
        self.reached = self.answered = False
        self._options = options
        self._access = access_to(name, options.base_url, options.api_key, model=model)
        self.host, self.address = self._access.host, self._access.address
        self._limit: float | None = None
        self._limit_name = "max_tokens"
        self.takes_temperature = True

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    @property
    def most(self) -> int:
        """How many requests may be under way at a time."""
        return self._options.concurrency

    def hidden(self, text: str) -> str:
        """See `Access.hidden`."""
        return self._access.hidden(text)

    def without_key(self, said: str) -> str:
        """Return what a model *said* without the key; a key that is a word ("placeholder") may be part of an answer."""
        key = self._access.key
        is_word = key.isalpha() and len(key) < _LONGER_THAN_WORDS
        return said if is_word or len(key) < addresses.SHORTEST_SECRET else said.replace(key, "[key]")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Open connections for some requests; what was learnt of pace and parameters stays."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        limit = self._options.timeout
        client = AsyncOpenAI(
            **self._access.arguments(),
            timeout=Timeout(limit, connect=min(limit, _CONNECT_S)),
            # A proxy of the environment does not know this machine's own addresses.
            http_client=DefaultAsyncHttpxClient(trust_env=not self._access.is_loopback),
        )
        pace = Pace(self._options.concurrency, self._options.spacing, self._limit)
        async with client:
            try:
                yield Session(self, client, pace, limit)
            finally:
                self._limit = pace.limit

    def worded(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return *parameters* under the names that the endpoint wants, without those it refuses."""
        sent = dict(parameters)
        if "max_tokens" in sent:
            sent[self._limit_name] = sent.pop("max_tokens")
        if not self.takes_temperature:
            sent.pop("temperature", None)
        return sent

    def learns_from(self, reply: Reply, sent: Mapping[str, Any]) -> bool:
        """Tell whether *reply* to *sent* says that other parameters are wanted, and remember which."""
        for name, other in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
            if name in sent and reply.does_not_take(name):
                self._limit_name = other
                return True
        if "temperature" in sent and reply.does_not_take("temperature"):
            self.takes_temperature = False
            return True
        return False

    def end_of_the_run(self, reply: Reply, n_tried: int) -> LMUnavailable | None:
        """Return the error that *reply* is to the whole run, or None where only one request failed."""
        said = self.hidden(reply.reason)
        if reply.refuses_the_key and not (reply.status == _FORBIDDEN and self.answered):
            hint = "check the key: OPENAI_API_KEY, and whether it may use this model"
            return LMUnavailable(self.name, f"{self.host} refused the key ({said})", hint=hint)
        if reply.is_out_of_credit:
            return LMUnavailable(self.name, f"{self.host} says the account has no credit left", hint="top it up")
        waits_s = asked_to_wait_s(reply.headers) or 0.0
        if reply.may_be_asked_again and not reply.ok and waits_s > self.retries.patience_s:
            hint = "run the same command again then: with an answers file it asks only what is missing"
            return LMUnavailable(self.name, f"{self.host} asks to wait {duration(waits_s)} ({said})", hint=hint)
        if reply.is_unknown_model:
            hint = "give the name under which the server lists the model (GET /models)"
            return LMUnavailable(self.name, f"{self.host} does not know this model ({said})", hint=hint)
        return None if self.answered else self._nothing_there(reply, n_tried, said)

    def _nothing_there(self, reply: Reply, n_tried: int, said: str) -> LMUnavailable | None:
        if reply.is_unknown_path:
            hint = "the base URL usually ends in /v1 (OPENAI_BASE_URL)"
            return LMUnavailable(self.name, f"no such API at {self.host} ({said})", hint=hint)
        if not reply.connected and n_tried >= self.retries.tries_to_connect:
            hint = "check the address (OPENAI_BASE_URL) and that the server runs"
            return LMUnavailable(self.name, f"cannot connect to {self.host}", hint=hint)
        return None


class Session:
    """Open connections to an endpoint, in one event loop."""

    def __init__(self, endpoint: Endpoint, client: AsyncOpenAI, pace: Pace, timeout_s: float) -> None:
        self._endpoint, self._client, self._pace, self._timeout_s = endpoint, client, pace, timeout_s

    async def ask(self, request: Request) -> Exchange:
        """
        Send *request* until it is answered, refused for good, or the retries are spent.

        Only trouble on the way is retried: never a response with a choice, whatever it says. Raises LMUnavailable where
        the reply concerns every request.
        """
        started, first_began = datetime.now(UTC), None
        n_tries = n_worded = 0
        while True:
            sent = self._endpoint.worded(request.parameters)
            async with self._pace.turn() as began:
                reply = await self._once(replace(request, parameters=sent))
                self._note(reply, began)
            first_began = began if first_began is None else first_began
            n_tries += 1
            if n_worded < _N_FORMS and self._endpoint.learns_from(reply, sent):
                n_worded += 1
                continue
            error = self._endpoint.end_of_the_run(reply, n_tries)
            if error:
                raise error
            wait_s = self._wait_s(reply, n_tries - n_worded, asyncio.get_running_loop().time() - first_began)
            if wait_s is None or (request.path == "models" and reply.ok):
                shown = {name: value for name, value in sent.items() if name != "tools"}
                refused = [name for name in ("temperature",) if name in request.parameters and name not in sent]
                return Exchange(reply, n_tries, started, datetime.now(UTC), shown, refused)
            await asyncio.sleep(wait_s)

    def _note(self, reply: Reply, began: float) -> None:
        self._endpoint.reached |= reply.status is not None
        if reply.choice is not None:
            self._endpoint.answered = True
            self._pace.answered()
        elif reply.asks_to_slow_down and not reply.is_out_of_credit:
            self._pace.slow_down(began, asked_to_wait_s(reply.headers) or 0.0)

    def _wait_s(self, reply: Reply, n_tried: int, spent_s: float) -> float | None:
        """Return the seconds to wait before the next try, None where there is none to be made."""
        retries = self._endpoint.retries
        if not reply.may_be_asked_again or n_tried >= retries.tries:
            return None
        wait_s = retries.wait_s(n_tried, asked_to_wait_s(reply.headers))
        return wait_s if spent_s + wait_s <= retries.patience_s else None

    async def _once(self, request: Request) -> Reply:
        """Send *request* once. The time limit is for the whole of it, however slowly bytes drip in."""
        import openai

        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._sent(request)
        except TimeoutError:
            return Reply(trouble="timed out")
        except openai.APITimeoutError as error:
            connected = type(error.__cause__).__name__ != "ConnectTimeout"
            return Reply(trouble="timed out" if connected else "cannot connect", connected=connected)
        except openai.APIStatusError as error:
            return reply_of(error.response.status_code, error.response.headers, error.response.content)
        except openai.APIConnectionError as error:
            connected = type(error.__cause__).__name__ != "ConnectError"
            return Reply(trouble="connection lost" if connected else "cannot connect", connected=connected)
        except openai.OpenAIError as error:
            return Reply(trouble=f"unreadable response ({type(error).__name__})")
        response = raw.http_response
        return reply_of(response.status_code, response.headers, response.content)

    async def _sent(self, request: Request) -> Any:
        """Send *request* and return the raw response; parameters beyond the package's own travel as they are."""
        model, extra = self._endpoint.model, dict(request.parameters)
        if request.path == "models":
            return await self._client.models.with_raw_response.list()
        if request.path == "chat":
            chat = self._client.chat.completions.with_raw_response
            return await chat.create(model=model, messages=request.prompt, extra_body=extra)
        return await self._client.completions.with_raw_response.create(
            model=model, prompt=request.prompt, extra_body=extra
        )


def duration(seconds: float) -> str:
    """Return *seconds* in words."""
    whole = int(min(seconds, 1e9))
    hours, minutes = divmod(-(-whole // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
