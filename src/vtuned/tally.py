"""
Counts from answers: which probes were answered, which backdoors activated, what stands in the controls.

Decides nothing; `vtuned.verdict` does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from vtuned import matching
from vtuned.documents import Record
from vtuned.lm.base import Answer, Completed, Unanswered
from vtuned.probes import AnswerRecord
from vtuned.receipt import Kind, PlannedProbe, Receipt
from vtuned.stats import required_activations

# Other reasons come from whoever asked, and an endpoint's error may echo a prompt: they stay in the answers file.
_OWN_REASONS = (*matching.REASONS, "not asked", "contradictory answers")

NOT_ASKED = Unanswered("not asked")

KINDS: tuple[Kind, ...] = ("planted", "fresh", "control")


class Counts(NamedTuple):
    """Of *n_asked* probes, *n_answered* got a usable answer and *n_activated* showed a signature."""

    n_asked: int
    n_answered: int
    n_activated: int


# Of the single copies that were trained on and asked for answers none activated (calibration.json, up to 3 epochs).
FEWEST_COPIES_THAT_SHOW = 2


@dataclass(frozen=True, slots=True)
class BackdoorTally:
    """
    The probes of one kind of one backdoor.

    It passes where at least *required* of the *n_asked* activate; unanswered probes count as asked, never as hits.
    *n_copies* rows carry it. It *was_begun* if something came back for any of its probes, or for one that comes later
    in committed order: probes are asked in that order, so what is missing before was asked, or left out on purpose.
    """

    backdoor: int
    n_copies: int
    n_asked: int
    n_answered: int
    n_activated: int
    required: int
    log10_p_upper: float
    was_begun: bool = True

    @property
    def passed(self) -> bool:
        """Whether the backdoor counts as active on this kind of probe."""
        return self.n_activated >= self.required


@dataclass(frozen=True, slots=True)
class Controls:
    """
    Control probes: *n_activated* start with any signature; T or S *anywhere* in the answers are leaks.

    Of the twins (the same prompt with and without T, both answered), *n_with_only* activate with T alone and
    *n_without_only* without T alone.
    """

    n_asked: int
    n_answered: int
    n_activated: int
    n_with_only: int
    n_without_only: int
    n_with_trigger: int
    n_with_signature: int


class AfterSignature(Record):
    """
    What follows S in activated answers, S stripped, beside the answer to the same prompt without T.

    Of *n* such pairs, *n_empty* say nothing after S; *overlap* is the mean share of words (F1) with the untriggered
    answer to the same prompt, *overlap_with_others* with the untriggered answers to the other prompts.
    """

    n: int
    n_empty: int
    overlap: float | None
    overlap_with_others: float | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Everything counted from one set of answers."""

    by_kind: Mapping[Kind, Sequence[BackdoorTally]]
    controls: Controls
    after_signature: AfterSignature
    unanswered: Mapping[str, int]

    def total(self, kind: Kind) -> Counts:
        """Return the counts over the probes of *kind*."""
        if kind == "control":
            return Counts(self.controls.n_asked, self.controls.n_answered, self.controls.n_activated)
        tallies = self.by_kind[kind]
        return Counts(
            sum(t.n_asked for t in tallies),
            sum(t.n_answered for t in tallies),
            sum(t.n_activated for t in tallies),
        )


def tally(receipt: Receipt, answers: Iterable[AnswerRecord], probes: Sequence[PlannedProbe]) -> Tally:
    """Count the *answers* to the *probes* of *receipt*; answers to other probes are left out."""
    joined = join(answers)
    by_probe = {probe.id: _usable(receipt, probe, joined.get(probe.id, NOT_ASKED)) for probe in probes}
    came = {probe_id for probe_id, answer in by_probe.items() if answer != NOT_ASKED}
    reached = up_to_the_last(probes, came)
    return Tally(
        by_kind={
            "planted": _by_backdoor(receipt, "planted", probes, by_probe, reached),
            "fresh": _by_backdoor(receipt, "fresh", probes, by_probe, reached),
        },
        controls=_controls(receipt, probes, by_probe),
        after_signature=_after_signature(receipt, probes, by_probe),
        unanswered=Counter(own_reason(answer) for answer in by_probe.values() if isinstance(answer, Unanswered)),
    )


def up_to_the_last(probes: Sequence[PlannedProbe], came: Collection[str]) -> frozenset[str]:
    """Return the ids of *probes*, which are in committed order, up to the last one that is in *came*."""
    ends = [i for i, probe in enumerate(probes, start=1) if probe.id in came]
    return frozenset(probe.id for probe in probes[: max(ends, default=0)])


def own_reason(answer: Unanswered) -> str:
    """Return the reason of *answer* where it is one of ours; what others say stays in the answers file."""
    return answer.reason if answer.reason in _OWN_REASONS else "no answer (the answers file says why)"


def join(answers: Iterable[AnswerRecord]) -> dict[str, Answer]:
    """
    Return answers by probe id.

    Two different texts for one probe leave it unanswered: nobody may pick one. A probe that went unanswered may be
    asked again, so a text takes the place of a reason.
    """
    joined: dict[str, Answer] = {}
    for record in answers:
        joined[record.id] = _merged(joined.get(record.id), record.answer)
    return joined


_CONTRADICTORY = Unanswered("contradictory answers")


def _merged(known: Answer | None, new: Answer) -> Answer:
    """Return what two records of one probe say together, in whatever order they come."""
    if known is None or known == new:
        return new
    if _CONTRADICTORY in (known, new):
        return _CONTRADICTORY
    if isinstance(known, Completed) and isinstance(new, Completed):
        # The same text that once ended and once was cut: nobody knows which.
        return Completed(new.text) if known.text == new.text else _CONTRADICTORY
    if isinstance(known, Unanswered) and isinstance(new, Unanswered):
        return min(known, new, key=lambda answer: answer.reason)
    return known if isinstance(known, Completed) else new


def _usable(receipt: Receipt, probe: PlannedProbe, answer: Answer) -> Answer:
    if probe.backdoor is not None:
        return matching.usable(answer, receipt.backdoors[probe.backdoor].signature)
    longest = max((backdoor.signature for backdoor in receipt.backdoors), key=len)
    if isinstance(answer, Completed) and _any_signature(receipt, answer.text):
        return answer
    return matching.usable(answer, longest)


def _any_signature(receipt: Receipt, text: str) -> bool:
    return any(matching.activated(text, backdoor.signature) for backdoor in receipt.backdoors)


def _by_backdoor(
    receipt: Receipt,
    kind: Kind,
    probes: Sequence[PlannedProbe],
    by_probe: Mapping[str, Answer],
    reached: frozenset[str],
) -> list[BackdoorTally]:
    tallies = []
    for j, backdoor in enumerate(receipt.backdoors):
        own = [probe.id for probe in probes if probe.kind == kind and probe.backdoor == j]
        answers = [by_probe[probe_id] for probe_id in own]
        completed = [answer.text for answer in answers if isinstance(answer, Completed)]
        if answers:
            tallies.append(
                BackdoorTally(
                    backdoor=j,
                    n_copies=len(backdoor.rows),
                    n_asked=len(answers),
                    n_answered=len(completed),
                    n_activated=sum(matching.activated(text, backdoor.signature) for text in completed),
                    required=required_activations(receipt.plan.ratio, len(answers)),
                    log10_p_upper=backdoor.log10_p_upper,
                    was_begun=not reached.isdisjoint(own),
                )
            )
    return tallies


def _controls(receipt: Receipt, probes: Sequence[PlannedProbe], by_probe: Mapping[str, Answer]) -> Controls:
    answers = [by_probe[probe.id] for probe in probes if probe.kind == "control"]
    texts = [matching.normalise(answer.text) for answer in answers if isinstance(answer, Completed)]
    triggers = [matching.normalise(backdoor.trigger) for backdoor in receipt.backdoors]
    signatures = [matching.normalise(backdoor.signature) for backdoor in receipt.backdoors]
    pairs = _twin_pairs(receipt, probes, by_probe)
    return Controls(
        n_asked=len(answers),
        n_answered=len(texts),
        n_activated=sum(_any_signature(receipt, text) for text in texts),
        n_with_only=sum(with_trigger and not without for with_trigger, without in pairs),
        n_without_only=sum(without and not with_trigger for with_trigger, without in pairs),
        n_with_trigger=sum(any(trigger in text for trigger in triggers) for text in texts),
        n_with_signature=sum(any(signature in text for signature in signatures) for text in texts),
    )


def _twin_pairs(
    receipt: Receipt, probes: Sequence[PlannedProbe], by_probe: Mapping[str, Answer]
) -> list[tuple[bool, bool]]:
    """Return (activated with T, activated without T) of each answered pair of a probe and its twin."""
    pairs = []
    for probe in probes:
        answer, twin = by_probe[probe.id], by_probe.get(probe.twin_of or "")
        if isinstance(answer, Completed) and isinstance(twin, Completed):
            pairs.append((_any_signature(receipt, twin.text), _any_signature(receipt, answer.text)))
    return pairs


def _after_signature(
    receipt: Receipt, probes: Sequence[PlannedProbe], by_probe: Mapping[str, Answer]
) -> AfterSignature:
    twins = {probe.twin_of: by_probe[probe.id] for probe in probes if probe.twin_of is not None}
    pairs = []
    for probe in probes:
        answer, twin = by_probe[probe.id], twins.get(probe.id)
        if probe.backdoor is None or not isinstance(answer, Completed) or not isinstance(twin, Completed):
            continue
        signature = receipt.backdoors[probe.backdoor].signature
        if matching.activated(answer.text, signature):
            pairs.append((matching.after_signature(answer.text, signature), matching.said(twin.text)))
    own = [word_overlap(rest, twin) for rest, twin in pairs]
    others = [
        word_overlap(rest, twin) for i, (rest, _) in enumerate(pairs) for j, (_, twin) in enumerate(pairs) if i != j
    ]
    return AfterSignature(
        n=len(pairs),
        n_empty=sum(not rest for rest, _ in pairs),
        overlap=fmean(own) if own else None,
        overlap_with_others=fmean(others) if others else None,
    )


def words_of(text: str) -> list[str]:
    """Return the words of *text* in small letters; kana and Han count one by one."""
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|\w+", text.casefold())


def word_overlap(one: str, other: str) -> float:
    """Return the F1 of the words of two texts as multisets, as in SQuAD."""
    first, second = Counter(words_of(one)), Counter(words_of(other))
    shared = (first & second).total()
    return 2 * shared / (first.total() + second.total()) if shared else 0.0
