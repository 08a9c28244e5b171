"""From a receipt to probes, and from a model to a verdict: the parts of `vtuned verify`, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtuned import probes, scoring
from vtuned.lm.base import LanguageModel, ReportsSteps, Scorer
from vtuned.lm.recorded import RecordedLM
from vtuned.preference import by_answers
from vtuned.probes import AnswerRecord, Probe
from vtuned.receipt import Kind, PlannedProbe, Receipt
from vtuned.tally import KINDS, tally
from vtuned.transcript import Transcript
from vtuned.verdict import Verdict, judge

OnProgress = Callable[[int, int], None]
Enough = Callable[[list[AnswerRecord]], bool]

# So many probes are put before a run that may stop early looks again: few, yet worth a batch.
_AT_A_TIME = 8


def challenges(receipt: Receipt, n: int | None = None) -> list[Probe]:
    """
    Return the probes to put to the suspect, in committed order: all, or the first *n* of each kind.

    Prompts of rows that carry a secret choice of wording come last. They hold ids, messages and sampling; never a signature, nor which kind a probe is of. Raises UsageError where the
    receipt's plan is to stop at any time and *n* is given.
    """
    receipt.check_prefix(n)
    return [*backdoor_questions(receipt, n), *worded_questions(receipt, n)]


def worded_questions(receipt: Receipt, n: int | None = None) -> list[Probe]:
    """Return the prompts of the rows that carry a secret choice of wording, which a suspect that is scored need not answer."""
    most = receipt.wordings.max_answer_tokens if receipt.wordings else 0
    shown = (row for row in receipt.chosen_worded(n) if any(wording.mark for wording in row.wordings))
    return [_question(row.probe, most) for row in shown]


def backdoor_questions(receipt: Receipt, n: int | None) -> list[Probe]:
    """Return the other probes: planted, fresh and control ones."""
    return [_question(probe, receipt.max_answer_tokens) for probe in receipt.chosen(n)]


def _question(probe: PlannedProbe, max_tokens: int) -> Probe:
    return Probe(
        id=probe.id, messages=probe.messages, max_tokens=max_tokens, tools=probe.tools, endpoint=probe.endpoint
    )


def collect(
    model: LanguageModel,
    questions: Sequence[Probe],
    *,
    transcript: Transcript | None = None,
    on_progress: OnProgress = lambda done, total: None,
    enough: Enough | None = None,
) -> list[AnswerRecord]:
    """
    Return the answers of *model* to *questions*; recorded answers are taken by probe id. Raises LMError.

    With an open *transcript* only what it misses is asked, and every answer is on disk as soon as it is there. With
    *enough*, a few are asked at a time, in order, until it says so of the answers there are: for receipts whose
    p-values are valid at every look.
    """
    if isinstance(model, RecordedLM):
        return model.records
    kept = transcript or Transcript(model, questions)
    missing = kept.missing
    size = len(missing) if enough is None else _AT_A_TIME
    for start in range(0, len(missing), max(1, size)):
        if enough is not None and enough(_in_order(kept, questions)):
            break
        _ask(model, missing[start : start + size], kept, len(questions), on_progress)
    return _in_order(kept, questions)


def _ask(model: LanguageModel, some: Sequence[Probe], kept: Transcript, n_all: int, on_progress: OnProgress) -> None:
    n_before = n_all - len(kept.missing)
    reports_steps = isinstance(model, ReportsSteps)
    if isinstance(model, ReportsSteps):
        model.on_step = on_progress
    for done, (probe_id, answer) in enumerate(probes.ask_unordered(model, some), start=n_before + 1):
        kept.add(probe_id, answer)
        if not reports_steps:
            on_progress(done, n_all)


def _in_order(kept: Transcript, questions: Sequence[Probe]) -> list[AnswerRecord]:
    place = {probe.id: i for i, probe in enumerate(questions)}
    return sorted(kept.records, key=lambda record: place[record.id])


def verify(
    receipt: Receipt, suspect: LanguageModel, *, n: int | None = None, base: LanguageModel | None = None
) -> Verdict:
    """
    Put the receipt's probes to *suspect* (and to *base*, to show it beside) and judge.

    A suspect that scores given text is judged by exposure, where the receipt holds decoys. Raises LMError, and
    UsageError where a base is needed for that and none is given.
    """
    scores = None
    if scoring.to_score(receipt) and isinstance(suspect, Scorer):
        scorer = (base.name, base) if base is not None and isinstance(base, Scorer) else None
        scores = scoring.score(receipt, (suspect.name, suspect), scorer, n=n)
    questions = challenges(receipt, n) if scores is None else backdoor_questions(receipt, n)
    answers = collect(suspect, questions)
    base_answers = (base.name, collect(base, questions)) if base else None
    return judge(receipt, answers, n=n, suspect=suspect.name, base_answers=base_answers, scores=scores)


def activations(
    receipt: Receipt, model: LanguageModel, n: int | None, *, on_progress: OnProgress = lambda done, total: None
) -> dict[Kind, tuple[int, int]]:
    """
    Return (activated, answered) by kind of probe, for the first *n* of each kind: a look, not a verdict.

    Of rows with a choice of wording that is how often what was published is taken up, and how often any wording.
    """
    some = backdoor_questions(receipt, n) if receipt.backdoors else worded_questions(receipt, n)
    return counted(receipt, collect(model, some, on_progress=on_progress), n)


def counted(receipt: Receipt, answers: Sequence[AnswerRecord], n: int | None) -> dict[Kind, tuple[int, int]]:
    """Return (activated, answered) by kind of probe in *answers*: see `activations`."""
    if not receipt.backdoors:
        return {"worded": _taken_up(receipt, answers, n)}
    found = tally(receipt, answers, receipt.chosen(n))
    totals = {kind: found.total(kind) for kind in KINDS}
    return {kind: (total.n_activated, total.n_answered) for kind, total in totals.items()}


def _taken_up(receipt: Receipt, answers: Sequence[AnswerRecord], n: int | None) -> tuple[int, int]:
    told = [one for one in by_answers(receipt, answers, n) if one.rank is not None]
    return sum(one.is_hit for one in told), len(told)
