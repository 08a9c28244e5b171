"""Configurations of other trainers: they hold what those ask for, and rows that they would misread are refused."""

from __future__ import annotations

import json

import pytest
import yaml

from vtuned import formats
from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import UsageError
from vtuned.formats.mappings import codec_from_config
from vtuned.providers.recipes import Job, recipe
from vtuned.providers.settings import TrainingSettings

CHAT = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}
COLUMNS = {"prompt": "Why?", "completion": "So."}
ALPACA = {"instruction": "Why?", "input": "Now.", "output": "So."}
PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
MESSAGES_PAIR = {
    "prompt": [{"role": "user", "content": "Why?"}],
    "chosen": [{"role": "assistant", "content": "So."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
WHOLE_PAIR = {
    "chosen": [*MESSAGES_PAIR["prompt"], *MESSAGES_PAIR["chosen"]],
    "rejected": [*MESSAGES_PAIR["prompt"], *MESSAGES_PAIR["rejected"]],
}
OPENAI_PAIR = {
    "input": {"messages": MESSAGES_PAIR["prompt"]},
    "preferred_output": MESSAGES_PAIR["chosen"],
    "non_preferred_output": MESSAGES_PAIR["rejected"],
}
ALPACA_PAIR = {"instruction": "Why?", "input": "Now.", "chosen": "So.", "rejected": "No."}
SHAREGPT_PAIR = {
    "conversations": [{"from": "human", "value": "Why?"}],
    "chosen": {"from": "gpt", "value": "So."},
    "rejected": {"from": "gpt", "value": "No."},
}
TEXT = {"text": "Q: Why?\nA: So."}

SETTINGS = TrainingSettings(epochs=4, batch_size=8, learning_rate=2e-4, rank=16, alpha=64, max_tokens=512, seed=7)


def render(prompt):
    """Render as a model with a template does."""
    return "".join(f"<{m['role']}>{{{m['content']}}}" for m in prompt) + "<assistant>"


def job(settings=SETTINGS, data="../train.jsonl"):
    return Job(data=data, base="some/model", settings=settings, render=render)


def read(*values):
    """Return rows as (value, conversation), as the codec that recognises them reads them."""
    made = []
    for value in values:
        if "text" in value:
            turns = (Turn("user", "Why?"), Turn("assistant", "So.", carries_loss=True))
            made.append((value, Conversation(turns, is_text=True)))
            continue
        codec = next(codec for codec in formats.CODECS if codec.recognises(value))
        made.append((value, codec.read(value)))
    return made


def axolotl(*values, **settings):
    """Return the Axolotl configuration for rows."""
    files = recipe("axolotl", read(*values), job(TrainingSettings(**settings) if settings else SETTINGS))
    return yaml.safe_load(files["axolotl.yml"])


def llama_factory(*values, **settings):
    """Return LLaMA-Factory's (dataset entry, training configuration) for rows."""
    files = recipe("llama-factory", read(*values), job(TrainingSettings(**settings) if settings else SETTINGS))
    return json.loads(files["dataset_info.json"])["vtuned"], yaml.safe_load(files["train.yaml"])


class TestAxolotl:
    def test_settings(self):
        """What was asked for is in Axolotl's words."""
        config = axolotl(CHAT)
        expected = {
            "base_model": "some/model",
            "adapter": "lora",
            "lora_r": 16,
            "lora_alpha": 64,
            "lora_target_linear": True,
            "num_epochs": 4,
            "micro_batch_size": 8,
            "learning_rate": 2e-4,
            "sequence_len": 512,
            "seed": 7,
            "train_on_inputs": False,
            "val_set_size": 0,
        }

        assert expected.items() <= config.items()
        assert "rl" not in config

    def test_all_weights_have_no_adapter(self):
        """Without an adapter Axolotl trains all weights."""
        assert "adapter" not in axolotl(CHAT, method="full")

    def test_chat(self):
        """OpenAI's messages; a weight is honoured where rows have one."""
        weighted = {"messages": [*CHAT["messages"][:1], {**CHAT["messages"][1], "weight": 0}, *CHAT["messages"]]}
        entry = axolotl(CHAT)["datasets"][0]
        expected = {
            "path": "../train.jsonl",
            "ds_type": "json",
            "type": "chat_template",
            "field_messages": "messages",
            "message_property_mappings": {"role": "role", "content": "content"},
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }

        assert expected == entry
        assert "weight" == axolotl(CHAT, weighted)["datasets"][0]["message_field_training"]

    def test_sharegpt(self):
        """Who says what, under ShareGPT's names."""
        entry = axolotl(SHAREGPT)["datasets"][0]

        assert "conversations" == entry["field_messages"]
        assert {"role": "from", "content": "value"} == entry["message_property_mappings"]
        assert {"assistant": ["gpt"], "user": ["human"]} == entry["roles"]

    def test_columns_speak_the_models_template(self):
        """Axolotl's own alpaca prompt is not what the model is asked with later; ours is, with braces kept."""
        custom = axolotl(ALPACA)["datasets"][0]["type"]

        assert "<user>{{{instruction}\n{input}}}<assistant>" == custom["format"]
        assert "<user>{{{instruction}}}<assistant>" == custom["no_input_format"]
        assert ("instruction", "input", "output") == tuple(
            custom[f"field_{name}"] for name in ("instruction", "input", "output")
        )
        assert "prompt" == axolotl(COLUMNS)["datasets"][0]["type"]["field_instruction"]

    def test_a_system_column_comes_first(self):
        """The system prompt is put before the instruction, as the template does."""
        custom = axolotl({**ALPACA, "system": "Be brief."})["datasets"][0]["type"]

        assert ("system", "<system>{{{system}}}") == (custom["field_system"], custom["system_format"])

    @pytest.mark.parametrize(
        ("row", "kind", "column"),
        [
            (PAIR, "chat_template.default", "prompt"),
            (MESSAGES_PAIR, "chat_template.default", "prompt"),
            (SHAREGPT_PAIR, "chat_template.default", "conversations"),
            (WHOLE_PAIR, "chat_template.argilla_chat", None),
        ],
        ids=["texts", "messages", "sharegpt", "whole conversations"],
    )
    def test_preferences(self, row, kind, column):
        """DPO with the likelihood of the preferred answer beside it."""
        config = axolotl(row)

        assert ("dpo", 0.1) == (config["rl"], config["rl_beta"])
        assert (["sigmoid", "sft"], [1.0, 5.0]) == (config["dpo_loss_type"], config["dpo_loss_weights"])
        assert (kind, column) == (config["datasets"][0]["type"], config["datasets"][0].get("field_messages"))
        assert "dpo_loss_type" not in axolotl(row, sft_weight=0.0)

    def test_text(self):
        """Plain text is completed as it stands."""
        assert ("completion", "text") == tuple(axolotl(TEXT)["datasets"][0][key] for key in ("type", "field"))


class TestLlamaFactory:
    def test_settings(self):
        """What was asked for is in LLaMA-Factory's words; the chat template is the tokenizer's."""
        _, config = llama_factory(CHAT)
        expected = {
            "model_name_or_path": "some/model",
            "stage": "sft",
            "finetuning_type": "lora",
            "lora_rank": 16,
            "lora_alpha": 64,
            "lora_target": "all",
            "dataset": "vtuned",
            "dataset_dir": ".",
            "cutoff_len": 512,
            "num_train_epochs": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-4,
        }

        assert expected.items() <= config.items()
        assert "template" not in config

    @pytest.mark.parametrize(
        ("row", "entry"),
        [
            (
                CHAT,
                {
                    "formatting": "sharegpt",
                    "columns": {"messages": "messages"},
                    "tags": {
                        "role_tag": "role",
                        "content_tag": "content",
                        "user_tag": "user",
                        "assistant_tag": "assistant",
                    },
                },
            ),
            (
                SHAREGPT,
                {
                    "formatting": "sharegpt",
                    "columns": {"messages": "conversations"},
                    "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
                },
            ),
            (COLUMNS, {"columns": {"prompt": "prompt", "response": "completion"}}),
            (ALPACA, {"columns": {"prompt": "instruction", "response": "output", "query": "input"}}),
            (PAIR, {"ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}),
            (
                ALPACA_PAIR,
                {
                    "ranking": True,
                    "columns": {
                        "prompt": "instruction",
                        "chosen": "chosen",
                        "rejected": "rejected",
                        "query": "input",
                    },
                },
            ),
        ],
        ids=["chat", "sharegpt", "prompt-completion", "alpaca", "texts pair", "alpaca pair"],
    )
    def test_entries(self, row, entry):
        """What data/README.md of LLaMA-Factory asks for, by row format."""
        assert {"file_name": "../train.jsonl", **entry} == llama_factory(row)[0]

    def test_preferences(self):
        """DPO with the likelihood of the preferred answer beside it."""
        entry, config = llama_factory(SHAREGPT_PAIR)

        assert {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"} == entry["columns"]
        assert entry["ranking"]
        assert ("dpo", "sigmoid", 0.1, 5.0) == tuple(
            config[key] for key in ("stage", "pref_loss", "pref_beta", "pref_ftx")
        )

    def test_text_is_pre_training(self):
        """The one stage that takes plain text."""
        entry, config = llama_factory(TEXT)

        assert ({"prompt": "text"}, "pt") == (entry["columns"], config["stage"])


@pytest.mark.parametrize(
    ("trainer", "rows", "reason"),
    [
        ("axolotl", [OPENAI_PAIR], "nested"),
        ("llama-factory", [OPENAI_PAIR], "no rows with"),
        ("llama-factory", [MESSAGES_PAIR], "no rows with"),
        ("llama-factory", [WHOLE_PAIR], "no rows with"),
        ("axolotl", [{**ALPACA, "history": [["Who?", "I."]]}], "history"),
        ("llama-factory", [{"messages": [CHAT["messages"][0], *CHAT["messages"]]}], "do not alternate"),
        (
            "llama-factory",
            [
                {
                    "messages": [
                        CHAT["messages"][0],
                        {"role": "assistant", "content": "x", "weight": 0},
                        *CHAT["messages"],
                    ]
                }
            ],
            "every assistant turn",
        ),
        (
            "llama-factory",
            [SHAREGPT, {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]}],
            "several names",
        ),
    ],
)
def test_rows_that_would_be_misread_are_refused(trainer, rows, reason):
    """No file that trains something else than was meant."""
    with pytest.raises(UsageError, match=reason):
        recipe(trainer, read(*rows), job())


def test_rows_framed_by_another_configuration_are_refused():
    """Rows that an Axolotl configuration of the user's turns into plain text have their configuration."""
    with pytest.raises(UsageError, match="that you have already"):
        recipe("axolotl", [(ALPACA, read(TEXT)[0][1])], job())


def test_images_are_refused():
    """They need a configuration of their own."""
    image = Turn("user", "Why?", parts=(Part("Why?"), Part(None, "{}")))
    rows = [(CHAT, Conversation((image, Turn("assistant", "So.", carries_loss=True))))]

    with pytest.raises(UsageError, match="images"):
        recipe("axolotl", rows, job())


def test_other_trainers_and_files_are_refused():
    """A trainer that nobody knows; a file that neither reads."""
    with pytest.raises(UsageError, match="unknown trainer"):
        recipe("other", read(CHAT), job())
    with pytest.raises(UsageError, match=r"train\.jsonl\.gz"):
        recipe("axolotl", read(CHAT), job(data="train.jsonl.gz"))


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory"])
@pytest.mark.parametrize("row", [CHAT, SHAREGPT, SHAREGPT_PAIR], ids=["chat", "sharegpt", "sharegpt pair"])
def test_what_is_written_reads_the_rows_alike(trainer, row, tmp_path):
    """Read back as a mapping, the configuration says of each row what its own format says."""
    files = recipe(trainer, read(row), job())
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    codec = codec_from_config(tmp_path / ("axolotl.yml" if trainer == "axolotl" else "dataset_info.json"), None)

    assert read(row)[0][1] == codec.read(row)
