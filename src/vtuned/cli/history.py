"""`vtuned history`: what `vtuned watch` has found so far."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import ledger
from vtuned.cli import console, options
from vtuned.report import monitoring


def history(
    ledger_path: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="The ledger that `watch` keeps: RECEIPT's name, .ledger.sqlite.")
    ],
    json: options.Json = False,
) -> None:
    """Show the checks in LEDGER, one a line; no answers, which are secret."""
    with ledger.opened(ledger_path) as kept:
        checks, digest, n_spent = kept.checks(), kept.receipt_digest, len(kept.spent())
    if json:
        content = {"receipt_digest": digest, "n_spent": n_spent}
        console.show_json({**content, "checks": [check.model_dump(mode="json") for check in checks]})
        return
    console.show(monitoring.history(checks))
    console.say(f"{monitoring.backdoors(n_spent)} spent, of the receipt with digest {digest[:16]}…")
