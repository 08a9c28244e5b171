"""
Wait for a job: poll with growing pauses, and tell what is new.

Knows nothing of screens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vtuned.errors import JobFailed
from vtuned.jobs.base import SUCCEEDED, Event, FineTuningService, Job
from vtuned.jobs.journal import Journal
from vtuned.jobs.submitting import refreshed

Sleep = Callable[[float], None]

_BAD_FILE = ("training_file", "validation_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Seconds between two looks: from *first_s* on, half as long again each time nothing changed, up to *longest_s*."""

    first_s: float = 2.0
    longest_s: float = 60.0


def followed(
    journal: Journal,
    service: FineTuningService,
    job: Job,
    *,
    pauses: Pauses | None = None,
    on_look: Callable[[Job], None] = lambda job: None,
    on_events: Callable[[list[Event]], None] = lambda events: None,
    sleep: Sleep = time.sleep,
    until_s: float | None = None,
) -> Job:
    """
    Return *job* once it has ended, or as it is after *until_s* seconds. Raises ServiceError.

    *on_look* gets the job at each look, *on_events* what is new. Ctrl-C leaves at once; the job goes on at the service.
    """
    chosen = pauses or Pauses()
    pause_s, last, began = chosen.first_s, None, time.monotonic()
    while True:
        now = refreshed(journal, service, job)
        events = service.events(now.id, last)
        last = events[-1].id if events else last
        pause_s = chosen.first_s if now != job or events else min(1.5 * pause_s, chosen.longest_s)
        job = now
        on_events(events)
        on_look(job)
        if job.has_ended or (until_s is not None and time.monotonic() - began + pause_s > until_s):
            return job
        sleep(pause_s)


def check_succeeded(service: str, job: Job) -> None:
    """Raise JobFailed for a job that ended without a model, with the code of the reason: the message may quote rows."""
    if not job.has_ended or job.status == SUCCEEDED:
        return
    code, param = _plain(job.error_code), _plain(job.error_param)
    reason = job.status + (f" ({code}{f', about {param}' if param else ''})" if code else "")
    hint = "the service's own words are in `vtuned job status`; submit anew into another folder with --run"
    failed = JobFailed(service, job.id, reason, hint=hint)
    if job.error_param in _BAD_FILE:
        failed.exit_code = 2
    raise failed


def _plain(word: str | None) -> str:
    return word if word and len(word) <= 60 and word.replace("_", "").replace("-", "").isalnum() else ""
