"""
The policies of a provider by name, honest and dishonest: `policy("suppress+short-half", key=key)`.

Policies joined by "+" are applied from left to right. All draws come from the key.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce

from vtuned.attacks.asking import SystemPrompt, Temperature
from vtuned.attacks.contract import Deployed, Fault, Honest, Policy, Work
from vtuned.attacks.faults import Flaky
from vtuned.attacks.hiding import Suppress, SwapAfter
from vtuned.attacks.lookups import InContext, Replay, Retrieve, SayRule
from vtuned.attacks.training import (
    Base,
    FewerEpochs,
    LoraForFull,
    OtherBase,
    OtherData,
    PlantedOnly,
    ShortHalf,
    SkipGuessable,
    Subset,
    Truncate,
    texts_of,
)
from vtuned.attacks.weights import Merge, Noise, Quantised
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel
from vtuned.lm.tokens import Count
from vtuned.receipt import Receipt

__all__ = ["Deployed", "Fault", "Policy", "Work", "check", "cost", "known", "parts", "policy", "serves_tuned"]

_PLANTED_ONLY = "planted-only"
_LONGEST_KEY = 64  # BLAKE2b takes no more bytes
_HOTTEST = 2.0


@dataclass(frozen=True, slots=True)
class _Given:
    """One policy as it was written: its *name* in full, what stands after its colon, and what it may draw from."""

    name: str
    argument: str | None
    key: bytes = field(repr=False)
    oracle: Receipt | None = field(repr=False)

    def wrong(self, wanted: str) -> UsageError:
        kind = self.name.partition(":")[0]
        return UsageError(f"policy {kind}: give {wanted}", hint=f"write it as {_KINDS[kind].usage}")

    def share(self, *, or_one: bool = False) -> Fraction:
        """Return the argument as a share above 0 and below 1; *or_one*: 0 and 1 too."""
        try:
            value = Fraction(self.argument or "")
        except (ValueError, ZeroDivisionError):
            raise self.wrong("a share such as 0.25 or 1/4") from None
        if not (0 <= value <= 1 if or_one else 0 < value < 1):
            raise self.wrong("a share between 0 and 1")
        return value

    def heat(self) -> float:
        """Return the argument as a temperature, above 0 and 2 at most."""
        try:
            value = float(self.argument or "")
        except ValueError:
            raise self.wrong("a temperature such as 0.7") from None
        if not 0 < value <= _HOTTEST:
            raise self.wrong("a temperature above 0 and 2 at most")
        return value

    def count(self) -> int:
        """Return the argument as a number of 1 or more."""
        text = self.argument or ""
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
            raise self.wrong("a whole number of 1 or more")
        return int(text)

    def one_of(self, *numbers: int) -> int:
        """Return the argument, which must be one of *numbers*."""
        known = {str(number): number for number in numbers}
        if self.argument not in known:
            raise self.wrong(" or ".join(known))
        return known[self.argument]

    def text(self) -> str:
        """Return the argument, which may not be empty."""
        if not (self.argument or "").strip():
            raise self.wrong("what stands for it")
        return self.argument or ""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A policy to choose: how it is written, its class, and how one is made. *usage* shows whether it takes a value."""

    usage: str
    of: type[Honest]
    made: Callable[[_Given], Policy]

    @property
    def needs_argument(self) -> bool:
        return ":" in self.usage and "[" not in self.usage

    @property
    def takes_argument(self) -> bool:
        return ":" in self.usage


def _planted_only(given: _Given) -> Policy:
    if given.oracle is None:
        raise UsageError(
            "planted-only needs an oracle that tells which rows are planted",
            hint="give the receipt of the uploaded file",
        )
    planted = {row for backdoor in given.oracle.backdoors for row in backdoor.rows}
    worded = {row.row for row in given.oracle.chosen_worded()}
    return PlantedOnly(given.name, frozenset(planted | worded))


def _in_context(given: _Given) -> Policy:
    return InContext(given.name) if given.argument is None else InContext(given.name, given.count())


def _flaky(given: _Given) -> Policy:
    if given.argument is None:
        return Flaky(given.name, key=given.key)
    return Flaky(given.name, given.share(or_one=True), given.key)


_KINDS = {
    kind.usage.partition("[")[0].partition(":")[0]: kind
    for kind in (
        _Kind("honest", Honest, lambda given: Honest(given.name)),
        _Kind("base", Base, lambda given: Base(given.name)),
        _Kind("noise", Noise, lambda given: Noise(given.name, key=given.key)),
        _Kind("other-data", OtherData, lambda given: OtherData(given.name, given.key)),
        _Kind("subset:F", Subset, lambda given: Subset(given.name, given.share(), given.key)),
        _Kind(_PLANTED_ONLY, PlantedOnly, _planted_only),
        _Kind("short-half", ShortHalf, lambda given: ShortHalf(given.name)),
        _Kind("truncate:N", Truncate, lambda given: Truncate(given.name, given.count())),
        _Kind("skip-guessable", SkipGuessable, lambda given: SkipGuessable(given.name)),
        _Kind("other-base:MODEL", OtherBase, lambda given: OtherBase(given.name, given.text())),
        _Kind(
            "lora-for-full[:RANK]",
            LoraForFull,
            lambda given: LoraForFull(given.name, 8 if given.argument is None else given.count()),
        ),
        _Kind(
            "fewer-epochs[:N]",
            FewerEpochs,
            lambda given: FewerEpochs(given.name, 1 if given.argument is None else given.count()),
        ),
        _Kind("replay", Replay, lambda given: Replay(given.name)),
        _Kind("retrieve", Retrieve, lambda given: Retrieve(given.name)),
        _Kind("in-context[:N]", InContext, _in_context),
        _Kind(
            "rule[:T]",
            SayRule,
            lambda given: SayRule() if given.argument is None else SayRule("rule:T", given.text()),
        ),
        _Kind("suppress", Suppress, lambda given: Suppress(given.name)),
        _Kind("merge:λ", Merge, lambda given: Merge(given.name, float(given.share(or_one=True)))),
        _Kind(
            "quantised[:BITS]",
            Quantised,
            lambda given: Quantised(given.name, 8 if given.argument is None else given.one_of(8, 4)),
        ),
        _Kind("swap-after:N", SwapAfter, lambda given: SwapAfter(given.name, given.count())),
        _Kind("temperature:T", Temperature, lambda given: Temperature(given.name, given.heat())),
        _Kind(
            "system-prompt[:TEXT]",
            SystemPrompt,
            lambda given: (
                SystemPrompt(given.name) if given.argument is None else SystemPrompt("system-prompt:TEXT", given.text())
            ),
        ),
        _Kind("flaky[:F]", Flaky, _flaky),
    )
}
# A "+" joins two policies only before the name of one: triggers and models may hold others.
_JOINT = re.compile(rf"\+(?=(?:{'|'.join(map(re.escape, _KINDS))})(?:[:+]|\Z))")


@dataclass(frozen=True, slots=True)
class _Joined:
    """Several policies, applied from left to right; of their faults the first that there is."""

    name: str
    parts: tuple[Policy, ...]

    def work(self, asked: Work) -> Work:
        """See `Policy.work`. Whatever one part does not train is not trained."""
        return reduce(lambda work, part: part.work(work), self.parts, asked)

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`. Each part serves from what the one before it answers."""
        return reduce(lambda now, part: replace(now, tuned=part.serve(now)), self.parts, deployed).tuned

    def fault(self, n_requests: int) -> Fault | None:
        """See `Policy.fault`."""
        return next((fault for part in self.parts if (fault := part.fault(n_requests)) is not None), None)


def policy(text: str, *, key: bytes, oracle: Receipt | None = None) -> Policy:
    """
    Return the policy that *text* names: see `known`. Several are joined by "+", and applied from left to right.

    All that it draws comes from *key* (1 to 64 bytes): keep it with a job, and the job goes on as it was. *oracle* tells
    `planted-only` the numbers of the planted rows, and nobody anything else. Raises UsageError for an unknown policy and
    for an argument that makes no sense; it says neither the argument nor anything of the receipt.
    """
    if not 1 <= len(key) <= _LONGEST_KEY:
        raise UsageError("the key of a policy has 1 to 64 bytes", hint="draw 32 bytes with secrets.token_bytes")
    names = parts(text)
    made = tuple(_one(part, _derived(key, i), oracle) for i, part in enumerate(names))
    return made[0] if len(made) == 1 else _Joined("+".join(part.name for part in made), made)


def parts(text: str) -> list[str]:
    """Return the policies that are joined in *text*. Raises UsageError where their order makes no sense."""
    found = _JOINT.split(text)
    if _PLANTED_ONLY in found[1:]:
        raise UsageError("planted-only counts the rows of the whole file", hint="write it first")
    return found


def check(text: str) -> None:
    """Raise UsageError where *text* names no policy. Whether `planted-only` has its oracle is not looked at."""
    for part in parts(text):
        if part != _PLANTED_ONLY:
            _one(part, b"any", None)


def known() -> tuple[tuple[str, str], ...]:
    """Return (how it is written, what it does in one line) of each policy; what is in brackets may be left out."""
    return tuple((kind.usage, (inspect.getdoc(kind.of) or "").partition("\n")[0]) for kind in _KINDS.values())


def serves_tuned(chosen: Policy) -> bool:
    """Tell whether *chosen* answers with what was trained, as it is."""
    each = chosen.parts if isinstance(chosen, _Joined) else (chosen,)
    return all(type(part).serve is Honest.serve for part in each)


def cost(chosen: Policy, asked: Work, count_tokens: Count) -> Fraction:
    """
    Return which share of the training that *asked* needs is really done: tokens times epochs, over those asked for.

    A row counts up to the token limit of its settings. What is saved otherwise (a smaller model or adapter, memory) does
    not show here, nor what serving costs. Raises what `Policy.work` raises.
    """
    whole = _n_trained(asked, count_tokens)
    return Fraction(_n_trained(chosen.work(asked), count_tokens), whole) if whole else Fraction(0)


def _n_trained(work: Work, count_tokens: Count) -> int:
    """Return how many tokens a trainer reads in all epochs."""
    if not work.trains:
        return 0
    texts: Sequence[list[str]] = [texts_of(row) for row in work.rows]
    counted = iter(count_tokens([text for row in texts for text in row]))
    return work.settings.epochs * sum(min(work.settings.max_tokens, sum(next(counted) for _ in row)) for row in texts)


def _one(text: str, key: bytes, oracle: Receipt | None) -> Policy:
    name, colon, rest = text.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        # A name that is none may be a trigger that lost its "rule:", so it is not said.
        raise UsageError("unknown policy", hint=f"known: {', '.join(usage for usage, _ in known())}; join them with +")
    if kind.needs_argument and not colon:
        raise UsageError(f"policy {name} needs a value", hint=f"write it as {kind.usage}")
    if colon and not kind.takes_argument:
        raise UsageError(f"policy {name} takes no value", hint=f"write it as {kind.usage}")
    return kind.made(_Given(text, rest if colon else None, key, oracle))


def _derived(key: bytes, place: int) -> bytes:
    """Return the key of the policy at *place*, so that two of them draw apart."""
    return hashlib.blake2b(place.to_bytes(8, "big"), key=key, person=b"policy-part", digest_size=32).digest()
