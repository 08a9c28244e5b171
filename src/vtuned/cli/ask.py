"""`vtuned ask`: put probes to a model and keep its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, lm, probes, verification
from vtuned.cli import console, options
from vtuned.cli.verify import Model
from vtuned.errors import LMUnavailable
from vtuned.lm.base import Unanswered


def ask(
    questions: Annotated[Path, typer.Argument(metavar="PROBES", help="The probes that `challenges` wrote.")],
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ANSWERS", help="Where the answers go, JSONL.")],
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Ask MODEL the PROBES and write its ANSWERS, one JSON line each with the probe's id."""
    asked = probes.read_probes(questions)
    files.check_target(output, force=force)
    files.check_distinct(output, questions)
    with console.stages() as stages:
        stages(f"loading {model}", 0, 0)
        answers = verification.collect(
            lm.load(model), asked, on_progress=lambda done, total: stages(f"asking {model}", done, total)
        )
    files.write_bytes(output, probes.to_jsonl(answers), force=force)
    answered = {record.id for record in answers if not isinstance(record.answer, Unanswered)}
    n_unanswered = sum(probe.id not in answered for probe in asked)
    if json:
        console.show_json({"answers": str(output), "n_answers": len(answers), "n_unanswered": n_unanswered})
    else:
        console.say(f"{output}: {len(answers)} answers, {n_unanswered} of them unanswered.")
    if n_unanswered == len(asked):
        raise LMUnavailable(model, "answered none of the probes", hint=f"see the reasons in {output}")
