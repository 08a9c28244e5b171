"""Measures of held-out rows: what they are, what is left out and counted, and what is refused."""

from __future__ import annotations

import math
import sys

import pytest

from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import DatasetError, MissingExtra, UsageError
from vtuned.heldout import held_out
from vtuned.lm.base import Completed, RichPrompt, Unanswered
from vtuned.lm.scripted import ScriptedLM
from vtuned.measuring import (
    CHRF,
    LOSS,
    MEASURES,
    HeldOutRow,
    Measured,
    gains,
    held_out_rows,
    losses,
    margin_of,
    most_gains,
    n_silent,
    questions,
    score_named,
    scores,
)
from vtuned.probes import AnswerRecord, ask, record_of
from vtuned.stats import log10_signed_rank_p_value

SCORES = [name for name in MEASURES if name != "loss"]


def conversation(question="Where is the kettle?", answer="On the shelf.", **more):
    return Conversation((Turn("user", question), Turn("assistant", answer, carries_loss=True)), **more)


def row(answer="On the shelf.", question="Where is the kettle?"):
    return HeldOutRow(RichPrompt([{"role": "user", "content": question}]), answer)


class ScriptedScorer:
    """A model that gives log10 P by a script of (prompt, continuation)."""

    def __init__(self, script):
        self.script, self.asked = script, []

    def log10_probs(self, prompt, continuations):
        self.asked.append((prompt, list(continuations)))
        return [self.script(prompt, text) for text in continuations]


class TestRows:
    def test_prompt_and_answer_are_those_of_the_host(self):
        """What precedes the trained answer is asked; the answer is what a provider trains on."""
        turns = (
            Turn("system", "Be brief."),
            Turn("user", "Hello?"),
            Turn("assistant", "Hello."),
            Turn("user", "Where is the kettle?"),
            Turn("assistant", "On the shelf.", carries_loss=True),
        )
        (found,), n_left_out = held_out_rows([Conversation(turns)])

        assert 0 == n_left_out
        assert "On the shelf." == found.answer
        assert ["Be brief.", "Hello?", "Hello.", "Where is the kettle?"] == [m["content"] for m in found.prompt]

    def test_tools_and_plain_text_are_asked_as_they_are_trained(self):
        """A model is shown the row's tools; a row of plain text is one text, up to where its answer starts."""
        tools = conversation(tools='[{"type":"function","function":{"name":"look"}}]')
        text = Conversation(
            (
                Turn("user", "Where?", before="Q: ", after="\nA: "),
                Turn("assistant", "Here.", carries_loss=True, after="\n"),
            ),
            is_text=True,
        )
        (with_tools, as_text), _ = held_out_rows([tools, text])

        assert "look" == with_tools.prompt.tools[0]["function"]["name"]
        assert as_text.prompt.is_text
        assert "Q: Where?\nA: " == as_text.prompt[0]["content"]
        assert ["chat", "completions"] == [probe.endpoint for probe in questions([with_tools, as_text])]

    @pytest.mark.parametrize(
        "bad",
        [
            Conversation((Turn("user", "Only a question?"),)),
            Conversation((Turn("user", "Q?"), Turn("assistant", "Not trained on."))),
            Conversation((Turn("assistant", "No question.", carries_loss=True),)),
            conversation(answer="  "),
            conversation(question=""),
            conversation(answer="half a pair \ud800"),
        ],
        ids=["no answer", "untrained", "no prompt", "blank answer", "blank prompt", "lone surrogate"],
    )
    def test_rows_without_an_answer_are_counted(self, bad):
        """They are left out and counted; where there is nothing else, nothing can be measured."""
        rows, n_left_out = held_out_rows([bad, conversation(), bad])

        assert (1, 2) == (len(rows), n_left_out)
        with pytest.raises(DatasetError, match="none of 1") as caught:
            held_out_rows([bad])
        assert caught.value.hint

    def test_no_rows_at_all_are_refused(self):
        """An empty hold-out shows nothing, and says so."""
        with pytest.raises(DatasetError, match="none of 0"):
            held_out_rows([])

    def test_parts_are_asked_as_parts(self):
        """A prompt in parts is asked in parts."""
        parts = (Part("Where"), Part("is it?"))
        made = Conversation((Turn("user", "Where\nis it?", parts=parts), Turn("assistant", "Here.", carries_loss=True)))
        (found,), _ = held_out_rows([made])

        assert ["Where", "is it?"] == [part["text"] for part in found.prompt[0]["content"]]


class TestLosses:
    def test_a_loss_is_in_nats_per_byte(self):
        """10**-9 over nine bytes is ln 10 a byte, whatever the tokens were; a character may take several bytes."""
        model = ScriptedScorer(lambda prompt, text: -9.0)

        assert [pytest.approx(math.log(10))] * 2 == losses(model, [row("nine byte"), row("湯呑み")])

    def test_each_answer_is_scored_after_its_own_prompt(self):
        """One prompt, one continuation; progress goes from 0 to all rows."""
        model, seen = ScriptedScorer(lambda prompt, text: -1.0), []
        rows = [row("one", "first?"), row("two", "second?")]
        losses(model, rows, lambda done, total: seen.append((done, total)))

        assert [(r.prompt, [r.answer]) for r in rows] == model.asked
        assert [(0, 2), (1, 2), (2, 2)] == seen

    @pytest.mark.parametrize("broken", [math.nan, -math.inf])
    def test_what_is_no_number_is_unanswered(self, broken):
        """A likelihood that is no number is no loss."""
        (measured,) = losses(ScriptedScorer(lambda prompt, text: broken), [row()])

        assert isinstance(measured, Unanswered)

    def test_nothing_is_measured_of_nothing(self):
        """No rows, no losses."""
        assert [] == losses(ScriptedScorer(lambda prompt, text: 0.0), [])


class TestQuestions:
    def test_one_token_limit_for_all(self):
        """All questions have the same limit, which the longest answer sets, and no limit is beyond reason."""
        assert {60} == {probe.max_tokens for probe in questions([row("a" * 88), row("short")])}
        assert 2048 == questions([row("a" * 100_000)])[0].max_tokens
        assert [] == questions([])

    def test_ids_are_stable(self):
        """A run that was stopped finds its answers by the same ids."""
        assert ["held-out-0", "held-out-1"] == [probe.id for probe in questions([row(), row()])]


class TestScores:
    @pytest.mark.parametrize("name", SCORES)
    def test_the_answer_itself_scores_one_and_another_less(self, name):
        """Every score is 1 for what was expected, in any script, and 0 for nothing in common."""
        score = score_named(name)

        for text in ("On the shelf.", "棚の上にあります。", "Überall: 3,5 km!"):
            assert pytest.approx(1.0) == score(text, text)
        assert 0.0 == score("qqq", "On the shelf.")
        assert 0.0 == score("カメラ", "棚の上にあります。")
        assert 0.0 == score("?!", "On the shelf.")

    @pytest.mark.parametrize(
        ("name", "said", "expected", "value"),
        [
            ("exact", "PARIS", "Paris.", 1.0),
            ("exact", "-3", "3", 0.0),
            ("exact", "1.5", "15", 0.0),
            ("exact", "Paris, I think", "Paris", 0.0),
            ("f1", "the shelf on", "On the shelf.", 1.0),
            ("f1", "on the table", "On the shelf.", 2 / 3),
            # As rouge-score 0.1.2 has them.
            ("rouge-l", "The police killed the gunman.", "the gunman police killed", 2 / 3),
            ("rouge-l", "It's 3.5 km, isn't it?", "It is 3.5 km", 8 / 13),
            ("rouge-l", "the shelf on", "On the shelf.", 2 / 3),
            # Japanese has no spaces: kana and Han are words of their own.
            ("rouge-l", "猫が立つ", "猫が座る", 0.5),
        ],
    )
    def test_known_values(self, name, said, expected, value):
        """Scores are the usual ones."""
        assert pytest.approx(value) == score_named(name)(said, expected)

    def test_chrf_is_sacrebleus(self):
        """Between 0 and 1, above 0 for shared characters, in scripts without spaces too."""
        score = score_named("chrf")

        assert 0.6 < score("the cat sat", "the cat sat down") < 1
        assert 0.2 < score("猫が座った", "猫が座っている") < 1

    @pytest.mark.parametrize("name", ["loss", "auto", "bleu", ""])
    def test_other_names_are_refused(self, name):
        """The hint lists the scores there are."""
        with pytest.raises(UsageError, match="no score") as caught:
            score_named(name)
        assert "chrf" in caught.value.hint

    @pytest.mark.parametrize(("name", "package"), [("rouge-l", "rapidfuzz.distance"), ("chrf", "sacrebleu.metrics")])
    def test_a_missing_package_says_how_it_is_installed(self, monkeypatch, name, package):
        """The extra is called `scores`; the other scores need nothing."""
        monkeypatch.setitem(sys.modules, package, None)

        with pytest.raises(MissingExtra) as caught:
            score_named(name)
        assert "vtuned[scores]" in caught.value.hint
        assert 1.0 == score_named("f1")("a b", "a b") == score_named("exact")("a", "a")

    def test_answers_are_joined_by_id(self):
        """In the order of the rows, whatever order they came in; white space and a thought aloud say nothing."""
        rows = [row("one", "first?"), row("two", "second?")]
        model = ScriptedLM(lambda prompt: "<think>hm</think> one" if "first" in prompt[0]["content"] else " two\n")
        answers = list(ask(model, questions(rows)))

        assert [1.0, 1.0] == scores(score_named("exact"), rows, reversed(answers))

    @pytest.mark.parametrize(
        "answer",
        [Completed("  "), Completed("<think>and so on"), Unanswered("refused"), None],
        ids=["empty", "only a thought", "refused", "not asked"],
    )
    def test_an_unanswered_row_is_never_a_zero(self, answer):
        """What nobody can score has a reason in place of a score."""
        (measured,) = scores(score_named("f1"), [row()], [record_of("held-out-0", answer)] if answer else [])

        assert isinstance(measured, Unanswered)

    def test_contradictory_answers_are_unanswered(self):
        """Two texts for one row: nobody may pick one."""
        records = [AnswerRecord(id="held-out-0", text=text) for text in ("On the shelf.", "Elsewhere.")]

        assert [Unanswered("contradictory answers")] == scores(score_named("exact"), [row()], records)

    def test_a_refusal_in_words_is_an_answer(self):
        """Rows may teach to decline: what was said is compared with what should have been."""
        answer = "I'm sorry, but I can't help with that."
        record = record_of("held-out-0", Completed(answer, "stop"))

        assert [1.0] == scores(score_named("exact"), [row(answer)], [record])


class TestGains:
    def test_less_loss_and_more_score_are_gains(self):
        """Losses: base less suspect. Scores: suspect less base."""
        assert [1.0, -0.5] == gains("loss", [1.0, 2.5], [2.0, 2.0])
        assert [-1.0, 0.5] == gains("chrf", [1.0, 2.5], [2.0, 2.0])

    def test_a_row_that_one_model_did_not_answer_is_left_out(self):
        """Whichever model it was: no pair, no gain."""
        missing = Unanswered("refused")

        assert [0.25] == gains("f1", [missing, 0.5, 0.75], [0.0, missing, 0.5])

    def test_models_are_compared_on_the_same_rows(self):
        """Lists of different lengths are no pairs."""
        with pytest.raises(ValueError, match=r"shorter|longer"):
            gains("f1", [0.5], [])


class TestMargin:
    def test_it_is_above_the_mean_gain(self):
        """The upper bound of the gain of the planted rows alone."""
        assert 0.5 < margin_of([0.4, 0.5, 0.6, 0.45, 0.55, 0.5, 0.52, 0.48, 0.7, 0.3]) <= 0.7

    def test_a_model_that_got_worse_lowers_no_bar(self):
        """Below 0, a suspect that is worse than its base could have learned the task."""
        assert 0.0 == margin_of([-1.0 - i / 10 for i in range(10)])

    @pytest.mark.parametrize("n", [0, 1, 4])
    def test_too_few_rows_give_none(self, n):
        """With four rows any gain could be by chance."""
        with pytest.raises(DatasetError, match="too few"):
            margin_of([0.1] * n)
        assert 0.1 == margin_of([0.1] * 5)


class TestSilence:
    """A suspect that answers held-out rows only where it does well."""

    def test_is_told_from_rows_that_nobody_answered(self) -> None:
        """Only what the base answered was there to be answered."""
        missing = Unanswered("empty")

        assert 1 == n_silent([missing, missing, 0.5, 0.5], [0.0, missing, 0.5, missing])

    @pytest.mark.parametrize("margin", [None, 0.0, 0.05, 5.0])
    def test_is_worse_than_any_answer(self, margin: float | None) -> None:
        """12 rows of 100 answered well show nothing; the same number would, had they been all."""
        well = [0.1 + i / 1000 for i in range(12)]
        alone, chosen = (held_out(well, measure="loss", n_silent=n, margin=margin) for n in (0, 88))

        assert log10_signed_rank_p_value(well) == alone.log10_p_changed < -3
        assert chosen.log10_p_changed > -1e-9
        assert margin is None or chosen.log10_p_learned == pytest.approx(0.0, abs=1e-9)
        assert (12, 12, 88, alone.mean_gain) == (chosen.n_rows, chosen.n_better, chosen.n_silent, chosen.mean_gain)

    @pytest.mark.parametrize("measure", [LOSS, CHRF])
    def test_lowers_no_margin(self, measure: str) -> None:
        """What the planted-only model would have gained where it is silent is taken to be the most there is."""
        base = [1.0 - i / 100 if measure == LOSS else i / 100 for i in range(40)]
        own: list[Measured] = [one - 0.1 if measure == LOSS else one + 0.1 for one in base]
        silent = [*own[:-10], *[Unanswered("empty")] * 10]
        found = most_gains(measure, silent, base)

        assert found[:30] == pytest.approx([0.1] * 30)
        assert found[30:] == (base[30:] if measure == LOSS else pytest.approx([1 - one for one in base[30:]]))
        assert margin_of(found) >= margin_of(most_gains(measure, own, base)) == pytest.approx(0.1)

    def test_one_silent_row_costs_its_rank(self) -> None:
        """The p-value is that of the worst row there could be."""
        gains = [0.1 * i for i in range(1, 16)]
        found = held_out(gains, measure="chrf", n_silent=1, margin=0.25)

        assert log10_signed_rank_p_value([*gains, -1e6]) == pytest.approx(found.log10_p_changed)
        assert log10_signed_rank_p_value([*gains, -1e6], 0.25) == pytest.approx(found.log10_p_learned)
