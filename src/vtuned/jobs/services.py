"""
Services by kind: `connected("openai", …)`.

The name table maps a kind to "module:function"; a module is imported, and its vendor's package with it, on use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from vtuned.errors import UsageError
from vtuned.jobs.base import Exchange, FineTuningService, OnExchange
from vtuned.lm import addresses
from vtuned.lm.endpoint_access import DEFAULT_URL, KEY_VARIABLE
from vtuned.lm.endpoint_pace import Retries

KINDS = {
    "openai": "vtuned.jobs.services:_openai",
    "together": "vtuned.jobs.together:connected",
    "fireworks": "vtuned.jobs.fireworks:connected",
}
KEY_VARIABLES = {"openai": KEY_VARIABLE, "together": "TOGETHER_API_KEY", "fireworks": "FIREWORKS_API_KEY"}
DEFAULT_URLS = {"openai": DEFAULT_URL, "together": "https://api.together.ai", "fireworks": "https://api.fireworks.ai"}
_PATIENT = Retries(tries=6, tries_to_connect=3, patience_s=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """
    How a service is reached.

    *base_url* (None: the environment's, else the vendor's own), the name of the environment's variable that holds the key
    (None: the usual one of the kind), *timeout_s* for each request, and how many bytes one request may carry
    (*parts_above*, None: what the address is known for).
    """

    base_url: str | None = field(default=None, repr=False)
    key_variable: str | None = None
    timeout_s: float = 120.0
    parts_above: int | None = None
    retries: Retries = _PATIENT


def connected(kind: str, connection: Connection, *, on_exchange: OnExchange | None = None) -> FineTuningService:
    """
    Return the service; nothing is sent yet. *on_exchange* gets every exchange, for the journal.

    Raises UsageError for an unknown kind or a bad address, LMUnavailable without a key where one is needed, MissingExtra
    where the vendor's package is not installed.
    """
    _check_known(kind)
    module, _, function = KINDS[kind].partition(":")
    service: FineTuningService = getattr(import_module(module), function)(connection, on_exchange or _forget)
    return service


def host_of(kind: str, base_url: str | None) -> str:
    """Return the host that requests would go to; no key is needed. Raises UsageError as `connected` does."""
    _check_known(kind)
    chosen = base_url or (os.environ.get("OPENAI_BASE_URL") if kind == "openai" else None) or DEFAULT_URLS[kind]
    return (urlsplit(addresses.checked(chosen.strip())).hostname or "").lower()


def _check_known(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"unknown service {kind!r}", hint=f"known: {', '.join(KINDS)}; or adopt an endpoint")


def _forget(exchange: Exchange) -> None:
    """Keep nothing: there is no run to keep it in."""


def _openai(connection: Connection, on_exchange: OnExchange) -> Any:
    from vtuned.jobs.openai import NAME, OpenAIService
    from vtuned.lm.endpoint_access import access_to

    variable = connection.key_variable or KEY_VARIABLES[NAME]
    return OpenAIService(
        access_to(NAME, connection.base_url, None, variable=variable),
        retries=connection.retries,
        timeout_s=connection.timeout_s,
        on_exchange=on_exchange,
        parts_above=connection.parts_above,
    )
