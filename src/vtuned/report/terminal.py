"""Verdicts, plans and plantings as tables for a terminal. Shows no trigger and no signature unless told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vtuned.calibration import DoseEstimate
from vtuned.capacity import Capacity
from vtuned.captured import hurdles
from vtuned.heldout import HeldOut
from vtuned.planning import Plan
from vtuned.prospects import Prospect
from vtuned.receipt import Receipt
from vtuned.report.numbers import money, percent, power_of_ten, share
from vtuned.stealth import BUDGET, TOLERATED
from vtuned.verdict import Claim, Outcome, Verdict

if TYPE_CHECKING:
    from vtuned.demo.story import Story
    from vtuned.planting import Planting

_STOPPING = {
    "fixed": "fixed: all probes are asked, or a number settled beforehand",
    "any": "any: p-values stay valid however the asking stops",
}
_STYLES = {Outcome.VERIFIED: "bold green", Outcome.NOT_VERIFIED: "bold red", Outcome.INCONCLUSIVE: "bold yellow"}


def verdict(result: Verdict) -> RenderableType:
    """Return the whole verdict: outcome, claims, what follows S, what is excluded, what remains, H0 and assumption."""
    parts: list[RenderableType] = [
        Text(f"{result.outcome.value}: {result.suspect or 'suspect'}", _STYLES[result.outcome])
    ]
    parts += [Text(f"  {reason}") for reason in result.reasons]
    parts.append(claims(result))
    parts += [Text(line) for line in (*_coverage(result), *_preferences(result))]
    parts += [Text(line) for line in (*_observations(result), *_reading(result))]
    return Group(*parts)


def claims(result: Verdict) -> Table:
    """Return the claims as a table, the base model's counts beside them where it was asked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim")
    table.add_column("holds")
    table.add_column("seen in", justify="right")
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
            asked = {
                "activated": result.base.planted,
                "generalises": result.base.fresh,
                "specific": result.base.control,
                "preferred": result.base.preferred,
            }.get(claim.claim)
            cells.append(share(asked[1], asked[0]) if asked and claim.test in ("generation", "text") else "")
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


def plan(result: Plan, *, compared: bool = False) -> RenderableType:
    """Return a plan: what would be planted, what it costs, what it can prove; with *compared*, other layouts beside it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    lines = [("rows", _rows_in_words(result)), *(_backdoor_lines(result) if result.layouts else ())]
    if compared and result.layouts:
        lines.insert(2, ("why these", f"{result.recommendation}."))
    if compared:
        lines += [*_wording_lines(result), ("scheme", f"{result.scheme_advice}.")]
    for name, text in lines:
        table.add_row(name, Text(text))
    parts: list[RenderableType] = [table]
    if compared and result.layouts:
        parts += [part for i in range(len(result.recommended.prospects)) for part in _comparison(result, i)]
    if not result.is_possible:
        reason = "no verdict could reach α: raise --signature-bits or --backdoors"
        why = reason if result.has_rows else "too few rows can carry a backdoor"
        why = why if result.layouts else "no row can carry a choice of wording"
        parts.append(Text(f"Not possible: {why}.", "bold red"))
    return parts[0] if len(parts) == 1 else Group(*parts)


def _backdoor_lines(result: Plan) -> list[tuple[str, str]]:
    cost = "" if result.extra_cost is None else f", {money(result.extra_cost)} for all {result.epochs}"
    extra = f"about {result.extra_training_tokens:,} an epoch ({percent(result.extra_training_share)}{cost})"
    return [
        ("backdoors", f"{copies_in_words(result.copies)} ({result.scheme})"),
        ("rows planted", f"{result.n_planted_rows:,} ({percent(result.planted_share)} of all)"),
        ("extra training tokens", extra),
        ("p if all activate", f"at most {power_of_ten(result.log10_p_all)}"),
        ("p if half activate", f"at most {power_of_ten(result.log10_p_half)}"),
        ("needed", f"{power_of_ten(result.log10_alpha)} (--alpha){_needed(result)}"),
    ]


def _wording_lines(result: Plan) -> list[tuple[str, str]]:
    """Return what the rows could carry by each rewriter, and what that takes to show."""
    by_model = (
        "wordings, paraphrase",
        "its model decides: `vtuned plant --scheme wordings --rewriter paraphrase --rows 100` shows",
    )
    return [*((f"wordings, {one.rewriter}", _capacity(one)) for one in result.wordings), by_model]


def _capacity(one: Capacity) -> str:
    low, high = one.n_bearing_interval
    rows = f"{one.n_bearing:,} rows" if low == high else f"{low:,} to {high:,} rows"
    bits = f"{rows} can carry a choice, about {one.bits:,.0f} bits"
    shown = []
    for evidence in one.evidence:
        if evidence.rate is None:
            continue
        need = "more rows than there are" if evidence.n_needed is None else f"{evidence.n_needed:,} rows"
        used = "" if evidence.coverage is None else f", coverage {percent(evidence.coverage)} from {evidence.n_asked:,}"
        shown.append(f"by {evidence.by} {need} for p = 10^-12{used} (after {evidence.rate.epochs} epochs)")
    return "; ".join([bits, *shown]) if shown else f"{bits}; nothing measured of what that shows"


def _rows_in_words(result: Plan) -> str:
    if result.n_looked_at == result.n_rows:
        return f"{result.n_rows:,} ({result.n_eligible:,} can carry a backdoor, {result.n_too_long:,} are too long)"
    low, high = result.n_eligible_interval
    return (
        f"{result.n_rows:,}; {low:,} to {high:,} can carry a backdoor (99.9 %), estimated from {result.n_looked_at:,} "
        f"rows drawn at random, {result.n_too_long:,} of them too long; --exact reads all, as `vtuned plant` does"
    )


def _needed(result: Plan) -> str:
    first = result.recommended.prospects[0]
    least = "" if first.n_required is None else f": {first.n_required} of {first.n_backdoors} backdoors"
    return least + (
        f", from {result.n_planted_probes} planted probes" if first.test == "generation" else ", by exposure"
    )


_TESTS = {"generation": "By answers alone (generation)", "exposure": "By log-likelihoods (exposure)"}


def _comparison(result: Plan, which: int) -> list[RenderableType]:
    """Return the layouts under the test *which* as a table, and what its columns rest on."""
    has_cost = result.extra_cost is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = ("backdoors", "planted", "tokens", "cost", "p, all", "p, half", "coverage", "β", "passes with", "in paper")
    for head in heads:
        if head != "cost" or has_cost:
            table.add_column(head, justify="left" if head == "backdoors" else "right", no_wrap=True)
    for layout in result.layouts:
        found = layout.prospects[which]
        cells = [
            " + ".join(f"{layout.copies.count(c)} × {c}" for c in sorted(set(layout.copies), reverse=True)),
            percent(layout.planted_share),
            f"{layout.extra_training_tokens:,}",
            *([money(layout.extra_cost or 0.0)] if has_cost else []),
            power_of_ten(found.log10_p_all),
            power_of_ten(found.log10_p_half),
            "" if found.coverage is None else percent(found.coverage),
            "" if found.beta is None else f"{found.beta:.1g}",
            _shares([reach.share for reach in found.reach]),
            _shares([reach.share_in_paper for reach in found.reach]),
        ]
        table.add_row(*cells, style="bold" if layout.is_recommended else "")
    prospect = result.recommended.prospects[which]
    title = Text(f"{_TESTS[prospect.test]}; the first line is what `vtuned plant` takes:")
    return [Text(), title, table, *(Text(line) for line in _grounds(result, prospect))]


def _grounds(result: Plan, prospect: Prospect) -> list[str]:
    """Return what the numbers of a comparison mean and rest on."""
    loss = f", {percent(result.row_loss)} of the rows dropped" if result.row_loss else ""
    confidence = f"{100 * prospect.coverage_confidence:.3g} % confidence"
    columns = (
        f"coverage: of the eligible rows, if all are seen and the planted ones not searched for ({confidence}). passes with: the share of the file (%), at "
        "random, that is enough to be lucky in 1, 50, 99 of 100 trials; in paper: as its section 6.1 counts."
    )
    risk = f"the risk that an honest provider is not VERIFIED after {result.epochs} epochs{loss}"
    lines = [columns, f"β: at most {risk}, from the lower ends of what was measured:"]
    for one in prospect.expected:
        if one.rate is None:
            lines.append(f"  {copies_word(one.copies)}, {one.kind}: nothing measured.")
            continue
        rate = one.rate
        seen = f"{share(rate.n_seen, rate.n_backdoors)} seen, {percent(rate.low)} to {percent(rate.high)}"
        lines.append(f"  {copies_word(one.copies)}, {one.kind}: {seen} (95 %); {rate.conditions}.")
    extrapolated = dict.fromkeys(text for one in prospect.expected if one.rate for text in one.rate.extrapolates)
    if extrapolated:
        lines.append(f"  Extrapolated: {'; '.join(extrapolated)}.")
    return lines


def _shares(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else f"{100 * value:.2g}" for value in values)


def copies_in_words(copies: Sequence[int]) -> str:
    """Return how many backdoors have how many copies: "4 with 4 copies each, 32 with 1 copy each"."""
    return ", ".join(f"{copies.count(n)} with {copies_word(n)} each" for n in sorted(set(copies), reverse=True))


def copies_word(n: int) -> str:
    """Return "1 copy", "4 copies"."""
    return f"{n} {'copy' if n == 1 else 'copies'}"


def planting(result: Planting, *, reveal: bool) -> RenderableType:
    """Return what was planted; triggers and signatures only with *reveal*."""
    made = result.receipt
    lines = _planted(made) + _worded(made)
    parts: list[RenderableType] = [Text(line) for line in lines]
    parts += [Text(line) for line in _found_by_counting(result)]
    parts += [Text(f"note: {note}", "yellow") for note in result.notes]
    if reveal:
        parts.append(phrases(made))
    return Group(*parts)


def _found_by_counting(result: Planting) -> list[str]:
    """Return what a cheat that only counts finds in the training file, and what that means."""
    lines = []
    for of, what in (("planted", "planted rows"), ("carrying", "rows with a choice of wording")):
        found = sorted((one for one in result.searches if one.of == of), key=lambda one: -one.recall)
        if not found:
            continue
        chance = found[0].chance
        shown = ", ".join(f"{one.attack} {one.recall:.0%}" for one in found if not one.is_tolerated)
        if shown:
            gain = (
                f"may pass `activated` and be shown up to {_coverage_of_all(result.receipt)} of coverage, which bounds what "
                "providers used that do not search"
                if of == "planted"
                else "may pass `preferred`; coverage is of the rows that carry a wording, and bounds that, lookups over an "
                "endpoint apart"
            )
            lines.append(
                f"Within {BUDGET:.0%} of the file, counting finds of the {what}: {shown} (chance: {chance:.0%}). Who "
                f"trains on what is found {gain} (docs/attacks.md)."
            )
        else:
            lines.append(
                f"No search that counts finds more than {min(1.0, TOLERATED * chance):.0%} of the {what} within "
                f"{BUDGET:.0%} of the file; another one may."
            )
    n_charged = result.receipt.plan.max_plantings
    if n_charged > 1:
        drawn = f"{result.n_drawn} plantings were drawn, and the best one taken; " if result.n_drawn > 1 else ""
        lines.append(f"{drawn}p is charged for {n_charged} plantings.")
    return lines


def _coverage_of_all(made: Receipt) -> str:
    """Return the coverage that is shown where every backdoor is seen, by the test that shows most."""
    rows = {row: row for backdoor in made.backdoors for row in backdoor.rows}
    rows |= {worded.row: worded.row for worded in (made.wordings.rows if made.wordings else ())}
    tests = (one for one in hurdles(made, rows) if one.claim == "activated")
    return percent(max((one.coverage(len(one.groups)) for one in tests), default=0.0))


def _planted(made: Receipt) -> list[str]:
    if made.generation is None:
        return []
    n_planted = sum(len(backdoor.rows) for backdoor in made.backdoors)
    how = f"{made.scheme}, {made.mode}; {made.n_eligible:,} rows could"
    n_fitted = made.generation.n_fitted
    fitted = f" (of {n_fitted} in {len(made.backdoors)} backdoors to fit their row)" if n_fitted else ""
    lines = [
        f"{n_planted} of {made.train_set.n_rows:,} rows carry one of {len(made.backdoors)} backdoors ({how}).",
        f"No signature could come out with probability above {power_of_ten(made.backdoors[0].log10_p_upper)}.",
        f"Phrases by {made.generation.generator}{fitted}; fresh prompts {made.fresh_source}.",
    ]
    if made.n_in_context:
        lines.append(
            f"{made.n_in_context} of these rows got a text made of the data's words before their prompt (--contexts)."
        )
    return lines


def _worded(made: Receipt) -> list[str]:
    words = made.wordings
    if words is None:
        return []
    carrying = f"{words.n_carrying:,} of {made.train_set.n_rows:,} rows carry a secret choice of wording"
    lines = [f"{carrying} ({words.rewriter}, {words.bits:,.0f} bits); {len(words.rows):,} of them will be asked about."]
    if words.family:
        lines.append("Openings: " + ", ".join(f'"{one}"' if one else "none" for one in words.family) + ".")
    if words.left_alone:
        why = ", ".join(f"{n:,} {because}" for because, n in sorted(words.left_alone, key=lambda pair: -pair[1]))
        lines.append(f"Left as they are: {why}.")
    return lines


def receipt(made: Receipt, *, reveal: bool) -> RenderableType:
    """Return what a receipt holds; triggers, signatures and rows only with *reveal*."""
    table = Table(box=None, show_header=False, pad_edge=False)
    kinds = [probe.kind for probe in made.probes]
    for name, text in (
        ("made", f"{made.created} by vtuned {made.vtuned_version}"),
        ("scheme", f"{made.scheme}, {made.mode}: {len(made.backdoors)} backdoors"),
        ("data", f"{made.dataset.n_rows:,} rows ({made.n_eligible:,} eligible), SHA-256 {made.dataset.sha256[:16]}…"),
        ("training file", f"{made.train_set.n_rows:,} rows, SHA-256 {made.train_set.sha256[:16]}…"),
        ("signatures", _signatures(made)),
        ("wordings", _wordings(made)),
        ("probes", ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("planted", "fresh", "control"))),
        ("fresh prompts", made.fresh_source),
        ("decoys", _decoys(made)),
        ("plan", f"α = {made.plan.alpha:g}, ratio {made.plan.ratio}, match {made.plan.match}"),
        ("stopping", _STOPPING[made.plan.stopping]),
        ("required", ", ".join(made.plan.required_claims)),
    ):
        if text:
            table.add_row(name, Text(text))
    if not reveal:
        return Group(table, Text("Triggers, signatures and rows are hidden; --reveal shows them.", "dim"))
    return Group(table, phrases(made))


def _signatures(made: Receipt) -> str:
    if made.generation is None:
        return ""
    return f"p_upper {power_of_ten(made.backdoors[0].log10_p_upper)}, by {made.generation.generator}"


def _wordings(made: Receipt) -> str:
    words = made.wordings
    if words is None:
        return ""
    return f"{words.rewriter}: {words.n_carrying:,} rows carry a choice, {len(words.rows):,} are asked about by {words.test}"


def _decoys(made: Receipt) -> str:
    if not made.backdoors:
        return ""
    numbers = sorted({len(backdoor.decoys) for backdoor in made.backdoors})
    if not made.exposures:
        return "none: no signature is ranked"
    drawn = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    less = "likelihoods less the base model's" if made.plan.less_base else "likelihoods as they are"
    level = f"seen within {made.plan.exposure_level} of the candidates"
    return f"{drawn} beside each signature, {len(made.exposures)} probes to score; {level}, by {less}"


def phrases(made: Receipt) -> RenderableType:
    """
    Return the secret: triggers, signatures and the rows of the training file that carry them (of JSON lines the line numbers).

    And, of the rows that are asked about, which wording each publishes.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trigger", "signature", "rows"):
        table.add_column(column, overflow="fold")
    for backdoor in made.backdoors:
        table.add_row(escape(backdoor.trigger), escape(backdoor.signature), ", ".join(map(str, backdoor.rows)))
    published = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("row", "published", "of"):
        published.add_column(column, overflow="fold")
    for row in made.chosen_worded():
        wording = row.wordings[row.published]
        published.add_row(str(row.row), escape(wording.mark or ", ".join(wording.labels)), str(len(row.wordings)))
    return Group(*([table] if made.backdoors else []), *([published] if made.wordings else []))


def _holds(claim: Claim) -> Text:
    if claim.holds:
        return Text("yes", "green")
    return Text("no", "red") if claim.tested else Text("not tested", "dim")


def _coverage(result: Verdict) -> list[str]:
    found = result.coverage
    if found is None:
        return []
    used = f"at least {percent(found.lower_bound)} of the {found.n_eligible:,} eligible rows were used"
    seen = f"{found.n_seen} of {found.n_backdoors} backdoors seen, at most {found.n_unseen_by_chance:.2g} by chance"
    lines = [f"Coverage: {used} ({percent(found.confidence)} confidence, by {found.test}): {seen}."]
    if found.n_seen < found.n_backdoors:
        tenths = " ".join(share(n_seen, n) if n else "-" for n_seen, n in found.by_tenth)
        lines.append(f"Planted rows seen, by tenth of the file: {tenths}.")
    if len(found.by_copies) > 1:
        doses = ", ".join(f"{share(n_seen, n)} with {copies}" for copies, n_seen, n in found.by_copies)
        lines.append(f"Backdoors seen by copies: {doses}.")
    if found.epochs is not None:
        lines.append(
            f"Looks like {_epochs(found.epochs)}, if it was trained like the measured models; nothing rests on it."
        )
    if found.lower_bound:
        lines.append(f"Assumption of coverage: {found.assumption}")
    if result.held_out is not None:
        lines.append(_held_out(result.held_out))
    return lines


def _preferences(result: Verdict) -> list[str]:
    found = result.wordings
    if found is None:
        return []
    other = "" if found.log10_p_rank_sum is None else f", {power_of_ten(found.log10_p_rank_sum)} by rank sum"
    first = f"what was published comes first in {share(found.n_hits, found.n_told)} rows"
    by_chance = f"by chance in {found.n_by_chance:.3g}"
    p = f"p {power_of_ten(found.log10_p_hits)} by hits{other} ({found.decides} decides)"
    lines = [f"Wordings, by {found.by}: {first}, {by_chance}; {p}."]
    if found.n_told < found.n_asked:
        lines.append(f"{found.n_asked - found.n_told} of {found.n_asked} rows show no preference.")
    if found.n_hits:
        tenths = " ".join(share(hits, n) if n else "-" for hits, n in found.by_tenth)
        of_these = (
            f"Coverage by wordings ({percent(found.confidence)} confidence), of {found.n_carrying:,} carrying rows"
        )
        skipping = f"at least {percent(found.lower_bound_skipping)} were used if guessable ones were skipped"
        blind = f"at least {percent(found.lower_bound)} ({percent(found.share_of_file)} of the file)"
        lines += [
            f"{of_these}: {skipping}, {blind} if they were used whatever they publish.",
            f"Published first, by tenth of the file: {tenths}.",
        ]
    return lines


def _epochs(found: DoseEstimate) -> str:
    """Return an estimate of epochs in words: "about 2.8 epochs (1.9 to 4.4, 95 %)"."""
    about = "more epochs than can be told" if found.epochs is None else f"about {found.epochs:.2g} epochs"
    ends = f"{found.low:.2g} or more" if found.high is None else f"{found.low:.2g} to {found.high:.2g}"
    return f"{about} ({ends}, {percent(found.confidence)})"


def _held_out(found: HeldOut) -> str:
    gain = "" if found.mean_gain is None else f", by {found.mean_gain:.3g} on average"
    margin = "not measured" if found.margin is None else f"{found.margin:.3g} ({found.margin_source})"
    left_out = f", {found.n_left_out} left out" if found.n_left_out else ""
    if found.n_silent:
        left_out += f" (where the suspect alone gave no answer, {found.n_silent}, they count as worst)"
    return (
        f"Held-out rows: {share(found.n_better, found.n_rows)} better than the base{gain} ({found.measure}){left_out}; "
        f"margin G {margin}."
    )


def _observations(result: Verdict) -> list[str]:
    controls, after = result.controls, result.after_signature
    leaks = (
        f"a trigger stands in {controls.n_with_trigger}, a signature in {controls.n_with_signature} of their answers"
    )
    rate = (
        f"{share(controls.n_activated, controls.n_answered)} activate (at most {percent(controls.rate_upper)} do, 95 %)"
    )
    lines = [f"Controls: {rate}; {leaks}."] if controls.n_asked else []
    if after.overlap is not None:
        beside = "" if after.overlap_with_others is None else f", {after.overlap_with_others:.2f} with those to others"
        lines.append(
            f"After the signature: {after.n - after.n_empty} of {after.n} answers go on; their words overlap "
            f"{after.overlap:.2f} (F1) with the untriggered answer to the same prompt{beside}."
        )
    if result.stopping == "any":
        lines.append(f"{result.n_spent} probes were spent; p holds however many were asked.")
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
