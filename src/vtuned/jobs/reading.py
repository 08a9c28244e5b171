"""
What services of the OpenAI protocol send, read leniently into our records.

Pure. Unknown keys are passed over; what is missing is None; nothing here trusts a type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from vtuned.jobs.base import Checkpoint, Event, Job, RemoteFile

_LONGEST_ID = 512


class Unreadable(ValueError):
    """A reply without what makes it one."""


def items_of(body: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a page. Raises Unreadable."""
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        raise Unreadable("no list in it")
    return [item for item in data if isinstance(item, dict)]


def job_of(body: Any) -> Job:
    """Return the job in *body*. Raises Unreadable."""
    found = _mapping(body)
    error = _mapping(found.get("error"))
    metadata = _mapping(found.get("metadata"))
    return Job(
        id=id_of(found),
        status=text_at(found, "status") or "unknown",
        model=text_at(found, "model"),
        fine_tuned_model=text_at(found, "fine_tuned_model"),
        training_file=text_at(found, "training_file"),
        error_code=text_at(error, "code"),
        error_param=text_at(error, "param"),
        error_message=text_at(error, "message"),
        created_at=integer_at(found, "created_at"),
        finished_at=integer_at(found, "finished_at"),
        estimated_finish=integer_at(found, "estimated_finish"),
        trained_tokens=integer_at(found, "trained_tokens"),
        suffix=text_at(found, "suffix") or text_at(found, "user_provided_suffix"),
        metadata={str(key): value for key, value in metadata.items() if isinstance(value, str)},
    )


def event_of(body: Any) -> Event:
    """Return the event in *body*. Raises Unreadable."""
    found = _mapping(body)
    return Event(
        id=id_of(found),
        created_at=integer_at(found, "created_at"),
        level=text_at(found, "level") or "info",
        message=text_at(found, "message") or "",
        data=dict(_mapping(found.get("data"))),
    )


def checkpoint_of(body: Any) -> Checkpoint:
    """Return the checkpoint in *body*. Raises Unreadable."""
    found = _mapping(body)
    metrics = _mapping(found.get("metrics"))
    return Checkpoint(
        id=id_of(found),
        step=integer_at(found, "step_number") or 0,
        model=text_at(found, "fine_tuned_model_checkpoint"),
        created_at=integer_at(found, "created_at"),
        metrics={key: float(value) for key, value in metrics.items() if _is_number(value)},
    )


def file_of(body: Any) -> RemoteFile:
    """Return the file in *body*. Raises Unreadable."""
    found = _mapping(body)
    return RemoteFile(id=id_of(found), name=text_at(found, "filename") or "", n_bytes=integer_at(found, "bytes"))


def id_of(found: Mapping[str, Any]) -> str:
    """Return the id in *found*. Raises Unreadable."""
    value = text_at(found, "id")
    if not value or len(value) > _LONGEST_ID or not value.isprintable():
        raise Unreadable("no id in it")
    return value


def text_at(found: Mapping[str, Any], key: str) -> str | None:
    """Return the text under *key*, None where there is none."""
    value = found.get(key)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def integer_at(found: Mapping[str, Any], key: str) -> int | None:
    """Return the whole number under *key*, None where there is none."""
    value = found.get(key)
    return int(value) if _is_number(value) and abs(value) < 1e15 else None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
