"""`vtuned ask`: put probes to a model and keep its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, lm, probes, verification
from vtuned.cli import console, options
from vtuned.cli.options import LOADING
from vtuned.errors import LMUnavailable, UsageError
from vtuned.lm.base import Unanswered
from vtuned.lm.recorded import RecordedLM
from vtuned.transcript import Transcript


def ask(
    questions: Annotated[Path, typer.Argument(metavar="PROBES", help="The probes that `challenges` wrote.")],
    model: options.Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ANSWERS", help="Where the answers go, JSONL.")],
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
    Ask MODEL the PROBES and write its ANSWERS, one JSON line each with the probe's id.

    Answers are written as they come; a run that was stopped goes on when run again.
    """
    asked = probes.read_probes(questions)
    files.check_target(output, force=True)
    files.check_distinct(output, questions)
    loading = options.load_options(base_url, api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template)
    with console.stages() as stages:
        stages(f"loading {model}", 0, 0)
        loaded = lm.load(model, loading)
        if isinstance(loaded, RecordedLM):
            raise UsageError(f"{model} holds answers already", hint="give them to `vtuned judge`")
        with Transcript(loaded, asked, output, setup=lm.setup_of(model, loading)).writing(force=force) as transcript:
            answers = verification.collect(
                loaded,
                asked,
                transcript=transcript,
                on_progress=lambda done, total: stages(f"asking {model}", done, total),
            )
            n_kept = transcript.n_kept
    answered = {record.id for record in answers if not isinstance(record.answer, Unanswered)}
    n_unanswered = sum(probe.id not in answered for probe in asked)
    if json:
        facts = {"n_answers": len(answered), "n_unanswered": n_unanswered, "n_kept": n_kept}
        console.show_json({"answers": str(output), **facts})
    else:
        console.say(f"{output}: {len(answered)} probes answered, {n_unanswered} unanswered.")
    if n_unanswered == len(asked):
        raise LMUnavailable(model, "answered none of the probes", hint=f"see the reasons in {output}")
