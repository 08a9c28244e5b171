"""
The frozen, validated records that leave the process as JSON, and the way they are read back.

Knows nothing of what they mean. A record refuses unknown keys, and errors about one name the place, never the value:
values may be secrets.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, WithJsonSchema


class Record(BaseModel):
    """An immutable record with exactly its own keys."""

    # A command uses few of the records that it imports: each is built when it is first used.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, defer_build=True
    )


def _read_fraction(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (str, int, Fraction)):
        raise ValueError("a fraction is written as a string such as '1/10'")
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError("a fraction is written as a string such as '1/10'") from None


ExactFraction = Annotated[
    Fraction,
    BeforeValidator(_read_fraction),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?\d+(/\d+)?$"}),
]

AnyRecord = TypeVar("AnyRecord", bound=Record)


def read(kind: type[AnyRecord], data: bytes) -> AnyRecord:
    """Return the record in *data* (JSON). Raises ValueError that says which key is wrong and how, never its value."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        # Messages of our own validators may be shown; pydantic's hold no input because the records hide it.
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of *content* as canonical JSON: sorted keys, no spaces."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
