"""A local HTTP server that speaks the OpenAI dialect and goes wrong in every way that it is told to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

# A step gets the handler of one request and responds, or does not; it returns whether it gave a usable answer.
Step = Callable[["_Handler"], bool]


@dataclass
class Received:
    """A request as it came: when, where to, with what; and whether it was given a usable answer."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)
    answered: bool = False

    @property
    def text(self) -> str:
        """The prompt, or the text of the last user message."""
        if "prompt" in self.body:
            return self.body["prompt"]
        contents = [m["content"] for m in self.body.get("messages", ()) if m["role"] == "user"]
        return contents[-1] if contents else ""


class FaultyServer:
    """
    A server with a *script*: for each prompt the steps that it meets, one a time; the last one stays.

    Prompts that are not in the script get *otherwise*. `received` is every request, in order; `n_running_most` is how
    many were under way at a time.
    """

    def __init__(
        self, script: Mapping[str, Sequence[Step]] | None = None, *, otherwise: Sequence[Step] | None = None
    ) -> None:
        self._script = dict(script or {})
        self._otherwise = otherwise or [say("It is blue today.")]
        self._lock = threading.Lock()
        self.received: list[Received] = []
        self.models = ["tiny"]
        self.n_running = self.n_running_most = 0
        self.ending = threading.Event()

    def __enter__(self) -> Self:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def asked(self, text: str) -> list[Received]:
        """Return the requests with the prompt *text*."""
        return [received for received in self.received if received.text == text]

    @property
    def asked_again_after_an_answer(self) -> list[str]:
        """The prompts that came again though they had been answered."""
        seen: set[str] = set()
        again = []
        for received in self.received:
            if received.text in seen:
                again.append(received.text)
            if received.answered:
                seen.add(received.text)
        return again

    def step(self, received: Received) -> Step:
        """Note *received* and return what to do about it."""
        with self._lock:
            n_before = len(self.asked(received.text))
            self.received.append(received)
            self.n_running += 1
            self.n_running_most = max(self.n_running_most, self.n_running)
            steps = self._script.get(received.text, self._otherwise)
            return steps[min(n_before, len(steps) - 1)]

    def left(self) -> None:
        """Note that a request is over."""
        with self._lock:
            self.n_running -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: FaultyServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: clients go away on purpose here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    received: Received

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model"} for name in self.server.owner.models]
        self.respond(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.received = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        step = self.server.owner.step(self.received)
        try:
            self.received.answered = step(self)
        finally:
            self.server.owner.left()

    def respond(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        """Send *body* as JSON, or as it is where it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        sent = {"content-type": "application/json", "content-length": str(len(data)), "x-request-id": "req-7"}
        for name, value in {**sent, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def response_of(path: str, text: str | None, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Return a response object as the endpoint at *path* gives it."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if path.endswith("/chat/completions"):
        choice["message"] = {"role": "assistant", "content": text, **message}
    else:
        choice["text"] = text
    return {"id": "cmpl-1", "model": "tiny-0", "system_fingerprint": "fp-1", "choices": [choice], "usage": {}}


def say(text: str | None, finish: str | None = "stop", *, after_s: float = 0.0, **message: Any) -> Step:
    """Answer with *text*."""

    def step(handler: _Handler) -> bool:
        time.sleep(after_s)
        handler.respond(200, response_of(handler.path, text, finish, **message))
        return True

    return step


def body(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Step:
    """Respond with *content* (JSON, or bytes as they are), which is no usable answer."""

    def step(handler: _Handler) -> bool:
        handler.respond(status, content, headers)
        return False

    return step


def error(status: int, code: str | None = None, message: str = "no", headers: Any = None, **more: Any) -> Step:
    """Respond with an error object."""
    return body({"error": {"message": message, "code": code, "param": None, **more}}, status, headers)


def drip(text: str, pause_s: float) -> Step:
    """Answer with *text*, a few bytes at a time."""

    def step(handler: _Handler) -> bool:
        data = json.dumps(response_of(handler.path, text)).encode()
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        for start in range(0, len(data), 16):
            handler.wfile.write(data[start : start + 16])
            handler.wfile.flush()
            if handler.server.owner.ending.wait(pause_s):
                return False
        return True

    return step


def cut_short() -> Step:
    """Promise more bytes than come, then close."""

    def step(handler: _Handler) -> bool:
        data = json.dumps(response_of(handler.path, "It is blue today.")).encode()
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.close_connection = True
        return False

    return step


def reset() -> Step:
    """Reset the connection without a response."""

    def step(handler: _Handler) -> bool:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
        return False

    return step


def hang() -> Step:
    """Say nothing until the server ends."""

    def step(handler: _Handler) -> bool:
        handler.server.owner.ending.wait()
        return False

    return step


def wants(parameter: str, refused: str, then: Step, message: str = "") -> Step:
    """Refuse requests that hold *refused*, as OpenAI does; else do *then*."""
    told = message or f"Unsupported parameter: '{refused}' is not supported with this model. Use '{parameter}' instead."

    def step(handler: _Handler) -> bool:
        if refused in handler.received.body:
            return error(400, "unsupported_parameter", told, param=refused)(handler)
        return then(handler)

    return step
