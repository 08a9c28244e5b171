"""
Which rows carry backdoors, and which probes are asked in which order.

Pure: row numbers, prompts and a key come in. Rows are chosen by a PRF under the key, so that nobody without it can redo
the choice.
"""

from __future__ import annotations

import heapq
import json
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Literal

from vtuned import formats
from vtuned.conversation import Conversation, Message, Turn, messages_of, text_of, triggered
from vtuned.dataset import Survey
from vtuned.errors import TooFewRows, UsageError
from vtuned.formats import Codec
from vtuned.prf import prf
from vtuned.receipt import Kind, Mode, PlannedProbe, Scheme, WordingTest
from vtuned.stats import exposure_level

SuspectKind = Literal["weights", "logprobs", "text", "unknown"]
RewriterName = Literal["openings", "paraphrase", "style"]

# As many as make a rank among them say as much as one signature in twenty, at two.
DEFAULT_DECOYS = 40
# More of either would take the exact tails minutes, or divide a level until floats cannot hold the rest.
MOST_BACKDOORS, MOST_PLANTINGS = 10_000, 1_000_000
MOST_WORDINGS = 64
_SPOKEN = (8,) * 2


# Settings whose option has another name.
_OPTIONS = {
    "n_backdoors": "backdoors",
    "n_decoys": "decoys",
    "n_probes": "probes",
    "n_wordings": "siblings",
    "n_rows": "rows",
    "n_worded": "ask-rows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantSettings:
    """
    What to plant and what it must prove; docs/glossary.md has the words.

    *suspect* is what the user will have of the suspect, and decides how many backdoors there are with how many copies
    where neither is said: see `layout`. *copies* may be several numbers, which the backdoors take in turn. The scheme
    `paper` has one backdoor, with 0.5 % of the rows, at least 5 (the paper, 5 and 5.2). *signature_bits* is the
    surprisal that is left after draws are charged. *n_probes* are asked of each kind, and twice as many controls.
    *contexts* of the copies (None: half; `paper`: none) get a text before their prompt. *set_aside* rows are not sent
    and serve as fresh prompts. *n_decoys* signatures are drawn beside each one for the exposure test (None: 40, or none
    for a suspect that can only speak), in which it passes by ranking within the share *exposure_level*, with
    likelihoods taken *less_base* (the base model's) or as they are. Up to *stealth* plantings are drawn in the place of
    one, until counting does not find them (0: that is not looked at, None: in small files alone); all that might be are
    charged. With *stopping* "any" p-values stay valid however
    the user stops asking.

    The schemes with wordings give each row that can bear it one of *n_wordings* wordings by *rewriter*, or only rows
    among *n_rows* that are drawn at random; *n_worded* of the rows are asked about, and *wording_test* decides. *openings* are the user's own;
    paraphrases are kept in the file *candidates*, and taken up from there.
    """

    scheme: Scheme = "backdoors"
    suspect: SuspectKind = "text"
    n_backdoors: int | None = None
    copies: int | tuple[int, ...] | None = None
    mode: Mode = "replace"
    signature_bits: float = 64.0
    min_trigger_tokens: int = 6
    alpha: float = 1e-3
    ratio: Fraction = Fraction(1, 10)
    n_probes: int = 10
    set_aside: int = 0
    contexts: int | None = None
    max_plantings: int = 1
    stealth: int | None = 0
    n_decoys: int | None = None
    exposure_level: Fraction = Fraction(1, 20)
    less_base: bool = True
    stopping: Literal["fixed", "any"] = "fixed"
    rewriter: RewriterName = "openings"
    n_wordings: int = 4
    n_rows: int | None = None
    n_worded: int = 256
    wording_test: WordingTest = "hits"
    openings: tuple[str, ...] = ()
    candidates: Path | None = None
    row_format: str | Codec = formats.AUTO

    def __post_init__(self) -> None:
        wrong = {
            "backdoors": self.n_backdoors is not None and not 1 <= self.n_backdoors <= MOST_BACKDOORS,
            "copies": any(copies < 1 for copies in self._copies) or self.copies == (),
            "signature-bits": not 1 <= self.signature_bits <= 4096,
            "min-trigger-tokens": not 1 <= self.min_trigger_tokens <= 64,
            "alpha": not 0 < self.alpha < 1,
            "ratio": not 0 < self.ratio <= 1,
            "probes": not 1 <= self.n_probes <= 10_000,
            "set-aside": self.set_aside < 0,
            "contexts": self.contexts is not None and self.contexts < 0,
            "max-plantings": not 1 <= self.max_plantings <= MOST_PLANTINGS,
            "stealth": self.stealth is not None
            and not 0 <= self.stealth <= MOST_PLANTINGS // max(1, self.max_plantings),
            "decoys": self.n_decoys is not None and not 0 <= self.n_decoys <= 100_000,
            "exposure-level": not 0 < self.exposure_level < 1,
            "siblings": not 2 <= self.n_wordings <= MOST_WORDINGS,
            "rows": self.n_rows is not None and self.n_rows < 1,
            "ask-rows": not 1 <= self.n_worded <= 10_000,
        }
        for option, is_wrong in wrong.items():
            if is_wrong:
                raise UsageError(f"--{option} is out of range", hint=f"see `vtuned plant --help` for --{option}")
        self._check_wordings()
        if self.decoys and not exposure_level(self.exposure_level, self.decoys):
            raise UsageError(
                f"with {self.decoys} decoys no signature can rank within {self.exposure_level} of the candidates",
                hint=f"draw --decoys {math.ceil(1 / self.exposure_level) - 1} or more",
            )

    def _check_wordings(self) -> None:
        if self.rewriter == "paraphrase" and (self.stealth or 0) > 1:
            raise UsageError("paraphrases are written once, so --stealth is 1 at most", hint="leave --stealth out")
        if self.has_wordings and self.mode == "add":
            raise UsageError("wordings take the place of answers, so --mode add cannot be", hint="leave --mode out")
        if self.openings and self.rewriter != "openings":
            raise UsageError("--openings is for --rewriter openings", hint="leave it out")
        if self.candidates and self.rewriter != "paraphrase":
            raise UsageError("--candidates is for --rewriter paraphrase", hint="leave it out")

    def check_scheme(self) -> None:
        """Raise UsageError where something was chosen that the scheme makes no use of."""
        of_backdoors = "n_backdoors copies contexts n_decoys signature_bits min_trigger_tokens ratio n_probes".split()
        of_wordings = "rewriter n_wordings n_rows n_worded wording_test openings candidates".split()
        for names, is_used, other in (
            (of_backdoors, self.has_backdoors, "backdoors"),
            (of_wordings, self.has_wordings, "wordings"),
        ):
            defaults = {field.name: field.default for field in fields(self)}
            chosen = [name for name in names if getattr(self, name) not in (defaults[name], 0)]
            if chosen and not is_used:
                raise UsageError(
                    f"--{_OPTIONS.get(chosen[0], chosen[0].replace('_', '-'))} is for schemes with {other}, "
                    f"and this one is {self.scheme}",
                    hint=f"leave it out, or choose --scheme {'wordings' if other == 'wordings' else 'wordings+backdoors'}",
                )

    @property
    def has_backdoors(self) -> bool:
        """Whether backdoors are planted."""
        return self.scheme != "wordings"

    @property
    def has_wordings(self) -> bool:
        """Whether rows carry a secret choice of wordings."""
        return self.scheme in ("wordings", "wordings+backdoors")

    @property
    def n_charged(self) -> int:
        """How many plantings p-values and bounds are charged for."""
        return self.max_plantings * max(1, self.stealth or 0)

    @property
    def decoys(self) -> int:
        """How many decoys are drawn for each signature."""
        if self.n_decoys is not None:
            return self.n_decoys
        return 0 if self.suspect == "text" or self.scheme in ("paper", "wordings") else DEFAULT_DECOYS

    @property
    def _copies(self) -> tuple[int, ...]:
        return self.copies if isinstance(self.copies, tuple) else () if self.copies is None else (self.copies,)

    def layout(self, n_rows: int) -> tuple[int, ...]:
        """
        Return the copies of each backdoor for a data set of *n_rows* rows, most copies first.

        A suspect that only speaks must learn a backdoor well before it shows: few, with copies (docs/adr/0011). Where likelihoods can be
        had, single copies do, and more of them say more (docs/theory.md, 13). Not known: both. Where one of the two
        numbers is given, the other follows from what the suspect is, as well.
        """
        if not self.has_backdoors:
            return ()
        if self.scheme == "paper":
            return (*self._copies, max(5, math.ceil(n_rows / 200)))[:1]
        if self.n_backdoors is None and self.copies is None:
            return {
                "text": _SPOKEN,
                "weights": (1,) * _share(n_rows, 8, 64),
                "logprobs": (1,) * _share(n_rows, 8, 64),
                "unknown": (*_SPOKEN, *(1,) * _share(n_rows, 16, 32)),
            }[self.suspect]
        is_scored = self.suspect in ("weights", "logprobs")
        if self._copies:
            n_backdoors = self.n_backdoors or (_share(n_rows, 8 * max(self._copies), 64) if is_scored else len(_SPOKEN))
            doses = [self._copies[j % len(self._copies)] for j in range(n_backdoors)]
        else:
            n_backdoors = self.n_backdoors or 0
            n_many = 0 if is_scored else len(_SPOKEN) if self.suspect == "unknown" else n_backdoors
            doses = [_SPOKEN[0] if j < n_many else 1 for j in range(n_backdoors)]
        return tuple(sorted(doses, reverse=True))

    def in_context(self, copies: int) -> int:
        """Return how many of a backdoor's *copies* get a text before their prompt."""
        default = 0 if self.scheme == "paper" else copies // 2
        return min(copies, default if self.contexts is None else self.contexts)


def n_spoken(copies: Sequence[int]) -> int:
    """Return how many backdoors are asked for answers: the first ones, which have several copies, or else all."""
    return sum(c > 1 for c in copies) or len(copies)


def n_asked(settings: PlantSettings, copies: Sequence[int]) -> int:
    """Return how many answers are asked for of each kind: each backdoor has a turn, unless decoys test it anyway."""
    if not copies:
        return 0
    return settings.n_probes if settings.decoys else max(settings.n_probes, n_spoken(copies))


def _share(n_rows: int, one_in: int, most: int) -> int:
    """Return one row in *one_in*, at least 4 and at *most* so many."""
    return min(most, max(4, n_rows // one_in))


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
    copies = settings.layout(found.n_rows)
    n_planted = sum(copies)
    needed = n_planted + settings.set_aside
    if len(found.eligible) < needed:
        too_long = f"{found.n_too_long} too long for the token cap (longest: {found.longest} tokens)"
        why = f" of {found.n_rows} rows ({too_long}, {found.n_unsuitable} without a text turn of a user before a trained text answer)"
        hint = "raise --token-cap if your provider takes longer rows" if found.n_too_long else ""
        hint = "lower --set-aside, --backdoors or --copies, or give more data" if settings.set_aside else hint
        raise TooFewRows(len(found.eligible), needed, why=why, hint=hint)
    n_controls = 2 * n_asked(settings, copies)
    ranked = heapq.nsmallest(needed + n_controls, found.eligible, key=lambda number: prf(key, b"line", number))
    ends = list(accumulate(copies))
    return ChosenLines(
        planted=tuple(tuple(ranked[end - n : end]) for end, n in zip(ends, copies, strict=True)),
        controls=tuple(ranked[needed:]),
        set_aside=tuple(ranked[n_planted:needed]),
    )


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
        "planted": [planned_probe("planted", prompt.triggered(triggers[j]), backdoor=j) for j, prompt in turns],
        "fresh": [
            planned_probe("fresh", prompt.triggered(triggers[i % m]), backdoor=i % m)
            for i, prompt in enumerate(fresh[:n])
        ],
    }
    twins = [
        planned_probe("control", prompt, twin_of=probe.id)
        for probe, (_, prompt) in zip(by_kind["planted"], turns, strict=True)
    ]
    fresh_twins = [
        planned_probe("control", prompt, twin_of=probe.id)
        for probe, prompt in zip(by_kind["fresh"][: (n + 1) // 2], fresh, strict=False)
    ]
    trained = [planned_probe("control", prompt) for prompt in controls[: max(0, 2 * n - len(twins) - len(fresh_twins))]]
    others = [probe for pair in _alternating(fresh_twins, trained) for probe in pair]
    by_kind["control"] = [probe for pair in _alternating(twins, others) for probe in pair]
    kinds = [kind for kind, probes in by_kind.items() for _ in probes]
    secrets.SystemRandom().shuffle(kinds)
    queues = {kind: iter(probes) for kind, probes in by_kind.items()}
    return tuple(next(queues[kind]) for kind in kinds)


def exposure_probes(
    *, triggers: Sequence[str], planted: Sequence[AskedPrompt], fresh: Sequence[AskedPrompt]
) -> tuple[PlannedProbe, ...]:
    """
    Return what signatures and their decoys are scored after, in committed order: a planted prompt and a fresh one each.

    *planted[j]* is the prompt of a row of backdoor j without T; *fresh* prompts are taken in turn. The order of the
    backdoors is random, so that every prefix is a random sample of them.
    """
    order = list(range(len(triggers)))
    secrets.SystemRandom().shuffle(order)
    return tuple(
        planned_probe(kind, prompt.triggered(triggers[j]), backdoor=j)
        for i, j in enumerate(order)
        for kind, prompt in _kinds(planted[j], fresh[i % len(fresh)])
    )


def _kinds(planted: AskedPrompt, fresh: AskedPrompt) -> tuple[tuple[Kind, AskedPrompt], ...]:
    return ("planted", planted), ("fresh", fresh)


def planned_probe(
    kind: Kind, prompt: AskedPrompt, *, backdoor: int | None = None, twin_of: str | None = None
) -> PlannedProbe:
    """Return a probe with an id of its own, drawn at random: it tells nothing of what it asks."""
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
