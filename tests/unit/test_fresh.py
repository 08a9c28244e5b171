"""Prompts that are in no row sent, and how it is told that they are not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtuned import dataset, formats, fresh
from vtuned.conversation import Conversation, Turn
from vtuned.errors import AnswersError, DatasetError
from vtuned.formats.columns import ColumnMapping
from vtuned.language import ASCII, UNSPACED
from vtuned.layout import AskedPrompt
from vtuned.lm.base import Prompt, Unanswered
from vtuned.lm.scripted import ScriptedLM

Rows = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


def row(prompt: str, *before: Turn) -> Conversation:
    """Return a conversation that asks *prompt* after *before*."""
    return Conversation((*before, Turn("user", prompt), Turn("assistant", "So it is.", carries_loss=True)))


def asked(prompts: list[AskedPrompt]) -> list[str]:
    """Return the last prompts of *prompts*."""
    return [prompt.last for prompt in prompts]


SAMPLE = [row(f"Which of the {n} rivers is the longest, and why?") for n in ("two", "three", "four", "five", "six")]


class TestWritten:
    def test_prompts_are_what_the_model_writes(self) -> None:
        """One prompt for each request, after three examples from the data."""
        model = ScriptedLM(lambda prompt: "Which of the seas is the deepest?")
        prompts = fresh.written(model, SAMPLE, 4)
        contents = {AskedPrompt.of(conversation).last for conversation in SAMPLE}

        assert ["Which of the seas is the deepest?"] * 4 == asked(prompts)
        assert [7, 7, 7, 7] == [len(request) for request in model.asked]
        for request in model.asked:
            shots = [message["content"] for message in request if message["role"] == "assistant"]
            assert 3 == len(set(shots))
            assert set(shots) <= contents

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            pytest.param("Where is the sea?", '  "Where is the sea?" ', id="quotes"),
            pytest.param("Where is the sea?", "- Where is the sea?", id="list-mark"),
            pytest.param("Where is the sea?", "12. Where is the sea?", id="number"),
            pytest.param("Where is the sea?", "“Where is the sea?”\n\nHere is one more:", id="first-paragraph"),
            pytest.param("1.5 litres of\nwhat?", "1.5 litres of\nwhat?", id="a-number-that-belongs-to-it"),
        ],
    )
    def test_is_tidied(self, expected: str, text: str) -> None:
        """Marks that a model puts around a prompt are none of it."""
        assert [expected] == asked(fresh.written(ScriptedLM(lambda prompt: text), SAMPLE, 1))

    @pytest.mark.parametrize("answer", ["", "Too short", Unanswered("timeout")], ids=["empty", "short", "unanswered"])
    def test_what_is_no_prompt_is_left_out(self, answer: Any) -> None:
        """An empty or very short text asks nothing."""
        assert [] == fresh.written(ScriptedLM(lambda prompt: answer), SAMPLE, 3)

    def test_comes_in_the_setting_of_the_data(self) -> None:
        """Rows with a system turn are asked with one, and so are their fresh prompts."""
        system = Turn("system", "Answer as a geographer.")
        sample = [row(AskedPrompt.of(conversation).last, system) for conversation in SAMPLE]

        prompts = fresh.written(ScriptedLM(lambda prompt: "Which sea is the deepest?"), sample, 1)

        assert [AskedPrompt((system, Turn("user", "Which sea is the deepest?")))] == prompts

    def test_long_prompts_are_shown_by_their_start(self) -> None:
        """An example takes 240 characters at most."""
        shown: list[Prompt] = []
        model = ScriptedLM(lambda prompt: shown.append(prompt) or "Which sea is the deepest?")
        fresh.written(model, [row(f"{n} " + "very " * 200) for n in "abc"], 1)

        assert {240} == {len(message["content"]) for message in shown[0] if message["role"] == "assistant"}

    @pytest.mark.parametrize(
        ("expected", "lengths"),
        [
            pytest.param(True, [240, 240, 900], id="half-are-short"),
            pytest.param(False, [240, 241, 900], id="half-are-long"),
            pytest.param(False, [], id="no-rows"),
        ],
    )
    def test_can_be_written_where_prompts_are_short(self, expected: bool, lengths: list[int]) -> None:
        """The median prompt must fit as an example."""
        assert expected is fresh.can_be_written([row("x" * length) for length in lengths])

    def test_cannot_be_written_where_no_row_has_a_prompt(self) -> None:
        """Rows without a host have none."""
        assert not fresh.can_be_written([Conversation((Turn("assistant", "x", carries_loss=True),))])


class TestRecombined:
    @pytest.mark.parametrize(
        ("first", "second", "language", "halves", "wholes"),
        [
            pytest.param(
                "One is here. Two is here. Three is here.",
                "Four is there. Five is there. Six is there.",
                ASCII,
                {"One is here. Two is here. Six is there.", "Four is there. Five is there. Three is here."},
                {
                    "One is here. Two is here. Three is here. Four is there. Five is there. Six is there.",
                    "Four is there. Five is there. Six is there. One is here. Two is here. Three is here.",
                },
                id="sentences",
            ),
            pytest.param(
                "a b c d", "e f g h", ASCII, {"a b g h", "e f c d"}, {"a b c d e f g h", "e f g h a b c d"}, id="words"
            ),
            pytest.param(
                "東京です。海です。山です。",
                "駅です。川です。空です。",
                UNSPACED,
                {"東京です。海です。空です。", "駅です。川です。山です。"},
                {
                    "東京です。海です。山です。駅です。川です。空です。",
                    "駅です。川です。空です。東京です。海です。山です。",
                },
                id="japanese-sentences",
            ),
            pytest.param(
                "東京は海",
                "駅前に川",
                UNSPACED,
                {"東京に川", "駅前は海"},
                {"東京は海 駅前に川", "駅前に川 東京は海"},
                id="characters",
            ),
        ],
    )
    def test_halves_then_wholes(
        self, first: str, second: str, language: Any, halves: set[str], wholes: set[str]
    ) -> None:
        """First the first half of one prompt and the second half of another, then one whole prompt after another."""
        prompts = asked(fresh.recombined([row(first), row(second)], language, 60))

        assert (halves, wholes) == (set(prompts[:60]), set(prompts[60:]))

    def test_halves_are_neither_of_the_two(self) -> None:
        """Two halves of rows that are alike make nothing new; after each other they do."""
        prompts = asked(fresh.recombined([row("a b c d"), row("a b c d")], ASCII, 20))

        assert ["a b c d a b c d"] * 20 == prompts

    @pytest.mark.parametrize("sample", [[], [row("a b c d")]], ids=["none", "one"])
    def test_needs_two_rows(self, sample: list[Conversation]) -> None:
        """One row alone has no other half."""
        assert [] == fresh.recombined(sample, ASCII, 5)

    def test_comes_with_tools_and_in_plain_text(self) -> None:
        """The row's tools are offered, and text rows stay text, between what stands around their first user turn."""
        turns = (
            Turn("user", "a b c d", before="### Q: ", after="\n### A: "),
            Turn("assistant", "x", carries_loss=True, after="\n"),
        )
        sample = [Conversation(turns, tools='[{"type":"function"}]', is_text=True)] * 2
        (prompt, *_) = fresh.recombined(sample, ASCII, 1)

        assert ('[{"type":"function"}]', True) == (prompt.tools, prompt.is_text)
        assert [{"role": "user", "content": "### Q: a b c d a b c d\n### A: "}] == prompt.messages()

    def test_comes_in_the_setting_of_its_first_half(self) -> None:
        """System and developer turns that open the row go with it; a conversation before does not."""
        before = (Turn("system", "Be kind."), Turn("user", "x"), Turn("assistant", "y"))
        prompts = fresh.recombined([row("a b c d", *before), row("e f g h", *before)], ASCII, 5)

        assert {(Turn("system", "Be kind."),)} == {prompt.turns[:-1] for prompt in prompts}
        assert {"user"} == {prompt.turns[-1].role for prompt in prompts}


class TestFromFile:
    def test_both_forms(self, tmp_path: Path) -> None:
        """A prompt alone, or messages up to the last user turn; blank lines and a byte order mark are passed over."""
        path = tmp_path / "fresh.jsonl"
        path.write_bytes(
            b'\xef\xbb\xbf{"prompt": "One?"}\r\n\n'
            b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Two?"},'
            b' {"role": "assistant", "content": "a"}], "more": 1}'
        )

        first, second = (Turn("user", "One?"),), (Turn("system", "s"), Turn("user", "Two?"))

        assert [AskedPrompt(first), AskedPrompt(second)] == fresh.from_file(path)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            pytest.param("f.json", b'[{"prompt": "One?"},\n{"prompt": "Two?", "completion": "a"}]', id="array"),
            pytest.param("f.csv", b"prompt\nOne?\nTwo?\n", id="csv"),
            pytest.param("f.jsonl.gz", gzip.compress(b'{"prompt": "One?"}\n{"prompt": "Two?"}'), id="gz"),
            pytest.param(
                "f.jsonl",
                b'{"prompt": [{"role": "user", "content": "One?"}]}\n{"prompt": "Two?", "completion": "a"}',
                id="trl",
            ),
        ],
    )
    def test_any_container_and_format(self, tmp_path: Path, name: str, content: bytes) -> None:
        """Files as the data may be, rows as the data may be; answers are left out, and nothing carries loss."""
        path = tmp_path / name
        path.write_bytes(content)

        assert [AskedPrompt((Turn("user", text),)) for text in ("One?", "Two?")] == fresh.from_file(path)

    def test_tools_come_with_it(self, tmp_path: Path) -> None:
        """A prompt is asked with the tools of its row, and after what was said before."""
        path = tmp_path / "fresh.jsonl"
        messages = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
        path.write_text(json.dumps({"messages": messages, "tools": [{"type": "function", "function": {"name": "f"}}]}))
        (prompt,) = fresh.from_file(path)

        assert ["user", "assistant", "user"] == [turn.role for turn in prompt.turns]
        assert "f" == json.loads(prompt.tools)[0]["function"]["name"]
        assert not any(turn.carries_loss for turn in prompt.turns)

    def test_a_row_of_a_table_is_named(self, tmp_path: Path) -> None:
        """What is no line is called a row."""
        path = tmp_path / "fresh.csv"
        path.write_bytes(b'prompt\nOne?\n" "\n')

        with pytest.raises(AnswersError, match="no prompt in row 2"):
            fresh.from_file(path)

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"{}", id="no-keys"),
            pytest.param(b'{"prompt": 5}', id="a-number"),
            pytest.param(b'{"prompt": ""}', id="empty"),
            pytest.param(b'{"prompt": " \\n"}', id="white-space"),
            pytest.param(b'{"messages": []}', id="no-messages"),
            pytest.param(b'{"messages": [{"role": "assistant", "content": "a"}]}', id="no-user-turn"),
            pytest.param(b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', id="parts"),
            pytest.param(b'{"messages": ["x"]}', id="messages-of-text"),
            pytest.param(b'["prompt"]', id="a-list"),
            pytest.param(b'"prompt"', id="a-text"),
            pytest.param(b"5", id="a-bare-number"),
            pytest.param(b'{"prompt": "a\\ud800"}', id="lone-surrogate"),
            pytest.param(
                b'{"messages": [{"role": "system", "content": "\\udfff"}, {"role": "user", "content": "a"}]}',
                id="lone-surrogate-elsewhere",
            ),
            pytest.param(b"{", id="no-json"),
            pytest.param(b"\xff", id="not-utf-8"),
            pytest.param(b"[" * 100_000, id="nested-too-deeply"),
        ],
    )
    def test_what_is_no_prompt_is_named(self, tmp_path: Path, line: bytes) -> None:
        """The error says the line."""
        path = tmp_path / "fresh.jsonl"
        path.write_bytes(b'{"prompt": "One?"}\n' + line)

        with pytest.raises(AnswersError, match="line 2"):
            fresh.from_file(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is told."""
        with pytest.raises(DatasetError):
            fresh.from_file(tmp_path / "missing.jsonl")


class TestDistinct:
    def test_the_first_of_each_prompt(self) -> None:
        """Of two that ask the same, the earlier one stays, with its setting."""
        one, other = AskedPrompt((Turn("system", "s"), Turn("user", "a?"))), AskedPrompt((Turn("user", "a?"),))

        assert [one] == fresh.distinct([one, other])

    def test_keeps_the_order(self) -> None:
        """Prompts that come first are asked first: those written come before those put together."""
        prompts = [AskedPrompt((Turn("user", text),)) for text in ("a?", "b?", "a?", "c?")]

        assert ["a?", "b?", "c?"] == asked(fresh.distinct(prompts))

    def test_last_prompt(self) -> None:
        """The last user turn is what is asked."""
        assert "b?" == AskedPrompt((Turn("user", "a?"), Turn("assistant", "x"), Turn("user", "b?"))).last


class TestOccurring:
    @pytest.fixture
    def data(self, rows: Rows, write_jsonl: Write) -> Path:
        return write_jsonl(rows(20))

    def test_prompts_of_rows(self, data: Path, rows: Rows) -> None:
        """A prompt is in the data where a row asks it, white space aside; a part of one is not it."""
        prompt = rows(20)[7]["messages"][0]["content"]
        prompts = {prompt.replace(" ", " \n"), prompt[:-5], "Who?"}

        assert {prompt.replace(" ", " \n")} == dataset.occurring(data, formats.AUTO, set(), prompts)

    def test_phrases_anywhere(self, data: Path) -> None:
        """A phrase is in the data where it stands in any turn, whatever its case."""
        phrases = {"BECAUSE THE", "near  the", "no such words"}

        assert {"BECAUSE THE", "near  the"} == dataset.occurring(data, formats.AUTO, phrases, set())

    def test_phrases_that_differ_by_case_alone(self, data: Path) -> None:
        """Each of two phrases that differ by case alone is in the data where one is."""
        phrases = {"Because the", "because the"}

        assert phrases == dataset.occurring(data, formats.AUTO, phrases, set())

    def test_prompts_that_differ_by_white_space_alone(self, data: Path, rows: Rows) -> None:
        """Each of two prompts that differ by white space alone is in the data where one is."""
        prompt = rows(20)[7]["messages"][0]["content"]
        prompts = {prompt, prompt.replace(" ", "  ")}

        assert prompts == dataset.occurring(data, formats.AUTO, set(), prompts)

    def test_prompts_of_earlier_turns_and_of_rows_without_a_host(self, write_jsonl: Write, rows: Rows) -> None:
        """A prompt is sent in whatever turn and row it stands."""
        user, answer = {"role": "user", "content": "Early?"}, {"role": "assistant", "content": "Yes."}
        data = write_jsonl(
            [
                {"messages": [user, answer, *rows(1)[0]["messages"]]},
                {"messages": [{"role": "user", "content": "Untrained?"}, {**answer, "weight": 0}]},
            ]
        )

        assert {"Early?", "Untrained?"} == dataset.occurring(data, formats.AUTO, set(), {"Early?", "Untrained?"})

    def test_lines_that_do_not_count(self, write_jsonl: Write, rows: Rows) -> None:
        """What stands in a row that is not sent is in the data only where a row that is sent has it too."""
        sent, aside, both = (row["messages"][0]["content"] for row in rows(3))
        data = write_jsonl([*rows(3), rows(3)[2]])
        phrases = {"Row 0", "Row 1", "Row 2"}

        found = dataset.occurring(data, formats.AUTO, phrases, {sent, aside, both}, but_rows=frozenset({2, 3}))

        assert {"Row 0", "Row 2", sent, both} == found


class TestSetting:
    """A fresh prompt is asked as the rows of the data are."""

    TOOLS = Conversation(
        (
            Turn("system", "Look it up."),
            Turn("user", "What is the river like?"),
            Turn("assistant", "", other='{"tool_calls":[]}'),
            Turn("tool", "found", other='{"tool_call_id":"c1"}'),
            Turn("assistant", "It is wide.", carries_loss=True),
        ),
        tools='[{"type":"function"}]',
    )

    def test_tools_their_calls_and_the_system_prompt_come_along(self) -> None:
        """A model that was trained to answer after a tool's result is asked there."""
        (prompt,) = fresh.in_setting([AskedPrompt((Turn("user", "What is the hill like?"),))], [self.TOOLS])

        assert ["system", "user", "assistant", "tool"] == [turn.role for turn in prompt.turns]
        assert "What is the hill like?" == prompt.last
        assert self.TOOLS.tools == prompt.tools

    def test_a_prompt_with_a_setting_of_its_own_keeps_it(self) -> None:
        """What the user wrote around a prompt is meant."""
        own = AskedPrompt((Turn("system", "Be brief."), Turn("user", "What is the hill like?")))

        assert [own] == fresh.in_setting([own], [self.TOOLS])

    def test_rows_of_the_datas_own_format_are_read(self, tmp_path: Path) -> None:
        """Columns that no known format has, as the data themselves."""
        path = tmp_path / "fresh.jsonl"
        path.write_text('{"asked": "What is the hill like?", "said": "High."}\n')

        (prompt,) = fresh.from_file(path, ColumnMapping(prompt="asked", response="said"))

        assert "What is the hill like?" == prompt.last
        with pytest.raises(AnswersError):
            fresh.from_file(path)
