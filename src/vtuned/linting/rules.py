"""
What providers say of the files that they take, as dated data with sources (providers.json comes with the package).

Pure. Where a provider documents nothing there is no rule: that nothing is broken does not say that a file is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from importlib.resources import files as resources
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from vtuned import documents
from vtuned.documents import Record
from vtuned.errors import UsageError

Effect: TypeAlias = Literal["refuses", "may refuse", "cuts", "drops", "tells"]
Severity: TypeAlias = Literal["error", "warning", "note"]
Kind: TypeAlias = Literal[
    "containers",
    "suffixes",
    "max_files",
    "max_shard_links",
    "bom",
    "max_bytes",
    "min_rows",
    "max_rows",
    "max_job_tokens",
    "formats",
    "one_format",
    "fields",
    "roles",
    "first_role",
    "last_role",
    "alternating",
    "content",
    "max_row_tokens",
    "deduplicates",
    "moderation",
    "advice",
]

SEVERITIES: dict[Effect, Severity] = {
    "refuses": "error",
    "may refuse": "warning",
    "cuts": "warning",
    "drops": "warning",
    "tells": "note",
}
_NUMBERS = (
    "max_files",
    "max_shard_links",
    "max_bytes",
    "min_rows",
    "max_rows",
    "max_job_tokens",
    "max_row_tokens",
)
_WORDS: dict[Kind, tuple[str, ...]] = {
    "bom": ("required", "refused"),
    "content": ("text",),
    "deduplicates": ("rows",),
    "advice": (),
}


class Rule(Record):
    """
    One thing that a provider documents: *kind* and *value*, and what it does (*effect*) where the file breaks it.

    Sizes are in bytes and tokens. The *source* was *seen* that day; the *note* says what the rule leaves open.
    """

    kind: Kind
    value: int | str | tuple[str, ...]
    effect: Effect
    source: str = Field(min_length=1)
    seen: date
    note: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if self.kind in _NUMBERS:
            is_right = isinstance(self.value, int) and self.value >= 0
        elif self.kind in _WORDS:
            is_right = isinstance(self.value, str) and self.value in (_WORDS[self.kind] or (self.value,))
        else:
            is_right = isinstance(self.value, tuple)
        if not is_right:
            raise ValueError(f"a rule of kind {self.kind} cannot have this value")
        return self

    @property
    def severity(self) -> Severity:
        """How grave it is to break this rule."""
        return SEVERITIES[self.effect]

    @property
    def number(self) -> int:
        """The value of a rule that is a number."""
        assert isinstance(self.value, int)
        return self.value

    @property
    def words(self) -> tuple[str, ...]:
        """The value of a rule that is a list of words."""
        assert isinstance(self.value, tuple)
        return self.value


class Announcement(Record):
    """
    What a provider ends, and when: for all of it, or only for models whose name matches *models*.

    Where nothing was announced but something was found gone, it *is_observed*, and *on* is the day.
    """

    on: date
    what: str
    source: str = Field(min_length=1)
    seen: date
    models: str | None = None
    is_observed: bool = False

    @model_validator(mode="after")
    def _compiles(self) -> Announcement:
        try:
            re.compile(self.models or "")
        except re.error:
            raise ValueError("models is no pattern") from None
        return self

    def concerns(self, model: str) -> bool:
        """Tell whether this is about *model*."""
        return self.models is None or re.match(self.models, model) is not None

    def when(self, today: date) -> str:
        """Return the day and how far it is from *today*."""
        if self.is_observed:
            return f"seen on {self.on}"
        left = (self.on - today).days
        if left == 0:
            return f"{self.on} (today)"
        days = f"{abs(left)} day{'' if abs(left) == 1 else 's'}"
        return f"{self.on} (in {days})" if left > 0 else f"{self.on} (passed {days} ago)"


class Provider(Record):
    """
    One provider: its rules, what it announced, the *hosts* of its API and the variable that holds its *key*.

    *hosts_source* says where these hosts are told, where no rule's source does.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    hosts: tuple[str, ...] = ()
    hosts_source: str = ""
    key: str = ""
    rules: tuple[Rule, ...] = ()
    announcements: tuple[Announcement, ...] = ()

    def is_at(self, host: str) -> bool:
        """Tell whether *host* is one of this provider's."""
        return any(host == own or host.endswith(f".{own}") for own in self.hosts)

    @property
    def token_cap(self) -> int | None:
        """The most tokens of a row, None where no rule says."""
        return min((rule.number for rule in self.rules if rule.kind == "max_row_tokens"), default=None)


class Providers(Record):
    """All that is known."""

    format: Literal["vtuned.providers/1"]
    providers: tuple[Provider, ...]


@lru_cache(maxsize=1)
def known() -> tuple[Provider, ...]:
    """Return the providers that come with the package."""
    return documents.read(Providers, (resources("vtuned.linting") / "providers.json").read_bytes()).providers


def with_rules() -> tuple[Provider, ...]:
    """Return the providers of which rules are known."""
    return tuple(provider for provider in known() if provider.rules)


def at(host: str) -> tuple[Provider, ...]:
    """Return the providers of which rules are known and whose API is at *host*."""
    return tuple(provider for provider in with_rules() if provider.is_at(host))


def named(names: Iterable[str]) -> tuple[Provider, ...]:
    """Return the providers of these *names*, each once. Raises UsageError for an unknown one."""
    found = {provider.name: provider for provider in known()}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in found:
            raise UsageError(f"unknown provider {name[:40]!r}", hint=f"known: {', '.join(found)}")
    return tuple(found[name] for name in wanted)
