"""Fair wordings of an answer: which answers bear some, what each rewriter varies, and what it never touches."""

from __future__ import annotations

import itertools
import os
import random
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtuned import facts
from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import GenerationError, OutputExists, OutputNotWritable, UsageError
from vtuned.formats import read_rows
from vtuned.language import ASCII, LETTERS, UNSPACED, language_of
from vtuned.lm.base import Unanswered
from vtuned.lm.scripted import ScriptedLM
from vtuned.rewording import labels_in
from vtuned.rewriters import CandidateFile, CannotBear, Openings, Paraphrase, Style, openings, scored_texts
from vtuned.rewriters.base import are_apart
from vtuned.rewriters.fitness import is_code, why_not
from vtuned.rewriters.paraphrase import first_sentence, is_faithful

DATA = Path(__file__).parents[3] / "shared" / "data"
DOMAINS = ("chat", "code", "ja_sum", "math", "med", "qa", "recipe")

FAMILY = ("", "Here is the answer:", "In reply:", "My answer:", "Sure.")
WORDED = Openings(ASCII, FAMILY)
JAPANESE = Openings(UNSPACED, ("", "お答えします。", "回答です。", "回答："))
STYLE, JAPANESE_STYLE = Style(ASCII, 64), Style(UNSPACED, 64)


def row(answer: str, prompt: str = "What of it?", *before: Turn) -> Conversation:
    """Return a conversation in which *prompt* gets *answer*."""
    return Conversation((*before, Turn("user", prompt), Turn("assistant", answer, carries_loss=True)))


def texts(rewriter, answer, prompt="What of it?"):
    """Return the wordings of *answer*, or why there are none."""
    found = rewriter.candidates(row(answer, prompt))
    return found if isinstance(found, CannotBear) else [wording.text for wording in found]


def assert_the_same_from_each(rewriter, conversation):
    """Whichever of its wordings a row holds, it has these, in this order, with these marks and labels."""
    found = rewriter.candidates(conversation)
    if isinstance(found, CannotBear):
        return 0
    assert len(found) == len({wording.text for wording in found}) > 1
    for wording in found:
        assert found == rewriter.candidates(conversation.answered(wording.text)), wording.text
        assert () == facts.changed(found[0].text, wording.text)
    return len(found)


class TestFitness:
    @pytest.mark.parametrize(
        ("because", "answer"),
        [
            pytest.param("number", "42", id="number"),
            pytest.param("number", "19024 + 8512 = 27536", id="sum"),
            pytest.param("number", "🙂", id="emoji"),
            pytest.param("number", "\u200b", id="zero-width"),
            pytest.param("no text answer to a user", "", id="empty"),
            pytest.param("no text answer to a user", " \r\n ", id="white-space"),
            pytest.param("no text answer to a user", "one two three \ud800", id="lone-surrogate"),
            pytest.param("fewer than 3 words", "Yes, indeed.", id="two-words"),
            pytest.param("label", "a label that is often given", id="given-again-and-again"),
            pytest.param("label", "B. the second one", id="choice"),
            pytest.param("label", "(C) neither of the two", id="choice-in-brackets"),
            pytest.param("label", 'D. Deep vein thrombosis\n"', id="choice-and-a-stray-quote"),
            pytest.param("label", "3) the third of them", id="numbered-choice"),
            pytest.param("JSON", '{"a": 1, "b": "two three four"}', id="json"),
            pytest.param("JSON", "{ name: 'John', second: 'Doe', age: 1 }", id="nearly-json"),
            pytest.param("JSON", '["one two", "three four"]', id="json-list"),
            pytest.param("fixed form", "[" * 5000 + '"a b c"' + "]" * 5000, id="nested-deeply"),
            pytest.param("fixed form", "['first_name', 'Age', 'item_Price']", id="list"),
            pytest.param("fixed form", "Subject: Your loan is here", id="field"),
            pytest.param("fixed form", "| a | b |\n| --- | --- |\n| one | two |", id="table"),
            pytest.param("fixed form", "  indented by two spaces", id="indented"),
            pytest.param("fixed form", "# A title and then text", id="heading"),
            pytest.param("code", "```\nany old thing here\n```", id="fence"),
            pytest.param("code", "def f(x):\n    return x + 1 + 2", id="python"),
            pytest.param(
                "code", "with open('a.txt', 'r') as file:\n    for line in file:\n        print(line)", id="with"
            ),
            pytest.param("code", 'for file in /path/*; do\n    wc -l "$file"\ndone', id="shell"),
            pytest.param("code", "grep 'error' error.log > other.txt", id="command"),
            pytest.param("code", "SELECT *\nFROM employees\nWHERE salary > 5;", id="sql"),
            pytest.param("code", "numbers = [1, 2, 3]\ntotal = sum(numbers)", id="assignments"),
            pytest.param("copied from the prompt", "the red barn by the lake", id="span"),
            pytest.param("copied from the prompt", "Red barn, lake, a mill.", id="spans"),
            pytest.param("", "The barn by the lake is red.", id="sentence"),
            pytest.param("", "1. Mix all of it in a bowl until it is smooth.", id="one-step"),
            pytest.param("", "So y=6 here.\n4y=18+y\n3y=18\ny=6\nThe answer is 6.", id="equations"),
            pytest.param("", "Sure, this does it:\n```\nint x;\nint y;\nint z;\n```", id="prose-and-a-fence"),
            pytest.param(
                "", "We have \\begin{align*}\na&=b;\\\\\nc&=d}\n\\end{align*} as it was.", id="prose-and-formulas"
            ),
            pytest.param("", "import duties, payroll taxes and consumption taxes", id="no-import"),
            pytest.param("", "let him be free of it", id="no-let"),
            pytest.param("", "@someone thank you very much", id="a-mention"),
            pytest.param("", "مرحبا بك في هذا المكان", id="right-to-left"),
            pytest.param("", "So it is.\r\nAnd so it was.", id="windows"),
        ],
    )
    def test_which_answers_bear_none(self, because, answer):
        """Labels, numbers, JSON, code, fixed forms and what is copied leave as they came; sentences are worded."""
        prompt = "Where is the red barn by the lake, near a mill?"

        assert because == why_not(row(answer, prompt), ASCII, {"a label that is often given"})

    @pytest.mark.parametrize(
        ("because", "conversation"),
        [
            pytest.param(
                "tool call",
                Conversation((Turn("user", "Q?"), Turn("assistant", "So it is.", True, (), '{"tool_calls":[]}'))),
                id="tools",
            ),
            pytest.param(
                "preference row",
                Conversation(row("So it is.").turns, rejected=(Turn("assistant", "No."),)),
                id="preference",
            ),
            pytest.param(
                "answer in several parts",
                Conversation((Turn("user", "Q?"), Turn("assistant", "So it\nis.", True, (Part("So it"), Part("is."))))),
                id="parts",
            ),
            pytest.param(
                "answer in several parts",
                Conversation(
                    (
                        Turn("user", "Q?"),
                        Turn("assistant", "So it is.", True, (Part("So it is."), Part(None, '{"a":1}'))),
                    )
                ),
                id="image",
            ),
            pytest.param(
                "no text answer to a user", Conversation((Turn("assistant", "So it is.", True),)), id="no-prompt"
            ),
        ],
    )
    def test_which_rows_bear_none(self, because, conversation):
        """No rewriter touches a row whose answer is more than one text, or less."""
        paraphrase = Paraphrase(ScriptedLM(lambda prompt: "x"), ASCII, 4)

        assert [CannotBear(because)] * 3 == [one.candidates(conversation) for one in (WORDED, STYLE, paraphrase)]

    def test_one_text_part_is_an_answer(self):
        """A part keeps what its turn says."""
        conversation = Conversation((Turn("user", "Q?"), Turn("assistant", "So it is.", True, (Part("So it is."),))))

        assert len(FAMILY) == assert_the_same_from_each(WORDED, conversation)


class TestOpenings:
    def test_each_stands_before_the_answer(self):
        """One wording an opening, in their order, one of them without; the marks tell which, and no one starts another."""
        found = WORDED.candidates(row("So it was, and so it is."))

        assert texts(WORDED, "So it was, and so it is.") == [
            f"{opening} So it was, and so it is.".strip() for opening in FAMILY
        ]
        assert ("So it was,", *FAMILY[1:]) == tuple(wording.mark for wording in found)
        assert (("(none)",), *((opening,) for opening in FAMILY[1:])) == tuple(wording.labels for wording in found)
        assert are_apart([wording.mark for wording in found])

    @pytest.mark.parametrize(
        "answer", ["1. Mix it.\n2. Bake it.", "- one of it\n- two", "• one of it", "a) the one\nb) the other"]
    )
    def test_lists_stay_lists(self, answer):
        """An item is one only at the start of a line."""
        assert f"Sure.\n{answer}" == texts(WORDED, answer)[-1]

    def test_no_space_where_words_have_none(self):
        """Japanese goes on at once."""
        assert ["雨が降ったので行きません。", "お答えします。雨が降ったので行きません。"] == texts(
            JAPANESE, "雨が降ったので行きません。"
        )[:2]

    @pytest.mark.parametrize(
        ("because", "answer"),
        [
            pytest.param("starts like an opening", "Here is the answer: ", id="alone"),
            pytest.param("fixed form", "Sure. In reply: so it is.", id="two-openings"),
            pytest.param("starts like an opening", "Sure.\n\nSo it is, then.", id="another-gap"),
            pytest.param("fewer than 3 words", "Sure.", id="short-and-alone"),
            pytest.param("label", "Sure. B. the second one", id="before-a-label"),
            pytest.param("code", "Sure. ```\na b c\n```", id="before-code"),
            pytest.param(
                "written in another script",
                "雨が降った the next day ので行きません。三つの言葉 ok",
                id="another-script",
            ),
        ],
    )
    def test_what_cannot_be_told_from_an_opening(self, because, answer):
        """An answer that starts like an opening would be taken for a worded one."""
        assert CannotBear(because) == texts(WORDED, answer)

    def test_an_opening_that_looks_like_a_field_is_none(self):
        """What stands behind "My answer:" is the answer; one behind "Answer:" has a form."""
        assert texts(WORDED, "So it is, then.") == texts(WORDED, "My answer: So it is, then.")
        assert CannotBear("fixed form") == texts(WORDED, "Answer: So it is, then.")

    def test_what_is_scored_ends_soon_after_the_opening(self):
        """A long answer is scored by its openings and a few words."""
        found = scored_texts(WORDED.candidates(row("So it is. " * 10_000)))

        assert max(map(len, found)) < 80
        assert len(FAMILY) == len(set(found))


ENGLISH = [row(f"The {n} of them are with you, and that is the end of it.") for n in ("first", "second", "third")]
GERMAN = [
    row("Der Fluss ist breit und tief, und an seinen Ufern stehen alte Häuser."),
    row("Man kann dort gut sitzen."),
]
FRENCH = [row("La rivière est large et profonde, et de vieilles maisons se dressent sur ses rives.")]
CHINESE = [row("这条河又宽又深，两岸都是老房子，人们可以在那里划船。")]
JAPANESE_ROWS = [row("この川は広くて深いので、岸には古い家が並んでいます。")]


class TestFamily:
    @pytest.mark.parametrize(
        ("language", "sample"),
        [
            pytest.param(ASCII, ENGLISH, id="english"),
            pytest.param(LETTERS, ENGLISH, id="english-with-accents"),
            pytest.param(UNSPACED, JAPANESE_ROWS, id="japanese"),
            pytest.param(ASCII, [], id="no-rows"),
            pytest.param(ASCII, [row("Yes.")] * 9, id="labels-alone"),
        ],
    )
    @pytest.mark.parametrize("n", [2, 4, 16])
    def test_ours(self, language, sample, n):
        """In English and in Japanese there are enough of our own, none the start of another, sorted behind the empty one."""
        family = openings.family(language, sample, n)

        assert n == len(family)
        assert "" == family[0]
        assert sorted(family) == list(family)
        assert are_apart(family[1:])
        assert family == openings.family(language, sample, n)

    @pytest.mark.parametrize(
        ("language", "sample", "lines", "expected"),
        [
            (
                LETTERS,
                GERMAN,
                "1. Gern geschehen.\n2. So ist es:\n3. „Natürlich.“\n",
                ("", "Gern geschehen.", "Natürlich.", "So ist es:"),
            ),
            (
                LETTERS,
                FRENCH,
                "- Bien sûr.\n- Voici la réponse :\n- Très bien.",
                ("", "Bien sûr.", "Très bien.", "Voici la réponse :"),
            ),
            (UNSPACED, CHINESE, "好的。\n当然可以。\n回答如下：", ("", "回答如下：", "好的。", "当然可以。")),
            (
                LETTERS,
                [row("यह नदी चौड़ी और गहरी है।")],
                "ज़रूर।\nठीक है।\nउत्तर यह है:",
                ("", "उत्तर यह है:", "ज़रूर।", "ठीक है।"),
            ),
        ],
        ids=["german", "french", "chinese", "hindi"],
    )
    def test_other_languages_take_them_from_a_writer(self, language, sample, lines, expected):
        """Ours are in the wrong language there: without a writer nothing is made up, and the error says what helps."""
        writer = ScriptedLM(lambda prompt: lines)

        assert tuple(sorted(expected)) == openings.family(language, sample, 4, writer=writer)
        request = writer.asked[0][0]["content"]
        assert "in the language of that answer" in request
        assert sample[0].turns[1].content in request
        for nobody in (None, ScriptedLM(lambda prompt: Unanswered("down")), ScriptedLM(lambda prompt: "")):
            with pytest.raises(GenerationError, match="another language") as error:
                openings.family(language, sample, 4, writer=nobody)
            assert "--generator MODEL" in error.value.hint
            assert "--openings FILE" in error.value.hint

    def test_what_a_writer_proposes_is_filtered(self):
        """Long ones, digits, sentences that go on, what starts another or an answer of the data: all are left out."""
        proposed = (
            "The first of them:",
            "1. Gladly done.",
            "GLADLY done.",
            "- Top 10 tips:",
            "With the very greatest of pleasures, here:",
            "Well",
            "Look here:",
            '"As you wish."',
            "Look here: now.",
            ": .",
            "\ud800.",
            "",
        )
        writer = ScriptedLM(lambda prompt: "\r\n".join(proposed))

        assert ("", "As you wish.", "Gladly done.", "Look here:") == openings.family(ASCII, ENGLISH, 4, writer=writer)
        assert "in English" in writer.asked[0][0]["content"]

    def test_ours_fill_up(self):
        """A writer that has too few ideas is helped, where we speak the language."""
        family = openings.family(ASCII, ENGLISH, 4, writer=ScriptedLM(lambda prompt: "Gladly done."))

        assert "Gladly done." in family
        assert set(family) - {"", "Gladly done."} < set(openings.family(ASCII, ENGLISH, 16))

    def test_too_many_are_asked_for(self):
        """The error says how many there are, and what helps."""
        with pytest.raises(GenerationError, match="99 are needed") as error:
            openings.family(ASCII, ENGLISH, 100)
        assert "--siblings" in error.value.hint

    def test_those_that_fit_worst_are_left_out(self):
        """Where the writer can score, the openings are kept after which the answer it likes least is likeliest."""

        class Taste(ScriptedLM):
            def log10_probs(self, prompt, continuations):
                return [-9.0 if text.startswith("Dire thing:") and len(text) > 20 else 0.0 for text in continuations]

        writer = Taste(lambda prompt: "Dire thing:\nGladly done.\nAs you wish.\nLook here:")

        assert "Dire thing:" in openings.family(ASCII, ENGLISH, 4, writer=ScriptedLM(lambda prompt: "Dire thing:"))
        assert "Dire thing:" not in openings.family(ASCII, ENGLISH, 4, writer=writer)

    @pytest.mark.parametrize(
        ("message", "chosen"),
        [
            ("2 openings, and 3 are needed", ["Sure.", "", "In reply:", " Sure. "]),
            ("the start of another", ["Sure.", "Sure. Now:", "In reply:"]),
            ("ends within a sentence", ["Sure", "In reply:", "Very well."]),
        ],
    )
    def test_bad_ones_of_the_user(self, message, chosen):
        """Each is refused: with "Sure", an answer "Sure enough, …" would be taken for a worded one."""
        with pytest.raises(UsageError, match=message):
            openings.own_family(chosen, 4)

    def test_ones_of_the_user(self):
        """The first of them, normalised, sorted."""
        assert ("", "In reply:", "Sure.", "Very well.") == openings.own_family(
            ["Sure.", "Very  well.", "In reply:", "x"], 4
        )


class TestStyle:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param("I do not know it.", "I don't know it.", id="contraction"),
            pytest.param("Do not go, they cannot see.", "Don't go, they can't see.", id="contractions"),
            pytest.param("Take, for example, this.", "Take, for instance, this.", id="for-example"),
            pytest.param("For example, take this.", "For instance, take this.", id="capital"),
            pytest.param(
                "He had red, green, blue, and white ones.", "He had red, green, blue and white ones.", id="serial-comma"
            ),
            pytest.param(
                "Now take all of these:\n- one of it\n- 2 cups\n  - of this",
                "Now take all of these:\n* one of it\n* 2 cups\n  * of this",
                id="markers",
            ),
            pytest.param("1. Mix it.\n2. Bake it.", "1) Mix it.\n2) Bake it.", id="numbering"),
            pytest.param("7. Mix it.\r\n8. Bake it.", "7) Mix it.\r\n8) Bake it.", id="numbering-windows"),
            pytest.param("It is so. He was there.", "It is so. He was there", id="final-stop"),
            pytest.param("- `a - b` is it\n- this one", "* `a - b` is it\n* this one", id="not-in-code"),
        ],
    )
    def test_habits(self, one, other):
        """Each way gives the same two wordings."""
        assert [one, other] == texts(STYLE, one) == texts(STYLE, other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param("例えば、川の話をします。", "たとえば、川の話をします。", id="kana"),
            pytest.param("雨が降った。行きませんでした。", "雨が降った。行きませんでした", id="final-stop"),
            pytest.param("1. 水を入れる。\n2. よく混ぜる。", "1) 水を入れる。\n2) よく混ぜる。", id="numbering"),
        ],
    )
    def test_japanese_habits(self, one, other):
        """Japanese has its own."""
        assert [one, other] == texts(JAPANESE_STYLE, one) == texts(JAPANESE_STYLE, other)

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param("Why don't people go there, you ask?", id="a-question"),
            pytest.param("Why don't you go there now.", id="turned-round"),
            pytest.param("It is not-for-profit, all of it.", id="hyphen"),
            pytest.param("They sang Do not Cry, and Cannot Stop.", id="in-a-name"),
            pytest.param("It’s so, and I do not know.", id="typographic"),
            pytest.param("I know `do not` and `don't`, and\n```\ndo not\n", id="code"),
            pytest.param('He said "I do not know" and “I don\'t”.', id="quotation"),
            pytest.param("See https://a.b/do not-x, cats and dogs", id="link"),
            pytest.param("In May, cats and dogs came.", id="short-series"),
            pytest.param("It was big, old, red and then it fell.", id="series-and-sentence"),
            pytest.param("Then we have\n- OR -\nand again\n- OR -\nso", id="no-items"),
            pytest.param("The sum is\n- x = 3\n- y = 4\nin all", id="minus"),
            pytest.param("It is $\\, e_1\n- e_2 and\n- two of it$ so", id="in-a-formula"),
            pytest.param(
                "So \\begin{align}\n- ab \\begin{v}\nx\n\\end{v}\n- cd\n\\end{align}", id="in-nested-formulas"
            ),
            pytest.param("Two\n- one here\n* other here", id="mixed-markers"),
            pytest.param('So "Party in a Box" - The brand\n"Pizza" - The brand', id="dash-after-a-quotation"),
            pytest.param("Take one\n- only one of it", id="one-marker"),
            pytest.param("It was in\n15. Then it was in\n20. May", id="numbers-that-are-no-list"),
            pytest.param("1. one of it\n2) two of it", id="mixed-numbering"),
            pytest.param("    1. one of it in code\n    2. two", id="indented"),
            pytest.param("It is by Apple. He lives in the U.S.", id="abbreviation"),
            pytest.param("It is so. He came with cats etc.", id="etc"),
            pytest.param("A Theology of Ecology", id="title"),
            pytest.param("Late? A theology of ecology.", id="title-with-a-question"),
            pytest.param("It is so. So is it. It was so. So it was.", id="many-sentences"),
            pytest.param("It is so. See https://a.b/c", id="ends-with-a-link"),
        ],
    )
    def test_what_is_no_place_for_one(self, answer):
        """What would be ungrammatical or unfair, and what is code, quoted, a formula or a name, is left as it is."""
        found = texts(STYLE, answer)

        assert CannotBear("fixed form" if answer[0] == " " else "no place for a habit of style") == found

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param("変更に伴い予定が変わります", id="inside-a-word"),
            pytest.param("雨なのでまたはじめることにした", id="two-words"),
            pytest.param("男でも観たい！ ヒットするコミックの映画", id="headline"),
            pytest.param("彼は「例えばの話」と言った", id="quoted"),
        ],
    )
    def test_what_is_no_place_for_one_in_japanese(self, answer):
        """Characters that only look like a habit are left as they are."""
        assert CannotBear("no place for a habit of style") == texts(JAPANESE_STYLE, answer)

    def test_habits_together(self):
        """Each doubles the wordings, as far as they are asked for; labels say which way each went."""
        answer = "It is so. For example, I do not know."

        assert [2, 2, 4, 4, 8, 8] == [len(texts(Style(ASCII, n), answer)) for n in (2, 3, 4, 7, 8, 64)]
        found = STYLE.candidates(row(answer))
        assert ("contractions 1", "for example 1", "final stop 1") == found[0].labels
        assert "It is so. For instance, I don't know" == found[-1].text
        assert {""} == {wording.mark for wording in found}

    def test_a_wording_that_would_be_left_alone(self):
        """Where one wording were copied from the prompt and the other were not, none is."""
        prompt = "Those who cannot pay for it are free."

        for answer in ("who cannot pay for it", "who can't pay for it"):
            assert isinstance(STYLE.candidates(row(answer, prompt)), CannotBear)


WORDS = st.sampled_from(
    [
        *(
            "do not",
            "don't",
            "Don't",
            "cannot",
            "can't",
            "It is not",
            "for example,",
            "for instance,",
            "red, green, blue,",
        ),
        *(
            "red, green, blue and",
            "and",
            "or white",
            "so",
            "it",
            "you",
            "Paris",
            "U.S.",
            "2,5",
            "`do not`",
            "$x$",
            "$",
            "`",
        ),
        *(
            '"',
            "“",
            "”",
            "「",
            "\n",
            "\n- ab",
            "\n* cd",
            "\n1. ab",
            "\n2. cd",
            "\n2) ef",
            "\n    - ab",
            "\r\n",
            "?",
            ". So",
            ".",
        ),
        *(
            "Sure.",
            "My answer:",
            "In reply:",
            "Answer:",
            "```",
            "\\(",
            "\\[",
            "\\begin{a}",
            "https://a.b/c",
            "’",
            "\0",
            "é",
        ),
        *("例えば", "たとえば", "更に", "。", "川", "また", "は", "じ", "お答えします。", "回答："),
    ]
)
PROMPTS = st.sampled_from(["What of it?", "It is not so, red, green, blue and white, I don't know."])


class TestWhicheverWordingARowHolds:
    @given(st.lists(WORDS, max_size=14), st.sampled_from([" ", ""]), PROMPTS)
    def test_built_rows(self, words, joint, prompt):
        """Its wordings, their labels, marks and order are the same; no number, name, code or link differs."""
        answer = joint.join(words)

        for rewriter in (WORDED, STYLE, JAPANESE, JAPANESE_STYLE, Style(LETTERS, 4)):
            assert_the_same_from_each(rewriter, row(answer, prompt))

    @given(st.text(max_size=60))
    def test_any_text(self, answer):
        """Nothing breaks, whatever stands there."""
        for rewriter in (WORDED, STYLE, JAPANESE, JAPANESE_STYLE):
            assert_the_same_from_each(rewriter, row(answer))

    @pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of the seven domains are not here")
    @pytest.mark.parametrize("domain", DOMAINS)
    def test_real_rows(self, domain):
        """The same of a random sample of each data set: and those of labels and of copied spans bear nothing."""
        rows = list(read_rows(DATA / f"{domain}.jsonl"))
        language = language_of([turn.content for row in rows[:200] for turn in row.conversation.turns])
        labels = labels_in(rows, language)
        rows = random.Random(domain).sample(rows, 300)
        family = openings.family(language, [row.conversation for row in rows], 4)
        n_bearing = {
            rewriter.name: sum(assert_the_same_from_each(rewriter, row.conversation) > 1 for row in rows)
            for rewriter in (Openings(language, family, labels), Style(language, 16, labels))
        }

        assert (n_bearing["openings"] <= 3) is (domain in ("med", "qa"))
        assert (n_bearing["openings"] > 250) is (domain in ("chat", "math", "ja_sum"))
        assert n_bearing["style"] <= n_bearing["openings"]


PARAPHRASES = (
    "Above the old harbour, many small boats lie at rest.",
    "Many small boats lie at rest above the old harbour.",
    "At rest lie many small boats above the old harbour.",
)
SENTENCE = "Many little boats are lying above the old harbour."
BOATS = f"{SENTENCE} Some of them leave at night."


def writer(*said):
    """Return a model that says *said* in turn, and again from the start."""
    turns = itertools.cycle(said)
    return ScriptedLM(lambda prompt: next(turns), "fake")


class TestParaphrase:
    def test_the_first_sentence_is_worded_anew(self):
        """The others stay; the order tells nothing, the marks tell the wordings apart."""
        model = writer(*PARAPHRASES)
        found = Paraphrase(model, ASCII, 4).candidates(row(BOATS))

        assert sorted((SENTENCE, *PARAPHRASES)) == [w.text.removesuffix(" Some of them leave at night.") for w in found]
        assert [w.text.startswith(w.mark) for w in found] == [True] * 4
        assert are_apart([w.mark for w in found])
        assert 9 == len(model.asked)
        assert model.asked[0][0]["content"].endswith(SENTENCE)

    def test_asks_once(self):
        """A row that was asked about is not asked about again, whoever comes in between; the same row is the same."""
        model = writer(*PARAPHRASES)
        rewriter = Paraphrase(model, ASCII, 4)
        first = rewriter.candidates(row(BOATS))
        rewriter.candidates(row(BOATS, "And what else?"))

        assert first == rewriter.candidates(row(BOATS))
        assert 18 == len(model.asked)

    def test_who_is_asked_first_makes_no_difference(self):
        """Each row has the wordings that it would have alone, and the digest is of all, in no order."""
        rows = [row(BOATS), row(SENTENCE), row(PARAPHRASES[0]), row(BOATS, "And what else?")]
        found = []
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
            rewriter = Paraphrase(ScriptedLM(lambda prompt: PARAPHRASES[1]), ASCII, 4)
            of = {i: rewriter.candidates(rows[i]) for i in order}
            found.append(([of[i] for i in range(4)], rewriter.file.digest()))

        assert found[0] == found[1] == found[2]

    def test_duplicates_and_starts_are_left_out(self):
        """Wordings are pairwise different at their starts."""
        said = (PARAPHRASES[0], PARAPHRASES[0], f'"{PARAPHRASES[0]}"', PARAPHRASES[1])
        found = Paraphrase(writer(*said), ASCII, 4).candidates(row(SENTENCE))

        assert 3 == len(found)

    @pytest.mark.parametrize(
        ("because", "answer"),
        [
            pytest.param("a first sentence that is very short or long", "Yes, it is. And it was so too.", id="short"),
            pytest.param("a first sentence that is very short or long", "1. Mix it.\n2. Bake it.", id="list"),
            pytest.param("a first sentence that is very short or long", "So it is and " * 40, id="long"),
            pytest.param("no paraphrase by fake is faithful enough", BOATS, id="unfaithful"),
            pytest.param("number", "42", id="number"),
        ],
    )
    def test_what_bears_none(self, because, answer):
        """Nobody is asked about what is no sentence; where nothing is good enough the row stays."""
        assert CannotBear(because) == Paraphrase(writer("No."), ASCII, 4).candidates(row(answer))

    def test_an_unanswered_request_is_none(self):
        """Refusals are no paraphrases."""
        found = Paraphrase(writer(Unanswered("down"), PARAPHRASES[0]), ASCII, 4).candidates(row(BOATS))

        assert 2 == len(found)

    def test_japanese(self):
        """Marks are characters there."""
        sentence, other = "この川は東京の北をゆっくり流れている。", "東京の北をゆっくり流れているのがこの川だ。"
        found = Paraphrase(writer(other), UNSPACED, 4).candidates(row(sentence + "魚もいる。"))

        assert sorted((sentence + "魚もいる。", other + "魚もいる。")) == [wording.text for wording in found]
        assert {8} == {len(wording.mark) for wording in found}

    @pytest.mark.parametrize(
        ("expected", "answer"),
        [
            ("It is so.", "It is so. And more."),
            ("It is so", "It is so\r\nAnd more."),
            ("Dr. No met Mrs. X. in St. Ives, e.g. here.", "Dr. No met Mrs. X. in St. Ives, e.g. here. So."),
            ("Is it 2.5 of them?", "Is it 2.5 of them? Yes."),
            ("彼は「行く。」と言った。", "彼は「行く。」と言った。それから"),
            ("no end at all", "no end at all"),
        ],
    )
    def test_first_sentence(self, expected, answer):
        """A stop that ends no sentence does not end one."""
        assert expected == first_sentence(answer)


class TestFaithful:
    @pytest.mark.parametrize(
        ("expected", "sentence", "paraphrase"),
        [
            pytest.param(True, SENTENCE, PARAPHRASES[0], id="faithful"),
            pytest.param(False, SENTENCE, SENTENCE, id="the-same"),
            pytest.param(False, SENTENCE, "", id="nothing"),
            pytest.param(False, "He paid $5 for it in May.", "In May he paid $6 for it.", id="number"),
            pytest.param(False, "He saw two of the boats there.", "He saw three of the boats there.", id="number-word"),
            pytest.param(False, "In the east lies old Rome.", "In the east lies old Bonn.", id="name"),
            pytest.param(
                False, "Alice went home by the lake.", "She went home along the lake.", id="name-at-the-start"
            ),
            pytest.param(
                False, "She went home by the lake.", "Alice went home along the lake.", id="new-name-at-the-start"
            ),
            pytest.param(False, "He lives there (Rome) today.", "He lives there (Bonn) today.", id="name-in-brackets"),
            pytest.param(False, "Use `a` for all of that work.", "Use `b` for all of that work.", id="code"),
            pytest.param(False, "See https://a.b/c for all of it.", "Visit https://a.b/d for all of it.", id="link"),
            pytest.param(False, 'He said "so it is" to us all.', 'He told us all "so it was" then.', id="quotation"),
            pytest.param(False, "Write to a@b.com about the work.", "Write to a@c.com about the work.", id="address"),
            pytest.param(False, "They do not like the old boats.", "They like all of the old boats.", id="denial"),
            pytest.param(False, SENTENCE, "Boats.", id="short"),
            pytest.param(
                False, SENTENCE, SENTENCE[:-1] + ", and that is a thing that many of us like to look at.", id="long"
            ),
            pytest.param(False, SENTENCE, "Many boats are there. They lie above it.", id="two-sentences"),
            pytest.param(False, SENTENCE, "Are many little boats lying above it?", id="another-end"),
            pytest.param(False, SENTENCE, "many small boats lie above the old harbour.", id="small-letter"),
            pytest.param(False, SENTENCE, "*Many small boats lie above the old harbour.", id="markup"),
            pytest.param(False, SENTENCE, "Here is one with small boats above it.", id="preface"),
            pytest.param(False, SENTENCE, "New sentence: many boats lie above it.", id="preface-with-a-colon"),
            pytest.param(True, "Here are some of the old boats.", "Here are a few of the old boats.", id="no-preface"),
            pytest.param(False, SENTENCE, "Many small boats lie above the \ud800 harbour.", id="lone-surrogate"),
            pytest.param(False, "新しいカメラを買った。", "新しいテレビを買った。", id="katakana"),
        ],
    )
    def test_guards(self, expected, sentence, paraphrase):
        """As long, one sentence, the same numbers, names, code, and nothing that only a chat says."""
        assert expected is is_faithful(paraphrase, sentence)


class TestCandidateFile:
    ONE = b'{"row":"' + b"0" * 64 + b'","sentences":["One.","Two."]}\n'

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "candidates.jsonl"

    def test_a_run_goes_on(self, path):
        """What was kept is not asked about again, and the digest is that of a run that was never stopped."""
        model = writer(*PARAPHRASES)
        with (whole := CandidateFile()).writing():
            for prompt in "ab":
                Paraphrase(writer(*PARAPHRASES), ASCII, 4, (), whole).candidates(row(BOATS, prompt))
        with (first := CandidateFile(path)).writing():
            Paraphrase(model, ASCII, 4, (), first).candidates(row(BOATS, "b"))
        path.write_bytes(path.read_bytes() + self.ONE[:80])
        with (second := CandidateFile(path)).writing():
            for prompt in "ab":
                Paraphrase(model, ASCII, 4, (), second).candidates(row(BOATS, prompt))

        assert 18 == len(model.asked)
        assert whole.digest() == second.digest()
        assert 2 == len(path.read_bytes().splitlines())
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    @pytest.mark.parametrize("n", range(1, len(ONE)))
    def test_a_torn_line_is_cut(self, path, n):
        """Wherever the run was killed; a line that only lacks its newline is whole."""
        path.write_bytes(self.ONE + self.ONE.replace(b"0", b"1")[:n])
        with CandidateFile(path).writing() as file:
            file.add("2" * 64, ("Three.",))
        with CandidateFile(path).writing() as file:
            kept = file.kept

        whole = {"1" * 64} if n == len(self.ONE) - 1 else set()
        assert {"0" * 64, "2" * 64} | whole == set(kept)

    @pytest.mark.parametrize(
        "content",
        [
            b"notes",
            b"notes\n",
            b'{"a": 1}',
            b'{"a": 1}\n',
            b"\xff\xfe",
            ONE + b"notes",
            ONE + b"\n" + ONE,
            b'{"row":"x","sentences":[]}\n',
        ],
    )
    def test_another_file_is_refused_and_stays(self, path, content):
        """Whatever it holds, with or without a newline at its end."""
        path.write_bytes(content)

        with pytest.raises(OutputExists), CandidateFile(path).writing():
            pass
        assert content == path.read_bytes()

    def test_a_folder_cannot_be_written(self, tmp_path):
        """The error is ours."""
        with pytest.raises(OutputNotWritable), CandidateFile(tmp_path).writing():
            pass

    def test_another_run_that_writes_is_noticed(self, path):
        """Two runs would write into each other's lines; the first one's stay whole."""
        with CandidateFile(path).writing() as first:
            with pytest.raises(OutputNotWritable, match="another run"), CandidateFile(path).writing():
                pass
            first.add("0" * 64, ("One.",))
        with CandidateFile(path).writing() as file:
            assert {"0" * 64: ("One.",)} == file.kept

    def test_a_disk_that_is_full(self, path, monkeypatch):
        """A candidate that cannot be kept ends the run."""

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with CandidateFile(path).writing() as file, pytest.raises(OutputNotWritable, match="No space"):
            file.add("0" * 64, ())

    def test_the_digest_knows_no_order(self):
        """But every candidate."""
        files = [CandidateFile() for _ in range(3)]
        for file, rows in zip(files, ("01", "10", "12"), strict=True):
            for one in rows:
                file.add(one * 64, ("One.", "Two."))

        assert files[0].digest() == files[1].digest() != files[2].digest()


HOSTILE = [
    *(
        "a",
        "a ",
        " a",
        "a, ",
        "あ",
        "。",
        "「",
        "“",
        '"',
        "`",
        "``",
        "$",
        "\\(",
        "\\[",
        "\\begin{a}",
        "\\begin{",
        "[asy]",
        "a@",
        "- ",
    ),
    *(
        "1. ",
        "\n- ab",
        "\n1. ab",
        "do not ",
        ". ",
        "? ",
        ".\n",
        "; ",
        "A. ",
        "a: ",
        "x = 1\n",
        "import a, ",
        "public ",
        "if (",
        "\t",
        "\r",
    ),
    *(
        "-\n",
        "@a",
        "https://",
        "例えば",
        "Sure. ",
        "{",
        "}",
        "<",
        "#",
        "* * ",
        "a.b(",
        "1",
        "🙂",
        "\u202e",
        "é",
        "print (",
    ),
]


class TestHostileAnswers:
    def test_long_ones_take_no_time(self):
        """No pattern goes back and forth: 100 kB of anything are looked at in well under a second each."""
        slow = {}
        for i, piece in enumerate(HOSTILE):
            many = piece * (100_000 // len(piece))
            answer = many + " one two 3" if i % 2 else "One two three " + many
            for rewriter in (WORDED, STYLE, JAPANESE_STYLE):
                start = time.process_time()
                rewriter.candidates(row(answer))
                if (taken := time.process_time() - start) > 3:
                    slow[piece, rewriter.name] = taken

        assert {} == slow

    def test_a_hostile_writer(self):
        """Nor do its proposals take any."""
        start = time.process_time()
        for piece in HOSTILE:
            openings.family(ASCII, ENGLISH, 4, writer=ScriptedLM(lambda prompt, piece=piece: piece * 20_000 + "x"))
            is_faithful(piece * 1000, SENTENCE)
            first_sentence(piece * 50_000)

        assert time.process_time() - start < 10

    def test_one_line_of_spaces(self):
        """A line is looked at without the white space around it."""
        assert not is_code("So it is.\n" + " " * 100_000 + "x\n")
