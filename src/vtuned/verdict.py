"""
The verdict: from the receipt and the answers, by a fixed rule, to an outcome whose every number can be checked.

`judge` decides. It is pure: no model, no file, no clock, no randomness. A suspect that fails is a result, not an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

from pydantic import Field

from vtuned import preference, wordings
from vtuned._version import __version__
from vtuned.calibration import DoseEstimate, exposures_estimate
from vtuned.documents import ExactFraction, Record
from vtuned.errors import AnswersError
from vtuned.exposure import Exposure, ScoreRecord, exposures
from vtuned.heldout import BY_HAND, CALIBRATED, HeldOut
from vtuned.ladder import (
    ALWAYS_REMAINING,
    BLINDLY_CHOSEN,
    COVERAGE_ASSUMPTION,
    FEW_HITS_ARE_NO_ACCUSATION,
    FEW_TAKEN_UP,
    H0,
    H0_WORDINGS,
    NEGATIVE_IS_NO_ACCUSATION,
    PART_OF_THE_CARRYING,
    PART_OF_THE_ROWS,
    PLANTED_ROWS_ALONE,
    RUNGS,
    SCORED_ELSEWHERE,
    SILENT_RANK_IS_NO_ACCUSATION,
    SYMMETRIC,
)
from vtuned.preference import Preference
from vtuned.probes import AnswerRecord
from vtuned.receipt import ClaimName, Kind, PlannedProbe, Receipt, StatisticalPlan
from vtuned.stats import (
    clopper_pearson,
    clopper_pearson_upper,
    coverage_lower_bound,
    log10_binomial_tail,
    log10_e_p_value,
    log10_e_value,
    log10_guess_bound,
    log10_poisson_binomial_tail,
    probability_at_most,
)
from vtuned.tally import FEWEST_COPIES_THAT_SHOW, KINDS, AfterSignature, BackdoorTally, Controls, Counts, Tally, tally
from vtuned.wordings import WordingsResult

FORMAT: Literal["vtuned.verdict/1"] = "vtuned.verdict/1"
_CONFIDENCE = 0.95
# One chain so far: each claim is tested only after the one before it held, so no further correction is due.
Test = Literal["generation", "exposure", "held-out rows", "log-likelihoods", "text"]
Exposed: TypeAlias = Mapping[Kind, Sequence[Exposure]]

_TAILS = {"fixed": "Poisson-binomial tail", "any": "e-value, valid at every look,"}
_CHAIN: tuple[tuple[ClaimName, Kind], ...] = (("activated", "planted"), ("generalises", "fresh"))


class Outcome(Enum):
    """What the answers say about the receipt."""

    VERIFIED = "VERIFIED"
    NOT_VERIFIED = "NOT VERIFIED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Claim(Record):
    """
    One rung of the ladder.

    *log10_p* bounds the probability, under H0, of so many backdoors passing the *test*. *beta* is the probability that
    an honest provider would look like this. *activation_rate* is over the answered probes, with its 95 % interval; by
    exposure a probe is answered where it was scored, and activates where its signature ranks high enough. *rests_on*
    says which backdoors, or rows.
    """

    claim: ClaimName
    holds: bool
    tested: bool
    is_required: bool
    test: Test
    rests_on: str
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
    """
    How one backdoor, carried by *n_copies* rows, did on one kind of probe.

    *log10_p_guess* bounds the chance of its passing under H0.
    """

    backdoor: int
    n_copies: int
    kind: Kind
    n_asked: int
    n_answered: int
    n_activated: int
    required: int
    passed: bool
    log10_p_upper: float
    log10_p_guess: float


class ExposureResult(Record):
    """Where one signature ranked among its decoys on one kind of prompt: 1 is first; None where it was not scored."""

    backdoor: int
    n_copies: int
    kind: Kind
    n_decoys: int
    rank: int | None
    level: ExactFraction
    passed: bool


class CoverageResult(Record):
    """
    At least *lower_bound* of the eligible rows that were sent were used, at *confidence*: a share of *n_eligible*.

    *n_seen* of *n_backdoors* backdoors passed the *test* on planted probes; *n_unseen_by_chance* of them are expected to
    pass at most without having been used. *by_tenth* counts, for each tenth of the file from its start, the planted rows
    whose backdoor was seen, and all planted rows: one silent stretch looks like a missing part. *by_copies* holds
    (copies, backdoors seen, backdoors). *epochs* says how many these look like where there are two numbers of copies and
    training was measured by the same test; an estimate, on which nothing rests.
    """

    test: Test
    n_backdoors: int
    n_seen: int
    n_unseen_by_chance: float
    n_eligible: int
    lower_bound: float
    confidence: float
    by_tenth: tuple[tuple[int, int], ...]
    by_copies: tuple[tuple[int, int, int], ...]
    epochs: DoseEstimate | None = None
    bound: str
    assumption: str


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
    """
    How often the base model activated on the same probes, by kind: (answered, activated).

    *preferred*: in how many rows with a choice of wording it takes one up, and in how many the published one; None where
    it was not asked about them.
    """

    name: str
    planted: tuple[int, int]
    fresh: tuple[int, int]
    control: tuple[int, int]
    preferred: tuple[int, int] | None = None


class Verdict(Record):
    """
    The outcome, its claims, and everything they rest on. Holds no trigger, no signature, no answer.

    *n_spent* probes were put to the suspect or scored.
    """

    format: Literal["vtuned.verdict/1"] = FORMAT
    vtuned_version: str = __version__
    outcome: Outcome
    reasons: tuple[str, ...]
    suspect: str
    receipt_digest: str
    h0: str
    alpha: float
    log10_alpha: float
    ratio: ExactFraction
    max_plantings: int
    stopping: Literal["fixed", "any"]
    n_spent: int
    claims: tuple[Claim, ...]
    coverage: CoverageResult | None
    wordings: WordingsResult | None = None
    held_out: HeldOut | None = None
    controls: ControlResult
    backdoors: tuple[BackdoorResult, ...]
    exposures: tuple[ExposureResult, ...] = ()
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
    scores: Iterable[ScoreRecord] | None = None,
    held_out: HeldOut | None = None,
) -> Verdict:
    """
    Decide, from answers already collected, whether the receipt's backdoors are there.

    With *scores*, what the suspect gave signatures among their decoys and the wordings of rows, claims are tested by
    these; without, by what it says. *held_out* adds what was measured on rows never sent.

    *n* says that only the first n probes of each kind were asked (see `Receipt.chosen`). *base_answers* (name,
    answers) are shown beside, and decide nothing. A p-value is that of one look: whoever judges several endpoints or
    runs multiplies it by their number. Raises AnswersError where an answer belongs to no probe of this receipt, and
    UsageError for *n* where the receipt's plan is to stop at any time.
    """
    receipt.check_prefix(n)
    probes = receipt.chosen(n)
    records = list(answers)
    _check_ids(receipt, records)
    _check_ids(receipt, base_answers[1] if base_answers else ())
    counted = tally(receipt, records, probes)
    given = None if scores is None else list(scores)
    exposed = None if given is None or (receipt.wordings and not receipt.exposures) else exposures(receipt, given, n)
    worded = _worded(receipt, records, given, n)
    claims = _claims(receipt, counted, exposed, worded, held_out)
    unanswered = _unanswered(counted, worded)
    outcome, reasons = decide(receipt, claims, *unanswered)
    coverage = _coverage(receipt, counted, exposed)
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        suspect=suspect,
        receipt_digest=receipt.digest(),
        h0=_h0(receipt),
        alpha=receipt.plan.alpha,
        log10_alpha=math.log10(receipt.plan.alpha),
        ratio=receipt.plan.ratio,
        max_plantings=receipt.plan.max_plantings,
        stopping=receipt.plan.stopping,
        n_spent=_n_spent(records, given),
        claims=claims,
        coverage=coverage,
        wordings=worded.found if worded else None,
        held_out=held_out,
        controls=_control_result(counted.controls),
        backdoors=tuple(_backdoor_result(kind, t) for kind, tallies in counted.by_kind.items() for t in tallies),
        exposures=tuple(_exposure_result(receipt, one) for some in (exposed or {}).values() for one in some),
        after_signature=counted.after_signature,
        unanswered=dict(sorted((unanswered[0] + unanswered[1]).items())),
        remaining_cheats=_remaining(claims, coverage, worded.found if worded else None, held_out),
        base=_base_result(receipt, *base_answers, probes, n) if base_answers else None,
    )


def _h0(receipt: Receipt) -> str:
    said = [H0] if receipt.backdoors else []
    return " ".join([*said, H0_WORDINGS] if receipt.wordings else said)


def decide(
    receipt: Receipt, claims: Sequence[Claim], unanswered: Mapping[str, int], unanswered_rows: Mapping[str, int]
) -> tuple[Outcome, tuple[str, ...]]:
    """
    Return the outcome and its reasons; *unanswered* counts why probes were not, *unanswered_rows* why rows with a choice.

    VERIFIED iff every required claim holds. INCONCLUSIVE if a required claim fails while too few of its probes were
    answered, or while an honest provider could look like this (β above the plan's limit). Else NOT VERIFIED.
    """
    plan = receipt.plan
    for claim in claims:
        if not claim.is_required or claim.holds:
            continue
        if claim.n_answered < plan.min_answered * claim.n_asked or claim.n_asked == 0:
            missing = unanswered_rows if claim.claim == "preferred" else unanswered
            why = ", ".join(f"{count} {reason}" for reason, count in sorted(missing.items()))
            done = "answered" if claim.test in ("generation", "text") else "scored"
            return Outcome.INCONCLUSIVE, (
                f"too few {_ASKED[claim.claim]} were {done}: {claim.n_answered} of {claim.n_asked}"
                + (f" ({why})" if why else ""),
            )
        assert claim.beta is not None
        beta = claim.beta
        failed = f"'{claim.claim}' does not hold: {_passed(plan, claim)}"
        if beta > plan.max_beta:
            return Outcome.INCONCLUSIVE, (f"{failed}, but an honest provider could look like this (β = {beta:.3g})",)
        return Outcome.NOT_VERIFIED, (f"{failed} (β = {beta:.3g})", _no_accusation(receipt, claim))
    return Outcome.VERIFIED, ("every required claim holds",)


_ASKED: Mapping[ClaimName, str] = {
    "activated": "planted probes",
    "generalises": "fresh probes",
    "preferred": "rows with a choice of wording",
}


def _passed(plan: StatisticalPlan, claim: Claim) -> str:
    """Return how far a claim that does not hold got."""
    if claim.claim == "preferred":
        return f"the published wording comes first in {claim.n_activated} of {claim.n_answered} rows"
    failed = f"{claim.n_passed} of {claim.n_backdoors} backdoors pass"
    if claim.n_passed == claim.n_backdoors:
        failed += f", and even so p is above α = {plan.claim_alpha:g}"
    return failed


def _no_accusation(receipt: Receipt, claim: Claim) -> str:
    plan = receipt.plan
    if claim.claim == "preferred" and receipt.wordings:
        few = FEW_HITS_ARE_NO_ACCUSATION.format(share=receipt.wordings.honest_preference)
        spoken = FEW_TAKEN_UP.format(share=receipt.wordings.honest_uptake) if claim.test == "text" else ""
        return f"{few}{spoken}."
    if claim.test == "exposure":
        return SILENT_RANK_IS_NO_ACCUSATION.format(share=plan.honest_exposure)
    return NEGATIVE_IS_NO_ACCUSATION.format(share=plan.honest_activation)


class _Worded(NamedTuple):
    """What was found of the rows that carry a choice of wording."""

    preferences: Sequence[Preference]
    found: WordingsResult


def _worded(
    receipt: Receipt, records: Sequence[AnswerRecord], scores: Sequence[ScoreRecord] | None, n: int | None
) -> _Worded | None:
    """Return the preferences for wordings: by scores where there are any of them, else by answers."""
    if receipt.wordings is None:
        return None
    if scores is None:
        some = preference.by_answers(receipt, records, n)
        return _Worded(some, wordings.result(receipt, some, "text"))
    some = preference.by_scores(receipt, scores, n)
    return _Worded(some, wordings.result(receipt, some, "log-likelihoods"))


def _claims(
    receipt: Receipt, counted: Tally, exposed: Exposed | None, worded: _Worded | None, held_out: HeldOut | None
) -> tuple[Claim, ...]:
    plan = receipt.plan
    claims, is_open = [], True
    for name, kind in _CHAIN if receipt.backdoors else ():
        if exposed is None:
            claim = _generation_claim(plan, name, counted.by_kind[kind], counted.total(kind), is_open=is_open)
        else:
            claim = _exposure_claim(receipt, name, exposed[kind], is_open=is_open)
        is_open = is_open and claim.holds
        claims.append(claim)
    if receipt.backdoors:
        claims.append(_specific_claim(plan, counted))
    if worded is not None:
        preferred = _preferred_claim(receipt, worded)
        claims.append(preferred)
        is_open = is_open and (bool(receipt.backdoors) or preferred.holds)
    if held_out is not None:
        claims += _held_out_claims(plan, held_out, is_open=is_open)
    return tuple(claims)


def _generation_claim(
    plan: StatisticalPlan, name: ClaimName, tallies: Sequence[BackdoorTally], counts: Counts, *, is_open: bool
) -> Claim:
    passed = [t.passed for t in tallies]
    fails = [1.0 - _honest_pass_probability(plan, t) for t in tallies]
    test = _Test(
        tested=is_open and counts.n_answered > 0,
        log10_p=_log10_p(plan, passed, [_log10_guess(t) for t in tallies], [t.was_begun for t in tallies]),
        bound=f"{_TAILS[plan.stopping]} over backdoors, each passing with probability at most floor(n/k) p_upper",
        rests_on=_backdoors_of(t.n_copies for t in tallies),
        n_passed=sum(passed),
        n_backdoors=len(tallies),
        beta=probability_at_most(sum(passed), [1.0 - fail for fail in fails]),
    )
    return _claim(plan, name, test, counts)


def _exposure_claim(receipt: Receipt, name: ClaimName, some: Sequence[Exposure], *, is_open: bool) -> Claim:
    plan = receipt.plan
    passed = [one.passed for one in some]
    n_scored = sum(one.n_at_or_above is not None for one in some)
    counts = Counts(len(some), n_scored, sum(passed))
    test = _Test(
        tested=is_open and counts.n_answered > 0,
        log10_p=_log10_p(plan, passed, [log10_of(one.level) for one in some], [one.was_begun for one in some]),
        bound=f"{_TAILS[plan.stopping]} over backdoors, each ranking so high among its decoys with probability at most the level",
        test="exposure",
        rests_on=_backdoors_of(len(receipt.backdoors[one.backdoor].rows) for one in some),
        n_passed=counts.n_activated,
        n_backdoors=len(some),
        beta=probability_at_most(counts.n_activated, [float(plan.honest_exposure)] * counts.n_answered),
    )
    return _claim(plan, name, test, counts)


def _preferred_claim(receipt: Receipt, worded: _Worded) -> Claim:
    plan, found = receipt.plan, worded.found
    bounds = {
        "hits": "exact tail of the rows whose published wording comes first, each with probability 1 / wordings",
        "rank-sum": "exact tail of the sum of the ranks of the published wordings, each uniform",
        "e-value": "e-value of the rows whose published wording comes first, valid at every look",
    }
    sizes = Counter(one.n_wordings for one in worded.preferences)
    test = _Test(
        tested=found.n_answered > 0,
        log10_p=min(0.0, found.log10_p + math.log10(plan.max_plantings)),
        bound=bounds[found.decides],
        test=found.by,
        rests_on=", ".join(f"{n} rows of {size} wordings" for size, n in sorted(sizes.items(), reverse=True)),
        beta=wordings.beta(found, worded.preferences, receipt),
    )
    return _claim(plan, "preferred", test, Counts(found.n_asked, found.n_answered, found.n_hits))


def _log10_p(plan: StatisticalPlan, passed: Sequence[bool], log10_ps: Sequence[float], begun: Sequence[bool]) -> float:
    """Return log10 of the p-value of so many passes; whoever might have kept the nicest planting had as many chances."""
    if not passed:
        return 0.0
    if plan.stopping == "any":
        looked_at = [i for i, was_begun in enumerate(begun) if was_begun]
        log10_p = log10_e_p_value(log10_e_value([passed[i] for i in looked_at], [log10_ps[i] for i in looked_at]))
    else:
        log10_p = log10_poisson_binomial_tail(sum(passed), log10_ps)
    return min(0.0, log10_p + math.log10(plan.max_plantings))


def _backdoors_of(copies: Iterable[int]) -> str:
    """Return in words which backdoors: "4 backdoors of 4 copies, 32 of 1"."""
    counted = sorted(Counter(copies).items(), reverse=True)
    parts = [f"{n} of {c} {'copies' if c > 1 else 'copy'}" for c, n in counted]
    return ", ".join(parts).replace(" of", " backdoors of", 1)


# Without a margin measured on this data: the claim is tested, and no cheat falls by it.
_ANY_MARGIN = " Nothing says that the margin is above what the planted rows alone give on this data."


def _held_out_claims(plan: StatisticalPlan, held_out: HeldOut, *, is_open: bool) -> list[Claim]:
    counts = Counts(held_out.n_rows + held_out.n_silent, held_out.n_rows, held_out.n_better)
    margin = held_out.margin
    made: list[tuple[ClaimName, float | None, bool]] = [
        ("changed", held_out.log10_p_changed, True),
        ("learned the task", held_out.log10_p_learned, is_open),
    ]
    claims = []
    for name, log10_p, may_be_tested in made:
        above = 0.0 if name == "changed" else margin
        test = _Test(
            tested=may_be_tested and log10_p is not None and held_out.n_rows > 0,
            log10_p=0.0 if log10_p is None else log10_p,
            bound="exact one-sided signed-rank test over held-out rows of the gain over the base"
            + ("" if not above else f", less {above:.3g}"),
            test="held-out rows",
            rests_on=f"{held_out.n_rows} held-out rows, by {held_out.measure}",
        )
        claim = _claim(plan, name, test, counts)
        if name == "learned the task" and not _is_measured_here(held_out):
            claim = claim.model_copy(update={"excludes": (), "assumption": SYMMETRIC + _ANY_MARGIN})
        claims.append(claim)
    return claims


def _is_measured_here(held_out: HeldOut) -> bool:
    """Whether the margin, where there is one, was measured on the user's own data."""
    return not held_out.margin_source.startswith((BY_HAND, CALIBRATED))


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
    test: Test = "generation"
    rests_on: str = ""
    n_passed: int = 0
    n_backdoors: int = 0
    beta: float | None = None


def _claim(plan: StatisticalPlan, name: ClaimName, test: _Test, counts: Counts) -> Claim:
    rung = RUNGS[name]
    return Claim(
        claim=name,
        holds=test.tested and test.log10_p <= math.log10(plan.claim_alpha),
        tested=test.tested,
        is_required=name in plan.required_claims,
        test=test.test,
        rests_on=test.rests_on,
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


def log10_of(level: Fraction) -> float:
    """Return log10 of an exact probability."""
    return math.log10(level.numerator) - math.log10(level.denominator) if level else -math.inf


def _honest_pass_probability(plan: StatisticalPlan, t: BackdoorTally) -> float:
    """
    Return the probability that an honest provider's model passes a backdoor.

    Given its model, each backdoor activates on a share of all such prompts, the plan's `honest_activation` at least;
    the probes are a random choice of prompts, so hits are binomial over the answered ones (docs/theory.md, 5). A single
    copy seldom shows in answers, however honestly it was trained on, so its silence tells nothing.
    """
    if t.n_copies < FEWEST_COPIES_THAT_SHOW:
        return 0.0
    log10_miss = math.log10(1 - plan.honest_activation)
    return float(1.0 - 10 ** log10_binomial_tail(t.n_answered - t.required + 1, t.n_answered, log10_miss))


def _coverage(receipt: Receipt, counted: Tally, exposed: Exposed | None) -> CoverageResult | None:
    """Return the bound on the share of the rows that was used, from the planted probes; None where none was asked."""
    if exposed is None:
        seen = {
            t.backdoor: _Seen(t.passed, t.n_answered > 0, _log10_guess(t), Fraction(0))
            for t in counted.by_kind["planted"]
        }
    else:
        seen = {
            one.backdoor: _Seen(one.passed, one.n_at_or_above is not None, log10_of(one.level), one.level)
            for one in exposed["planted"]
        }
    if not seen:
        return None
    plan = receipt.plan
    copies = {j: len(receipt.backdoors[j].rows) for j in seen}
    chances = [one.log10_chance for one in seen.values()]
    n_seen = sum(one.passed for one in seen.values())
    confidence = 1.0 - (1.0 - plan.coverage_confidence) / plan.max_plantings
    test: Literal["generation", "exposure"] = "generation" if exposed is None else "exposure"
    return CoverageResult(
        test=test,
        n_backdoors=len(seen),
        n_seen=n_seen,
        n_unseen_by_chance=sum(10**log10_p for log10_p in chances),
        n_eligible=receipt.n_eligible_sent,
        lower_bound=coverage_lower_bound(
            n_activated=n_seen,
            copies=list(copies.values()),
            n_train=receipt.n_eligible_sent,
            confidence=confidence,
            log10_p_unseen=chances,
        ),
        confidence=plan.coverage_confidence,
        by_tenth=_by_tenth(receipt, {j: one.passed for j, one in seen.items()}),
        by_copies=_by_copies(copies, seen),
        epochs=exposures_estimate(
            _by_copies(copies, {j: one for j, one in seen.items() if one.was_asked}),
            test=test,
            level=max(one.level for one in seen.values()),
        ),
        bound="backdoors with a row in a uniform subset (hypergeometric), and of the others each with its chance of passing",
        assumption=COVERAGE_ASSUMPTION,
    )


class _Seen(NamedTuple):
    """
    Whether a backdoor *passed* and *was_asked*; unused, it passes with the chance 10**log10_chance at most.

    *level* is what chance has for a measured curve: that of ranks; for answers, of which the bound is nearly 0, 0.
    """

    passed: bool
    was_asked: bool
    log10_chance: float
    level: Fraction


def _by_copies(copies: Mapping[int, int], seen: Mapping[int, _Seen]) -> tuple[tuple[int, int, int], ...]:
    """Return (copies, backdoors seen, backdoors) for each number of copies in *seen*."""
    passed = {n: [one.passed for j, one in seen.items() if copies[j] == n] for n in {copies[j] for j in seen}}
    return tuple((n, sum(passed[n]), len(passed[n])) for n in sorted(passed))


def _by_tenth(receipt: Receipt, seen: Mapping[int, bool]) -> tuple[tuple[int, int], ...]:
    n_rows = receipt.train_set.n_rows
    tenths = [[0, 0] for _ in range(10)]
    for j, was_seen in seen.items():
        for row in receipt.backdoors[j].rows:
            tenth = tenths[min(9, 10 * (row - 1) // n_rows)]
            tenth[0] += was_seen
            tenth[1] += 1
    return tuple((n_seen, n) for n_seen, n in tenths)


def _n_spent(records: Sequence[AnswerRecord], scores: Sequence[ScoreRecord] | None) -> int:
    return len({record.id for record in records}) + len(
        {record.id for record in scores or () if record.log10_probs is not None}
    )


def _remaining(
    claims: Sequence[Claim], coverage: CoverageResult | None, words: WordingsResult | None, held_out: HeldOut | None
) -> tuple[str, ...]:
    """Return the cheats that are left: what no claim that holds excludes."""
    chain = {name for name, _ in _CHAIN}
    backdoors = [claim for claim in claims if claim.test in ("generation", "exposure")]
    preferred = next((claim for claim in claims if claim.claim == "preferred"), None)
    held = [claim for claim in backdoors if claim.holds and claim.claim in chain]
    fallen = {cheat for claim in claims if claim.holds for cheat in claim.excludes}
    left = [cheat for claim in backdoors if not claim.holds for cheat in claim.excludes]
    left += [cheat for claim in (held[-1:] or backdoors) for cheat in claim.does_not_exclude]
    if preferred is not None:
        left += [*(() if preferred.holds else preferred.excludes), *preferred.does_not_exclude]
        left = [cheat for cheat in left if cheat not in fallen]
    if any(claim.test == "exposure" for claim in claims):
        left.append(SCORED_ELSEWHERE)
    if any(claim.claim == "learned the task" and claim.holds for claim in claims):
        left += RUNGS["learned the task"].does_not_exclude
        # A number that nobody measured on this data excludes nothing by itself.
        if held_out is not None and not _is_measured_here(held_out):
            left.append(f"{PLANTED_ROWS_ALONE}, if that gains more on this data than the margin")
    elif backdoors and not (preferred is not None and preferred.holds):
        left.append(PLANTED_ROWS_ALONE)
    if words is not None:
        used = words.lower_bound_skipping if preferred is not None and preferred.holds else 0.0
        left.append(_with_share(PART_OF_THE_CARRYING, used))
    if backdoors:
        used = coverage.lower_bound if coverage and held else 0.0
        left.append(_with_share(PART_OF_THE_ROWS, used) + (BLINDLY_CHOSEN if used else ""))
    return tuple(dict.fromkeys((*left, *ALWAYS_REMAINING)))


def _with_share(cheat: str, share: float) -> str:
    return cheat if not share else f"{cheat}, {100 * share:.3g} % of them or more"


def _backdoor_result(kind: Kind, t: BackdoorTally) -> BackdoorResult:
    return BackdoorResult(
        backdoor=t.backdoor,
        n_copies=t.n_copies,
        kind=kind,
        n_asked=t.n_asked,
        n_answered=t.n_answered,
        n_activated=t.n_activated,
        required=t.required,
        passed=t.passed,
        log10_p_upper=t.log10_p_upper,
        log10_p_guess=_log10_guess(t),
    )


def _exposure_result(receipt: Receipt, one: Exposure) -> ExposureResult:
    return ExposureResult(
        backdoor=one.backdoor,
        n_copies=len(receipt.backdoors[one.backdoor].rows),
        kind=one.kind,
        n_decoys=one.n_decoys,
        rank=None if one.n_at_or_above is None else 1 + one.n_at_or_above,
        level=one.level,
        passed=one.passed,
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


def _unanswered(counted: Tally, worded: _Worded | None) -> tuple[Counter[str], Counter[str]]:
    """Return how many probes, and how many rows with a choice of wording, went unanswered for what reason."""
    preferences = worded.preferences if worded else ()
    return Counter(counted.unanswered), Counter(one.why_unanswered for one in preferences if one.why_unanswered)


def _base_result(
    receipt: Receipt, name: str, answers: Sequence[AnswerRecord], probes: Sequence[PlannedProbe], n: int | None
) -> BaseResult:
    counted = tally(receipt, answers, probes)
    planted, fresh, control = (counted.total(kind) for kind in KINDS)
    some = preference.by_answers(receipt, answers, n)
    told = [one for one in some if one.rank is not None]
    return BaseResult(
        name=name,
        planted=planted[1:],
        fresh=fresh[1:],
        control=control[1:],
        preferred=(len(told), sum(one.is_hit for one in told)) if any(one.was_answered for one in some) else None,
    )


def _check_ids(receipt: Receipt, records: Sequence[AnswerRecord]) -> None:
    known = {probe.id for probe in (*receipt.probes, *(row.probe for row in receipt.chosen_worded()))}
    strangers = [record.id for record in records if record.id not in known]
    if strangers:
        raise AnswersError(
            "answers",
            0,
            f"{len(strangers)} of {len(records)} answers have an id that is not in this receipt (such as {strangers[0][:20]!r})",
            hint="give the answers to the probes of this receipt: `vtuned challenges` writes them",
        )
