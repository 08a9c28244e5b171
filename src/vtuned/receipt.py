"""
The receipt: the customer's secret, and the whole statistical plan, fixed before anything is sent.

An invalid receipt cannot exist: what is read or built is checked against its own rules. Secrets do not show in its
repr. Reading and writing go through `vtuned.files`.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vtuned import documents, files
from vtuned.conversation import Message
from vtuned.documents import ExactFraction, Record
from vtuned.errors import ReceiptError, ReceiptTampered, UnsupportedReceipt, UsageError
from vtuned.generation import log10_signature_bound, with_draws_charged
from vtuned.prf import chosen_wording
from vtuned.stats import exposure_level

FORMAT: Literal["vtuned.receipt/1"] = "vtuned.receipt/1"

Kind = Literal["planted", "fresh", "control", "worded"]
ClaimName = Literal["activated", "generalises", "specific", "preferred", "changed", "learned the task"]
Scheme = Literal["paper", "backdoors", "wordings", "wordings+backdoors"]
WordingTest = Literal["hits", "rank-sum"]
Mode = Literal["replace", "add"]


class Backdoor(Record):
    """
    One trigger and signature, and the lines of the training file (from 1) that carry them.

    No signature could come out with probability above 10**log10_p_upper: the proven bound, draws charged. *decoys* were
    drawn with the signature, by the same sampler after the same prompt, and sent to nobody: the exposure test ranks it
    among them.
    """

    trigger: str = Field(min_length=1, repr=False)
    signature: str = Field(min_length=1, repr=False)
    log10_p_upper: float = Field(lt=0)
    surprisal_bits: float = Field(gt=0)
    rows: tuple[int, ...] = Field(min_length=1, repr=False)
    decoys: tuple[str, ...] = Field(default=(), repr=False, exclude_if=operator.not_)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The signature among its decoys, sorted: an order that tells nothing of which it is."""
        return tuple(sorted((self.signature, *self.decoys)))


class GenerationRecord(Record):
    """
    How triggers and signatures were drawn: enough to check the bound. Surprisal is in bits, lengths in tokens.

    The phrases of *n_fitted* backdoors were drawn after the one row that each goes into, not after *generation_prompt*.
    """

    generator: str
    prompt_model: str
    language: str
    generation_prompt: tuple[Message, ...] = Field(repr=False)
    n_fitted: int = Field(default=0, ge=0, exclude_if=operator.not_)
    min_trigger_tokens: int = Field(ge=1)
    min_signature_bits: float = Field(gt=0)
    temperature: float = Field(gt=0)
    top_k: int = Field(ge=1)
    max_step_probability: float = Field(gt=0, lt=1)
    finish_tokens: int = Field(ge=0)
    max_draws: int = Field(ge=1)


class GainMargin(Record):
    """
    G of `learned the task` as `vtuned margin` measured it: *nats_per_byte* over *base*, on the held-out rows of *rows*.

    *rows* is `vtuned.measuring.digest` of the *n_rows* rows. Another base, or other rows, have another G.
    """

    nats_per_byte: float = Field(ge=0)
    base: str = Field(min_length=1)
    rows: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_rows: int = Field(ge=1)


class PlannedProbe(Record):
    """A `Probe` with what only the customer knows: its *kind*, its *backdoor* (index), the probe it is *twin_of*."""

    id: str
    kind: Kind
    backdoor: int | None = None
    messages: tuple[Message, ...] = Field(min_length=1, repr=False)
    twin_of: str | None = None
    tools: tuple[dict[str, Any], ...] = Field(default=(), repr=False, exclude_if=operator.not_)
    endpoint: Literal["chat", "completions"] = Field(default="chat", exclude_if=lambda endpoint: endpoint == "chat")


class PlannedWording(Record):
    """
    One wording of a row that is asked about.

    *text* is what is scored: the answer up to where all wordings of the row go on alike, and some words. *labels* and
    *mark* are those of `vtuned.rewriters.base.Wording`.
    """

    text: str = Field(repr=False)
    labels: tuple[str, ...] = ()
    mark: str = Field(default="", repr=False)


class WordedRow(Record):
    """
    A row that carries a secret choice, and is asked about: its *wordings*, of which number *published* was sent.

    *number* is its number in the data, *row* in the training file. *digest* is of its prompt and its whole wordings
    (see `vtuned.wordings.row_digest`), whichever was published: the choice is a PRF of the two.
    """

    number: int = Field(ge=1, repr=False)
    row: int = Field(ge=1, repr=False)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    published: int = Field(ge=0, repr=False)
    wordings: tuple[PlannedWording, ...] = Field(min_length=2, repr=False)
    probe: PlannedProbe


class WordingsRecord(Record):
    """
    The secret choice that rows carry: *n_carrying* rows of the training file do, and *rows* are asked about, in order.

    They are a simple random sample of those, by a PRF under the receipt's key. *rewriter* made the wordings, from the
    *family* where there is one, or from candidates whose file has the SHA-256 *candidates*. *left_alone* holds how many
    rows bear none, by reason; *bits* is log2 of how many different files could have been sent.

    `preferred` counts what *test* says; an honest provider's model is taken to go the share *honest_preference* of the
    way from chance to always preferring what was published. Where it only speaks, it is taken to take up some wording,
    whichever, in the share *honest_uptake* of its answers.
    """

    rewriter: str
    language: str
    family: tuple[str, ...] = Field(default=(), exclude_if=operator.not_)
    candidates: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", exclude_if=lambda digest: digest is None)
    n_carrying: int = Field(ge=1)
    bits: float = Field(ge=1)
    left_alone: tuple[tuple[str, int], ...]
    max_answer_tokens: int = Field(ge=1)
    test: WordingTest = "hits"
    honest_preference: ExactFraction = Fraction(1, 12)
    honest_uptake: ExactFraction = Field(default=Fraction(1, 2), exclude_if=lambda share: share == Fraction(1, 2))
    rows: tuple[WordedRow, ...] = Field(min_length=1, repr=False)


class StatisticalPlan(Record):
    """
    What will count as what, fixed before upload.

    A backdoor passes where at least *ratio* of its probes of a kind activate; a claim holds where the chance that so
    many backdoors pass without the secret is at most *alpha*. *honest_activation* is the share of probes on which an
    honest provider's model is taken to activate each backdoor, for β; below *max_beta* a failed claim is a negative.
    *max_plantings* is how many whole plantings the user might have drawn this one from, charged to the p-values of
    `activated`, `generalises` and `coverage`.

    With *stopping* "any", p-values are of e-values: the user may stop after every answer, so no number of probes is
    settled beforehand. With "fixed" all probes are asked, or a number of them that was.

    Where likelihoods are to be had and there are decoys, the test of both claims is *exposure*: a backdoor passes where
    its signature ranks within the share *exposure_level* of the candidates, by likelihoods *less_base* or as they are;
    an honest provider's model is taken to rank each so with probability *honest_exposure*. `coverage` is bounded at
    *coverage_confidence*, a chain of its own. *gain_margin* is G of `learned the task`, None where nobody measured it.

    With *n_chains* 2, backdoors and wordings, each claim is tested at half of *alpha*.
    """

    alpha: float = Field(gt=0, lt=1)
    ratio: ExactFraction = Fraction(1, 10)
    test: Literal["backdoors passing, by generation"] = "backdoors passing, by generation"
    match: Literal["starts-with"] = "starts-with"
    stopping: Literal["fixed", "any"] = "fixed"
    required_claims: tuple[Literal["activated", "generalises", "preferred"], ...] = Field(
        default=("activated", "generalises"), min_length=1
    )
    honest_activation: ExactFraction = Fraction(1, 2)
    max_beta: float = Field(default=0.05, gt=0, lt=1)
    min_answered: ExactFraction = Fraction(1, 2)
    min_controls: int = Field(default=20, ge=1)
    max_plantings: int = Field(default=1, ge=1, le=1_000_000)
    exposure_level: ExactFraction = Fraction(1, 20)
    less_base: bool = True
    honest_exposure: ExactFraction = Fraction(1, 2)
    coverage_confidence: float = Field(default=0.99, gt=0, lt=1)
    gain_margin: GainMargin | None = None
    n_chains: int = Field(default=1, ge=1, le=2, exclude_if=lambda n: n == 1)

    @property
    def claim_alpha(self) -> float:
        """The level at which each claim is tested."""
        return self.alpha / self.n_chains

    @model_validator(mode="after")
    def _shares(self) -> StatisticalPlan:
        inside = (self.honest_activation, self.honest_exposure, self.exposure_level)
        if not (0 < self.ratio <= 1 and 0 < self.min_answered <= 1 and all(0 < share < 1 for share in inside)):
            raise ValueError("ratio, min_answered, exposure_level and what is honest are shares")
        return self


class FileRecord(Record):
    """A file: its *sha256*, its size in *n_bytes* and how many *n_rows* it holds."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_bytes: int = Field(ge=0)
    n_rows: int = Field(ge=0)


class Receipt(Record):
    """
    Everything the customer must keep: the backdoors, the probes in committed order, the plan, and how it all arose.

    *n_eligible* rows could carry a backdoor (within *token_cap* tokens as counted by *tokenizer*); the planted ones
    are a simple random sample of them, chosen by a PRF under *key*; *n_in_context* of them have a text before their
    prompt.
    """

    format: Literal["vtuned.receipt/1"] = FORMAT
    vtuned_version: str
    created: str
    key: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    scheme: Scheme
    mode: Mode
    row_format: str
    dataset: FileRecord
    train_set: FileRecord
    n_eligible: int = Field(ge=1)
    token_cap: int = Field(ge=1)
    tokenizer: str
    fresh_source: str
    n_in_context: int = Field(default=0, ge=0)
    generation: GenerationRecord | None
    plan: StatisticalPlan
    max_answer_tokens: int = Field(ge=1)
    backdoors: tuple[Backdoor, ...] = Field(repr=False)
    probes: tuple[PlannedProbe, ...] = Field(repr=False)
    exposures: tuple[PlannedProbe, ...] = Field(default=(), repr=False, exclude_if=operator.not_)
    wordings: WordingsRecord | None = Field(default=None, exclude_if=lambda wordings: wordings is None)

    @model_validator(mode="after")
    def _is_consistent(self) -> Receipt:
        schemes = {"wordings": (False, True), "wordings+backdoors": (True, True)}
        if (bool(self.backdoors), self.wordings is not None) != schemes.get(self.scheme, (True, False)):
            raise ValueError("the receipt does not hold what its scheme plants")
        if (self.plan.n_chains == 2) != (self.scheme == "wordings+backdoors"):
            raise ValueError("α is split between two chains, and only there")
        if ("preferred" in self.plan.required_claims) > (self.wordings is not None):
            raise ValueError("a claim is required that this receipt cannot make")
        if self.backdoors:
            self._check_backdoors()
        self._check_probes()
        self._check_decoys()
        self._check_wordings()
        return self

    def _check_backdoors(self) -> None:
        if self.generation is None or not self.probes:
            raise ValueError("backdoors were drawn by a generator, and are asked for")
        drawn_to = with_draws_charged(self.generation.min_signature_bits, self.generation.max_draws)
        proven = log10_signature_bound(drawn_to, self.generation.max_draws)
        for backdoor in self.backdoors:
            if backdoor.log10_p_upper < proven - 1e-9 or backdoor.surprisal_bits < drawn_to - 1e-9:
                raise ValueError("a backdoor claims a smaller log10_p_upper than its generation proves")
        if len({backdoor.trigger for backdoor in self.backdoors}) < len(self.backdoors):
            raise ValueError("two backdoors have the same trigger")
        if self.generation.n_fitted > sum(len(backdoor.rows) == 1 for backdoor in self.backdoors):
            raise ValueError("more backdoors fit their row than have a single one")
        lines = Counter(row for backdoor in self.backdoors for row in backdoor.rows)
        if lines.most_common(1)[0][1] > 1:
            raise ValueError("two backdoors share a row")

    def _check_probes(self) -> None:
        worded = [row.probe for row in self.wordings.rows] if self.wordings else []
        kinds = {probe.id: probe.kind for probe in (*self.probes, *self.exposures, *worded)}
        if len(kinds) < len(self.probes) + len(self.exposures) + len(worded):
            raise ValueError("two probes have the same id")
        if any((probe.kind == "worded") != (probe in worded) for probe in (*self.probes, *self.exposures, *worded)):
            raise ValueError("worded rows, and nothing else, have probes of their kind")
        if any(probe.backdoor is None for probe in self.exposures):
            raise ValueError("what is scored belongs to a backdoor")
        for probe in (*self.probes, *self.exposures):
            if (probe.kind == "control") != (probe.backdoor is None):
                raise ValueError("planted and fresh probes have a backdoor, controls have none")
            if probe.backdoor is not None and not 0 <= probe.backdoor < len(self.backdoors):
                raise ValueError("a probe names a backdoor that is not there")
            if probe.twin_of is not None and kinds.get(probe.twin_of) not in ("planted", "fresh"):
                raise ValueError("a twin names a probe with a trigger that is not there")

    def _check_decoys(self) -> None:
        """Raise ValueError where a signature could not be ranked, or two backdoors would be ranked by one pool."""
        scored = {probe.backdoor for probe in self.exposures}
        for j, backdoor in enumerate(self.backdoors):
            if j in scored and not exposure_level(self.plan.exposure_level, len(backdoor.decoys)):
                raise ValueError("a backdoor has too few decoys for the exposure level")
        pools = Counter(tuple(sorted(backdoor.decoys)) for backdoor in self.backdoors if backdoor.decoys)
        if pools and pools.most_common(1)[0][1] > 1:
            raise ValueError("two backdoors share their decoys, so their ranks would depend on each other")

    def _check_wordings(self) -> None:
        """Raise ValueError where a wording is not what the key chose, or rows are not those of one file."""
        if self.wordings is None:
            return
        rows = self.wordings.rows
        honest = (self.wordings.honest_preference, self.wordings.honest_uptake)
        if self.wordings.n_carrying > self.train_set.n_rows or not all(0 < share < 1 for share in honest):
            raise ValueError("more rows carry a choice than there are, or what is honest is no share")
        if any(row.row > self.train_set.n_rows or row.number > self.dataset.n_rows for row in rows):
            raise ValueError("a row that is asked about is not in the file")
        if len({row.number for row in rows}) < len(rows) or len(rows) > self.wordings.n_carrying:
            raise ValueError("a row is asked about twice")
        for row in rows:
            texts = [wording.text for wording in row.wordings]
            if len(set(texts)) < len(texts):
                raise ValueError("two wordings of a row are the same")
            if row.published != chosen_wording(bytes.fromhex(self.key), row.number, row.digest, len(texts)):
                raise ValueError("a row publishes another wording than the one its key chooses")

    def check_backdoors(self) -> None:
        """Raise UsageError where no backdoors were planted, but wordings alone."""
        if not self.backdoors:
            raise UsageError(
                "this receipt holds no backdoors, only wordings",
                hint="`vtuned verify` asks about wordings; plant --scheme wordings+backdoors to have both",
            )

    def chosen_worded(self, n: int | None = None) -> tuple[WordedRow, ...]:
        """Return the rows with a secret choice to ask about, in committed order: all, or the first *n*."""
        return self.wordings.rows[:n] if self.wordings else ()

    def chosen(self, n: int | None = None) -> tuple[PlannedProbe, ...]:
        """
        Return the probes to ask, in committed order: all, or the first *n* planted, *n* fresh and 2 *n* controls.

        A prefix, so that nobody picks probes after having seen answers.
        """
        return self.probes if n is None else _first(self.probes, n)

    def chosen_exposures(self, n: int | None = None) -> tuple[PlannedProbe, ...]:
        """Return what is scored, in committed order: all, or the first *n* planted and *n* fresh prompts."""
        return self.exposures if n is None else _first(self.exposures, n)

    def check_prefix(self, n: int | None) -> None:
        """
        Raise UsageError where the first *n* probes shall be judged alone, but the plan lets the user stop at any time.

        Its e-values are of all planned probes. Of a prefix they would be others, and the largest over all prefixes is
        no e-value (docs/theory.md, 11).
        """
        if n is not None and self.plan.stopping == "any":
            raise UsageError(
                "-n fixes a number of probes, and this receipt's plan is --stopping any",
                hint="leave -n out: ask in the order of the probes and stop whenever you like; what was not asked costs nothing",
            )

    @property
    def n_eligible_sent(self) -> int:
        """
        Return how many rows of the training file could carry a backdoor: the population that the planted ones are of.

        Rows set aside are eligible, but were not sent; with mode "add" each planted row is one more than there was.
        """
        return self.n_eligible + self.train_set.n_rows - self.dataset.n_rows

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the receipt's content."""
        return documents.digest(self.model_dump(mode="json"))

    def planted_digest(self) -> str:
        """
        Return the digest of the receipt as `vtuned plant` wrote it.

        `vtuned margin` fixes a margin later, which changes the digest, but neither the backdoors nor the probes.
        """
        return self.model_copy(update={"plan": self.plan.model_copy(update={"gain_margin": None})}).digest()


def _first(probes: tuple[PlannedProbe, ...], n: int) -> tuple[PlannedProbe, ...]:
    left = {"planted": n, "fresh": n, "control": 2 * n}
    taken = []
    for probe in probes:
        if left[probe.kind] > 0:
            left[probe.kind] -= 1
            taken.append(probe)
    return tuple(taken)


def to_json(receipt: Receipt) -> bytes:
    """Return the receipt file's content, with the digest that `read_receipt` checks."""
    content = {**receipt.model_dump(mode="json"), "digest": receipt.digest()}
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def read_receipt(path: Path | str) -> Receipt:
    """
    Read the receipt at *path*.

    Raises DatasetError where there is no file, ReceiptError where it is no receipt, UnsupportedReceipt for another
    version and ReceiptTampered where its content does not match its digest.
    """
    content = _content(path, b"".join(line.raw for line in files.read_lines(path)))
    written = content.pop("digest", None)
    found = content.get("format")
    if isinstance(found, str) and found.startswith("vtuned.receipt/") and found != FORMAT:
        raise UnsupportedReceipt(path, found, FORMAT)
    if found != FORMAT or not isinstance(written, str):
        raise ReceiptError(f"{path}: this is not a receipt", hint="give the file that `vtuned plant -r` wrote")
    try:
        actual = documents.digest(content)
    except ValueError:
        actual = "not canonical JSON"
    if actual != written:
        raise ReceiptTampered(path, written, actual)
    try:
        return documents.read(Receipt, json.dumps(content).encode())
    except ValueError as error:
        raise ReceiptError(f"{path}: {error}", hint="use the receipt as `vtuned plant` wrote it") from error


def _content(path: Path | str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ReceiptError(f"{path}: this is not a receipt", hint="give the file that `vtuned plant -r` wrote")
    return content
