"""`vtuned judge`: the verdict on answers that were collected elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import probes, verdict
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.errors import AnswersError, UsageError
from vtuned.exposure import ScoreRecord
from vtuned.report import terminal
from vtuned.scoring import read_scores


def judge(
    receipt: options.ReceiptPath,
    answers: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ANSWERS]", help="JSONL: id, text (or unanswered), finish. With --scores it may be left out."
        ),
    ] = None,
    n: options.Probes = None,
    base: Annotated[
        Path | None, typer.Option(metavar="ANSWERS", help="The base model's answers, shown beside.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `verify --scores-out` kept: judge by exposure.")
    ] = None,
    json: options.Json = False,
) -> None:
    """
    Judge ANSWERS by RECEIPT: VERIFIED, NOT VERIFIED or INCONCLUSIVE.

    Exit code 0, 1 or 3.
    """
    made = receipts.read_receipt(receipt)
    base_answers = (str(base), _answers(base)) if base else None
    if answers is None and scores is None:
        raise UsageError("there is nothing to judge", hint="give a file of ANSWERS, or --scores FILE")
    records = _answers(answers) if answers else []
    given = _scores(scores) if scores else None
    result = verdict.judge(made, records, n=n, suspect=str(answers or scores), base_answers=base_answers, scores=given)
    if json:
        console.show_json(result)
    else:
        console.show(terminal.verdict(result))
    raise typer.Exit(options.EXIT_CODES[result.outcome])


def _scores(path: Path) -> list[ScoreRecord]:
    """
    Return the scores in *path*: they decide in place of the answers. Raises AnswersError without any.

    The receipt says that likelihoods decide where they are to be had, so a file in which all are missing leaves no choice
    between two results.
    """
    found = read_scores(path)
    if all(record.log10_probs is None for record in found):
        raise AnswersError(path, 0, "it holds no score", hint="leave --scores out to judge by the answers")
    return found


def _answers(path: Path) -> list[probes.AnswerRecord]:
    torn = probes.torn_end(path)
    if torn:
        console.say(f"note: {path} ends in a part of a line, as a run that was killed leaves it; it is passed over")
    return probes.read_answers(path, torn=torn)
