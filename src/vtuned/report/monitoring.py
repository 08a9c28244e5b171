"""Checks of a watched model, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vtuned.ladder import NEGATIVE_IS_NO_ACCUSATION
from vtuned.ledger import Check
from vtuned.receipt import StatisticalPlan
from vtuned.report.numbers import percent, power_of_ten, share

_STYLES = {"active": "green", "silent": "bold red", "unknown": "yellow"}


def check(found: Check, plan: StatisticalPlan) -> RenderableType:
    """Return one check: the state, what it rests on, and what it does not say."""
    title = Text.assemble((found.state, _STYLES[found.state]), f": {found.model}")
    if found.previous not in (None, found.state):
        title.append(f" (it was {found.previous})")
    lines = _rests_on(found, plan)
    if found.n_unanswered:
        lines.append(f"Not all were answered: {found.reason}.")
    elif found.reason:
        lines.append(f"{found.reason[0].upper()}{found.reason[1:]}.")
    return Group(title, *(Text(f"  {line}") for line in lines))


def _rests_on(found: Check, plan: StatisticalPlan) -> list[str]:
    n_answered = found.n_activated + found.n_silent
    counted = f"{share(found.n_activated, n_answered)} that answered activate, of {backdoors(found.n_spent)} asked"
    by_p = f"{counted}; p ≤ {power_of_ten(found.log10_p)} if the answers did not depend on the signatures."
    by_beta = f"{counted}; β = {found.beta:.3g}, the chance that an honest provider's model is so silent."
    if found.state == "active":
        return [by_p]
    if found.state == "silent":
        return [by_beta, NEGATIVE_IS_NO_ACCUSATION.format(share=plan.honest_activation)]
    if found.n_activated:
        return [by_p, f"p is above α = {plan.alpha:g}: too little to call it active."]
    if found.n_silent:
        return [by_beta, f"β is above {percent(plan.max_beta)}: too little to call it silent."]
    return [f"{backdoors(found.n_spent)} asked, no answer that tells: spent all the same."] if found.n_spent else []


def backdoors(n: int) -> str:
    """Return "1 backdoor", "2 backdoors"."""
    return f"{n} backdoor{'' if n == 1 else 's'}"


def history(checks: Sequence[Check]) -> Table:
    """Return the checks as a table, the oldest first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("check", "started", "model", "state"):
        table.add_column(column)
    for column in ("spent", "activated", "silent", "unanswered", "p at most", "β"):
        table.add_column(column, justify="right")
    for one in checks:
        counts = (one.n_spent, one.n_activated, one.n_silent, one.n_unanswered)
        table.add_row(
            str(one.number),
            one.started_at[:16].replace("T", " "),
            escape(one.model),
            Text(one.state if one.finished_at else "not finished", _STYLES[one.state]),
            *map(str, counts),
            power_of_ten(one.log10_p) if one.n_activated else "",
            f"{one.beta:.2g}" if one.n_silent and one.state != "active" else "",
        )
    return table
