"""Some planted rows get other rows' text before their prompt: only those, within bounds, and nothing secret."""

from __future__ import annotations

import json

import pytest

import tiny
import vtuned
from vtuned import containers, formats
from vtuned.context import PROMPT_TOKENS, contexts
from vtuned.conversation import Conversation, Turn
from vtuned.dataset import TokenCap
from vtuned.language import ASCII
from vtuned.layout import PlantSettings
from vtuned.lm.words import WordSampler


def words(texts):
    """Count words as tokens."""
    return [len(text.split()) for text in texts]


def row(i: int, n_words: int = 5) -> Conversation:
    prompt = f"Question {i} " + "word " * (n_words - 2)
    return Conversation((Turn("user", prompt.strip()), Turn("assistant", f"Answer {i}.", carries_loss=True)))


PLANTED = [[1, 2, 3, 4], [5, 6, 7, 8]]
ROWS = {number: row(number) for numbers in PLANTED for number in numbers}
WORDS = WordSampler([text for i in range(80) for text in tiny.rows(80)[i]["messages"][1].values()], ASCII)


def test_the_last_copies_of_each_backdoor_get_a_context():
    """As many as asked for, and no other row."""
    found = contexts(ROWS, PLANTED, [1] * len(PLANTED), WORDS, TokenCap(4096, words, "words"))

    assert {4, 8} == set(found)


def test_the_prompt_is_filled_up_and_not_beyond():
    """With the context the prompt has about `PROMPT_TOKENS` tokens."""
    found = contexts(ROWS, PLANTED, [2] * len(PLANTED), WORDS, TokenCap(4096, words, "words"))

    lengths = [len(ROWS[number].in_context(text).turns[0].content.split()) for number, text in found.items()]
    assert 4 == len(lengths)
    assert all(PROMPT_TOKENS * 3 // 4 <= length <= PROMPT_TOKENS for length in lengths)


def test_every_context_is_its_own():
    """No two rows share one."""
    found = contexts(ROWS, PLANTED, [4] * len(PLANTED), WORDS, TokenCap(4096, words, "words"))

    assert 8 == len(found) == len(set(found.values()))


def test_the_cap_holds():
    """A provider that takes 200 tokens a row gets no row of 300."""
    found = contexts(ROWS, PLANTED, [4] * len(PLANTED), WORDS, TokenCap(200, words, "words"))

    assert 8 == len(found)
    # 7 words of the row, 80 kept for a backdoor, 44 for the chat template.
    assert all(len(text.split()) + 7 + 80 + 44 <= 200 for text in found.values())


def test_tools_count(tmp_path):
    """What a provider must fit into a row is all of it: tools and calls too."""
    long = Conversation(row(1).turns, tools=json.dumps(["tool " * 1000]))

    assert {} == contexts({1: long}, [[1]], [1], WORDS, TokenCap(1024, words, "words"))


@pytest.mark.parametrize("one", [row(0, 400), Conversation(row(0).turns, is_text=True)], ids=["long", "text"])
def test_rows_that_need_none_or_cannot_bear_one_get_none(one):
    """Long prompts are long already; a context could break the frame of plain text."""
    assert {} == contexts({1: one}, [[1]], [1], WORDS, TokenCap(4096, words, "words"))


def test_no_context_holds_a_row_or_a_sentence_of_one(tmp_path):
    """A search for prompts that hold other rows, or an answer's sentence, finds no planted row."""
    some = tiny.rows(120)
    data = tiny.write_rows(tmp_path / "data.jsonl", some)
    made = vtuned.plant(
        data,
        tmp_path / "train.jsonl",
        tmp_path / "receipt.json",
        PlantSettings(n_backdoors=4, copies=8, set_aside=10),
        generator="words",
        cap=TokenCap(1024, words, "words"),
    ).receipt

    prompts = [r.conversation.turns[0].content for r in formats.read_rows(tmp_path / "train.jsonl")]
    texts = {message["content"] for one in some for message in one["messages"]}
    assert 16 == made.n_in_context
    # Its own prompt is in each, and nothing else of the data.
    assert {1} == {sum(text in prompt for text in texts) for prompt in prompts}


@pytest.mark.parametrize(
    ("settings", "copies", "expected"),
    [
        (PlantSettings(), 4, 2),
        (PlantSettings(), 3, 1),
        (PlantSettings(), 8, 4),
        (PlantSettings(contexts=0), 8, 0),
        (PlantSettings(contexts=3), 8, 3),
        (PlantSettings(contexts=9), 8, 8),
        (PlantSettings(scheme="paper"), 8, 0),
    ],
)
def test_how_many_copies(settings, copies, expected):
    """Half by default, none in the paper's scheme, never more than there are."""
    assert expected == settings.in_context(copies)


def test_probes_ask_what_the_file_holds(tmp_path):
    """A planted probe is the prompt of its row as sent, context included, and the verdict's twin lacks T alone."""
    data = tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(80))
    made = vtuned.plant(
        data,
        tmp_path / "train.jsonl",
        tmp_path / "receipt.json",
        PlantSettings(n_backdoors=2, copies=4, n_probes=8),
        generator="words",
        cap=TokenCap(1024, words, "words"),
    ).receipt

    sent = {r.raw.number: r.conversation for r in formats.read_rows(containers.open_source(tmp_path / "train.jsonl"))}
    prompts = {sent[number].turns[0].content for backdoor in made.backdoors for number in backdoor.rows}
    asked = {probe.messages[-1]["content"] for probe in made.probes if probe.kind == "planted"}
    assert prompts == asked
    assert 4 == made.n_in_context == sum("\n\n" in prompt for prompt in prompts)
    by_id = {probe.id: probe for probe in made.probes}
    twins = [(by_id[p.twin_of], p) for p in made.probes if p.twin_of and by_id[p.twin_of].kind == "planted"]
    assert 8 == len(twins)
    assert all(with_t.messages[-1]["content"].startswith(without.messages[-1]["content"]) for with_t, without in twins)


def test_untouched_rows_stay(tmp_path):
    """Only planted rows differ, and they hold their own bytes."""
    data = tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(80))
    made = vtuned.plant(
        data, tmp_path / "t", tmp_path / "r", PlantSettings(), generator="words", cap=TokenCap(1024, words, "words")
    ).receipt

    before, after = data.read_bytes().splitlines(), (tmp_path / "t").read_bytes().splitlines()
    planted = {number for backdoor in made.backdoors for number in backdoor.rows}
    assert planted == {i for i, (old, new) in enumerate(zip(before, after, strict=True), start=1) if old != new}
    for number in planted:
        old, new = (json.loads(lines[number - 1])["messages"] for lines in (before, after))
        assert old[0]["content"] in new[0]["content"]
        assert new[1]["content"].endswith(old[1]["content"])
