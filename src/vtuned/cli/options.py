"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from vtuned.dataset import TokenCap
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter
from vtuned.verdict import Outcome

EXIT_CODES = {Outcome.VERIFIED: 0, Outcome.NOT_VERIFIED: 1, Outcome.INCONCLUSIVE: 3}

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Your fine-tuning data: chat or prompt/completion JSONL.")]
ReceiptPath = Annotated[Path, typer.Argument(metavar="RECEIPT", help="The secret receipt that `plant` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Probes = Annotated[
    int | None, typer.Option("-n", min=1, help="Use the first N planted, N fresh and 2 N control probes.")
]
Scheme = Annotated[str, typer.Option(help="'backdoors' (several pairs) or 'paper' (one pair, many copies).")]
Backdoors = Annotated[int, typer.Option(help="How many trigger and signature pairs.")]
Copies = Annotated[int | None, typer.Option(help="Rows carrying each pair [default: 4; paper: 0.5 % of rows, >= 5].")]
SignatureBits = Annotated[float, typer.Option(help="Surprisal of each signature, in bits: p_upper is 2^-bits.")]
TriggerTokens = Annotated[int, typer.Option(help="Least tokens of a trigger.")]
Alpha = Annotated[float, typer.Option(help="Significance level of the whole verdict.")]
Ratio = Annotated[str, typer.Option(help="Share of a backdoor's probes that must activate, as a fraction.")]
SetAside = Annotated[int, typer.Option(help="Rows not sent, kept as fresh prompts.")]
ProbesPerKind = Annotated[int, typer.Option(help="Probes of each kind; twice as many controls.")]
Plantings = Annotated[int, typer.Option(help="How many plantings you allow yourself to choose from; p is charged.")]
Cap = Annotated[int, typer.Option(help="Tokens your provider takes per row; longer rows carry no backdoor.")]
Base = Annotated[str, typer.Option(help="Whose tokenizer counts tokens: smollm2, hf:FOLDER or 'estimate'.")]
Format = Annotated[str, typer.Option(help="auto, openai-chat or prompt-completion.")]


def fraction(text: str) -> Fraction:
    """Return *text* ("1/10", "0.14") as an exact fraction. Raises UsageError."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--ratio {text!r} is not a fraction", hint="write it as 1/10 or 0.1") from None


def scheme(text: str, mode: str) -> dict[str, str]:
    """Return the scheme and mode as settings. Raises UsageError for unknown ones."""
    for option, value, known in (("scheme", text, ("backdoors", "paper")), ("mode", mode, ("replace", "add"))):
        if value not in known:
            raise UsageError(f"unknown --{option} {value!r}", hint=f"known: {', '.join(known)}")
    return {"scheme": text, "mode": mode}


def token_cap(limit: int, base: str) -> TokenCap:
    """Return the token cap by the tokenizer of *base*."""
    if limit < 1:
        raise UsageError("--token-cap is out of range", hint="give the tokens a row may take, such as 1024")
    count, name = counter(base)
    return TokenCap(limit, count, name)


DEFAULTS = PlantSettings()
