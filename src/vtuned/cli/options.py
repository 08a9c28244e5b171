"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from vtuned import files, formats
from vtuned.dataset import TokenCap
from vtuned.errors import UsageError
from vtuned.formats.base import Codec
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.text import TextTemplate
from vtuned.layout import MOST_PLANTINGS, PlantSettings
from vtuned.lm.options import LoadOptions
from vtuned.lm.tokens import counter
from vtuned.traffic import Traffic
from vtuned.verdict import Outcome

EXIT_CODES = {Outcome.VERIFIED: 0, Outcome.NOT_VERIFIED: 1, Outcome.INCONCLUSIVE: 3}

_FORMAT = "What the rows look like"
_ENDPOINT, _LOCAL, _TRAFFIC = (
    "Endpoints (openai:NAME)",
    "Local models",
    "Probes that look like your application's traffic",
)

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Your fine-tuning data: .jsonl, .json, .csv, .parquet, .gz, .zst; several shards; or a folder of them.",
    ),
]
ReceiptPath = Annotated[Path, typer.Argument(metavar="RECEIPT", help="The secret receipt that `plant` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Probes = Annotated[
    int | None,
    typer.Option(
        "-n",
        min=1,
        help="Use the first N planted, N fresh and 2 N control probes; not with a receipt of --stopping any.",
    ),
]
Scheme = Annotated[
    str,
    typer.Option(
        help="'backdoors' (several pairs), 'paper' (one pair, many copies), 'wordings' (a secret choice in every row that "
        "can bear one) or 'wordings+backdoors'."
    ),
]
_WORDINGS = "Wordings"
Rewriter = Annotated[
    str,
    typer.Option(
        rich_help_panel=_WORDINGS,
        help="Who words answers: 'openings' (a short one before the answer), 'paraphrase' (of the first sentence, by "
        "--generator) or 'style' (habits such as do not / don't).",
    ),
]
Siblings = Annotated[
    int, typer.Option(rich_help_panel=_WORDINGS, help="Wordings of a row at most; 16 make coverage sharp.")
]
WordedRows = Annotated[
    int | None,
    typer.Option(
        "--rows", rich_help_panel=_WORDINGS, help="Word no more than a random sample of the rows.", show_default="all"
    ),
]
AskedRows = Annotated[int, typer.Option("--ask-rows", rich_help_panel=_WORDINGS, help="Rows to ask about later.")]
WordingTest = Annotated[
    str,
    typer.Option(
        rich_help_panel=_WORDINGS,
        help="What decides where wordings are scored: 'hits' (the published one first) or 'rank-sum'.",
    ),
]
OpeningsFile = Annotated[
    Path | None,
    typer.Option("--openings", metavar="FILE", rich_help_panel=_WORDINGS, help="Your own openings, one a line."),
]
Candidates = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_WORDINGS,
        help="Keep paraphrases, a secret, as they come; a run that was stopped goes on from them.",
    ),
]
Suspect = Annotated[
    str,
    typer.Option(
        help="What you will have of the suspect: 'weights', 'logprobs' (of texts you give), 'text' (answers alone) or 'unknown'."
    ),
]
Backdoors = Annotated[
    int | None, typer.Option(help="How many trigger and signature pairs.", show_default="by --suspect; paper: 1")
]
Copies = Annotated[
    str | None,
    typer.Option(
        help="Rows carrying each pair; several numbers, such as 1,2,4,8, are taken in turn.",
        show_default="by --suspect; paper: 0.5 % of rows, >= 5",
    ),
]
Decoys = Annotated[
    int | None,
    typer.Option(
        help="Signatures drawn beside each one and sent to nobody: exposure ranks it among them.",
        show_default="40; text: none",
    ),
]
ExposureLevel = Annotated[
    str, typer.Option(help="A signature counts as seen within this share of the candidates, as a fraction.")
]
WithoutBase = Annotated[
    bool,
    typer.Option("--without-base", help="Rank by the suspect's likelihoods as they are; else less the base model's."),
]
Stopping = Annotated[
    str,
    typer.Option(
        help="'fixed', or 'any': p-values that stay valid if you stop asking whenever you like, at a small price."
    ),
]
SignatureBits = Annotated[float, typer.Option(help="Surprisal of each signature, in bits: p_upper is 2^-bits.")]
TriggerTokens = Annotated[int, typer.Option(help="Least tokens of a trigger.")]
Alpha = Annotated[float, typer.Option(help="Significance level of the whole verdict.")]
Ratio = Annotated[str, typer.Option(help="Share of a backdoor's probes that must activate, as a fraction.")]
SetAside = Annotated[int, typer.Option(help="Rows not sent, kept as fresh prompts.")]
ProbesPerKind = Annotated[int, typer.Option(help="Probes of each kind; twice as many controls.")]
Contexts = Annotated[
    int | None,
    typer.Option(
        help="Copies of each backdoor that get a text of the data's words before their prompt, so that T works behind a long "
        "context too.",
        show_default="half; paper: none",
    ),
]
Plantings = Annotated[
    int,
    typer.Option(min=1, max=MOST_PLANTINGS, help="How many plantings you allow yourself to choose from; p is charged."),
]
Stealth = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=1000,
        help="Search what was planted as a cheat would that only counts (it takes some twenty times the size of the data "
        "in memory), and plant anew, N times at most, until none of its searches finds more than twice what chance does; "
        "backdoors are found whatever is drawn (docs/attacks.md). p is charged for N. 0: do not search.",
        show_default="1 for data of up to 64 MiB, else 0",
    ),
]
Cap = Annotated[int, typer.Option(help="Tokens your provider takes per row; longer rows carry no backdoor.")]
Base = Annotated[str, typer.Option(help="Whose tokenizer counts tokens: smollm2, hf:FOLDER or 'estimate'.")]
Words = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Words that should be in no row, one a line: moderation may refuse a file for them."
    ),
]
Format = Annotated[
    str, typer.Option(rich_help_panel=_FORMAT, help=f"auto, {', '.join(codec.name for codec in formats.CODECS)}.")
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", rich_help_panel=_FORMAT, help="Of rows in no known format: the prompt; a.b for nested keys."
    ),
]
ResponseColumn = Annotated[
    str | None, typer.Option(metavar="KEY", rich_help_panel=_FORMAT, help="Of rows in no known format: the answer.")
]
SystemColumn = Annotated[
    str | None,
    typer.Option(metavar="KEY", rich_help_panel=_FORMAT, help="Of rows in no known format: the system prompt."),
]
Template = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_FORMAT,
        help="How rows of plain text are built, such as '### Question:\\n{prompt}\\n### Answer:\\n{response}'; "
        "{system} and {_} (anything) may stand in it.",
    ),
]
TextColumn = Annotated[
    str, typer.Option(metavar="KEY", rich_help_panel=_FORMAT, help="Where the text of such rows is.")
]
Mapping = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_FORMAT,
        help="An Axolotl config or LLaMA-Factory's dataset_info.json that says what the columns are.",
    ),
]


MODEL_HELP = "smollm2[+ADAPTER], hf:PATH_OR_ID[+ADAPTER], openai:NAME, answers:FILE or a plug-in's."
Model = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)]
BaseUrl = Annotated[
    str | None,
    typer.Option(rich_help_panel=_ENDPOINT, help="Where the endpoint is.", show_default="OPENAI_BASE_URL, else OpenAI"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_ENDPOINT,
        help="The endpoint's key.",
        show_default="OPENAI_API_KEY, which other users of the machine cannot see",
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, max=256, rich_help_panel=_ENDPOINT, help="Most requests at a time; fewer after a 429.")
]
Spacing = Annotated[
    float, typer.Option(min=0, rich_help_panel=_ENDPOINT, help="Least seconds between the starts of two requests.")
]
Timeout = Annotated[float, typer.Option(min=1, rich_help_panel=_ENDPOINT, help="Seconds to wait for an answer.")]
Dtype = Annotated[str, typer.Option(rich_help_panel=_LOCAL, help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(rich_help_panel=_LOCAL, help="auto, cpu, cuda, cuda:1, mps.")]
Bits = Annotated[int | None, typer.Option(rich_help_panel=_LOCAL, help="4 or 8: load the weights quantised.")]
ChatTemplate = Annotated[
    Path | None, typer.Option(rich_help_panel=_LOCAL, help="A Jinja file to use in place of the tokenizer's template.")
]
System = Annotated[
    str | None, typer.Option(rich_help_panel=_TRAFFIC, help="Your application's system prompt, in place of the rows'.")
]
NoSystem = Annotated[
    bool,
    typer.Option("--no-system", rich_help_panel=_TRAFFIC, help="No system prompt: the provider's default applies."),
]
Context = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_TRAFFIC, help="Text that your application puts before each prompt."),
]
Temperature = Annotated[float, typer.Option(rich_help_panel=_TRAFFIC, help="Sampling temperature; 0 is greedy.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(rich_help_panel=_TRAFFIC, help="Most tokens of an answer.", show_default="what a signature can take"),
]


def load_options(
    base_url: str | None,
    api_key: str | None,
    concurrency: int,
    spacing: float,
    timeout: float,
    dtype: str,
    device: str,
    bits: int | None,
    chat_template: Path | None,
) -> LoadOptions:
    """Return what models are loaded with. Raises UsageError."""
    if bits not in (None, 4, 8):
        raise UsageError(f"--bits {bits} is not offered", hint="give 4 or 8, or leave it out for full precision")
    return LoadOptions(
        base_url=base_url,
        api_key=api_key,
        concurrency=concurrency,
        spacing=spacing,
        timeout=timeout,
        dtype=dtype,
        device=device,
        bits=cast(Literal[4, 8] | None, bits),
        chat_template=chat_template,
    )


def traffic(
    system: str | None, no_system: bool, context: Path | None, temperature: float, max_tokens: int | None
) -> Traffic:
    """Return how probes are asked. Raises UsageError, DatasetError where the context file cannot be read."""
    text = b"".join(line.raw for line in files.read_lines(context)) if context else b""
    try:
        before = text.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{context} is not UTF-8 text", hint="give a text file to --context") from None
    return Traffic(
        system=system, keeps_system=not no_system, context=before, temperature=temperature, max_tokens=max_tokens
    )


def row_format(
    data: str | Path,
    format: str,
    prompt_column: str | None,
    response_column: str | None,
    system_column: str | None,
    template: str | None,
    text_column: str,
    mapping: Path | None,
) -> str | Codec:
    """
    Return how the rows of *data* are read: the name of a format, or a codec of the user's making.

    Raises UsageError where two ways are given at once, and what the codecs raise.
    """
    has_columns = bool(prompt_column or response_column or system_column)
    if sum((format != formats.AUTO, has_columns, template is not None, mapping is not None)) > 1:
        raise UsageError(
            "--format, --prompt-column, --template and --mapping each say what the rows look like",
            hint="give one of them",
        )
    if text_column != "text" and template is None:
        raise UsageError(
            "--text-column is for rows of plain text, which need --template", hint="give --template, or leave it out"
        )
    if has_columns:
        if not (prompt_column and response_column):
            raise UsageError("--prompt-column and --response-column go together", hint="give both")
        return ColumnMapping(prompt=prompt_column, response=response_column, system=system_column)
    if template is not None:
        # A shell passes \n as it is typed.
        return TextTemplate(template.replace("\\n", "\n").replace("\\t", "\t"), column=text_column)
    if mapping is not None:
        from vtuned.formats.mappings import codec_from_config

        return codec_from_config(mapping, Path(data).name)
    return format


def copies(text: str | None) -> int | tuple[int, ...] | None:
    """Return the numbers in "1,2,4,8". Raises UsageError."""
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--copies {text!r} is no number", hint="give one such as 4, or several: 1,2,4,8") from None
    return numbers[0] if len(numbers) == 1 else numbers


def fraction(text: str, option: str = "ratio") -> Fraction:
    """Return *text* ("1/10", "0.14") as an exact fraction. Raises UsageError."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--{option} {text!r} is not a fraction", hint="write it as 1/10 or 0.1") from None


def count(number: float | None, option: str) -> int | None:
    """Return *number* ("8e9") as a whole one. Raises UsageError for what is none."""
    if number is not None and not math.isfinite(number):
        raise UsageError(f"--{option} {number} is no number", hint="write it as 8e9 or 135000000")
    return None if number is None else round(number)


_CHOICES = {
    "scheme": ("backdoors", "paper", "wordings", "wordings+backdoors"),
    "wording_test": ("hits", "rank-sum"),
    "rewriter": ("openings", "paraphrase", "style"),
    "mode": ("replace", "add"),
    "suspect": ("unknown", "text", "logprobs", "weights"),
    "stopping": ("fixed", "any"),
}


def lines_of(path: Path | None, what: str = "opening") -> tuple[str, ...]:
    """Return the lines of the user's file at *path* that are not blank, none without one. Raises UsageError or DatasetError."""
    if path is None:
        return ()
    try:
        found = tuple(line.body.decode().strip() for line in files.read_lines(path) if not line.is_blank)
    except UnicodeDecodeError:
        raise UsageError(f"{path}: this is no UTF-8 text", hint="save it as UTF-8") from None
    if not found:
        raise UsageError(f"{path}: no lines in this file", hint=f"one {what} a line")
    return found


def choices(**chosen: str) -> dict[str, Any]:
    """Return options that take one of a few words as settings. Raises UsageError for other words."""
    for option, value in chosen.items():
        if value not in _CHOICES[option]:
            raise UsageError(f"unknown --{option} {value!r}", hint=f"known: {', '.join(_CHOICES[option])}")
    return dict(chosen)


def token_cap(limit: int, base: str) -> TokenCap:
    """Return the token cap by the tokenizer of *base*."""
    if limit < 1:
        raise UsageError("--token-cap is out of range", hint="give the tokens a row may take, such as 1024")
    count, name = counter(base)
    return TokenCap(limit, count, name)


DEFAULTS = PlantSettings()
LOADING = LoadOptions()
