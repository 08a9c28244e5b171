"""
The verdict: from the receipt and the answers, by a fixed rule, to an outcome whose every number can be checked.

`judge` decides. It is pure: no model, no file, no clock, no randomness. A suspect that fails is a result, not an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pydantic import Field

from vtuned._version import __version__
from vtuned.documents import ExactFraction, Record
from vtuned.errors import AnswersError
from vtuned.ladder import ALWAYS_REMAINING, H0, NEGATIVE_IS_NO_ACCUSATION, RUNGS
from vtuned.probes import AnswerRecord
from vtuned.receipt import ClaimName, Kind, Receipt, StatisticalPlan
from vtuned.stats import (
    clopper_pearson,
    clopper_pearson_upper,
    log10_binomial_tail,
    log10_guess_bound,
    log10_poisson_binomial_tail,
)
from vtuned.tally import KINDS, AfterSignature, BackdoorTally, Controls, Counts, Tally, tally

FORMAT: Literal["vtuned.verdict/1"] = "vtuned.verdict/1"
_CONFIDENCE = 0.95
# One chain so far: each claim is tested only after the one before it held, so no further correction is due.
_CHAIN: tuple[tuple[ClaimName, Kind], ...] = (("activated", "planted"), ("generalises", "fresh"))


class Outcome(Enum):
    """What the answers say about the receipt."""

    VERIFIED = "VERIFIED"
    NOT_VERIFIED = "NOT VERIFIED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Claim(Record):
    """
    One rung of the ladder.

    *log10_p* bounds the probability, under H0, of so many backdoors passing. *beta* is the probability that an honest
    provider would look like this. *activation_rate* is over the answered probes, with its 95 % interval.
    """

    claim: ClaimName
    holds: bool
    tested: bool
    is_required: bool
    statement: str
    log10_p: float = Field(le=0)
    n_asked: int
    n_answered: int
    n_activated: int
    activation_rate: float | None
    activation_rate_interval: tuple[float, float]
    n_backdoors: int
    n_passed: int
    beta: float | None
    bound: str
    assumption: str
    excludes: tuple[str, ...]
    does_not_exclude: tuple[str, ...]


class BackdoorResult(Record):
    """How one backdoor did on one kind of probe; *log10_p_guess* bounds the chance of its passing under H0."""

    backdoor: int
    kind: Kind
    n_asked: int
    n_answered: int
    n_activated: int
    required: int
    passed: bool
    log10_p_upper: float
    log10_p_guess: float


class ControlResult(Record):
    """
    Probes without a trigger; *rate_upper* is the one-sided 95 % Clopper–Pearson bound of their activation rate.

    Of the prompts asked with and without T, *n_with_only* activate with T alone, *n_without_only* without T alone.
    """

    n_asked: int
    n_answered: int
    n_activated: int
    n_with_only: int
    n_without_only: int
    rate_upper: float
    n_with_trigger: int
    n_with_signature: int


class BaseResult(Record):
    """How often the base model activated on the same probes, by kind: (answered, activated)."""

    name: str
    planted: tuple[int, int]
    fresh: tuple[int, int]
    control: tuple[int, int]


class Verdict(Record):
    """The outcome, its claims, and everything they rest on. Holds no trigger, no signature, no answer."""

    format: Literal["vtuned.verdict/1"] = FORMAT
    vtuned_version: str = __version__
    outcome: Outcome
    reasons: tuple[str, ...]
    suspect: str
    receipt_digest: str
    h0: str = H0
    alpha: float
    log10_alpha: float
    ratio: ExactFraction
    max_plantings: int
    claims: tuple[Claim, ...]
    controls: ControlResult
    backdoors: tuple[BackdoorResult, ...]
    after_signature: AfterSignature
    unanswered: dict[str, int]
    remaining_cheats: tuple[str, ...]
    base: BaseResult | None = None

    def claim(self, name: ClaimName) -> Claim:
        """Return the claim called *name*. Raises KeyError where the verdict has none."""
        for claim in self.claims:
            if claim.claim == name:
                return claim
        raise KeyError(name)


def judge(
    receipt: Receipt,
    answers: Iterable[AnswerRecord],
    *,
    n: int | None = None,
    suspect: str = "",
    base_answers: tuple[str, Sequence[AnswerRecord]] | None = None,
) -> Verdict:
    """
    Decide, from answers already collected, whether the receipt's backdoors are there.

    *n* says that only the first n probes of each kind were asked (see `Receipt.chosen`). *base_answers* (name,
    answers) are shown beside, and decide nothing. A p-value is that of one look: whoever judges several endpoints or
    runs multiplies it by their number. Raises AnswersError where an answer belongs to no probe of this receipt.
    """
    probes = receipt.chosen(n)
    records = list(answers)
    _check_ids(receipt, records)
    _check_ids(receipt, base_answers[1] if base_answers else ())
    counted = tally(receipt, records, probes)
    claims = _claims(receipt.plan, counted)
    outcome, reasons = decide(receipt.plan, claims, counted)
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        suspect=suspect,
        receipt_digest=receipt.digest(),
        alpha=receipt.plan.alpha,
        log10_alpha=math.log10(receipt.plan.alpha),
        ratio=receipt.plan.ratio,
        max_plantings=receipt.plan.max_plantings,
        claims=claims,
        controls=_control_result(counted.controls),
        backdoors=tuple(_backdoor_result(kind, t) for kind, tallies in counted.by_kind.items() for t in tallies),
        after_signature=counted.after_signature,
        unanswered=dict(sorted(counted.unanswered.items())),
        remaining_cheats=_remaining(claims),
        base=_base_result(base_answers[0], tally(receipt, base_answers[1], probes)) if base_answers else None,
    )


def decide(plan: StatisticalPlan, claims: Sequence[Claim], counted: Tally) -> tuple[Outcome, tuple[str, ...]]:
    """
    Return the outcome and its reasons.

    VERIFIED iff every required claim holds. INCONCLUSIVE if a required claim fails while too few of its probes were
    answered, or while an honest provider could look like this (β above the plan's limit). Else NOT VERIFIED.
    """
    kinds = dict(_CHAIN)
    for claim in claims:
        if not claim.is_required or claim.holds:
            continue
        kind = kinds[claim.claim]
        counts = counted.total(kind)
        if counts.n_answered < plan.min_answered * counts.n_asked or counts.n_asked == 0:
            why = ", ".join(f"{count} {reason}" for reason, count in sorted(counted.unanswered.items()))
            return Outcome.INCONCLUSIVE, (
                f"too few {kind} probes were answered: {counts.n_answered} of {counts.n_asked}"
                + (f" ({why})" if why else ""),
            )
        assert claim.beta is not None
        beta = claim.beta
        failed = f"'{claim.claim}' does not hold: {claim.n_passed} of {claim.n_backdoors} backdoors pass"
        if claim.n_passed == claim.n_backdoors:
            failed += f", and even so p is above α = {plan.alpha:g}"
        if beta > plan.max_beta:
            return Outcome.INCONCLUSIVE, (f"{failed}, but an honest provider could look like this (β = {beta:.3g})",)
        share = NEGATIVE_IS_NO_ACCUSATION.format(share=plan.honest_activation)
        return Outcome.NOT_VERIFIED, (f"{failed} (β = {beta:.3g})", share)
    return Outcome.VERIFIED, ("every required claim holds",)


def _claims(plan: StatisticalPlan, counted: Tally) -> tuple[Claim, ...]:
    claims, is_open = [], True
    for name, kind in _CHAIN:
        claim = _activation_claim(plan, name, counted.by_kind[kind], counted.total(kind), is_open=is_open)
        is_open = is_open and claim.holds
        claims.append(claim)
    claims.append(_specific_claim(plan, counted))
    return tuple(claims)


def _activation_claim(
    plan: StatisticalPlan, name: ClaimName, tallies: Sequence[BackdoorTally], counts: Counts, *, is_open: bool
) -> Claim:
    n_passed = sum(t.passed for t in tallies)
    log10_p = log10_poisson_binomial_tail(n_passed, [_log10_guess(t) for t in tallies]) if tallies else 0.0
    # Whoever might have kept the nicest of several plantings had that many chances.
    log10_p = min(0.0, log10_p + math.log10(plan.max_plantings))
    test = _Test(
        tested=is_open and counts.n_answered > 0,
        log10_p=log10_p,
        bound="Poisson-binomial tail over backdoors, each passing with probability at most floor(n/k) p_upper",
        n_passed=n_passed,
        n_backdoors=len(tallies),
        beta=_beta(plan, tallies, n_passed),
    )
    return _claim(plan, name, test, counts)


def _specific_claim(plan: StatisticalPlan, counted: Tally) -> Claim:
    controls = counted.controls
    n_differing = controls.n_with_only + controls.n_without_only
    tested = controls.n_answered >= plan.min_controls and n_differing > 0
    log10_p = log10_binomial_tail(controls.n_with_only, n_differing, math.log10(0.5)) if tested else 0.0
    bound = "sign test over prompts asked with and without the trigger, exact and one-sided"
    return _claim(plan, "specific", _Test(tested, log10_p, bound), counted.total("control"))


@dataclass(frozen=True, slots=True)
class _Test:
    """How a claim was tested, and what came out."""

    tested: bool
    log10_p: float
    bound: str
    n_passed: int = 0
    n_backdoors: int = 0
    beta: float | None = None


def _claim(plan: StatisticalPlan, name: ClaimName, test: _Test, counts: Counts) -> Claim:
    rung = RUNGS[name]
    return Claim(
        claim=name,
        holds=test.tested and test.log10_p <= math.log10(plan.alpha),
        tested=test.tested,
        is_required=name in plan.required_claims,
        statement=rung.statement,
        log10_p=test.log10_p,
        n_asked=counts.n_asked,
        n_answered=counts.n_answered,
        n_activated=counts.n_activated,
        activation_rate=counts.n_activated / counts.n_answered if counts.n_answered else None,
        activation_rate_interval=clopper_pearson(counts.n_activated, counts.n_answered, _CONFIDENCE),
        n_passed=test.n_passed,
        n_backdoors=test.n_backdoors,
        beta=test.beta,
        bound=test.bound,
        assumption=rung.assumption,
        excludes=rung.excludes,
        does_not_exclude=rung.does_not_exclude,
    )


def _log10_guess(t: BackdoorTally) -> float:
    return log10_guess_bound(t.n_asked, t.required, t.log10_p_upper)


def _beta(plan: StatisticalPlan, tallies: Sequence[BackdoorTally], n_passed: int) -> float:
    """
    Return the probability that at most *n_passed* backdoors pass for an honest provider.

    Given its model, each backdoor activates on a share of all such prompts, the plan's `honest_activation` at least;
    the probes are a random choice of prompts, so hits are binomial over the answered ones (docs/theory.md, 5).
    """
    log10_miss = math.log10(1 - plan.honest_activation)
    log10_fails = [log10_binomial_tail(t.n_answered - t.required + 1, t.n_answered, log10_miss) for t in tallies]
    return float(10 ** log10_poisson_binomial_tail(len(tallies) - n_passed, log10_fails))


def _remaining(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Return the cheats that are left: what no claim that holds excludes."""
    chain = {name for name, _ in _CHAIN}
    held = [claim for claim in claims if claim.holds and claim.claim in chain]
    left = [cheat for claim in claims if not claim.holds for cheat in claim.excludes]
    left += [cheat for claim in (held[-1:] or claims) for cheat in claim.does_not_exclude]
    return tuple(dict.fromkeys((*left, *ALWAYS_REMAINING)))


def _backdoor_result(kind: Kind, t: BackdoorTally) -> BackdoorResult:
    return BackdoorResult(
        backdoor=t.backdoor,
        kind=kind,
        n_asked=t.n_asked,
        n_answered=t.n_answered,
        n_activated=t.n_activated,
        required=t.required,
        passed=t.passed,
        log10_p_upper=t.log10_p_upper,
        log10_p_guess=_log10_guess(t),
    )


def _control_result(controls: Controls) -> ControlResult:
    return ControlResult(
        n_asked=controls.n_asked,
        n_answered=controls.n_answered,
        n_activated=controls.n_activated,
        n_with_only=controls.n_with_only,
        n_without_only=controls.n_without_only,
        rate_upper=clopper_pearson_upper(controls.n_activated, controls.n_answered, _CONFIDENCE),
        n_with_trigger=controls.n_with_trigger,
        n_with_signature=controls.n_with_signature,
    )


def _base_result(name: str, counted: Tally) -> BaseResult:
    planted, fresh, control = (counted.total(kind) for kind in KINDS)
    return BaseResult(name=name, planted=planted[1:], fresh=fresh[1:], control=control[1:])


def _check_ids(receipt: Receipt, records: Sequence[AnswerRecord]) -> None:
    known = {probe.id for probe in receipt.probes}
    strangers = [record.id for record in records if record.id not in known]
    if strangers:
        raise AnswersError(
            "answers",
            0,
            f"{len(strangers)} of {len(records)} answers have an id that is not in this receipt (such as {strangers[0][:20]!r})",
            hint="give the answers to the probes of this receipt: `vtuned challenges` writes them",
        )
