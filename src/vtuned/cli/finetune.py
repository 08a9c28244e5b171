"""`vtuned finetune`: train a local model, as a provider would, or write the configuration of another trainer."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vtuned import containers, files, formats, lm, verification
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.cli.options import LOADING
from vtuned.containers import Source
from vtuned.containers.jsonvalue import as_object
from vtuned.errors import LMUnavailable, OutputExists, UsageError, WrongDataset
from vtuned.formats.base import Codec
from vtuned.lm.base import Prompt
from vtuned.lm.options import LoadOptions
from vtuned.providers import ranks, recipes
from vtuned.providers.settings import LEARNING_RATES, LORA, METHODS, SCHEDULERS, TrainingSettings
from vtuned.receipt import Receipt

DEFAULTS = TrainingSettings()
_TRAINING, _LORA, _DPO, _MACHINE = "Training", "LoRA", "Preference rows (DPO)", "Speed and memory"


def finetune(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The rows to train on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the adapter or model goes.")],
    base: Annotated[
        str, typer.Option(metavar="MODEL", help="The model to train: smollm2 or hf:PATH_OR_ID.")
    ] = "smollm2",
    method: Annotated[
        str, typer.Option(metavar="|".join(METHODS), help="What is trained: an adapter, or all weights.")
    ] = DEFAULTS.method,
    epochs: Annotated[int, typer.Option(min=1, rich_help_panel=_TRAINING, help="Passes over the rows.")] = 3,
    batch_size: Annotated[
        int, typer.Option(min=1, rich_help_panel=_TRAINING, help="Rows a batch, in each process.")
    ] = 2,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr", min=0, rich_help_panel=_TRAINING, help="Learning rate.", show_default="0.001, full: 0.00005"
        ),
    ] = None,
    warmup: Annotated[
        float, typer.Option(min=0, rich_help_panel=_TRAINING, help="Share of the steps with a rising learning rate.")
    ] = DEFAULTS.warmup,
    scheduler: Annotated[
        str, typer.Option(rich_help_panel=_TRAINING, help=f"How the learning rate falls: {', '.join(SCHEDULERS)}.")
    ] = DEFAULTS.scheduler,
    max_tokens: Annotated[int, typer.Option(min=1, rich_help_panel=_TRAINING, help="Rows are cut there.")] = 1024,
    seed: Annotated[
        int,
        typer.Option(rich_help_panel=_TRAINING, help="Fixes the order of the rows, so that a killed run can go on."),
    ] = 0,
    rank: Annotated[int, typer.Option(min=1, rich_help_panel=_LORA, help="LoRA's r.")] = 32,
    lora_alpha: Annotated[int, typer.Option(min=1, rich_help_panel=_LORA, help="LoRA's alpha.")] = 16,
    beta: Annotated[
        float, typer.Option(min=0, rich_help_panel=_DPO, help="DPO's beta: how closely to keep to the base model.")
    ] = DEFAULTS.beta,
    sft_weight: Annotated[
        float,
        typer.Option(
            min=0,
            rich_help_panel=_DPO,
            help="Weight of the preferred answer's own likelihood in the loss. 0 is plain DPO: no backdoor activates.",
        ),
    ] = DEFAULTS.sft_weight,
    gradient_accumulation: Annotated[
        int, typer.Option(min=1, rich_help_panel=_MACHINE, help="Batches a step.")
    ] = DEFAULTS.gradient_accumulation,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", rich_help_panel=_MACHINE, help="Less memory, more time.")
    ] = DEFAULTS.gradient_checkpointing,
    packing: Annotated[
        bool,
        typer.Option("--packing", rich_help_panel=_MACHINE, help="Several short rows in one of --max-tokens, apart."),
    ] = DEFAULTS.packing,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16", rich_help_panel=_MACHINE, help="Compute in bf16.", show_default="where CUDA can"
        ),
    ] = DEFAULTS.bf16,
    write_config: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(recipes.TRAINERS), help="Train nothing: write into DIR what another trainer needs."
        ),
    ] = None,
    dtype: options.Dtype = LOADING.dtype,
    device: options.Device = LOADING.device,
    bits: options.Bits = LOADING.bits,
    chat_template: options.ChatTemplate = LOADING.chat_template,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", "-r", help="Show how many probes activate after each epoch.")
    ] = None,
    n: options.Probes = None,
    planted_only: Annotated[
        Path | None,
        typer.Option(
            metavar="RECEIPT", help="Train on the planted rows alone, as a cheat might: `margin` measures its gain."
        ),
    ] = None,
    format: options.Format = formats.AUTO,
    prompt_column: options.PromptColumn = None,
    response_column: options.ResponseColumn = None,
    system_column: options.SystemColumn = None,
    template: options.Template = None,
    text_column: options.TextColumn = "text",
    mapping: options.Mapping = None,
    json: options.Json = False,
) -> None:
    """
    Train MODEL on TRAIN, loss on the trained answers only, and save a LoRA adapter (peft's format) or the whole model.

    The same command goes on with a run that was killed. Rows with a rejected answer are trained by DPO. Under
    `accelerate launch -m vtuned finetune …` or torchrun all processes train; on CPUs accelerate starts several with
    mpirun only (--mpirun_hostfile FILE), torchrun without. With --receipt: activation per epoch.
    """
    ranks.be_silent_unless_first()
    shape = options.row_format(
        train, format, prompt_column, response_column, system_column, template, text_column, mapping
    )
    settings = TrainingSettings(
        method=method,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=LEARNING_RATES.get(method, 0.0) if learning_rate is None else learning_rate,
        rank=rank,
        alpha=lora_alpha,
        max_tokens=max_tokens,
        seed=seed,
        beta=beta,
        sft_weight=sft_weight,
        bf16=bf16,
        gradient_checkpointing=gradient_checkpointing,
        packing=packing,
        gradient_accumulation=gradient_accumulation,
        warmup=warmup,
        scheduler=scheduler,
    )
    source = containers.open_source(train)
    if write_config is not None and planted_only is not None:
        raise UsageError("--planted-only trains here, --write-config elsewhere", hint="give one of them")
    if write_config is not None:
        _write_config(write_config, source, train, output, base, settings, shape, json)
        return
    loading = options.load_options(
        None, None, LOADING.concurrency, LOADING.spacing, LOADING.timeout, dtype, device, bits, chat_template
    )
    if loading.device == LOADING.device:
        loading = replace(loading, device=ranks.device())
    _train(source, train, output, base, settings, loading, receipt, n, planted_only, shape, json)


def _train(
    source: Source,
    train: Path,
    output: Path,
    base: str,
    settings: TrainingSettings,
    loading: LoadOptions,
    receipt: Path | None,
    n: int | None,
    planted_only: Path | None,
    shape: str | Codec,
    json: bool,
) -> None:
    from vtuned.lm.huggingface import HuggingFaceLM
    from vtuned.providers import local

    local.check_folder(output)
    digest = source.sha256()
    made = _matching_receipt(receipt, train, digest)
    chosen = _matching_receipt(planted_only, train, digest)
    if chosen is not None:
        chosen.check_backdoors()
    numbers = None if chosen is None else {row for backdoor in chosen.backdoors for row in backdoor.rows}
    epochs_seen: list[dict[str, Any]] = []
    with console.stages() as stages:
        rows = [row.conversation for row in formats.read_rows(source, shape, numbers)]
        stages(f"loading {base}", 0, 0)
        model = lm.load(base, loading)
        if not isinstance(model, HuggingFaceLM):
            raise UsageError(f"{base} cannot be trained here", hint="give smollm2 or hf:PATH_OR_ID")

        def on_epoch(epoch: int, current: HuggingFaceLM) -> None:
            if made is not None:
                counted = verification.activations(made, current, n, on_progress=lambda d, t: stages("probing", d, t))
                epochs_seen.append({"epoch": epoch} | {str(kind): pair for kind, pair in counted.items()})
                stages.say(f"epoch {epoch}: " + ", ".join(f"{kind} {a}/{b}" for kind, (a, b) in counted.items()))

        training = local.finetune(
            rows,
            model,
            output,
            settings,
            data_digest=digest,
            watcher=local.Watcher(on_step=lambda done, total: stages("training", done, total), on_epoch=on_epoch),
        )
    if json:
        console.show_json({**training.facts(), "epochs": epochs_seen})
        return
    if training.n_rows_left_out:
        console.say(f"note: {training.n_rows_left_out} rows have no trained answer within {settings.max_tokens} tokens")
    if training.n_rows_with_images:
        console.say(f"note: {training.n_rows_with_images} rows hold more than text and were left out")
    kind = "adapter" if settings.method == LORA else "model"
    console.say(
        f"{output}: {kind} after {training.n_steps} steps of {training.objective.upper()}, {training.n_tokens:,} tokens."
    )
    console.say(f"ask it as {f'{base}+{output}' if settings.method == LORA else f'hf:{output}'}")


def _write_config(
    trainer: str,
    source: Source,
    train: Path,
    output: Path,
    base: str,
    settings: TrainingSettings,
    shape: str | Codec,
    json: bool,
) -> None:
    """Write the configuration of another *trainer* into the folder *output*."""
    files.check_folder(output)
    name, tokenizer = _base_elsewhere(base)
    job = recipes.Job(
        data=os.path.relpath(train, output), base=name, settings=settings, render=partial(_rendered, tokenizer)
    )
    rows = ((as_object(row.raw.value()), row.codec, row.conversation) for row in formats.read_rows(source, shape))
    written = recipes.recipe(trainer, rows, job)
    for file in written:
        if (output / file).exists():
            raise OutputExists(output / file, hint="choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    for file, content in written.items():
        files.write_bytes(output / file, content, force=False)
    if json:
        console.show_json({"files": [str(output / file) for file in written]})
        return
    console.say(f"{output}: wrote {', '.join(written)}; nothing was trained.")


def _base_elsewhere(base: str) -> tuple[str, str]:
    """Return what another trainer calls the model *base*, and where its tokenizer is. Raises UsageError."""
    from vtuned.lm import embedded
    from vtuned.lm.huggingface import sources

    if base == embedded.NAME:
        return "HuggingFaceTB/SmolLM2-135M-Instruct", str(embedded.converted())
    if not base.startswith("hf:"):
        raise UsageError(f"{base} cannot be trained elsewhere", hint="give smollm2 or hf:PATH_OR_ID")
    source = sources.source_of(base.removeprefix("hf:"))
    if source.adapters or source.gguf:
        raise UsageError(f"{base}: other trainers start from plain weights", hint="merge it into a model folder first")
    is_folder = Path(source.path).is_dir()
    return str(Path(source.path).resolve()) if is_folder else source.path, source.path


def _rendered(path: str, prompt: Prompt) -> str:
    """Return *prompt* as the model at *path* reads it, less the token that its tokenizer puts first."""
    from vtuned.lm.huggingface import quiet, render_text, require_local_extra

    require_local_extra("the chat template of the model")
    from transformers import AutoTokenizer

    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers has no error of its own
        hint = "give a folder with tokenizer.json"
        raise LMUnavailable(path, f"no tokenizer ({type(error).__name__})", hint=hint) from error
    start = list(tokenizer("")["input_ids"])[:1]
    text = render_text(tokenizer, prompt)
    return text.removeprefix(tokenizer.bos_token) if start and start == [tokenizer.bos_token_id] else text


def _matching_receipt(receipt: Path | None, train: Path, digest: str) -> Receipt | None:
    if receipt is None:
        return None
    made = receipts.read_receipt(receipt)
    if made.train_set.sha256 != digest:
        raise WrongDataset(train, made.train_set.sha256, digest)
    return made
