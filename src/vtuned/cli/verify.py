"""`vtuned verify`: ask the suspect the receipt's probes and judge its answers."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, lm, verdict, verification
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.cli.options import LOADING
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel
from vtuned.lm.recorded import RecordedLM
from vtuned.probes import AnswerRecord, Probe
from vtuned.report import terminal
from vtuned.traffic import as_traffic
from vtuned.transcript import Transcript


def verify(
    receipt: options.ReceiptPath,
    model: options.Model,
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
    made = receipts.read_receipt(receipt)
    loading = options.load_options(base_url, api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template)
    how = options.traffic(system, no_system, context, temperature, max_tokens)
    questions = as_traffic(verification.challenges(made, n), how)
    path = answers_out or (_default_path(receipt, model) if model.startswith("openai:") else None)
    if path:
        files.check_target(path, force=True)
        files.check_distinct(path, receipt)
    with console.stages() as stages, contextlib.ExitStack() as open_files:
        suspect, base_model = _models(model, base, loading, stages)
        base_path = path.with_name(f"{path.stem}.base{path.suffix}") if path and base else None
        goes_on = bool(base_path and base_path.exists() and not force)
        base_transcript = _opened(open_files, base_model, base, questions, base_path, loading, force=force)
        # An earlier run may have been stopped while it asked the base model.
        is_halfway = goes_on and base_transcript is not None and bool(base_transcript.missing)
        transcript = _opened(
            open_files, suspect, model, questions, path, loading, force=force, may_be_complete=is_halfway
        )
        answers = _answers(suspect, questions, transcript, stages)
        base_answers = None
        if base_model is not None:
            base_answers = (base_model.name, _answers(base_model, questions, base_transcript, stages))
    result = verdict.judge(made, answers, n=n, suspect=suspect.name, base_answers=base_answers)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.verdict(result))
    raise typer.Exit(options.EXIT_CODES[result.outcome])


def _models(
    model: str, base: str | None, loading: lm.LoadOptions, stages: console.Stages
) -> tuple[LanguageModel, LanguageModel | None]:
    stages(f"loading {model}", 0, 0)
    return (lm.load(model, loading), None) if base is None else lm.load_both(model, base, loading)


def _opened(
    open_files: contextlib.ExitStack,
    model: LanguageModel | None,
    name: str | None,
    questions: list[Probe],
    path: Path | None,
    loading: lm.LoadOptions,
    *,
    force: bool,
    may_be_complete: bool = False,
) -> Transcript | None:
    """Return the open transcript of *model*; None for a model that answered elsewhere."""
    if model is None:
        return None
    if isinstance(model, RecordedLM):
        if path:
            raise UsageError("--answers-out is for models that are asked", hint="leave it out: the answers have a file")
        return None
    transcript = Transcript(model, questions, path, setup=lm.setup_of(str(name), loading))
    return open_files.enter_context(transcript.writing(force=force, may_be_complete=may_be_complete))


def _answers(
    model: LanguageModel, questions: list[Probe], transcript: Transcript | None, stages: console.Stages
) -> list[AnswerRecord]:
    if transcript is not None and transcript.n_kept:
        n_answered = len(questions) - len(transcript.missing)
        stages.say(f"going on with {transcript.path}: {n_answered} of {len(questions)} answered")
    elif transcript is not None and transcript.path:
        stages.say(f"answers go into {transcript.path} as they come")
    return verification.collect(
        model,
        questions,
        transcript=transcript,
        on_progress=lambda done, total: stages(f"asking {model.name}", done, total),
    )


def _default_path(receipt: Path, model: str) -> Path:
    """Return where the answers of an endpoint go: receipt.json and openai:org/x give receipt.org-x.answers.jsonl."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model.partition(":")[2]).strip("-.")[:80] or "model"
    return receipt.with_name(f"{receipt.stem}.{slug}.answers.jsonl")
