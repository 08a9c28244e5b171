"""
What a provider would refuse, cut or drop of a file, before it is sent: documented rules, held against the rows.

Rules are dated data with sources. A file that breaks none may still be refused: providers check more than they say.
"""

from __future__ import annotations

from vtuned.linting.findings import AtRisk, Finding, Line, ProviderReport, Report
from vtuned.linting.linter import LintSettings, lint
from vtuned.linting.rules import Announcement, Provider, Rule, at, known, named, with_rules

__all__ = [
    "Announcement",
    "AtRisk",
    "Finding",
    "Line",
    "LintSettings",
    "Provider",
    "ProviderReport",
    "Report",
    "Rule",
    "at",
    "known",
    "lint",
    "named",
    "with_rules",
]
