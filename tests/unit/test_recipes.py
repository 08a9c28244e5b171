"""Configurations of other trainers: they hold what those ask for, and rows that they would misread are refused."""

from __future__ import annotations

import json

import pytest
import yaml

from vtuned import formats
from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import UsageError
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.frames import ALPACA_FRAME
from vtuned.formats.mappings import codec_from_config
from vtuned.formats.messages import MessageKeys
from vtuned.formats.openai_chat import OPENAI_CHAT
from vtuned.formats.sharegpt import MessagesMapping
from vtuned.formats.text import TextTemplate
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

QA = TextTemplate("Q: {prompt}\nA: {response}")
SPOKEN = {"talk": [{"speaker": "customer", "words": "Why?"}, {"speaker": "agent", "words": "So."}]}
SPEAKERS = MessagesMapping(
    messages="talk", keys=(MessageKeys("speaker", "words", {"customer": "user", "agent": "assistant"}),)
)
TOOLS = [{"type": "function", "function": {"name": "look_up"}}]
FRAMED = ColumnMapping(prompt="instruction", query="input", response="output", frame=ALPACA_FRAME)

SETTINGS = TrainingSettings(epochs=4, batch_size=8, learning_rate=2e-4, rank=16, alpha=64, max_tokens=512, seed=7)


def render(prompt):
    """Render as a model with a template does."""
    return "".join(f"<{m['role']}>{{{m['content']}}}" for m in prompt) + "<assistant>"


def job(settings=SETTINGS, data="../train.jsonl"):
    return Job(data=data, base="some/model", settings=settings, render=render)


def read(*values, codec=None):
    """Return rows as (value, codec, conversation), as *codec* or the one that recognises them reads them."""
    made = []
    for value in values:
        own = codec or (QA if "text" in value else next(c for c in formats.CODECS if c.recognises(value)))
        made.append((value, own, own.read(value)))
    return made


def axolotl(*values, codec=None, **settings):
    """Return the Axolotl configuration for rows."""
    files = recipe("axolotl", read(*values, codec=codec), job(TrainingSettings(**settings) if settings else SETTINGS))
    return yaml.safe_load(files["axolotl.yml"])


def llama_factory(*values, codec=None, **settings):
    """Return LLaMA-Factory's (dataset entry, training configuration) for rows."""
    rows = read(*values, codec=codec)
    files = recipe("llama-factory", rows, job(TrainingSettings(**settings) if settings else SETTINGS))
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
        ("llama-factory", [OPENAI_PAIR], "nested"),
        ("llama-factory", [MESSAGES_PAIR], "must be texts"),
        ("llama-factory", [WHOLE_PAIR], "must be apart"),
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
        recipe("axolotl", read(ALPACA, codec=FRAMED), job())


def test_images_are_refused():
    """They need a configuration of their own."""
    image = Turn("user", "Why?", parts=(Part("Why?"), Part(None, "{}")))
    rows = [(CHAT, OPENAI_CHAT, Conversation((image, Turn("assistant", "So.", carries_loss=True))))]

    with pytest.raises(UsageError, match="images"):
        recipe("axolotl", rows, job())


def test_other_trainers_and_files_are_refused():
    """A trainer that nobody knows; a file that neither reads."""
    with pytest.raises(UsageError, match="unknown trainer"):
        recipe("other", read(CHAT), job())
    with pytest.raises(UsageError, match=r"train\.jsonl\.gz"):
        recipe("axolotl", read(CHAT), job(data="train.jsonl.gz"))


@pytest.mark.parametrize("trainer", ["axolotl", "llama-factory"])
@pytest.mark.parametrize(
    ("row", "given"),
    [
        (CHAT, None),
        (SHAREGPT, None),
        (SHAREGPT_PAIR, None),
        (SPOKEN, SPEAKERS),
        ({"system": "Be brief.", **CHAT}, None),
        ({**CHAT, "label": "sports"}, None),
    ],
    ids=["chat", "sharegpt", "sharegpt pair", "other names", "system column", "class column"],
)
def test_what_is_written_reads_the_rows_alike(trainer, row, given, tmp_path):
    """Read back as a mapping, the configuration says of each row what its own format says."""
    rows = read(row, codec=given)
    for name, content in recipe(trainer, rows, job()).items():
        (tmp_path / name).write_bytes(content)
    codec = codec_from_config(tmp_path / ("axolotl.yml" if trainer == "axolotl" else "dataset_info.json"), None)

    assert rows[0][2] == codec.read(row)


class TestTheCodecDecides:
    """Not the names of keys that happen to be in the rows."""

    def test_speakers_under_other_names(self):
        """Both are told what messages call their role, their words and who is who."""
        entry = axolotl(SPOKEN, codec=SPEAKERS)["datasets"][0]
        tags = llama_factory(SPOKEN, codec=SPEAKERS)[0]["tags"]

        assert ("talk", {"role": "speaker", "content": "words"}, {"assistant": ["agent"], "user": ["customer"]}) == (
            entry["field_messages"],
            entry["message_property_mappings"],
            entry["roles"],
        )
        assert {"role_tag": "speaker", "content_tag": "words", "user_tag": "customer", "assistant_tag": "agent"} == tags

    def test_columns_the_other_way_round(self):
        """A prompt in the column completion is one all the same."""
        codec = ColumnMapping(prompt="completion", response="prompt")
        custom = axolotl(COLUMNS, codec=codec)["datasets"][0]["type"]

        assert ("completion", "prompt") == (custom["field_instruction"], custom["field_output"])
        assert {"prompt": "completion", "response": "prompt"} == llama_factory(COLUMNS, codec=codec)[0]["columns"]

    def test_a_system_column_of_any_name(self):
        """The column is named, and the format has Axolotl's own field in it."""
        codec = ColumnMapping(prompt="prompt", response="completion", system="sys")
        row = {**COLUMNS, "sys": "Be brief."}
        custom = axolotl(row, codec=codec)["datasets"][0]["type"]

        assert ("sys", "<system>{{{system}}}") == (custom["field_system"], custom["system_format"])
        assert "sys" == llama_factory(row, codec=codec)[0]["columns"]["system"]

    def test_columns_that_are_not_read(self):
        """An input that vtuned does not read is not made part of the prompt, nor a system prompt shown."""
        row = {**COLUMNS, "input": "Now.", "system": "Be brief.", "history": [["a", "b"]]}

        assert {"prompt": "prompt", "response": "completion"} == llama_factory(row)[0]["columns"]
        assert {"field_instruction", "field_output", "format", "no_input_format"} == set(
            axolotl(row)["datasets"][0]["type"]
        )

    def test_tools_are_shown_or_refused(self):
        """Where a trainer takes them in the form of the rows it is told; else the rows are refused."""
        text = json.dumps(TOOLS)

        assert "tools" == llama_factory({**COLUMNS, "tools": text})[0]["columns"]["tools"]
        assert "tools" == llama_factory({**SHAREGPT, "tools": text})[0]["columns"]["tools"]
        assert "chat_template" == axolotl({**CHAT, "tools": TOOLS})["datasets"][0]["type"]

    def test_calls_in_turns_of_their_own(self):
        """LLaMA-Factory knows no tag that it was not told."""
        call = {"from": "function_call", "value": '{"name": "look_up", "arguments": {}}'}
        observed = {"from": "observation", "value": "old"}
        human, gpt = SHAREGPT["conversations"]
        tags = llama_factory({"conversations": [human, call, observed, gpt]})[0]["tags"]

        assert ("function_call", "observation") == (tags["function_tag"], tags["observation_tag"])

    def test_a_class_column_is_no_label(self):
        """Only what the codec reads as a label is one."""
        assert "chat_template" == axolotl({**CHAT, "label": True})["datasets"][0]["type"]
        assert "chat_template" == axolotl({**CHAT, "kto_tag": "x"})["datasets"][0]["type"]

    def test_a_text_column_of_any_name(self):
        """Plain text wherever the user said that it is."""
        codec = TextTemplate("Q: {prompt}\nA: {response}", column="body")
        row = {"body": TEXT["text"], "text": "nothing"}

        assert "body" == axolotl(row, codec=codec)["datasets"][0]["field"]
        assert {"prompt": "body"} == llama_factory(row, codec=codec)[0]["columns"]

    def test_which_answers_are_trained_on(self):
        """The key of a mapping that says so, where there is need of one."""
        keys = (MessageKeys(train="learn"),)
        messages = [*CHAT["messages"][:1], {**CHAT["messages"][1], "learn": False}, *CHAT["messages"]]
        entry = axolotl({"messages": messages}, codec=MessagesMapping(messages="messages", keys=keys))["datasets"][0]

        assert "learn" == entry["message_field_training"]


@pytest.mark.parametrize(
    ("trainer", "row", "codec", "reason"),
    [
        ("axolotl", {**COLUMNS, "tools": TOOLS}, None, "tools .* left out"),
        ("llama-factory", {**COLUMNS, "tools": TOOLS}, None, "must be JSON text"),
        ("llama-factory", {**CHAT, "functions": [{"name": "f"}]}, None, "must be JSON text"),
        ("axolotl", {**CHAT, "functions": [{"name": "f"}]}, None, "must be a list"),
        ("axolotl", {**CHAT, "tools": json.dumps(TOOLS)}, None, "must be a list"),
        ("axolotl", {**SPOKEN, "system": "x"}, SPEAKERS, "column system"),
        ("axolotl", {**SPOKEN, "tools": TOOLS}, SPEAKERS, "column tools"),
        ("axolotl", {**CHAT, "sys": "x"}, MessagesMapping(messages="messages", system="sys"), "not sys"),
        ("axolotl", {"data": COLUMNS}, ColumnMapping(prompt="data.prompt", response="data.completion"), "nested"),
        ("llama-factory", {**COLUMNS, "label": False}, None, "KTO"),
        ("axolotl", {**ALPACA, "instruction": ""}, None, "input alone"),
        (
            "axolotl",
            {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "train_detail": [1]}]},
            OPENAI_CHAT,
            "key",
        ),
        (
            "axolotl",
            {
                **PAIR,
                "chosen": "\n\nHuman: a\n\nAssistant: b",
                "prompt": None,
                "rejected": "\n\nHuman: a\n\nAssistant: c",
            },
            None,
            "dialogues",
        ),
        ("axolotl", {**MESSAGES_PAIR, "chosen": [*MESSAGES_PAIR["chosen"], *CHAT["messages"]]}, None, "one message"),
        ("axolotl", {**SHAREGPT_PAIR, "system": "Be brief."}, None, "system would be left out"),
        (
            "llama-factory",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, CHAT["messages"][1]]},
            None,
            "must be texts",
        ),
    ],
)
def test_what_a_trainer_cannot_say_is_refused(trainer, row, codec, reason):
    """With the reason; nothing is dropped in silence."""
    with pytest.raises(UsageError, match=reason):
        recipe(trainer, read(row, codec=codec), job())


@pytest.mark.parametrize(
    ("rows", "reason"), [([ALPACA, ALPACA_PAIR], "another way"), ([SHAREGPT, SHAREGPT_PAIR], "another way")]
)
def test_rows_of_two_kinds_are_refused(rows, reason):
    """One configuration has one way to read them."""
    with pytest.raises(UsageError, match=reason):
        recipe("axolotl", read(*rows), job())
