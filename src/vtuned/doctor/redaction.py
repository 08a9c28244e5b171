"""Keeps keys and the secret parts of addresses out of what is shown, whatever message let them slip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vtuned.doctor.checks import Check
from vtuned.lm import addresses
from vtuned.lm.options import LoadOptions

KEYS = (
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "TOGETHER_API_KEY",
    "FIREWORKS_API_KEY",
    "MISTRAL_API_KEY",
    "HF_TOKEN",
)


def secrets(options: LoadOptions, address: str) -> list[str]:
    """Return what no message may hold, longest first: keys, and what an address carries beside the place."""
    values = [os.environ.get(name, "") for name in KEYS] + [options.api_key or ""]
    for url in (address, os.environ.get("OPENAI_BASE_URL") or ""):
        values += addresses.secrets_in(url)
    stripped = {value.strip() for value in values}
    return sorted((value for value in stripped if len(value) >= addresses.SHORTEST_SECRET), key=len, reverse=True)


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
