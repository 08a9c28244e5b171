"""
What of vtuned works on this machine: packages, devices, caches, keys, and the model that is asked for.

Looks, and changes nothing. Keys are told as set or not; no character of one is kept, nor its length.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime

from vtuned.doctor.checks import Check, Diagnosis
from vtuned.doctor.machine import machine
from vtuned.doctor.models import model_checks
from vtuned.doctor.notices import notices
from vtuned.doctor.redaction import scrubbed, secrets
from vtuned.lm.options import LoadOptions

__all__ = ["Check", "Diagnosis", "diagnose"]


def diagnose(model: str | None = None, options: LoadOptions | None = None, *, today: date | None = None) -> Diagnosis:
    """
    Return what was found on this machine and, where a *model* is named, whether it can be used with *options*.

    An endpoint is sent a few requests of neutral text. Never raises a `VtunedError`: it becomes a failed check.
    """
    options = options or LoadOptions()
    address = options.base_url or os.environ.get("OPENAI_BASE_URL") or ""
    checks = [
        *machine(address),
        *(model_checks(model, options) if model else ()),
        *notices(model, address, today or datetime.now(UTC).date()),
    ]
    hidden = secrets(options, address)
    return Diagnosis(checks=tuple(scrubbed(check, hidden) for check in checks))
