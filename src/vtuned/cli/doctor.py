"""`vtuned doctor`: what works on this machine, and what to do where something does not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vtuned.cli import console, options
from vtuned.doctor import Diagnosis, diagnose
from vtuned.lm.options import LoadOptions

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also say whether this model can be used, and how.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Where the endpoint is.", show_default="OPENAI_BASE_URL, else OpenAI")
    ] = None,
    api_key: options.ApiKey = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer of the endpoint.")] = 30.0,
    json: options.Json = False,
) -> None:
    """Say what is installed, what is missing, and whether MODEL can be reached. Shows no part of any key."""
    with console.stages() as stages:
        stages("looking around", 0, 0)
        found = diagnose(model, LoadOptions(base_url=base_url, api_key=api_key, timeout=timeout))
    if json:
        console.show_json({**found.model_dump(mode="json"), "exit_code": found.exit_code})
    else:
        console.show(_screen(found))
    raise typer.Exit(found.exit_code)


def _screen(found: Diagnosis) -> RenderableType:
    """Return one line a check and, where it is not ok, one more that says what to do."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("state", "name"):
        table.add_column(column, no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in found.checks:
        text = Text(check.found)
        if check.advice:
            text.append(f"\n→ {check.advice}", _STYLES[check.state])
        table.add_row(Text(check.state, _STYLES[check.state]), check.name, text)
    states: list[str] = [check.state for check in found.checks]
    counts = ", ".join(f"{states.count(state)} {state}" for state in _STYLES)
    return Group(table, Text(counts, _STYLES["fail" if "fail" in states else "ok"]))
