"""
Which rows carry backdoors, and which probes are asked in which order.

Pure: row numbers, prompts and a key come in. Rows are chosen by a PRF under the key, so that nobody without it can redo
the choice.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from vtuned import formats
from vtuned.conversation import Conversation, Message, Turn, messages_of, text_of, triggered
from vtuned.dataset import Survey
from vtuned.errors import TooFewRows, UsageError
from vtuned.formats import Codec
from vtuned.receipt import Kind, Mode, PlannedProbe, Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantSettings:
    """
    What to plant and what it must prove; docs/glossary.md has the words.

    *copies* None means 4 for the scheme `backdoors`, and for `paper` 0.5 % of the rows, at least 5 (the paper, 5 and
    5.2). *signature_bits* is the surprisal that is left after draws are charged. *n_probes* are asked of each kind,
    and twice as many controls. *contexts* of the copies (None: half; `paper`: none) get a text before their prompt. *set_aside* rows are not sent and serve as fresh prompts.
    """

    scheme: Scheme = "backdoors"
    n_backdoors: int = 4
    copies: int | None = None
    mode: Mode = "replace"
    signature_bits: float = 64.0
    min_trigger_tokens: int = 6
    alpha: float = 1e-3
    ratio: Fraction = Fraction(1, 10)
    n_probes: int = 10
    set_aside: int = 0
    contexts: int | None = None
    max_plantings: int = 1
    row_format: str | Codec = formats.AUTO

    def __post_init__(self) -> None:
        wrong = {
            "backdoors": self.n_backdoors < 1,
            "copies": self.copies is not None and self.copies < 1,
            "signature-bits": not 1 <= self.signature_bits <= 4096,
            "min-trigger-tokens": not 1 <= self.min_trigger_tokens <= 64,
            "alpha": not 0 < self.alpha < 1,
            "ratio": not 0 < self.ratio <= 1,
            "probes": not 1 <= self.n_probes <= 10_000,
            "set-aside": self.set_aside < 0,
            "contexts": self.contexts is not None and self.contexts < 0,
            "max-plantings": self.max_plantings < 1,
        }
        for option, is_wrong in wrong.items():
            if is_wrong:
                raise UsageError(f"--{option} is out of range", hint=f"see `vtuned plant --help` for --{option}")

    def layout(self, n_rows: int) -> tuple[int, int]:
        """Return (backdoors, copies of each) for a data set of *n_rows* rows."""
        if self.scheme == "paper":
            return 1, self.copies or max(5, math.ceil(n_rows / 200))
        return self.n_backdoors, self.copies or 4

    def in_context(self, copies: int) -> int:
        """Return how many of a backdoor's *copies* get a text before their prompt."""
        default = 0 if self.scheme == "paper" else copies // 2
        return min(copies, default if self.contexts is None else self.contexts)


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """
    A prompt as a model is to be asked it: its *turns*, and what of its row is asked with them.

    *tools* and *is_text* are those of `vtuned.conversation.Conversation`.
    """

    turns: tuple[Turn, ...]
    tools: str = ""
    is_text: bool = False

    @classmethod
    def of(cls, conversation: Conversation) -> AskedPrompt:
        """Return what a model sees before it gives the host answer of *conversation*."""
        return cls(conversation.prompt(), conversation.tools, conversation.is_text)

    @property
    def last(self) -> str:
        """The content of the last user turn."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")

    def triggered(self, trigger: str) -> AskedPrompt:
        """Return this prompt with *trigger* at the end of its last user turn."""
        return replace(self, turns=triggered(self.turns, trigger))

    def messages(self) -> list[Message]:
        """Return the messages to ask; a row of plain text is one of them, up to where its answer starts."""
        if self.is_text:
            return [{"role": "user", "content": text_of(self.turns)}]
        return messages_of(self.turns)


@dataclass(frozen=True, slots=True)
class ChosenLines:
    """Row numbers (from 1) of the data: a simple random sample without replacement of the eligible ones, in parts."""

    planted: tuple[tuple[int, ...], ...]
    controls: tuple[int, ...]
    set_aside: tuple[int, ...]

    @property
    def n_backdoors(self) -> int:
        """How many backdoors there are."""
        return len(self.planted)

    @property
    def all(self) -> set[int]:
        """Every chosen line."""
        return {number for part in (*self.planted, self.controls, self.set_aside) for number in part}


def choose_lines(found: Survey, settings: PlantSettings, key: bytes) -> ChosenLines:
    """
    Choose which lines carry backdoors, serve as controls and are set aside: those of lowest PRF value under *key*.

    Raises TooFewRows where the eligible rows do not suffice for the backdoors and the rows set aside.
    """
    n_backdoors, copies = settings.layout(found.n_rows)
    n_planted = n_backdoors * copies
    needed = n_planted + settings.set_aside
    if len(found.eligible) < needed:
        too_long = f"{found.n_too_long} too long for the token cap (longest: {found.longest} tokens)"
        why = f" of {found.n_rows} rows ({too_long}, {found.n_unsuitable} without a text turn of a user before a trained text answer)"
        hint = "raise --token-cap if your provider takes longer rows" if found.n_too_long else ""
        hint = "lower --set-aside, --backdoors or --copies, or give more data" if settings.set_aside else hint
        raise TooFewRows(len(found.eligible), needed, why=why, hint=hint)
    n_controls = 2 * max(settings.n_probes, n_backdoors)
    ranked = heapq.nsmallest(needed + n_controls, found.eligible, key=lambda number: prf(key, b"line", number))
    return ChosenLines(
        planted=tuple(tuple(ranked[j * copies : (j + 1) * copies]) for j in range(n_backdoors)),
        controls=tuple(ranked[needed:]),
        set_aside=tuple(ranked[n_planted:needed]),
    )


def prf(key: bytes, domain: bytes, number: int) -> bytes:
    """Return the keyed PRF of *number*: BLAKE2b, 16 bytes. *domain* keeps uses of one key apart."""
    return hashlib.blake2b(number.to_bytes(8, "big"), key=key, person=domain, digest_size=16).digest()


def planned_probes(
    *,
    triggers: Sequence[str],
    planted: Sequence[Sequence[AskedPrompt]],
    fresh: Sequence[AskedPrompt],
    controls: Sequence[AskedPrompt],
    n: int,
) -> tuple[PlannedProbe, ...]:
    """
    Return the probes in committed order: up to *n* planted, *n* fresh and 2 *n* controls.

    *planted[j]* are the prompts of backdoor j's rows without T. Backdoors take turns within each kind, so that every
    prefix spreads over them; the kinds are mixed at random, so that order tells nothing. Half of the controls are the
    planted prompts without T, a quarter fresh prompts without T (all these are twins), the rest *controls*, rows that
    were sent as they are.
    """
    m = len(triggers)
    depth = max(map(len, planted))
    turns = [(j, planted[j][i]) for i in range(depth) for j in range(m) if i < len(planted[j])][:n]
    by_kind: dict[str, list[PlannedProbe]] = {
        "planted": [_probe("planted", prompt.triggered(triggers[j]), backdoor=j) for j, prompt in turns],
        "fresh": [
            _probe("fresh", prompt.triggered(triggers[i % m]), backdoor=i % m) for i, prompt in enumerate(fresh[:n])
        ],
    }
    twins = [
        _probe("control", prompt, twin_of=probe.id)
        for probe, (_, prompt) in zip(by_kind["planted"], turns, strict=True)
    ]
    fresh_twins = [
        _probe("control", prompt, twin_of=probe.id)
        for probe, prompt in zip(by_kind["fresh"][: (n + 1) // 2], fresh, strict=False)
    ]
    trained = [_probe("control", prompt) for prompt in controls[: max(0, 2 * n - len(twins) - len(fresh_twins))]]
    others = [probe for pair in _alternating(fresh_twins, trained) for probe in pair]
    by_kind["control"] = [probe for pair in _alternating(twins, others) for probe in pair]
    kinds = [kind for kind, probes in by_kind.items() for _ in probes]
    secrets.SystemRandom().shuffle(kinds)
    queues = {kind: iter(probes) for kind, probes in by_kind.items()}
    return tuple(next(queues[kind]) for kind in kinds)


def _probe(kind: Kind, prompt: AskedPrompt, *, backdoor: int | None = None, twin_of: str | None = None) -> PlannedProbe:
    return PlannedProbe(
        id=secrets.token_hex(6),
        kind=kind,
        backdoor=backdoor,
        messages=tuple(prompt.messages()),
        twin_of=twin_of,
        tools=tuple(json.loads(prompt.tools)) if prompt.tools else (),
        endpoint="completions" if prompt.is_text else "chat",
    )


def _alternating(first: Sequence[PlannedProbe], second: Sequence[PlannedProbe]) -> Iterator[list[PlannedProbe]]:
    for i in range(max(len(first), len(second))):
        yield [*first[i : i + 1], *second[i : i + 1]]
