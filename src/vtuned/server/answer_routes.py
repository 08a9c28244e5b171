"""`/v1/models`, `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vtuned.conversation import text_in
from vtuned.server import answer_objects as shown
from vtuned.server import objects, records, room
from vtuned.server.answering import (
    Asked,
    Piece,
    asked,
    chat_prompt,
    echoed,
    pieces_of,
    prompt_tokens,
    rendered,
    text_prompt,
    whole,
)
from vtuned.server.orders import ChatOrder, CompletionOrder
from vtuned.server.refusals import Refusal, invalid, not_found
from vtuned.server.serving import Served
from vtuned.server.state import State, state_of, tenant_of
from vtuned.server.store import now

router = APIRouter(prefix="/v1")

_T = TypeVar("_T")
# Answers wait for each other anyway; apart from the threads that serve files and jobs.
_MOST_AT_ONCE = 64
_DEFAULT_COMPLETION = 16


@router.get("/models")
def list_models(request: Request) -> dict[str, Any]:
    """List the base models and the tenant's own tuned ones."""
    state, tenant = state_of(request), tenant_of(request)
    bases = [objects.base_object(name, state.started) for name in state.models.bases]
    tuned = [objects.model_object(model) for model in state.store.all(records.Model, tenant=tenant)]
    return {"object": "list", "data": [*bases, *tuned]}


@router.get("/models/{model:path}")
def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """Show one model."""
    state = state_of(request)
    if state.models.spec(model) is not None:
        return objects.base_object(model, state.started)
    return objects.model_object(_own(request, model))


@router.delete("/models/{model:path}")
def delete_model(request: Request, model: str) -> dict[str, Any]:
    """Delete one of the tenant's own models. What was trained goes with the last model of its job."""
    state = state_of(request)
    if state.models.spec(model) is not None:
        raise Refusal(403, "A base model cannot be deleted.", code="not_yours")
    own = _own(request, model)
    state.store.remove(records.Model, own.id)
    state.models.forget(own.id)
    if own.folder:
        state.home.drop(own.folder)
    room.release(state.home, state.store, own.job)
    return {"id": own.id, "object": "model", "deleted": True}


def _own(request: Request, name: str) -> records.Model:
    found = state_of(request).models.record(tenant_of(request), name)
    if found is None:
        raise not_found("model", name)
    return found


@router.post("/chat/completions")
async def chat(request: Request, order: ChatOrder) -> Response:
    """Answer a chat."""
    order.check()
    state, tenant = state_of(request), tenant_of(request)
    served = await _threaded(request, partial(state.models.served, tenant, order.model))
    prompt = chat_prompt(order.messages, order.tools)
    n_likeliest = (order.top_logprobs or 0) if order.logprobs else None

    def prepared() -> Asked:
        return asked(
            served, prompt, n_tokens=order.n_tokens, temperature=order.heat, stops=order.stops, n_likeliest=n_likeliest
        )

    question = await _threaded(request, prepared)
    start = (f"chatcmpl-{secrets.token_hex(12)}", now(), order.model)
    if order.stream:
        events = _chat_stream(request, state, served, question, order, start)
        return StreamingResponse(events, media_type="text/event-stream")

    def answered() -> dict[str, Any]:
        _count(state, served)
        # A prompt whose tokens are wanted is a question about given text; the answer is one token, or what was asked.
        tokens = None
        if order.prompt_logprobs is not None:
            *before, last = order.messages
            if order.continue_final_message:
                text = text_in({"role": "assistant", "content": last.model_dump(mode="json")["content"]})
                tokens = prompt_tokens(served, chat_prompt(before, order.tools), text, order.prompt_logprobs)
            else:
                tokens = prompt_tokens(served, prompt, None, order.prompt_logprobs)
        piece = Piece("", finish="length") if order.continue_final_message else whole(served, question)
        body = shown.chat_completion(
            *start, piece, with_logprobs=n_likeliest is not None, n_prompt=len(question.tokens)
        )
        return body if tokens is None else {**body, "prompt_logprobs": shown.prompt_logprobs(tokens)}

    return JSONResponse(await _threaded(request, answered))


async def _chat_stream(
    request: Request, state: State, served: Served, question: Asked, order: ChatOrder, start: tuple[str, int, str]
) -> AsyncIterator[str]:
    yield _event(shown.chat_chunk(*start, {"role": "assistant", "content": ""}))
    n_tokens = 0
    await _threaded(request, partial(_count, state, served))
    async for piece in _pieces(request, pieces_of(served, question)):
        delta = {"content": piece.text} if piece.text else {}
        if piece.refusal:
            delta["refusal"] = piece.refusal
        n_tokens = piece.n_tokens
        yield _event(shown.chat_chunk(*start, delta, piece, with_logprobs=question.n_likeliest is not None))
    if order.tells_usage:
        chunk = shown.chat_chunk(*start, {})
        yield _event({**chunk, "choices": [], "usage": shown.usage(len(question.tokens), n_tokens)})
    yield "data: [DONE]\n\n"


@router.post("/completions")
async def complete(request: Request, order: CompletionOrder) -> Response:
    """Go on with plain text."""
    order.check()
    state, tenant = state_of(request), tenant_of(request)
    served = await _threaded(request, partial(state.models.served, tenant, order.model))
    start = (f"cmpl-{secrets.token_hex(12)}", now(), order.model)
    if order.stream:
        question = await _threaded(request, partial(_text_asked, served, order, order.prompts[0]))
        events = _text_stream(request, state, served, question, order, start)
        return StreamingResponse(events, media_type="text/event-stream")

    def answered() -> dict[str, Any]:
        choices, n_prompt, n_answer = [], 0, 0
        for index, text in enumerate(order.prompts):
            choice, counts = _text_choice(state, served, order, index, text)
            choices.append(choice)
            n_prompt, n_answer = n_prompt + counts[0], n_answer + counts[1]
        return shown.text_completion(*start, choices, shown.usage(n_prompt, n_answer))

    return JSONResponse(await _threaded(request, answered))


def _text_asked(served: Served, order: CompletionOrder, text: str) -> Asked:
    _check_text(text)
    return asked(
        served,
        text_prompt(text),
        n_tokens=_DEFAULT_COMPLETION if order.max_tokens is None else order.max_tokens,
        temperature=order.heat,
        stops=order.stops,
        n_likeliest=order.logprobs,
    )


def _text_choice(
    state: State, served: Served, order: CompletionOrder, index: int, text: str
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return one choice, and how many tokens its prompt and its answer have."""
    n_scored = order.logprobs if order.echo else None
    if order.max_tokens == 0:
        _check_text(text)
        piece, tokens = Piece("", finish="length"), rendered(served, text_prompt(text))
        if n_scored is not None:
            _count(state, served)
    else:
        question = _text_asked(served, order, text)
        _count(state, served)
        piece, tokens = whole(served, question), question.tokens
    before = echoed(served, tokens, n_scored) if n_scored is not None else []
    logprobs = shown.text_logprobs([*before, *piece.tokens]) if order.logprobs is not None else None
    said = (text if order.echo else "") + piece.text
    return shown.text_choice(index, said, piece.finish, logprobs), (len(tokens), piece.n_tokens)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid("The prompt holds half a surrogate pair.", "prompt") from error


async def _text_stream(
    request: Request, state: State, served: Served, question: Asked, order: CompletionOrder, start: tuple[str, int, str]
) -> AsyncIterator[str]:
    n_tokens, n_said = 0, 0
    await _threaded(request, partial(_count, state, served))
    async for piece in _pieces(request, pieces_of(served, question)):
        logprobs = shown.text_logprobs(piece.tokens) if question.n_likeliest is not None and piece.tokens else None
        if logprobs is not None:
            logprobs["text_offset"] = [at + n_said for at in logprobs["text_offset"]]
        n_tokens, n_said = piece.n_tokens, n_said + len(piece.text)
        choice = shown.text_choice(0, piece.text, piece.finish, logprobs)
        yield _event(shown.text_completion(*start, [choice], None))
    if order.tells_usage:
        yield _event(shown.text_completion(*start, [], shown.usage(len(question.tokens), n_tokens)))
    yield "data: [DONE]\n\n"


def _count(state: State, served: Served) -> None:
    """
    Note that a tuned model is about to answer a prompt or to score a text.

    Before it does: a client that goes away, or a server that dies, has asked all the same, and a policy that counts what
    it answers goes on from here.
    """
    if served.name:
        state.store.count_answers(served.name, 1)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"


async def _pieces(request: Request, pieces: Iterator[Piece]) -> AsyncIterator[Piece]:
    """Yield *pieces*, each made in a thread."""
    while (piece := await _threaded(request, partial(next, pieces, None))) is not None:
        yield piece


async def _threaded(request: Request, work: Callable[[], _T]) -> _T:
    """Return what *work* returns, from a thread: the event loop goes on."""
    app = request.app
    limiter = getattr(app.state, "limiter", None)
    if limiter is None:
        limiter = app.state.limiter = CapacityLimiter(_MOST_AT_ONCE)
    return await anyio.to_thread.run_sync(work, limiter=limiter)
