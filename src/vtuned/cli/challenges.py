"""`vtuned challenges`: write the probes for somebody else to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtuned import files, verification
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.probes import to_jsonl
from vtuned.traffic import as_traffic


def challenges(
    receipt: options.ReceiptPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PROBES", help="Where the probes go, JSONL.")],
    n: options.Probes = None,
    system: options.System = None,
    no_system: options.NoSystem = False,
    context: options.Context = None,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write the probes of RECEIPT: ids, messages and sampling; never a signature."""
    files.check_distinct(output, receipt)
    how = options.traffic(system, no_system, context, temperature, max_tokens)
    made = receipts.read_receipt(receipt)
    questions = as_traffic(verification.challenges(made, n), how)
    files.write_bytes(output, to_jsonl(questions), force=force)
    if json:
        console.show_json({"probes": str(output), "n_probes": len(questions)})
    else:
        held = " They hold triggers: whoever asks them sees those." if made.backdoors else ""
        console.say(f"{output}: {len(questions)} probes.{held}")
