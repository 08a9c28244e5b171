"""`vtuned show`: what a receipt holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.report import terminal


def show(
    receipt: options.ReceiptPath,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show triggers, signatures, planted lines and what was published.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show what RECEIPT holds; its secrets only with --reveal."""
    made = receipts.read_receipt(receipt)
    if json:
        secret: dict[str, Any] = dict.fromkeys(("key", "backdoors", "probes", "exposures", "generation"), True)
        secret["wordings"] = {"rows"}
        console.show_json(made.model_dump(mode="json", exclude={} if reveal else secret))
    else:
        console.show(terminal.receipt(made, reveal=reveal))
