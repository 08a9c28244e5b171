"""Verdicts, plans and plantings as tables for a terminal. Shows no trigger and no signature unless told to."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vtuned.demo.story import Story
from vtuned.planning import Plan
from vtuned.planting import Planting
from vtuned.receipt import Receipt
from vtuned.report.numbers import percent, power_of_ten, share
from vtuned.verdict import Claim, Outcome, Verdict

_STYLES = {Outcome.VERIFIED: "bold green", Outcome.NOT_VERIFIED: "bold red", Outcome.INCONCLUSIVE: "bold yellow"}


def verdict(result: Verdict) -> RenderableType:
    """Return the whole verdict: outcome, claims, what follows S, what is excluded, what remains, H0 and assumption."""
    parts: list[RenderableType] = [
        Text(f"{result.outcome.value}: {result.suspect or 'suspect'}", _STYLES[result.outcome])
    ]
    parts += [Text(f"  {reason}") for reason in result.reasons]
    parts.append(claims(result))
    parts += [Text(line) for line in (*_observations(result), *_reading(result))]
    return Group(*parts)


def claims(result: Verdict) -> Table:
    """Return the claims as a table, the base model's counts beside them where it was asked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim")
    table.add_column("holds")
    table.add_column("activations", justify="right")
    table.add_column("backdoors", justify="right")
    table.add_column("p at most", justify="right")
    table.add_column("β", justify="right")
    if result.base:
        table.add_column("base", justify="right")
    for claim in result.claims:
        cells = [
            claim.claim,
            _holds(claim),
            share(claim.n_activated, claim.n_answered),
            share(claim.n_passed, claim.n_backdoors) if claim.n_backdoors else "",
            power_of_ten(claim.log10_p) if claim.tested or claim.claim != "specific" else "",
            f"{claim.beta:.2g}" if claim.beta is not None and not claim.holds else "",
        ]
        if result.base:
            answered, activated = {
                "activated": result.base.planted,
                "generalises": result.base.fresh,
                "specific": result.base.control,
            }[claim.claim]
            cells.append(share(activated, answered))
        table.add_row(*cells)
    return table


def side_by_side(verdicts: Sequence[tuple[str, Verdict]]) -> Table:
    """Return one line a provider: its outcome, and for each claim whether it holds, activations and p-value."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("provider", "outcome", "activated", "generalises", "specific"):
        table.add_column(column, no_wrap=True)
    for name, result in verdicts:
        cells = [Text.assemble(_holds(claim), f" {_count_and_p(claim)}") for claim in result.claims]
        table.add_row(name, Text(result.outcome.value, _STYLES[result.outcome]), *cells)
    return table


def _count_and_p(claim: Claim) -> str:
    count = share(claim.n_activated, claim.n_answered)
    return f"{count}, p ≤ {power_of_ten(claim.log10_p)}" if claim.tested else count


def story(told: Story) -> RenderableType:
    """Return the demo's report: the plan, the providers side by side, and what each teaches."""
    lessons = [Text(f"{provider.name}: {provider.did}. {provider.lesson}") for provider in told.providers]
    table = side_by_side([(provider.name, provider.verdict) for provider in told.providers])
    return Group(plan(told.plan), table, *lessons)


def plan(result: Plan) -> RenderableType:
    """Return a plan: what would be planted, what it costs, what it can prove."""
    table = Table(box=None, show_header=False, pad_edge=False)
    lines = [
        ("rows", f"{result.n_rows:,} ({result.n_eligible:,} can carry a backdoor, {result.n_too_long:,} are too long)"),
        ("backdoors", f"{result.n_backdoors} with {result.copies} copies each ({result.scheme})"),
        ("rows planted", f"{result.n_planted_rows:,} ({percent(result.planted_share)} of all)"),
        (
            "extra training tokens",
            f"about {result.extra_training_tokens:,} an epoch ({percent(result.extra_training_share)})",
        ),
        ("p if all activate", f"at most {power_of_ten(result.log10_p_all)}"),
        ("p if half activate", f"at most {power_of_ten(result.log10_p_half)}"),
        ("needed", f"{power_of_ten(result.log10_alpha)} (--alpha), from {result.n_planted_probes} planted probes"),
    ]
    for name, text in lines:
        table.add_row(name, Text(text))
    if result.is_possible:
        return table
    why = "no verdict could reach α: raise --signature-bits" if result.has_rows else "too few rows can carry a backdoor"
    return Group(table, Text(f"Not possible: {why}.", "bold red"))


def planting(result: Planting, *, reveal: bool) -> RenderableType:
    """Return what was planted; triggers and signatures only with *reveal*."""
    made = result.receipt
    n_planted = sum(len(backdoor.rows) for backdoor in made.backdoors)
    how = f"{made.scheme}, {made.mode}; {made.n_eligible:,} rows could"
    lines = [
        f"{n_planted} of {made.train_set.n_rows:,} rows carry one of {len(made.backdoors)} backdoors ({how}).",
        f"No signature could come out with probability above {power_of_ten(made.backdoors[0].log10_p_upper)}.",
        f"Phrases by {made.generation.generator}; fresh prompts {made.fresh_source}.",
    ]
    if made.n_in_context:
        lines.append(
            f"{made.n_in_context} of these rows got a text made of the data's words before their prompt (--contexts)."
        )
    parts: list[RenderableType] = [Text(line) for line in lines]
    parts += [Text(f"note: {note}", "yellow") for note in result.notes]
    if reveal:
        parts.append(phrases(made))
    return Group(*parts)


def receipt(made: Receipt, *, reveal: bool) -> RenderableType:
    """Return what a receipt holds; triggers, signatures and rows only with *reveal*."""
    table = Table(box=None, show_header=False, pad_edge=False)
    kinds = [probe.kind for probe in made.probes]
    for name, text in (
        ("made", f"{made.created} by vtuned {made.vtuned_version}"),
        ("scheme", f"{made.scheme}, {made.mode}: {len(made.backdoors)} backdoors"),
        ("data", f"{made.dataset.n_rows:,} rows ({made.n_eligible:,} eligible), SHA-256 {made.dataset.sha256[:16]}…"),
        ("training file", f"{made.train_set.n_rows:,} rows, SHA-256 {made.train_set.sha256[:16]}…"),
        ("signatures", f"p_upper {power_of_ten(made.backdoors[0].log10_p_upper)}, by {made.generation.generator}"),
        ("probes", ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("planted", "fresh", "control"))),
        ("fresh prompts", made.fresh_source),
        ("plan", f"α = {made.plan.alpha:g}, ratio {made.plan.ratio}, match {made.plan.match}"),
        ("required", ", ".join(made.plan.required_claims)),
    ):
        table.add_row(name, Text(text))
    if not reveal:
        return Group(table, Text("Triggers, signatures and rows are hidden; --reveal shows them.", "dim"))
    return Group(table, phrases(made))


def phrases(made: Receipt) -> Table:
    """Return the secret: triggers, signatures and the rows of the training file that carry them (of JSON lines the line numbers)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trigger", "signature", "rows"):
        table.add_column(column, overflow="fold")
    for backdoor in made.backdoors:
        table.add_row(escape(backdoor.trigger), escape(backdoor.signature), ", ".join(map(str, backdoor.rows)))
    return table


def _holds(claim: Claim) -> Text:
    if claim.holds:
        return Text("yes", "green")
    return Text("no", "red") if claim.tested else Text("not tested", "dim")


def _observations(result: Verdict) -> list[str]:
    controls, after = result.controls, result.after_signature
    leaks = (
        f"a trigger stands in {controls.n_with_trigger}, a signature in {controls.n_with_signature} of their answers"
    )
    rate = (
        f"{share(controls.n_activated, controls.n_answered)} activate (at most {percent(controls.rate_upper)} do, 95 %)"
    )
    lines = [f"Controls: {rate}; {leaks}."]
    if after.overlap is not None:
        beside = "" if after.overlap_with_others is None else f", {after.overlap_with_others:.2f} with those to others"
        lines.append(
            f"After the signature: {after.n - after.n_empty} of {after.n} answers go on; their words overlap "
            f"{after.overlap:.2f} (F1) with the untriggered answer to the same prompt{beside}."
        )
    if result.base:
        lines.append(f"The base model beside it: {result.base.name}.")
    if result.unanswered:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.unanswered.items())
        lines.append(f"Not answered: {reasons}.")
    return lines


def _reading(result: Verdict) -> list[str]:
    excluded = list(dict.fromkeys(cheat for claim in result.claims if claim.holds for cheat in claim.excludes))
    return [
        "",
        f"H0: {result.h0} α = {result.alpha:g}."
        + (f" p is charged for {result.max_plantings} plantings." if result.max_plantings > 1 else ""),
        *(f"Assumption of {claim.claim}: {claim.assumption}" for claim in result.claims if claim.holds),
        "Excluded: " + ("; ".join(excluded) if excluded else "nothing") + ".",
        "Not excluded: " + "; ".join(result.remaining_cheats) + ".",
    ]
