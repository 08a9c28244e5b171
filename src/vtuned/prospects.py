"""
What a layout of backdoors could prove, by each test: p-values, coverage, β, and how little of the file still passes.

Pure: numbers of rows, copies and measured rates in, numbers out. Decides nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from vtuned import calibration
from vtuned.calibration import Kind, Rate, Test
from vtuned.documents import Record
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings, n_asked, n_spoken
from vtuned.receipt import StatisticalPlan
from vtuned.stats import (
    coverage_lower_bound,
    exposure_level,
    log10_binomial_tail,
    log10_e_p_value,
    log10_e_value,
    log10_guess_bound,
    log10_poisson_binomial_tail,
    probability_at_most,
    required_activations,
    smallest_passing_share,
)

# How lucky a provider would have to be that trains on part of the file.
LUCK = (0.01, 0.5, 0.99)
_COVERAGE_CONFIDENCE: float = StatisticalPlan.model_fields["coverage_confidence"].default


# For a million tokens, in any currency: beyond it a cost would leave all floats.
_HIGHEST_PRICE = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """
    What is assumed of an honest provider: *epochs*, the model's *n_parameters* (None: not known), rows dropped.

    *row_loss* is the share of the rows that it may drop, each by itself. *price* is per million training tokens.
    Raises UsageError for values out of range.
    """

    epochs: int = 3
    n_parameters: int | None = None
    row_loss: float = 0.0
    price: float | None = None

    def __post_init__(self) -> None:
        wrong = {
            "epochs": not 1 <= self.epochs <= 10_000,
            "parameters": self.n_parameters is not None and self.n_parameters < 1,
            "row-loss": not 0 <= self.row_loss < 1,
            "price": self.price is not None and not 0 <= self.price <= _HIGHEST_PRICE,
        }
        for option, is_wrong in wrong.items():
            if is_wrong:
                raise UsageError(f"--{option} is out of range", hint=f"see `vtuned plan --help` for --{option}")


class Reach(Record):
    """
    The *share* of the file with which a provider passes with *probability*, trained on so many rows at random.

    The smallest there is, for a trigger that works on every prompt once one of its rows was trained on, and a provider
    that learns whatever it sees: whoever does worse needs more. *share_in_paper* counts as section 6.1 of the paper
    does, where only rows that were trained on activate, and the ratio of all planted rows must. None where no number of
    passes would do.
    """

    probability: float
    share: float | None
    share_in_paper: float | None


class Expected(Record):
    """How often an honest provider's backdoor of so many *copies* is seen on *kind* prompts; *rate* None: not measured."""

    copies: int
    kind: Kind
    rate: Rate | None


class Prospect(Record):
    """
    What one *test* could prove with *n_backdoors* backdoors.

    *log10_p_all* and *log10_p_half* bound the p-value of `activated` if all or half of them (rounded up) pass;
    *n_required* is the least number with which it holds, None where not even all do. *coverage* is the share of the
    eligible rows that is proved used if all are seen, at *coverage_confidence*; None where the rows do not suffice.
    *beta_activated* and *beta_generalises* bound the risk that these claims fail for an honest provider, at the least
    rates that the measurements allow (`vtuned.calibration.least_rate`); *beta* is their sum, a bound on its not being VERIFIED. None: nothing was measured.
    """

    test: Test
    n_backdoors: int
    n_required: int | None
    log10_p_all: float
    log10_p_half: float
    coverage: float | None
    coverage_confidence: float
    expected: tuple[Expected, ...]
    beta_activated: float | None
    beta_generalises: float | None
    beta: float | None
    reach: tuple[Reach, ...]


def judged_by(settings: PlantSettings) -> tuple[Test, ...]:
    """Return by which tests a suspect would be judged: by its answers, by exposure, or whichever it allows."""
    speaks = settings.suspect in ("text", "unknown") or not settings.decoys
    by_answers: tuple[Test, ...] = ("generation",) if speaks else ()
    return (*by_answers, "exposure") if settings.decoys else by_answers


def prospect(
    settings: PlantSettings, copies: Sequence[int], test: Test, training: Training, n_rows: int, n_eligible: int
) -> Prospect:
    """
    Return what *test* could prove with backdoors of these *copies* in a file of *n_rows* rows.

    *n_eligible* of the rows that are sent could carry one, those with a backdoor included.
    """
    tested, log10_ps = _chances(settings, copies, test)
    n_required = _n_required(settings, log10_ps)
    fits = sum(copies) <= n_eligible
    confidence = 1.0 - (1.0 - _COVERAGE_CONFIDENCE) / settings.n_charged
    sizes = sorted(set(tested), reverse=True)
    betas = [_beta(tested, log10_ps, n_required, test, kind, training) for kind in _KINDS]
    return Prospect(
        test=test,
        n_backdoors=len(tested),
        n_required=n_required,
        log10_p_all=_log10_p(settings, len(tested), log10_ps),
        log10_p_half=_log10_p(settings, math.ceil(len(tested) / 2), log10_ps),
        coverage=coverage_lower_bound(
            n_activated=len(tested),
            copies=tested,
            n_train=n_eligible,
            confidence=confidence,
            log10_p_unseen=log10_ps,
        )
        if fits
        else None,
        coverage_confidence=_COVERAGE_CONFIDENCE,
        expected=tuple(
            Expected(copies=c, kind=kind, rate=_rate(c, test, kind, training)) for kind in _KINDS for c in sizes
        ),
        beta_activated=betas[0],
        beta_generalises=betas[1],
        beta=None if betas[0] is None or betas[1] is None else min(1.0, betas[0] + betas[1]),
        reach=tuple(_reach(settings, copies, tested, log10_ps, n_required, n_rows, luck) for luck in LUCK)
        if fits
        else (),
    )


_KINDS: tuple[Kind, ...] = ("planted", "fresh")


def probes_per_backdoor(copies: Sequence[int], n: int) -> list[int]:
    """Return how many of *n* planted probes each backdoor gets: they take turns, each as often as it has *copies*."""
    counts = [0] * len(copies)
    for j in islice((j for depth in range(max(copies)) for j, c in enumerate(copies) if depth < c), n):
        counts[j] += 1
    return counts


def _chances(settings: PlantSettings, copies: Sequence[int], test: Test) -> tuple[list[int], list[float]]:
    """Return the copies of the backdoors that are tested, and log10 of each one's chance of passing under H0."""
    if test == "exposure":
        level = exposure_level(settings.exposure_level, settings.decoys)
        return list(copies), [math.log10(level)] * len(copies)
    log10_p_upper = -settings.signature_bits * math.log10(2)
    counts = probes_per_backdoor(copies[: n_spoken(copies)], n_asked(settings, copies))
    guesses = [log10_guess_bound(n, required_activations(settings.ratio, n), log10_p_upper) for n in counts if n]
    return list(copies[: len(guesses)]), guesses


def _log10_p(settings: PlantSettings, n_passed: int, log10_ps: Sequence[float]) -> float:
    """Return log10 of the p-value if *n_passed* pass, those likeliest to; whoever had several plantings is charged."""
    if settings.stopping == "any":
        ranked = sorted(log10_ps, reverse=True)
        log10_p = log10_e_p_value(log10_e_value([i < n_passed for i in range(len(ranked))], ranked))
    else:
        log10_p = log10_poisson_binomial_tail(n_passed, log10_ps)
    return min(0.0, log10_p + math.log10(settings.n_charged))


def _n_required(settings: PlantSettings, log10_ps: Sequence[float]) -> int | None:
    """Return the least number of passes with which the p-value is at most α, or None."""
    log10_alpha = math.log10(settings.alpha)
    numbers = range(1, len(log10_ps) + 1)
    at = bisect_left(numbers, True, key=lambda n_passed: _log10_p(settings, n_passed, log10_ps) <= log10_alpha)
    return numbers[at] if at < len(numbers) else None


@lru_cache(maxsize=512)
def _rate(copies: int, test: Test, kind: Kind, training: Training) -> Rate | None:
    return calibration.rate(
        copies=copies, epochs=training.epochs, test=test, kind=kind, n_parameters=training.n_parameters
    )


@lru_cache(maxsize=512)
def _least(copies: int, test: Test, kind: Kind, training: Training) -> float | None:
    return calibration.least_rate(
        copies=copies, epochs=training.epochs, test=test, kind=kind, n_parameters=training.n_parameters
    )


def _beta(
    copies: Sequence[int],
    log10_ps: Sequence[float],
    n_required: int | None,
    test: Test,
    kind: Kind,
    training: Training,
) -> float | None:
    """Return the risk that fewer than *n_required* pass, each backdoor seen at the least rate."""
    if _least(1, test, kind, training) is None:
        return None
    if n_required is None:
        return 1.0
    seen = {c: _least_seen(c, test, kind, training) for c in set(copies)}
    return probability_at_most(
        n_required - 1, [max(seen[c], 10**log10_p) for c, log10_p in zip(copies, log10_ps, strict=True)]
    )


def _least_seen(copies: int, test: Test, kind: Kind, training: Training) -> float:
    """
    Return the lower end of how often a backdoor is seen, over how many of its *copies* the provider keeps.

    That lower end rises only at numbers of copies that were measured, so these are all that is summed over.
    """
    steps = {cell.copies for cell in calibration.measured() if cell.copies <= copies}
    log10_kept = math.log1p(-training.row_loss) / math.log(10)
    total = below = 0.0
    for n in sorted({1, *steps}):
        least = _least(n, test, kind, training)
        assert least is not None
        total += (least - below) * 10 ** log10_binomial_tail(n, copies, log10_kept)
        below = least
    return min(1.0, total)


def _reach(
    settings: PlantSettings,
    copies: Sequence[int],
    tested: Sequence[int],
    log10_ps: Sequence[float],
    n_required: int | None,
    n_rows: int,
    luck: float,
) -> Reach:
    share = None
    if n_required is not None:
        # The least share at which so many pass with probability above `luck` is what a coverage bound inverts, too.
        share = coverage_lower_bound(
            n_activated=n_required, copies=tested, n_train=n_rows, confidence=1.0 - luck, log10_p_unseen=log10_ps
        )
    in_paper = smallest_passing_share(
        copies=copies,
        n_train=n_rows,
        required=required_activations(settings.ratio, sum(copies)),
        trigger_generalises=False,
        probability=luck,
    )
    return Reach(probability=luck, share=share, share_in_paper=in_paper)
