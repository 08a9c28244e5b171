"""
What a planting will cost and what it will be able to prove, before anything is planted.

Pure: the rows come in as counts. Compares layouts, and recommends the one that `plant` would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtuned.capacity import Capacity, capacities
from vtuned.context import PROMPT_TOKENS
from vtuned.dataset import RowCounts
from vtuned.documents import Record
from vtuned.errors import TooFewRows
from vtuned.layout import PlantSettings, SuspectKind, n_asked, n_spoken
from vtuned.prospects import Prospect, Training, judged_by, probes_per_backdoor, prospect
from vtuned.stats import hypergeometric_interval

# Bits of surprisal a token adds, as measured on the embedded generator (64 bits in about 19 tokens), and what a
# trigger takes on top of its minimum to finish its sentence.
_BITS_A_TOKEN = 3.4
_FINISHING_TOKENS = 4
# What is compared: few to many backdoors, single rows to many copies, up to where more rows say nothing new.
_NUMBERS, _COPIES, _MOST_ROWS = (4, 16, 64), (1, 2, 4, 8), 256
# Of how many rows can carry a backdoor, where not all were looked at: it decides whether they suffice.
_SURE = 0.999

_WHY: dict[SuspectKind, str] = {
    "text": "answers alone show a backdoor only once it is learnt by heart, which takes copies, and one that is seen "
    "proves training: so a few backdoors, each on several rows",
    "weights": "log-likelihoods tell a signature from its decoys after a single row, and each further backdoor proves "
    "more of the rows used: so many backdoors, each on one row",
    "unknown": "the few with copies show in answers, and where log-likelihoods are to be had the single rows beside them "
    "prove more of the file used: so both",
}
_WHY["logprobs"] = _WHY["weights"]


class Layout(Record):
    """
    One way to plant: the *copies* of each backdoor, what it costs, and what each test could prove with it.

    *extra_training_tokens* are an estimate, per epoch; *extra_cost* is for all epochs, in the currency of the price,
    None where none was given.
    """

    copies: tuple[int, ...]
    n_planted_rows: int
    planted_share: float
    extra_training_tokens: int
    extra_cost: float | None
    is_recommended: bool
    prospects: tuple[Prospect, ...]


class Plan(Record):
    """
    A planting in numbers: what `vtuned plant` would do with the same options, and other layouts beside it.

    *n_looked_at* of the *n_rows* rows were looked at; *n_too_long*, *n_unsuitable*, *longest_row_tokens* are of these,
    *n_eligible* and *n_training_tokens* are scaled up to all, and *n_eligible_interval* holds the true number of
    eligible rows (99.9 %, exact). *extra_training_tokens* are an estimate, per epoch, *extra_cost* is for all *epochs*.
    *log10_p_all* and *log10_p_half* bound the p-value of `activated` if all or half of the backdoors (rounded up) pass,
    by the first test; H0 and assumption are those of the verdict. The plan *is_possible* where the rows suffice
    (*has_rows*) and a verdict could reach α. *recommendation* says why these *copies*; *layouts* compares them, of which
    one is recommended. *wordings* say what the rows could carry by each rewriter, and *scheme_advice* which scheme that
    speaks for. *n_parameters* and *row_loss* are what β assumes.
    """

    n_rows: int
    n_looked_at: int
    n_eligible: int
    n_eligible_interval: tuple[int, int]
    n_too_long: int
    n_unsuitable: int
    longest_row_tokens: int
    n_training_tokens: int
    scheme: str
    suspect: SuspectKind
    n_backdoors: int
    copies: tuple[int, ...]
    n_planted_rows: int
    planted_share: float
    extra_training_tokens: int
    extra_training_share: float
    extra_cost: float | None
    n_planted_probes: int
    log10_p_upper: float
    log10_p_all: float
    log10_p_half: float
    log10_alpha: float
    has_rows: bool
    is_possible: bool
    epochs: int
    n_parameters: int | None
    row_loss: float
    recommendation: str
    layouts: tuple[Layout, ...]
    wordings: tuple[Capacity, ...] = ()
    scheme_advice: str = ""

    @property
    def recommended(self) -> Layout:
        """The layout that `plant` would take."""
        return next(one for one in self.layouts if one.is_recommended)


def plan(found: RowCounts, settings: PlantSettings, training: Training | None = None) -> Plan:
    """
    Return the plan for a data set, of which all rows or a sample were looked at.

    Raises TooFewRows where none of these is eligible.
    """
    if not found.n_eligible:
        raise TooFewRows(0, 1, why=f" of {found.n_rows} rows")
    training = training or Training()
    copies = settings.layout(found.n_rows)
    wordings = capacities(found, settings, training)
    if not copies:
        return _wordings_alone(found, settings, training, wordings)
    if len(copies) > found.n_rows:
        raise TooFewRows(found.n_rows, sum(copies))
    n_eligible, (low, high) = _scaled(found, found.n_eligible), n_eligible_interval(found)
    layouts = [_layout(found, settings, one, training, n_eligible) for one in _compared(settings, copies, n_eligible)]
    chosen = _layout(found, settings, copies, training, n_eligible, is_recommended=True)
    first = chosen.prospects[0]
    has_rows = low >= needed_rows(found, settings)
    n_tokens = _scaled(found, found.n_tokens)
    return Plan(
        n_rows=found.n_rows,
        n_looked_at=found.n_looked_at,
        n_eligible=n_eligible,
        n_eligible_interval=(low, high),
        n_too_long=found.n_too_long,
        n_unsuitable=found.n_unsuitable,
        longest_row_tokens=found.longest,
        n_training_tokens=n_tokens,
        scheme=settings.scheme,
        suspect=settings.suspect,
        n_backdoors=len(copies),
        copies=copies,
        n_planted_rows=chosen.n_planted_rows,
        planted_share=chosen.planted_share,
        extra_training_tokens=chosen.extra_training_tokens,
        extra_training_share=chosen.extra_training_tokens / n_tokens,
        extra_cost=chosen.extra_cost,
        n_planted_probes=sum(probes_per_backdoor(copies[: n_spoken(copies)], n_asked(settings, copies))),
        log10_p_upper=-settings.signature_bits * math.log10(2),
        log10_p_all=first.log10_p_all,
        log10_p_half=first.log10_p_half,
        log10_alpha=math.log10(settings.alpha),
        has_rows=has_rows,
        is_possible=has_rows and first.n_required is not None,
        epochs=training.epochs,
        n_parameters=training.n_parameters,
        row_loss=training.row_loss,
        recommendation=_why(settings),
        layouts=(chosen, *layouts),
        wordings=wordings,
        scheme_advice=_scheme_advice(settings, wordings),
    )


def _wordings_alone(
    found: RowCounts, settings: PlantSettings, training: Training, wordings: tuple[Capacity, ...]
) -> Plan:
    """Return the plan of a scheme without backdoors: there is nothing to lay out, and a row more costs nothing."""
    chosen = [one for one in wordings if one.rewriter == settings.rewriter]
    can_carry = not chosen or chosen[0].n_bearing > 0
    return Plan(
        n_rows=found.n_rows,
        n_looked_at=found.n_looked_at,
        n_eligible=_scaled(found, found.n_eligible),
        n_eligible_interval=n_eligible_interval(found),
        n_too_long=found.n_too_long,
        n_unsuitable=found.n_unsuitable,
        longest_row_tokens=found.longest,
        n_training_tokens=_scaled(found, found.n_tokens),
        scheme=settings.scheme,
        suspect=settings.suspect,
        n_backdoors=0,
        copies=(),
        n_planted_rows=0,
        planted_share=0.0,
        extra_training_tokens=0,
        extra_training_share=0.0,
        extra_cost=None,
        n_planted_probes=0,
        log10_p_upper=0.0,
        log10_p_all=0.0,
        log10_p_half=0.0,
        log10_alpha=math.log10(settings.alpha),
        has_rows=can_carry,
        is_possible=can_carry,
        epochs=training.epochs,
        n_parameters=training.n_parameters,
        row_loss=training.row_loss,
        recommendation="every row that can bear it carries a choice",
        layouts=(),
        wordings=wordings,
        scheme_advice=_scheme_advice(settings, wordings),
    )


# With fewer rows that carry a choice, coverage and p-values stay poor.
_FEW_CARRYING = 200


def _scheme_advice(settings: PlantSettings, wordings: Sequence[Capacity]) -> str:
    """Return in one sentence which scheme fits what the user will have of the suspect, and what the rows can carry."""
    able = [one for one in wordings if one.rewriter == "openings" or settings.suspect in ("weights", "logprobs")]
    best = max(able, key=lambda one: one.n_bearing_interval[0], default=None)
    if best is None or best.n_bearing_interval[0] < _FEW_CARRYING:
        return "backdoors: too few rows can carry a choice of wording"
    if settings.suspect == "weights":
        return (
            f"wordings+backdoors, by {best.rewriter}: in weights that you hold nothing but training puts the wordings, and "
            "they bound how many rows were used even where planted rows can be told"
        )
    return (
        f"wordings+backdoors, by {best.rewriter}: wordings bound how many rows were used even where planted rows can be told. "
        "Over an endpoint a lookup of rows forges them, and a rule on the triggers, once found, the backdoors: hold rows "
        "back too (--set-aside)"
    )


def n_eligible_interval(found: RowCounts) -> tuple[int, int]:
    """Return between which numbers the eligible rows are (99.9 %, exact), from the rows that were looked at."""
    return hypergeometric_interval(found.n_eligible, found.n_looked_at, found.n_rows, _SURE)


def needed_rows(found: RowCounts, settings: PlantSettings) -> int:
    """Return how many eligible rows the planting takes."""
    return sum(settings.layout(found.n_rows)) + settings.set_aside


def is_in_doubt(found: RowCounts, settings: PlantSettings) -> bool:
    """Tell whether a sample leaves open that the rows suffice: then all must be looked at."""
    return found.n_looked_at < found.n_rows and n_eligible_interval(found)[0] < needed_rows(found, settings)


def _layout(
    found: RowCounts,
    settings: PlantSettings,
    copies: tuple[int, ...],
    training: Training,
    n_eligible: int,
    *,
    is_recommended: bool = False,
) -> Layout:
    extra = _extra_tokens(found, settings, copies)
    n_sent = n_eligible - settings.set_aside + (sum(copies) if settings.mode == "add" else 0)
    return Layout(
        copies=copies,
        n_planted_rows=sum(copies),
        planted_share=sum(copies) / found.n_rows,
        extra_training_tokens=extra,
        extra_cost=None if training.price is None else extra * training.epochs * training.price / 1e6,
        is_recommended=is_recommended,
        prospects=tuple(
            prospect(settings, copies, test, training, found.n_rows, n_sent) for test in judged_by(settings)
        ),
    )


def _compared(settings: PlantSettings, chosen: tuple[int, ...], n_eligible: int) -> list[tuple[int, ...]]:
    """Return the other layouts that there are rows for."""
    some = [(c,) * m for m in _NUMBERS for c in _COPIES if m * c <= _MOST_ROWS]
    return [one for one in some if one != chosen and sum(one) + settings.set_aside <= n_eligible]


def _extra_tokens(found: RowCounts, settings: PlantSettings, copies: Sequence[int]) -> int:
    phrase_tokens = settings.min_trigger_tokens + settings.signature_bits / _BITS_A_TOKEN + 2 * _FINISHING_TOKENS
    n_contexts = sum(settings.in_context(c) for c in copies)
    n_context_tokens = n_contexts * max(0, PROMPT_TOKENS - found.n_tokens // found.n_looked_at)
    return round(sum(copies) * phrase_tokens) + n_context_tokens


def _why(settings: PlantSettings) -> str:
    if settings.scheme == "paper":
        return "the paper's scheme, which you chose: one backdoor on 0.5 % of the rows"
    if settings.n_backdoors is not None or settings.copies is not None:
        otherwise = _WHY[settings.suspect].rpartition(": so ")[2]
        return f"you chose it with --backdoors or --copies; --suspect {settings.suspect} alone would take {otherwise}"
    return _WHY[settings.suspect]


def _scaled(found: RowCounts, n: int) -> int:
    """Return a number of the rows that were looked at as one of all."""
    return round(n * found.n_rows / found.n_looked_at)
