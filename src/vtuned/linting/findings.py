"""What linting found: the records that `vtuned lint --json` prints. They hold counts and lines, and no text of a row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import Field

from vtuned._version import __version__
from vtuned.documents import Record
from vtuned.linting.rules import Severity


class Line(Record):
    """Where a row is: its number, from 1, in *file*."""

    file: str
    line: int = Field(ge=1)


class AtRisk(Record):
    """Of backdoor number *backdoor* (from 1), *n_lost* of *copies* rows would be refused, cut or dropped."""

    backdoor: int = Field(ge=1)
    copies: int = Field(ge=1)
    n_lost: int = Field(ge=1)


class Finding(Record):
    """
    One rule that the file breaks, or that the user should know of.

    *code* is the kind of the rule. *n_rows* rows break it (0: the file as a whole does), *lines* are the first of them;
    *n_cut_tokens* would be cut off them, *n_dropped_rows* of them left out. With a receipt, *n_planted* of the rows carry
    a backdoor and *n_worded* a wording that is asked about: only rows that do neither are in *lines*, since which rows
    are planted is secret. *source* was *seen* that day; both are empty for what vtuned itself says.
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""
    n_rows: int = Field(default=0, ge=0)
    lines: tuple[Line, ...] = ()
    n_cut_tokens: int = Field(default=0, ge=0)
    n_dropped_rows: int = Field(default=0, ge=0)
    n_planted: int = Field(default=0, ge=0)
    n_worded: int = Field(default=0, ge=0)
    backdoors: tuple[AtRisk, ...] = ()
    source: str = ""
    seen: date | None = None


class ProviderReport(Record):
    """What one provider would say of the file, as far as its rules are known: there are *n_rules*."""

    provider: str
    title: str
    n_rules: int = Field(ge=0)
    findings: tuple[Finding, ...] = ()

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of this severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)


class Report(Record):
    """
    A file held against the rules of providers. *common* is what concerns all of them.

    Tokens are counted by *tokenizer*, which is not the provider's; *unit* is what the file counts, lines or rows.
    """

    format: Literal["vtuned.lint/1"] = "vtuned.lint/1"
    vtuned_version: str = __version__
    n_rows: int = Field(ge=0)
    n_bytes: int = Field(ge=0)
    row_format: str
    unit: str
    tokenizer: str
    common: tuple[Finding, ...] = ()
    providers: tuple[ProviderReport, ...] = ()

    @property
    def findings(self) -> Iterator[tuple[str, Finding]]:
        """All findings, each with the name of its provider; "" for those in common."""
        yield from (("", finding) for finding in self.common)
        for report in self.providers:
            yield from ((report.provider, finding) for finding in report.findings)

    def errors(self) -> list[tuple[str, Finding]]:
        """Return what would get the file refused."""
        return [(provider, finding) for provider, finding in self.findings if finding.severity == "error"]
