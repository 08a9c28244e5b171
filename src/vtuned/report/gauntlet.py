"""A gauntlet as a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vtuned.gauntlet.table import CLAIMS, HEAD, Gauntlet, Round, cells, conditions, summary
from vtuned.verdict import Outcome

_STYLES = {"yes": "green", "no": "red", "not tested": "dim", "could not ask": "yellow"}


def gauntlet(found: Gauntlet) -> RenderableType:
    """Return the table of *found*, and under it which cheats pass."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in HEAD:
        table.add_column(name, justify="right" if name in HEAD[-4:] else "left", overflow="fold")
    for one in found.rounds:
        table.add_row(*_row(one))
    return Group(Text(conditions(found)), table, *(Text(line) for line in summary(found.rounds)))


def _row(one: Round) -> list[Text]:
    shown = [Text(cell) for cell in cells(one)]
    if one.outcome is None:
        shown[1].stylize("yellow")
        return shown
    is_right = (one.outcome is Outcome.VERIFIED) == (one.conduct == "honest")
    shown[1].stylize("bold green" if is_right else "bold red")
    for i, name in enumerate(CLAIMS, start=2):
        shown[i].stylize(_STYLES.get(one.state(name) or "", ""))
    return shown
