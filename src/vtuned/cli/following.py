"""Waiting for a job on the screen."""

from __future__ import annotations

from vtuned.cli import console, services
from vtuned.jobs.base import Event, FineTuningService, Job
from vtuned.jobs.following import Pauses, followed
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import run_of


def wait(
    journal: Journal,
    service: FineTuningService,
    job: Job,
    *,
    json: bool,
    poll: float | None = None,
    at_most: float | None = None,
) -> Job:
    """Return *job* once it has ended, or after *at_most* seconds, showing what the service tells. Ctrl-C leaves at once."""
    mask = services.mask_of(run_of(journal.entries))
    pauses = Pauses() if poll is None else Pauses(first_s=poll, longest_s=max(poll, 60.0 if poll >= 2 else poll))
    try:
        with console.stages() as stages:

            def look(now: Job) -> None:
                stages(f"job {now.id}: {now.status}", 0, 0)

            def tell(events: list[Event]) -> None:
                for event in events if not json else ():
                    stages.say(services.event_line(event, mask))

            return followed(journal, service, job, pauses=pauses, on_look=look, on_events=tell, until_s=at_most)
    except KeyboardInterrupt:
        console.say(f"the job goes on at the service; to go on waiting: vtuned job wait {journal.folder}")
        raise
