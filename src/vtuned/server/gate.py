"""
The gate before the routes: who comes in, and how much.

Pure ASGI: a body is looked at before anything is made of it, and not at all where nobody may come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import numpy as np
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtuned.server import room
from vtuned.server.refusals import Refusal
from vtuned.server.tenants import Tenants

MAX_JSON_BYTES = 4 << 20
MAX_JSON_DEPTH = 64
# What a form needs beside the bytes of its file.
_FORM_BYTES = 1 << 16
_PREFIX = "/v1"
# Where a form is taken apart as it comes; anywhere else a body is held in memory.
_FORMS = re.compile(r"/v1/(files|uploads/[^/]+/parts)")
# By how much a byte of JSON, outside strings, goes deeper.
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_DRAIN_BYTES = 16 << 20
_DRAIN_S = 2.0


class Gate:
    """
    Let requests to /v1 in that carry a known bearer token, with bodies within the limits.

    *may_come* says how many bytes of files a tenant may send, by the Idempotency-Key that comes with them.
    """

    def __init__(
        self, app: ASGIApp, *, tenants: Tenants, max_file_bytes: int, may_come: Callable[[str, str | None], int]
    ) -> None:
        self._app, self._tenants, self._max_file_bytes = app, tenants, max_file_bytes
        self._may_come = may_come

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reading = _Reading(receive)
        try:
            headers = Headers(scope=scope)
            tenant = ""
            if scope["path"].startswith(_PREFIX):
                tenant = scope.setdefault("state", {})["tenant"] = self._tenant(headers)
            inner = await self._checked(tenant, scope["path"], headers, reading.receive)
        except Refusal as refusal:
            await reading.drain()
            close = {"Connection": "close", "WWW-Authenticate": "Bearer"} if refusal.status_code == 401 else {}
            response = JSONResponse(refusal.body(), refusal.status_code, headers=close or {"Connection": "close"})
            await response(scope, reading.receive, send)
            return
        await self._app(scope, inner, send)

    def _tenant(self, headers: Headers) -> str:
        tenant = self._tenants.of(headers.get("authorization", ""))
        if tenant is None:
            raise Refusal(401, "Send a known token as `Authorization: Bearer TOKEN`.", code="invalid_api_key")
        return tenant

    async def _checked(self, tenant: str, path: str, headers: Headers, receive: Receive) -> Receive:
        """Return where the body may be read from. Raises Refusal for one that is too large or too deep."""
        is_form = bool(_FORMS.fullmatch(path)) and headers.get("content-type", "").lower().startswith(
            "multipart/form-data"
        )
        limit = self._max_file_bytes + _FORM_BYTES if is_form else MAX_JSON_BYTES
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > limit:
            raise _too_large(limit)
        if is_form:
            left = await anyio.to_thread.run_sync(self._may_come, tenant, headers.get("idempotency-key"))
            over = _too_large(limit) if left >= self._max_file_bytes else room.full()
            limit = min(limit, left + _FORM_BYTES)
            if int(length) > limit:
                raise over
            return _counted(receive, limit, over)
        body = await _body(receive, limit)
        if depth_of(body) > MAX_JSON_DEPTH:
            raise Refusal(400, f"The JSON is nested deeper than {MAX_JSON_DEPTH}.", code="json_too_deep")
        return _replayed(body, receive)


def depth_of(body: bytes) -> int:
    """Return how deep brackets and braces nest in JSON text, those in strings left out."""
    # Between quotes that no backslash precedes, every other piece is a string.
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = np.frombuffer(b"".join(text.split(b'"')[::2]), dtype=np.uint8)
    return int(np.cumsum(_STEPS[outside], dtype=np.int64).max(initial=0))


async def _body(receive: Receive, limit: int) -> bytes:
    chunks, n_bytes, is_more = [], 0, True
    while is_more:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        n_bytes += len(chunks[-1])
        if n_bytes > limit:
            raise _too_large(limit)
        is_more = message.get("more_body", False)
    return b"".join(chunks)


class _Reading:
    """A body on its way, and whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._is_over = receive, False

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_over = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """
        Read on for a moment, and drop what comes: who still sends would not see an answer on a connection that closes.

        Of what is larger or slower, nothing more is read.
        """
        n_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self._is_over and n_bytes < _DRAIN_BYTES:
                    n_bytes += len((await self.receive()).get("body", b""))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give *body* once, then what else the client says: that it is gone."""
    is_told = False

    async def replay() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _counted(receive: Receive, limit: int, over: Refusal) -> Receive:
    """Pass a body on up to *limit* bytes; the receiver raises *over* at what goes over it."""
    n_bytes = 0

    async def count() -> Message:
        nonlocal n_bytes
        message: dict[str, Any] = dict(await receive())
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit:
            raise over
        return message

    return count


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, f"The request is larger than the {limit} bytes that this server takes.", code="request_too_large"
    )
