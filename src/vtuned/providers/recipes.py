"""
Ready-made configurations for those who train with Axolotl or LLaMA-Factory.

Knows which of their settings fit which rows, and refuses with the reason where none does: a file that the trainer
reads otherwise than vtuned asks would be trained, and never verify. Field names are those of Axolotl 0.18.0
(docs/dataset-formats, docs/rlhf.qmd, src/axolotl/utils/schemas) and LLaMA-Factory 0.9.6.dev0 of August 2026
(data/README.md, src/llamafactory/hparams, src/llamafactory/data/converter.py). Nothing is trained or written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeAlias

import yaml

from vtuned.conversation import Conversation
from vtuned.errors import UsageError
from vtuned.lm.base import Prompt
from vtuned.providers.settings import FULL, LORA, TrainingSettings
from vtuned.providers.tokenising import holds_more_than_text

Render: TypeAlias = Callable[[Prompt], str]
Value: TypeAlias = Mapping[str, Any]

TRAINERS = ("axolotl", "llama-factory")

_FILE_TYPES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_INSTRUCTION, _INPUT, _SYSTEM = "vtuned-instruction", "vtuned-input", "vtuned-system"
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "observation": "tool",
}
_CALL = "function_call"  # a turn of its own, in ShareGPT rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    What is to be trained: the file *data* as seen from the folder of the configuration, on the model *base*.

    *render* shows how the base model reads a prompt; it is called only where a trainer knows no chat template for the
    rows.
    """

    data: str
    base: str
    settings: TrainingSettings
    render: Render


@dataclass(slots=True)
class _Rows:
    """What is in a data set: the types of each column, what its messages are like, and what may stand in the way."""

    columns: dict[str, set[type]] = field(default_factory=dict)
    message_keys: set[str] = field(default_factory=set)
    roles: dict[str, set[str]] = field(default_factory=dict)
    n: int = 0
    n_with_images: int = 0
    n_with_tool_calls: int = 0
    n_with_system: int = 0
    n_untrained_answers: int = 0
    n_not_alternating: int = 0
    is_preference: bool = False
    is_text: bool = False

    def have(self, *names: str) -> bool:
        """Tell whether every one of these columns is there."""
        return all(name in self.columns for name in names)

    def are(self, kind: type, *names: str) -> bool:
        """Tell whether every one of these columns is there and of this type in every row."""
        return all(self.columns.get(name) == {kind} for name in names)

    @property
    def messages(self) -> str | None:
        """The column of the messages, or None."""
        return next((name for name in ("messages", "conversations") if self.are(list, name)), None)

    @property
    def role_key(self) -> str:
        """What messages call their role."""
        return "from" if "from" in self.message_keys else "role"

    @property
    def content_key(self) -> str:
        """What messages call their content."""
        return "value" if "from" in self.message_keys else "content"


def recipe(trainer: str, rows: Iterable[tuple[Value, Conversation]], job: Job) -> dict[str, bytes]:
    """
    Return the configuration of *trainer* for *rows* (what each holds, and what it says) as files by name.

    Raises UsageError, with the reason, where the trainer cannot take the rows as they are.
    """
    if trainer not in TRAINERS:
        raise UsageError(f"unknown trainer {trainer!r}", hint=f"known: {', '.join(TRAINERS)}")
    if PurePath(job.data).suffix not in _FILE_TYPES:
        raise _refused(trainer, f"it reads {', '.join(_FILE_TYPES)} files, and this is {PurePath(job.data).name}")
    seen = _seen(rows)
    if seen.n_with_images:
        raise _refused(trainer, f"{seen.n_with_images} rows hold images, which need a configuration of their own")
    if seen.is_text and "text" not in seen.columns:
        raise _refused(trainer, "they are read as plain text, by a configuration that you have already")
    if "label" in seen.columns or "kto_tag" in seen.columns:
        raise _refused(trainer, "rows with a label are for KTO, which vtuned does not set up")
    if trainer == "axolotl":
        return {"axolotl.yml": _yaml(_axolotl(seen, job), "axolotl train axolotl.yml")}
    entry, stage = _llama_factory_entry(seen)
    info = {"vtuned": {"file_name": job.data, **entry}}
    return {
        "dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False).encode() + b"\n",
        "train.yaml": _yaml(_llama_factory(job, stage), "llamafactory-cli train train.yaml"),
    }


def _seen(rows: Iterable[tuple[Value, Conversation]]) -> _Rows:
    seen = _Rows()
    for value, conversation in rows:
        seen.n += 1
        for name, content in value.items():
            if content is not None and content != "":
                seen.columns.setdefault(name, set()).add(type(content))
        turns = conversation.turns
        seen.n_with_images += holds_more_than_text(conversation)
        seen.n_with_tool_calls += any("tool_call" in turn.other or "function_call" in turn.other for turn in turns)
        seen.n_with_system += any(turn.role == "system" for turn in turns)
        seen.n_untrained_answers += any(turn.role == "assistant" and not turn.carries_loss for turn in turns)
        seen.n_not_alternating += not _alternates(conversation)
        seen.is_preference |= bool(conversation.rejected)
        seen.is_text |= conversation.is_text
        for message in _messages_in(value):
            seen.message_keys |= {key for key, content in message.items() if content is not None}
            name = str(message.get("from", message.get("role")))
            seen.roles.setdefault(_ROLES.get(name, name), set()).add(name)
    return seen


def _messages_in(value: Value) -> Iterator[Value]:
    for name in ("messages", "conversations"):
        if isinstance(value.get(name), list):
            yield from (message for message in value[name] if isinstance(message, Mapping))


def _alternates(conversation: Conversation) -> bool:
    """Tell whether user (or tool) and assistant take turns, after a system prompt or none."""
    roles = ["user" if turn.role == "tool" else turn.role for turn in conversation.turns]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    return roles == ["user", "assistant"] * (len(roles) // 2)


def _refused(trainer: str, reason: str) -> UsageError:
    return UsageError(
        f"no configuration of {trainer} fits these rows: {reason}",
        hint="convert the rows to chat messages, or train them with `vtuned finetune`",
    )


def _yaml(config: dict[str, Any], command: str) -> bytes:
    opening = f"# Written by vtuned. Run in this folder: {command}\n"
    return (opening + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)).encode()


def _axolotl(seen: _Rows, job: Job) -> dict[str, Any]:
    settings = job.settings
    entry = _axolotl_preference(seen) if seen.is_preference else _axolotl_entry(seen, job.render)
    config: dict[str, Any] = {
        "base_model": job.base,
        "datasets": [{"path": job.data, "ds_type": _FILE_TYPES[PurePath(job.data).suffix], **entry}],
        "val_set_size": 0,
        "output_dir": "./out",
        "sequence_len": settings.max_tokens,
        "excess_length_strategy": "truncate",
        "sample_packing": settings.packing,
        "train_on_inputs": False,
    }
    if seen.is_preference:
        config |= {"rl": "dpo", "rl_beta": settings.beta}
        if settings.sft_weight:
            config |= {"dpo_loss_type": ["sigmoid", "sft"], "dpo_loss_weights": [1.0, settings.sft_weight]}
    if settings.method == LORA:
        config |= {"adapter": "lora", "lora_r": settings.rank, "lora_alpha": settings.alpha}
        config |= {"lora_dropout": 0.0, "lora_target_linear": True}
    return config | {
        "micro_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "num_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "optimizer": "adamw_torch",
        "lr_scheduler": settings.scheduler,
        "warmup_ratio": settings.warmup,
        "bf16": "auto" if settings.bf16 is None else settings.bf16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "seed": settings.seed,
        "saves_per_epoch": 1,
        "logging_steps": 10,
    }


def _axolotl_entry(seen: _Rows, render: Render) -> dict[str, Any]:
    """Return how Axolotl is told to read rows with one answer."""
    if seen.messages:
        if _CALL in seen.roles:
            raise _refused("axolotl", "tool calls stand in turns of their own (function_call)")
        training = next((key for key in ("weight", "train") if key in seen.message_keys), None)
        return {
            "type": "chat_template",
            **_axolotl_messages(seen, seen.messages),
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
            **({"message_field_training": training} if training else {}),
        }
    if seen.are(str, "prompt", "completion"):
        return {"type": _axolotl_columns(seen, render, "prompt", "completion")}
    if seen.are(str, "instruction", "output"):
        if "history" in seen.columns:
            raise _refused("axolotl", "earlier turns (history) would be left out")
        return {"type": _axolotl_columns(seen, render, "instruction", "output")}
    if seen.are(str, "text"):
        return {"type": "completion", "field": "text"}  # all of the text carries loss
    raise _refused("axolotl", f"it knows no rows with {', '.join(sorted(seen.columns)) or 'no columns'}")


def _axolotl_messages(seen: _Rows, column: str) -> dict[str, Any]:
    known = {"user", "assistant", "system", "tool"} & set(seen.roles)
    roles = {role: sorted(seen.roles[role]) for role in sorted(known)}
    return {
        "field_messages": column,
        "message_property_mappings": {"role": seen.role_key, "content": seen.content_key},
        **({"roles": roles} if any(names != [role] for role, names in roles.items()) else {}),
    }


def _axolotl_columns(seen: _Rows, render: Render, prompt: str, answer: str) -> dict[str, Any]:
    """Return a type of our own: Axolotl has no other for rows in columns that speaks the model's chat template."""
    made = {"field_instruction": prompt, "field_output": answer}
    bare = _rendered(render, _INSTRUCTION)
    turn, system = _split(seen, bare, lambda: _rendered(render, _INSTRUCTION, system=_SYSTEM))
    made |= {"format": turn, "no_input_format": turn}
    if seen.have("input"):
        made |= {"field_input": "input", "format": turn.replace("{instruction}", "{instruction}\n{input}")}
    if system:
        made |= {"field_system": "system", "system_format": system}
    return made


def _split(seen: _Rows, bare: str, with_system: Callable[[], str]) -> tuple[str, str]:
    """Return what Axolotl puts around the instruction, and around the system prompt before it ("" for none)."""
    if not seen.n_with_system:
        return bare, ""
    whole = with_system()
    if whole.endswith(bare):
        return bare, whole.removesuffix(bare)
    if seen.n_with_system < seen.n:
        raise _refused("axolotl", "the model's template treats rows with and without a system prompt differently")
    at = whole.index("{system}") + len("{system}")
    return whole[at:], whole[:at]


def _rendered(render: Render, instruction: str, *, system: str = "") -> str:
    """Return what the model reads, with Axolotl's fields in it, without the token that its tokenizer puts first."""
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    text = render([*messages, {"role": "user", "content": instruction}])
    text = text.replace("{", "{{").replace("}", "}}")
    return text.replace(_INSTRUCTION, "{instruction}").replace(_SYSTEM, "{system}")


def _axolotl_preference(seen: _Rows) -> dict[str, Any]:
    """Return how Axolotl is told to read rows with a chosen and a rejected answer."""
    if seen.n_with_tool_calls or "tools" in seen.columns:
        raise _refused("axolotl", "its preference rows hold no tools")
    if not seen.have("chosen", "rejected"):
        raise _refused("axolotl", "the messages are nested (OpenAI's input, preferred_output)")
    roles = {"user": ["user", "human"], "assistant": ["assistant", "gpt"], "system": ["system"]}
    keys = {"message_property_mappings": {"role": seen.role_key, "content": seen.content_key}, "roles": roles}
    if seen.messages or seen.are(str, "prompt") or seen.are(list, "prompt"):
        if seen.have("system"):
            raise _refused("axolotl", "the column system would be left out")
        column = seen.messages or "prompt"
        return {"type": "chat_template.default", "field_messages": column, **keys}
    if seen.are(list, "chosen", "rejected"):
        return {"type": "chat_template.argilla_chat", **keys}
    raise _refused("axolotl", "the prompt is in several columns")


def _llama_factory(job: Job, stage: str) -> dict[str, Any]:
    settings = job.settings
    # Without `template`, LLaMA-Factory takes the tokenizer's own chat template.
    config: dict[str, Any] = {
        "model_name_or_path": job.base,
        "stage": stage,
        "do_train": True,
        "finetuning_type": settings.method,
    }
    if settings.method != FULL:
        config |= {"lora_rank": settings.rank, "lora_alpha": settings.alpha, "lora_target": "all"}
    if stage == "dpo":
        config |= {"pref_loss": "sigmoid", "pref_beta": settings.beta, "pref_ftx": settings.sft_weight}
    return config | {
        "dataset": "vtuned",
        "dataset_dir": ".",
        "cutoff_len": settings.max_tokens,
        "packing": settings.packing,
        "neat_packing": settings.packing,
        "output_dir": "out",
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_ratio": settings.warmup,
        "bf16": settings.bf16 is not False,
        "disable_gradient_checkpointing": not settings.gradient_checkpointing,
        "seed": settings.seed,
        "save_strategy": "epoch",
        "logging_steps": 10,
        "report_to": "none",
    }


def _llama_factory_entry(seen: _Rows) -> tuple[dict[str, Any], str]:
    """Return the entry of dataset_info.json, and the stage of the training."""
    if seen.messages:
        return _llama_factory_messages(seen, seen.messages)
    prompt = next((name for name in ("prompt", "instruction") if seen.are(str, name)), None)
    if prompt is None:
        if seen.are(str, "text"):
            return {"columns": {"prompt": "text"}}, "pt"  # all of the text carries loss
        raise _refused("LLaMA-Factory", f"it knows no rows with {', '.join(sorted(seen.columns)) or 'no columns'}")
    answers = {"chosen": "chosen", "rejected": "rejected"}
    if not seen.is_preference:
        answers = {"response": "completion" if prompt == "prompt" else "output"}
    if not seen.are(str, *answers.values()):
        raise _refused("LLaMA-Factory", f"{' and '.join(answers.values())} must be texts beside {prompt}")
    others = {"query": "input", "system": "system", "history": "history"}
    columns = {"prompt": prompt, **answers, **{key: name for key, name in others.items() if seen.have(name)}}
    if seen.is_preference:
        return {"ranking": True, "columns": columns}, "dpo"
    return {"columns": columns}, "sft"


def _llama_factory_messages(seen: _Rows, column: str) -> tuple[dict[str, Any], str]:
    _check_llama_factory(seen)
    tags = {role: f"{role}_tag" for role in ("user", "assistant", "system")} | {"tool": "observation_tag"}
    named = {tag: next(iter(seen.roles[role])) for role, tag in tags.items() if role in seen.roles}
    columns = {"messages": column} | {name: name for name in ("system", "tools") if seen.have(name)}
    if seen.is_preference:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    entry: dict[str, Any] = {
        "formatting": "sharegpt",
        **({"ranking": True} if seen.is_preference else {}),
        "columns": columns,
        "tags": {"role_tag": seen.role_key, "content_tag": seen.content_key, **named},
    }
    return entry, "dpo" if seen.is_preference else "sft"


def _check_llama_factory(seen: _Rows) -> None:
    """Raise UsageError where LLaMA-Factory would skip rows of messages, or train on what is not to be trained on."""
    reasons = {
        "tool calls must stand in turns of their own (function_call)": (
            seen.n_with_tool_calls and _CALL not in seen.roles
        ),
        "tools must be JSON text": "tools" in seen.columns and not seen.are(str, "tools"),
        f"{seen.n_not_alternating} rows do not alternate between user and assistant, and would be skipped": (
            seen.n_not_alternating and not seen.is_preference
        ),
        "it trains on every assistant turn, and some are not to be trained on": (
            seen.n_untrained_answers and _CALL not in seen.roles and not seen.is_preference
        ),
        "one role has several names": any(len(names) > 1 for names in seen.roles.values()),
        "chosen and rejected must be one message each": seen.is_preference and not seen.are(dict, "chosen", "rejected"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise _refused("LLaMA-Factory", reason)
