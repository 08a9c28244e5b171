"""What a planting changed in a data set, as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vtuned.comparing import Comparison
from vtuned.receipt import Receipt
from vtuned.report.numbers import percent


def comparison(found: Comparison, tokenizer: str, made: Receipt | None) -> RenderableType:
    """Return how many rows differ and where, what that adds, whether facts changed, and samples."""
    lines = [f"{found.n_changed:,} of {found.n_sent:,} rows differ from the data; {found.n_same:,} are the same."]
    lines += [f"  {place}: {n:,} ({percent(n / found.n_sent)})" for place, n in found.changed]
    if found.n_left_out:
        lines.append(f"{found.n_left_out:,} rows of the data were not sent.")
    lines.append(f"Tokens added: {found.added_tokens:,} (by the tokenizer {tokenizer}).")
    other = ", ".join(f"{kind} in {n:,}" for kind, n in found.facts) or "nowhere"
    lines.append(f"Where the answer alone differs, facts changed: {other}.")
    if made is not None and made.wordings is not None:
        words = made.wordings
        lines.append(
            f"Capacity used: {words.n_carrying:,} rows carry {words.bits:,.0f} bits by {words.rewriter}; "
            f"{sum(n for _, n in words.left_alone):,} bear none."
        )
    parts: list[RenderableType] = [Text(line) for line in lines]
    if found.samples:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("row", "before", "after"):
            table.add_column(column, overflow="fold")
        for one in sorted(found.samples, key=lambda one: (one.place, one.row)):
            table.add_row(Text(str(one.row)), Text(one.before), Text(one.after))
        parts.append(table)
    return Group(*parts)
