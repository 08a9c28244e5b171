"""`vtuned watch`: is my adapter still live?"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Annotated

import typer

from vtuned import files, ledger, lm, probes, watching
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.cli.options import LOADING
from vtuned.errors import AnswersError, UsageError
from vtuned.exposure import ScoreRecord
from vtuned.ledger import Check, Ledger
from vtuned.receipt import Receipt
from vtuned.report import monitoring
from vtuned.scoring import read_scores
from vtuned.watching import NoBackdoorsLeft, WatchRules

EXIT_CODES = {"active": 0, "silent": 1, "unknown": 3}
RULES = WatchRules()
_HOOK_S = 60.0
_STANDARD_ERROR = 2
_LONGEST_S = 366 * 86400.0
_SECRET = re.compile(r"(KEY|TOKEN|BASE_URL)$|SECRET|PASSWORD|PASSWD|PASSPHRASE", re.IGNORECASE)
_SPENT = "give what `vtuned verify --answers-out`, `--scores-out` or `vtuned ask` kept for this receipt"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

LedgerPath = Annotated[
    Path | None,
    typer.Option(
        "--ledger", metavar="FILE", help="Where checks are kept (secret).", show_default="a file beside RECEIPT"
    ),
]


def watch(
    receipt: options.ReceiptPath,
    model: options.Model,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="6h",
            help="Check again and again, so far apart: 90s, 30m, 6h, 1d. It goes on after a change, which it prints and "
            "tells --hook, until Ctrl-C (exit code 130) or no backdoor is left (3). Without: once.",
        ),
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Unspent backdoors a check asks.")] = RULES.budget,
    confirm: Annotated[
        int, typer.Option(min=0, help="Most further backdoors, asked one by one until the answers tell.")
    ] = RULES.confirm,
    ledger_path: LedgerPath = None,
    spent: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Answers of `verify` or `ask`, or scores of an endpoint: every backdoor in it is spent.",
        ),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Run this in a shell when an active model falls silent; VTUNED_STATE, VTUNED_PREVIOUS and VTUNED_LEDGER "
            "are set, and variables that look like a key, token, secret, password or base URL are not passed on.",
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
    json: options.Json = False,
) -> None:
    """
    Say whether the model still answers as trained, by asking a few backdoors that were never asked before.

    A probe burns its backdoor, so each is asked once: the ledger keeps which are spent. Exit code 0 active (p is at most
    α), 1 silent (β is at most 5 %, or what the receipt says; it accuses nobody), 3 could not tell, or no backdoor is left.
    """
    made = receipts.read_receipt(receipt)
    every_s = None if every is None else seconds(every)
    rules = WatchRules(budget=budget, confirm=confirm)
    loading = options.load_options(base_url, api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template)
    how = options.traffic(system, no_system, context, temperature, max_tokens)
    shown = [pair for file in spent or () for pair in watching.shown_elsewhere(made, _records(file), file)]
    with ledger.opened(_ledger(receipt, made, ledger_path, spent or ()), made.planted_digest()) as kept:
        kept.spend_elsewhere(shown)

        def look() -> Check:
            with console.stages() as stages:
                stages(f"loading {model}", 0, 0)
                loaded = lm.load(model, loading)
                return watching.check(
                    made,
                    loaded,
                    kept,
                    rules,
                    traffic=how,
                    on_progress=lambda done, total: stages(f"asking {model}", done, total),
                )

        for found in watching.rounds(
            look,
            every_s,
            sleep=sleep,
            is_over=lambda: watching.n_left(made, kept) == 0,
            on_trouble=lambda error: console.say(f"error: {error}"),
        ):
            last = _after(found, kept, hook)
            _show(made, last, kept, rules, json=json)
    if every_s is not None:
        raise NoBackdoorsLeft
    raise typer.Exit(EXIT_CODES[last.state])


def seconds(text: str) -> float:
    """Return "6h" in seconds. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--every {text!r} is no time", hint="write it as 90s, 30m, 6h or 1d")
    given = float(found[1]) * _UNITS[found[2]]
    if given > _LONGEST_S:
        raise UsageError(f"--every {text[:20]} is too long", hint="give at most 366d, or run `watch` from cron")
    return given


def _ledger(receipt: Path, made: Receipt, given: Path | None, spent: Sequence[Path]) -> Path:
    """Return the file of the ledger, and say so where its name is not the receipt's. Raises OutputError, UsageError."""
    path = given or ledger.beside(receipt, made.planted_digest())
    if path != given and path.name != f"{receipt.stem}.ledger.sqlite":
        console.say(f"going on with {path}, which is of the same planting")
    files.check_target(path, force=True)
    files.check_distinct(path, receipt, *spent)
    return path


def _records(path: Path) -> list[probes.AnswerRecord] | list[ScoreRecord]:
    """Read answers or scores. Raises AnswersError where the file is neither, DatasetError where it cannot be read."""
    torn = probes.torn_end(path)
    try:
        return probes.read_answers(path, torn=torn)
    except AnswersError as error:
        with contextlib.suppress(AnswersError):
            if scores := read_scores(path, torn=torn):
                return scores
        raise AnswersError(path, error.line, error.reason, hint=_SPENT) from error


def _after(found: Check, kept: Ledger, hook: str | None) -> Check:
    """Run the hook where an active model has fallen silent, and note what came of it."""
    if hook is None or (found.previous, found.state) != ("active", "silent"):
        return found
    return kept.note_hook(found.number, _run(hook, found, kept.path))


def _run(hook: str, found: Check, path: Path) -> str:
    """
    Run the user's command; return "ran", or how it failed.

    It learns states and a path, nothing secret: keys, and addresses that may hold one, are taken out of its environment.
    """
    environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    environment |= {
        "VTUNED_STATE": found.state,
        "VTUNED_PREVIOUS": str(found.previous),
        "VTUNED_LEDGER": str(path.resolve()),
    }
    try:
        # Its output is no result of ours: it goes where notes go.
        done = subprocess.run(  # noqa: S602, the user's own command
            hook,
            shell=True,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=_STANDARD_ERROR,
            timeout=_HOOK_S,
        )
    except subprocess.TimeoutExpired:
        return f"failed: not done after {_HOOK_S:g} s"
    except (OSError, ValueError) as error:
        return f"failed: {error}"
    return "ran" if done.returncode == 0 else f"failed: exit code {done.returncode}"


def _show(made: Receipt, found: Check, kept: Ledger, rules: WatchRules, *, json: bool) -> None:
    left = watching.n_left(made, kept)
    if json:
        console.show_json({**found.model_dump(mode="json"), "ledger": str(kept.path), "n_left": left})
    else:
        console.show(monitoring.check(found, made.plan))
        console.say(_left(left, rules))
    if found.hook.startswith("failed"):
        console.say(f"warning: the hook {found.hook}")


def _left(left: int, rules: WatchRules) -> str:
    """Return how long the unspent backdoors will last, and what to do about it where that is not long."""
    n_checks = left // rules.budget
    told = f"{monitoring.backdoors(left)} unspent: {n_checks} more check{'' if n_checks == 1 else 's'}"
    if n_checks > watching.FEW_CHECKS:
        return f"{told}."
    return f"{told}. Before they run out, {watching.REPLANT}."
