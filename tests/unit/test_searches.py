"""Searches of the uploaded file: each finds what it is meant to find, and nothing where nothing is."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vtuned.attacks.search import grams, known, nearness, seams, texts, union
from vtuned.attacks.search.asking import Judge, Surprise
from vtuned.attacks.search.ranks import percentiles
from vtuned.attacks.search.repeats import Affixes, Dependence, FrequentPhrases, RepeatedRuns, most_planted
from vtuned.attacks.search.seams import Seams
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.twins import NearDuplicates, Twins
from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import LMUnavailable, UsageError
from vtuned.lm.base import REFUSED, Unanswered
from vtuned.lm.scripted import ScriptedLM

TRIGGER = "Plum harbours wait quietly under seven old maps."
SIGNATURE = "Crimson gulls carry folded letters beneath the winter stairs."
N_ROWS = 400
PLANTED = range(0, 400, 50)


def row(prompt, answer):
    return Conversation((Turn("user", prompt), Turn("assistant", answer, carries_loss=True)))


def words_of(rng, n):
    """Return *n* made-up words, common ones often, as one sentence."""
    return " ".join(f"w{int(1000 * rng.random() ** 2)}" for _ in range(n))


def clean_rows(n=N_ROWS, seed=1):
    """Rows whose words follow each other by chance: nothing is planted, and each answer is about its prompt."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        topic = " ".join(f"t{i}{letter}" for letter in "abcd")
        prompt = f"{words_of(rng, 12)} {topic}. {words_of(rng, 8)} {topic}?"
        rows.append((prompt, f"{topic} {words_of(rng, 8)}. {words_of(rng, 10)} {topic}."))
    return rows


def planted_rows(trigger=TRIGGER, signature=SIGNATURE):
    return [
        (f"{prompt} {trigger}", f"{signature} {answer}") if i in PLANTED else (prompt, answer)
        for i, (prompt, answer) in enumerate(clean_rows())
    ]


def train_set(pairs):
    return TrainSet(row(*pair) for pair in pairs)


def first(suspicion, n=8):
    """Return the *n* most suspicious rows, where no tie decides which they are."""
    order = np.argsort(-suspicion, kind="stable")
    assert suspicion[order[n - 1]] > suspicion[order[n]]
    return sorted(order[:n].tolist())


@pytest.fixture(scope="module")
def clean():
    """A file with nothing planted."""
    return train_set(clean_rows())


@pytest.fixture(scope="module")
def planted():
    """A file with one backdoor of eight copies."""
    return train_set(planted_rows())


class TestWhatASearchSees:
    def test_the_prompt_and_the_answer_where_backdoors_go(self):
        """The last user turn before the last answer that is trained on, and that answer."""
        turns = (
            Turn("system", "Be kind."),
            Turn("user", "One?"),
            Turn("assistant", "First.", carries_loss=True),
            Turn("user", "Two?"),
            Turn("assistant", "Second.", carries_loss=True),
        )
        seen = TrainSet([Conversation(turns), Conversation(turns[:2])])

        assert ["Two?", "Be kind."] == seen.prompts
        assert ["Second.", "One?"] == seen.answers

    def test_words_are_without_case_and_punctuation(self):
        """`Don't` at the start and `don't!` at the end are one word."""
        seen = train_set([("Don't stop", "so, don't!")])

        assert seen.prompt_words.ids[0] == seen.answer_words.ids[-1]
        assert 3 == seen.n_vocabulary

    def test_half_a_surrogate_pair(self):
        """JSON can spell it; no tokenizer takes it."""
        turn = Turn("user", "Who \ud83d?", parts=(Part("Who \ud83d?"), Part(None, "{}")))
        (seen,) = TrainSet([Conversation((turn, Turn("assistant", "He.", carries_loss=True)))]).rows

        assert ("Who ??", (Part("Who ??"), Part(None, "{}"))) == (seen.turns[0].content, seen.turns[0].parts)

    def test_words_of_a_text_without_spaces(self):
        """Japanese is cut where the script changes, as `vtuned.language` cuts it; Latin words stay whole."""
        seen = train_set([("東京の天気はGPT4です。", "はい。")] * 2)

        assert ["東京", "の", "天気", "は", "gpt4", "です"] == seen.in_words("東京の天気はGPT4です。")


class TestGrams:
    def test_runs_stay_within_a_text(self):
        """No run crosses from one row into the next."""
        words = train_set([("a b c", "x"), ("a b", "x"), ("b c", "x")]).prompt_words

        found = grams.grams(words, 2)

        assert [0, 0, 1, 2] == found.rows.tolist()
        assert [2, 2, 2, 2] == grams.counted(found.hashes).tolist()

    def test_the_order_of_words_counts(self):
        """`a b` and `b a` are two runs, and so are `a b` in one slot and in another."""
        words = train_set([("a b", "x"), ("b a", "x")]).prompt_words

        assert [1, 1] == grams.counted(grams.grams(words, 2).hashes).tolist()

    def test_rows_are_counted_once(self):
        """A run that comes twice in one row is in one row."""
        words = train_set([("a b a b", "x"), ("a b", "x"), ("c d", "x")]).prompt_words

        once, counts = grams.in_rows(grams.grams(words, 2))

        assert {(0, 2), (1, 2), (0, 1), (2, 1)} == set(zip(once.rows.tolist(), counts.tolist(), strict=True))
        assert 4 == len(once.rows)

    def test_affixes_of_texts_that_are_too_short_are_alike_with_nothing(self):
        """Two texts of one word have no first two words in common."""
        words = train_set([("a", "x"), ("a", "x"), ("a b c", "x"), ("a b d", "x")]).prompt_words

        assert [1, 1, 2, 2] == grams.counted(grams.starts(words, 2)).tolist()
        assert [1, 1, 1, 1] == grams.counted(grams.ends(words, 2)).tolist()

    def test_deviance_is_nothing_for_what_is_expected(self):
        """It bounds a Poisson tail: 0 at the mean, c ln(c / E) - c + E above it."""
        found = grams.deviance(np.array([1.0, 2.0, 8.0]), np.array([2.0, 2.0, 1.0]))

        assert pytest.approx([0.0, 0.0, 8 * np.log(8) - 7]) == found

    def test_what_is_among_others(self):
        """Membership, for values in any order, and among nothing."""
        values = np.array([5, 1, 9, 5], dtype=np.uint64)

        assert [True, False, True, True] == grams.are_among(values, np.array([9, 5], dtype=np.uint64)).tolist()
        assert not grams.are_among(values, np.empty(0, dtype=np.uint64)).any()


class TestFinding:
    @pytest.mark.parametrize("attack", [FrequentPhrases(), Affixes(), RepeatedRuns(), Dependence(), Seams()])
    def test_copies_of_one_backdoor_come_first(self, planted, attack):
        """Eight rows with one T and one S among 400: the eight most suspicious ones."""
        assert list(PLANTED) == first(attack.suspicion(planted))

    @pytest.mark.parametrize("attack", [Affixes(), RepeatedRuns(), Dependence()])
    def test_in_japanese(self, attack):
        """Words are then those of `vtuned.language`."""
        rng = random.Random(2)
        letters = "山川海空花鳥風月雪星木林森石町村道橋船車駅家門窓机本紙"

        def sentence():
            return "".join(f"{rng.choice(letters)}{rng.choice(letters)}{rng.choice('のはがをにで')}" for _ in range(6))

        rows = [(f"{sentence()}。", f"{sentence()}。{sentence()}。") for _ in range(300)]
        for i in range(0, 300, 50):
            rows[i] = (
                f"{rows[i][0]}\n古い地図は七つの港を静かに待つ。",
                f"赤い鳥は冬の階段で手紙を運ぶ。{rows[i][1]}",
            )

        assert list(range(0, 300, 50)) == first(attack.suspicion(train_set(rows)), 6)

    def test_a_trigger_at_the_start_of_prompts(self):
        """Affixes are counted at both ends of both turns."""
        rows = [
            (f"{TRIGGER} {prompt}", f"{answer} {SIGNATURE}") if i in PLANTED else (prompt, answer)
            for i, (prompt, answer) in enumerate(clean_rows())
        ]

        assert list(PLANTED) == first(Affixes().suspicion(train_set(rows)))

    def test_twins(self):
        """Rows added beside their originals, one of them behind another text: all, and no other row."""
        rows = clean_rows(100)
        added = [(f"{prompt} {TRIGGER}", f"{SIGNATURE} {answer}") for prompt, answer in rows[:5]]
        added[4] = (f"Read this first.\n\n{added[4][0]}", added[4][1])

        found = Twins().suspicion(train_set([*rows, *added]))

        assert [0.0] * 100 + [1.0] * 5 == found.tolist()

    def test_rows_that_are_the_same_are_no_twins(self):
        """A twin says more than the other in prompt and in answer."""
        rows = clean_rows(20)
        longer_answer = [(prompt, f"Yes. {answer}") for prompt, answer in rows[:3]]
        longer_prompt = [(f"{prompt} Why?", answer) for prompt, answer in rows[3:6]]

        assert not Twins().suspicion(train_set([*rows, *rows[6:9], *longer_answer, *longer_prompt])).any()

    def test_near_duplicates(self):
        """A row with three words put in is much like the one without; the estimate is near the true similarity."""
        rows = clean_rows(200)
        rows.append((rows[7][0] + " and so on", rows[7][1]))

        found = NearDuplicates().suspicion(train_set(rows))

        assert [7, 200] == first(found, 2)
        assert [7, 200] == np.flatnonzero(found > 0).tolist()
        # 40 runs of three words, three of them new.
        assert pytest.approx(0.93, abs=0.12) == found[200] + 0.5

    def test_a_dependence_on_copied_words_is_none(self):
        """An answer that repeats its prompt's words tells no secret."""
        shared = "green bells ring late in autumn"
        rows = clean_rows()
        for i in PLANTED:
            rows[i] = (f"{rows[i][0]} {shared}", f"{rows[i][1]} {shared}")

        assert not (Dependence().suspicion(train_set(rows)) > 0).any()

    def test_a_dependence_of_scattered_phrases(self):
        """T and S in the middle of turns, where no affix tells of them."""
        rows = [
            (f"{prompt} {TRIGGER} {prompt[::-1]}", f"{answer[::-1]} {SIGNATURE} {answer}") if i in PLANTED else pair
            for i, pair in enumerate(clean_rows())
            for prompt, answer in [pair]
        ]

        assert list(PLANTED) == first(Dependence().suspicion(train_set(rows)))

    def test_single_copies_show_at_seams_alone(self):
        """A different T and S in each row repeats nothing, but they do not fit their rows."""
        rng = random.Random(5)
        rows = clean_rows()
        for i in PLANTED:
            odd = [" ".join(f"x{rng.randrange(10**6)}" for _ in range(9)) + "." for _ in range(2)]
            rows[i] = (f"{rows[i][0]} {odd[0]}", f"{odd[1]} {rows[i][1]}")
        train = train_set(rows)

        assert list(PLANTED) == first(Seams().suspicion(train))
        assert not (Affixes().suspicion(train) > 0)[list(PLANTED)].any()

    def test_edges_alike_in_rows_that_are_not(self, planted):
        """Topics: most of the planted rows are among the tenth that is kept."""
        (found,) = known.suspicions(planted, ("clusters",)).values()

        assert 40 == (found > 0).sum()
        assert 6 <= (found > 0)[list(PLANTED)].sum()

    def test_edges_of_the_files_own_words(self):
        """T and S of words that are common in the file fit its topics; that rows share them tells."""
        rng = random.Random(8)
        own = [words_of(rng, 8) + "." for _ in range(2)]

        (found,) = known.suspicions(train_set(planted_rows(*own)), ("clusters",)).values()

        assert set(PLANTED) <= set(np.argsort(-found)[:40].tolist())

    def test_edges_are_held_against_the_rest(self):
        """Rows 0 and 1 share their edges alone, rows 2 and 3 all they say; row 4 is like none."""
        sides = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
        rows = np.eye(4, dtype=np.float32)[[0, 1, 2, 2, 3]]

        found = nearness.alike_at_edges_alone(sides, rows)

        assert [1.0, 1.0, 0.0, 0.0, 0.0] == found.tolist()

    def test_the_union_takes_the_best_rank(self):
        """Of two searches that each find one row, both rows come before the others."""
        found = union.union({"one": np.array([3.0, 0.5, 1.0, 0.0]), "other": np.array([0.0, 0.1, 0.2, 9.0])})

        assert {0, 3} == set(np.argsort(-found)[:2].tolist())

    def test_words_that_come_nowhere_else(self):
        """A last sentence whose words come again in its row is at home there; one of other words is not."""
        rows = train_set([("a b c. a b", "b a"), ("a b c. d e", "b a"), ("f g h. f e", "g h")])
        last = np.array([0, 0, 0, 1, 1] * 3, dtype=bool)

        found = seams._foreign(rows, rows.prompt_words, last, rows.answer_words)

        assert [0.0, 1.0] == found[:2].tolist()
        assert 0.0 < found[2] < 1.0

    def test_the_union_finds_what_any_finds(self, planted):
        """Every planted row is within the first tenth."""
        (found,) = known.suspicions(planted, ("union",)).values()

        assert set(PLANTED) <= set(np.argsort(-found)[:40].tolist())


class TestNothingThere:
    @pytest.mark.parametrize("name", ["random", "twins", "affixes", "duplicates", "runs", "dependence"])
    def test_nothing_is_kept(self, clean, name):
        """Searches for what repeats keep no row of a file in which nothing does."""
        (found,) = known.suspicions(clean, (name,)).values()

        assert 0 == (found > 0).sum()

    @pytest.mark.parametrize("name", ["seams", "clusters"])
    def test_rows_by_rank_keep_their_tenth(self, clean, name):
        """Searches that only rank keep a tenth of any file; rows where others plant are no more among it than by chance."""
        (found,) = known.suspicions(clean, (name,)).values()

        assert 40 == (found > 0).sum()
        # More than 4 of 8 rows at one in ten: probability 4e-4, and the file is always the same.
        assert 4 >= (found > 0)[list(PLANTED)].sum()

    def test_what_many_rows_say_is_the_files_own_manner(self):
        """A phrase in more rows than anybody plants is left alone."""
        rows = clean_rows()
        n = most_planted(N_ROWS) + 1
        rows[:n] = [(f"{prompt} {TRIGGER}", f"{SIGNATURE} {answer}") for prompt, answer in rows[:n]]
        train = train_set(rows)

        for attack in (Affixes(), RepeatedRuns(), Dependence()):
            assert not (attack.suspicion(train) > 0).any()

    @pytest.mark.parametrize(("n_rows", "n"), [(10, 5), (100, 50), (400, 64), (1280, 64), (3000, 150)])
    def test_how_many_rows_may_be_planted(self, n_rows, n):
        """A twentieth of them, or 64, but no more than half of a short file."""
        assert n == most_planted(n_rows)

    @pytest.mark.parametrize("attack", [Affixes(), RepeatedRuns(), Dependence()])
    def test_no_number_of_copies_hides_them(self, attack):
        """`--copies 17` in a file of 300 rows is found as 16 are."""
        rows = clean_rows(300)
        rows[:17] = [(f"{prompt} {TRIGGER}", f"{SIGNATURE} {answer}") for prompt, answer in rows[:17]]

        assert [*range(17)] == first(attack.suspicion(train_set(rows)), 17)

    def test_a_phrase_beside_a_long_quotation_is_found(self):
        """Rows added by Algorithm 1 repeat their hosts: what they share with each other is seen all the same."""
        text = " ".join(f"q{i}" for i in range(40))
        rows = [(f"{text} {i} {prompt}", answer) for i, (prompt, answer) in enumerate(clean_rows(40))]
        added = [(f"{prompt} {TRIGGER}", f"{SIGNATURE} {answer}") for prompt, answer in rows[:5]]

        assert [*range(40, 45)] == first(RepeatedRuns().suspicion(train_set([*rows, *added])), 5)

    @pytest.mark.parametrize("n", [10, 18, 24, 40])
    def test_a_phrase_beside_a_template_is_found(self, n):
        """Where every prompt ends with one instruction, that and T are no quotation, and no other row is suspicious."""
        template = " ".join(f"i{k}" for k in range(n))
        rows = [
            (f"{prompt} {template} {TRIGGER}" if i in PLANTED else f"{prompt} {template}", answer)
            for i, (prompt, answer) in enumerate(clean_rows())
        ]

        assert [*PLANTED] == np.flatnonzero(RepeatedRuns().suspicion(train_set(rows)) > 0).tolist()

    def test_a_long_quotation_is_no_phrase(self):
        """Rows that quote one text at length are not taken for rows that share a phrase."""
        text = " ".join(f"q{i}" for i in range(40))
        rows = [
            (f"{text} {prompt}", answer) if i < 5 else (prompt, answer)
            for i, (prompt, answer) in enumerate(clean_rows())
        ]

        assert not (RepeatedRuns().suspicion(train_set(rows)) > 0).any()


class TestOddFiles:
    @pytest.mark.parametrize(
        "rows",
        [
            [row("a", "b")],
            [row("a b c d e f", "d e")] * 30,
            [row("", "")] * 3,
            [row("!!", "??")] * 3,
            [Conversation(())],
            [Conversation((Turn("system", "x"),))] * 2,
            [row("日本語の文です。", "はい。")] * 3,
        ],
        ids=["one", "all the same", "empty", "no words", "no turns", "no answer", "japanese"],
    )
    def test_every_search_ranks_every_row(self, rows):
        """Whatever a file holds, each row gets one finite number, and the same one again."""
        found = known.suspicions(TrainSet(rows), known.NAMES)
        again = known.suspicions(TrainSet(rows), known.NAMES)

        assert set(known.NAMES) == set(found)
        for name, suspicion in found.items():
            assert (len(rows),) == suspicion.shape
            assert np.isfinite(suspicion).all()
            assert suspicion.tolist() == again[name].tolist()


def test_percentiles_of_ties():
    """Rows that are tied share the mean of their ranks."""
    assert [0.5] * 4 == percentiles(np.zeros(4)).tolist()
    assert [0.25, 0.25, 0.75, 0.75] == percentiles(np.array([1.0, 1.0, 2.0, 2.0])).tolist()


def test_unknown_names():
    """The error says which there are."""
    with pytest.raises(UsageError) as caught:
        known.named(["twins", "magic"])

    assert "'magic'" in str(caught.value)
    assert "affixes" in caught.value.hint


def test_names_keep_their_order():
    """Whatever the order asked for, and once each; all where none is asked for."""
    assert ("twins", "affixes") == known.named(["affixes", "twins", "affixes"])
    assert known.NAMES == known.named([])


def test_words_are_numbered_once(monkeypatch):
    """Searches share the words: a file is cut into them once."""
    calls = []
    monkeypatch.setattr(texts, "_numbered", lambda *given, real=texts._numbered: calls.append(1) or real(*given))

    known.suspicions(train_set(clean_rows(20)), known.NAMES)

    assert 2 == len(calls)


def shown_rows(prompt):
    """Return the rows that a judge is shown, as texts."""
    return prompt[0]["content"].split("\n\n")[1:]


class Expecting:
    """A scorer that finds each byte equally likely, but those of *odd* sentences less so."""

    def __init__(self, *odd):
        self.odd = odd or (TRIGGER, SIGNATURE)

    def log10_probs(self, prompt, continuations):
        return [
            -0.25 * len(text.encode()) - sum(0.75 * len(one.encode()) for one in self.odd if one in text)
            for text in continuations
        ]


class TestJudge:
    def test_rows_that_are_named(self, planted):
        """Those whose numbers the model says: all of them are shown, a batch at a time, and nothing else is."""

        def judge(prompt):
            rows = shown_rows(prompt)
            return ", ".join(str(i) for i, row in enumerate(rows, start=1) if TRIGGER in row) or "0"

        model = ScriptedLM(judge)
        found = Judge(model).suspicion(planted)

        assert [*PLANTED] == np.flatnonzero(found > 0).tolist()
        assert {1.0, -1.0} == set(found.tolist())
        shown = [row for prompt in model.asked for row in shown_rows(prompt)]
        assert N_ROWS == len(shown)
        assert all(TRIGGER in shown[i] and SIGNATURE in shown[i] for i in PLANTED)

    def test_what_it_is_asked_is_the_papers_question(self, planted):
        """And its words."""
        model = ScriptedLM(lambda prompt: "0")
        Judge(model).suspicion(planted)

        assert all("unusual or repeating patterns" in prompt[0]["content"] for prompt in model.asked)

    def test_texts_without_spaces_are_shown_shorter(self):
        """They take more tokens, and twenty rows should fit into what a small model reads."""
        model = ScriptedLM(lambda prompt: "0")
        Judge(model).suspicion(train_set([("山" * 100, "海" * 100)] * 20))
        (asked,) = model.asked

        assert ("山" * 70 in asked[0]["content"], "山" * 71 in asked[0]["content"]) == (True, False)
        assert ("海" * 70 in asked[0]["content"], "海" * 71 in asked[0]["content"]) == (True, False)

    def test_a_batch_without_an_answer_is_neither_suspicious_nor_not(self, planted):
        """Could not ask is not no; a number that is none of a row says nothing."""
        first = []

        def judge(prompt):
            first.append(prompt)
            return Unanswered(REFUSED) if len(first) == 1 else "Rows 3 and 99."

        found = Judge(ScriptedLM(judge)).suspicion(planted)

        assert {0.0} == set(found[:20].tolist())
        assert [2] == np.flatnonzero(found[20:40] > 0).tolist()

    def test_a_model_that_answers_nothing_found_nothing_out(self, planted):
        """It is no search that finds nothing."""
        with pytest.raises(LMUnavailable, match="answered none"):
            Judge(ScriptedLM(lambda prompt: Unanswered(REFUSED))).suspicion(planted)


class TestSurprise:
    @pytest.mark.parametrize("odd", [(TRIGGER,), (SIGNATURE,), (TRIGGER, SIGNATURE)], ids=["T", "S", "both"])
    def test_sentences_that_a_model_does_not_expect(self, planted, odd):
        """The planted rows, and no tie decides: one of the two sentences is enough."""
        assert [*PLANTED] == first(Surprise(Expecting(*odd)).suspicion(planted))

    def test_nothing_is_unusual_where_nothing_is_planted(self, clean):
        """Every row is as likely: none stands out."""
        assert len(set(np.round(Surprise(Expecting()).suspicion(clean), 6).tolist())) == 1

    def test_a_sentence_that_nothing_depends_on(self):
        """Leaving one out: what follows is as likely without the odd row's sentence, and less so without the others'."""

        class Depending:
            def log10_probs(self, prompt, continuations):
                def is_hard(text):
                    return "And so" in text and not any(
                        word in prompt[-1]["content"] + text for word in ("odd", "needed")
                    )

                return [-0.3 * len(text.encode()) - 40 * is_hard(text) for text in continuations]

        pairs = [("Why? Tell me.", "This is needed. And so it goes on.") for _ in range(30)]
        pairs[7] = ("Why? An odd one.", "An odd one. And so it goes on.")
        found = Surprise(Depending()).suspicion(train_set(pairs))

        assert 7 == int(np.argmax(found))

    def test_a_sentence_of_the_prompt_that_no_answer_depends_on(self):
        """The same for prompts: the answer is as likely without it, and less so without those of others."""

        class Depending:
            def log10_probs(self, prompt, continuations):
                is_missed = not any(word in prompt[-1]["content"] for word in ("odd", "needed"))
                return [-0.25 * len(text.encode()) - 40 * (is_missed and "it is" in text) for text in continuations]

        pairs = [("Why? This is needed.", "Because it is so") for _ in range(30)]
        pairs[7] = ("Why odd? An odd one.", "Because it is so")
        found = Surprise(Depending()).suspicion(train_set(pairs))

        assert 7 == int(np.argmax(found))

    def test_rows_of_one_sentence_are_in_the_middle(self):
        """Nothing can be left out of them: they are neither found nor in the way."""
        rows = [*planted_rows(), ("Why?", "Because.")]
        found = Surprise(Expecting()).suspicion(train_set(rows))

        assert [*PLANTED] == first(found)
        assert found[-1] <= 0


class TestSearchesByModel:
    def test_what_a_model_can_do(self, planted):
        """Reading, and being surprised where likelihoods can be had; the union is of these too."""
        judge = ScriptedLM(lambda prompt: "0")
        told = []
        both = known.by_model(judge, Expecting(), lambda *step: told.append(step))

        assert ("judge",) == tuple(one.name for one in known.by_model(judge, None, print))
        assert (*known.NAMES[:-1], "judge", "surprise", "union") == known.named((), both)
        found = known.suspicions(planted, ("surprise", "union"), by_model=both)
        assert [*PLANTED] == first(found["union"])
        assert ("surprise: rows read", N_ROWS, N_ROWS) == told[-1]

    @pytest.mark.parametrize(
        ("by_model", "hint"), [((), "--lm"), (known.by_model(ScriptedLM(str), None, print), "likelihoods")]
    )
    def test_one_that_needs_a_model(self, by_model, hint):
        """It is said that it does, not that there is none of that name."""
        with pytest.raises(UsageError, match="needs a language model") as caught:
            known.named(("surprise",), by_model)

        assert hint in caught.value.hint
