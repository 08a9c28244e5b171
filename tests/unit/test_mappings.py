"""What the configurations of Axolotl and LLaMA-Factory say about rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vtuned.conversation import text_of
from vtuned.errors import DatasetError, UsageError
from vtuned.formats.base import Codec
from vtuned.formats.mappings import codec_from_config

Row = dict[str, Any]


@pytest.fixture
def configured(tmp_path: Path):
    """Return a function that writes a configuration and reads the codec of a data set from it."""

    def configure(config: str | dict[str, Any], data_name: str | None = None) -> Codec:
        is_json = isinstance(config, dict)
        path = tmp_path / ("dataset_info.json" if is_json else "config.yml")
        path.write_text(json.dumps(config, indent="\t") if is_json else config, encoding="utf-8")
        return codec_from_config(path, data_name)

    return configure


def says(codec: Codec, row: Row) -> list[tuple[str, str, bool]]:
    assert codec.recognises(row)
    return [(turn.role, turn.content, turn.carries_loss) for turn in codec.read(row).turns]


QA = [("user", "q", False), ("assistant", "a", True)]


class TestAxolotl:
    @pytest.mark.parametrize(
        ("entry", "row", "name"),
        [
            pytest.param(
                "type: chat_template",
                {"messages": [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a"}]},
                "axolotl:chat_template",
                id="chat",
            ),
            pytest.param(
                "path: x",
                {"messages": [{"role": "human", "content": "q"}, {"role": "assistant", "content": "a"}]},
                "axolotl:chat_template",
                id="no-type",
            ),
            pytest.param(
                "type: chat_template\n    field_messages: talk\n"
                "    message_property_mappings: {role: who, content: what}\n"
                "    roles: {user: [asker], assistant: [answerer]}",
                {"talk": [{"who": "asker", "what": "q"}, {"who": "answerer", "what": "a"}]},
                "axolotl:chat_template",
                id="mapped",
            ),
            pytest.param(
                "type: chat_template\n    message_field_role: from\n    message_field_content: value\n"
                "    roles_to_train: [assistant]\n    message_field_training: learn",
                {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "learn": True}]},
                "axolotl:chat_template",
                id="older-names",
            ),
            pytest.param(
                "type: sharegpt",
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
                "axolotl:sharegpt",
                id="sharegpt",
            ),
            pytest.param("type: alpaca", {"instruction": "q", "output": "a"}, "axolotl:alpaca", id="alpaca"),
            pytest.param(
                "type:\n      field_instruction: ask\n      field_output: tell",
                {"ask": "q", "tell": "a"},
                "axolotl:custom",
                id="custom",
            ),
        ],
    )
    def test_a_type_is_a_codec(self, configured, entry: str, row: Row, name: str) -> None:
        """With the names that the entry gives, and Axolotl's own for the rest."""
        codec = configured(f"base_model: x\ndatasets:\n  - {entry}\n")

        assert QA == says(codec, row)
        assert name == codec.name

    def test_a_message_that_is_not_trained_on(self, configured) -> None:
        """The key may have any name."""
        codec = configured("datasets:\n  - type: chat_template\n    message_field_training: learn\n")
        row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "learn": False}]}

        assert [("user", "q", False), ("assistant", "a", False)] == says(codec, row)

    def test_a_format_is_the_text_that_is_trained_on(self, configured) -> None:
        """The system prompt of the configuration included."""
        codec = configured(
            "datasets:\n  - path: data.jsonl\n    type:\n      system_prompt: 'Be {kind}.'\n"
            "      field_instruction: ask\n      field_input: more\n      field_output: tell\n"
            '      system_format: "<<{system}>>\\n"\n'
            "      format: '[INST] {instruction} {input} [/INST]'\n"
            "      no_input_format: '[INST] {instruction} [/INST]'\n"
        )
        full, bare = {"ask": "q", "more": "x", "tell": "a"}, {"ask": "q", "more": "", "tell": "a"}

        assert "<<Be {kind}.>>\n[INST] q x [/INST]a" == text_of(codec.read(full).turns)
        assert "<<Be {kind}.>>\n[INST] q [/INST]a" == text_of(codec.read(bare).turns)
        assert [("user", "q x", False), ("assistant", "a", True)] == says(codec, full)
        assert codec.read(full).is_text

    def test_a_system_prompt_of_the_row_goes_first(self, configured) -> None:
        """Then the one of the configuration is not used."""
        codec = configured(
            "datasets:\n  - type:\n      system_prompt: no\n      field_system: sys\n      field_instruction: ask\n"
            "      field_output: tell\n      system_format: '{system}|'\n      format: '{instruction}|'\n"
        )

        assert "s|q|a" == text_of(codec.read({"sys": "s", "ask": "q", "tell": "a"}).turns)
        assert "q|a" == text_of(codec.read({"ask": "q", "tell": "a"}).turns)

    def test_preferences(self, configured) -> None:
        """With `rl`, messages have two answers; argilla's have the prompt in both."""
        answers = {"good": {"role": "assistant", "content": "a"}, "rejected": {"role": "assistant", "content": "b"}}
        codec = configured("rl: dpo\ndatasets:\n  - type: chat_template.default\n    field_chosen: good\n")
        row = {"messages": [{"role": "user", "content": "q"}], **answers}
        argilla = configured("rl: dpo\ndatasets:\n  - type: chat_template.argilla_chat\n")
        custom = configured("rl: dpo\ndatasets:\n  - type:\n      field_prompt: p\n      field_chosen: good\n")
        full = {"chosen": [*row["messages"], answers["good"]], "rejected": [*row["messages"], answers["rejected"]]}

        assert QA == says(codec, row) == says(argilla, full)
        assert ["b"] == [turn.content for turn in codec.read(row).rejected]
        assert QA == says(custom, {"p": "q", "good": "a", "rejected": "b"})
        assert not codec.recognises({"messages": []})

    @pytest.mark.parametrize(
        ("entry", "reason", "hint"),
        [
            ("type: completion", "plain text", "--template"),
            ("type: input_output", "who speaks", "convert"),
            ("type: jeopardy", "'jeopardy' is not read", "chat_template, alpaca"),
            ("type: [x]", "is not read", "chat_template"),
            ("type: chat_template\n    roles_to_train: [user]", "no assistant turn", "roles_to_train"),
            ("type: chat_template\n    roles: {robot: [x]}", "unknown role 'robot'", "known roles"),
            ("type: {format: x}", "cannot use the format", "{instruction}"),
        ],
    )
    def test_what_is_not_read_has_a_reason(self, configured, entry: str, reason: str, hint: str) -> None:
        """And a way out."""
        with pytest.raises(UsageError, match=reason) as caught:
            configured(f"datasets:\n  - {entry}\n")
        assert hint in caught.value.hint


class TestLlamaFactory:
    @pytest.mark.parametrize(
        ("entry", "row"),
        [
            pytest.param({}, {"instruction": "q", "input": "", "output": "a"}, id="alpaca"),
            pytest.param(
                {"columns": {"prompt": "x", "response": "y"}}, {"x": "q", "y": "a", "input": "z"}, id="mapped"
            ),
            pytest.param(
                {"ranking": True, "columns": {"prompt": "x", "chosen": "c", "rejected": "r"}},
                {"x": "q", "c": "a", "r": "b"},
                id="ranked",
            ),
            pytest.param(
                {"formatting": "sharegpt"},
                {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
                id="sharegpt",
            ),
            pytest.param(
                {
                    "formatting": "sharegpt",
                    "columns": {"messages": "m"},
                    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "U", "assistant_tag": "A"},
                },
                {"m": [{"role": "U", "content": "q"}, {"role": "A", "content": "a"}]},
                id="tags",
            ),
            pytest.param(
                {"formatting": "sharegpt", "ranking": True, "columns": {"chosen": "c", "rejected": "r"}},
                {
                    "conversations": [{"from": "human", "value": "q"}],
                    "c": {"from": "gpt", "value": "a"},
                    "r": {"from": "gpt", "value": "b"},
                },
                id="sharegpt-ranked",
            ),
        ],
    )
    def test_an_entry_is_a_codec(self, configured, entry: dict[str, Any], row: Row) -> None:
        """Columns that an entry does not list, where it lists any, are not there."""
        codec = configured({"mine": {"file_name": "data.json", **entry}})

        assert QA == says(codec, row)
        assert "llama-factory:mine" == codec.name

    def test_all_columns(self, configured) -> None:
        """System prompt, history, tools and the tag of unwanted answers."""
        columns = {"prompt": "p", "query": "x", "response": "r", "system": "s", "history": "h", "tools": "t"}
        codec = configured({"mine": {"columns": {**columns, "kto_tag": "k"}}})
        row = {"p": "q", "x": "x", "r": "a", "s": "s", "h": [["q", "a"]], "t": '[{"name": "f"}]', "k": True}

        assert [("system", "s", False), *QA, ("user", "q\nx", False), ("assistant", "a", True)] == says(codec, row)
        assert '"name":"f"' in codec.read(row).tools
        assert not any(loss for _, _, loss in says(codec, {**row, "k": False}))

    def test_an_unwanted_conversation(self, configured) -> None:
        """The tag may stand beside messages too; without it the row is an ordinary one."""
        codec = configured({"mine": {"formatting": "sharegpt", "columns": {"messages": "m", "kto_tag": "k"}}})
        row = {"m": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}

        assert QA == says(codec, row) == says(codec, {**row, "k": True})
        assert [("user", "q", False), ("assistant", "a", False)] == says(codec, {**row, "k": False})

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ({"formatting": "xml"}, "unknown formatting 'xml'"),
            ({"columns": []}, "columns must name columns"),
            ({"columns": {"prompt": 5}}, "columns must name columns"),
            ({"columns": {"response": "r"}}, "no prompt under columns"),
            ({"columns": {"prompt": "p"}}, "no response under columns"),
            ({"ranking": True, "columns": {"prompt": "p", "chosen": "c"}}, "no rejected under columns"),
            ({"ranking": True}, "no chosen under columns"),
            ({"formatting": "sharegpt", "ranking": True}, "no chosen and rejected"),
        ],
    )
    def test_what_is_not_read_has_a_reason(self, configured, entry: dict[str, Any], reason: str) -> None:
        """And a way out."""
        with pytest.raises(UsageError, match=reason) as caught:
            configured({"mine": entry})
        assert caught.value.hint


class TestChoosing:
    TWO = "datasets:\n  - {path: a/one.jsonl, type: alpaca}\n  - {path: json, data_files: [b/two.jsonl], type: sharegpt}\n"

    @pytest.mark.parametrize("name", ["one.jsonl", "a/one.jsonl", "/other/one.jsonl"])
    def test_an_entry_is_found_by_its_file(self, configured, name: str) -> None:
        """Folders may differ between here and there."""
        assert "axolotl:alpaca" == configured(self.TWO, name).name
        assert "axolotl:sharegpt" == configured(self.TWO, name.replace("one", "two")).name

    @pytest.mark.parametrize("name", ["second", "two.json", "data/second.jsonl"])
    def test_an_entry_is_found_by_its_name(self, configured, name: str) -> None:
        """LLaMA-Factory's entries have names of their own."""
        config = {"first": {"file_name": "one.json"}, "second": {"file_name": "two.json"}}

        assert "llama-factory:second" == configured(config, name).name

    def test_the_only_entry_needs_no_name(self, configured) -> None:
        """Nor one that fits."""
        assert "axolotl:alpaca" == configured("datasets:\n  - {path: x, type: alpaca}\n", "other.jsonl").name
        assert "axolotl:alpaca" == configured("datasets:\n  - {path: x, type: alpaca}\n").name

    @pytest.mark.parametrize("name", [None, "three.jsonl"])
    def test_several_entries_need_one(self, configured, name: str | None) -> None:
        """The hint lists them."""
        with pytest.raises(UsageError, match="in this configuration") as caught:
            configured(self.TWO, name)
        assert "a/one.jsonl, json" in caught.value.hint

    @pytest.mark.parametrize("config", ["datasets: []\n", "[1]\n", "x: 1\n", "", "just text"])
    def test_no_configuration_at_all(self, configured, config: str) -> None:
        """The hint says what is meant."""
        with pytest.raises(UsageError) as caught:
            configured(config)
        assert "dataset_info.json" in caught.value.hint

    @pytest.mark.parametrize("config", ["a: [", "{", "\x00", "{'a': 1}"])
    def test_no_yaml(self, configured, config: str) -> None:
        """What cannot be parsed is an error with its place, not a crash."""
        with pytest.raises(DatasetError, match="neither YAML nor JSON") as caught:
            configured(config)
        assert "\n" not in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        """The reader raises what the door to disk raises."""
        with pytest.raises(DatasetError, match="cannot read"):
            codec_from_config(tmp_path / "none.yml", None)

    def test_no_code_is_run(self, configured) -> None:
        """A configuration is data."""
        with pytest.raises(DatasetError):
            configured("datasets: !!python/object/apply:os.getcwd []\n")
