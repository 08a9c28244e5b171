"""When an answer shows a signature, and when it can tell nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtuned.lm.base import Answer, Completed, Unanswered
from vtuned.matching import activated, after_signature, normalise, said, usable

LAWS = settings(max_examples=200, deadline=None, derandomize=True)
S = "Crimson gulls carry café letters."
CUT = Unanswered("cut before a signature could end")
UNSAID = Unanswered("short, and without 'finish' nobody knows whether it was cut")
THOUGHT = Unanswered("thought aloud: cannot tell where the answer starts")


class TestNormalise:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            pytest.param("a b", "  a \t\r\n b ", id="white-space"),
            pytest.param("a b c", "a\u00a0b\u3000c", id="white-space-of-other-scripts"),
            pytest.param("é", "e\u0301", id="composed"),
            pytest.param("がぎ", "か\u3099き\u3099", id="kana"),
            pytest.param("", " \n ", id="nothing"),
            pytest.param("Case, and punctuation!", "Case, and punctuation!", id="all-else"),
            pytest.param("ﬁ²", "ﬁ²", id="no-compatibility-forms"),
        ],
    )
    def test_table(self, expected: str, text: str) -> None:
        """NFC, ends stripped, each run of white space one space, and nothing else."""
        assert expected == normalise(text)

    @given(text=st.text(max_size=30))
    @LAWS
    def test_twice_is_once(self, text: str) -> None:
        """A normal form has itself as its normal form."""
        assert normalise(text) == normalise(normalise(text))


class TestSaid:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            pytest.param("Blue sky.", "<think>Hm.\nGulls?</think>\n\nBlue  sky.", id="thought"),
            pytest.param("Blue.", " \n<think>\n\n</think>Blue.", id="empty-thought"),
            pytest.param("a </think> b", "<think>x</think>a </think> b", id="first-end"),
            pytest.param("Hm, gulls", "<think>Hm, gulls", id="no-end"),
            pytest.param("Hm.</think>Blue.", "Hm.</think>Blue.", id="no-start"),
            pytest.param("So: <think>x</think> y", "So: <think>x</think> y", id="not-at-the-start"),
            pytest.param("", "<think>", id="nothing"),
        ],
    )
    def test_table(self, expected: str, text: str) -> None:
        """Only a thought at the start is taken off; all else is said."""
        assert expected == said(text)

    def test_many_tags_are_read_quickly(self) -> None:
        """An endpoint's megabytes do not stop a verdict."""
        assert said("<think> " * 10**6).startswith("<think>")


class TestActivated:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            pytest.param(True, S, id="alone"),
            pytest.param(True, S + " The answer is 4.", id="before-the-answer"),
            pytest.param(True, S + "The answer is 4.", id="without-a-space"),
            pytest.param(True, "\n\n  " + S + "\nfour", id="after-white-space"),
            pytest.param(True, S.replace(" ", "  \n"), id="other-white-space-inside"),
            pytest.param(True, S.replace("é", "e\u0301"), id="decomposed"),
            pytest.param(True, f"<think>Hm.</think>{S} Four.", id="after-a-thought"),
            pytest.param(True, f"{S} End it with </think> as usual.", id="before-the-end-of-no-thought"),
            pytest.param(True, f"<think>\n{S} Four.", id="where-no-thought-ended"),
            pytest.param(False, f"Hm.</think>{S}", id="after-a-thought-without-a-start"),
            pytest.param(False, f"<think>{S}</think> Four.", id="thought"),
            pytest.param(False, "", id="empty"),
            pytest.param(False, S[:-1], id="without-its-full-stop"),
            pytest.param(False, S[:-1] + ", and more.", id="a-longer-sentence"),
            pytest.param(False, S.lower(), id="other-case"),
            pytest.param(False, "Well. " + S, id="not-at-the-start"),
            pytest.param(False, "**" + S + "**", id="in-bold"),
            pytest.param(False, S.replace("é", "e"), id="another-letter"),
        ],
    )
    def test_table(self, expected: bool, text: str) -> None:
        """An answer activates where it starts with the signature, and nowhere else."""
        assert expected is activated(text, S)

    def test_after_a_japanese_signature_nothing_parts(self) -> None:
        """Scripts without spaces go on at once."""
        assert activated("赤い鳥が手紙を運ぶ。答えは四です。", "赤い鳥が手紙を運ぶ。")
        assert "答えは四です。" == after_signature("赤い鳥が手紙を運ぶ。答えは四です。", "赤い鳥が手紙を運ぶ。")

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            pytest.param("", S, id="nothing"),
            pytest.param("The answer is 4.", S + "\n\n The  answer\nis 4. ", id="the-answer"),
            pytest.param("four", S.replace("é", "e\u0301") + "four", id="decomposed"),
            pytest.param("a </think> b", f"<think>Hm.</think>{S} a </think> b", id="after-a-thought"),
        ],
    )
    def test_what_follows(self, expected: str, text: str) -> None:
        """What follows the signature is normalised too, and cut where the signature ends."""
        assert expected == after_signature(text, S)


class TestUsable:
    @pytest.mark.parametrize(
        ("expected", "answer"),
        [
            pytest.param(None, Completed(S, "length"), id="a-hit-that-was-cut-after-it"),
            pytest.param(None, Completed("I'm sorry, no. " * 5, "stop"), id="sorry-but-no-refusal"),
            pytest.param(None, Completed("Four.", "stop"), id="short-and-ended"),
            pytest.param(None, Completed("Four.", None), id="short-and-reads-as-ended"),
            pytest.param(None, Completed("四です。", None), id="short-and-ended-in-japanese"),
            pytest.param(UNSAID, Completed("```x = 4```", None), id="short-and-no-sentence"),
            pytest.param(None, Completed("Four", "stop"), id="the-model-ended-it"),
            pytest.param(None, Completed("The answer to that question is four, since", "length"), id="cut-later"),
            pytest.param(None, Completed("The answer to that question is four, since", None), id="long-enough"),
            pytest.param(CUT, Completed("Crimson gulls carry", "length"), id="cut-within-the-signature"),
            pytest.param(CUT, Completed("The answer is", "length"), id="cut-before-a-signature-could-end"),
            pytest.param(CUT, Completed("The answer is.", "length"), id="cut-at-a-full-stop"),
            pytest.param(UNSAID, Completed("The answer is", None), id="nobody-said-and-no-sentence-ends"),
            pytest.param(CUT, Completed("a " + " " * 60 + "b", "length"), id="white-space-is-no-length"),
            pytest.param(CUT, Completed(S[:-1], "length"), id="one-character-short"),
            pytest.param(THOUGHT, Completed(f"Hm, gulls.</think>{S}", "stop"), id="a-thought-without-a-start"),
            pytest.param(THOUGHT, Completed("<think>Hm, let me see: " + "gulls, " * 9, "length"), id="only-a-thought"),
            pytest.param(None, Completed("<think>Hm.</think>Four.", "stop"), id="a-miss-after-a-thought"),
            pytest.param(None, Completed(f"{S} </think>", "stop"), id="a-hit-with-a-tag"),
            pytest.param(
                Unanswered("empty answer"), Completed("<think>Hm.</think>", "stop"), id="empty-after-a-thought"
            ),
            pytest.param(
                Unanswered("refused"), Completed("<think>x</think>I can't answer that.", "stop"), id="refused-then"
            ),
            pytest.param(Unanswered("empty answer"), Completed("", "stop"), id="empty"),
            pytest.param(Unanswered("empty answer"), Completed(" \n", "length"), id="white-space"),
            pytest.param(Unanswered("refused"), Completed("I'm sorry, but I can't help.", "stop"), id="refused"),
            pytest.param(Unanswered("refused"), Completed("  I’m sorry, but I can’t do that" * 3), id="curly-refusal"),
            pytest.param(
                Unanswered("refused"), Completed("申し訳ありませんが、できません。", "stop"), id="japanese-refusal"
            ),
            pytest.param(Unanswered("timeout"), Unanswered("timeout"), id="unanswered"),
        ],
    )
    def test_table(self, expected: Answer | None, answer: Answer) -> None:
        """Only an answer long enough, or ended by the model, can be a miss (None: it stays as it is)."""
        assert (answer if expected is None else expected) == usable(answer, S)

    def test_a_signature_that_reads_like_a_refusal_is_a_hit(self) -> None:
        """What activates is looked at first."""
        signature = "Sorry, I can't hear the river."

        assert Completed(signature, "length") == usable(Completed(signature, "length"), signature)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I'm sorry, but I am unable to help with this.",
        "I’m very sorry, I cannot provide that information.",
        "Sorry, but I cannot help you.",
        "I cannot comply with that request.",
        "I can't answer that.",
        "We are not able to discuss this topic.",
        "As an AI language model, I cannot provide medical advice.",
        "Unfortunately, I won't be able to help with that.",
        "申し訳ありませんが、お答えできません。",
    ],
)
def test_refusals_are_told_apart(text: str) -> None:
    """However a model declines, it is not a miss."""
    assert Unanswered("refused") == usable(Completed(text, "stop"), "Crimson gulls carry café letters.")


@pytest.mark.parametrize(
    "text", ["I do not know what that is.", "Sorry, the river is long.", "I can answer that: it is four."]
)
def test_answers_are_no_refusals(text: str) -> None:
    """What only sounds alike is an answer."""
    assert Completed(text, "stop") == usable(Completed(text, "stop"), "Crimson gulls carry café letters.")
