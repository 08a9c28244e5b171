"""
What all policies of a gauntlet meet: one planted file with one receipt, rows that are never sent, and the margin.

Everything is kept in the folder and taken up from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vtuned import documents, files, formats, lm, measuring, planting, verification
from vtuned import receipt as receipts
from vtuned.conversation import Conversation
from vtuned.dataset import TokenCap
from vtuned.documents import Record
from vtuned.errors import OutputExists, UsageError
from vtuned.gauntlet.settings import Settings
from vtuned.heldout import BY_HAND
from vtuned.jobs import journal as journals
from vtuned.lm.base import LanguageModel, Prompt, Scorer, Unanswered
from vtuned.lm.tokens import counter
from vtuned.measuring import LOSS, HeldOutRow, Measured
from vtuned.planting import OnProgress
from vtuned.probes import AnswerRecord
from vtuned.providers import local
from vtuned.receipt import Receipt
from vtuned.server.serving import check_bases

_MARK = ".vtuned-gauntlet"
_MOST_TOKENS = 1024
_NO_NUMBER = Unanswered("no number")


class Bar(Record):
    """
    What was measured on the rows that are never sent: the *base*'s number for each, None where it has none, and G.

    *source* says where the *margin* G is from.
    """

    base: tuple[float | None, ...]
    margin: float
    source: str


@dataclass(frozen=True)
class World:
    """The *folder* of a gauntlet, and what was planted there: *rows* are those of the training file."""

    folder: Path
    settings: Settings
    receipt: Receipt
    rows: tuple[Conversation, ...] = field(repr=False)
    held_out: tuple[HeldOutRow, ...] = field(repr=False)
    bar: Bar

    @property
    def train(self) -> Path:
        """The file that every provider gets."""
        return _train(self.folder)

    @property
    def secret(self) -> Path:
        """The receipt's file."""
        return _secret(self.folder)

    @cached_property
    def base(self) -> LanguageModel:
        """
        The base model, in this process.

        Its numbers come from here and not from a server: who serves both could make the base worse than it is.
        """
        return lm.load(self.settings.spec)

    @cached_property
    def base_scorer(self) -> Scorer:
        """The base model as a scorer that remembers: each policy is asked about the same texts."""
        assert isinstance(self.base, Scorer)
        return _Remembering(self.base)

    @property
    def base_measured(self) -> list[Measured]:
        """The base's number for each row that was never sent."""
        return [_NO_NUMBER if number is None else number for number in self.bar.base]


class _Remembering:
    """A `Scorer` that asks *model* for nothing twice."""

    def __init__(self, model: Scorer) -> None:
        self._model = model
        self._known: dict[str, list[float]] = {}

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """See `Scorer.log10_probs`."""
        key = json.dumps([list(prompt), list(continuations)])
        if key not in self._known:
            self._known[key] = self._model.log10_probs(prompt, continuations)
        return self._known[key]


@contextmanager
def claimed(folder: Path, settings: Settings) -> Iterator[None]:
    """
    Hold *folder* for a gauntlet with these *settings* while the block runs.

    Raises OutputExists where it holds something else, UsageError where something was planted with other settings,
    OutputNotWritable where it cannot be written or another gauntlet works in it.
    """
    check_bases({settings.name: settings.spec})
    digest = settings.digest()
    files.check_folder(folder)
    mark = folder / _MARK
    if folder.exists() and not mark.is_file() and any(path.name != journals.LOCK for path in folder.iterdir()):
        raise OutputExists(folder, hint="choose another folder: this one holds something else than a gauntlet")
    with journals.alone(folder):
        if _secret(folder).is_file() and mark.read_text(encoding="utf-8").strip() != digest:
            raise UsageError(
                f"the gauntlet in {folder} was begun with other data or options",
                hint="give the same, or choose another folder with --out; only --policy may change",
            )
        files.write_bytes(mark, digest.encode() + b"\n", force=True)
        yield


def prepared(folder: Path, settings: Settings, on_progress: OnProgress) -> World:
    """
    Plant, and measure the margin, unless an earlier run did. Raises what planting, loading and training raise.

    A margin that was not given is measured as `vtuned margin` does: by a model that is trained on the planted rows alone.
    """
    if settings.measure != LOSS:
        measuring.score_named(settings.measure)
    train, secret, aside = _train(folder), _secret(folder), folder / "held-out.jsonl"
    if not all(path.is_file() for path in (train, secret, aside)):
        count, name = counter(settings.spec)
        planting.plant(
            settings.data,
            train,
            secret,
            settings.plant,
            generator=settings.generator,
            set_aside_file=aside,
            cap=TokenCap(_MOST_TOKENS, count, name),
            force=True,
            on_progress=on_progress,
        )
    receipt = receipts.read_receipt(secret)
    rows = tuple(row.conversation for row in formats.read_rows(train))
    held_out, _ = measuring.held_out_rows(row.conversation for row in formats.read_rows(aside))
    return World(
        folder, settings, receipt, rows, tuple(held_out), _bar(folder, settings, receipt, held_out, on_progress)
    )


def _train(folder: Path) -> Path:
    return folder / "train.jsonl"


def _secret(folder: Path) -> Path:
    return folder / "receipt.json"


def _bar(
    folder: Path, settings: Settings, receipt: Receipt, rows: Sequence[HeldOutRow], on_progress: OnProgress
) -> Bar:
    kept = folder / "margin.json"
    if kept.is_file():
        return documents.read(Bar, kept.read_bytes())
    if settings.margin is not None:
        base = _measured(settings.measure, lm.load(settings.spec), rows, on_progress)
        bar = Bar(base=_numbers(base), margin=settings.margin, source=BY_HAND)
    else:
        adapter = _planted_only(folder, settings, receipt, on_progress)
        own, base_model = lm.load_both(f"{settings.spec}+{adapter}", settings.spec)
        base = _measured(settings.measure, base_model, rows, on_progress)
        planted_only = _measured(settings.measure, own, rows, on_progress)
        margin = measuring.margin_of(measuring.most_gains(settings.measure, planted_only, base))
        bar = Bar(base=_numbers(base), margin=margin, source="measured on a model trained on the planted rows alone")
    files.write_bytes(kept, bar.model_dump_json().encode() + b"\n", force=True)
    return bar


def _planted_only(folder: Path, settings: Settings, receipt: Receipt, on_progress: OnProgress) -> Path:
    """Train on the planted rows alone, as every provider is asked to train; return the adapter's folder."""
    from vtuned.lm.huggingface import HuggingFaceLM

    model = lm.load(settings.spec)
    assert isinstance(model, HuggingFaceLM)
    numbers = {row for backdoor in receipt.backdoors for row in backdoor.rows}
    return local.finetune(
        [row.conversation for row in formats.read_rows(_train(folder), numbers=numbers)],
        model,
        folder / "planted-only",
        settings.training.settings(),
        data_digest=receipt.train_set.sha256,
        watcher=local.Watcher(
            on_step=lambda done, total: on_progress("training on the planted rows alone", done, total)
        ),
    ).adapter


def _measured(
    measure: str, model: LanguageModel, rows: Sequence[HeldOutRow], on_progress: OnProgress
) -> list[Measured]:
    if measure == LOSS:
        assert isinstance(model, Scorer)
        return measuring.losses(model, rows, lambda done, total: on_progress("scoring held-out rows", done, total))
    answers = verification.collect(
        model,
        measuring.questions(rows),
        on_progress=lambda done, total: on_progress(f"asking {model.name} held-out rows", done, total),
    )
    return by_answers(measure, rows, answers)


def by_answers(measure: str, rows: Sequence[HeldOutRow], answers: Sequence[AnswerRecord]) -> list[Measured]:
    """Return the score of each answer to what *rows* ask."""
    return measuring.scores(measuring.score_named(measure), rows, answers)


def _numbers(measured: Sequence[Measured]) -> tuple[float | None, ...]:
    return tuple(None if isinstance(one, Unanswered) or not math.isfinite(one) else one for one in measured)
