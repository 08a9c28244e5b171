"""`vtuned finetune`: train a local model with LoRA, as a provider would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from vtuned import files, formats, lm, verification
from vtuned import receipt as receipts
from vtuned.cli import console, options
from vtuned.errors import UsageError, WrongDataset
from vtuned.receipt import Receipt


def finetune(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The rows to train on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the adapter goes.")],
    base: Annotated[
        str, typer.Option(metavar="MODEL", help="The model to train: smollm2 or hf:PATH_OR_ID.")
    ] = "smollm2",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 2,
    learning_rate: Annotated[float, typer.Option("--lr", min=0, help="Learning rate.")] = 1e-3,
    rank: Annotated[int, typer.Option(min=1, help="LoRA's r.")] = 32,
    lora_alpha: Annotated[int, typer.Option(min=1, help="LoRA's alpha.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Rows are cut there.")] = 1024,
    seed: Annotated[int, typer.Option(help="Fixes the order of the rows, so that a killed run can go on.")] = 0,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", "-r", help="Show how many probes activate after each epoch.")
    ] = None,
    n: options.Probes = None,
    format: options.Format = formats.AUTO,
    json: options.Json = False,
) -> None:
    """
    Train a LoRA adapter on TRAIN, loss on the trained answers only, and save it in peft's format.

    The same command goes on with a run that was killed. With --receipt: activation per epoch (the paper, Appendix C).
    """
    from vtuned.lm.huggingface import HuggingFaceLM
    from vtuned.providers import local

    if not 0 < learning_rate < math.inf or seed < 0:
        raise UsageError("--lr and --seed are out of range", hint="give a learning rate such as 0.001 and a seed >= 0")
    local.check_folder(output)
    digest = files.sha256_of(train)
    made = _matching_receipt(receipt, train, digest)
    epochs_seen: list[dict[str, Any]] = []
    with console.stages() as stages:
        rows = [row.conversation for row in formats.read_rows(train, format)]
        stages(f"loading {base}", 0, 0)
        model = lm.load(base)
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
            local.LoraSettings(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                rank=rank,
                alpha=lora_alpha,
                max_tokens=max_tokens,
                seed=seed,
            ),
            data_digest=digest,
            watcher=local.Watcher(on_step=lambda done, total: stages("training", done, total), on_epoch=on_epoch),
        )
    if json:
        facts = {"adapter": str(output), "n_steps": training.n_steps, "n_tokens": training.n_tokens}
        facts |= {"n_rows_left_out": training.n_rows_left_out, "resumed_at_step": training.resumed_at_step}
        console.show_json({**facts, "epochs": epochs_seen})
        return
    if training.n_rows_left_out:
        console.say(f"note: {training.n_rows_left_out} rows have no trained answer within {max_tokens} tokens")
    console.say(f"{output}: adapter after {training.n_steps} steps, {training.n_tokens:,} tokens.")
    console.say(f"ask it as {base}+{output}")


def _matching_receipt(receipt: Path | None, train: Path, digest: str) -> Receipt | None:
    if receipt is None:
        return None
    made = receipts.read_receipt(receipt)
    if made.train_set.sha256 != digest:
        raise WrongDataset(train, made.train_set.sha256, digest)
    return made
