"""
Give the rows of a data set their secret wordings (DESIGN 8), and say which of them will be asked about.

Which wording is published, and which rows are asked about, is decided by a PRF under the receipt's key.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from vtuned import documents, formats
from vtuned.containers import RawRow
from vtuned.conversation import Conversation, messages_of
from vtuned.dataset import Survey
from vtuned.formats import Row
from vtuned.language import Language
from vtuned.layout import AskedPrompt, planned_probe
from vtuned.prf import chosen_wording, prf
from vtuned.receipt import PlannedWording, WordedRow
from vtuned.rewriters import CannotBear, Rewriter, Wording, scored_texts
from vtuned.rewriters.fitness import labels_among

TOO_LONG, NOT_SAMPLED = "over the token cap", "not in the sample (--rows)"

OnRow = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Carrying:
    """A row that can carry a choice: its wordings, and which of them its key has *published*."""

    row: Row
    digest: str
    wordings: tuple[Wording, ...] = field(repr=False)
    published: int = field(repr=False)

    @property
    def answer(self) -> str:
        """The answer as it is sent."""
        return self.wordings[self.published].text


@dataclass(slots=True)
class Reworded:
    """
    The rows of a data set after their choices: all that carry one, and those to ask about, in order.

    *left_alone* counts the rows that bear no choice, by reason; *bits* is the sum of log2 of the wordings of the others.
    """

    replaced: dict[int, RawRow] = field(default_factory=dict, repr=False)
    asked: list[Carrying] = field(default_factory=list, repr=False)
    left_alone: Counter[str] = field(default_factory=Counter)
    n_carrying: int = 0
    bits: float = 0.0


def row_digest(row: Conversation, wordings: tuple[Wording, ...]) -> str:
    """Return the SHA-256 (hex) of a row but for its choice: its prompt and all its wordings, in their order."""
    return documents.digest(
        {"prompt": messages_of(row.prompt()), "tools": row.tools, "wordings": [wording.text for wording in wordings]}
    )


def carrying(row: Row, rewriter: Rewriter, key: bytes) -> Carrying | CannotBear:
    """Return *row* with the wording that *key* publishes, or why it bears none."""
    wordings = rewriter.candidates(row.conversation)
    if isinstance(wordings, CannotBear):
        return wordings
    digest = row_digest(row.conversation, wordings)
    return Carrying(row, digest, wordings, chosen_wording(key, row.raw.number, digest, len(wordings)))


def reword(
    found: Survey,
    rewriter: Rewriter,
    key: bytes,
    *,
    n_asked: int,
    but: Collection[int] = (),
    n_rows: int | None = None,
    lot: bytes | None = None,
    on_row: OnRow = lambda done, total: None,
) -> Reworded:
    """
    Choose a wording for each row of *found* that can bear one, or for a random sample of *n_rows* of its rows.

    The sample is drawn by the *lot*, or else by the *key*. Rows of the numbers *but* (planted, set aside) and those over the token cap are left as they are; *n_asked* of the
    others, a simple random sample, will be asked about. Raises DatasetError where a row does not read back.
    """
    eligible = set(found.eligible)
    sampled = sample_of(eligible.difference(but), lot or key, n_rows)
    made = Reworded()
    asked: list[tuple[bytes, int, Carrying]] = []
    for done, row in enumerate(formats.read_rows(found.source, found.codec)):
        on_row(done, found.n_rows)
        number = row.raw.number
        if number in but:
            continue
        if number not in sampled:
            made.left_alone[_why_not_sampled(row, number in eligible)] += 1
            continue
        one = carrying(row, rewriter, key)
        if isinstance(one, CannotBear):
            made.left_alone[one.because] += 1
            continue
        made.n_carrying += 1
        made.bits += math.log2(len(one.wordings))
        made.replaced[number] = formats.reworded_row(row, one.answer, file_style=found.style)
        # The largest of those kept, by its lot, leaves first.
        entry = (bytes(255 - b for b in prf(key, b"asked", number)), number, one)
        (heapq.heappush if len(asked) < n_asked else heapq.heappushpop)(asked, entry)
    made.asked = [one for *_, one in sorted(asked, reverse=True, key=lambda entry: entry[:2])]
    return made


def _why_not_sampled(row: Row, is_eligible: bool) -> str:
    if is_eligible:
        return NOT_SAMPLED
    return TOO_LONG if formats.can_carry(row.conversation) else "no text answer to a user"


def sample_of(numbers: Collection[int], key: bytes, n: int | None) -> frozenset[int]:
    """Return *n* of *numbers*, those of lowest PRF value; all where *n* is None or there are no more."""
    if n is None:
        return frozenset(numbers)
    return frozenset(heapq.nsmallest(n, numbers, key=lambda number: prf(key, b"worded", number)))


def labels_in(rows: Iterable[Row], language: Language) -> frozenset[str]:
    """Return the short answers (normalised) that several *rows* give word for word: labels, which have no wordings."""
    return labels_among((row.conversation for row in rows), language)


def worded_rows(asked: list[Carrying], placed: Mapping[int, int]) -> tuple[WordedRow, ...]:
    """Return the rows to ask about as a receipt keeps them; *placed* says at which number of the training file each is."""
    return tuple(
        WordedRow(
            number=one.row.raw.number,
            row=placed[one.row.raw.number],
            digest=one.digest,
            published=one.published,
            wordings=tuple(
                PlannedWording(text=text, labels=wording.labels, mark=wording.mark)
                for wording, text in zip(one.wordings, scored_texts(one.wordings), strict=True)
            ),
            probe=planned_probe("worded", AskedPrompt.of(one.row.conversation)),
        )
        for one in asked
    )
