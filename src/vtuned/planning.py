"""
What a planting will cost and what it will be able to prove, before anything is planted.

Pure: the survey of the data comes in.
"""

from __future__ import annotations

import math

from vtuned.context import PROMPT_TOKENS
from vtuned.dataset import Survey
from vtuned.documents import Record
from vtuned.errors import TooFewRows
from vtuned.layout import PlantSettings
from vtuned.stats import log10_guess_bound, log10_poisson_binomial_tail, required_activations

# Bits of surprisal a token adds, as measured on the embedded generator (64 bits in about 19 tokens), and what a
# trigger takes on top of its minimum to finish its sentence.
_BITS_A_TOKEN = 3.4
_FINISHING_TOKENS = 4


class Plan(Record):
    """
    A planting in numbers.

    *extra_training_tokens* are an estimate, per epoch. *log10_p_all* and *log10_p_half* bound the p-value of
    `activated` if all or half of the backdoors (rounded up) pass; H0 and assumption are those of the verdict. The plan
    *is_possible* where the rows suffice (*has_rows*) and a verdict could reach α.
    """

    n_rows: int
    n_eligible: int
    n_too_long: int
    n_unsuitable: int
    longest_row_tokens: int
    n_training_tokens: int
    scheme: str
    n_backdoors: int
    copies: int
    n_planted_rows: int
    planted_share: float
    extra_training_tokens: int
    extra_training_share: float
    n_planted_probes: int
    log10_p_upper: float
    log10_p_all: float
    log10_p_half: float
    log10_alpha: float
    has_rows: bool
    is_possible: bool


def plan(found: Survey, settings: PlantSettings) -> Plan:
    """Return the plan for a surveyed data set. Raises TooFewRows where no eligible row is there at all."""
    if not found.eligible:
        raise TooFewRows(0, 1, why=f" of {found.n_rows} rows")
    n_backdoors, copies = settings.layout(found.n_rows)
    n_planted = n_backdoors * copies
    log10_p_upper = -settings.signature_bits * math.log10(2)
    counts = probes_per_backdoor(n_backdoors, copies, max(settings.n_probes, n_backdoors))
    guesses = [log10_guess_bound(n, required_activations(settings.ratio, n), log10_p_upper) for n in counts if n]
    phrase_tokens = settings.min_trigger_tokens + settings.signature_bits / _BITS_A_TOKEN + 2 * _FINISHING_TOKENS
    n_context_tokens = (
        n_backdoors * settings.in_context(copies) * max(0, PROMPT_TOKENS - found.n_tokens // found.n_rows)
    )
    extra = round(n_planted * phrase_tokens) + n_context_tokens
    log10_p_all = _charged(settings, log10_poisson_binomial_tail(len(guesses), guesses))
    return Plan(
        n_rows=found.n_rows,
        n_eligible=len(found.eligible),
        n_too_long=found.n_too_long,
        n_unsuitable=found.n_unsuitable,
        longest_row_tokens=found.longest,
        n_training_tokens=found.n_tokens,
        scheme=settings.scheme,
        n_backdoors=n_backdoors,
        copies=copies,
        n_planted_rows=n_planted,
        planted_share=n_planted / found.n_rows,
        extra_training_tokens=extra,
        extra_training_share=extra / found.n_tokens,
        n_planted_probes=sum(counts),
        log10_p_upper=log10_p_upper,
        log10_p_all=log10_p_all,
        log10_p_half=_charged(settings, log10_poisson_binomial_tail(math.ceil(len(guesses) / 2), guesses)),
        log10_alpha=math.log10(settings.alpha),
        has_rows=len(found.eligible) >= n_planted + settings.set_aside,
        is_possible=len(found.eligible) >= n_planted + settings.set_aside and log10_p_all <= math.log10(settings.alpha),
    )


def probes_per_backdoor(n_backdoors: int, copies: int, n: int) -> list[int]:
    """Return how many of *n* planted probes each backdoor gets: they take turns, each has *copies* rows to ask."""
    total = min(n, n_backdoors * copies)
    return [total // n_backdoors + (j < total % n_backdoors) for j in range(n_backdoors)]


def _charged(settings: PlantSettings, log10_p: float) -> float:
    return min(0.0, log10_p + math.log10(settings.max_plantings))
