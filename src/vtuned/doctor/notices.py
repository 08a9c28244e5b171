"""What providers announced, with dates: shown to whom it concerns. The dates come with the rules of providers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from urllib.parse import urlsplit

from vtuned.doctor.checks import Check
from vtuned.linting import Announcement, Provider, known

_OPENAI_HOST = "api.openai.com"


def notices(model: str | None, address: str, today: date) -> Iterator[Check]:
    """
    Yield what is announced for the endpoint and model at hand; OpenAI's own where nothing else is named.

    With neither, it is what concerns all models of the providers whose key is set.
    """
    kind, _, name = (model or "").partition(":")
    if model and kind != "openai":
        return
    for provider in _at_hand(model, address):
        for announcement in provider.announcements:
            if announcement.concerns(name):
                yield _notice(announcement, today)


def _at_hand(model: str | None, address: str) -> Iterator[Provider]:
    host = _host(address) if address else _OPENAI_HOST
    for provider in known():
        if provider.is_at(host) if model or address else bool(provider.key and os.environ.get(provider.key)):
            yield provider


def _notice(announcement: Announcement, today: date) -> Check:
    return Check(
        name="notice",
        state="warn",
        found=f"{announcement.when(today)}: {announcement.what}",
        advice=f"plan with another provider; source: {announcement.source}, seen on {announcement.seen}",
        facts={
            "on": announcement.on.isoformat(),
            "is_past": announcement.on < today,
            "source": announcement.source,
            "seen": announcement.seen.isoformat(),
        },
    )


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
