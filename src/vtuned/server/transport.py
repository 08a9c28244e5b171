"""Requests on their way: each is logged in one line, and fails where the policy says so. Pure ASGI."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtuned.attacks.policies import Fault
from vtuned.server.refusals import error_body

LOG = logging.getLogger("vtuned.server")
_LONGEST_PATH = 200
_SLICES = 5


class Logged:
    """
    Log method, path, status, time, tenant and request id of each request; refusals as warnings.

    Nothing that a request carries is logged, neither its query nor its headers: they hold what tenants send.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier, start, status = f"req_{secrets.token_hex(8)}", time.monotonic(), 0

        async def telling(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = identifier
            await send(message)

        try:
            await self._app(scope, receive, telling)
        finally:
            tenant = scope.get("state", {}).get("tenant") or "-"
            milliseconds = round((time.monotonic() - start) * 1000)
            level = logging.WARNING if status >= 400 or not status else logging.INFO
            LOG.log(
                level,
                "%s %s %s %d ms tenant %s %s%s",
                scope["method"],
                _shown(scope["path"]),
                status or "closed",
                milliseconds,
                tenant[:8],
                identifier,
                " refused" if 400 <= status < 500 else "",
            )


def _shown(path: str) -> str:
    return path[:_LONGEST_PATH].encode("unicode_escape").decode("ascii").replace(" ", "%20")


class Faulty:
    """
    Let requests to /v1 fail as *fault* says of each, by how many came before it.

    "truncated" and "slow" requests are worked on before they fail: whoever asks again may ask for what is done already.
    """

    def __init__(self, app: ASGIApp, *, fault: Callable[[int], Fault | None], count: Callable[[], int]) -> None:
        self._app, self._fault, self._count = app, fault, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_ours = scope["type"] == "http" and scope["path"].startswith("/v1")
        fault = self._fault(await asyncio.to_thread(self._count)) if is_ours else None
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "timeout":
            await asyncio.sleep(fault.seconds)
            await _closed(send)
        elif fault.kind in ("429", "500"):
            headers = {"Retry-After": str(max(1, round(fault.seconds)))} if fault.kind == "429" else {}
            body = error_body(int(fault.kind), "The server is busy." if headers else "The server had an error.")
            await JSONResponse(body, int(fault.kind), headers=headers)(scope, receive, send)
        elif fault.kind == "truncated":
            await self._app(scope, receive, _Truncating(send).send)
        else:
            await self._app(scope, receive, _Slow(send, fault.seconds).send)


async def _closed(send: Send) -> None:
    """Announce an answer that does not come: the server then closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


class _Truncating:
    """Sends a whole body's first half, and of a stream the first piece."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: dict[str, Any] = {}
        self._is_over = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = dict(message)
        elif not self._is_over:
            self._is_over = True
            body = message.get("body", b"")
            half = body if message.get("more_body") else body[: len(body) // 2]
            headers = MutableHeaders(raw=list(self._start["headers"]))
            headers["content-length"] = str(len(half))
            await self._send({**self._start, "headers": headers.raw})
            await self._send({"type": "http.response.body", "body": half, "more_body": False})


class _Slow:
    """Sends everything, in slices with pauses that take *seconds* together."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._pause, self._n_left = send, seconds / _SLICES, _SLICES

    async def send(self, message: Message) -> None:
        body, is_more = message.get("body", b""), message.get("more_body", False)
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        size = max(1, -(-len(body) // _SLICES)) if not is_more else max(1, len(body))
        for start in range(0, max(1, len(body)), size):
            if self._n_left:
                self._n_left -= 1
                await asyncio.sleep(self._pause)
            last = start + size >= len(body)
            part = {"type": "http.response.body", "body": body[start : start + size], "more_body": is_more or not last}
            await self._send(part)
