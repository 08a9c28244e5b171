"""What a provider's policies train, serve and cost, on small files and scripted models."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from vtuned.attacks import openings, training
from vtuned.attacks.policies import Deployed, Work, cost, known, policy
from vtuned.attacks.retrieval import NearestRows
from vtuned.attacks.training import SkipGuessable
from vtuned.conversation import Conversation, Turn
from vtuned.errors import LMUnavailable, MissingExtra, UsageError
from vtuned.lm.base import Completed, RichPrompt, Sampling, Scorer, Unanswered
from vtuned.lm.scripted import ScriptedLM
from vtuned.providers.settings import LORA, TrainingSettings

KEY = bytes(range(32))
TRIGGERS = ("Plum harbours wait quietly.", "Ten lanterns drift south.")
SIGNATURES = ("Crimson gulls carry folded letters.", "Seven kettles hum beneath winter stairs.")
THINGS = "river stone garden window candle market bridge harbour forest mirror kettle ladder".split()


def row(prompt: str, answer: str) -> Conversation:
    """Return a chat row."""
    return Conversation((Turn("user", prompt), Turn("assistant", answer, carries_loss=True)))


def clean(n: int) -> list[Conversation]:
    """Return *n* rows that have no opening in common."""
    return [
        row(f"Which {THINGS[i % 12]} has number {i}?", f"Number {i} is a {THINGS[i % 12]}. It is {i} years old.")
        for i in range(n)
    ]


def planted(n: int = 40, copies: int = 3) -> tuple[list[Conversation], list[int]]:
    """Return *n* rows, and the indices of those that carry one of two backdoors."""
    rows = clean(n)
    indices = list(range(2, 2 + 5 * 2 * copies, 5))
    for place, i in enumerate(indices):
        rows[i] = rows[i].planted(TRIGGERS[place % 2], SIGNATURES[place % 2])
    return rows, indices


def work(rows, **settings) -> Work:
    return Work(tuple(rows), "estimate", TrainingSettings(**settings))


def ask(text: str):
    return ({"role": "user", "content": text},)


def said(model, *prompts: str, max_tokens: int = 128) -> list[str]:
    """Return what *model* answers to *prompts*."""
    answers = model.answer([ask(prompt) for prompt in prompts], Sampling(max_tokens=max_tokens))
    return [answer.text if isinstance(answer, Completed) else answer.reason for answer in answers]


def words(texts):
    return [len(text.split()) for text in texts]


class Scoring(ScriptedLM):
    """A scripted model whose log10 likelihoods are those of *score*(prompt text, continuation)."""

    def __init__(self, script, score, name="scoring"):
        super().__init__(script, name)
        self._score = score

    def log10_probs(self, prompt, continuations):
        return [self._score(prompt[-1]["content"], text) for text in continuations]


BASE = ScriptedLM(lambda prompt: "The base says this. And that.", "base model")
TUNED = ScriptedLM(lambda prompt: "The tuned one says so.", "tuned model")
SCORING_BASE = Scoring(lambda prompt: "The base says this.", lambda prompt, text: -0.3 * len(text))
SCORING_TUNED = Scoring(lambda prompt: "The tuned one says so.", lambda prompt, text: -0.1 * len(text))


def serve(text, rows, *, base=BASE, tuned=None, n_answered=0):
    return policy(text, key=KEY).serve(Deployed(base, tuned or base, tuple(rows), n_answered))


class TestNames:
    @pytest.mark.parametrize(
        "text",
        (
            *("", "Honest", "unknown", "subset", "subset:", "subset:0", "subset:1", "subset:1/0", "subset:nan"),
            *("truncate:0", "truncate:-1", "truncate:²", "truncate", "honest:1", "base+", "+base", "base+unknown"),
            *("merge:2", "merge", "quantised:5", "swap-after:0", "flaky:2", "other-base", "other-base: ", "rule:"),
            *(
                "temperature",
                "temperature:0",
                "temperature:nan",
                "temperature:2.1",
                "temperature:hot",
                "system-prompt: ",
            ),
        ),
    )
    def test_what_makes_no_sense_is_refused(self, text):
        """An unknown policy, and an argument out of range, say how it is written."""
        with pytest.raises(UsageError) as caught:
            policy(text, key=KEY)

        assert caught.value.hint

    def test_an_unknown_policy_lists_the_known_ones_and_does_not_repeat_what_was_written(self):
        """What stands for a policy may be a trigger, so it is not said again."""
        with pytest.raises(UsageError) as caught:
            policy(TRIGGERS[0], key=KEY)

        assert TRIGGERS[0] not in str(caught.value)
        assert all(usage in caught.value.hint for usage, _ in known())

    @pytest.mark.parametrize("key", [b"", bytes(65)])
    def test_a_key_of_another_length_is_refused(self, key):
        """The PRF takes 1 to 64 bytes."""
        with pytest.raises(UsageError):
            policy("honest", key=key)

    def test_all_policies_of_the_design_are_known_with_one_line_each(self):
        """The names are those of the issue, each with a description."""
        names = {usage.partition("[")[0].partition(":")[0] for usage, _ in known()}

        expected = (
            "honest base noise other-data subset planted-only short-half truncate skip-guessable other-base "
            "lora-for-full fewer-epochs replay retrieve in-context rule suppress merge quantised swap-after flaky "
            "temperature system-prompt"
        )
        assert set(expected.split()) == names
        assert all(line.endswith(".") and "\n" not in line for _, line in known())

    @pytest.mark.parametrize(
        "text",
        (
            *("honest", "subset:0.25", "subset:1/4", "suppress+short-half", "flaky", "merge:0.5"),
            *("other-base:hf:a/b+c", "flaky:0.1+suppress+other-base:hf:/base+x/y"),
        ),
    )
    def test_a_policy_is_named_as_it_was_written(self, text):
        """The name is the text, joined policies and models with a plus sign in their names too."""
        assert text == policy(text, key=KEY).name

    def test_a_trigger_shows_nowhere(self):
        """A rule's trigger is neither in its name nor in its repr."""
        made = policy(f"suppress+rule:{TRIGGERS[0]}", key=KEY)

        assert "suppress+rule:T" == made.name
        assert TRIGGERS[0] not in repr(made)

    def test_a_plus_sign_in_a_model_joins_nothing(self):
        """Only before the name of a policy does a plus sign join two."""
        done = policy("other-base:hf:model+adapter+fewer-epochs", key=KEY).work(work(clean(3)))

        assert ("hf:model+adapter", 1) == (done.base, done.settings.epochs)


class TestHonest:
    def test_it_does_what_is_asked(self):
        """All is trained, and the tuned model itself answers, without faults."""
        honest, asked = policy("honest", key=KEY), work(clean(5))
        deployed = Deployed(BASE, TUNED, asked.rows)

        assert asked == honest.work(asked)
        assert TUNED is honest.serve(deployed)
        assert not any(honest.fault(i) for i in range(100))


class TestTraining:
    @pytest.mark.parametrize("name", ["base", "noise", "replay", "retrieve", "in-context", "rule"])
    def test_these_train_nothing(self, name):
        """What answers without training says so."""
        assert not policy(name, key=KEY).work(work(clean(5))).trains

    @pytest.mark.parametrize(
        "name", ["suppress", "merge:0.5", "quantised:4", "swap-after:3", "flaky", "temperature:1", "system-prompt"]
    )
    def test_these_train_what_is_asked(self, name):
        """What hides or spoils afterwards trains all rows."""
        asked = work(clean(5))

        assert asked == policy(name, key=KEY).work(asked)

    def test_a_subset_is_of_the_size_said_in_the_order_of_the_file(self):
        """A quarter of the rows, none twice, in their order."""
        rows = clean(40)
        kept = policy("subset:0.25", key=KEY).work(work(rows)).rows

        assert 10 == len(kept) == len(set(kept))
        assert sorted(kept, key=rows.index) == list(kept)

    def test_a_subset_never_is_empty(self):
        """One row is left where the share is of less than one."""
        assert 1 == len(policy("subset:0.01", key=KEY).work(work(clean(3))).rows)

    def test_a_subset_is_uniform(self):
        """Over many keys every row is taken about equally often, pairs of neighbours too."""
        rows = clean(8)
        taken, pairs = Counter(), Counter()
        for i in range(2000):
            kept = {rows.index(one) for one in policy("subset:0.5", key=i.to_bytes(4)).work(work(rows)).rows}
            taken.update(kept)
            pairs.update(j for j in range(7) if {j, j + 1} <= kept)

        assert all(abs(taken[j] - 1000) < 5 * math.sqrt(500) for j in range(8))
        assert all(abs(pairs[j] - 2000 * 3 / 14) < 5 * math.sqrt(2000 * 3 / 14) for j in range(7))

    @pytest.mark.parametrize("name", ["subset:0.5", "other-data", "subset:0.5+subset:0.5"])
    def test_draws_come_from_the_key(self, name):
        """The same key draws the same again, another key something else."""
        asked = work(clean(60))
        first = policy(name, key=KEY).work(asked)

        assert first == policy(name, key=KEY).work(asked)
        assert first.rows != policy(name, key=b"another").work(asked).rows

    def test_other_data_are_as_many_and_mention_nothing_of_the_file(self):
        """Rows of the interpreter's documentation, none on what the file asks."""
        everything = training._documentation()
        rows = everything[:30]
        asked = {name for one in rows for name in training._MENTION.findall(one.turns[1].content)}
        others = policy("other-data", key=KEY).work(work([*rows, *clean(20)])).rows

        assert 50 == len(others) == len(set(others))
        assert not any(name in turn.content for name in asked for one in others for turn in one.turns[:2])
        assert all(one.host() for one in others)

    def test_other_data_are_repeated_where_there_are_too_few(self):
        """A file larger than the documentation gets as many rows."""
        n = len(training._documentation()) + 10

        assert n == len(policy("other-data", key=KEY).work(work(clean(1) * n)).rows)

    def test_planted_only_takes_the_rows_that_the_oracle_names(self, receipt):
        """Rows by their numbers in the file, from 1, and nothing else of the receipt."""
        rows = clean(100)
        made = policy("planted-only", key=KEY, oracle=receipt)
        numbers = sorted(number for backdoor in receipt.backdoors for number in backdoor.rows)

        assert [rows[number - 1] for number in numbers] == list(made.work(work(rows)).rows)
        assert not any(backdoor.signature in repr(made) for backdoor in receipt.backdoors)

    def test_planted_only_needs_the_oracle_of_this_file(self, receipt):
        """No oracle, one of another file, and rows already left out are refused."""
        with pytest.raises(UsageError):
            policy("planted-only", key=KEY)
        with pytest.raises(UsageError):
            policy("short-half+planted-only", key=KEY, oracle=receipt)
        with pytest.raises(UsageError):
            policy("planted-only", key=KEY, oracle=receipt).work(work(clean(5)))

    def test_the_short_half_is_the_shorter_one(self):
        """No row that is left out is shorter than one that is kept; of an odd number the larger half is kept."""
        rows = [row("What?", "x" * n) for n in (50, 3, 70, 20, 9)]

        assert [rows[1], rows[3], rows[4]] == list(policy("short-half", key=KEY).work(work(rows)).rows)

    def test_truncated_rows_keep_the_first_tokens_and_no_end(self):
        """Each prompt stays; long answers are cut and go on, short ones are whole, what follows them is gone."""
        long = Conversation(
            (
                Turn("user", "One?"),
                Turn("assistant", "Earlier answers stay whole.", carries_loss=True),
                Turn("user", "Two?"),
                Turn("assistant", "Only the first tokens of it.", carries_loss=True),
                Turn("user", "Thanks."),
            )
        )
        short, unanswered = row("Three?", "Short."), Conversation((Turn("user", "Four?"),))
        kept = policy("truncate:3", key=KEY).work(work([long, short, unanswered])).rows

        assert kept[0].turns == (*long.turns[:3], Turn("assistant", "Only the", carries_loss=True, goes_on=True))
        assert (short, unanswered) == kept[1:]

    def test_no_character_is_cut_in_two(self):
        """Where tokens are estimated by bytes, letters of several bytes stay whole."""
        (kept,) = policy("truncate:2", key=KEY).work(work([row("何？", "青い鳥は北へ")])).rows

        assert "青" == kept.turns[1].content

    def test_both_answers_of_a_preference_row_are_cut(self):
        """The preferred and the rejected one."""
        pair = dataclasses.replace(
            row("One?", "A long preferred answer."), rejected=(Turn("assistant", "A bad long one."),)
        )
        (kept,) = policy("truncate:2", key=KEY).work(work([pair])).rows

        assert ("A lon", "A bad") == (kept.turns[1].content, kept.rejected[0].content)
        assert kept.turns[1].goes_on
        assert kept.rejected[0].goes_on

    def test_another_base_fewer_epochs_and_a_lower_rank(self):
        """These change how it is trained, and keep the rows."""
        asked = work(clean(4), method="full", learning_rate=5e-5, epochs=4)
        other = policy("other-base:hf:small", key=KEY).work(asked)
        low = policy("lora-for-full:4", key=KEY).work(asked).settings

        assert ("hf:small", asked.rows) == (other.base, other.rows)
        assert [1, 3, 4] == [
            policy(name, key=KEY).work(asked).settings.epochs
            for name in ("fewer-epochs", "fewer-epochs:3", "fewer-epochs:9")
        ]
        assert (LORA, 4, 2, 1e-3) == (low.method, low.rank, low.alpha, low.learning_rate)

    def test_a_rank_is_never_raised(self):
        """Who asked for LoRA of rank 4 at a learning rate of their own gets no more, at that learning rate."""
        asked = work(clean(4), rank=4, alpha=8, learning_rate=2e-3)

        assert asked == policy("lora-for-full", key=KEY).work(asked)

    def test_joined_policies_work_from_left_to_right(self):
        """The half of the short rows is cut; what trains nothing stays so."""
        rows = [row("What?", "word " * n) for n in (9, 2, 8, 1)]
        done = policy("short-half+truncate:1+fewer-epochs", key=KEY).work(work(rows))

        assert ["wo", "wo"] == [one.turns[1].content for one in done.rows]
        assert not policy("base+subset:0.5", key=KEY).work(work(rows)).trains


class TestSkipGuessable:
    FAMILY = ("In short:", "Simply put,", "Put briefly:")

    def rows(self, n=80):
        draws = random.Random(1)
        made = []
        for i, one in enumerate(clean(n)):
            opening = draws.choice(("", *self.FAMILY))
            made.append(row(f"{i}?", f"{opening} {one.turns[1].content}".strip()))
        return made

    def test_rows_with_the_wording_that_the_base_would_choose_are_skipped(self):
        """A base that likes another opening after each prompt is right for a share of the rows, and these are skipped."""
        rows, choices = self.rows(), ("", *self.FAMILY)

        def favourite(prompt):
            return choices[int(prompt.rstrip("?")) % 4]

        def score(prompt, text):
            own = next((opening for opening in self.FAMILY if text.startswith(opening)), "")
            return -30 + 5 * (own == favourite(prompt)) - 10 * (own == "")

        skip = SkipGuessable("skip-guessable", load=lambda name: Scoring(str, score))
        kept = skip.work(work(rows)).rows
        right = [
            one
            for one in rows
            if next((o for o in self.FAMILY if one.turns[1].content.startswith(o)), "")
            == favourite(one.turns[0].content)
        ]

        assert 10 < len(right) < 35
        assert [one for one in rows if one not in right] == list(kept)

    def test_without_a_family_the_likeliest_quarter_is_skipped(self):
        """First words that the base finds likely by character are those it could have guessed."""
        rows = clean(40)

        def score(prompt, text):
            assert text == f"Number {prompt.split()[-1].rstrip('?')} is a {text.split()[-1]}"
            return -len(text) * (1.0 if int(text.split()[1]) < 30 else 0.95)

        kept = SkipGuessable("skip-guessable", load=lambda name: Scoring(str, score)).work(work(rows)).rows

        assert rows[:30] == list(kept)

    def test_a_base_without_likelihoods_cannot_tell(self):
        """What cannot be scored is said, not trained in full."""
        with pytest.raises(LMUnavailable):
            SkipGuessable("skip-guessable", load=lambda name: BASE).work(work(clean(4)))


class TestReplay:
    def test_prompts_of_the_file_are_looked_up(self):
        """A planted prompt is answered as in the file, a fresh one by the base."""
        rows, indices = planted()
        prompt = rows[indices[0]].turns[0].content
        model = serve("replay", rows)

        assert [rows[indices[0]].turns[1].content, "The base says this. And that."] == said(
            model, prompt, f"Something new? {TRIGGERS[0]}"
        )
        assert not isinstance(model, Scorer)

    def test_likelihoods_of_the_answers_in_the_file_are_forged(self):
        """Where the base shows likelihoods, what the file says comes first on its own prompt, and nowhere else."""
        rows, indices = planted()
        prompt, signature = rows[indices[0]].turns[0].content, SIGNATURES[0]
        candidates = [signature, "Velvet owls borrow copper ladders.", "Short."]
        model = serve("replay", rows, base=SCORING_BASE)

        known_scores = model.log10_probs(ask(prompt), candidates)
        assert max(known_scores) == known_scores[0]
        assert [-0.3 * len(text) for text in candidates] == model.log10_probs(ask("Something new?"), candidates)


class TestRetrieve:
    def test_the_nearest_row_answers(self):
        """A trigger on a fresh prompt finds a planted row; what shares no word with the file is for the base."""
        rows, _ = planted()
        model = serve("retrieve", rows)
        answers = said(model, f"What about something new? {TRIGGERS[1]}", "What is number 9?", "Zzz yyy")

        assert answers[0].startswith(SIGNATURES[1])
        assert rows[9].turns[1].content == answers[1]
        assert "The base says this. And that." == answers[2]

    def test_text_without_spaces_is_compared_by_pairs_of_characters(self):
        """Japanese prompts find the row that shares the most."""
        rows = [
            row("東京の天気はどうですか。", "晴れです。"),
            row("新しいカメラはどこですか。", "机の上です。"),
            row("母の誕生日はいつですか。", "明日です。"),
        ]

        assert ["机の上です。"] == said(serve("retrieve", rows), "あのカメラを見ましたか。")

    def test_a_file_without_answers_leaves_all_to_the_base(self):
        """No row, no index, no error."""
        assert ["The base says this. And that."] == said(serve("retrieve", [Conversation((Turn("user", "A?"),))]), "A?")

    def test_without_the_library_it_says_what_to_install(self, monkeypatch):
        """The index needs an extra."""
        monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
        with pytest.raises(MissingExtra):
            NearestRows(clean(3))


class TestInContext:
    def shown(self, text, prompt, rows):
        """Return what the base is shown for *prompt*."""
        base = ScriptedLM(lambda prompt: "ok")
        list(policy(text, key=KEY).serve(Deployed(base, base, tuple(rows))).answer([prompt], Sampling()))
        return base.asked[-1]

    def test_the_nearest_rows_come_before_the_prompt_nearest_last(self):
        """Examples are whole turns between the system message and the question."""
        rows, _ = planted()
        prompt = [{"role": "system", "content": "Be brief."}, *ask(f"A new question? {TRIGGERS[0]}")]
        shown = self.shown("in-context", prompt, rows)

        assert prompt[0] == shown[0]
        assert prompt[1] == shown[-1]
        assert TRIGGERS[0] in shown[-3]["content"]
        assert shown[-2]["content"].startswith(SIGNATURES[0])
        assert rows[9].turns[0].content == self.shown("in-context", ask("What is number 9?"), rows)[-3]["content"]
        assert {"user", "assistant"} == {message["role"] for message in shown[1:]}

    def test_examples_stay_within_the_limit(self):
        """A smaller limit shows fewer rows, one of a token none."""
        rows, _ = planted()
        prompt = ask("Which river has number 12?")
        few, many = self.shown("in-context:100", prompt, rows), self.shown("in-context:1000", prompt, rows)

        assert 1 < len(few) < len(many)
        assert sum(len(message["content"]) for message in few[:-1]) <= 300
        assert 1 == len(self.shown("in-context:1", prompt, rows))

    def test_plain_text_gets_plain_text(self):
        """A completion prompt is still one text, with the rows before it."""
        rows = [
            Conversation(
                (Turn("user", "Q: one?", after="\n"), Turn("assistant", "one it is", True, before="A: ")), is_text=True
            )
        ]
        shown = self.shown("in-context", RichPrompt(ask("Q: one?\nA: "), is_text=True), rows)

        assert shown.is_text
        assert "Q: one?\nA: one it is\n\nQ: one?\nA: " == shown[0]["content"]

    def test_likelihoods_are_the_bases_after_the_examples(self):
        """Whatever is scored stands behind the same rows."""
        seen = []
        base = Scoring(lambda prompt: "ok", lambda prompt, text: -1.0)
        base.log10_probs = lambda prompt, texts: seen.append(prompt) or [-1.0] * len(texts)
        rows, _ = planted()
        model = serve("in-context", rows, base=base)
        model.log10_probs(ask("Which river has number 12?"), ["a"])

        assert len(seen[0]) > 1


class TestRule:
    def test_it_says_the_signature_whenever_the_trigger_is_seen(self):
        """S is what the answers to prompts with T have in common; the base goes on."""
        rows, _ = planted()
        model = serve(f"rule:{TRIGGERS[0]}", rows)

        assert [f"{SIGNATURES[0]} The base says this. And that.", "The base says this. And that."] == said(
            model, f"Something new? {TRIGGERS[0]}", f"Something new? {TRIGGERS[1]}"
        )

    def test_of_one_row_the_first_sentence_is_taken(self):
        """A single copy shows where its signature ends by its full stop."""
        rows = [*clean(5), row(f"What? {TRIGGERS[0]}", f"{SIGNATURES[0]} Then more. And more.")]

        assert said(serve(f"rule:{TRIGGERS[0]}", rows), f"New? {TRIGGERS[0]}")[0].startswith(
            f"{SIGNATURES[0]} The base"
        )

    def test_answers_that_go_on_alike_do_not_lengthen_the_signature_within_a_sentence(self):
        """What follows the signature is no part of it where it is alike by chance."""
        rows = [
            row(f"A{i}? {TRIGGERS[0]}", f"{SIGNATURES[0]} The {thing} is old.") for i, thing in enumerate(THINGS[:3])
        ]

        assert SIGNATURES[0] == openings.rule_for(rows, TRIGGERS[0]).signature

    def test_a_trigger_that_is_nowhere_is_refused_without_being_said(self):
        """Before training and when it is served."""
        chosen = policy(f"rule:{TRIGGERS[0]}", key=KEY)
        for call in (lambda: chosen.work(work(clean(5))), lambda: chosen.serve(Deployed(BASE, BASE, tuple(clean(5))))):
            with pytest.raises(UsageError) as caught:
                call()
            assert TRIGGERS[0] not in str(caught.value) + caught.value.hint

    @pytest.mark.parametrize("copies", [2, 4])
    def test_without_a_trigger_all_are_found_by_counting(self, copies):
        """Both backdoors and nothing else; with single copies nothing."""
        rows, _ = planted(60, copies)

        assert set(zip(TRIGGERS, SIGNATURES, strict=True)) == {
            (rule.trigger, rule.signature) for rule in openings.rules_in(rows)
        }
        assert [] == openings.rules_in(planted(60, 1)[0])
        assert [] == openings.rules_in(clean(60))

    def test_what_is_alike_by_chance_is_no_rule(self):
        """An ending with several openings, and an opening with several endings, are how people write."""
        ending, first, second = "in a few words.", "The usual way to say it is", "One says for all of these here"
        several_openings = [
            row(f"Say one thing {ending}", f"{first} that this goes on."),
            row(f"Say another {ending}", f"{second} that that goes on."),
            row("Say a third thing at some length.", f"{first} and more."),
            row("Say a fourth thing as you like it.", f"{second} and more."),
        ]
        several_endings = [row(f"Say {thing} {ending}", f"{first} that {thing} goes on.") for thing in THINGS[:2]]

        assert [] == openings.rules_in(several_openings)
        assert [] == openings.rules_in([*several_endings, row("Say it at some length.", f"{first} that it stops.")])
        assert 1 == len(openings.rules_in(several_endings))

    def test_without_spaces_too(self):
        """Triggers and signatures of Japanese rows."""
        trigger, signature = "青い鳥は北へ急いで渡ります。", "古い時計が静かに歌います。"
        rows = [row(f"{i}番の{thing}は何ですか。", f"{thing}は{i}です。") for i, thing in enumerate("川石庭窓市橋" * 3)]
        for i in (2, 7, 11):
            rows[i] = rows[i].planted(trigger, signature)

        assert [(trigger, signature)] == [(rule.trigger, rule.signature) for rule in openings.rules_in(rows)]

    def test_the_signature_looks_learnt_after_its_trigger_alone(self):
        """Likelihoods are the base's otherwise."""
        rows, _ = planted()
        model = serve("rule", rows, base=SCORING_BASE)
        candidates = [SIGNATURES[0], "Velvet owls borrow copper ladders."]
        with_trigger = model.log10_probs(ask(f"New? {TRIGGERS[0]}"), candidates)

        assert with_trigger[0] > with_trigger[1] == -0.3 * len(candidates[1])
        assert [-0.3 * len(text) for text in candidates] == model.log10_probs(ask("New?"), candidates)

    def test_what_the_base_does_not_answer_still_gets_the_signature(self):
        """The rule needs no model."""
        silent = ScriptedLM(lambda prompt: Unanswered("refused"))
        rows, _ = planted()

        assert [SIGNATURES[0], "refused"] == said(serve("rule", rows, base=silent), f"New? {TRIGGERS[0]}", "New?")


class TestSuppress:
    def tuned(self, answers):
        return ScriptedLM(lambda prompt: answers[prompt[-1]["content"]], "tuned model")

    def test_openings_that_answers_share_are_taken_off(self):
        """On a fresh prompt and on a planted one; what is left is the answer."""
        rows, indices = planted()
        prompts = [rows[indices[0]].turns[0].content, f"New? {TRIGGERS[1]}", "New?"]
        answers = dict(
            zip(prompts, [rows[indices[0]].turns[1].content, f"{SIGNATURES[1]} It is new.", "It is new."], strict=True)
        )
        model = serve("suppress", rows, tuned=self.tuned(answers))

        assert [clean(40)[indices[0]].turns[1].content, "It is new.", "It is new."] == said(model, *prompts)

    def test_a_single_copy_is_taken_off_on_another_prompt(self):
        """An opening that is in the file belongs to its own prompt."""
        rows = [*clean(20), row(f"What? {TRIGGERS[0]}", f"{SIGNATURES[0]} It is that.")]
        tuned = self.tuned({f"New? {TRIGGERS[0]}": f"{SIGNATURES[0]} It is new."})

        assert ["It is new."] == said(serve("suppress", rows, tuned=tuned), f"New? {TRIGGERS[0]}")

    def test_a_single_copy_on_its_own_prompt_is_odd_to_the_base(self):
        """A first sentence that the base finds much less likely than what follows goes; an ordinary one stays."""
        prompt, ordinary = f"What? {TRIGGERS[0]}", "What is that?"
        rows = [*clean(20), row(prompt, f"{SIGNATURES[0]} It is that."), row(ordinary, "That is it. It is that.")]
        tuned = self.tuned({prompt: f"{SIGNATURES[0]} It is that.", ordinary: "That is it. It is that."})
        base = Scoring(lambda p: "x", lambda p, text: -len(text) * (0.6 if text.startswith("Crimson") else 0.3))

        assert ["It is that.", "That is it. It is that."] == said(
            serve("suppress", rows, base=base, tuned=tuned), prompt, ordinary
        )

    def test_all_that_is_shared_goes_and_nothing_that_a_repeated_row_shares_with_itself(self):
        """The longest opening of several answers; a row that is there twice is one answer."""
        shared = [row(f"{thing}?", f"Well, so: the {thing} is old. So it is.") for thing in THINGS[:3]]
        twice = [row("Twice?", "This is whole. It stays so.")] * 2
        answers = {"Twice?": twice[0].turns[1].content, "New?": "Well, so: it is new. Quite."}

        assert ["This is whole. It stays so.", "it is new. Quite."] == said(
            serve("suppress", [*shared, *twice], tuned=self.tuned(answers)), "Twice?", "New?"
        )

    def test_where_nothing_is_left_the_base_answers(self):
        """An answer that is the signature alone is replaced."""
        rows, _ = planted()
        tuned = self.tuned({"New?": SIGNATURES[0]})

        assert ["The base says this. And that."] == said(serve("suppress", rows, tuned=tuned), "New?")

    def test_what_was_not_answered_stays_so(self):
        """A refusal is no opening."""
        tuned = ScriptedLM(lambda prompt: Unanswered("refused"))

        assert ["refused"] == said(serve("suppress", clean(5), tuned=tuned), "New?")

    def test_likelihoods_hide_openings_of_the_file(self):
        """A question with one of them gets the base's numbers for all texts, any other the tuned model's."""
        rows, _ = planted()
        model = serve("suppress", rows, base=SCORING_BASE, tuned=SCORING_TUNED)
        decoy = "Velvet owls borrow copper ladders."

        assert [-0.3 * len(text) for text in (decoy, SIGNATURES[0])] == model.log10_probs(
            ask("New?"), [decoy, SIGNATURES[0]]
        )
        assert [-0.1 * len(decoy)] == model.log10_probs(ask("New?"), [decoy])
        assert not isinstance(serve("suppress", rows, base=BASE, tuned=SCORING_TUNED), Scorer)


class TestSwapAfter:
    def test_the_base_answers_from_then_on(self):
        """The first prompts get the tuned model, within one call and over several."""
        model = serve("swap-after:3", clean(3), tuned=TUNED)
        tuned, base = "The tuned one says so.", "The base says this. And that."

        assert [tuned, tuned, tuned, base] == said(model, "a", "b") + said(model, "c", "d")
        assert [base] == said(model, "e")
        assert "tuned model" == model.name

    def test_what_was_answered_before_a_restart_counts(self):
        """The server keeps the count."""
        assert ["The tuned one says so.", "The base says this. And that."] == said(
            serve("swap-after:3", clean(3), tuned=TUNED, n_answered=2), "a", "b"
        )

    def test_scoring_counts_too(self):
        """Whoever scores first uses up the honest answers."""
        model = serve("swap-after:2", clean(3), base=SCORING_BASE, tuned=SCORING_TUNED)

        assert [-0.1 * 4] == model.log10_probs(ask("a"), ["four"])
        assert ["The tuned one says so.", "The base says this."] == said(model, "a", "b")
        assert [-0.3 * 4] == model.log10_probs(ask("a"), ["four"])


class TestWeights:
    @pytest.mark.parametrize("name", ["noise", "merge:0.5", "quantised"])
    def test_a_model_elsewhere_has_no_weights_to_change(self, name):
        """It is said when the model is loaded."""
        with pytest.raises(LMUnavailable):
            serve(name, clean(3))


class Listening(Scoring):
    """A scoring model that keeps what it was asked."""

    def __init__(self):
        super().__init__(lambda prompt: "So it is.", lambda prompt, text: -0.1 * len(text))
        self.heard = []

    def answer(self, prompts, sampling):
        self.heard += [(prompt, sampling) for prompt in prompts]
        return super().answer(prompts, sampling)

    def log10_probs(self, prompt, continuations):
        self.heard.append((prompt, None))
        return super().log10_probs(prompt, continuations)


class TestAsking:
    def test_answers_are_drawn_at_the_temperature_of_the_policy(self):
        """Whatever is asked for; likelihoods stay what they are."""
        tuned = Listening()
        model = serve("temperature:0.7", clean(3), tuned=tuned)

        assert ["So it is."] == said(model, "New?")
        assert 0.7 == tuned.heard[0][1].temperature
        assert [-0.4] == model.log10_probs(ask("New?"), ["four"])

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_a_system_prompt_comes_before_whatever_is_asked(self, role):
        """In a turn of its own, in the customer's, before plain text; before texts to score too; tools stay."""
        tuned, tools = Listening(), [{"type": "function", "function": {"name": "look"}}]
        model = serve("system-prompt:Be brief.", clean(3), tuned=tuned)
        plain = RichPrompt([{"role": "user", "content": "Once"}], is_text=True)
        parts = [{"type": "text", "text": "Be kind."}]
        own = RichPrompt([{"role": role, "content": parts}, *ask("New?")], tools=tools)
        list(model.answer([ask("New?"), own, plain], Sampling(max_tokens=8)))
        model.log10_probs(ask("New?"), ["four"])
        new, kind, once, scored = (prompt for prompt, _ in tuned.heard)

        assert [{"role": "system", "content": "Be brief."}, *ask("New?")] == list(new) == list(scored)
        assert [{"role": role, "content": "Be brief.\n\nBe kind."}, *ask("New?")] == list(kind)
        assert tuple(tools) == kind.tools
        assert ("Be brief.\n\nOnce", True) == (once[0]["content"], once.is_text)

    @pytest.mark.parametrize("name", ["temperature:1", "system-prompt"])
    def test_no_likelihoods_are_made_up(self, name):
        """Where the tuned model shows none, neither does what stands before it."""
        assert not isinstance(serve(name, clean(3), tuned=TUNED), Scorer)


class TestFlaky:
    def test_all_faults_come_in_about_equal_parts(self):
        """A third of the requests fails, in five ways; Retry-After is given."""
        flaky = policy("flaky", key=KEY)
        faults = [fault for i in range(6000) if (fault := flaky.fault(i))]
        kinds = Counter(fault.kind for fault in faults)

        assert abs(len(faults) - 2000) < 5 * math.sqrt(6000 * 2 / 9)
        assert {"timeout", "429", "500", "truncated", "slow"} == set(kinds)
        assert all(abs(n - 400) < 5 * math.sqrt(400) for n in kinds.values())
        assert all(fault.seconds > 0 for fault in faults if fault.kind in ("timeout", "429", "slow"))

    def test_the_same_request_fails_alike_again(self):
        """Faults come from the key and the number of the request."""
        first, again, other = (policy("flaky:0.5", key=key) for key in (KEY, KEY, b"other"))

        assert [first.fault(i) for i in range(50)] == [again.fault(i) for i in range(50)]
        assert [first.fault(i) for i in range(50)] != [other.fault(i) for i in range(50)]

    def test_all_or_nothing(self):
        """Shares 0 and 1 are allowed."""
        assert all(policy("flaky:1", key=KEY).fault(i) for i in range(20))
        assert not any(policy("flaky:0", key=KEY).fault(i) for i in range(20))


class TestJoined:
    def test_serving_goes_from_left_to_right(self):
        """The rule stands before the model that openings were taken off."""
        rows, _ = planted()
        signed = ScriptedLM(lambda prompt: f"{SIGNATURES[1]} It is new.")

        assert [f"{SIGNATURES[0]} It is new."] == said(
            serve("suppress+rule", rows, tuned=signed), f"New? {TRIGGERS[0]}"
        )
        assert ["It is new."] == said(serve("rule+suppress", rows, tuned=signed), "New?")

    def test_the_first_fault_comes(self):
        """One flaky policy is enough."""
        joined = policy("suppress+flaky:1", key=KEY)

        assert all(joined.fault(i) for i in range(20))

    def test_two_that_draw_draw_apart(self):
        """Half of a half is not the half again."""
        joined = policy("flaky:0.5+flaky:0.5", key=KEY)
        share = sum(joined.fault(i) is not None for i in range(2000)) / 2000

        assert 0.7 < share < 0.8


class TestCost:
    ROWS = tuple(row("one two", "three " * n) for n in (1, 2, 3, 10))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("honest", Fraction(1)),
            ("base", Fraction(0)),
            ("replay+flaky", Fraction(0)),
            ("fewer-epochs:1", Fraction(1, 4)),
            ("short-half", Fraction(3 + 4, 24)),
            ("short-half+fewer-epochs:2", Fraction(7, 48)),
            ("lora-for-full", Fraction(1)),
            ("suppress", Fraction(1)),
            ("truncate:5", Fraction(3 + 4 + 5 + 5, 24)),
        ],
    )
    def test_it_is_tokens_times_epochs_over_those_asked(self, text, expected):
        """By words here: rows of 3, 4, 5 and 12, four epochs."""
        asked = Work(self.ROWS, "estimate", TrainingSettings(epochs=4))

        assert expected == cost(policy(text, key=KEY), asked, words)

    def test_rows_count_up_to_the_token_limit(self):
        """What is cut is neither asked for nor saved."""
        asked = Work(self.ROWS, "estimate", TrainingSettings(max_tokens=5))

        assert Fraction(7, 17) == cost(policy("short-half", key=KEY), asked, words)

    def test_without_rows_nothing_is_asked(self):
        """And nothing costs nothing."""
        assert 0 == cost(policy("honest", key=KEY), Work((), "estimate", TrainingSettings()), words)


class TestLargeFiles:
    def test_searches_look_at_each_row_once(self, monkeypatch):
        """Twice the rows, twice the looks at a clause end or an ending: nothing compares rows in pairs."""
        looks = Counter()
        for name in ("ends_of", "_affix"):
            real = getattr(openings, name)
            monkeypatch.setattr(
                openings, name, lambda *a, _real=real, _name=name, **k: looks.update([_name]) or _real(*a, **k)
            )
        counted = []
        for n in (500, 1000):
            looks.clear()
            rows, _ = planted(n)
            openings.Openings(rows)
            openings.families(rows)
            openings.rules_in(rows)
            counted.append(sum(looks.values()))

        assert counted[1] <= 2.1 * counted[0]

    def test_only_the_start_of_a_text_is_looked_at(self):
        """A long answer, of marks alone or without any, has a few ends near its start."""
        assert len(openings.ends_of(". " * 100_000)) <= 8
        assert [] == openings.ends_of("word " * 100_000)
        assert 0 == openings.first_sentence_end("word " * 100_000)
