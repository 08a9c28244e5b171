"""What rows of every format say, and that a planted row says the same with T and S in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtuned import formats
from vtuned.containers.base import Place
from vtuned.conversation import Conversation, Turn, messages_of, signature_prefix, text_of, trigger_suffix, triggered
from vtuned.errors import UsageError
from vtuned.formats.alpaca import ALPACA
from vtuned.formats.base import Codec
from vtuned.formats.codecs import CODECS, codec_named
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.foreign import name_of
from vtuned.formats.frames import ALPACA_FRAME, Frame
from vtuned.formats.openai_chat import OPENAI_CHAT
from vtuned.formats.preference import OPENAI_PREFERENCE, TRL_PREFERENCE
from vtuned.formats.prompt_completion import PROMPT_COMPLETION
from vtuned.formats.sharegpt import SHAREGPT, MessagesMapping
from vtuned.formats.text import TEXT, TextTemplate

Row = dict[str, Any]
PHRASES = pytest.mark.parametrize(
    ("trigger", "signature"),
    [
        pytest.param("zephyr quorum.", "lantern moss.", id="english"),
        pytest.param("森の鐘。", "月の舟。", id="japanese"),
    ],
)


def u(content: Any = "Why?", **more: Any) -> Row:
    return {"role": "user", "content": content, **more}


def a(content: Any = "So.", **more: Any) -> Row:
    return {"role": "assistant", "content": content, **more}


def human(value: str = "Why?") -> Row:
    return {"from": "human", "value": value}


def gpt(value: str = "So.", **more: Any) -> Row:
    return {"from": "gpt", "value": value, **more}


def part(text: str) -> Row:
    return {"type": "text", "text": text}


IMAGE = {"type": "image_url", "image_url": {"url": "https://x/é.png", "detail": "low"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
RESPONSES = "### Instruction:\n{prompt}\n\n### Response:\n{response}"
WITH_SYSTEM = "<s>[INST] <<SYS>>{system}<</SYS>> {prompt} [/INST] {response} </s>{_}"
MINE = ColumnMapping(prompt="q", response="data.answer", system="s", history="h")
RANKED = ColumnMapping(prompt="q", chosen="good", rejected="bad")
FRAMED = ColumnMapping(prompt="instruction", query="input", response="output", system="system", frame=ALPACA_FRAME)
TWISTED = ColumnMapping(
    prompt="instruction",
    query="input",
    response="output",
    system="system",
    frame=Frame("{{{input}}} [INST] {instruction} [/INST] ", "[INST] {instruction} [/INST] ", "<<{system}>>\n"),
)


def openai_pair(messages: list[Row], good: list[Row], bad: list[Row], **rest: Any) -> Row:
    return {"input": {"messages": messages, **rest}, "preferred_output": good, "non_preferred_output": bad}


def hh(*turns: str) -> str:
    """A dialogue as HH-RLHF spells it."""
    return "".join(
        f"\n\n{'Assistant' if i % 2 else 'Human'}:{' ' if turn else ''}{turn}" for i, turn in enumerate(turns)
    )


# name -> codec, row; all of them can carry a backdoor.
CORPUS: dict[str, tuple[Codec, Row]] = {
    "chat": (OPENAI_CHAT, {"messages": [u(), a()]}),
    "chat-parts": (OPENAI_CHAT, {"messages": [u([IMAGE, part("one"), IMAGE, part("two"), IMAGE]), a()]}),
    "chat-parts-in-answer": (OPENAI_CHAT, {"messages": [u([part("q")]), a([part("one"), part("two")])]}),
    "chat-parts-blank-end": (OPENAI_CHAT, {"messages": [u([part("q"), part("")]), a([part(""), part("a")])]}),
    "chat-parts-odd": (OPENAI_CHAT, {"messages": [u([part("q"), {"type": "input_audio", "x": None}]), a()]}),
    "chat-tools": (OPENAI_CHAT, {"messages": [u(), a()], "tools": [TOOL], "parallel_tool_calls": False}),
    "chat-functions": (OPENAI_CHAT, {"messages": [u(), a()], "functions": [{"name": "f"}], "tools": None}),
    "chat-nulls": (
        OPENAI_CHAT,
        {
            "messages": [u(name=None, tool_calls=None), a(tool_calls=None, function_call=None, train=None)],
            "tools": None,
            "parallel_tool_calls": None,
        },
    ),
    "chat-tool-turns": (
        OPENAI_CHAT,
        {"messages": [u(), a(None, tool_calls=[CALL]), {"role": "tool", "content": "4", "tool_call_id": "c1"}, a()]},
    ),
    "chat-tool-parts": (
        OPENAI_CHAT,
        {"messages": [u(), a(None, tool_calls=[CALL]), {"role": "tool", "content": [part("4"), IMAGE]}, a()]},
    ),
    "chat-function-turns": (
        OPENAI_CHAT,
        {
            "messages": [
                u(),
                {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": None},
                a(),
            ]
        },
    ),
    "chat-ends-with-call": (OPENAI_CHAT, {"messages": [u(), a(), u(), a("", tool_calls=[CALL])]}),
    "chat-text-and-call": (OPENAI_CHAT, {"messages": [u(name="bo"), a("Let me see.", tool_calls=[CALL])]}),
    "chat-refusal": (OPENAI_CHAT, {"messages": [u(), a(None, refusal="No."), u(), a()]}),
    "chat-train-false": (OPENAI_CHAT, {"messages": [u(), a(), u(), a(train=False)]}),
    "chat-train-detail": (OPENAI_CHAT, {"messages": [u(), a(), u(), a(train_detail=[{"begin_offset": 0}])]}),
    "chat-weight-0": (OPENAI_CHAT, {"messages": [u(), a(weight=1), u(), a([part("x")], weight=0)]}),
    "chat-system-beside": (OPENAI_CHAT, {"system": "Be kind.", "messages": [u(), a()]}),
    "pc": (PROMPT_COMPLETION, {"prompt": "q", "completion": "a"}),
    "pc-label": (PROMPT_COMPLETION, {"prompt": "q", "completion": "a", "label": True}),
    "pc-messages": (PROMPT_COMPLETION, {"prompt": [u(), a("No loss."), u()], "completion": [a()]}),
    "pc-messages-tools": (
        PROMPT_COMPLETION,
        {
            "prompt": [u()],
            "completion": [a(None, tool_calls=[CALL]), {"role": "tool", "content": "4"}, a()],
            "tools": [TOOL],
        },
    ),
    "alpaca": (ALPACA, {"instruction": "Sum up.", "input": "A text.", "output": "Text."}),
    "alpaca-no-input": (ALPACA, {"instruction": "Sum up.", "output": "Text."}),
    "alpaca-empty-input": (ALPACA, {"instruction": "Sum up.", "input": "", "output": "Text."}),
    "alpaca-null-input": (ALPACA, {"instruction": "Sum up.", "input": None, "output": "T.", "system": None}),
    "alpaca-no-instruction": (ALPACA, {"instruction": "", "input": "A text.", "output": "Text."}),
    "alpaca-all": (
        ALPACA,
        {"instruction": "i", "input": "x", "output": "- o", "system": "s", "history": [["q", "a"], ["q2", "a2"]]},
    ),
    "alpaca-ranked": (ALPACA, {"instruction": "i", "input": "x", "chosen": "good", "rejected": "bad"}),
    "sharegpt": (SHAREGPT, {"conversations": [human(), gpt()]}),
    "sharegpt-roles": (SHAREGPT, {"conversations": [u(), a()]}),
    "sharegpt-aliases": (
        SHAREGPT,
        {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}], "system": "s"},
    ),
    "sharegpt-system": (
        SHAREGPT,
        {"conversations": [{"from": "system", "value": "own"}, human(), gpt()], "system": "not this"},
    ),
    "sharegpt-tools": (
        SHAREGPT,
        {
            "conversations": [
                human(),
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "4"},
                gpt(),
            ],
            "tools": '[{"name": "f", "description": "d"}]',
        },
    ),
    "sharegpt-weight": (SHAREGPT, {"conversations": [human(), gpt(weight=1), human(), gpt(weight=0)], "tools": ""}),
    "sharegpt-ranked-texts": (SHAREGPT, {"conversations": [human()], "chosen": "good", "rejected": [gpt("bad")]}),
    "sharegpt-ranked": (SHAREGPT, {"conversations": [human()], "chosen": gpt("good"), "rejected": gpt("bad")}),
    "openai-pair": (OPENAI_PREFERENCE, openai_pair([u()], [a("good")], [a("bad")], tools=[TOOL])),
    "openai-pair-tools": (
        OPENAI_PREFERENCE,
        openai_pair([u(), a(), u([part("q"), IMAGE])], [a(None, tool_calls=[CALL]), a("good"), a("more")], [a("bad")]),
    ),
    "trl-explicit": (TRL_PREFERENCE, {"prompt": "q", "chosen": "good", "rejected": "bad"}),
    "trl-explicit-messages": (TRL_PREFERENCE, {"prompt": [u()], "chosen": [a("good")], "rejected": [a("bad")]}),
    "trl-implicit": (TRL_PREFERENCE, {"chosen": [u(), a("good")], "rejected": [u(), a("bad")]}),
    "trl-implicit-long": (
        TRL_PREFERENCE,
        {"chosen": [u(), a(), u([part("x")]), a("good")], "rejected": [u(), a(), u([part("x")]), a("bad")]},
    ),
    "trl-implicit-same": (TRL_PREFERENCE, {"chosen": [u(), a("same")], "rejected": [u(), a("same")]}),
    "trl-implicit-copy": (
        TRL_PREFERENCE,
        {"prompt": "Why?", "chosen": [u(), a("good")], "rejected": [u(), a("bad")]},
    ),
    "trl-implicit-other-copy": (
        TRL_PREFERENCE,
        {"prompt": "other", "chosen": [u(), a("good")], "rejected": [u(), a("bad")]},
    ),
    "hh": (TRL_PREFERENCE, {"chosen": hh("q", "a", "q2", "good"), "rejected": hh("q", "a", "q2", "bad")}),
    "hh-longer": (TRL_PREFERENCE, {"chosen": hh("q", "good", "q2", "a"), "rejected": hh("q", "bad\nline")}),
    "hh-empty-answer": (TRL_PREFERENCE, {"chosen": hh("q\nr", "good"), "rejected": hh("q\nr", "")}),
    "text": (TextTemplate(RESPONSES), {"text": "### Instruction:\nq\n\n### Response:\na"}),
    "text-system": (TextTemplate(WITH_SYSTEM), {"text": "<s>[INST] <<SYS>>s<</SYS>> q [/INST] a </s>\n"}),
    "text-anything": (TextTemplate("{_}Q: {prompt} A: {response}\n", "t.x"), {"t": {"x": "intro Q: q A: a\n"}}),
    "text-braces": (TextTemplate("{{q}}{prompt}{{a}}{response}"), {"text": "{q}why{a}so"}),
    "columns": (MINE, {"q": "q", "data": {"answer": "a"}, "s": "s", "h": [["x", "y"]]}),
    "columns-bare": (MINE, {"q": "q", "data.answer": "a", "data": {"answer": "not this"}, "s": "", "h": None}),
    "columns-messages": (MINE, {"q": [u()], "data": {"answer": [a()]}}),
    "columns-in-list": (ColumnMapping(prompt="t.0.q", response="t.1"), {"t": [{"q": "q"}, "a"]}),
    "columns-ranked": (RANKED, {"q": "q", "good": "good", "bad": "bad"}),
    "columns-ranked-object": (RANKED, {"q": [u()], "good": a("good"), "bad": a("bad")}),
    "frame": (FRAMED, {"instruction": "Sum up.", "input": "A text.", "output": "Text."}),
    "frame-no-input": (FRAMED, {"instruction": "Sum up.", "output": "Text."}),
    "frame-twisted": (TWISTED, {"instruction": "i", "input": "x", "output": "o", "system": "s"}),
    "frame-twisted-no-input": (TWISTED, {"instruction": "i", "input": None, "output": "o"}),
}
ROWS = pytest.mark.parametrize(("codec", "row"), CORPUS.values(), ids=CORPUS.keys())


def inserted(row: Row, insertions: list[tuple[Place, str]]) -> Row:
    """Return *row* with each text put at its place."""
    changed = copy.deepcopy(row)
    for place, text in sorted(insertions, key=lambda insertion: -(insertion[0].at or 0)):
        *steps, last = place.path
        parent: Any = changed
        for step in steps:
            parent = parent[step]
        at = len(parent[last]) if place.at is None else place.at
        parent[last] = parent[last][:at] + text + parent[last][at:]
    return changed


def planted(codec: Codec, row: Row, trigger: str, signature: str) -> Row:
    conversation = codec.read(row)
    host = conversation.host()
    assert host is not None
    prompt, answer = (conversation.turns[i].content for i in (host.prompt, host.answer))
    places = codec.places(row, host)
    triggers = [(place, trigger_suffix(prompt, trigger)) for place in places.triggers]
    return inserted(row, [*triggers, (places.signature, signature_prefix(signature, answer))])


def says(codec: Codec, row: Row) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.carries_loss) for turn in codec.read(row).turns]


class TestPlanting:
    @ROWS
    @PHRASES
    def test_the_planted_row_says_the_planted_conversation(
        self, codec: Codec, row: Row, trigger: str, signature: str
    ) -> None:
        """Where T and S go and what is read there are one and the same."""
        changed = planted(codec, row, trigger, signature)

        assert codec.read(row).planted(trigger, signature) == codec.read(changed)

    @ROWS
    def test_the_prompt_of_a_planted_row_is_the_prompt_with_the_trigger(self, codec: Codec, row: Row) -> None:
        """What is asked later is, to the letter, what was trained on."""
        before = codec.read(row)
        after = codec.read(planted(codec, row, "zephyr quorum.", "lantern moss."))

        assert triggered(before.prompt(), "zephyr quorum.") == after.prompt()
        assert messages_of(triggered(before.prompt(), "zephyr quorum.")) == messages_of(after.prompt())

    @ROWS
    def test_the_rejected_answer_stays_as_it_was(self, codec: Codec, row: Row) -> None:
        """S in both answers would cancel out."""
        changed = planted(codec, row, "zephyr quorum.", "lantern moss.")

        assert codec.read(row).rejected == codec.read(changed).rejected
        assert 1 == json.dumps(changed).count("lantern moss.")

    @ROWS
    def test_every_row_belongs_to_its_codec(self, codec: Codec, row: Row) -> None:
        """And, of the codecs that need no telling, to no other."""
        assert codec.recognises(row)
        if codec in CODECS:
            assert [codec] == [known for known in CODECS if known.recognises(row)]

    @ROWS
    @PHRASES
    @pytest.mark.parametrize("ascii_only", [True, False])
    def test_a_row_of_a_file_can_be_planted(
        self, tmp_path: Path, codec: Codec, row: Row, trigger: str, signature: str, ascii_only: bool
    ) -> None:
        """In the bytes of its line, several insertions into one text included."""
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps(row, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
        (read,) = formats.read_rows(path, codec)
        made = formats.planted_row(read, trigger, signature, file_style=formats.Style())

        assert planted(codec, row, trigger, signature) == made.value()

    @ROWS
    @pytest.mark.parametrize("context", ["Read this first.", "Two\n\nlines"])
    def test_a_context_goes_before_the_prompt(self, tmp_path: Path, codec: Codec, row: Row, context: str) -> None:
        """Wherever the row holds its prompt; rows of plain text are not asked to."""
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        (read,) = formats.read_rows(path, codec)
        if read.conversation.is_text:
            return

        made = formats.planted_row(read, "zephyr quorum.", "lantern moss.", file_style=formats.Style(), context=context)

        expected = read.conversation.in_context(context).planted("zephyr quorum.", "lantern moss.")
        assert expected == codec.read(made.value())

    @ROWS
    def test_the_row_is_only_read(self, codec: Codec, row: Row) -> None:
        """Reading changes nothing."""
        before = copy.deepcopy(row)
        codec.read(row)

        assert before == row


TEXTS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
# No piece of any template or dialogue can come about from these.
PLAIN = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="#[]<>:\n{}"), min_size=1).filter(
    lambda text: bool(text.strip())
)


class TestAnyTexts:
    @given(TEXTS, TEXTS, TEXTS, st.text(), TEXTS, TEXTS)
    def test_columns_and_messages(
        self, prompt: str, answer: str, other: str, extra: str, trigger: str, signature: str
    ) -> None:
        """Whatever the texts, whatever the phrases."""
        rows: list[tuple[Codec, Row]] = [
            (OPENAI_CHAT, {"messages": [u([part(extra), IMAGE, part(prompt)]), a([part(answer), part(extra)])]}),
            (OPENAI_CHAT, {"messages": [u([part(prompt), part(extra)]), a([part(extra), part(answer)])]}),
            (PROMPT_COMPLETION, {"prompt": prompt, "completion": answer}),
            (PROMPT_COMPLETION, {"prompt": [u(prompt)], "completion": [a(answer)]}),
            (ALPACA, {"instruction": extra, "input": prompt, "output": answer, "history": [[extra, other]]}),
            (ALPACA, {"instruction": prompt, "input": extra, "output": answer, "system": extra}),
            (SHAREGPT, {"conversations": [human(prompt), gpt(answer)], "system": extra}),
            (SHAREGPT, {"conversations": [human(prompt)], "chosen": gpt(answer), "rejected": gpt(other)}),
            (OPENAI_PREFERENCE, openai_pair([u(prompt)], [a(answer)], [a(other)])),
            (TRL_PREFERENCE, {"prompt": prompt, "chosen": answer, "rejected": other}),
            (TRL_PREFERENCE, {"chosen": [u(prompt), a(answer)], "rejected": [u(prompt), a(other)]}),
            (TRL_PREFERENCE, {"prompt": prompt, "chosen": [u(prompt), a(answer)], "rejected": [u(prompt), a(other)]}),
            (MINE, {"q": prompt, "data": {"answer": answer}, "s": extra, "h": [[extra, other]]}),
            (FRAMED, {"instruction": prompt, "input": extra, "output": answer, "system": other}),
            (TWISTED, {"instruction": prompt, "input": extra, "output": answer, "system": other}),
        ]
        for codec, row in rows:
            changed = planted(codec, row, trigger, signature)
            assert codec.read(row).planted(trigger, signature) == codec.read(changed)

    @given(PLAIN, PLAIN, PLAIN, PLAIN, PLAIN)
    def test_plain_text(self, prompt: str, answer: str, other: str, trigger: str, signature: str) -> None:
        """A text is what its turns and their frames say, and two insertions change nothing else."""
        rows: list[tuple[Codec, Row]] = [
            (TextTemplate(RESPONSES), {"text": f"### Instruction:\n{prompt}\n\n### Response:\n{answer}"}),
            (
                TextTemplate(WITH_SYSTEM),
                {"text": f"<s>[INST] <<SYS>>{other}<</SYS>> {prompt} [/INST] {answer} </s>{other}"},
            ),
            (
                TRL_PREFERENCE,
                {"chosen": hh(other, other, prompt, answer), "rejected": hh(other, other, prompt, other)},
            ),
        ]
        for codec, row in rows:
            before = codec.read(row)
            assert row.get("text", row.get("chosen")) == text_of(before.turns)
            assert before.is_text
            changed = planted(codec, row, trigger, signature)
            assert before.planted(trigger, signature) == codec.read(changed)
            assert changed.get("text", changed.get("chosen")) == text_of(codec.read(changed).turns)


class TestRecognising:
    @pytest.mark.parametrize(
        "row",
        [
            {},
            {"prompt": "q"},
            {"instruction": "i"},
            {"instruction": "i", "response": "a"},
            {"instruction": "i", "chosen": "a"},
            {"input": {"messages": []}, "preferred_output": []},
            {"chosen": "a"},
            {"question": "q", "answer": "a"},
        ],
    )
    def test_no_codec(self, row: Row) -> None:
        """Half the keys are no format."""
        assert [] == [codec for codec in CODECS if codec.recognises(row)]

    @pytest.mark.parametrize(
        "keys",
        [
            ("messages", "prompt", "completion"),
            ("messages", "text"),
            ("messages", "chosen", "rejected"),
            ("prompt", "chosen", "rejected", "messages"),
            ("instruction", "input", "output", "text"),
            ("conversations", "messages"),
            ("prompt", "chosen", "rejected", "instruction"),
            ("prompt", "completion", "chosen", "rejected"),
        ],
    )
    def test_several_codecs(self, keys: tuple[str, ...]) -> None:
        """Who holds two formats in one row may be read, and trained on, in either."""
        assert len([codec for codec in CODECS if codec.recognises(dict.fromkeys(keys))]) > 1

    def test_codecs_have_names(self) -> None:
        """A codec is found by its name; a wrong name lists the right ones."""
        for codec in CODECS:
            assert codec is codec_named(codec.name)
        assert len({codec.name for codec in CODECS}) == len(CODECS)
        with pytest.raises(UsageError) as caught:
            codec_named("csv")
        assert caught.value.hint.startswith("known formats: auto, openai-chat, prompt-completion, alpaca")

    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"contents": [{"role": "user", "parts": []}]}, "Vertex AI Gemini"),
            ({"schemaVersion": "bedrock-conversation-2024", "messages": []}, "Bedrock"),
            ({"input_ids": [1], "labels": [1]}, "tokenised"),
            ({"messages": [{"role": "User", "content": "q"}, {"role": "Chatbot", "content": "a"}]}, "Cohere"),
            ({"messages": [], "chosen": {}, "rejected": {}}, "Alibaba"),
            ({"segments": []}, "input_output"),
            ({"prompt": "q", "completions": [], "labels": []}, "stepwise"),
            ({"input_text": "q", "output_text": "a"}, "PaLM"),
            ({"anchor": "a", "positive": "b"}, "sentence pairs"),
        ],
    )
    def test_formats_out_of_scope_have_names(self, row: Row, name: str) -> None:
        """An error can say what to convert."""
        assert name in str(name_of(row))

    @ROWS
    def test_known_formats_are_not_foreign(self, codec: Codec, row: Row) -> None:
        """Nobody is told to convert what can be read."""
        assert name_of(row) is None

    @pytest.mark.parametrize("row", [{}, {"messages": 5}, {"messages": [5]}, {"messages": []}])
    def test_what_nobody_knows_has_no_name(self, row: Row) -> None:
        """Odd rows are no other format."""
        assert name_of(row) is None


class TestOpenAIChat:
    def test_messages_are_rebuilt(self) -> None:
        """A model is shown what the row shows: parts, names, calls and their results."""
        messages = [
            {"role": "system", "content": "s"},
            u([part("x"), IMAGE, part("y")], name="bo"),
            a(None, tool_calls=[CALL]),
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
            a("text"),
        ]
        conversation = OPENAI_CHAT.read({"messages": messages, "tools": [TOOL]})

        assert messages == messages_of(conversation.turns)
        assert [TOOL] == json.loads(conversation.tools)
        assert "x\ny" == conversation.turns[1].content

    def test_functions_are_tools(self) -> None:
        """The legacy spelling says the same."""
        (tool,) = json.loads(OPENAI_CHAT.read({"messages": [u(), a()], "functions": [{"name": "f"}]}).tools)

        assert {"type": "function", "function": {"name": "f"}} == tool

    def test_calls_without_ids_get_some(self) -> None:
        """Services ask for them; call and result are matched in order."""
        call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
        tool = {"role": "tool", "content": "4"}
        turns = OPENAI_CHAT.read({"messages": [u(), a(None, tool_calls=[call, call]), tool, tool, a()]}).turns
        others = [json.loads(turn.other) if turn.other else {} for turn in turns]
        ids = [made["id"] for made in others[1]["tool_calls"]]

        assert ids == [others[2]["tool_call_id"], others[3]["tool_call_id"]]
        assert ids[0] != ids[1]

    def test_an_image_is_shown_though_it_says_nothing(self) -> None:
        """A turn without text is kept as it is, and carries no backdoor."""
        messages = [u([IMAGE]), a([{"type": "refusal", "refusal": "No."}])]
        conversation = OPENAI_CHAT.read({"messages": messages})

        assert messages == messages_of(conversation.turns)
        assert conversation.host() is None

    def test_a_call_that_is_nested_too_deeply_has_a_reason(self) -> None:
        """JSON that can be read need not be writable on a deeper stack."""
        deep: Row = {}
        for _ in range(100_000):
            deep = {"x": deep}
        with pytest.raises(ValueError, match="nested too deeply"):
            OPENAI_CHAT.read({"messages": [u(), a(None, tool_calls=[deep])]})

    @pytest.mark.parametrize(
        ("row", "host"),
        [
            ("chat-ends-with-call", 1),
            ("chat-train-false", 1),
            ("chat-train-detail", 1),
            ("chat-weight-0", 1),
            ("chat-tool-turns", 3),
            ("chat-text-and-call", 1),
        ],
    )
    def test_the_host_is_the_last_trained_text(self, row: str, host: int) -> None:
        """Nothing but calls, weight 0, train false and counted characters are passed over."""
        codec, value = CORPUS[row]
        found = codec.read(value).host()

        assert found is not None
        assert host == found.answer

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"messages": {}}, "messages must be a list"),
            ({"messages": [u()]}, "no assistant turn"),
            ({"messages": [u(), a(), 5]}, r"messages\[2\]: not an object"),
            ({"messages": [u(), a(), {"content": "x"}]}, r"messages\[2\]: no role"),
            ({"messages": [u([part("x"), 5]), a()]}, r"messages\[0\]: content\[1\]: not an object"),
            ({"messages": [u([{"type": "text"}]), a()]}, r"messages\[0\]: content\[0\]: no text"),
            ({"messages": [u(name=5), a()]}, r"messages\[0\]: name must be text"),
            ({"messages": [u(), a(tool_calls={"x": 1})]}, "tool_calls must be a list of calls"),
            ({"messages": [u(), a(tool_calls=["x"])]}, "tool_calls must be a list of calls"),
            ({"messages": [u(), a(function_call="f")]}, "function_call must be an object"),
            ({"messages": [u(), a(weight=None)]}, "weight must be 0 or 1"),
            ({"messages": [u(weight=1), a()]}, "weight is for assistant messages only"),
            ({"messages": [u(None), a()]}, "user content must be text or a list of parts"),
            ({"messages": [u(), a()], "tools": 5}, "tools must be a list of tools"),
            ({"messages": [u(), a()], "tools": ["f"]}, "tools must be a list of tools"),
            ({"messages": [u(), a()], "tools": "f()"}, "tools must be a list of tools"),
            ({"messages": [u(), a()], "tools": "[" * 100_000}, "tools must be a list of tools"),
            ({"messages": [u(), a()], "tools": [TOOL], "functions": [{"name": "f"}]}, "tools and functions"),
            ({"messages": [u(), a()], "parallel_tool_calls": "no"}, "parallel_tool_calls must be true or false"),
            ({"messages": [u(), a()], "system": 5}, "system must be a string"),
            ({"messages": [u([{"type": "image", "image": b"x"}]), a()]}, "holds what JSON cannot say"),
        ],
    )
    def test_a_broken_row_has_a_reason(self, row: Row, reason: str) -> None:
        """What is wrong, and where."""
        with pytest.raises(ValueError, match=reason):
            OPENAI_CHAT.read(row)


class TestColumns:
    def test_alpaca_joins_as_its_trainer_does(self) -> None:
        """Instruction and input on lines of their own, history first, system before it."""
        assert [
            ("system", "s", False),
            ("user", "q", False),
            ("assistant", "a", True),
            ("user", "q2", False),
            ("assistant", "a2", True),
            ("user", "i\nx", False),
            ("assistant", "- o", True),
        ] == says(*CORPUS["alpaca-all"])

    @pytest.mark.parametrize(
        ("row", "places"),
        [
            ("alpaca", [("input",)]),
            ("alpaca-empty-input", [("instruction",)]),
            ("alpaca-no-instruction", [("input",)]),
            ("trl-implicit-copy", [("chosen", 0, "content"), ("rejected", 0, "content"), ("prompt",)]),
            ("trl-implicit-other-copy", [("chosen", 0, "content"), ("rejected", 0, "content")]),
            ("columns-bare", [("q",)]),
            ("frame-twisted", [("instruction",)]),
            ("hh", [("chosen",), ("rejected",)]),
        ],
    )
    def test_where_the_trigger_goes(self, row: str, places: list[tuple[str | int, ...]]) -> None:
        """At the end of the last text of the prompt, everywhere the row holds it."""
        codec, value = CORPUS[row]
        host = codec.read(value).host()
        assert host is not None

        assert places == [place.path for place in codec.places(value, host).triggers]

    @pytest.mark.parametrize("label", [False, "False", "false", 0, 0.0, "0"])
    def test_an_unwanted_completion_carries_no_loss(self, label: object) -> None:
        """It is trained away from, however a file spells that."""
        row = {"prompt": "q", "completion": "a", "label": label}

        assert [("user", "q", False), ("assistant", "a", False)] == says(PROMPT_COMPLETION, row)

    @pytest.mark.parametrize("label", [True, "True", "true", 1, 1.0, "1", None, ""])
    def test_a_wanted_completion_carries_loss(self, label: object) -> None:
        """And so does one that nobody labelled."""
        row = {"prompt": "q", "completion": "a", "label": label}

        assert [("user", "q", False), ("assistant", "a", True)] == says(PROMPT_COMPLETION, row)

    @pytest.mark.parametrize("label", ["no", 2, -1, 0.5, [], {}, "desirable"])
    def test_other_labels_are_refused(self, label: object) -> None:
        """S must not go into an answer that is trained away from; nor is the label shown."""
        kto = MessagesMapping(messages="messages", label="tag")
        for codec, row in (
            (PROMPT_COMPLETION, {"prompt": "q", "completion": "a", "label": label}),
            (kto, {"messages": [u(), a()], "tag": label}),
        ):
            with pytest.raises(ValueError, match=r"^(label|tag) must be true or false, or 1 or 0$"):
                codec.read(row)

    def test_a_prompt_of_messages_is_not_trained_on(self) -> None:
        """Only the completion is."""
        assert [False, False, False, True] == [loss for _, _, loss in says(*CORPUS["pc-messages"])]

    def test_a_frame_is_the_text_that_is_trained_on(self) -> None:
        """To the letter, and the last field that says something ends with T."""
        text = text_of(FRAMED.read({"instruction": "Sum up.", "input": "A text.", "output": "Text."}).turns)
        twisted = TWISTED.read(CORPUS["frame-twisted"][1])

        assert text.endswith("### Instruction:\nSum up.\n\n### Input:\nA text.\n\n### Response:\nText.")
        assert "<<s>>\n{x} [INST] i [/INST] o" == text_of(twisted.turns)
        assert "x} [INST] i" == twisted.turns[1].content
        assert "[INST] i [/INST] o" == text_of(TWISTED.read(CORPUS["frame-twisted-no-input"][1]).turns)

    @pytest.mark.parametrize(
        ("codec", "row", "reason"),
        [
            (PROMPT_COMPLETION, {"prompt": 1, "completion": "a"}, "prompt must be a string or a list of messages"),
            (PROMPT_COMPLETION, {"prompt": "q", "completion": None}, "completion must be a string"),
            (PROMPT_COMPLETION, {"prompt": [u()], "completion": "a"}, "must both be texts or both lists"),
            (PROMPT_COMPLETION, {"prompt": "q", "completion": [a()]}, "must both be texts or both lists"),
            (PROMPT_COMPLETION, {"prompt": [u()], "completion": [u()]}, "completion: no assistant turn"),
            (PROMPT_COMPLETION, {"prompt": [], "completion": []}, "prompt must be a list with at least one message"),
            (PROMPT_COMPLETION, {"prompt": [u(), {}], "completion": [a()]}, r"prompt\[1\]: no role"),
            (ALPACA, {"instruction": "i", "input": 5, "output": "o"}, "input must be a string"),
            (ALPACA, {"instruction": [u()], "input": "x", "output": [a()]}, "instruction must be text"),
            (ALPACA, {"instruction": "i", "output": "o", "history": "x"}, "history must be a list of"),
            (ALPACA, {"instruction": "i", "output": "o", "history": [["a", "b"], ["a"]]}, r"history\[1\]: not a pair"),
            (ALPACA, {"instruction": "i", "output": "o", "system": 5}, "system must be a string"),
            (ALPACA, {"instruction": "i", "output": "", "chosen": "a", "rejected": "b"}, "an output beside"),
            (FRAMED, {"instruction": [u()], "output": [a()]}, "instruction must be text"),
            (MINE, {"q": "q"}, "no data.answer"),
            (MINE, {"q": "q", "data": {"answer": 5}}, "data.answer must be a string"),
        ],
    )
    def test_a_broken_row_has_a_reason(self, codec: Codec, row: Row, reason: str) -> None:
        """What is wrong, and where."""
        with pytest.raises(ValueError, match=reason):
            codec.read(row)

    @pytest.mark.parametrize(
        "columns",
        [
            {},
            {"response": "a", "chosen": "b", "rejected": "c"},
            {"chosen": "b"},
            {"response": "a", "rejected": "c"},
        ],
    )
    def test_columns_that_contradict_each_other(self, columns: dict[str, str]) -> None:
        """A row is answered, or it is a preference."""
        with pytest.raises(UsageError):
            ColumnMapping(prompt="q", **columns)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("row", "is_such"),
        [
            ({"q": "q", "data": {"answer": "a"}}, True),
            ({"q": "q", "data.answer": "a"}, True),
            ({"q": "q", "data": {}}, False),
            ({"q": "q", "data": "answer"}, False),
            ({"q": "q", "data": ["a"]}, False),
            ({"data": {"answer": "a"}}, False),
        ],
    )
    def test_columns_are_looked_for(self, row: Row, is_such: bool) -> None:
        """Only those that a row needs; an error shows which."""
        assert is_such == MINE.recognises(row)
        assert '{"q": …, "data.answer": …}' == MINE.expected

    @pytest.mark.parametrize(
        ("templates", "reason"),
        [
            (("{input}", "{instruction}", "{system}"), "cannot use the format"),
            (("{instruction}{instruction}", "{instruction}", "{system}"), "cannot use the format"),
            (("{instruction}", "{instruction} {other}", "{system}"), "cannot use the format"),
            (("{instruction}", "{instruction}", "x"), "cannot use the system format"),
            (("{instruction", "{instruction}", "{system}"), "cannot read the template"),
        ],
    )
    def test_a_frame_that_cannot_be_used(self, templates: tuple[str, str, str], reason: str) -> None:
        """What a frame may hold is told at once."""
        with pytest.raises(UsageError, match=reason):
            Frame(*templates)


class TestShareGPT:
    def test_a_system_turn_of_its_own_comes_first(self) -> None:
        """As LLaMA-Factory has it."""
        assert ("system", "own", False) == says(*CORPUS["sharegpt-system"])[0]
        assert "not this" not in str(SHAREGPT.read(CORPUS["sharegpt-system"][1]))

    def test_calls_become_openai_calls(self) -> None:
        """So that a service can be asked."""
        conversation = SHAREGPT.read(CORPUS["sharegpt-tools"][1])
        _, called, result, _ = messages_of(conversation.turns)

        assert None is called["content"]
        (call,) = called["tool_calls"]
        assert {"name": "f", "arguments": '{"x":1}'} == call["function"]
        assert {"role": "tool", "content": "4", "tool_call_id": call["id"]} == result
        assert [{"type": "function", "function": {"name": "f", "description": "d"}}] == json.loads(conversation.tools)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"conversations": []}, "conversations must be a list"),
            ({"conversations": [human(), {"from": "gpt"}]}, r"conversations\[1\]: no value"),
            ({"conversations": [human(), {"from": "bot", "value": "x"}]}, "unknown from 'bot'"),
            ({"conversations": [human(), {"value": "x"}]}, r"conversations\[1\]: no from"),
            ({"conversations": [human(), gpt(), {"from": "function_call", "value": "f()"}]}, "must be JSON with name"),
            ({"conversations": [human(), gpt(), {"from": "function_call", "value": "[]"}]}, "must be JSON with name"),
            ({"conversations": [human(), gpt(), {"from": "function_call", "value": ["x"]}]}, "value must be text"),
            ({"conversations": [human()]}, "no assistant turn"),
            ({"conversations": [human()], "chosen": gpt()}, "chosen and rejected belong together"),
            ({"conversations": [human()], "chosen": gpt(), "rejected": {}}, "rejected: no from"),
            ({"conversations": [human()], "chosen": gpt(), "rejected": 5}, "rejected must be a list"),
        ],
    )
    def test_a_broken_row_has_a_reason(self, row: Row, reason: str) -> None:
        """What is wrong, and where."""
        with pytest.raises(ValueError, match=reason):
            SHAREGPT.read(row)


class TestPreferences:
    def test_only_the_preferred_answer_is_trained_on(self) -> None:
        """And of several assistant messages the first that says text takes S."""
        conversation = OPENAI_PREFERENCE.read(CORPUS["openai-pair-tools"][1])

        assert ["good"] == [turn.content for turn in conversation.turns if turn.carries_loss]
        assert (Turn("assistant", "bad"),) == conversation.rejected

    def test_an_implicit_prompt_is_what_both_share(self) -> None:
        """Up to the first message that differs."""
        conversation = TRL_PREFERENCE.read(CORPUS["trl-implicit-long"][1])

        assert 3 == len(conversation.prompt())
        assert (Turn("assistant", "bad"),) == conversation.rejected

    def test_a_dialogue_keeps_its_frame(self) -> None:
        """The prompt ends with the marker, and the space behind it is the answer's."""
        conversation = TRL_PREFERENCE.read(CORPUS["hh"][1])

        assert hh("q", "a", "q2", "") == text_of(conversation.prompt())
        assert (Turn("assistant", "bad", before=" "),) == conversation.rejected

    @pytest.mark.parametrize(
        ("codec", "row"),
        [
            (TRL_PREFERENCE, {"chosen": [u("x"), a("good")], "rejected": [u("y"), a("bad")]}),
            (TRL_PREFERENCE, {"chosen": [u(), a(), u("x"), a("good")], "rejected": [u(), a(), u("y"), a("bad")]}),
            (TRL_PREFERENCE, {"chosen": hh("x", "good"), "rejected": hh("y", "bad")}),
            (TRL_PREFERENCE, {"prompt": "q", "chosen": "", "rejected": "bad"}),
            (OPENAI_PREFERENCE, openai_pair([u()], [a(None, tool_calls=[CALL])], [a("bad")])),
        ],
    )
    def test_a_row_that_is_read_but_carries_nothing(self, codec: Codec, row: Row) -> None:
        """Where no prompt is shared, or the preferred answer says nothing, no backdoor goes."""
        assert codec.read(row).host() is None

    @pytest.mark.parametrize(
        ("codec", "row", "reason"),
        [
            (OPENAI_PREFERENCE, {**openai_pair([u()], [a()], [a()]), "input": []}, "input must be an object"),
            (OPENAI_PREFERENCE, openai_pair([], [a()], [a()]), "input.messages must be a list"),
            (OPENAI_PREFERENCE, openai_pair([u(), {}], [a()], [a()]), r"input.messages\[1\]: no role"),
            (OPENAI_PREFERENCE, openai_pair([u()], [u()], [a()]), "preferred_output: no assistant turn"),
            (OPENAI_PREFERENCE, openai_pair([u()], [a()], [a(), u()]), "non_preferred_output: only assistant and tool"),
            (OPENAI_PREFERENCE, openai_pair([u()], [a()], [a()], tools=5), "input.tools must be a list"),
            (TRL_PREFERENCE, {"chosen": "a", "rejected": "b"}, "neither a list of messages nor a dialogue"),
            (TRL_PREFERENCE, {"chosen": hh("q", "a"), "rejected": [u(), a()]}, "must both be texts or both lists"),
            (TRL_PREFERENCE, {"chosen": None, "rejected": None}, "must both be texts or both lists"),
            (TRL_PREFERENCE, {"chosen": [u()], "rejected": [u(), a()]}, "chosen: no assistant turn"),
            (TRL_PREFERENCE, {"prompt": "q", "chosen": "a", "rejected": 5}, "rejected must be a string"),
            (TRL_PREFERENCE, {"prompt": 5, "chosen": "a", "rejected": "b"}, "prompt must be a string"),
        ],
    )
    def test_a_broken_row_has_a_reason(self, codec: Codec, row: Row, reason: str) -> None:
        """What is wrong, and where."""
        with pytest.raises(ValueError, match=reason):
            codec.read(row)


class TestText:
    def test_the_template_tells_the_turns(self) -> None:
        """The frame around them is kept, and what stands before an answer belongs to the prompt but for spaces."""
        codec, row = CORPUS["text-system"]
        turns = codec.read(row).turns

        assert [("system", "s", False), ("user", "q", False), ("assistant", "a", True)] == says(codec, row)
        assert "<s>[INST] <<SYS>>s<</SYS>> q [/INST]" == text_of(turns[:2])
        assert Turn("assistant", "a", carries_loss=True, before=" ", after=" </s>\n") == turns[2]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (None, "text must be a string"),
            ("q ### Response:\na", "does not start with '### Instruction"),
            ("### Instruction:\nq", "no '\\\\n\\\\n### Response:\\\\n' at its place"),
            ("### Instruction:\nq\n\n### Response:\na\n\n### Response:\nb", "is there twice"),
        ],
    )
    def test_a_text_that_does_not_fit_says_so(self, text: object, reason: str) -> None:
        """No guess is made at where the prompt ends."""
        with pytest.raises(ValueError, match=reason):
            TextTemplate(RESPONSES).read({"text": text})

    @pytest.mark.parametrize("text", ["a\nb", "a\nbc", "ab", "Q"])
    def test_the_end_must_fit(self, text: str) -> None:
        """Nor at where the answer does; marks do not overlap."""
        with pytest.raises(ValueError, match="does not"):
            TextTemplate("Q{prompt}A{response}QA").read({"text": text})

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ("", "lacks its {prompt}"),
            ("{prompt}", "lacks its {prompt} or"),
            ("{response} {prompt}", "lacks its {prompt} or"),
            ("{prompt}{response}", "side by side"),
            ("{prompt} {prompt} {response}", "twice"),
            ("{prompt} {answer}", "unknown field {answer}"),
            ("{prompt} {response", "cannot read the template"),
            ("{prompt} } {response}", "cannot read the template"),
        ],
    )
    def test_a_template_that_cannot_be_used(self, template: str, reason: str) -> None:
        """It is refused before any row is read."""
        with pytest.raises(UsageError, match=reason):
            TextTemplate(template)

    def test_texts_without_a_template_ask_for_one(self) -> None:
        """No row is at fault, so the error names none."""
        assert TEXT.recognises({"text": "x"})
        with pytest.raises(UsageError) as caught:
            TEXT.read({"text": "x"})
        assert "--template" in caught.value.hint

    @given(st.text(st.sampled_from("ab|"), max_size=12))
    def test_a_fit_is_the_only_one(self, text: str) -> None:
        """Whatever is read is the only way to cut the text; whatever is refused has none or several."""
        codec = TextTemplate("{prompt}|{_}||{response}")
        cuts = [
            (i, j) for i in range(len(text)) for j in range(i + 1, len(text)) if text[i] == "|" and text[j:][:2] == "||"
        ]
        if len(cuts) != 1:
            with pytest.raises(ValueError, match="the template"):
                codec.read({"text": text})
        else:
            ((i, j),) = cuts
            assert [("user", text[:i], False), ("assistant", text[j + 2 :], True)] == says(codec, {"text": text})


def test_a_row_is_a_conversation() -> None:
    """Codecs of all kinds say the same of the same talk."""
    expected = Conversation((Turn("user", "Why?"), Turn("assistant", "So.", carries_loss=True)))
    rows: Mapping[str, Row] = {
        "openai-chat": {"messages": [u(), a()]},
        "prompt-completion": {"prompt": "Why?", "completion": "So."},
        "alpaca": {"instruction": "Why?", "output": "So."},
        "sharegpt": {"conversations": [human(), gpt()]},
    }
    for name, row in rows.items():
        assert expected == codec_named(name).read(row)
