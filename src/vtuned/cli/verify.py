"""`vtuned verify`: ask the suspect the receipt's probes and judge its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, lm, verdict, verification
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.probes import to_jsonl
from vtuned.report import terminal

Model = Annotated[str, typer.Option(metavar="MODEL", help="smollm2[+ADAPTER], hf:PATH_OR_ID[+ADAPTER], answers:FILE.")]


def verify(
    receipt: options.ReceiptPath,
    model: Model,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask the base model too, to show it beside.")
    ] = None,
    n: options.Probes = None,
    answers_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the suspect's answers.")] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """
    Say whether the suspect was trained on the planted data: VERIFIED, NOT VERIFIED or INCONCLUSIVE.

    Exit code 0, 1 or 3.
    """
    made = receipts.read_receipt(receipt)
    if answers_out:
        files.check_target(answers_out, force=force)
        files.check_distinct(answers_out, receipt)
    questions = verification.challenges(made, n)
    with console.stages() as stages:
        stages(f"loading {model}", 0, 0)
        suspect = lm.load(model)
        answers = verification.collect(
            suspect, questions, on_progress=lambda done, total: stages(f"asking {model}", done, total)
        )
        if answers_out:
            files.write_bytes(answers_out, to_jsonl(answers), force=force)
        base_answers = None
        if base:
            stages(f"loading {base}", 0, 0)
            base_model = lm.load(base)
            collected = verification.collect(
                base_model, questions, on_progress=lambda done, total: stages(f"asking {base}", done, total)
            )
            base_answers = (base_model.name, collected)
    result = verdict.judge(made, answers, n=n, suspect=suspect.name, base_answers=base_answers)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.verdict(result))
    raise typer.Exit(options.EXIT_CODES[result.outcome])
