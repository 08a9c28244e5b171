"""trl's trainers over rows that are tokenised already: supervised fine-tuning and DPO, LoRA or all weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtuned.errors import MissingExtra, UsageError
from vtuned.lm.huggingface import LOCAL_EXTRA, HuggingFaceLM
from vtuned.providers import ranks
from vtuned.providers.settings import LORA, TrainingSettings
from vtuned.providers.tokenising import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """
    What to call during training.

    `on_step(done, total)` after each step, `on_epoch(epoch, model)` after each epoch, and, where it is given,
    `on_figures(step, figures)` with the trainer's `loss` and other figures of each step.
    """

    on_step: Callable[[int, int], None] = lambda done, total: None
    on_epoch: Callable[[int, HuggingFaceLM], None] = lambda epoch, model: None
    on_figures: Callable[[int, Mapping[str, float]], None] | None = None


def sft_trainer(
    base: HuggingFaceLM, examples: Sequence[Example], folder: Path, settings: TrainingSettings, watcher: Watcher
) -> Any:
    """Return a trainer that raises the likelihood of the labelled tokens; checkpoints go into *folder*."""
    try:
        from datasets import Dataset, disable_progress_bars
        from trl import SFTConfig, SFTTrainer, pack_dataset
    except ImportError as error:
        raise MissingExtra("fine-tuning", LOCAL_EXTRA) from error

    class Trainer(SFTTrainer):  # type: ignore[misc]
        _send_telemetry = _send_nothing

    rows = Dataset.from_list(list(examples))
    if settings.packing:
        disable_progress_bars()
        # Best fit decreasing: whole rows only. The collator restarts the positions at each row, from which the
        # attention mask is made.
        rows = pack_dataset(rows, settings.max_tokens, "bfd", {"load_from_cache_file": False})
    config = SFTConfig(
        **_arguments(base, len(rows), folder, settings, watcher),
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=settings.packing,
        max_length=settings.max_tokens if settings.packing else None,
    )
    model, adapter = _prepared(base, settings)
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=base.tokenizer,
        peft_config=adapter,
        callbacks=[_callback(base, watcher)],
    )
    return _quiet(trainer)


def dpo_trainer(
    base: HuggingFaceLM, examples: Sequence[Example], folder: Path, settings: TrainingSettings, watcher: Watcher
) -> Any:
    """
    Return a trainer that prefers the chosen answers to the rejected ones; checkpoints go into *folder*.

    The reference is the base model: the adapter switched off, or for all weights a frozen copy.
    """
    try:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise MissingExtra("fine-tuning", LOCAL_EXTRA) from error

    if settings.packing:
        raise UsageError("preference rows cannot be packed", hint="leave out --packing")

    class Trainer(DPOTrainer):  # type: ignore[misc]
        _send_telemetry = _send_nothing

        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset  # it is tokenised; trl has no option that says so

    is_mixed = settings.sft_weight > 0
    config = DPOConfig(
        **_arguments(base, len(examples), folder, settings, watcher),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if is_mixed else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if is_mixed else None,
        max_length=None,
    )
    model, adapter = _prepared(base, settings)
    trainer = Trainer(
        model=model,
        ref_model=None if adapter else copy.deepcopy(model),
        args=config,
        train_dataset=Dataset.from_list(list(examples)),
        processing_class=base.tokenizer,
        peft_config=adapter,
        callbacks=[_callback(base, watcher)],
    )
    return _quiet(trainer)


def _arguments(
    base: HuggingFaceLM, n_examples: int, folder: Path, settings: TrainingSettings, watcher: Watcher
) -> dict[str, Any]:
    """Return what both trainers are told. trl's own defaults are meant for large GPUs."""
    on_cpu = base.model.device.type == "cpu"
    n_rows_a_step = settings.batch_size * settings.gradient_accumulation * ranks.size()
    n_steps = math.ceil(n_examples / n_rows_a_step) * settings.epochs
    return {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": math.ceil(n_steps * settings.warmup),
        "seed": settings.seed,
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and ranks.size() > 1 else None,
        "ddp_find_unused_parameters": False,
        "bf16": computes_in_bf16(base, settings),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_steps": max(10, n_steps // 10),
        "save_total_limit": 2,
        "logging_strategy": "steps" if watcher.on_figures else "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def computes_in_bf16(base: HuggingFaceLM, settings: TrainingSettings) -> bool:
    """Tell whether training *base* computes in bf16, where *settings* leave that to the device too."""
    import torch

    if settings.bf16 is not None:
        return settings.bf16
    # It fails on machines without the hardware, and is slower on CPUs, which emulate it.
    on_cpu = base.model.device.type == "cpu"
    return bool(not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def _prepared(base: HuggingFaceLM, settings: TrainingSettings) -> tuple[Any, Any]:
    """Return the model to train, and the LoRA configuration (None where all weights are trained)."""
    from peft import LoraConfig, PeftModel, prepare_model_for_kbit_training

    model = base.model
    if isinstance(model, PeftModel):
        raise UsageError(
            f"{base.name} carries an adapter that cannot be merged",
            hint="start from the model without it, or its weights in full precision",
        )
    is_quantised = getattr(model, "is_quantized", False)
    if settings.method != LORA:
        if is_quantised:
            raise UsageError("a quantised model has no weights to train", hint="use --method lora, or leave out --bits")
        # Steps smaller than bf16 can show would be lost; bf16 is for the arithmetic alone.
        return model.float(), None
    if is_quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=settings.gradient_checkpointing)
    adapter = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return model, adapter


def _callback(base: HuggingFaceLM, watcher: Watcher) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watcher.on_step(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if watcher.on_figures and logs and ranks.is_first():
                watcher.on_figures(state.global_step, logs)

        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if ranks.is_first():
                watcher.on_epoch(round(state.epoch), HuggingFaceLM(base.name, model, base.tokenizer))
            model.train()

    return Watch()


def _quiet(trainer: Any) -> Any:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # its dictionaries would stand between our lines
    return trainer


def _send_nothing(trainer: Any) -> None:
    """Stand in for trl's telemetry, which tells the Hugging Face hub of each training."""
