"""
What an endpoint can do, and log-probabilities of given text where it shows them.

Servers show them in several ways, each with its own shape, and many ignore what they do not know: a way counts as
found only where the response holds it. Discovery sends neutral text only, never a probe.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from vtuned.conversation import Message, text_in
from vtuned.errors import LMUnavailable
from vtuned.lm.background import result_of
from vtuned.lm.base import Prompt, is_text, tools_of
from vtuned.lm.endpoint import Endpoint, Request, Session
from vtuned.lm.endpoint_replies import Reply

GivenText: TypeAlias = Literal["none", "echo", "prompt_logprobs", "echo_last"]
Path: TypeAlias = Literal["chat", "completions"]

_QUESTION: tuple[Message, ...] = ({"role": "user", "content": "Name a colour of the sky."},)
_STATEMENT = " Blue is one of them."
_MORE_THAN_ANY_PROMPT = 1_000_000
# Beyond any text: a server that says more, or infinity, shows nothing.
_LARGEST = 1e6
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """
    What an endpoint can do.

    *model_listed* is None where the server lists no models. *logprobs* says whether log-probabilities of generated text
    come, *given_text* how those of given text are had ("none": not at all) and *given_text_paths* for which prompts.
    *notes* say what went wrong.
    """

    reachable: bool
    model_listed: bool | None = None
    chat: bool = False
    completions: bool = False
    logprobs: bool = False
    given_text: GivenText = "none"
    given_text_paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    """One token of a prompt: *key* tells tokens apart (its id, else its text)."""

    key: str
    text: str
    log_prob: float


@dataclass(frozen=True, slots=True)
class Way:
    """
    One way of asking for log-probabilities of given text at *path*.

    In a chat the given text is the last message: *message* and *going_on* ask the server to go on with it and not to
    close it; *n_closing* is how many tokens close it all the same.
    """

    kind: GivenText
    path: Path
    parameters: Mapping[str, Any]
    read: Callable[[Reply], list[_Token]]
    message: Mapping[str, Any] = field(default_factory=dict)
    going_on: Mapping[str, Any] = field(default_factory=dict)
    n_closing: int = 0

    def request(self, prompt: Prompt, given: str | None) -> Request:
        """Return the request that shows *prompt* and *given* after it (None: up to where an answer starts)."""
        parameters = {"max_tokens": 1, "temperature": 0.0, **self.parameters}
        if self.path == "completions":
            return Request("completions", text_in(prompt[0]) + (given or ""), parameters)
        if tools_of(prompt):
            parameters["tools"] = list(tools_of(prompt))
        if given is None:
            return Request("chat", list(prompt), parameters)
        last = {"role": "assistant", "content": given, **self.message}
        return Request("chat", [*prompt, last], {**parameters, **self.going_on})

    def log_prob(self, head: Sequence[_Token], full: Sequence[_Token]) -> float:
        """
        Return the log-probability (nats) of what *full* has after *head*, NaN where it does not show.

        Where the last token of *head* grew together with the given text, P(full) / P(head) is what counts.
        """
        n = _n_common(head, full)
        given = full[n : len(full) - self.n_closing]
        if not given or n == 0:
            return math.nan
        return math.fsum(token.log_prob for token in given) - math.fsum(token.log_prob for token in head[n:])

    def checked(self, head: Sequence[_Token], full: Sequence[_Token]) -> Way | None:
        """Return this way with its closing tokens counted, or None where the neutral statement does not show."""
        rest = list(full[_n_common(head, full) :])
        while rest and _joined(rest) != _STATEMENT.strip():
            rest.pop()
        n_closing = len(full) - _n_common(head, full) - len(rest)
        way = replace(self, n_closing=n_closing)
        return way if rest and not math.isnan(way.log_prob(head, full)) else None


def _n_common(head: Sequence[_Token], full: Sequence[_Token]) -> int:
    pairs = zip(head, full, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one.key != other.key), min(len(head), len(full)))


def _joined(tokens: Sequence[_Token]) -> str:
    return "".join(token.text for token in tokens).translate(_SPACES).lstrip()


def _token(number: Any, text: Any, log_prob: Any) -> _Token:
    """Return a token. The first one of a text has no log-probability (null); it is never part of a sum."""
    shown = str(text if text is not None else "")
    value = float(log_prob) if isinstance(log_prob, (int, float)) and abs(log_prob) <= _LARGEST else math.nan
    return _Token(str(number if number is not None else shown), shown, value)


def _fields(value: Any) -> dict[str, Any]:
    """Return *value* where it is an object, else one without fields: servers put null, and worse, anywhere."""
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _logprobs_in(place: Any) -> list[_Token]:
    """Read `logprobs` as /completions (`tokens`, `token_logprobs`) or as chat (`content`) shows it."""
    shown = _fields(_fields(place).get("logprobs"))
    content = shown.get("content")
    if isinstance(content, list):
        entries = [_fields(entry) for entry in content]
        return [_token(entry.get("token_id"), entry.get("token"), entry.get("logprob")) for entry in entries]
    texts, values = _items(shown.get("tokens")), _items(shown.get("token_logprobs"))
    ids = _items(shown.get("token_ids")) or [None] * len(texts)
    return [_token(*entry) for entry in zip(ids, texts, values, strict=False)]


def _read_echo(reply: Reply) -> list[_Token]:
    """Read the prompt's tokens: apart in `prompt` (Together), or in the choice before what was generated."""
    body = _fields(reply.body)
    apart = _items(body.get("prompt"))
    if apart:
        return _logprobs_in(apart[0])
    tokens = _logprobs_in(reply.choice)
    n_prompt = _fields(body.get("usage")).get("prompt_tokens")
    return tokens[: n_prompt if isinstance(n_prompt, int) else len(tokens) - 1]


def _read_prompt_logprobs(reply: Reply) -> list[_Token]:
    """Read `prompt_logprobs`: a list of {id: …}, the token itself first (vLLM), or {"content": […]} (Mistral)."""
    shown = _fields(reply.choice).get("prompt_logprobs") or _fields(reply.body).get("prompt_logprobs")
    if isinstance(shown, dict):
        return _logprobs_in({"logprobs": shown})
    tokens = []
    for entry in _items(shown):
        number, said = next(iter(_fields(entry).items()), ("", {"decoded_token": ""}))
        tokens.append(_token(number, _fields(said).get("decoded_token"), _fields(said).get("logprob")))
    return tokens


_PROMPT_LOGPROBS = {"prompt_logprobs": 0}
_ECHO = {"echo": True, "logprobs": 1}
_ECHO_LAST = {"echo_last": _MORE_THAN_ANY_PROMPT, "logprobs": True}
_OPEN = {"continue_final_message": True, "add_generation_prompt": False}
_WAYS = (
    Way("prompt_logprobs", "chat", _PROMPT_LOGPROBS, _read_prompt_logprobs, going_on=_OPEN),
    Way("prompt_logprobs", "chat", {"prompt_logprobs": True}, _read_prompt_logprobs, message={"prefix": True}),
    Way("echo", "chat", _ECHO, _read_echo),
    Way("echo_last", "chat", _ECHO_LAST, _read_echo),
    Way("prompt_logprobs", "completions", _PROMPT_LOGPROBS, _read_prompt_logprobs),
    Way("echo", "completions", _ECHO, _read_echo),
    Way("echo_last", "completions", _ECHO_LAST, _read_echo),
)


class EndpointScorer:
    """A `Scorer` over HTTP, by the *ways* that were found."""

    def __init__(self, endpoint: Endpoint, ways: Sequence[Way]) -> None:
        self._endpoint = endpoint
        self._ways = {way.path: way for way in ways}

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """
        See `Scorer.log10_probs`. Raises LMUnavailable where the server does not show them.

        Equal continuations are asked for once: servers do not always say the same twice.
        """
        way = self._ways.get("completions" if is_text(prompt) else "chat")
        if way is None:
            kind = "plain text" if is_text(prompt) else "chats"
            raise LMUnavailable(self._endpoint.name, f"shows no log-probabilities of given text for {kind}")
        different = list(dict.fromkeys(continuations))
        found = dict(zip(different, result_of(lambda: self._score(way, prompt, different)), strict=True))
        if any(math.isnan(value) for value in found.values()):
            raise LMUnavailable(self._endpoint.name, "log-probabilities of a given text did not come")
        return [found[continuation] / math.log(10) for continuation in continuations]

    async def _score(self, way: Way, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        async with self._endpoint.session() as session, asyncio.TaskGroup() as group:
            shown: list[str | None] = [None, *continuations]
            tasks = [group.create_task(_tokens(session, way, prompt, given)) for given in shown]
            head, *fulls = [await task for task in tasks]
        return [way.log_prob(head, full) for full in fulls]


async def _tokens(session: Session, way: Way, prompt: Prompt, given: str | None) -> list[_Token]:
    """Return the tokens that the server shows of *prompt* and *given*; none where it shows none."""
    exchange = await session.ask(way.request(prompt, given))
    return [] if exchange.reply.choice is None else way.read(exchange.reply)


def discover(endpoint: Endpoint) -> tuple[Capabilities, tuple[Way, ...]]:
    """Ask *endpoint* neutral text and return what it can do, and the ways to given text. Never raises LMUnavailable."""

    async def work() -> tuple[Capabilities, tuple[Way, ...]]:
        async with endpoint.session() as session:
            return await _Discovery(endpoint, session).run()

    return result_of(work)


class _Discovery:
    """The questions of `discover`, one after the other, and what went wrong."""

    def __init__(self, endpoint: Endpoint, session: Session) -> None:
        self._endpoint, self._session = endpoint, session
        self._notes: list[str] = []

    async def run(self) -> tuple[Capabilities, tuple[Way, ...]]:
        listed = _is_listed(await self._asked(Request("models")), self._endpoint.model)
        if not self._endpoint.reached:
            return Capabilities(reachable=False, notes=tuple(self._notes)), ()
        question = text_in(_QUESTION[0])
        chat, chat_logprobs = await self._generates(Request("chat", list(_QUESTION), {"logprobs": True}))
        text, text_logprobs = await self._generates(Request("completions", question, {"logprobs": 1}))
        if not self._endpoint.takes_temperature:
            self._notes.append("no temperature is taken: answers come at the server's own")
        can = {"chat": chat, "completions": text}
        ways = [way for path in ("chat", "completions") if can[path] for way in await self._way(path)]
        capabilities = Capabilities(
            reachable=True,
            model_listed=listed,
            chat=chat,
            completions=text,
            logprobs=chat_logprobs or text_logprobs,
            given_text=ways[0].kind if ways else "none",
            given_text_paths=tuple(way.path for way in ways),
            notes=tuple(dict.fromkeys(self._notes)),
        )
        return capabilities, tuple(ways)

    async def _asked(self, request: Request) -> Reply:
        try:
            return (await self._session.ask(request)).reply
        except LMUnavailable as error:
            self._notes.append(error.reason)
            return Reply(trouble=error.reason)

    async def _generates(self, request: Request) -> tuple[bool, bool]:
        """Return whether an answer comes, and whether its log-probabilities do."""
        plain = {"max_tokens": 1, "temperature": 0.0}
        reply = await self._asked(replace(request, parameters={**plain, **request.parameters}))
        if reply.choice is not None:
            return True, bool(_logprobs_in(reply.choice))
        reply = await self._asked(replace(request, parameters=plain))
        if reply.choice is None:
            self._notes.append(f"{request.path}: {self._endpoint.hidden(reply.reason)}")
        return reply.choice is not None, False

    async def _way(self, path: str) -> list[Way]:
        """Return the first way at *path* by which the neutral statement shows, if any."""
        for way in (way for way in _WAYS if way.path == path):
            try:
                full = await _tokens(self._session, way, _QUESTION, _STATEMENT)
                head = await _tokens(self._session, way, _QUESTION, None) if full else []
            except LMUnavailable as error:
                self._notes.append(error.reason)
                continue
            found = way.checked(head, full)
            if found:
                return [found]
        return []


def _is_listed(reply: Reply, model: str) -> bool | None:
    listed = _fields(reply.body).get("data") if reply.ok else None
    if not isinstance(listed, list):
        return None
    return model in [entry.get("id") for entry in listed if isinstance(entry, dict)]
