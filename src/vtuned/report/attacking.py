"""What searches of a training file find, as tables for a terminal and as one HTML page. Shows no row, no T and no S."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vtuned.attacking import AttackReport, Cost, Found, Gain
from vtuned.report.numbers import percent

_OF = {"planted": "rows with a backdoor", "carrying": "rows that carry a wording"}
_TESTS = {"generation": "by answers", "exposure": "by likelihoods", "hits": "by wordings preferred"}
_BLIND = (
    "Without the receipt nobody can tell which of these rows are planted: give --receipt to see what the cheat gains."
)
_READING = (
    "Keeps: the rows that the attack itself takes for planted. At 1 %, 5 %, 10 %: what is found among the most suspicious "
    "rows of that number, ties counted by expectation; `random` is the yardstick."
)
_WORK = (
    "Least work: the share of the file with which a cheat that trains on this attack's first rows passes more often than "
    "not, if one row of a backdoor is enough for it to be learnt. Coverage shown: the lower bound of the verdict, beside "
    "it, on the share used of the rows that can carry a backdoor, or that carry a wording, and not of the whole file; a "
    "cheat is exposed where it is small, and coverage is fooled where it is more of these rows than the work."
)
_SILENT = "What these searches do not find, another attack may."


class _Sheet(NamedTuple):
    """A table: its *title*, the names of its columns, its lines, and how to read it."""

    title: str
    head: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    note: str


def report(found: AttackReport) -> RenderableType:
    """Return what was found, for a terminal."""
    parts: list[RenderableType] = [Text(_summary(found))]
    for sheet in _sheets(found):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=sheet.title, title_justify="left", title_style="bold")
        for i, column in enumerate(sheet.head):
            table.add_column(column, justify="right" if i else "left")
        for line in sheet.lines:
            table.add_row(*line)
        parts += [table, Text(sheet.note)] if sheet.note else [table]
    return Group(*parts, Text(_closing(found)))


def page(found: AttackReport) -> str:
    """Return what was found as one HTML page that needs nothing else."""
    parts = [f"<p>{escape(_summary(found))}</p>"]
    for sheet in _sheets(found):
        head = "".join(f"<th>{escape(column)}</th>" for column in sheet.head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>\n" for line in sheet.lines)
        parts.append(f"<h2>{escape(sheet.title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}</table>")
        parts += [f"<p>{escape(sheet.note)}</p>"] if sheet.note else []
    told = "".join(f"<dt>{escape(one.attack)}</dt><dd>{escape(one.told)}</dd>\n" for one in found.found)
    parts += [f"<h2>The attacks</h2>\n<dl>\n{told}</dl>", f"<p>{escape(_closing(found))}</p>"]
    return _PAGE.format(body="\n".join(parts), version=escape(found.vtuned_version))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>vtuned attack</title>
<style>
body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ccc; }}
th:first-child, td:first-child {{ text-align: left; }}
dt {{ font-weight: bold; }}
</style>
</head>
<body>
<h1>What a cheating provider can find in this file</h1>
{body}
<p>vtuned {version}</p>
</body>
</html>
"""


def _summary(found: AttackReport) -> str:
    planted = f", planted with the scheme {found.scheme}" if found.scheme else ""
    return f"{found.n_rows:,} rows ({found.row_format}){planted}."


def _closing(found: AttackReport) -> str:
    by_training = "" if found.tuned is None else f" and {found.tuned}, which was trained on the file"
    used = (
        "no language model"
        if found.model is None
        else f"the language model {found.model}{by_training}: a stronger one may find more"
    )
    return " ".join([*([] if found.scheme else [_BLIND]), f"They use {used}.", _SILENT])


def _sheets(found: AttackReport) -> Iterator[_Sheet]:
    gains = found.found[0].gains
    if not gains:
        told = [(*_kept(one), one.told) for one in found.found]
        yield _Sheet("What each attack would keep", ("attack", "keeps", "of the file", "looks for"), told, "")
    for i, first in enumerate(gains):
        shares = [percent(budget.share) for budget in first.budgets]
        head = ("attack", "keeps", "of the file", "recall", "precision", *(f"at {share}" for share in shares))
        lines = [(*_kept(one), *_gained(one.gains[i])) for one in found.found]
        title = f"{first.n_wanted:,} {_OF[first.of]}: what each attack finds (recall, precision)"
        yield _Sheet(title, head, lines, _READING if i == len(gains) - 1 else "")
    yield from _cost_sheets(found)
    if found.paper_search:
        mean = sum(one.share for one in found.paper_search) / len(found.paper_search)
        indexed = [(str(one.n_words), _short(one.share)) for one in found.paper_search]
        title = "The paper's search for frequent phrases (its Table 6): the share of the file to index until a planted row shows"
        yield _Sheet(title, ("words in the phrase", "of the file"), [*indexed, ("mean", _short(mean))], "")


def _cost_sheets(found: AttackReport) -> Iterator[_Sheet]:
    """Yield a table for each test; claims that cost the same share one."""
    head = ("attack", "least work", "coverage shown", "work for all", "coverage shown")
    alike: dict[tuple[str, tuple[tuple[str, ...], ...]], list[str]] = {}
    for i, cost in enumerate(found.found[0].costs):
        lines = tuple((one.attack, *_paid(one.costs[i])) for one in found.found)
        alike.setdefault((_hurdle(cost), lines), []).append(cost.claim)
    for done, ((hurdle, lines), claims) in enumerate(alike.items(), start=1):
        yield _Sheet(f"{' and '.join(claims)}, {hurdle}", head, lines, _WORK if done == len(alike) else "")


def _kept(one: Found) -> tuple[str, str, str]:
    return one.attack, f"{one.n_kept:,}", percent(one.share_kept)


def _gained(gain: Gain) -> Sequence[str]:
    budgets = [f"{_short(budget.recall)}, {_short(budget.precision)}" for budget in gain.budgets]
    return (_short(gain.recall), _short(gain.precision), *budgets)


def _hurdle(cost: Cost) -> str:
    what = "rows" if cost.test == "hits" else "backdoors"
    if cost.n_required is None:
        return f"{_TESTS[cost.test]}: not even all {cost.n_groups} {what} are enough"
    of = f"{_TESTS[cost.test]}: {cost.n_required} of {cost.n_groups} {what} must pass"
    n_lucky = cost.n_required - cost.n_needed
    return f"{of}, {n_lucky} of them by chance" if n_lucky else of


def _paid(cost: Cost) -> tuple[str, ...]:
    least = ("never", "–") if cost.share is None or cost.coverage is None else (cost.share, cost.coverage)
    shares = (*least, cost.share_of_all, cost.coverage_of_all)
    return tuple(share if isinstance(share, str) else percent(share) for share in shares)


def _short(share: float) -> str:
    return f"{100 * share:.1f} %"
