"""
Ready-made configurations for those who train with Axolotl or LLaMA-Factory.

Knows which of their settings say what the codec of the rows says, and refuses with the reason where none does: a file that the trainer
reads otherwise than vtuned asks would be trained, and never verify. Field names are those of Axolotl 0.18.0
(docs/dataset-formats, docs/rlhf.qmd, src/axolotl/utils/schemas) and LLaMA-Factory 0.9.6.dev0 of August 2026
(data/README.md, src/llamafactory/hparams, src/llamafactory/data/converter.py). Nothing is trained or written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias

import yaml

from vtuned.errors import UsageError
from vtuned.formats.messages import FUNCTION_CALL
from vtuned.lm.base import Prompt
from vtuned.providers.settings import FULL, LORA, TrainingSettings
from vtuned.providers.shapes import MESSAGES, OTHER, TEXT, WHOLE, Read, Seen, seen_in

Render: TypeAlias = Callable[[Prompt], str]

_NAMES = {"axolotl": "Axolotl", "llama-factory": "LLaMA-Factory"}
TRAINERS = tuple(_NAMES)

_FILE_TYPES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_INSTRUCTION, _SYSTEM = "vtuned-instruction", "vtuned-system"
# OpenAI's newer name of the system prompt; neither trainer knows it.
_SAME = {"developer": "system"}
_TAGS = {
    "user": "user_tag",
    "assistant": "assistant_tag",
    "system": "system_tag",
    "tool": "observation_tag",
    FUNCTION_CALL: "function_tag",
}


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


def recipe(trainer: str, rows: Iterable[Read], job: Job) -> dict[str, bytes]:
    """
    Return the configuration of *trainer* for *rows* as files by name.

    Raises UsageError, with the reason, where the trainer cannot take the rows as vtuned reads them.
    """
    if trainer not in _NAMES:
        raise UsageError(f"unknown trainer {trainer!r}", hint=f"known: {', '.join(TRAINERS)}")
    if PurePath(job.data).suffix not in _FILE_TYPES:
        raise _refused(
            _NAMES[trainer], f"it reads {', '.join(_FILE_TYPES)} files, and this is {PurePath(job.data).name}"
        )
    seen = seen_in(rows)
    _check(_NAMES[trainer], seen)
    if trainer == "axolotl":
        return {"axolotl.yml": _yaml(_axolotl(seen, job), "axolotl train axolotl.yml")}
    entry, stage = _llama_factory_entry(seen)
    info = {"vtuned": {"file_name": job.data, **entry}}
    return {
        "dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False).encode() + b"\n",
        "train.yaml": _yaml(_llama_factory(job, stage), "llamafactory-cli train train.yaml"),
    }


def _check(trainer: str, seen: Seen) -> None:
    """Raise UsageError where no trainer but vtuned reads the rows so."""
    shape = seen.shape
    reasons = {
        "some rows hold their columns in another way than others": len(seen.shapes) > 1,
        "the messages are nested (OpenAI's input, preferred_output)": shape.kind == OTHER,
        f"{seen.n_with_images} rows hold images, which need a configuration of their own": seen.n_with_images,
        "they are read as plain text, by a configuration that you have already": shape.is_framed,
        "they are dialogues in plain text": shape.kind == WHOLE and not seen.are(list, "chosen", "rejected"),
        f"rows with a label ({shape.label}) are for KTO, which vtuned does not set up": seen.n_labelled,
        "some rows have a rejected answer, and some have none": 0 < seen.n_preferences < seen.n,
        f"what is in {', '.join(sorted(seen.nested))} is nested": seen.nested,
        "messages name their role in two ways": len(seen.keys) > 1,
        f"some rows hold {shape.query} alone, without {shape.prompt}": seen.n_query_only,
    }
    _refuse_first(trainer, reasons)


def _refuse_first(trainer: str, reasons: Mapping[str, object]) -> None:
    for reason, holds in reasons.items():
        if holds:
            raise _refused(trainer, reason)


def _refused(trainer: str, reason: str) -> UsageError:
    return UsageError(
        f"no configuration of {trainer} fits these rows: {reason}",
        hint="convert the rows to chat messages, or train them with `vtuned finetune`",
    )


def _yaml(config: dict[str, Any], command: str) -> bytes:
    opening = f"# Written by vtuned. Run in this folder: {command}\n"
    return (opening + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)).encode()


def _axolotl(seen: Seen, job: Job) -> dict[str, Any]:
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


def _axolotl_entry(seen: Seen, render: Render) -> dict[str, Any]:
    """Return how Axolotl is told to read rows with one answer."""
    shape = seen.shape
    if shape.kind == MESSAGES:
        return _axolotl_chat(seen)
    if shape.kind == TEXT:
        return {"type": "completion", "field": shape.prompt}  # all of the text carries loss
    reasons = {
        f"earlier turns ({shape.history}) would be left out": seen.have(shape.history),
        f"the tools ({shape.tools}) would be left out": seen.n_with_tools,
        f"{shape.prompt} and {shape.response} are no texts": not seen.are(str, shape.prompt, shape.response),
    }
    _refuse_first("Axolotl", reasons)
    return {"type": _axolotl_columns(seen, render)}


def _axolotl_chat(seen: Seen) -> dict[str, Any]:
    """Return how Axolotl is told to read chat messages. It takes `system` and `tools` by these names, and unasked."""
    shape = seen.shape
    training = next((key for key, n in seen.trained_otherwise.items() if not n), None)
    reasons = {
        "tool calls stand in turns of their own (function_call)": FUNCTION_CALL in seen.roles,
        f"the system prompt must be in a column called system, not {shape.system}": (
            seen.have(shape.system) and shape.system != "system"
        ),
        "it would take a system prompt from the column system, which is not read here": "system" in seen.unread,
        "it would take tools from the column tools, which is not read here": "tools" in seen.unread,
        "the tools must be a list in a column called tools, of the form that OpenAI's have": (
            seen.n_with_tools and (seen.n_with_rewritten_tools or shape.tools != "tools")
        ),
        "no key of the messages says which of them are trained on": training is None,
    }
    _refuse_first("Axolotl", reasons)
    roles = _roles(seen)
    return {
        "type": "chat_template",
        "field_messages": shape.prompt,
        "message_property_mappings": {"role": seen.key.role, "content": seen.key.content},
        **({"roles": roles} if any(names != [role] for role, names in roles.items()) else {}),
        **({"field_system": "system"} if seen.have(shape.system) else {}),
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        **({"message_field_training": training} if training else {}),
    }


def _roles(seen: Seen) -> dict[str, list[str]]:
    """Return what the messages call each role."""
    roles: dict[str, set[str]] = {}
    for role, names in seen.roles.items():
        roles.setdefault(_SAME.get(role, role), set()).update(names)
    return {role: sorted(names) for role, names in sorted(roles.items())}


def _axolotl_columns(seen: Seen, render: Render) -> dict[str, Any]:
    """Return a type of our own: Axolotl has no other for rows in columns that speaks the model's chat template."""
    shape = seen.shape
    made = {"field_instruction": shape.prompt, "field_output": shape.response}
    bare = _rendered(render, _INSTRUCTION)
    turn, system = _split(seen, bare, lambda: _rendered(render, _INSTRUCTION, system=_SYSTEM))
    made |= {"format": turn, "no_input_format": turn}
    if seen.have(shape.query):
        made |= {"field_input": shape.query, "format": turn.replace("{instruction}", "{instruction}\n{input}")}
    if system:
        made |= {"field_system": shape.system, "system_format": system}
    return made


def _split(seen: Seen, bare: str, with_system: Callable[[], str]) -> tuple[str, str]:
    """Return what Axolotl puts around the instruction, and around the system prompt before it ("" for none)."""
    if not seen.n_with_system:
        return bare, ""
    whole = with_system()
    if whole.endswith(bare):
        return bare, whole.removesuffix(bare)
    if seen.n_with_system < seen.n:
        raise _refused("Axolotl", "the model's template treats rows with and without a system prompt differently")
    at = whole.index("{system}") + len("{system}")
    return whole[at:], whole[:at]


def _rendered(render: Render, instruction: str, *, system: str = "") -> str:
    """Return what the model reads, with Axolotl's fields in it, without the token that its tokenizer puts first."""
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    text = render([*messages, {"role": "user", "content": instruction}])
    text = text.replace("{", "{{").replace("}", "}}")
    return text.replace(_INSTRUCTION, "{instruction}").replace(_SYSTEM, "{system}")


def _axolotl_preference(seen: Seen) -> dict[str, Any]:
    """Return how Axolotl is told to read rows with a chosen and a rejected answer."""
    shape = seen.shape
    reasons = {
        "its preference rows hold no tools": seen.n_with_tool_calls or seen.n_with_tools,
        **{
            f"the prompt is in several columns, and {column} would be left out": seen.have(column)
            for column in (shape.query, shape.history, shape.system)
        },
        "chosen and rejected must be one message each": seen.n_long_answers,
        "contents must be texts": seen.n_with_parts,
    }
    _refuse_first("Axolotl", reasons)
    # Texts get the role of that very name, so each role is known by its own name too.
    named = _roles(seen)
    roles = {role: sorted({role, *named.get(role, [])}) for role in sorted({"user", "assistant", *named})}
    entry = {"message_property_mappings": {"role": seen.key.role, "content": seen.key.content}, "roles": roles}
    if shape.kind == WHOLE:
        return {"type": "chat_template.argilla_chat", **entry}
    answers = {"field_chosen": shape.chosen, "field_rejected": shape.rejected}
    return {"type": "chat_template.default", "field_messages": shape.prompt, **answers, **entry}


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


def _llama_factory_entry(seen: Seen) -> tuple[dict[str, Any], str]:
    """Return the entry of dataset_info.json, and the stage of the training."""
    shape = seen.shape
    tools_fit = not seen.n_with_tools or seen.are(str, shape.tools)
    _refuse_first("LLaMA-Factory", {f"tools ({shape.tools}) must be JSON text": not tools_fit})
    if shape.kind == TEXT:
        return {"columns": {"prompt": shape.prompt}}, "pt"  # all of the text carries loss
    if shape.kind == MESSAGES:
        return _llama_factory_messages(seen)
    answers = (
        {"chosen": shape.chosen, "rejected": shape.rejected} if seen.is_preference else {"response": shape.response}
    )
    texts = [column for column in (shape.prompt, *answers.values()) if not seen.are(str, column)]
    reasons = {
        "the prompt must be apart from chosen and rejected": shape.kind == WHOLE,
        f"what is in {' and '.join(texts)} must be texts": texts,
    }
    _refuse_first("LLaMA-Factory", reasons)
    columns = {"prompt": shape.prompt, **answers, **_others(seen)}
    if seen.is_preference:
        return {"ranking": True, "columns": columns}, "dpo"
    return {"columns": columns}, "sft"


def _others(seen: Seen) -> dict[str, str]:
    """Return the columns that may be absent: LLaMA-Factory fails where one that is listed is in no row."""
    shape = seen.shape
    others = {"query": shape.query, "system": shape.system, "history": shape.history, "tools": shape.tools}
    return {key: column for key, column in others.items() if seen.have(column)}


def _llama_factory_messages(seen: Seen) -> tuple[dict[str, Any], str]:
    """Return the entry of chat messages; a tag that it does not list has no name."""
    _check_llama_factory(seen)
    shape = seen.shape
    tags = {_TAGS[role]: names[0] for role, names in _roles(seen).items() if role in _TAGS}
    columns = {"messages": shape.prompt, **_others(seen)}
    if seen.is_preference:
        columns |= {"chosen": shape.chosen, "rejected": shape.rejected}
    entry: dict[str, Any] = {
        "formatting": "sharegpt",
        **({"ranking": True} if seen.is_preference else {}),
        "columns": columns,
        "tags": {"role_tag": seen.key.role, "content_tag": seen.key.content, **tags},
    }
    return entry, "dpo" if seen.is_preference else "sft"


def _check_llama_factory(seen: Seen) -> None:
    """Raise UsageError where LLaMA-Factory would skip rows of messages, or train on what is not to be trained on."""
    shape = seen.shape
    reasons = {
        "tool calls must stand in turns of their own (function_call)": (
            seen.n_with_tool_calls and FUNCTION_CALL not in seen.roles
        ),
        "contents must be texts": seen.n_with_parts,
        f"{seen.n_not_alternating} rows do not alternate between user and assistant, and would be skipped": (
            seen.n_not_alternating
        ),
        "it trains on every assistant turn, and some are not to be trained on": (
            seen.n_untrained_answers and not seen.is_preference
        ),
        "one role has several names": any(len(names) > 1 for names in _roles(seen).values()),
        "chosen and rejected must be one message each": (
            seen.is_preference and not seen.are(dict, shape.chosen, shape.rejected)
        ),
    }
    _refuse_first("LLaMA-Factory", reasons)
