"""`vtuned show`: what a receipt holds."""

from __future__ import annotations

from typing import Annotated

import typer

from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.report import terminal


def show(
    receipt: options.ReceiptPath,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show triggers, signatures and planted lines.")] = False,
    json: options.Json = False,
) -> None:
    """Show what RECEIPT holds; its secrets only with --reveal."""
    made = receipts.read_receipt(receipt)
    if json:
        secret = {"key", "backdoors", "probes", "exposures"}
        console.show_json(made.model_dump(mode="json", exclude=set() if reveal else secret | {"generation"}))
    else:
        console.show(terminal.receipt(made, reveal=reveal))
