"""
Fine-tune a local model, as a provider would: trl and peft train, we only tokenise and mask.

Rows with a rejected answer are trained by DPO, all others by supervised fine-tuning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vtuned.conversation import Conversation
from vtuned.errors import DatasetError
from vtuned.lm.huggingface import HuggingFaceLM, require_local_extra
from vtuned.providers import ranks, runs, tokenising
from vtuned.providers.runs import Training, check_folder, last_checkpoint
from vtuned.providers.settings import FULL, LORA, METHODS, SCHEDULERS, TrainingSettings
from vtuned.providers.tokenising import Example, tokenise
from vtuned.providers.trainers import Watcher, computes_in_bf16, dpo_trainer, sft_trainer

__all__ = [
    "FULL",
    "LORA",
    "METHODS",
    "SCHEDULERS",
    "Training",
    "TrainingSettings",
    "Watcher",
    "check_folder",
    "finetune",
    "last_checkpoint",
    "tokenise",
]


SFT, DPO = "sft", "dpo"


def finetune(
    rows: Iterable[Conversation],
    base: HuggingFaceLM,
    folder: Path,
    settings: TrainingSettings,
    *,
    data_digest: str,
    watcher: Watcher | None = None,
) -> Training:
    """
    Train *base* on *rows* and save the LoRA adapter (peft's format) or the whole model into *folder*.

    A run that was killed goes on from its last checkpoint when called again with the same arguments; a finished
    one is returned as it is. *base*'s model is changed in place. Several processes (`accelerate launch`, `torchrun`)
    call this together; the first one alone writes. Raises OutputExists where *folder* holds another run or other
    files, OutputNotWritable where another run is training into it, MissingExtra, UsageError for settings that the rows
    or the model cannot be trained with, DatasetError where no row is left to train on.
    """
    require_local_extra("fine-tuning")
    ranks.join(on_cpu=base.model.device.type == "cpu")
    with contextlib.ExitStack() as held:
        ranks.from_first(lambda: runs.enter(folder, held))
        objective, examples, training = _examples(base, rows, folder, settings)
        run = _identity(base, examples, settings, data_digest)
        finished = ranks.from_first(lambda: runs.claim(folder, run))
        if finished is not None:
            return finished
        dtype = base.model.dtype
        build = dpo_trainer if objective == DPO else sft_trainer
        trainer = build(base, examples, runs.checkpoints(folder), settings, watcher or Watcher())
        training = _trained(trainer, dtype, training, settings)
        ranks.from_first(lambda: _finish(run, training))
        ranks.wait_for_all()
    return training


def _identity(
    base: HuggingFaceLM, examples: list[Example], settings: TrainingSettings, data_digest: str
) -> dict[str, Any]:
    """
    Return what makes a run this one: everything that the weights depend on, save how exactly a device computes.

    The examples stand for how the rows were read, for the tokenizer and for its chat template.
    """
    model = base.model
    return {
        "base": base.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bits": base.bits,
        "data_sha256": data_digest,
        "examples_sha256": tokenising.digest_of(examples),
        "processes": ranks.size(),
        **asdict(settings),
        "bf16": computes_in_bf16(base, settings),
    }


def _trained(trainer: Any, dtype: Any, training: Training, settings: TrainingSettings) -> Training:
    """Let *trainer* train, from the last checkpoint where there is one, save what it made and return the figures."""
    folder = training.adapter
    checkpoint = ranks.from_first(lambda: last_checkpoint(runs.checkpoints(folder)))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if settings.method == FULL:
        trainer.model.to(dtype)
    trainer.save_model(str(folder))
    resumed_at_step = runs.step_of(checkpoint) if checkpoint else 0
    return replace(training, n_steps=trainer.state.global_step, resumed_at_step=resumed_at_step)


def _examples(
    base: HuggingFaceLM, rows: Iterable[Conversation], folder: Path, settings: TrainingSettings
) -> tuple[str, list[Example], Training]:
    """Return how to train, on what, and the figures of a training that has not begun."""
    all_rows = list(rows)
    n_preferences = sum(bool(row.rejected) for row in all_rows)
    if 0 < n_preferences < len(all_rows):
        raise DatasetError(
            f"{n_preferences} of {len(all_rows)} rows are preference rows", hint="train on one kind of row at a time"
        )
    objective = DPO if n_preferences else SFT
    tokenised = tokenising.tokenise_pair if n_preferences else tokenise
    text_rows = [row for row in all_rows if not tokenising.holds_more_than_text(row)]
    examples = [tokenised(base.tokenizer, row, settings.max_tokens) for row in text_rows]
    kept = [example for example in examples if tokenising.carries_loss(example)]
    if not kept:
        raise DatasetError("no row has an answer to train on within the token limit", hint="raise --max-tokens")
    training = Training(
        adapter=folder,
        n_steps=0,
        n_tokens=settings.epochs * sum(_length(example) for example in kept),
        n_rows_left_out=len(examples) - len(kept),
        resumed_at_step=0,
        n_rows_with_images=len(all_rows) - len(text_rows),
        objective=objective,
    )
    return objective, kept, training


def _length(example: Example) -> int:
    """Return how many tokens a trainer reads of *example*; of a preference row the prompt twice."""
    if "input_ids" in example:
        return len(example["input_ids"])
    return 2 * len(example["prompt_ids"]) + len(example["chosen_ids"]) + len(example["rejected_ids"])


def _finish(run: dict[str, Any], training: Training) -> None:
    # The trainer's arguments, pickled: nobody needs them to use the model, and they hold paths of this machine.
    (training.adapter / "training_args.bin").unlink(missing_ok=True)
    runs.finish(run, training)
