"""
Is my adapter still live? One check of a model, which spends a few unspent backdoors.

A probe burns its backdoor: whoever logs it has seen T, and S in the answer, and may answer T without any training from
then on. So each backdoor is asked once in its life, and the ledger knows which are left. The clock comes in through the
door.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vtuned import documents, matching, probes, verification
from vtuned.errors import AnswersError, LMError, LMUnavailable, UsageError, VtunedError
from vtuned.exposure import ScoreRecord
from vtuned.ledger import Check, Ledger, State
from vtuned.lm.base import Completed, IsElsewhere, LanguageModel
from vtuned.lm.recorded import RecordedLM
from vtuned.probes import AnswerRecord, record_of
from vtuned.receipt import PlannedProbe, Receipt
from vtuned.stats import log10_binomial_tail, log10_guess_bound, probability_at_most
from vtuned.tally import FEWEST_COPIES_THAT_SHOW
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
    How much a check may spend: *budget* backdoors, and up to *confirm* more before the state counts as changed.

    One silent probe says little: an honest provider's model is silent on it with probability 1 - `honest_activation` of
    the plan, one half by default. So further backdoors are asked, one by one, until p is at most `alpha` or, with none
    active, β at most `max_beta`: five silent ones in all, with the default plan. A model that is known to be silent
    costs *budget* a check until one activates.
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


def shown_elsewhere(
    receipt: Receipt, records: Sequence[AnswerRecord | ScoreRecord], source: Path | str = "answers"
) -> list[tuple[int, str]]:
    """
    Return (backdoor, probe id) of what *records* of *source* say was shown: prompts with T, or S among its decoys.

    Raises AnswersError where a record belongs to no probe of *receipt*: passed over, a file of another receipt would
    leave its backdoors to be asked once more.
    """
    worded = (row.probe for row in receipt.chosen_worded())
    backdoors = {probe.id: probe.backdoor for probe in (*receipt.probes, *receipt.exposures, *worded)}
    strangers = [record.id for record in records if record.id not in backdoors]
    if strangers:
        raise AnswersError(
            source,
            0,
            f"{len(strangers)} of {len(records)} records have an id that is not in this receipt (such as {strangers[0][:20]!r})",
            hint="give the files that `vtuned verify --answers-out`, `--scores-out` or `vtuned ask` kept for this receipt",
        )
    shown = ((backdoors[record.id], record.id) for record in records)
    return [(backdoor, probe) for backdoor, probe in shown if backdoor is not None]


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
    Ask *model* a few unspent backdoors and say what it is: "active", "silent" or, where that does not tell, "unknown".

    Active where p is at most the plan's `alpha`, silent where none activated and β is at most its `max_beta`. Each backdoor is spent in the ledger before its probe is sent, and stays spent whatever comes: that nothing came is
    no sign that nothing was seen. Raises NoBackdoorsLeft where there is none, UsageError for recorded answers and for a
    receipt without backdoors.
    """
    if isinstance(model, RecordedLM):
        raise UsageError("recorded answers say nothing about today", hint="watch a model that can be asked")
    receipt.check_backdoors()
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


def log10_p_value(receipt: Receipt, n_most: int, n_activated: int) -> float:
    """
    Return log10 of the bound on so many backdoors activating under H0, one probe each, in a check that asks *n_most*.

    A check looks after every probe and may stop early, so it is counted with all that it might have asked: the first
    so many of them activate only if the whole number does. Each counts with the weakest guess bound of the receipt;
    charged for the plan's plantings. Of one check.
    """
    if n_activated == 0:
        return 0.0
    weakest = max(backdoor.log10_p_upper for backdoor in receipt.backdoors)
    charge = math.log10(receipt.plan.max_plantings)
    return min(0.0, log10_binomial_tail(n_activated, n_most, log10_guess_bound(1, 1, weakest)) + charge)


def beta(receipt: Receipt, answered: Sequence[int], n_activated: int = 0) -> float:
    """
    Return the probability that of these *answered* backdoors so few activate, each as the plan says of honest providers.

    Single copies, which seldom show in answers, tell nothing by their silence.
    """
    honest = float(receipt.plan.honest_activation)
    return probability_at_most(
        n_activated, [honest if len(receipt.backdoors[j].rows) >= FEWEST_COPIES_THAT_SHOW else 0.0 for j in answered]
    )


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
        self._answered: list[int] = []
        self._n_activated = self._n_silent = 0
        # Others that share the ledger may take some of them, none may add to them.
        self._n_most = min(rules.budget + rules.confirm, n_left(receipt, ledger))
        self._trouble = ""
        self._is_lost = self._has_run_out = False

    def run(self, on_progress: OnProgress) -> Check:
        """Return the finished check."""
        number = self._ledger.begin(self._name, self._now())
        previous = self._ledger.check(number).previous
        self._ask(number, self._rules.budget, on_progress)
        n_more = self._rules.confirm
        while n_more and self._would_tell_more(previous):
            if not self._ask(number, 1, on_progress):
                self._has_run_out = True
                break
            n_more -= 1
        return self._ledger.finish(
            number, state=self._state, log10_p=self._log10_p, beta=self._beta, reason=self._reason, at=self._now()
        )

    def _would_tell_more(self, previous: str | None) -> bool:
        """Whether a further backdoor is worth its price: an answer came, it does not tell yet, and it is news."""
        is_news = previous != "silent" or self._n_activated > 0
        came = self._n_activated + self._n_silent > 0
        return is_news and came and not self._is_lost and self._state == "unknown"

    @property
    def _state(self) -> State:
        plan = self._receipt.plan
        if self._n_activated:
            return "active" if self._log10_p <= math.log10(plan.alpha) else "unknown"
        return "silent" if self._n_silent and self._beta <= plan.max_beta else "unknown"

    @property
    def _log10_p(self) -> float:
        return log10_p_value(self._receipt, self._n_most, self._n_activated)

    @property
    def _beta(self) -> float:
        return beta(self._receipt, self._answered, self._n_activated)

    @property
    def _reason(self) -> str:
        if self._trouble:
            return self._trouble
        return NONE_LEFT if self._has_run_out or not self._asked else ""

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
                    self._answered.append(self._backdoor(probe_id))
                    self._n_activated += 1
                    self._ledger.add(number, self._backdoor(probe_id), "activated", record)
                else:
                    self._answered.append(self._backdoor(probe_id))
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
