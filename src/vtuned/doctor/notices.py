"""What providers announced, with dates: shown to whom it concerns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from vtuned.doctor.checks import Check

_OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a provider announced: for endpoints on *hosts*, and only for models whose name matches *models*."""

    hosts: tuple[str, ...]
    models: re.Pattern[str] | None
    on: date
    what: str
    source: str

    def concerns(self, host: str, model: str) -> bool:
        """Tell whether this is about *model* at *host*."""
        at = any(host == own or host.endswith(f".{own}") for own in self.hosts)
        return at and (self.models is None or self.models.match(model) is not None)


_OPENAI_SAYS = "developers.openai.com/api/docs/deprecations"
NOTICES = (
    Notice(
        (_OPENAI_HOST,),
        None,
        date(2027, 1, 6),
        "OpenAI ends self-serve fine-tuning: closed to new users since 2026-05-07, last day to create jobs",
        _OPENAI_SAYS,
    ),
    Notice(
        (_OPENAI_HOST,),
        re.compile(r"(?:ft:)?gpt-4(?:o|\.1)(?:-mini)?(?:-\d{4}-\d\d-\d\d)?(?::|$)"),
        date(2027, 1, 14),
        "OpenAI shuts down this model and every fine-tune of it; the named replacement cannot be fine-tuned",
        _OPENAI_SAYS,
    ),
    Notice(
        (_OPENAI_HOST,),
        re.compile(r"(?:ft:)?(?:gpt-3\.5-turbo|gpt-4\.1-nano)"),
        date(2026, 10, 23),
        "OpenAI shut down the older snapshots of this model",
        _OPENAI_SAYS,
    ),
    Notice(
        ("api.mistral.ai",),
        None,
        date(2026, 11, 24),
        "Mistral's own package has no call to create fine-tuning jobs any more (as of version 3.7.0; 1.12.4 had one)",
        "the mistralai packages on PyPI",
    ),
    Notice(
        ("api.cohere.com", "api.cohere.ai"),
        None,
        date(2025, 9, 15),
        "Cohere deprecated fine-tuning",
        "docs.cohere.com",
    ),
    Notice(
        ("databricks.com", "azuredatabricks.net"),
        None,
        date(2026, 8, 14),
        "Databricks removed Foundation Model Fine-tuning",
        "learn.microsoft.com",
    ),
)


def notices(model: str | None, address: str, today: date) -> Iterator[Check]:
    """Yield what is announced for the endpoint and model at hand; OpenAI's own where nothing else is named."""
    kind, _, name = (model or "").partition(":")
    if model and kind != "openai":
        return
    host = _host(address) if address else _OPENAI_HOST
    if not model and not address and not os.environ.get("OPENAI_API_KEY"):
        return
    for notice in NOTICES:
        if notice.concerns(host, name):
            left = (notice.on - today).days
            when = f"{notice.on} (in {left} days)" if left > 0 else f"{notice.on}"
            advice = f"plan with another provider; source: {notice.source}"
            facts = {"on": notice.on.isoformat(), "source": notice.source}
            yield Check(name="notice", state="warn", found=f"{when}: {notice.what}", advice=advice, facts=facts)


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
