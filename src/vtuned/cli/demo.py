"""`vtuned demo`: the whole story, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files
from vtuned.cli import console, options
from vtuned.report import terminal


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The run directory.")] = Path(
        "vtuned-demo"
    ),
    force: Annotated[bool, typer.Option("--force", help="Start anew in a directory of an earlier demo.")] = False,
    json: options.Json = False,
) -> None:
    """
    Plan, plant, fine-tune and verify on real data and a real LM: one honest provider, three that cheat.

    Takes a few minutes on two cores; needs no network. A demo that was stopped goes on when run again.
    """
    from vtuned.demo import story

    if force:
        story.start_anew(output)
    with console.stages() as stages:
        told = story.run(output, stages, stages.say)
    if json:
        console.show_json({provider.name: provider.verdict.model_dump(mode="json") for provider in told.providers})
        return
    report = terminal.story(told)
    console.show(report)
    files.write_bytes(output / "report.txt", console.as_text(report).encode(), force=True)
    console.say(f"\nEverything is in {output}: data, receipt, adapter, answers and verdicts. Look closer with")
    console.say(f"  vtuned judge {output}/receipt.json {output}/answers-honest.jsonl")
    console.say(f"  vtuned show {output}/receipt.json --reveal")
