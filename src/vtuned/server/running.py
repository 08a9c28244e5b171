"""A server on an address, until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import uvicorn

from vtuned.errors import UsageError
from vtuned.server.app import Settings, application
from vtuned.server.home import Home, only_one

_SHUTDOWN_S = 5
_BACKLOG = 128


def serve(settings: Settings, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """
    Serve until SIGINT or SIGTERM; *on_ready* is called with the base URL once requests are taken.

    Port 0 is any free one. Raises UsageError where the address cannot be had, OutputNotWritable where another server
    works in the folder, and what `application` raises.
    """
    home = Home.made(settings.data)
    with only_one(home.root / "server.lock"), contextlib.closing(_listening(host, port)) as listener:
        config = uvicorn.Config(
            application(settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        # What it says of connections that clients drop, and of ours that fail on purpose, is in our own lines.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server = _Server(config, lambda: on_ready(_url(host, listener.getsockname()[1])))
        with _ending_on_sigterm():
            server.run(sockets=[listener])


class _Terminated(BaseException):
    """SIGTERM came: the server ends as asked."""


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """End the block, in order, when SIGTERM comes: uvicorn raises it again once it is done."""

    def end(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        with contextlib.suppress(_Terminated):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches *host*."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(uvicorn.Server):
    """Tells when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"no such address: {host}", hint="give --host 127.0.0.1") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use", hint="give another --port, or 0 for any free one") from error
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror}", hint="give another --host or --port"
        ) from error
    return listener


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
