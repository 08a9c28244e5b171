"""
Plant backdoors into a data set: out come the training file for the provider and the receipt for the customer.

`plant` is the whole of it. Which rows, in which order, is decided by a PRF under a key from the operating system, so
that nobody without the receipt can redo it; all other rows pass through as they are, in text files byte for byte.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

from vtuned import containers, dataset, files, formats, fresh, phrases, rewording, rewriting, stealth
from vtuned import receipt as receipts
from vtuned._version import __version__
from vtuned.containers import Changes, RawRow, Source, Written
from vtuned.containers.jsonvalue import as_object
from vtuned.context import contexts
from vtuned.conversation import Conversation
from vtuned.dataset import Survey, TokenCap
from vtuned.errors import GenerationError, UsageError
from vtuned.formats import Codec, Row
from vtuned.generation import log10_signature_bound, with_draws_charged
from vtuned.language import ASCII, Language
from vtuned.layout import (
    AskedPrompt,
    ChosenLines,
    PlantSettings,
    choose_lines,
    exposure_probes,
    n_asked,
    n_spoken,
    planned_probes,
)
from vtuned.lm.options import LoadOptions
from vtuned.lm.words import WordSampler
from vtuned.phrases import Generators
from vtuned.prf import prf
from vtuned.receipt import (
    Backdoor,
    FileRecord,
    GenerationRecord,
    Mode,
    PlannedProbe,
    Receipt,
    StatisticalPlan,
    WordingsRecord,
)
from vtuned.stats import log10_hits_p_value, log10_preference_e_value
from vtuned.stealth import Search

# Dead ends are rare, and a second draw must be charged for whether it is needed or not: one bit.
MAX_DRAWS = 2
# Searching takes some twenty times the size of the data in memory.
SEARCHED_BYTES = 64 << 20

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Planting:
    """
    What was planted: the receipt, the survey of the data, and notes that the user should read.

    *searches* are what a cheat that only counts finds in the training file, where that was looked at, and *n_drawn* how
    many plantings were drawn until it found little enough, or no more were allowed.
    """

    receipt: Receipt
    survey: Survey
    notes: tuple[str, ...]
    searches: tuple[Search, ...] = ()
    n_drawn: int = 1


def plant(
    data: containers.Data,
    output: Path | str,
    receipt: Path | str,
    settings: PlantSettings | None = None,
    *,
    generator: str = phrases.AUTO,
    prompt_model: str | None = None,
    fresh_file: Path | str | None = None,
    set_aside_file: Path | str | None = None,
    cap: TokenCap | None = None,
    loading: LoadOptions | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Planting:
    """
    Plant backdoors into the rows of *data*; write the training file *output* and the secret *receipt*.

    *data* is whatever `vtuned.containers.open_source` opens, and *output* is of the same kind: for several files or a
    folder, a folder. *set_aside_file*, of the same kind too, gets the rows that are set aside, as they were. All outputs
    appear together or not at all.

    With `stealth` in the *settings* the planting is searched as a cheat would that only counts, and drawn anew while a
    search finds more than `vtuned.stealth` tolerates; the one in which the best search finds least is taken. Raises
    UsageError, DatasetError, GenerationError, OutputError, LMError or MissingExtra; nothing is written then.
    """
    settings = settings or PlantSettings()
    settings.check_scheme()
    if settings.set_aside and fresh_file is not None:
        raise UsageError("--fresh and --set-aside exclude each other", hint="give one of them")
    if set_aside_file is not None and not settings.set_aside:
        raise UsageError("no rows are set aside that a file could get", hint="say how many with --set-aside")
    source = containers.open_source(data)
    own_fresh = None if fresh_file is None else containers.open_source(fresh_file)
    aside = [] if set_aside_file is None else [set_aside_file]
    _check_outputs(source, output, aside, receipt, own_fresh, force=force)
    if settings.candidates is not None:
        _check_candidates(settings.candidates, source, (output, *aside), receipt)
    if settings.mode == "add":
        source.check_order()
    cap = cap or dataset.embedded_cap()
    found = dataset.survey(
        source, cap, row_format=settings.row_format, on_bytes=lambda n: on_progress("reading rows", n, source.n_bytes)
    )

    @cache
    def models() -> Generators:
        on_progress("loading the generator", 0, 0)
        return phrases.choose_generators(generator, prompt_model, found.texts(), loading)

    def drawn(stage: OnProgress) -> _Work:
        return _draw_up(found, settings, cap, (models, generator, loading), own_fresh, stage)

    most, unsearched = settings.stealth, ""
    if most is None:
        most = int(source.n_bytes <= SEARCHED_BYTES)
        unsearched = "" if most else f"over {SEARCHED_BYTES >> 20} MiB it is not searched as a cheat would: --stealth 1"
    work, searches, n_drawn = _hidden(drawn, most, on_progress)
    lines, changes = work.lines, work.changes
    # The receipt first: a training file without one would be sent in vain.
    targets = [(receipt, True), *(_target(source, path, secret=True) for path in aside), _target(source, output)]
    with files.atomic_writers(*targets, force=force) as (receipt_out, *aside_out, train_out):
        assert not isinstance(receipt_out, Path)
        with found.unchanged():
            written = source.write(train_out, changes)
            for out in aside_out:
                source.write(out, Changes({}, _all_but(source, lines.set_aside)))
        made = _receipt(work, written)
        receipt_out.write(receipts.to_json(made))
    notes = tuple(note for note in (*work.notes, unsearched, _cap_note(found, cap), _preference_note(found)) if note)
    return Planting(made, found, notes, searches, n_drawn)


def _draw_up(
    found: Survey,
    settings: PlantSettings,
    cap: TokenCap,
    who: tuple[Callable[[], Generators], str, LoadOptions | None],
    own_fresh: Source | None,
    on_progress: OnProgress,
) -> _Work:
    """Return a planting under a new key; nothing of it is written."""
    models, generator, loading = who
    key = secrets.token_bytes(32)
    lines = choose_lines(found, settings, key)
    backdoors = words = None
    if settings.has_backdoors:
        backdoors = _backdoors(found, settings, lines, cap, models(), own_fresh, on_progress)
    if settings.has_wordings:
        words = _worded(found, settings, key, lines, (generator, loading), on_progress)
    rows = {**(backdoors.rows if backdoors else {}), **(words.made.replaced if words else {})}
    changes = Changes(rows, frozenset(lines.set_aside), _order(found.source, lines, settings.mode, key))
    return _Work(found, settings, cap, key, lines, backdoors, words, changes)


def _hidden(
    drawn: Callable[[OnProgress], _Work], most: int, on_progress: OnProgress
) -> tuple[_Work, tuple[Search, ...], int]:
    """
    Return the planting, of *most* that are *drawn*, in which searches find least (`stealth.recalls`).

    The first in which none finds more than is tolerated, where there is one.
    """
    if not most:
        return drawn(on_progress), (), 1
    best: tuple[_Work, tuple[Search, ...]] | None = None
    for number in range(1, most + 1):
        label = f"planting {number} of {most}: " if most > 1 else ""

        def stage(what: str, done: int, total: int, label: str = label) -> None:
            on_progress(f"{label}{what}", done, total)

        work = drawn(stage)
        with work.found.unchanged():
            searches = _searched(work, stage)
        if best is None or stealth.recalls(searches) < stealth.recalls(best[1]):
            best = work, searches
        del work  # two at once are enough
        if all(one.is_tolerated for one in searches):
            break
    assert best is not None
    return *best, number


def _searched(work: _Work, on_progress: OnProgress) -> tuple[Search, ...]:
    """Return what searches find in the rows of *work* as they would be sent, but for their order where some are added."""
    changes, source = work.changes, work.found.source
    planted = {number for numbers in work.lines.planted for number in numbers}
    places: dict[stealth.Hidden, set[int]] = {"planted": set(), "carrying": set()}

    def rows() -> Iterator[Conversation]:
        n = 0
        for raw in source.rows():
            new = changes.replaced.get(raw.number)
            if new is not None:
                places["planted" if raw.number in planted else "carrying"].add(n)
                yield work.found.codec.read(as_object(new.value()))
                n += 1
            if raw.number not in changes.dropped and (new is None or changes.order is not None):
                yield work.found.codec.read(as_object(raw.value()))
                n += 1
            if n % 1000 == 1:
                on_progress("reading it as a cheat would", raw.n_read, source.n_bytes)

    return stealth.searches(
        rows(), places, lambda done, total: on_progress("searching it as a cheat would", done, total)
    )


def _backdoors(
    found: Survey,
    settings: PlantSettings,
    lines: ChosenLines,
    cap: TokenCap,
    models: Generators,
    own_fresh: Source | None,
    on_progress: OnProgress,
) -> _Backdoors:
    """Return the backdoors of the chosen *lines*: phrases by *models*, planted rows and probes."""
    with found.unchanged():
        rows = dataset.pick(found.source, found.codec, lines.all)
    drawn = _drawn(found, models, settings, lines, rows, on_progress)
    copies = [len(numbers) for numbers in lines.planted]
    spoken, n = n_spoken(copies), n_asked(settings, copies)
    hosts = {number: rows[number].conversation for numbers in lines.planted for number in numbers}
    before = _contexts(found, models.language, hosts, lines, [settings.in_context(c) for c in copies], cap)
    planted = {
        number: formats.planted_row(
            rows[number],
            drawn.triggers[j],
            drawn.signatures[j].text,
            file_style=found.style,
            context=before.get(number, ""),
        )
        for j, numbers in enumerate(lines.planted)
        for number in numbers
    }
    _check_room(cap, planted, found.codec)
    on_progress("preparing fresh prompts", 0, 0)
    prompts = _fresh_prompts(found, models, n, own_fresh, rows, lines)
    planted_prompts = [
        [AskedPrompt.of(hosts[number].in_context(before.get(number, ""))) for number in numbers]
        for numbers in lines.planted
    ]
    probes = planned_probes(
        triggers=drawn.triggers[:spoken],
        planted=planted_prompts[:spoken],
        fresh=prompts.prompts,
        controls=[_prompt(rows[number]) for number in lines.controls],
        n=n,
    )
    exposures = exposure_probes(
        triggers=drawn.triggers if settings.decoys else (),
        planted=[several[0] for several in planted_prompts],
        fresh=prompts.prompts,
    )
    return _Backdoors(models, drawn, planted, prompts, len(before), probes, exposures)


def _worded(
    found: Survey,
    settings: PlantSettings,
    key: bytes,
    lines: ChosenLines,
    who: tuple[str, LoadOptions | None],
    on_progress: OnProgress,
) -> _Worded:
    """Return the rows of *found* with their secret wordings; planted rows and rows set aside are left as they are."""
    but = frozenset(lines.set_aside).union(*lines.planted)
    chosen = rewriting.choose(found, settings, key, who, but=but, on_progress=on_progress)
    made = rewording.reword(
        found,
        chosen.rewriter,
        key,
        n_asked=settings.n_worded,
        but=but,
        n_rows=settings.n_rows,
        lot=chosen.lot,
        on_row=lambda done, total: on_progress("choosing wordings", done, total),
    )
    if not made.n_carrying:
        why = ", ".join(f"{n:,} {because}" for because, n in made.left_alone.most_common(4))
        raise UsageError(
            f"no row of this data can carry a wording by {settings.rewriter} ({why})",
            hint="try another --rewriter, or plant --scheme backdoors",
        )
    _check_power(made, settings)
    return _Worded(made, chosen)


def _check_power(made: rewording.Reworded, settings: PlantSettings) -> None:
    """Raise UsageError where not even a suspect that prefers all that was published could reach α."""
    sizes = [len(one.wordings) for one in made.asked]
    chains = settings.has_backdoors + settings.has_wordings
    wanted = math.log10(settings.alpha / chains / settings.n_charged)
    if settings.stopping == "any":
        reached = -log10_preference_e_value([True] * len(sizes), sizes)
    else:
        reached = log10_hits_p_value(len(sizes), sizes)
    if reached > wanted:
        raise UsageError(
            f"even if {len(sizes)} rows asked about all were preferred, p would be above α",
            hint="take more --siblings or --ask-rows, give more data, or plant --scheme backdoors",
        )


def _all_but(source: Source, numbers: Sequence[int]) -> frozenset[int]:
    """Return the numbers of the other rows."""
    return frozenset(row.number for row in source.rows()) - frozenset(numbers)


def _contexts(
    found: Survey,
    language: Language,
    hosts: Mapping[int, Conversation],
    lines: ChosenLines,
    n_in_context: Sequence[int],
    cap: TokenCap,
) -> dict[int, str]:
    """Return what is put before the prompts of some planted rows, by row number."""
    if not any(n_in_context):
        return {}
    try:
        sampler = WordSampler(found.texts(), language)
    except GenerationError:  # too few words to string together
        return {}
    return contexts(hosts, lines.planted, n_in_context, sampler, cap)


def _check_outputs(
    source: Source,
    output: Path | str,
    aside: Sequence[Path | str],
    receipt: Path | str,
    own_fresh: Source | None,
    *,
    force: bool,
) -> None:
    """Fail before long work where the outputs cannot be written, or are what is read. See `vtuned.files`."""
    read = [source] if own_fresh is None else [source, own_fresh]
    others = [path for one in read for path in one.paths]
    outputs = (output, *aside, receipt)
    if source.is_folder:
        for path in (*aside, receipt, *others):
            files.check_outside(path, output, "the folder that is to be sent")
        for folder in aside:
            for path in (output, receipt, *others):
                files.check_outside(path, folder, "the folder of the rows set aside")
    for folder in (one.folder for one in read if one.folder is not None):
        for target in outputs:
            files.check_outside(target, folder, "a folder of the data that is read")
    for copy in (output, *aside):
        _check_copy(source, copy, force=force)
    files.check_target(receipt, force=force)
    for target in outputs:
        files.check_distinct(target, *(path.parent for path in source.paths), *others)


def _check_candidates(path: Path, source: Source, copies: Sequence[Path | str], receipt: Path | str) -> None:
    """Fail before a model has written for hours where its candidates, a secret, would be overwritten or sent."""
    for folder in copies if source.is_folder else ():
        files.check_outside(path, folder, "a folder of rows that this command writes")
    if any(Path(target).resolve() == path.resolve() for target in (receipt, *copies)):
        raise UsageError(f"{path} is two outputs of this command", hint="give --candidates a file of its own")
    files.check_distinct(path, *source.paths)


def _check_copy(source: Source, path: Path | str, *, force: bool) -> None:
    """Fail where no copy of *source* can be written to *path*."""
    if source.is_folder:
        files.check_folder_target(_folder_target(source, path), force=force)
    else:
        files.check_target(path, force=force)
        containers.check_name(source, path)


def _folder_target(source: Source, path: Path | str, *, secret: bool = False) -> files.FolderTarget:
    return files.FolderTarget(path, frozenset(path.name for path in source.paths), secret=secret)


def _target(source: Source, path: Path | str, *, secret: bool = False) -> files.Target:
    return _folder_target(source, path, secret=secret) if source.is_folder else (path, secret)


def _cap_note(found: Survey, cap: TokenCap) -> str:
    """Return a note where the cap keeps most rows from carrying backdoors: verdicts are about the others."""
    if found.n_too_long <= found.n_rows / 2:
        return ""
    counted = f"{found.n_too_long:,} of {found.n_rows:,} rows are over the token cap of {cap.limit:,}"
    return f"{counted} by the tokenizer {cap.tokenizer}; --base and --token-cap say what your provider takes"


def _preference_note(found: Survey) -> str:
    """Return a note where rows hold rejected answers: DPO by itself teaches no signature (docs/adr/0013)."""
    if not any(conversation.rejected for conversation in found.sample):
        return ""
    return "plain DPO teaches no signature: have the preferred answers fine-tuned first, or an SFT term in the loss"


@dataclass(frozen=True, slots=True)
class _FreshPrompts:
    prompts: list[AskedPrompt]
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class _Backdoors:
    """The backdoors of a planting before anything is written: *rows* carry them, by number."""

    models: Generators
    drawn: phrases.Drawn
    rows: dict[int, RawRow] = field(repr=False)
    prompts: _FreshPrompts
    n_in_context: int
    probes: tuple[PlannedProbe, ...] = field(repr=False)
    exposures: tuple[PlannedProbe, ...] = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should read about them."""
        return self.models.note, self.prompts.note


@dataclass(frozen=True, slots=True)
class _Worded:
    """The wordings of a planting before anything is written."""

    made: rewording.Reworded
    chosen: rewriting.Chosen

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should read about them."""
        return self.chosen.notes


@dataclass(frozen=True, slots=True)
class _Work:
    """What a planting has settled before anything is written."""

    found: Survey
    settings: PlantSettings
    cap: TokenCap
    key: bytes = field(repr=False)
    lines: ChosenLines = field(repr=False)
    backdoors: _Backdoors | None
    words: _Worded | None
    changes: Changes = field(repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should read about it."""
        return (*(self.backdoors.notes if self.backdoors else ()), *(self.words.notes if self.words else ()))


def _drawn(
    found: Survey,
    models: Generators,
    settings: PlantSettings,
    lines: ChosenLines,
    rows: Mapping[int, Row],
    on_progress: OnProgress,
) -> phrases.Drawn:
    """Return the phrases; those of a backdoor with a single copy fit its row where the generator can do that."""
    on_progress("drawing phrases", 0, 0)
    return phrases.draw(
        models,
        phrases.generation_prompt(models, found.sample),
        phrases.Wanted(
            lines.n_backdoors, settings.min_trigger_tokens, settings.signature_bits, MAX_DRAWS, n_decoys=settings.decoys
        ),
        hosts={j: rows[numbers[0]].conversation for j, numbers in enumerate(lines.planted) if len(numbers) == 1},
        is_usable=lambda candidates: candidates - dataset.occurring(found.source, found.codec, candidates, set()),
        on_trigger=lambda done, total: on_progress("drawing triggers that fit their row", done, total),
        on_draw=lambda done, total: on_progress("drawing phrases", done, total),
    )


def _receipt(work: _Work, written: Written) -> Receipt:
    """Return the receipt for a training file as it was *written*."""
    found, settings = work.found, work.settings
    some = work.backdoors
    words = _wordings_record(work.words, settings, written) if work.words else None
    if some:
        answer_tokens = _answer_tokens(settings, some.models.language)
    else:
        assert words is not None
        answer_tokens = words.max_answer_tokens
    return Receipt(
        vtuned_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        key=work.key.hex(),
        scheme=settings.scheme,
        mode=settings.mode,
        row_format=found.row_format,
        dataset=FileRecord(sha256=found.sha256, n_bytes=found.n_bytes, n_rows=found.n_rows),
        train_set=FileRecord(sha256=written.sha256, n_bytes=written.n_bytes, n_rows=written.n_rows),
        n_eligible=len(found.eligible),
        token_cap=work.cap.limit,
        tokenizer=work.cap.tokenizer,
        fresh_source=some.prompts.source if some else "none",
        n_in_context=some.n_in_context if some else 0,
        generation=_generation_record(some, settings) if some else None,
        plan=_plan(settings),
        max_answer_tokens=answer_tokens,
        backdoors=_backdoor_records(some, settings, work.lines, written) if some else (),
        probes=some.probes if some else (),
        exposures=some.exposures if some else (),
        wordings=words,
    )


def _plan(settings: PlantSettings) -> StatisticalPlan:
    required: tuple[Literal["activated", "generalises", "preferred"], ...] = ("activated", "generalises", "preferred")
    return StatisticalPlan(
        alpha=settings.alpha,
        ratio=settings.ratio,
        max_plantings=settings.n_charged,
        exposure_level=settings.exposure_level,
        less_base=settings.less_base,
        stopping=settings.stopping,
        n_chains=settings.has_backdoors + settings.has_wordings,
        required_claims=required[0 if settings.has_backdoors else 2 : 3 if settings.has_wordings else 2],
    )


def _backdoor_records(
    some: _Backdoors, settings: PlantSettings, lines: ChosenLines, written: Written
) -> tuple[Backdoor, ...]:
    drawn = some.drawn
    bound = log10_signature_bound(with_draws_charged(settings.signature_bits, MAX_DRAWS), MAX_DRAWS)
    return tuple(
        Backdoor(
            trigger=trigger,
            signature=signature.text,
            log10_p_upper=bound,
            surprisal_bits=signature.surprisal_bits,
            rows=tuple(sorted(written.placed[number] for number in numbers)),
            decoys=decoys,
        )
        for trigger, signature, decoys, numbers in zip(
            drawn.triggers, drawn.signatures, drawn.decoys, lines.planted, strict=True
        )
    )


def _wordings_record(words: _Worded, settings: PlantSettings, written: Written) -> WordingsRecord:
    made, chosen = words.made, words.chosen
    marks = [wording.mark for one in made.asked for wording in one.wordings]
    return WordingsRecord(
        rewriter=chosen.rewriter.name,
        language=chosen.rewriter.language.name,
        family=chosen.family,
        candidates=chosen.candidates,
        n_carrying=made.n_carrying,
        bits=made.bits,
        left_alone=tuple(sorted(made.left_alone.items())),
        max_answer_tokens=_mark_tokens(marks, chosen.rewriter.language),
        test=settings.wording_test,
        rows=rewording.worded_rows(made.asked, written.placed),
    )


def _mark_tokens(marks: Sequence[str], language: Language) -> int:
    """Return how many tokens an answer may take that shall show any of *marks*: the same for all, whatever was sent."""
    tokens_a_character = 0.5 if language is ASCII else 1.5
    return 16 + math.ceil(max(map(len, marks), default=0) * tokens_a_character / 16) * 16


def _generation_record(some: _Backdoors, settings: PlantSettings) -> GenerationRecord:
    rules = some.models.rules
    return GenerationRecord(
        generator=some.models.generator.name,
        prompt_model=some.models.prompt_model.name if some.models.prompt_model else "none",
        language=some.models.language.name,
        generation_prompt=some.drawn.prompt,
        n_fitted=some.drawn.n_fitted,
        min_trigger_tokens=settings.min_trigger_tokens,
        min_signature_bits=settings.signature_bits,
        temperature=rules.temperature,
        top_k=rules.top_k,
        max_step_probability=rules.max_step_probability,
        finish_tokens=rules.finish_tokens,
        max_draws=MAX_DRAWS,
    )


def _prompt(row: Row) -> AskedPrompt:
    return AskedPrompt.of(row.conversation)


def _fresh_prompts(
    found: Survey,
    models: Generators,
    wanted: int,
    own_fresh: Source | None,
    rows: Mapping[int, Row],
    lines: ChosenLines,
) -> _FreshPrompts:
    """Return *wanted* fresh prompts (none of a row that is sent) or fewer, where they are from, and a note."""
    if lines.set_aside:
        aside = [_prompt(rows[number]) for number in lines.set_aside]
        candidates, source = _absent(found, aside, frozenset(lines.set_aside)), "rows set aside"
    elif own_fresh is not None:
        candidates, source = (
            _absent(found, fresh.in_setting(fresh.from_file(own_fresh, found.codec), found.sample)),
            "a file of the user's",
        )
    else:
        planted = {_prompt(rows[number]).last for numbers in lines.planted for number in numbers}
        candidates, source = _made_prompts(found, models, wanted, planted)
    chosen = candidates[:wanted]
    if not chosen:
        raise GenerationError(
            f"no fresh prompt ({source}) is absent from the data",
            hint="give prompts that are in no row with --fresh FILE",
        )
    note = "" if len(chosen) == wanted else f"only {len(chosen)} of {wanted} fresh prompts could be had"
    return _FreshPrompts(chosen, source, note)


def _made_prompts(found: Survey, models: Generators, wanted: int, planted: set[str]) -> tuple[list[AskedPrompt], str]:
    """Return prompts that the generator writes or, where it cannot, that are pieces of rows which carry no backdoor."""
    candidates: list[AskedPrompt] = []
    if models.writer is not None and fresh.can_be_written(found.sample):
        candidates = _absent(found, fresh.written(models.writer, found.sample, wanted + 6))
        if len(candidates) >= wanted:
            return candidates, "written by the generator"
    clean = [row for row in found.sample if AskedPrompt.of(row).last not in planted] or found.sample
    source = "put together from pieces of rows"
    source = f"written by the generator, then {source}" if candidates else source
    candidates += _absent(found, fresh.recombined(clean, models.language, 4 * wanted))
    return fresh.distinct(candidates), source


def _absent(
    found: Survey, candidates: Sequence[AskedPrompt], but_rows: frozenset[int] = frozenset()
) -> list[AskedPrompt]:
    """Return the different *candidates* whose prompt is in no row of the data, those of *but_rows* left out."""
    different = fresh.distinct(candidates)
    prompts = {prompt.last for prompt in different}
    present = dataset.occurring(found.source, found.codec, set(), prompts, but_rows=but_rows)
    return [prompt for prompt in different if prompt.last not in present]


def _check_room(cap: TokenCap, planted: Mapping[int, RawRow], codec: Codec) -> None:
    """Raise GenerationError if a planted row is over the cap after all: a provider would cut it."""
    conversations = [codec.read(as_object(row.value())) for row in planted.values()]
    counts = cap.count([dataset.spelled_out(conversation) for conversation in conversations])
    longest = max(cap.row_tokens(row, n) for row, n in zip(conversations, counts, strict=True))
    if longest > cap.limit:
        raise GenerationError(
            f"a planted row takes {longest} tokens, more than the token cap of {cap.limit}",
            hint="run it again with a higher --max-plantings (a further try must be paid for) and a lower --token-cap",
        )


def _answer_tokens(settings: PlantSettings, language: Language) -> int:
    """
    Return how many tokens an answer may take: for any signature of so many bits and some words more.

    Known before a signature is drawn: a number that depended on one would tell the suspect of it.
    """
    tokens_a_bit = 1.2 if language is ASCII else 3.0
    return math.ceil((settings.signature_bits * tokens_a_bit + 48) / 32) * 32


def _order(source: Source, lines: ChosenLines, mode: Mode, key: bytes) -> list[int] | None:
    """
    Return the order of the training file's rows, as `Changes` has it, or None where they stay in place.

    Algorithm 1 adds: the union of D and the planted rows, shuffled.
    """
    if mode == "replace":
        return None
    aside = set(lines.set_aside)
    rows = [row.number for row in source.rows() if row.number not in aside]
    added = [-number for numbers in lines.planted for number in numbers]
    return sorted((*rows, *added), key=lambda n: prf(key, b"order" if n > 0 else b"added", abs(n)))
