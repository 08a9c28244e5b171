"""
How an OpenAI-compatible address is reached: its URL, its key, and what of them must not be shown.

Knows nothing of requests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtuned.errors import LMUnavailable, UsageError
from vtuned.lm import addresses

DEFAULT_URL = "https://api.openai.com/v1"
NO_KEY = "none"
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class Access:
    """
    An address and the key for it.

    *url* has no query; *host* and *address* are what may be shown of it: see `vtuned.lm.addresses`. *secrets* are what no
    text may hold, longest first, each with what stands for it.
    """

    url: str = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    key: str = field(repr=False)
    host: str
    address: str
    secrets: tuple[tuple[str, str], ...] = field(repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, of which a proxy of the environment knows nothing."""
        return addresses.is_loopback(self.url)

    def hidden(self, text: str) -> str:
        """Return *text* without the key and what is secret in the address. Short keys ("EMPTY") are words."""
        for secret, sign in self.secrets:
            text = text.replace(secret, sign)
        return text

    def arguments(self) -> dict[str, Any]:
        """Return what `openai.OpenAI` and `openai.AsyncOpenAI` are told. Their own retries are off."""
        return {"api_key": self.key, "base_url": self.url, "default_query": dict(self.query), "max_retries": 0}


def access_to(
    name: str, base_url: str | None, api_key: str | None, *, variable: str = KEY_VARIABLE, model: str = ""
) -> Access:
    """
    Return how *base_url* (None: the environment's OPENAI_BASE_URL, else OpenAI) is reached.

    The key is *api_key*, or else what the environment's *variable* holds. The name of a *model* is no secret, even where
    the address repeats it. Raises LMUnavailable, about *name*, where a key is needed and none is given, UsageError for
    a bad one or a bad address.
    """
    full = addresses.checked((base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).strip())
    url, query = addresses.split_query(full)
    key = _key(api_key, full, name, variable)
    hidden = tuple((secret, sign) for secret, sign in _secrets(key, full) if secret != model)
    return Access(url, query, key, addresses.place_of(full), addresses.shown(full) or addresses.place_of(full), hidden)


def _key(api_key: str | None, url: str, name: str, variable: str) -> str:
    key = (api_key or os.environ.get(variable) or "").strip()
    if not key and addresses.is_loopback(url):
        return NO_KEY
    if not key:
        raise LMUnavailable(name, "no API key", hint=f"set {variable} (any word where the server wants none)")
    if not (key.isascii() and key.isprintable()):
        raise UsageError("the API key holds characters that no header can carry", hint="copy it again")
    return key


def _secrets(key: str, url: str) -> list[tuple[str, str]]:
    found = dict.fromkeys(addresses.secrets_in(url), "[hidden]")
    if len(key) >= addresses.SHORTEST_SECRET:
        found[key] = "[key]"
    return sorted(found.items(), key=lambda pair: len(pair[0]), reverse=True)
