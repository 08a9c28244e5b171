"""The diary of a job: what happened, when, and when it will be over."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from vtuned.server.records import Event, Job
from vtuned.server.store import Store, now

MESSAGE, METRICS = "message", "metrics"


def event(job: str, message: str, *, level: str = "info", data: Mapping[str, object] | None = None) -> Event:
    """Return a new event; one with *data* tells metrics."""
    return Event(
        id=f"ftevent-{secrets.token_hex(12)}",
        job=job,
        created=now(),
        level=level,
        kind=METRICS if data else MESSAGE,
        message=message,
        data=json.dumps(data) if data else "",
    )


def estimated_finish(job: Job, store: Store) -> int | None:
    """Return when a running job will be done, if it goes on as fast as between the metrics that it has told."""
    told = [event for event in store.all(Event, job=job.id) if event.kind == METRICS]
    if not job.n_steps or len(told) < 2:
        return None
    first, last = (int(json.loads(event.data)["step"]) for event in (told[0], told[-1]))
    if last <= first:
        return None
    a_step = (told[-1].created - told[0].created) / (last - first)
    return told[-1].created + round(a_step * (job.n_steps - last))
