"""`vtuned lint`: what providers would refuse, cut or drop of a file, before it is sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vtuned import containers, formats, linting
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.dataset import DEFAULT_CAP, TokenCap
from vtuned.errors import EXIT_BAD_INPUT, RefusedByProvider
from vtuned.formats import Codec
from vtuned.linting import LintSettings, Provider, Report
from vtuned.report import linting as shown


def lint(
    data: options.Data,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Whose rules: openai, azure, together, …; several may be given.",
            show_default="all that are known",
        ),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt", "-r", metavar="RECEIPT", help="DATA is a training file: also count its planted rows."
        ),
    ] = None,
    words: options.Words = None,
    base: options.Base = "smollm2",
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    json: options.Json = False,
) -> None:
    """
    Say what providers would refuse, cut or drop of DATA, by the rules that they document.

    Exit code 0: no documented rule gets it refused; 2: one does, or DATA cannot be read.
    """
    shape = options.row_format(
        data[0], format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    chosen = linting.named(provider) if provider else linting.with_rules()
    made = None if receipt is None else receipts.read_receipt(receipt)
    how = settings(chosen, options.token_cap(DEFAULT_CAP, base), shape)
    found = checked(data, replace(how, receipt=made, words=options.lines_of(words, "word")))
    if json:
        console.show_json(found)
    else:
        console.show(shown.report(found, shows_notes=bool(provider)))
    if found.errors():
        raise typer.Exit(EXIT_BAD_INPUT)


def settings(providers: tuple[Provider, ...], cap: TokenCap, shape: str | Codec) -> LintSettings:
    """Return what a file is held against, as of today; tokens are counted as *cap* does."""
    return LintSettings(
        providers=providers,
        count=cap.count,
        tokenizer=cap.tokenizer,
        row_format=shape,
        today=datetime.now(UTC).date(),
    )


def checked(data: containers.Data, how: LintSettings) -> Report:
    """Return the report on *data*, with progress on standard error. See `vtuned.linting.lint`."""
    source = containers.open_source(data)
    with console.stages() as stages:
        return linting.lint(source, how, on_bytes=lambda n: stages("holding rows against the rules", n, source.n_bytes))


def check_not_refused(path: Path | str, report: Report, hint: str) -> None:
    """Raise RefusedByProvider where *report* holds an error, with the first one."""
    errors = report.errors()
    if not errors:
        return
    name = errors[0][0] or report.providers[0].provider
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    reason = f"{shown.summary(errors[0][1], report.unit)}{more}"
    raise RefusedByProvider(path, name, [finding.code for _, finding in errors], reason, hint=hint)
