"""
Is my adapter still live? One check of a model, which spends a few unspent backdoors.

A probe burns its backdoor: whoever logs it has seen T, and S in the answer, and may answer T without any training from
then on. So each backdoor is asked once in its life, and the ledger knows which are left. The clock comes in through the
door.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vtuned import documents, matching, probes, verification
from vtuned.errors import LMError, LMUnavailable, UsageError, VtunedError
from vtuned.ledger import Check, Ledger, State
from vtuned.lm.base import Completed, IsElsewhere, LanguageModel
from vtuned.lm.recorded import RecordedLM
from vtuned.probes import AnswerRecord, record_of
from vtuned.receipt import PlannedProbe, Receipt
from vtuned.stats import log10_guess_bound, log10_poisson_binomial_tail, probability_at_most
from vtuned.traffic import Traffic, as_traffic

Clock = Callable[[], datetime]
OnProgress = Callable[[int, int], None]

# An endpoint's reason may echo the prompt.
_KEPT = "no answer (the ledger keeps why)"
NONE_LEFT = "no unspent backdoor is left to ask"
# How many checks before the end the user is told what to do.
FEW_CHECKS = 7
REPLANT = "plant anew, with a backdoor a check (`vtuned plant --backdoors 100 --copies 4`), have that trained, and watch by its receipt"


class NoBackdoorsLeft(VtunedError):
    """Every backdoor that has a probe is spent: nothing can be told any more."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__(NONE_LEFT, hint=REPLANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """
    How much a check may spend: *budget* backdoors, and up to *confirm* more before it calls a model newly silent.

    One silent probe says little: an honest provider's model is silent on it with probability 1 - `honest_activation` of
    the plan, one half by default. So where the model was not known to be silent, further backdoors are asked, one by
    one, until one activates or β is at most `max_beta`: five silent ones in all, with the default plan. A model that is
    known to be silent costs *budget* a check.
    """

    budget: int = 1
    confirm: int = 4

    def __post_init__(self) -> None:
        if self.budget < 1 or self.confirm < 0:
            raise UsageError("--budget or --confirm is out of range", hint="at least 1, and at least 0")


def spending_order(receipt: Receipt) -> tuple[PlannedProbe, ...]:
    """
    Return the one probe that each backdoor may be asked, in committed order: its first fresh one, else a planted one.

    Fresh, because a lookup table of the rows that were sent answers planted ones, and a trained model answers both.
    Backdoors without a probe cannot be asked.
    """
    chosen: dict[int, PlannedProbe] = {}
    for kind in ("fresh", "planted"):
        own: dict[int, PlannedProbe] = {}
        for probe in receipt.probes:
            if probe.kind == kind and probe.backdoor is not None and probe.backdoor not in chosen:
                own.setdefault(probe.backdoor, probe)
        chosen |= own
    place = {probe.id: i for i, probe in enumerate(receipt.probes)}
    return tuple(sorted(chosen.values(), key=lambda probe: place[probe.id]))


def n_left(receipt: Receipt, ledger: Ledger) -> int:
    """Return how many backdoors can still be asked."""
    return len({probe.backdoor for probe in spending_order(receipt)} - ledger.spent())


def spend_asked(receipt: Receipt, ledger: Ledger, answers: Iterable[AnswerRecord]) -> int:
    """Spend the backdoors of every probe that *answers* are to (`verify` asked them); return how many are new."""
    backdoors = {probe.id: probe.backdoor for probe in receipt.probes}
    asked = ((backdoors.get(record.id), record.id) for record in answers)
    return ledger.spend_elsewhere((backdoor, probe) for backdoor, probe in asked if backdoor is not None)


def check(
    receipt: Receipt,
    model: LanguageModel,
    ledger: Ledger,
    rules: WatchRules,
    *,
    traffic: Traffic | None = None,
    clock: Clock = lambda: datetime.now(UTC),
    on_progress: OnProgress = lambda done, total: None,
) -> Check:
    """
    Ask *model* a few unspent backdoors and say what it is: "active", "silent" or, where none could be asked, "unknown".

    Each backdoor is spent in the ledger before its probe is sent, and stays spent whatever comes: that nothing came is
    no sign that nothing was seen. Raises NoBackdoorsLeft where there is none, UsageError for recorded answers.
    """
    if isinstance(model, RecordedLM):
        raise UsageError("recorded answers say nothing about today", hint="watch a model that can be asked")
    if not n_left(receipt, ledger):
        raise NoBackdoorsLeft
    return _Look(receipt, model, ledger, rules, traffic or Traffic(), clock).run(on_progress)


def rounds(
    look: Callable[[], Check],
    every_s: float | None,
    *,
    sleep: Callable[[float], None],
    is_over: Callable[[], bool],
    on_trouble: Callable[[LMUnavailable], None],
) -> Iterator[Check]:
    """
    Yield what *look* finds: once or, with *every_s*, again after so many seconds until *is_over*.

    A model that cannot be loaded ends nothing after the first time: *on_trouble* is told, and the next time may do.
    """
    yield look()
    while every_s is not None and not is_over():
        sleep(every_s)
        try:
            found = look()
        except LMUnavailable as error:
            on_trouble(error)
        else:
            yield found


def log10_p_value(receipt: Receipt, backdoors: Sequence[int], n_activated: int) -> float:
    """
    Return log10 of the bound on so many of these *backdoors* activating, one probe each, under H0.

    The Poisson-binomial tail of the guess bounds, at most their sum; charged for the plan's plantings. Of one check.
    """
    if n_activated == 0:
        return 0.0
    bounds = [log10_guess_bound(1, 1, receipt.backdoors[j].log10_p_upper) for j in backdoors]
    charge = math.log10(receipt.plan.max_plantings)
    return min(0.0, log10_poisson_binomial_tail(n_activated, bounds) + charge)


def beta(receipt: Receipt, n_answered: int, n_activated: int = 0) -> float:
    """Return the probability that of *n_answered* probes so few activate, each as the plan says of honest providers."""
    return probability_at_most(n_activated, [float(receipt.plan.honest_activation)] * n_answered)


class _Look:
    """One check on its way."""

    def __init__(
        self,
        receipt: Receipt,
        model: LanguageModel,
        ledger: Ledger,
        rules: WatchRules,
        traffic: Traffic,
        clock: Clock,
    ) -> None:
        self._receipt, self._model, self._ledger, self._rules, self._clock = receipt, model, ledger, rules, clock
        self._planned = {probe.id: probe for probe in spending_order(receipt)}
        asked = [probe for probe in verification.challenges(receipt) if probe.id in self._planned]
        self._questions = {probe.id: probe for probe in as_traffic(asked, traffic)}
        self._order = [(self._backdoor(probe), probe) for probe in self._planned]
        self._name = f"{model.name} at {model.address}" if isinstance(model, IsElsewhere) else model.name
        self._asked: list[int] = []
        self._n_activated = self._n_silent = 0
        self._trouble = ""
        self._is_lost = False

    def run(self, on_progress: OnProgress) -> Check:
        """Return the finished check."""
        number = self._ledger.begin(self._name, self._now())
        previous = next(one.previous for one in self._ledger.checks() if one.number == number)
        self._ask(number, self._rules.budget, on_progress)
        n_more = 0 if previous == "silent" else self._rules.confirm
        while n_more and self._state == "silent" and not self._is_lost and self._beta > self._receipt.plan.max_beta:
            if not self._ask(number, 1, on_progress):
                break
            n_more -= 1
        log10_p = log10_p_value(self._receipt, self._asked, self._n_activated)
        return self._ledger.finish(
            number, state=self._state, log10_p=log10_p, beta=self._beta, reason=self._reason, at=self._now()
        )

    @property
    def _state(self) -> State:
        if self._n_activated:
            return "active"
        return "silent" if self._n_silent else "unknown"

    @property
    def _beta(self) -> float:
        return beta(self._receipt, self._n_activated + self._n_silent, self._n_activated)

    @property
    def _reason(self) -> str:
        if self._trouble:
            return self._trouble
        return "" if self._asked else NONE_LEFT

    def _ask(self, number: int, n: int, on_progress: OnProgress) -> bool:
        """Spend up to *n* more backdoors and ask them; tell whether there was one."""
        taken = self._ledger.spend(number, self._order, n)
        self._asked += [self._backdoor(probe) for probe in taken]
        waiting = dict.fromkeys(taken)
        try:
            for probe_id, answer in probes.ask_unordered(self._model, [self._questions[probe] for probe in taken]):
                del waiting[probe_id]
                usable = matching.usable(answer, self._signature(probe_id))
                record = self._record(probe_id).model_copy(update=_said(record_of(probe_id, answer)))
                if not isinstance(usable, Completed):
                    self._trouble = usable.reason if usable.reason in matching.REASONS else _KEPT
                    self._ledger.add(number, self._backdoor(probe_id), "unanswered", record)
                elif matching.activated(usable.text, self._signature(probe_id)):
                    self._n_activated += 1
                    self._ledger.add(number, self._backdoor(probe_id), "activated", record)
                else:
                    self._n_silent += 1
                    self._ledger.add(number, self._backdoor(probe_id), "silent", record)
                on_progress(len(self._asked) - len(waiting), len(self._asked))
        except LMError as error:
            self._trouble, self._is_lost = str(error), True
            for probe_id in waiting:
                record = self._record(probe_id).model_copy(update={"unanswered": self._trouble, "text": None})
                self._ledger.add(number, self._backdoor(probe_id), "unanswered", record)
        return bool(taken)

    def _record(self, probe_id: str) -> AnswerRecord:
        question = self._questions[probe_id].model_dump(mode="json")
        return AnswerRecord(
            id=probe_id,
            unanswered="not asked",
            model=self._name,
            asked_at=self._now(),
            asked=documents.digest(question),
            request=question,
        )

    def _backdoor(self, probe_id: str) -> int:
        backdoor = self._planned[probe_id].backdoor
        assert backdoor is not None
        return backdoor

    def _signature(self, probe_id: str) -> str:
        return self._receipt.backdoors[self._backdoor(probe_id)].signature

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")


def _said(record: AnswerRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in ("text", "finish", "unanswered", "exchange")}
