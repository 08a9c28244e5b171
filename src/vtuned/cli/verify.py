"""`vtuned verify`: ask the suspect the receipt's probes and judge its answers."""

from __future__ import annotations

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
    with console.stages() as stages:
        suspect, base_model = _models(model, base, loading, stages)
        answers = _asked(suspect, questions, path, stages, force=force)
        base_answers = None
        if base_model is not None:
            base_answers = (base_model.name, _asked(base_model, questions, None, stages, force=force))
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


def _asked(
    model: LanguageModel, questions: list[Probe], path: Path | None, stages: console.Stages, *, force: bool
) -> list[AnswerRecord]:
    if isinstance(model, RecordedLM):
        if path:
            raise UsageError("--answers-out is for models that are asked", hint="leave it out: the answers have a file")
        return model.records
    with Transcript(model, questions, path).writing(force=force) as transcript:
        if transcript.n_kept:
            stages.say(f"going on with {path}: {len(questions) - len(transcript.missing)} of {len(questions)} answered")
        elif path:
            stages.say(f"answers go into {path} as they come")
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
