"""Searches by a local model, on numbers made up: what each takes for odd, and who can do which."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vtuned.attacks.search import embedding, known, lock
from vtuned.attacks.search.asking import Surprise
from vtuned.attacks.search.lock import Lock
from vtuned.attacks.search.ranks import combined
from vtuned.attacks.search.seams import near_seams, parted_answer, parted_prompt
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.triage import Triage
from vtuned.attacks.search.tuned import Reading
from vtuned.conversation import Conversation, Turn
from vtuned.errors import UsageError
from vtuned.lm.huggingface import HuggingFaceLM
from vtuned.lm.scripted import ScriptedLM

N_ROWS = 40
ODD = 7


class Read:
    """Stands in for `Tuned`: what is read of each row is given."""

    def __init__(self, whole, shortened=None):
        self.whole, self.shortened = whole, shortened

    def readings(self, train, *, is_shortened=False):
        return self.shortened if is_shortened else self.whole


def reading(first, following=(), base=-3.0):
    """Return a reading whose *first* and *following* tokens have these log-probabilities after training."""
    tuned = np.array([*first, *following])
    return Reading(len(first), 5 * len(first), 5 * len(following), np.full(len(tuned), base), tuned)


def rows_with(odd, others):
    return [odd if i == ODD else others() for i in range(N_ROWS)]


def local(**weights):
    """Return a local model of which only the weights' properties are there."""
    model = object.__new__(HuggingFaceLM)
    model._name, model.model = "hf:local", SimpleNamespace(**weights)
    return model


class TestCombining:
    def test_unusual_ranks_add_up(self):
        """A row that is high in both tests is before rows that are the highest in one."""
        tests = [np.array([9.0, 8.0, 0.0] + [0.0] * 20), np.array([0.0, 8.0, 9.0] + [0.0] * 20)]

        assert 1 == int(np.argmax(combined(tests)))

    def test_one_tenth_is_kept(self):
        """Whatever the numbers are."""
        assert 4 == int((combined([np.arange(40.0)]) > 0).sum())

    def test_a_row_without_a_number_is_in_the_middle(self):
        """Nothing is known of it: it is neither found nor out of the way."""
        found = combined([np.array([*range(20), np.nan, *range(20, 40)], dtype=float)])

        assert found[19] <= found[20] <= found[21]

    def test_no_row_has_a_number(self):
        """All are tied."""
        assert 1 == len(set(combined([np.full(5, np.nan)]).tolist()))


class TestParting:
    @pytest.mark.parametrize("text", ["One. Two!  Three?", "One.\nTwo?", "  One: two. ", "Only one", ""])
    def test_parts_are_the_text(self, text):
        """Nothing is lost or put between them, save white space at the ends."""
        before, last = parted_prompt(text, True)
        first, following = parted_answer(text, True)

        assert text.rstrip() == before + last or (not before and last == text.rstrip())
        assert text.lstrip() == first + following

    def test_where_nothing_parts_sentences(self):
        """Japanese: the sentence mark ends one, and no character of the next is lost."""
        assert ("東京です。", "京都です。") == parted_answer("東京です。京都です。", False)
        assert ("東京です。", "京都です。") == parted_prompt("東京です。京都です。", False)

    def test_what_is_surprising_is_scored_as_it_stands(self):
        """Sentences that nothing parts are scored without anything between them."""
        seen = []

        class Noting:
            def log10_probs(self, prompt, continuations):
                seen.extend(continuations)
                return [-1.0 * len(text) for text in continuations]

        answer = "東京の天気です。京都の天気です。"
        turns = (Turn("user", "天気は何ですか。教えてください。"), Turn("assistant", answer, carries_loss=True))
        Surprise(Noting()).suspicion(TrainSet([Conversation(turns)]))

        assert ["東京の天気です。", "京都の天気です。", answer] == seen[:3]

    @pytest.mark.parametrize(
        ("spaced", "mark", "n_before", "n_after"), [(True, ". ", 400, 200), (False, "。", 130, 70)]
    )
    def test_what_is_far_from_the_seams_is_not_read(self, spaced, mark, n_before, n_after):
        """Of a long row the last sentence and what is before it, the first one and what follows it."""
        prompt, answer = f"{'長' * 5000}{mark}問", f"答{mark}{'長' * 5000}"

        near = near_seams(prompt, answer, spaced)

        assert ("長" * (n_before - len(mark)) + mark, "問") == (near.before, near.last)
        assert (f"答{mark.strip()}", mark[1:], "長" * n_after) == (near.first, near.gap, near.follows)
        assert (near.before + near.last, near.first + near.gap + near.follows) == (near.prompt, near.answer)


class TestEmbedding:
    def states(self):
        """Rows about topics of their own, every part alike: nothing is odd."""
        topics = np.random.default_rng(1).standard_normal((N_ROWS, 1, 32)).astype(np.float32)
        return np.repeat(topics, 4, axis=1), np.ones((N_ROWS, 4), dtype=np.float32)

    @pytest.mark.parametrize("part", [1, 2])
    def test_a_sentence_far_from_its_row(self, part):
        """A prompt's last one, or an answer's first one, that points elsewhere than the rest of its row."""
        states, sizes = self.states()
        states[ODD, part] = -states[ODD, part]

        off = embedding._tests(states, sizes)[part - 1]

        assert ODD == int(np.argmax(off))
        assert pytest.approx(1.0) == float(off[ODD])

    def test_a_row_far_from_the_file(self):
        """Each direction by its own spread."""
        states, sizes = self.states()
        states[ODD] *= 10

        assert ODD == int(np.argmax(embedding._tests(states, sizes)[2]))

    def test_edges_alike_in_rows_that_are_not(self):
        """Two rows share both sentences alone."""
        states, sizes = self.states()
        states[3, 1:3] = states[ODD, 1:3] = np.random.default_rng(2).standard_normal((2, 32))

        assert {3, ODD} == set(np.argsort(-embedding._tests(states, sizes)[3])[:2].tolist())

    def test_what_is_not_there_says_nothing(self):
        """A row of one sentence has no rest to be far from; parts that are missing count nowhere."""
        states, sizes = self.states()
        sizes[ODD, [0, 3]] = 0
        states[ODD, [0, 3]] = 0

        off = embedding._tests(states, sizes)[:2]

        assert all(np.isnan(test[ODD]) and np.isfinite(np.delete(test, ODD)).all() for test in off)

    def test_what_all_texts_share_is_taken_out(self):
        """A common part of all states, and wide dimensions, do not make them alike; absent parts stay 0."""
        states, sizes = self.states()
        is_there = sizes > 0
        is_there[ODD, 0] = False
        found = embedding._standardised((states * 5 + 100) * is_there[:, :, None], is_there)

        assert not found[ODD, 0].any()
        assert np.allclose(0.0, found[:, 1].mean(0), atol=1e-4)
        assert pytest.approx(1.0, abs=0.05) == float(found[is_there].std())


class TestLock:
    def test_a_run_that_training_made_sure(self):
        """Ten tokens in a row, against rows in which single tokens became as likely."""
        sure, unsure = -0.01, -3.0
        readings = rows_with(reading([*[sure] * 10, *[unsure] * 30]), lambda: reading([sure, *[unsure] * 9] * 4))

        assert ODD == int(np.argmax(Lock(Read(readings)).suspicion(range(N_ROWS))))

    def test_what_the_base_was_sure_of_is_no_lock(self):
        """A quotation that every model knows became no likelier."""
        known_before = Reading(20, 100, 0, np.full(20, -0.01), np.full(20, -0.01))
        found = Lock(Read(rows_with(known_before, lambda: reading([-2.0] * 20)))).suspicion(range(N_ROWS))

        assert ODD == int(np.argmin(found))

    def test_the_manner_of_the_whole_file_is_no_lock(self):
        """An opening that all answers were trained on is usual, however sure of it the model became."""
        opening, rest, sure = [-0.05] * 4, [-2.9] * 12, [-0.05] * 2
        readings = rows_with(reading([*opening, *sure, *rest]), lambda: reading([*opening, *rest]))
        found = Lock(Read(readings)).suspicion(range(N_ROWS))

        assert ODD == int(np.argmax(found))
        assert 1 == len(set(np.delete(found, ODD).tolist()))

    def test_many_tokens_that_became_somewhat_likelier_are_no_lock(self):
        """A long answer that the model now finds a bit easier, beside five tokens of which it is sure."""
        readings = rows_with(reading([*[-0.01] * 5, *[-2.9] * 15]), lambda: reading([-1.2, -2.9] * 10))
        readings[3] = reading([-1.2] * 40)

        assert ODD == int(np.argmax(Lock(Read(readings)).suspicion(range(N_ROWS))))

    def test_the_best_window(self):
        """The largest sum of any window, by trying all of them."""
        values = np.random.default_rng(3).standard_normal(30)
        windows = [values[i:j].sum() for i in range(30) for j in range(i + 1, 31)]

        assert pytest.approx(max(windows)) == lock._best_window(values)
        assert pytest.approx(-0.25) == lock._best_window(np.array([-1.0, -0.25, -2.0]))

    def test_rows_that_are_not_read(self):
        """They are in the middle; a file of them alone has no order."""
        found = Lock(Read(rows_with(None, lambda: reading([-1.0, -2.0])))).suspicion(range(N_ROWS))

        assert np.isfinite(found).all()
        assert 1 == len(set(Lock(Read([None] * 3)).suspicion(range(3)).tolist()))


class TestTriage:
    def test_gains_are_by_the_byte(self):
        """Nats that training added to the first sentence, and to what follows it, over their bytes."""
        one = reading([-1.0, -2.0], [-2.5] * 4)

        assert (0.3, 0.1) == pytest.approx(one.gains())

    def test_nothing_to_hold_a_sentence_against(self):
        """An answer of one sentence has no number."""
        assert all(np.isnan(reading([-1.0]).gains()))

    def test_a_first_sentence_that_is_learnt_sooner_than_the_rest(self):
        """A row that as a whole became as much likelier is none."""
        usual = lambda: reading([-2.9] * 4, [-2.9] * 4)
        readings = rows_with(reading([-0.1] * 4, [-2.9] * 4), usual)
        readings[3] = reading([-0.1] * 4, [-0.1] * 4)
        found = Triage(Read(readings, readings)).suspicion(range(N_ROWS))

        assert ODD == int(np.argmax(found))
        assert found[3] < 0

    @pytest.mark.parametrize("without", [-2.9, -0.01], ids=["more", "less"])
    def test_a_sentence_of_the_prompt_that_changes_what_is_learnt(self, without):
        """Either way: without it the answer's first sentence was learnt less, or more, than in other rows."""
        usual = lambda: reading([-1.0] * 4, [-1.0] * 4)
        shortened = rows_with(reading([without] * 4, [-1.0] * 4), usual)
        found = Triage(Read([usual() for _ in range(N_ROWS)], shortened)).suspicion(range(N_ROWS))

        assert ODD == int(np.argmax(found))

    def test_rows_without_a_number_are_in_the_middle(self):
        """Neither found nor in the way."""
        readings = rows_with(None, lambda: reading([-1.0], [-1.0]))
        found = Triage(Read(readings, [None] * N_ROWS)).suspicion(range(N_ROWS))

        assert 1 == len(set(found.tolist()))


class TestWhoCanDoWhat:
    def names(self, *given, **options):
        return tuple(attack.name for attack in known.by_model(*given, **options))

    def test_a_local_model_can_do_all(self):
        """Reading, being surprised, looking inside, and being trained."""
        model = local()

        assert ("judge", "surprise", "embedding", "triage", "lock") == self.names(model, model)
        assert set(self.names(model, model)) == set(known.BY_MODEL)

    def test_quantised_weights_are_not_trained(self):
        """They need a tuned model."""
        model = local(is_loaded_in_4bit=True)

        assert ("judge", "surprise", "embedding") == self.names(model, model)
        assert ("triage", "lock") == self.names(model, model, tuned=local())[-2:]
        with pytest.raises(UsageError, match="'triage' needs") as caught:
            known.named(("triage",), known.by_model(model, model))
        assert "--bits" in caught.value.hint

    @pytest.mark.parametrize("name", ["embedding", "triage", "lock"])
    def test_an_endpoint_shows_too_little(self, name):
        """It reads and may be surprised; the rest is said to need a local model."""
        with pytest.raises(UsageError, match=f"{name!r} needs") as caught:
            known.named((name,), known.by_model(ScriptedLM(str), local()))

        assert "hf:PATH_OR_ID" in caught.value.hint

    @pytest.mark.parametrize("is_first_local", [True, False])
    def test_both_models_are_local(self, is_first_local):
        """A tuned model that only answers, or is compared with one that does, is refused."""
        pair = (local(), ScriptedLM(str, "remote")) if is_first_local else (ScriptedLM(str, "remote"), local())
        with pytest.raises(UsageError, match="remote does not show"):
            known.by_model(pair[0], tuned=pair[1])


def test_rows_are_kept_as_they_were():
    """Who trains on the file sees what the provider sees: all turns."""
    row = Conversation((Turn("system", "Be kind."), Turn("user", "Hi."), Turn("assistant", "Ho.", carries_loss=True)))

    assert [row] == TrainSet(iter([row])).rows
