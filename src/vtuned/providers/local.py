"""
Fine-tune a local model with LoRA, as a provider would: trl and peft train, we only tokenise and mask.

`input_ids` and `labels` are built here because trl's shortcuts either train on the prompt too or refuse chat templates
without generation marks (SmolLM2's among them).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtuned import files
from vtuned.conversation import Conversation, Message, messages_of
from vtuned.errors import DatasetError, MissingExtra, OutputExists
from vtuned.lm.huggingface import LOCAL_EXTRA, HuggingFaceLM, render_text, require_local_extra

_MASKED = -100  # torch's cross entropy skips this label
_RECORD = "vtuned-training.json"
_CHECKPOINTS = "checkpoints"
_ANOTHER_FOLDER = "it holds another run or other files: choose another folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """
    How to train: *epochs* over the rows, *batch_size* rows a step, at *learning_rate*.

    *rank* and *alpha* are LoRA's r and α (the paper's 32 and 16) on all linear layers; rows longer than *max_tokens*
    are cut there; *seed* fixes the order of the rows, so that a resumed run goes on as it would have.
    """

    epochs: int = 3
    batch_size: int = 2
    learning_rate: float = 1e-3
    rank: int = 32
    alpha: int = 16
    max_tokens: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """What to call during training: `on_step(done, total)` after each step, `on_epoch(epoch, model)` after each epoch."""

    on_step: Callable[[int, int], None] = lambda done, total: None
    on_epoch: Callable[[int, HuggingFaceLM], None] = lambda epoch, model: None


@dataclass(frozen=True, slots=True)
class Training:
    """What was trained: the adapter folder, steps, tokens seen, rows left out because the cut left no loss in them."""

    adapter: Path
    n_steps: int
    n_tokens: int
    n_rows_left_out: int
    resumed_at_step: int


def finetune(
    rows: Iterable[Conversation],
    base: HuggingFaceLM,
    folder: Path,
    settings: LoraSettings,
    *,
    data_digest: str,
    watcher: Watcher | None = None,
) -> Training:
    """
    Train a LoRA adapter for *base* on *rows* and save it, in peft's format, into *folder*.

    A run that was killed goes on from its last checkpoint when called again with the same arguments; a finished
    one is returned as it is. *base*'s model is changed in place. Raises OutputExists where *folder* holds another run
    or other files, MissingExtra, DatasetError where no row is left to train on.
    """
    require_local_extra("fine-tuning")
    record = {"base": base.name, "data_sha256": data_digest, **asdict(settings)}
    finished = _claim(folder, record)
    if finished is not None:
        return finished
    examples = [tokenise(base.tokenizer, row, settings.max_tokens) for row in rows]
    kept = [example for example in examples if any(label != _MASKED for label in example["labels"])]
    if not kept:
        raise DatasetError("no row has an answer to train on within the token limit", hint="raise --max-tokens")
    checkpoint = last_checkpoint(folder / _CHECKPOINTS)
    trainer = _trainer(base, kept, folder / _CHECKPOINTS, settings, watcher or Watcher())
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    training = Training(
        adapter=folder,
        n_steps=trainer.state.global_step,
        n_tokens=settings.epochs * sum(len(example["input_ids"]) for example in kept),
        n_rows_left_out=len(examples) - len(kept),
        resumed_at_step=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
    )
    _save(trainer, folder, record, training)
    return training


def tokenise(tokenizer: Any, row: Conversation, max_tokens: int) -> dict[str, list[int]]:
    """
    Return `input_ids` and `labels` of *row*, loss on the assistant turns that carry it and on their end token only.

    Raises DatasetError where the chat template rewrites earlier turns, so that no span of the text is the answer.
    """
    from jinja2 import TemplateError

    messages = messages_of(row.turns)
    try:
        spans, text = _answer_spans(tokenizer, row, messages)
    except TemplateError as error:
        raise DatasetError(
            f"the model's chat template refuses a row: {error}", hint="use rows with its roles, or another base model"
        ) from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(start <= begin and end <= stop and begin < end for start, stop in spans) else _MASKED
        for token, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": list(encoded["input_ids"])[:max_tokens], "labels": labels[:max_tokens]}


def _answer_spans(tokenizer: Any, row: Conversation, messages: list[Message]) -> tuple[list[tuple[int, int]], str]:
    """Return where the trained answers stand in the rendered row, in characters, and the rendered row."""
    text = render_text(tokenizer, messages, answering=False)
    spans = []
    for i, turn in enumerate(row.turns):
        if turn.carries_loss:
            before = render_text(tokenizer, messages[:i]) if i else ""
            through = render_text(tokenizer, messages[: i + 1], answering=False).rstrip()
            if not (text.startswith(through) and through.startswith(before)):
                raise DatasetError(
                    "the model's chat template rewrites earlier turns, so answers cannot be told apart",
                    hint="use single-turn rows or another base model",
                )
            spans.append((len(before), len(through)))
    return spans, text


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None; the trainer's state is written last."""
    complete = []
    for candidate in folder.glob("checkpoint-*"):
        try:
            json.loads((candidate / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            continue
        complete.append(candidate)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def check_folder(folder: Path) -> None:
    """Raise OutputNotWritable or OutputExists where no adapter can go into *folder*."""
    files.check_folder(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / _RECORD).is_file():
        raise OutputExists(folder, hint=_ANOTHER_FOLDER)


def _claim(folder: Path, record: dict[str, Any]) -> Training | None:
    """Write the record of a new run into *folder*, or check that the run there is this one; return it if finished."""
    check_folder(folder)
    path = folder / _RECORD
    if path.is_file():
        try:
            found = json.loads(path.read_bytes())
            done = found.get("done")
            finished = Training(adapter=folder, **done) if done else None
        except (ValueError, AttributeError, TypeError):
            raise OutputExists(folder, hint=_ANOTHER_FOLDER) from None
        if found.get("run") != record:
            raise OutputExists(folder, hint=_ANOTHER_FOLDER)
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(path, {"run": record})
    return None


def _write_record(path: Path, content: dict[str, Any]) -> None:
    files.write_bytes(path, json.dumps(content, indent=2).encode() + b"\n", force=True)


def _save(trainer: Any, folder: Path, record: dict[str, Any], training: Training) -> None:
    trainer.model.save_pretrained(str(folder))
    trainer.processing_class.save_pretrained(str(folder))
    done = {key: value for key, value in asdict(training).items() if key != "adapter"}
    _write_record(folder / _RECORD, {"run": record, "done": done})
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)


def _trainer(
    base: HuggingFaceLM,
    examples: Sequence[dict[str, list[int]]],
    folder: Path,
    settings: LoraSettings,
    watcher: Watcher,
) -> Any:
    try:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise MissingExtra("fine-tuning", LOCAL_EXTRA) from error

    on_cpu = base.model.device.type == "cpu"
    n_steps = math.ceil(len(examples) / settings.batch_size) * settings.epochs
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        use_cpu=on_cpu,
        # trl's default of True fails on machines without bf16 hardware, and is slower on CPUs that only emulate it.
        bf16=not on_cpu,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        save_steps=max(10, n_steps // 10),
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=base.model,
        args=config,
        train_dataset=Dataset.from_list(list(examples)),
        processing_class=base.tokenizer,
        peft_config=LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[_callback(base, watcher)],
    )
    trainer.remove_callback(PrinterCallback)  # its dictionaries would stand between our lines
    return trainer


def _callback(base: HuggingFaceLM, watcher: Watcher) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watcher.on_step(state.global_step, state.max_steps)

        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            watcher.on_epoch(round(state.epoch), HuggingFaceLM(base.name, model, base.tokenizer))
            model.train()

    return Watch()
