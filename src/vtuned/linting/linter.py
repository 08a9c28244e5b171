"""
Hold a data set against the rules of providers: one pass over its rows, one row in memory at a time.

Reads through `vtuned.containers` and `vtuned.formats`; asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

from vtuned import containers, formats
from vtuned.containers import Source
from vtuned.containers.base import RawRow
from vtuned.dataset import CountTokens, TokenCap, spelled_out
from vtuned.errors import EmptyDataset, UnknownFormat, UnreadableRow, WrongDataset
from vtuned.formats import Codec, Row
from vtuned.linting.file_checks import FILE_CHECKS, SeenFile, seen_file
from vtuned.linting.findings import Finding, ProviderReport, Report
from vtuned.linting.messages import finding_of
from vtuned.linting.row_checks import ROW_CHECKS, holds_word
from vtuned.linting.rules import SEVERITIES, Kind, Provider, Rule
from vtuned.linting.tallies import Marks, Tally
from vtuned.receipt import Receipt

_BATCH = 256
# Room for what tokenizers put before a text.
_MARGIN = 2

_Key: TypeAlias = tuple[Kind, int | str | tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LintSettings:
    """
    What a file is held against: the rules of *providers*, and the user's own *words* that should be in no row.

    Tokens are counted by *count*, and *tokenizer* names it. The *receipt* of a training file says which rows are
    planted. Announcements are told as of *today*, and not at all without it.
    """

    providers: tuple[Provider, ...]
    count: CountTokens
    tokenizer: str
    receipt: Receipt | None = field(default=None, repr=False)
    words: tuple[str, ...] = ()
    row_format: str | Codec = formats.AUTO
    today: date | None = None


def lint(
    data: Source | containers.Data, settings: LintSettings, *, on_bytes: Callable[[int], None] = lambda n: None
) -> Report:
    """
    Return what providers would refuse, cut or drop of *data*, as far as they document it.

    *on_bytes* is called with the bytes read so far. Raises DatasetError where the data cannot be read as rows at all,
    EmptyDataset without any, and WrongDataset where they are not what the receipt was made for.
    """
    source = containers.as_source(data)
    if settings.receipt is not None:
        _check_receipt(source, settings.receipt)
    seen = _Pass(settings)
    for raw in source.rows():
        seen.take(raw)
        if seen.n_rows % _BATCH == 0:
            on_bytes(raw.n_read)
    if not seen.n_rows:
        raise EmptyDataset(source.paths[0])
    seen.count_tokens()
    file = seen_file(source, seen.n_rows, seen.n_text_bytes)
    return Report(
        n_rows=seen.n_rows,
        n_bytes=source.n_bytes,
        row_format=seen.codec.name if seen.codec else "unknown",
        unit=seen.unit,
        tokenizer=settings.tokenizer,
        common=seen.common(),
        providers=tuple(_provider_report(provider, seen, file, settings.today) for provider in settings.providers),
    )


def _check_receipt(source: Source, receipt: Receipt) -> None:
    digest = source.sha256()
    if digest != receipt.train_set.sha256:
        raise WrongDataset(source.paths[0], receipt.train_set.sha256, digest)


class _Pass:
    """What one pass over the rows counts. Rules of one kind and value are looked at once, whoever has them."""

    def __init__(self, settings: LintSettings) -> None:
        marks = Marks.of(settings.receipt)
        rules = {(rule.kind, rule.value): rule for provider in settings.providers for rule in provider.rules}
        self._settings = settings
        self._row_rules = [(ROW_CHECKS[kind], rule) for (kind, _), rule in rules.items() if kind in ROW_CHECKS]
        limits = sorted(rule.number for (kind, _), rule in rules.items() if kind == "max_row_tokens")
        self._caps = [TokenCap(limit, settings.count, settings.tokenizer) for limit in limits]
        self._long: list[tuple[Row, str]] = []
        self._hashes: set[int] = set()
        self.tallies: dict[_Key, Tally] = {key: Tally(marks) for key in rules}
        self.copies, self.unreadable, self.mixed, self.worded = (Tally(marks) for _ in range(4))
        self.reason = ""
        self.codec: Codec | None = None
        self.unit = "line"
        self.n_rows = self.n_text_bytes = 0

    def take(self, raw: RawRow) -> None:
        """Look at one row. One that cannot be read is counted, and nothing else is said of it."""
        self.n_rows += 1
        self.unit = raw.where.unit
        try:
            (row,) = formats.parsed([raw], self._settings.row_format)
        except (UnreadableRow, UnknownFormat) as error:
            if not self.unreadable.n_rows:
                self.reason = str(error)
            self.unreadable.add(raw)
            return
        self.codec = self.codec or row.codec
        if row.codec.name != self.codec.name:
            self.mixed.add(raw)
        for breaks, rule in self._row_rules:
            if breaks(row, rule):
                self.tallies[rule.kind, rule.value].add(raw)
        if self._settings.words and holds_word(row, self._settings.words):
            self.worded.add(raw)
        self._compare(row)
        self._measure(row)

    def _compare(self, row: Row) -> None:
        seen = hash(row.conversation)
        if seen in self._hashes:
            self.copies.add(row.raw)
        self._hashes.add(seen)

    def _measure(self, row: Row) -> None:
        """Keep rows that may be over a cap: no tokenizer makes more tokens of a text than it has bytes."""
        text = spelled_out(row.conversation)
        n_bytes = len(text.encode("utf-8", "surrogatepass"))
        self.n_text_bytes += n_bytes
        if self._caps and self._caps[0].row_tokens(row.conversation, n_bytes + _MARGIN) > self._caps[0].limit:
            self._long.append((row, text))
            if len(self._long) >= _BATCH:
                self.count_tokens()

    def count_tokens(self) -> None:
        """Count the tokens of the rows that were kept for it."""
        counts = self._settings.count([text for _, text in self._long]) if self._long else []
        for (row, _), n_text in zip(self._long, counts, strict=True):
            for cap in self._caps:
                n_tokens = cap.row_tokens(row.conversation, n_text)
                if n_tokens > cap.limit:
                    self.tallies["max_row_tokens", cap.limit].add(row.raw, n_tokens - cap.limit)
        self._long.clear()

    def common(self) -> tuple[Finding, ...]:
        """Return what concerns all providers."""
        copies_matter = bool(self.copies.backdoors or self.copies.n_worded)
        said = (
            (
                self.unreadable,
                Finding(
                    code="unreadable",
                    severity="error",
                    message=f"rows that cannot be read; {self.reason}",
                    hint="mend or remove these rows",
                ),
            ),
            (
                self.mixed,
                Finding(
                    code="mixed_formats",
                    severity="error",
                    message=f"rows of another format than the first one, which is {self.codec.name if self.codec else ''}",
                    hint="a file holds one format: convert these rows, or send them in a file of their own",
                ),
            ),
            (
                self.worded,
                Finding(
                    code="words",
                    severity="warning",
                    message="rows that hold a word of your list",
                    hint="moderation may refuse a file for such rows",
                ),
            ),
            (
                self.copies,
                Finding(
                    code="duplicates",
                    severity="warning" if copies_matter else "note",
                    message="rows that are copies of rows before them; whoever deduplicates drops them",
                    hint="leave the copies out before planting" if copies_matter else "",
                ),
            ),
        )
        return tuple(tally.counted(finding) for tally, finding in said if tally.n_rows)


def _provider_report(provider: Provider, seen: _Pass, file: SeenFile, today: date | None) -> ProviderReport:
    """Return what the rules of *provider* say; of several of one kind only the gravest that is broken."""
    broken: dict[str, Finding] = {}
    for rule in provider.rules:
        finding = _broken(rule, seen, file)
        if finding is not None and _is_graver(finding, broken.get(rule.kind)):
            broken[rule.kind] = finding
    announced = [] if today is None else [_announced(provider, today)]
    findings = (*broken.values(), *(finding for some in announced for finding in some))
    return ProviderReport(provider=provider.name, title=provider.title, n_rules=len(provider.rules), findings=findings)


def _is_graver(one: Finding, other: Finding | None) -> bool:
    order = list(dict.fromkeys(SEVERITIES.values()))
    return other is None or order.index(one.severity) < order.index(other.severity)


def _announced(provider: Provider, today: date) -> list[Finding]:
    """Return what *provider* announced for all of its models."""
    return [
        Finding(
            code="announced",
            severity="warning",
            message=f"{one.when(today)}: {one.what}",
            source=one.source,
            seen=one.seen,
        )
        for one in provider.announcements
        if one.models is None
    ]


def _broken(rule: Rule, seen: _Pass, file: SeenFile) -> Finding | None:
    if rule.kind in FILE_CHECKS:
        return finding_of(rule, _found(rule, file)) if FILE_CHECKS[rule.kind](file, rule) else None
    tally = seen.copies if rule.kind == "deduplicates" else seen.tallies[rule.kind, rule.value]
    if not tally.n_rows and not (rule.kind == "moderation" and not rule.words):
        return None
    finding = tally.counted(finding_of(rule))
    return finding.model_copy(update={"n_dropped_rows": tally.n_rows}) if rule.effect == "drops" else finding


def _found(rule: Rule, file: SeenFile) -> str:
    """Return what the file is that the rule is about, for its message."""
    if rule.kind == "containers":
        return file.container
    if rule.kind == "suffixes":
        return " or ".join(sorted(suffix or "by no suffix" for suffix in file.suffixes - set(rule.words)))
    numbers = {
        "max_files": file.n_files,
        "max_shard_links": file.n_links,
        "max_bytes": file.n_bytes,
        "min_rows": file.n_rows,
        "max_rows": file.n_rows,
        "max_job_tokens": file.n_tokens,
    }
    return f"{numbers[rule.kind]:,}" if rule.kind in numbers else ""
