"""
Where a run stands, told from its journal.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtuned.errors import RunError
from vtuned.jobs.base import Job
from vtuned.jobs.journal import Adopted, Begun, Entry, Intended, Journal, Planned, Seen, Uploaded


@dataclass(slots=True)
class Run:
    """
    What is known of a run: its *first* entry, what was uploaded (ids by kind of file), and the *job*.

    *intended* are requests that were about to be sent, the first try of each, and of which no outcome was written down;
    *begun* is how far uploads in parts have come.
    """

    first: Planned | Adopted
    uploaded: dict[str, str] = field(default_factory=dict)
    intended: dict[str, Intended] = field(default_factory=dict)
    begun: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    job: Job | None = None

    @property
    def model(self) -> str | None:
        """The name of the tuned model, None while there is none."""
        if isinstance(self.first, Adopted) and self.first.model:
            return self.first.model
        return self.job.fine_tuned_model if self.job else None

    @property
    def state(self) -> str:
        """In a word: the job's status, or how far the run has come without one."""
        if self.job is not None:
            return self.job.status
        if isinstance(self.first, Adopted):
            return "endpoint"
        return "uploaded" if "training" in self.uploaded else "planned"


def run_of(entries: Sequence[Entry]) -> Run:
    """Return where the run with these *entries* stands."""
    first = entries[0]
    assert isinstance(first, Planned | Adopted)
    run = Run(first, job=first.job if isinstance(first, Adopted) else None)
    for entry in entries[1:]:
        if isinstance(entry, Intended):
            first = run.intended.setdefault(entry.what, entry)
            if first.stamp is None and entry.stamp is not None:
                run.intended[entry.what] = entry.model_copy(update={"since": first.since})
        elif isinstance(entry, Begun):
            run.begun[entry.what] = {**run.begun.get(entry.what, {}), **entry.facts}
        elif isinstance(entry, Uploaded):
            run.uploaded[entry.what] = entry.id
            run.intended.pop(entry.what, None)
        elif isinstance(entry, Seen):
            run.job = entry.job
            run.intended.pop("job", None)
    return run


def job_in(journal: Journal) -> Job:
    """Return the job of a run. Raises RunError where it has none."""
    run = run_of(journal.entries)
    if run.job is not None:
        return run.job
    if isinstance(run.first, Adopted):
        raise RunError(journal.folder, "this run is an endpoint alone, without a job", hint="verify it: --run")
    raise RunError(
        journal.folder, "nothing was submitted in this run yet", hint="run the same `vtuned submit` again: it goes on"
    )
