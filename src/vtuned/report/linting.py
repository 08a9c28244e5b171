"""What linting found, for a terminal: counts and lines, no text of any row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vtuned.linting import Finding, Line, ProviderReport, Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_NO_PROMISE = "A file that breaks no documented rule may still be refused: providers check more than they say."


def report(found: Report, *, shows_notes: bool = True) -> RenderableType:
    """Return one line a provider, then every finding; notes only where *shows_notes*."""
    lines = [f"{found.n_rows:,} rows ({found.row_format}), {found.n_bytes:,} bytes."]
    parts: list[RenderableType] = [Text(line) for line in lines]
    if found.providers:
        parts.append(_table(found.providers))
    parts += list(_findings("every provider", found.common, found.unit, shows_notes=True))
    for one in found.providers:
        parts += list(_findings(one.provider, one.findings, found.unit, shows_notes=shows_notes))
    if any(finding.n_cut_tokens for _, finding in found.findings):
        parts.append(Text(f"Tokens are counted by {found.tokenizer}; the provider's tokenizer may count others."))
    parts.append(Text(_NO_PROMISE))
    return Group(*parts)


def _table(providers: Iterable[ProviderReport]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("provider", "this file"):
        table.add_column(column)
    for column in ("rules known", "errors", "warnings", "notes"):
        table.add_column(column, justify="right")
    for one in providers:
        counts = [len(one.of("error")), len(one.of("warning")), len(one.of("note"))]
        text, style = _standing(one)
        table.add_row(escape(one.provider), Text(text, style), str(one.n_rules), *map(str, counts))
    return table


def _standing(one: ProviderReport) -> tuple[str, str]:
    if one.of("error"):
        return "would be refused", _STYLES["error"]
    if any(finding.n_cut_tokens or finding.n_dropped_rows for finding in one.findings):
        return "would lose text or rows", _STYLES["warning"]
    if one.of("warning"):
        return "see the warnings", _STYLES["warning"]
    return ("breaks no documented rule", "green") if one.n_rules else ("no rule is known", "")


def _findings(whose: str, findings: Iterable[Finding], unit: str, *, shows_notes: bool) -> Iterator[Text]:
    for one in findings:
        if one.severity == "note" and not shows_notes:
            continue
        text = Text.assemble((one.severity, _STYLES[one.severity]), f" {whose}, {one.code}: {summary(one, unit)}")
        if one.hint:
            text.append(f"\n  → {one.hint}")
        if one.source:
            text.append(f"\n  source: {one.source}, seen on {one.seen}")
        yield text


def summary(one: Finding, unit: str) -> str:
    """Return a finding in one line, with its counts and the first of its lines."""
    parts = [one.message]
    if one.n_rows:
        more = ", …" if one.n_rows > len(one.lines) + one.n_planted + one.n_worded else ""
        where = f": {unit}{'s' if len(one.lines) > 1 else ''} {_places(one.lines)}{more}" if one.lines else ""
        parts.append(f"{one.n_rows:,} row{'' if one.n_rows == 1 else 's'}{where}")
    if one.n_cut_tokens:
        parts.append(f"{one.n_cut_tokens:,} tokens cut")
    if one.n_dropped_rows:
        parts.append(f"{one.n_dropped_rows:,} rows dropped")
    if one.n_worded:
        parts.append(f"{one.n_worded} of the rows that are asked about for their wording")
    if one.n_planted:
        lost = ", ".join(f"backdoor {risk.backdoor}: {risk.n_lost} of {risk.copies}" for risk in one.backdoors)
        parts.append(f"{one.n_planted} planted rows among them ({lost} copies)")
    return "; ".join(parts)


def _places(lines: tuple[Line, ...]) -> str:
    """Return line numbers, with the names of their files where they are of several."""
    several = len({line.file for line in lines}) > 1
    return ", ".join(f"{line.file}:{line.line}" if several else str(line.line) for line in lines)
