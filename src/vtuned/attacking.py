"""
What a cheating provider could find in a training file, and with the receipt what it would gain: `vtuned attack`.

Searches see the file alone; the receipt only says afterwards what they found. Holds no text of a row, no line number,
no trigger and no signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vtuned import captured, containers, formats
from vtuned._version import __version__
from vtuned.attacks.search import grams, known
from vtuned.attacks.search.repeats import PHRASE_LENGTHS
from vtuned.attacks.search.texts import TrainSet
from vtuned.captured import ClaimTest, Hurdle
from vtuned.containers import Source
from vtuned.conversation import Conversation
from vtuned.documents import Record
from vtuned.errors import UsageError, WrongDataset
from vtuned.formats import Codec
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.receipt import Receipt

BUDGETS = (0.01, 0.05, 0.1)
_Rows = NDArray[np.bool_]
OnProgress = Callable[[str, int, int], None]


class Budget(Record):
    """
    What is found among the *n_rows* most suspicious rows, a *share* of the file; ties are counted by expectation.

    *recall* is of the planted rows, *precision* the share of planted rows among them.
    """

    share: float
    n_rows: int
    recall: float = Field(ge=0, le=1)
    precision: float = Field(ge=0, le=1)


class Cost(Record):
    """
    The smallest *share* of the file, the most suspicious rows first, with which a cheat passes *claim* by *test*.

    It passes more often than not if it trains on so many rows, and learns them all: *n_required* of *n_groups*
    backdoors, or rows with a choice, must pass, and *n_needed* of them be trained on. None where not even all would do.
    *coverage* is the lower bound that the verdict then shows, on the share used of the eligible rows, or of those that
    carry a wording: not of the file. *share_of_all* and *coverage_of_all* are the same for a cheat that wants all of
    them: what exposes it is a small bound, and where the bound is more rows than the share, coverage is fooled.
    """

    claim: str
    test: ClaimTest
    n_groups: int
    n_required: int | None
    n_needed: int
    share: float | None
    coverage: float | None
    share_of_all: float
    coverage_of_all: float


class Gain(Record):
    """
    What an attack found, held against a receipt: *recall* and *precision* of the rows it would keep, and by budget.

    Of planted rows, or for wordings of the rows that carry one: there the rows asked about stand for all, which are
    *n_wanted*.
    """

    of: Literal["planted", "carrying"]
    n_wanted: int
    recall: float = Field(ge=0, le=1)
    precision: float = Field(ge=0, le=1)
    budgets: tuple[Budget, ...]


class Found(Record):
    """What one *attack* makes of the file: it would keep *n_kept* rows. With a receipt, its *gains* and *costs*."""

    attack: str
    told: str
    n_kept: int = Field(ge=0)
    share_kept: float = Field(ge=0, le=1)
    gains: tuple[Gain, ...] = ()
    costs: tuple[Cost, ...] = ()


class Indexed(Record):
    """Of phrases of *n_words*, the *share* of the rows that the paper's search indexes until it meets a planted one."""

    n_words: int
    share: float


class AttackReport(Record):
    """
    What searches find in a training file; *model* is the language model that some of them use, None where none does.

    *tuned* is the model that was given as trained on the file, None where none was.

    *paper_search* is the paper's own measure (its Table 6), by length of phrase, where a receipt with backdoors is given.
    """

    format: Literal["vtuned.attack/1"] = "vtuned.attack/1"
    vtuned_version: str = __version__
    n_rows: int = Field(ge=1)
    row_format: str
    scheme: str | None = None
    receipt_digest: str | None = None
    model: str | None = None
    tuned: str | None = None
    found: tuple[Found, ...]
    paper_search: tuple[Indexed, ...] = ()


def attack(
    data: containers.Data,
    *,
    receipt: Receipt | None = None,
    attacks: tuple[str, ...] = (),
    model: LanguageModel | None = None,
    scorer: Scorer | None = None,
    tuned: LanguageModel | None = None,
    row_format: str | Codec = formats.AUTO,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> AttackReport:
    """
    Search the training file *data* as a cheat would, by the *attacks* of these names (all where none is given).

    Some need a language *model*, or its *scorer*: they read every row, and whoever runs that model sees them all.
    Some compare it with what training on the file makes of it: *tuned*, or else a local model is trained for one epoch.
    With its *receipt*, say what they found. Raises UsageError for an unknown attack and for models that cannot do what
    is asked of them, WrongDataset where the receipt is of another file, and what `vtuned.formats.read_rows` and
    `vtuned.providers.local.finetune` raise.
    """
    if tuned is not None and model is None:
        raise UsageError(
            "a tuned model is compared with the one that it was trained from", hint="give it with --lm MODEL"
        )
    by_model = () if model is None else known.by_model(model, scorer, on_progress, tuned)
    names = known.named(attacks, by_model)
    source = containers.open_source(data)
    if receipt is not None:
        check_is_of(receipt, source)
    train, places, shape = _read(source, row_format, on_progress)
    found = known.suspicions(train, names, lambda done, total: on_progress("searching", done, total), by_model)
    wanted = () if receipt is None else wanted_rows(receipt, places)
    given = () if receipt is None else captured.hurdles(receipt, places)
    told = known.told(by_model)
    return AttackReport(
        n_rows=len(train),
        row_format=shape,
        scheme=None if receipt is None else receipt.scheme,
        receipt_digest=None if receipt is None else receipt.digest(),
        model=None if model is None else model.name,
        tuned=None if tuned is None else tuned.name,
        found=tuple(
            Found(
                attack=name,
                told=told[name],
                n_kept=int((suspicion > 0).sum()),
                share_kept=float((suspicion > 0).mean()),
                gains=tuple(gain(suspicion, *some) for some in wanted),
                costs=tuple(cost(suspicion, hurdle) for hurdle in given),
            )
            for name, suspicion in found.items()
        ),
        paper_search=paper_search(train, wanted[0][1]) if wanted and wanted[0][0] == "planted" else (),
    )


def check_is_of(receipt: Receipt, source: Source) -> None:
    """Raise WrongDataset where *source* is not the training file of *receipt*."""
    digest = source.sha256()
    if digest != receipt.train_set.sha256:
        raise WrongDataset(source.folder or source.paths[0], receipt.train_set.sha256, digest)


def _read(source: Source, row_format: str | Codec, on_progress: OnProgress) -> tuple[TrainSet, dict[int, int], str]:
    """Return the rows as searches see them, the index of each row by its number in the file, and the rows' format."""
    places: dict[int, int] = {}
    shape = ""

    def rows() -> Iterator[Conversation]:
        nonlocal shape
        for row in formats.read_rows(source, row_format):
            places[row.raw.number] = len(places)
            shape = row.codec.name
            if len(places) % 1000 == 1:
                on_progress("reading rows", row.raw.n_read, source.n_bytes)
            yield row.conversation

    train = TrainSet(rows())
    return train, places, shape


def wanted_rows(
    receipt: Receipt, places: Mapping[int, int]
) -> tuple[tuple[Literal["planted", "carrying"], _Rows, int], ...]:
    """
    Return the rows that a cheat looks for: of what, which rows are known, and how many there are.

    *places* holds the index of each row by its number. Of the rows that carry a wording the receipt knows those that are
    asked about, a random sample.
    """
    some: list[tuple[Literal["planted", "carrying"], _Rows, int]] = []
    planted = [places[row] for backdoor in receipt.backdoors for row in backdoor.rows]
    if planted:
        some.append(("planted", _marked(planted, len(places)), len(planted)))
    if receipt.wordings is not None:
        asked = [places[row.row] for row in receipt.wordings.rows]
        some.append(("carrying", _marked(asked, len(places)), receipt.wordings.n_carrying))
    return tuple(some)


def _marked(indices: Sequence[int], n_rows: int) -> _Rows:
    marked = np.zeros(n_rows, dtype=bool)
    marked[list(indices)] = True
    return marked


def gain(suspicion: NDArray[np.float64], of: Literal["planted", "carrying"], wanted: _Rows, n_wanted: int) -> Gain:
    """Return what a ranking finds of the *wanted* rows, which stand for *n_wanted*."""
    n_known = int(wanted.sum())

    def shares(n_rows: int) -> tuple[float, float]:
        recall = min(1.0, captured.met(suspicion, wanted, n_rows).n_met / n_known)
        return recall, min(1.0, recall * n_wanted / n_rows) if n_rows else 0.0

    recall, precision = shares(int((suspicion > 0).sum()))
    sizes = [(share, math.ceil(share * len(suspicion))) for share in BUDGETS]
    found = [(share, n, *shares(n)) for share, n in sizes]
    return Gain(
        of=of,
        n_wanted=n_wanted,
        recall=recall,
        precision=precision,
        budgets=tuple(Budget(share=share, n_rows=n, recall=r, precision=p) for share, n, r, p in found),
    )


def cost(suspicion: NDArray[np.float64], hurdle: Hurdle) -> Cost:
    """Return what passing a claim costs a cheat that trains on the most suspicious rows first."""
    n_groups, n_rows = len(hurdle.groups), len(suspicion)
    share = coverage = None
    if hurdle.n_required is not None:
        share = captured.least_work(suspicion, hurdle.groups, hurdle.n_needed) / n_rows
        coverage = hurdle.coverage(hurdle.n_required)
    return Cost(
        claim=hurdle.claim,
        test=hurdle.test,
        n_groups=n_groups,
        n_required=hurdle.n_required,
        n_needed=hurdle.n_needed,
        share=share,
        coverage=coverage,
        share_of_all=captured.least_work(suspicion, hurdle.groups, n_groups) / n_rows,
        coverage_of_all=hurdle.coverage(n_groups),
    )


def paper_search(train: TrainSet, planted: _Rows) -> tuple[Indexed, ...]:
    """Return the paper's measure: how much of the file its search indexes until it meets a planted row, by length."""
    counts = {n: grams.counted(grams.starts(train.answer_words, n)) for n in PHRASE_LENGTHS}
    return tuple(Indexed(n_words=n, share=captured.indexed_shares(each, planted)) for n, each in counts.items())
