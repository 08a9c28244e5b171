"""What the routes of one server share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from vtuned.server.home import Home
from vtuned.server.serving import Models
from vtuned.server.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    A server: its *home* and *store*, the *models* that it serves, and its limits.

    *policy* is written as on the command line and goes with every new job. *wake* tells the queue that something
    changed. Whoever looks whether there is room for files or jobs, and then takes it, holds *taking_room*
    meanwhile. *joining* are the uploads whose parts are being made a file, or dropped.
    """

    home: Home
    store: Store
    models: Models
    policy: str
    started: int
    max_file_bytes: int
    max_tenant_bytes: int
    max_unfinished: int
    wake: Callable[[], None]
    taking_room: threading.Lock = field(default_factory=threading.Lock)
    joining: set[str] = field(default_factory=set)


def state_of(request: Request) -> State:
    """Return the state of the server that *request* came to."""
    state: State = request.app.state.server
    return state


def tenant_of(request: Request) -> str:
    """Return who asks; `vtuned.server.gate` has let nobody else in."""
    tenant: str = request.state.tenant
    return tenant
