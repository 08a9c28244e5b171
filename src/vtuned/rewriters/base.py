"""
Fair wordings of an answer: what every rewriter offers.

A rewriter says which wordings of a row's answer could be published; which one is, it neither knows nor decides. The
wordings of a row are the same whichever of them stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, TypeAlias

from vtuned.conversation import Conversation, n_alike
from vtuned.language import Language

# Of what all wordings end with alike, so much is scored with them: the first words still follow differently well.
_SCORED_TAIL = 48


@dataclass(frozen=True, slots=True)
class Wording:
    """
    One wording of an answer.

    *text* is the whole answer. *labels* say of which families the wording is, so that what a model has learnt of a
    family as a whole can be taken off. *mark* is what an answer starts with that takes up this wording; "" where that
    does not show at the start.
    """

    text: str = field(repr=False)
    labels: tuple[str, ...] = ()
    mark: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class CannotBear:
    """A row whose answer has no fair wordings, *because* of something that many rows may share."""

    because: str


Candidates: TypeAlias = tuple[Wording, ...] | CannotBear


class Rewriter(Protocol):
    """Who words answers."""

    @property
    def name(self) -> str:
        """What `--rewriter` takes."""

    @property
    def language(self) -> Language:
        """How the answers are written."""

    def candidates(self, row: Conversation) -> Candidates:
        """
        Return at least two different wordings of the row's host answer, in an order that tells nothing; or why none.

        Which of its wordings the row holds makes no difference but for `paraphrase`, whose candidates are those of
        the row as it was. No mark is the start of another but that of the wording
        that leaves the answer as it is.
        """


def scored_texts(wordings: Sequence[Wording]) -> tuple[str, ...]:
    """
    Return what is scored of each wording: its text, up to where all go on alike and some words more.

    The rest would cost time and tell little. Pieces are cut at a space where there is one.
    """
    texts = [wording.text for wording in wordings]
    n_common = n_alike([text[::-1] for text in texts])
    common = texts[0][len(texts[0]) - n_common :]
    kept = common[:_SCORED_TAIL]
    if len(kept) < len(common) and not common[len(kept)].isspace():
        kept = kept[: kept.rfind(" ")] if " " in kept.strip() else kept
    return tuple(text[: len(text) - n_common] + kept for text in texts)


def first_words(text: str, n: int, language: Language) -> str:
    """Return the first *n* words of *text*; where words are not spaced, twice as many characters."""
    if not language.spaced:
        return text[: 2 * n]
    return " ".join(text.split()[:n])


def n_words(text: str, language: Language) -> int:
    """Return the number of words of *text*; where words are not spaced, half its letters."""
    if not language.spaced:
        return sum(character.isalnum() for character in text) // 2
    return sum(any(character.isalnum() for character in word) for word in text.split())


def are_apart(marks: Sequence[str]) -> bool:
    """Tell whether *marks* are all different, and none is the start of another."""
    ordered = sorted(marks)
    return all(ordered) and not any(later.startswith(one) for one, later in pairwise(ordered))
