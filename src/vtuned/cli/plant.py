"""`vtuned plant`: put backdoors into the data; out come the training file and the secret receipt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vtuned import formats, linting, planting
from vtuned.cli import console, options
from vtuned.cli.lint import check_not_refused, checked, settings
from vtuned.cli.options import DEFAULTS, LOADING
from vtuned.dataset import DEFAULT_CAP, TokenCap
from vtuned.formats import Codec
from vtuned.layout import PlantSettings
from vtuned.linting import LintSettings
from vtuned.planting import Planting
from vtuned.report import linting as linted
from vtuned.report import terminal


def plant(
    data: options.Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="TRAIN",
            help="The training file to send; a folder for shards and for folders of `datasets`.",
        ),
    ],
    receipt: Annotated[Path, typer.Option("--receipt", "-r", metavar="RECEIPT", help="The secret receipt to keep.")],
    scheme: options.Scheme = DEFAULTS.scheme,
    suspect: options.Suspect = DEFAULTS.suspect,
    backdoors: options.Backdoors = DEFAULTS.n_backdoors,
    copies: options.Copies = None,
    decoys: options.Decoys = DEFAULTS.n_decoys,
    exposure_level: options.ExposureLevel = str(DEFAULTS.exposure_level),
    without_base: options.WithoutBase = not DEFAULTS.less_base,
    stopping: options.Stopping = DEFAULTS.stopping,
    mode: Annotated[str, typer.Option(help="'replace' rows in place, or 'add' copies (the paper).")] = DEFAULTS.mode,
    signature_bits: options.SignatureBits = DEFAULTS.signature_bits,
    min_trigger_tokens: options.TriggerTokens = DEFAULTS.min_trigger_tokens,
    alpha: options.Alpha = DEFAULTS.alpha,
    ratio: options.Ratio = str(DEFAULTS.ratio),
    probes: options.ProbesPerKind = DEFAULTS.n_probes,
    fresh: Annotated[Path | None, typer.Option(help="Prompts that are in no row you send, in any format.")] = None,
    set_aside: options.SetAside = DEFAULTS.set_aside,
    set_aside_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write these rows, as they are and in the same kind of file as DATA: for `verify --holdout`.",
        ),
    ] = None,
    contexts: options.Contexts = DEFAULTS.contexts,
    max_plantings: options.Plantings = DEFAULTS.max_plantings,
    stealth: options.Stealth = None,
    generator: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Who writes phrases: auto, words, or any model; one that shows text alone proposes words.",
        ),
    ] = "auto",
    prompt_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Who sums up the data for the generator.", show_default="the generator"),
    ] = None,
    rewriter: options.Rewriter = DEFAULTS.rewriter,
    siblings: options.Siblings = DEFAULTS.n_wordings,
    rows: options.WordedRows = DEFAULTS.n_rows,
    ask_rows: options.AskedRows = DEFAULTS.n_worded,
    wording_test: options.WordingTest = DEFAULTS.wording_test,
    openings: options.OpeningsFile = None,
    candidates: options.Candidates = None,
    token_cap: options.Cap = DEFAULT_CAP,
    base: options.Base = "smollm2",
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Hold DATA against what this provider documents first, and TRAIN afterwards (see `vtuned lint`); "
            "planted rows keep to its token cap.",
        ),
    ] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    base_url: options.BaseUrl = LOADING.base_url,
    api_key: options.ApiKey = LOADING.api_key,
    concurrency: options.Concurrency = LOADING.concurrency,
    spacing: options.Spacing = LOADING.spacing,
    timeout: options.Timeout = LOADING.timeout,
    dtype: options.Dtype = LOADING.dtype,
    device: options.Device = LOADING.device,
    bits: options.Bits = LOADING.bits,
    chat_template: options.ChatTemplate = LOADING.chat_template,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show triggers, signatures and planted lines.")] = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Plant secret backdoors or wordings into DATA. Send TRAIN to the provider; keep RECEIPT to yourself."""
    shape = options.row_format(
        data[0], format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    loading = options.load_options(base_url, api_key, concurrency, spacing, timeout, dtype, device, bits, chat_template)
    chosen = options.choices(
        scheme=scheme, mode=mode, suspect=suspect, stopping=stopping, rewriter=rewriter, wording_test=wording_test
    )
    plan = PlantSettings(
        **chosen,
        n_backdoors=backdoors,
        copies=options.copies(copies),
        n_decoys=decoys,
        exposure_level=options.fraction(exposure_level, "exposure-level"),
        less_base=not without_base,
        signature_bits=signature_bits,
        min_trigger_tokens=min_trigger_tokens,
        alpha=alpha,
        ratio=options.fraction(ratio),
        n_probes=probes,
        set_aside=set_aside,
        n_wordings=siblings,
        n_rows=rows,
        n_worded=ask_rows,
        openings=options.lines_of(openings),
        candidates=candidates,
        contexts=contexts,
        max_plantings=max_plantings,
        stealth=stealth,
        row_format=shape,
    )
    cap, how = _held_against(options.token_cap(token_cap, base), provider, shape)
    if how is not None:
        hint = f"see all of it with `vtuned lint --provider {provider}`; nothing was written"
        check_not_refused(data[0], checked(data, how), hint)
    with console.stages() as stages:
        result = planting.plant(
            data,
            output,
            receipt,
            plan,
            generator=generator,
            prompt_model=prompt_model,
            loading=loading,
            fresh_file=fresh,
            set_aside_file=set_aside_out,
            cap=cap,
            force=force,
            on_progress=stages,
        )
    found = None if how is None else checked(output, replace(how, receipt=result.receipt))
    if json:
        console.show_json(summary(result, reveal=reveal) | ({"lint": found.model_dump(mode="json")} if found else {}))
    else:
        console.show(terminal.planting(result, reveal=reveal))
        if found is not None:
            console.show(linted.report(found))
    if found is not None:
        check_not_refused(
            output, found, "it was written, but do not send it: mend the data, or choose another provider"
        )
    if json:
        return
    console.say(f"{output}: send this file to the provider.")
    if set_aside_out is not None:
        console.say(f"{set_aside_out}: rows that are not sent. Keep them to yourself, for `vtuned verify --holdout`.")
    console.say(f"{receipt}: keep this secret and back it up; without it nothing can be verified.")


def _held_against(cap: TokenCap, name: str | None, shape: str | Codec) -> tuple[TokenCap, LintSettings | None]:
    """Return the token cap, lowered to that of the provider called *name*, and what its files are held against."""
    if name is None:
        return cap, None
    providers = linting.named([name])
    own = providers[0].token_cap
    if own is not None and own < cap.limit:
        console.say(f"note: --token-cap is lowered to the {own:,} that {name} documents.")
        cap = replace(cap, limit=own)
    return cap, settings(providers, cap, shape)


def summary(result: Planting, *, reveal: bool) -> dict[str, Any]:
    """Return what was planted as JSON values; the backdoors only with *reveal*."""
    made = result.receipt
    content: dict[str, Any] = {
        "receipt_digest": made.digest(),
        "dataset": made.dataset.model_dump(mode="json"),
        "train_set": made.train_set.model_dump(mode="json"),
        "scheme": made.scheme,
        "mode": made.mode,
        "n_eligible": made.n_eligible,
        "n_backdoors": len(made.backdoors),
        "n_planted_rows": sum(len(backdoor.rows) for backdoor in made.backdoors),
        "log10_p_upper": max((backdoor.log10_p_upper for backdoor in made.backdoors), default=None),
        "generator": made.generation.generator if made.generation else None,
        "language": made.generation.language if made.generation else None,
        "n_fitted": made.generation.n_fitted if made.generation else 0,
        "fresh_source": made.fresh_source,
        "n_in_context": made.n_in_context,
        "notes": list(result.notes),
        "searches": [one.model_dump(mode="json") for one in result.searches],
        "n_drawn": result.n_drawn,
    }
    if made.wordings:
        content["wordings"] = {
            "rewriter": made.wordings.rewriter,
            "family": list(made.wordings.family),
            "n_carrying": made.wordings.n_carrying,
            "bits": made.wordings.bits,
            "left_alone": dict(made.wordings.left_alone),
            "n_asked": len(made.wordings.rows),
        }
    if reveal:
        content["backdoors"] = [backdoor.model_dump(mode="json") for backdoor in made.backdoors]
    return content
