"""Keeps keys out of what is shown: only what of an address may be shown, and nothing that a message let slip."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from vtuned.doctor.checks import Check
from vtuned.lm.options import LoadOptions

KEYS = (
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "TOGETHER_API_KEY",
    "FIREWORKS_API_KEY",
    "MISTRAL_API_KEY",
    "HF_TOKEN",
)
# Shorter values are no keys, but words that a message may hold by chance.
_LEAST_SECRET = 8
_PLAIN_PATH = re.compile(r"(?:/[a-z]{1,12}|/v\d{1,2}[a-z0-9]{0,6}){0,4}/?")


def redacted(url: str) -> str:
    """Return of *url* what may be shown: never a user, a password or a query. "" where it is no http(s) address."""
    try:
        parts = urlsplit(url)
        readable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return ""
    if not readable or "@" in parts.path + parts.query + parts.fragment:
        return ""
    user = "…@" if "@" in parts.netloc else ""
    path = parts.path if _PLAIN_PATH.fullmatch(parts.path) else "/…"
    rest = "?…" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{path}{rest}"


def secrets(options: LoadOptions, address: str) -> list[str]:
    """Return what no message may hold, longest first: keys, and what an address carries beside the place."""
    values = [os.environ.get(name, "") for name in KEYS] + [options.api_key or ""]
    for url in (address, os.environ.get("OPENAI_BASE_URL") or ""):
        try:
            parts = urlsplit(url)
        except ValueError:
            values.append(url)
            continue
        values += [parts.netloc.rpartition("@")[0], parts.username or "", parts.password or "", parts.query]
    stripped = {value.strip() for value in values}
    return sorted((value for value in stripped if len(value) >= _LEAST_SECRET), key=len, reverse=True)


def scrubbed(check: Check, secrets: Sequence[str]) -> Check:
    """Return *check* without any of *secrets*, wherever a message of others may have put one."""
    return Check.model_validate(_without(check.model_dump(), secrets))


def _without(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[hidden]")
        return value
    if isinstance(value, dict):
        return {key: _without(inner, secrets) for key, inner in value.items()}
    return [_without(inner, secrets) for inner in value] if isinstance(value, list | tuple) else value
