"""
What came out of a gauntlet: for each policy the claims that it passes, and what it saves.

Pure. Holds no trigger, no signature and no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from vtuned._version import __version__
from vtuned.documents import Record
from vtuned.receipt import ClaimName
from vtuned.verdict import Claim, Outcome, Test, Verdict

FORMAT: Literal["vtuned.gauntlet/1"] = "vtuned.gauntlet/1"
State = Literal["yes", "no", "not tested", "could not ask"]
CLAIMS: tuple[ClaimName, ...] = ("activated", "generalises", "specific", "learned the task")
# Whether a provider did what it was paid for. "in part": it trained that, and serves something else.
Conduct = Literal["honest", "in part", "cheat"]


class ClaimState(Record):
    """Whether a *claim* holds, in the words of a verdict; "could not ask" where nothing was answered."""

    claim: ClaimName
    state: State
    log10_p: float = Field(le=0)
    n_activated: int
    n_answered: int
    n_asked: int


class Bound(Record):
    """
    At least *lower_bound* of the *n_eligible* rows were used, at *confidence*, by *n_seen* of *n_backdoors* backdoors.

    *by* says what a backdoor was seen by.
    """

    lower_bound: float
    n_eligible: int
    confidence: float
    n_seen: int
    n_backdoors: int
    by: Test


class Round(Record):
    """
    What became of one *policy*, or in *trouble* why nothing did.

    *n_used* rows, *share_used* of those sent, it trained on, whole or in part; *cost* is the share of the training
    tokens of an honest provider that it spent; *trained_tokens* are those that its server told. *by_likelihoods* is the
    outcome of a second verdict, which rests on likelihoods instead of answers; *unscored* says why there is none.
    """

    policy: str
    does: str
    conduct: Conduct | None = None
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    claims: tuple[ClaimState, ...] = ()
    coverage: tuple[Bound, ...] = ()
    by_likelihoods: Outcome | None = None
    unscored: str | None = None
    mean_gain: float | None = None
    n_used: int | None = None
    share_used: float | None = None
    cost: float | None = None
    trained_tokens: int | None = None
    trouble: str | None = None
    seconds: float = Field(default=0.0, ge=0)

    @property
    def passes(self) -> bool:
        """Whether a provider that did not do what it was paid for is VERIFIED."""
        return self.conduct != "honest" and self.outcome is Outcome.VERIFIED

    @property
    def passes_coverage(self) -> bool:
        """Whether a bound says of more rows that they were used than were trained on."""
        return self.n_used is not None and any(one.lower_bound * one.n_eligible > self.n_used for one in self.coverage)

    def state(self, name: ClaimName) -> State | None:
        """Return how the claim called *name* stands, None where the verdict has none."""
        return next((one.state for one in self.claims if one.claim == name), None)

    def held(self) -> tuple[ClaimName, ...]:
        """Return the claims that hold."""
        return tuple(one.claim for one in self.claims if one.state == "yes")


class Gauntlet(Record):
    """
    The *rounds*, and what all of them had in common.

    *margin* is G of `learned the task`, from *margin_source*; *n_held_out* rows were never sent. *copies* are those of
    each backdoor.
    """

    format: Literal["vtuned.gauntlet/1"] = FORMAT
    vtuned_version: str = __version__
    data: str
    model: str
    n_rows: int
    n_planted_rows: int
    copies: tuple[int, ...]
    n_probes: int
    n_held_out: int
    measure: str
    margin: float
    margin_source: str
    epochs: int
    batch_size: int
    learning_rate: float
    machine: str
    rounds: tuple[Round, ...]


def state_of(claim: Claim) -> ClaimState:
    """Return how *claim* stands."""
    if claim.n_asked and not claim.n_answered:
        state: State = "could not ask"
    elif claim.holds:
        state = "yes"
    else:
        state = "no" if claim.tested else "not tested"
    return ClaimState(
        claim=claim.claim,
        state=state,
        log10_p=claim.log10_p,
        n_activated=claim.n_activated,
        n_answered=claim.n_answered,
        n_asked=claim.n_asked,
    )


def bounds_of(verdicts: Sequence[Verdict]) -> tuple[Bound, ...]:
    """Return what *verdicts* say of the share of the rows that was used."""
    found = [verdict.coverage for verdict in verdicts if verdict.coverage is not None]
    return tuple(
        Bound(
            lower_bound=one.lower_bound,
            n_eligible=one.n_eligible,
            confidence=one.confidence,
            n_seen=one.n_seen,
            n_backdoors=one.n_backdoors,
            by=one.test,
        )
        for one in found
    )


def summary(rounds: Sequence[Round]) -> tuple[str, ...]:
    """Return in plain words which cheats pass, which are caught by what, and what could not be told."""
    passing = [f"{one.policy} ({', '.join(one.held())})" for one in rounds if one.passes]
    lines = [f"VERIFIED, and not honest: {'; '.join(passing) or 'none'}."]
    learned = [one.policy for one in rounds if one.passes and one.state("learned the task") != "yes"]
    if learned:
        lines.append(f"Of these, `learned the task` does not hold for: {', '.join(learned)}.")
    looked_up = [one.policy for one in rounds if one.passes_coverage]
    if looked_up:
        lines.append(f"Coverage says more than was trained on for: {', '.join(looked_up)}.")
    missed = [one.policy for one in rounds if one.conduct == "honest" and one.outcome not in (Outcome.VERIFIED, None)]
    if missed:
        lines.append(f"Honest, and not VERIFIED: {', '.join(missed)}.")
    unscored = [f"{one.policy} ({one.unscored})" for one in rounds if one.unscored is not None]
    if unscored:
        lines.append(f"No likelihoods were had from: {'; '.join(unscored)}.")
    failed = [one.policy for one in rounds if one.trouble is not None]
    if failed:
        lines.append(f"No verdict, since something failed: {', '.join(failed)}.")
    return tuple(lines)


HEAD = ("policy", "outcome", *CLAIMS, "coverage at least", "trained on", "cost", "trained tokens")
# In which order coverage is told, and what it rests on.
BY = {"generation": "answers", "exposure": "likelihoods"}


def cells(one: Round) -> tuple[str, ...]:
    """Return the cells of a round under `HEAD`; empty where there is no verdict."""
    if one.outcome is None:
        return (one.policy, one.trouble or "", *[""] * (len(HEAD) - 2))
    states = {claim.claim: claim for claim in one.claims}
    claims = [_state(states[name]) if name in states else "" for name in CLAIMS]
    by = {bound.by: bound for bound in one.coverage}
    bounds = ", ".join(_percent(by[kind].lower_bound) for kind in BY if kind in by)
    return (
        one.policy,
        one.outcome.value,
        *claims,
        bounds,
        _percent(one.share_used),
        _percent(one.cost),
        "" if one.trained_tokens is None else f"{one.trained_tokens:,}",
    )


def _state(claim: ClaimState) -> str:
    is_counted = claim.claim in ("activated", "generalises") and claim.state in ("yes", "no")
    return f"{claim.state} {claim.n_activated}/{claim.n_answered}" if is_counted else claim.state


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def markdown(found: Gauntlet) -> str:
    """Return the table, what was the same for all, and what passes, as Markdown."""
    rows = [(f"`{name}`", *others) for name, *others in map(cells, found.rounds)]
    lines = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in (HEAD, ("---",) * len(HEAD), *rows)]
    return "\n".join([conditions(found), "", *lines, "", *(f"- {line}" for line in summary(found.rounds))]) + "\n"


def conditions(found: Gauntlet) -> str:
    """Return in a sentence what all rounds had in common."""
    spoken = ", ".join(f"{found.copies.count(n)} of {n}" for n in sorted(set(found.copies), reverse=True))
    return (
        f"{found.model}, {found.n_rows} rows, {found.n_planted_rows} of them planted (backdoors by copies: {spoken}); "
        f"{found.epochs} epochs, batch {found.batch_size}, learning rate {found.learning_rate:g}; {found.n_probes} probes; "
        f"{found.n_held_out} held-out rows by {found.measure}, G = {found.margin:.3g} ({found.margin_source}); "
        f"coverage by {', then by '.join(_coverage_by(found))}; {found.machine}."
    )


def _coverage_by(found: Gauntlet) -> list[str]:
    kinds = {bound.by for one in found.rounds for bound in one.coverage}
    return [name for kind, name in BY.items() if kind in kinds] or ["nothing"]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
