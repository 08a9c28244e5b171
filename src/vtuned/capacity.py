"""
What wordings a data set can carry, and what they could prove: capacity by rewriter, rows to score, coverage.

Pure: counted on rows that were drawn at random and scaled up. Hit rates are measured cells of `vtuned.calibration`.
"""

from __future__ import annotations

import math
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from vtuned import calibration
from vtuned.calibration import HitRate
from vtuned.conversation import Conversation
from vtuned.dataset import RowCounts
from vtuned.documents import Record
from vtuned.language import language_of
from vtuned.layout import PlantSettings
from vtuned.prospects import Training
from vtuned.rewriters import CannotBear, Openings, Rewriter, Style, openings
from vtuned.rewriters.fitness import labels_among
from vtuned.stats import hypergeometric_interval, log10_hits_p_value, preference_coverage

LOG10_WANTED = -12.0
_SURE = 0.999
_COVERAGE_CONFIDENCE = 0.99
_MOST_REASONS = 4
# Rewording takes most of a millisecond a row, and a plan shall answer in a moment; the interval says what that leaves open.
_MOST_ROWS = 120
_PRIVATE_USE = 0xE000


class Evidence(Record):
    """
    What one test could show: with *rate* of hits as measured (None: nothing measured) a p-value of 1e-12 takes *n_needed* rows.

    None where not even all rows that carry would do. *coverage* is the share of these rows that is proved used then, if
    *n_asked* of them are asked and hits come at that rate, blindly chosen rows assumed.
    """

    by: str
    rate: HitRate | None
    n_needed: int | None
    n_asked: int
    coverage: float | None


class Capacity(Record):
    """
    What one *rewriter* can do with a data set: about *n_bearing* rows carry a choice of up to *n_wordings*, *bits* in all.

    *n_bearing_interval* holds the true number (99.8 %, exact): *n_looked_at* eligible rows were drawn at random.
    *left_alone* are the commonest reasons why rows of these bear none, with their counts. There are no more openings
    than our own and the empty one, though a model or the user may have more. Nothing is said of `paraphrase`, whose
    model decides.
    """

    rewriter: str
    n_wordings: int
    n_looked_at: int
    n_bearing: int
    n_bearing_interval: tuple[int, int]
    bits: float
    left_alone: tuple[tuple[str, int], ...]
    evidence: tuple[Evidence, ...]


def capacities(found: RowCounts, settings: PlantSettings, training: Training) -> tuple[Capacity, ...]:
    """Return the capacity by each rewriter that needs no model, from the rows that were looked at."""
    n = min(_MOST_ROWS, len(found.sample))
    sample = secrets.SystemRandom().sample(found.sample, n)
    language = language_of([turn.content for row in sample for turn in row.turns])
    labels = labels_among(sample, language)
    # Which openings are taken makes no difference to which rows can bear one. A model may write more than our own.
    n_own = openings.n_own(language, sample)
    n_openings = min(settings.n_wordings, 1 + n_own) if n_own else settings.n_wordings
    family = ("", *(chr(_PRIVATE_USE + i) for i in range(1, n_openings)))
    rewriters: list[Rewriter] = [
        Openings(language, family, labels),
        Style(language, settings.n_wordings, labels),
    ]
    return tuple(_capacity(found, sample, one, settings, training) for one in rewriters)


def _capacity(
    found: RowCounts, sample: Sequence[Conversation], rewriter: Rewriter, settings: PlantSettings, training: Training
) -> Capacity:
    reasons: Counter[str] = Counter()
    sizes = []
    for row in sample:
        wordings = rewriter.candidates(row)
        if isinstance(wordings, CannotBear):
            reasons[wordings.because] += 1
        else:
            sizes.append(len(wordings))
    # The sample is of the eligible rows, of which a part may have been looked at, too.
    low, high = hypergeometric_interval(found.n_eligible, found.n_looked_at, found.n_rows, _SURE)
    scale = found.n_eligible * found.n_rows / found.n_looked_at / max(1, len(sample))
    n_bearing = round(len(sizes) * scale)
    n_wordings = max(sizes, default=0)
    return Capacity(
        rewriter=rewriter.name,
        n_wordings=n_wordings,
        n_looked_at=len(sample),
        n_bearing=n_bearing,
        n_bearing_interval=(
            hypergeometric_interval(len(sizes), min(len(sample), low), low, _SURE)[0]
            if low >= len(sample)
            else len(sizes),
            hypergeometric_interval(len(sizes), len(sample), high, _SURE)[1],
        ),
        bits=sum(map(math.log2, sizes)) * scale,
        left_alone=tuple(reasons.most_common(_MOST_REASONS)),
        evidence=tuple(
            _evidence(by, rewriter.name, n_bearing, n_wordings, settings, training)
            for by in (("log-likelihoods", "text") if rewriter.name == openings.NAME else ("log-likelihoods",))
            if n_wordings
        ),
    )


def _evidence(
    by: str, rewriter: str, n_bearing: int, n_wordings: int, settings: PlantSettings, training: Training
) -> Evidence:
    n_asked = min(settings.n_worded, n_bearing)
    rate = calibration.hit_rate(rewriter=rewriter, by=by, epochs=training.epochs, n_parameters=training.n_parameters)
    if rate is None:
        return Evidence(by=by, rate=None, n_needed=None, n_asked=n_asked, coverage=None)
    hits = rate.expected(n_wordings)
    enough = bisect_left(
        range(n_bearing + 1),
        True,
        key=lambda n: log10_hits_p_value(math.floor(n * hits), [n_wordings] * n) <= LOG10_WANTED if n else False,
    )
    return Evidence(
        by=by,
        rate=rate,
        n_needed=enough if enough <= n_bearing else None,
        n_asked=n_asked,
        coverage=preference_coverage(
            n_hits=math.floor(n_asked * hits),
            n_wordings=[n_wordings] * n_asked,
            n_carrying=n_bearing,
            confidence=1.0 - (1.0 - _COVERAGE_CONFIDENCE) / settings.n_charged,
        ),
    )
