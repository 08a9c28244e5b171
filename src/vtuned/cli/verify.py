"""`vtuned verify`: ask the suspect the receipt's probes and judge its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vtuned import documents, files, formats, lm, measuring, scoring, verdict, verification
from vtuned import receipt as receipts
from vtuned.cli import checkpoints as learning
from vtuned.cli import console, holdout, models, options, suspects
from vtuned.cli.checkpoints import Look
from vtuned.cli.holdout import Comparison
from vtuned.cli.options import LOADING
from vtuned.errors import UsageError
from vtuned.exposure import ScoreRecord
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.recorded import RecordedLM
from vtuned.measuring import LOSS
from vtuned.probes import AnswerRecord, Probe
from vtuned.receipt import Receipt
from vtuned.report import terminal
from vtuned.scoring import ScoreFile
from vtuned.traffic import Traffic, as_traffic
from vtuned.transcript import Transcript, with_address
from vtuned.verdict import Verdict

_HELD_OUT = "Rows that were never sent (--holdout)"


def verify(
    receipt: Annotated[
        Path | None,
        typer.Argument(metavar="[RECEIPT]", help="The secret receipt that `plant` wrote.", show_default="the run's"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help=options.MODEL_HELP, show_default="the run's")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Judge the model of a run of `vtuned submit` or `vtuned job adopt`."),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Ask the checkpoints of the run's job too, to show how it learned."),
    ] = False,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask the base model too, to show it beside.")
    ] = None,
    n: options.Probes = None,
    answers_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the suspect's answers, each as soon as it is there; a run that was stopped goes on from them.",
            show_default="of endpoints: a file beside RECEIPT",
        ),
    ] = None,
    scores_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep what the suspect gave signatures and decoys; a run that was stopped goes on from it.",
        ),
    ] = None,
    exposure: Annotated[
        bool | None,
        typer.Option(
            "--exposure/--no-exposure",
            help="Rank signatures among their decoys, and wordings among those of their row, by the suspect's likelihoods. An "
            "endpoint that is asked to sees them all.",
            show_default="for models in this process, where the receipt holds what to rank",
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--holdout",
            metavar="FILE",
            rich_help_panel=_HELD_OUT,
            help="Rows with answers that were never sent: what does the suspect gain on them over its base?",
        ),
    ] = None,
    measure: Annotated[
        str,
        typer.Option(
            metavar="|".join((measuring.AUTO, *measuring.MEASURES)),
            rich_help_panel=_HELD_OUT,
            help="By what: auto is loss for models in this process, else chrf of their answers.",
        ),
    ] = measuring.AUTO,
    margin: Annotated[
        float | None,
        typer.Option(min=0, rich_help_panel=_HELD_OUT, help="G: a gain that the planted rows alone do not give."),
    ] = None,
    margin_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", rich_help_panel=_HELD_OUT, help="Measure G on a model trained on the planted rows alone."
        ),
    ] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    system: options.System = None,
    no_system: options.NoSystem = False,
    context: options.Context = None,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = None,
    base_url: options.BaseUrl = LOADING.base_url,
    api_key: options.ApiKey = LOADING.api_key,
    concurrency: options.Concurrency = LOADING.concurrency,
    spacing: options.Spacing = LOADING.spacing,
    timeout: options.Timeout = LOADING.timeout,
    dtype: options.Dtype = LOADING.dtype,
    device: options.Device = LOADING.device,
    bits: options.Bits = LOADING.bits,
    chat_template: options.ChatTemplate = LOADING.chat_template,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """
    Say whether the suspect was trained on the planted data: VERIFIED, NOT VERIFIED or INCONCLUSIVE.

    Exit code 0, 1 or 3.
    """
    judged = suspects.suspect(
        receipt, model, run, checkpoints=checkpoints, base_url=base_url, api_key=api_key, timeout=timeout
    )
    receipt, model = judged.receipt, judged.model
    made = receipts.read_receipt(receipt)
    loading = options.load_options(
        judged.base_url, judged.api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template
    )
    how = options.traffic(system, no_system, context, temperature, max_tokens)
    made.check_prefix(n)
    path = answers_out or judged.answers_path(model)
    _check_outputs((path, scores_out), (receipt, held_out))
    shape = options.row_format(
        held_out or "", format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    compared = holdout.comparison(held_out, shape, made, measure=measure, margin=margin, margin_model=margin_model)
    base_name = base or _implied_base(made, model, exposure)
    if compared:
        base_name = holdout.base_of(model, base)
        compared.check_base(base_name)
    with console.stages() as stages, contextlib.ExitStack() as open_files:
        suspect, base_model = models.load(model, base_name, loading, stages)
        planted_only = lm.load(margin_model, loading) if margin_model else None
        scorer = _scorer(made, suspect, exposure, scores_out)
        questions = as_traffic(_questions(made, n, is_scored=scorer is not None), how)
        runs = [_Run("suspect", suspect, model, questions, path)]
        if base and base_model is not None:
            runs.append(_Run("base", base_model, base, questions, _beside(path, "base")))
        held = _held_out_runs(
            compared, (suspect, base_model, planted_only), (model, base_name, margin_model), path, how
        )
        by = compared.measure_of([run.model for run in held]) if compared else LOSS
        asked = [*runs, *(() if by == LOSS else held)]
        # First the transcripts: where all was answered before, nothing is scored either.
        transcripts = _opened_all(open_files, asked, loading, force=force, is_kept=run is not None)
        scores = None
        if scorer is not None:
            kept = ScoreFile(scores_out, setup=_setup((suspect, base_model), (model, base_name), loading))
            scores = _scores(made, (suspect.name, scorer), base_model, n, kept, stages, force=force)
        stop = _looks(made, n) if scores is None else None
        answers = {
            run.what: _answers(run, kept, stages, stop if run.what == "suspect" else None)
            for run, kept in zip(asked, transcripts, strict=True)
        }
        gained = None
        if compared:
            found = [
                (run.model.name, compared.measured(by, run.model, answers.get(run.what, ()), stages)) for run in held
            ]
            gained = compared.held_out(by, *found)
        learned = learning.looks(made, questions, judged, answers["suspect"], loading, n=n, stages=stages)
    result = verdict.judge(
        made,
        answers["suspect"],
        n=n,
        suspect=suspect.name,
        base_answers=(runs[1].model.name, answers["base"]) if "base" in answers else None,
        scores=scores,
        held_out=gained,
    )
    _show(result, learned, json=json)
    raise typer.Exit(options.EXIT_CODES[result.outcome])


def _show(result: Verdict, learned: Sequence[Look], *, json: bool) -> None:
    if json and learned:
        looks = [look.facts() for look in learned]
        console.show_json({"verdict": result.model_dump(mode="json"), "checkpoints": looks})
    elif json:
        console.show_json(result)
    else:
        console.show(terminal.verdict(result))
        if learned:
            console.show(learning.table(learned))


@dataclass(frozen=True, slots=True)
class _Run:
    """The *questions* that are put to one model, which the user calls *name*; *path* keeps its answers."""

    what: str
    model: LanguageModel
    name: str
    questions: list[Probe]
    path: Path | None


def _held_out_runs(
    compared: Comparison | None,
    asked: Sequence[LanguageModel | None],
    names: Sequence[str | None],
    path: Path | None,
    how: Traffic,
) -> list[_Run]:
    """Return how held-out rows would be put to the suspect, its base and the margin's model, where there is one."""
    if compared is None:
        return []
    questions = as_traffic(measuring.questions(compared.rows), how)
    return [
        _Run(what, one, name, questions, _beside(path, what))
        for what, one, name in zip(("holdout", "holdout-base", "holdout-margin"), asked, names, strict=True)
        if one is not None and name is not None
    ]


def _check_outputs(outputs: Sequence[Path | None], inputs: Sequence[Path | None]) -> None:
    """Raise OutputError unless each of *outputs* can be written and is no other file of this command."""
    for out in outputs:
        if out:
            files.check_target(out, force=True)
            files.check_distinct(out, *(other for other in (*inputs, *outputs) if other is not out and other))


def _questions(made: Receipt, n: int | None, *, is_scored: bool) -> list[Probe]:
    """Return what is put to a suspect for answers: where it *is_scored*, wordings are not asked about."""
    asked = verification.backdoor_questions(made, n)
    if is_scored:
        return asked
    asked += verification.worded_questions(made, n)
    if not asked:
        raise UsageError(
            "these wordings do not show in answers, only in likelihoods",
            hint="verify a model that gives likelihoods of given texts, such as weights that you hold",
        )
    return asked


def _implied_base(made: Receipt, model: str, wanted: bool | None) -> str | None:
    """Return the base of an adapter, where likelihoods less the base's are to be ranked and the user named none."""
    return models.base_in(model) if scoring.to_score(made) and made.plan.less_base and wanted is not False else None


def _looks(made: Receipt, n: int | None) -> verification.Enough | None:
    """Return what tells that answers are enough, for receipts whose p-values are valid at every look."""
    if made.plan.stopping != "any":
        return None
    return lambda answers: verdict.judge(made, answers, n=n).outcome is verdict.Outcome.VERIFIED


def _scorer(made: Receipt, suspect: LanguageModel, wanted: bool | None, path: Path | None) -> Scorer | None:
    """Return who scores signatures and decoys; None where the verdict is to rest on what the suspect says."""
    scorer = models.scorer(suspect, asked_for=bool(wanted))
    has_candidates = bool(scoring.to_score(made))
    if wanted and not has_candidates:
        raise UsageError("this receipt holds no decoys to rank signatures among", hint="plant with --decoys")
    if wanted and scorer is None:
        raise UsageError(f"{suspect.name} gives no likelihoods of given texts", hint="leave --exposure out")
    if wanted is not False and has_candidates and scorer is not None:
        return scorer
    if path:
        raise UsageError("--scores-out is for suspects that are scored", hint="leave it out, or ask for --exposure")
    return None


def _scores(
    made: Receipt,
    suspect: tuple[str, Scorer],
    base: LanguageModel | None,
    n: int | None,
    kept: ScoreFile,
    stages: console.Stages,
    *,
    force: bool,
) -> list[ScoreRecord]:
    """Return what *suspect* gives signatures and decoys, and *base*."""
    base_scorer = models.scorer(base, asked_for=True) if base is not None else None
    with kept.writing(force=force):
        if kept.records:
            stages.say(f"going on with {kept.path}: {len(kept.records)} of {len(scoring.to_score(made, n))} scored")
        return scoring.score(
            made,
            suspect,
            (base.name, base_scorer) if base is not None and base_scorer is not None else None,
            n=n,
            kept=kept,
            on_progress=lambda done, total: stages(f"scoring {suspect[0]}", done, total),
            enough=None if made.plan.stopping != "any" else lambda found: _is_verified(made, found),
        )


def _setup(asked: Sequence[LanguageModel | None], names: Sequence[str | None], loading: lm.LoadOptions) -> str:
    """Return what the names of suspect and base do not say of them: where they answer, and what was loaded."""
    both = zip(asked, names, strict=True)
    return documents.digest({with_address(one): lm.setup_of(name, loading) for one, name in both if one and name})


def _is_verified(made: Receipt, scores: list[ScoreRecord]) -> bool:
    return verdict.judge(made, [], scores=scores).outcome is verdict.Outcome.VERIFIED


def _opened_all(
    open_files: contextlib.ExitStack, runs: Sequence[_Run], loading: lm.LoadOptions, *, force: bool, is_kept: bool
) -> list[Transcript | None]:
    """
    Return the open transcript of each of *runs*, None for a model that answered elsewhere.

    Where *is_kept* the answers belong to the run of a job, of which a complete transcript is no news.
    """
    there = [bool(run.path and run.path.exists() and not force) for run in runs]
    first, *others = runs
    later = [_opened(open_files, run, loading, force=force, may_be_complete=there[0]) for run in others]
    # An earlier run may have been stopped while it asked a later model, or held-out rows.
    is_halfway = is_kept or any(
        was and kept is not None and kept.missing for was, kept in zip(there[1:], later, strict=True)
    )
    return [_opened(open_files, first, loading, force=force, may_be_complete=is_halfway), *later]


def _opened(
    open_files: contextlib.ExitStack, run: _Run, loading: lm.LoadOptions, *, force: bool, may_be_complete: bool
) -> Transcript | None:
    if isinstance(run.model, RecordedLM):
        if run.path:
            raise UsageError("--answers-out is for models that are asked", hint="leave it out: the answers have a file")
        return None
    transcript = Transcript(run.model, run.questions, run.path, setup=lm.setup_of(run.name, loading))
    return open_files.enter_context(transcript.writing(force=force, may_be_complete=may_be_complete))


def _answers(
    run: _Run, transcript: Transcript | None, stages: console.Stages, enough: verification.Enough | None = None
) -> list[AnswerRecord]:
    if transcript is not None and transcript.n_kept:
        n_answered = len(run.questions) - len(transcript.missing)
        stages.say(f"going on with {transcript.path}: {n_answered} of {len(run.questions)} answered")
    elif transcript is not None and transcript.path:
        stages.say(f"answers go into {transcript.path} as they come")
    return verification.collect(
        run.model,
        run.questions,
        transcript=transcript,
        on_progress=lambda done, total: stages(f"asking {run.model.name}", done, total),
        enough=enough,
    )


def _beside(path: Path | None, what: str) -> Path | None:
    return path.with_name(f"{path.stem}.{what}{path.suffix}") if path else None
