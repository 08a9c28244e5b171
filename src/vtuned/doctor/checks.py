"""What was looked at, and what was found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vtuned._version import __version__
from vtuned.documents import Record
from vtuned.errors import EXIT_BAD_INPUT, EXIT_COULD_NOT_TELL

State = Literal["ok", "warn", "fail"]


class Check(Record):
    """
    One thing that was looked at: what was *found*, and what to do about it (*advice*) unless it is ok.

    *facts* say the same to programs. A failure carries the *exit_code* that it means.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    facts: dict[str, Any] = Field(default_factory=dict)
    exit_code: Literal[0, 2, 3] = 0


class Diagnosis(Record):
    """All checks, in the order in which they are shown."""

    format: Literal["vtuned.doctor/1"] = "vtuned.doctor/1"
    vtuned_version: str = __version__
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """2 where something that was asked for is missing, else 3 where the endpoint does not answer, else 0."""
        codes = {check.exit_code for check in self.checks}
        return next((code for code in (EXIT_BAD_INPUT, EXIT_COULD_NOT_TELL) if code in codes), 0)
