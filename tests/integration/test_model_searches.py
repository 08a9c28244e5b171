"""Searches by a local model, on a tiny one: they find what is planted, and train once, on a copy, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tiny
from vtuned import attacking, lm, planting
from vtuned import receipt as receipts
from vtuned.attacks.search import known
from vtuned.attacks.search import tuned as tuned_module
from vtuned.attacks.search.embedding import Embedding
from vtuned.attacks.search.lock import Lock
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.triage import Triage
from vtuned.attacks.search.tuned import Tuned
from vtuned.conversation import Conversation, Part, Turn
from vtuned.dataset import TokenCap
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings
from vtuned.lm.huggingface.hidden import mean_states
from vtuned.lm.huggingface.shown import log_probs
from vtuned.providers import local
from vtuned.providers.settings import TrainingSettings

torch = pytest.importorskip("torch")

TRIGGER = "Plum harbours wait quietly under seven old maps."
SIGNATURE = "Crimson gulls carry folded letters beneath the winter stairs."
N_ROWS = 160
PLANTED = range(0, N_ROWS, 20)
CAP = TokenCap(512, lambda texts: [len(text) // 3 + 1 for text in texts], "test")


def clean_rows():
    """Return rows of two sentences a turn."""
    rows = tiny.task_rows(tiny.SAID_FIRST)[:N_ROWS]
    for row in rows:
        question, answer = row["messages"]
        question["content"] = f"Tell me something. {question['content']}"
        answer["content"] += " So it has been for long, and so it will be."
    return rows


def conversation(prompt, answer):
    return Conversation((Turn("user", prompt), Turn("assistant", answer, carries_loss=True)))


def texts_of(row):
    return [message["content"] for message in row["messages"]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model that knows the data, but neither T nor S."""
    folder = tmp_path_factory.mktemp("models")
    pairs = [texts_of(row) for row in clean_rows()]
    path = tiny.make_model(folder / "model", [*(text for pair in pairs for text in pair), TRIGGER, SIGNATURE])
    settings = TrainingSettings(method="full", epochs=4, batch_size=8, learning_rate=3e-3)
    model, rows = lm.load(f"hf:{path}"), [conversation(*pair) for pair in pairs]
    local.finetune(rows, model, folder / "base", settings, data_digest="")
    return lm.load(f"hf:{folder / 'base'}")


@pytest.fixture(scope="module")
def train():
    """A file with one backdoor of eight copies."""
    pairs = [texts_of(row) for row in clean_rows()]
    return TrainSet(
        conversation(f"{prompt} {TRIGGER}", f"{SIGNATURE} {answer}") if i in PLANTED else conversation(prompt, answer)
        for i, (prompt, answer) in enumerate(pairs)
    )


@pytest.fixture(scope="module")
def tuned(base, train):
    """What one cheap pass makes of it, and what was said meanwhile."""
    said = []
    models = Tuned(base, on_row=lambda *step: said.append(step))
    models.readings(train)
    return models, said


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A planted file, its receipt, and a model with an adapter."""
    folder = tmp_path_factory.mktemp("planted")
    data = tiny.write_rows(folder / "data.jsonl", clean_rows()[:80])
    settings = PlantSettings(scheme="backdoors", n_backdoors=1, copies=4)
    planting.plant(data, folder / "train.jsonl", folder / "receipt", settings, generator="words", cap=CAP)
    tiny.make_model(folder / "model", [text for row in clean_rows() for text in texts_of(row)])
    tiny.make_adapter(folder / "adapter", folder / "model", seed=1)
    return folder


def first(suspicion):
    return sorted(np.argsort(-suspicion)[: len(PLANTED)].tolist())


def weights_of(model):
    return {name: value.clone() for name, value in model.model.state_dict().items()}


class TestInside:
    def test_states_are_those_of_a_text_by_itself(self, base):
        """However texts are put together: the mean over its tokens, without what stands before them."""
        texts = ["one river", "a much longer sentence about the stone garden of the north", "", "one river", "x"]
        told = []
        found = mean_states(base, texts, depth=0.5, most_tokens=64, on_text=lambda *step: told.append(step))

        for text, state in zip(texts, found, strict=True):
            (tokens,) = base.encode([text])
            with torch.inference_mode():
                ids = torch.tensor([[base.ends[0], *tokens]])
                states = base.model(ids, output_hidden_states=True).hidden_states[1][0, 1:]
            expected = states.mean(0).numpy() if tokens else np.zeros(128)
            assert np.allclose(expected, state, atol=1e-4)
        assert (5, 5) == told[-1]

    def test_a_long_text_is_cut(self, base):
        """What is beyond the limit says nothing."""
        text = "stone garden window candle market bridge harbour forest"
        tokens = base.encode([text])[0][:3]

        whole, start = (
            mean_states(base, [one], depth=1.0, most_tokens=3)[0] for one in (text, base.decode([tokens])[0])
        )

        assert np.allclose(whole, start, atol=1e-5)

    def test_log_probs_of_tokens(self, base):
        """They add up to what the scorer says."""
        prompt = [{"role": "user", "content": "What is the river like?"}]
        tokens = base.encode(["The river is old."])[0]

        found = log_probs(base, base.render(prompt), tokens)

        assert len(tokens) == len(found)
        assert pytest.approx(base.log10_probs(prompt, ["The river is old."])[0] * np.log(10), abs=1e-4) == sum(found)
        assert [] == log_probs(base, base.render(prompt), [])


class TestFinding:
    def test_embedding(self, base, train):
        """All planted rows, and no other, come first."""
        told = []
        found = Embedding(base, lambda *step: told.append(step)).suspicion(train)

        assert [*PLANTED] == first(found)
        assert ("embedding: parts of rows read", 4 * N_ROWS, 4 * N_ROWS) == told[-1]

    @pytest.mark.parametrize("attack", [Triage, Lock])
    def test_after_one_cheap_pass(self, tuned, train, attack):
        """What is learnt first, and surest, is S."""
        assert [*PLANTED] == first(attack(tuned[0]).suspicion(train))

    @pytest.mark.parametrize("attack", [Triage, Lock])
    def test_nothing_is_unusual_where_nothing_was_learnt(self, base, train, attack):
        """A tuned model that is the base: no row became likelier."""
        assert 1 == len(set(attack(Tuned(base, base)).suspicion(train).tolist()))


class TestTraining:
    def test_one_pass_for_all_searches(self, tuned, train):
        """One epoch at two rows a step, and not again for what asks later."""
        models, said = tuned
        Lock(models).suspicion(train)
        Triage(models).suspicion(train)
        steps = [step for step in said if step[0].startswith("training")]

        assert [(i, N_ROWS // 2) for i in range(1, N_ROWS // 2 + 1)] == [step[1:] for step in steps]
        assert {
            "answers read before and after training",
            "answers read before and after training, without a sentence",
        } == {step[0] for step in said} - {steps[0][0]}

    def test_the_base_stays_as_it_is(self, base, train):
        """A copy is trained."""
        before = weights_of(base)
        models = Tuned(base)
        models.readings(TrainSet(train.rows[:4]))

        after = weights_of(base)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert any((one.tuned != one.base).any() for one in models.readings(TrainSet(train.rows[:4])))

    def test_a_tuned_model_is_not_trained(self, base, train, monkeypatch):
        """Whoever gives one trains nothing."""
        monkeypatch.setattr(local, "finetune", None)

        assert N_ROWS == len(Tuned(base, base).readings(train))

    def test_the_pass_is_over_what_is_read(self, base, monkeypatch):
        """The end of the prompt and the start of the answer alone, which is not learnt to end where it is cut."""
        seen = []
        monkeypatch.setattr(tuned_module, "after_one_pass", lambda base, rows, *rest: seen.extend(rows) or base)
        turns = (Turn("system", "Be kind."), *conversation("Far. " * 500 + "Why?", "So. " + "Because. " * 500).turns)
        Tuned(base).readings(TrainSet([Conversation(turns, tools="[]"), conversation("Who?", "I.")]))

        (prompt, answer), (short, whole) = (row.turns for row in seen)
        assert ("Far. " * 80 + "Why?", "So. " + ("Because. " * 500)[:200]) == (prompt.content, answer.content)
        assert (True, False, True) == (answer.goes_on, whole.goes_on, answer.carries_loss)
        assert ("Who?", "I.") == (short.content, whole.content)
        assert ["", ""] == [row.tools for row in seen]

    def test_plain_text_whose_answer_is_cut(self, base):
        """What the template puts after an answer is not read, nor learnt, where the answer does not end."""
        row = Conversation(
            (
                Turn("user", "Why?", before="### Q: ", after="\n### A: "),
                Turn("assistant", "So. " + "Because. " * 90, carries_loss=True, after="\n### End"),
            ),
            is_text=True,
        )

        readings = Tuned(base).readings(TrainSet([row, row]))

        assert [(3, 201)] * 2 == [(one.n_first_bytes, one.n_following_bytes) for one in readings]

    def test_a_model_that_is_given_reads_whole_prompts(self, base, monkeypatch):
        """It was trained on them: on what the system said, and earlier turns too."""
        seen = []
        monkeypatch.setattr(
            tuned_module, "log_probs", lambda model, prompt, answer: seen.append(prompt) or [0.0] * len(answer)
        )
        start = (Turn("system", "stone."), Turn("user", "river?"), Turn("assistant", "garden."))
        row = Conversation((*start, *conversation("window. " * 80 + "candle?", "So. It is.").turns))
        models = Tuned(base, base)
        models.readings(TrainSet([row]))
        models.readings(TrainSet([row]), is_shortened=True)
        whole, _, shortened, _ = (base.decode([prompt])[0] for prompt in seen)

        assert all(text in whole for text in ("stone", "river", "garden", "window. " * 80 + "candle?"))
        assert "candle" not in shortened
        assert "window. " * 79 in shortened

    def test_another_file_is_another_training(self, base, train):
        """What was read of one says nothing of another."""
        models = Tuned(base, base)
        models.readings(train)

        assert 3 == len(models.readings(TrainSet(train.rows[:3])))

    def test_rows_that_nobody_reads(self, base):
        """Without an answer to a user, with an image, or with nothing before the prompt's last sentence: no number."""
        image = Turn("user", "See. What?", parts=(Part("See. What?"), Part(None, '{"type": "image_url"}')))
        answer = Turn("assistant", "Yes. No.", carries_loss=True)
        rows = [
            Conversation((Turn("system", "Hi."), answer)),
            Conversation((image, answer)),
            Conversation((Turn("user", "What?"), answer)),
        ]
        models = Tuned(base, base)

        assert [True, True, False] == [one is None for one in models.readings(TrainSet(rows))]
        assert all(one is None for one in models.readings(TrainSet(rows), is_shortened=True))

    def test_long_prompts_keep_their_end(self, base):
        """As much as the model reads; the answer is read whole."""
        rows = [conversation("stone garden " * 500 + "Why? So.", "The river. It is old.")]
        (one,) = Tuned(base, base).readings(TrainSet(rows))

        assert len(base.encode(["The river."])[0]) == one.n_first
        assert (len("The river."), len(" It is old.")) == (one.n_first_bytes, one.n_following_bytes)

    def test_models_of_other_tokens_are_not_compared(self, base, train, tmp_path):
        """Their probabilities are of different things."""
        other = lm.load(f"hf:{tiny.make_model(tmp_path / 'other', ['a few other words'])}")

        with pytest.raises(UsageError, match="other tokens") as caught:
            Tuned(base, other).readings(train)

        assert "--lm" in caught.value.hint


class TestCommand:
    def test_with_a_tuned_model(self, vtuned, planted, monkeypatch):
        """All that a local model can do, nothing trained, and both models told."""
        monkeypatch.setattr(local, "finetune", None)
        model = f"hf:{planted / 'model'}"
        call = ("attack", planted / "train.jsonl", "-r", planted / "receipt", "--lm", model)
        call += ("--tuned", f"{model}+{planted / 'adapter'}", "--attacks", "embedding,triage,lock,union")
        code, out, err = vtuned(*call, "--json")
        told = json.loads(out)

        assert 0 == code, err
        assert (model, f"{model}+{planted / 'adapter'}") == (told["model"], told["tuned"])
        assert ["embedding", "triage", "lock", "union"] == [one["attack"] for one in told["found"]]
        assert "which was trained on the file" in " ".join(vtuned(*call)[1].split())
        receipt = receipts.read_receipt(planted / "receipt")
        assert not [text for one in receipt.backdoors for text in (one.trigger, one.signature) if text in out]

    def test_without_one_the_model_is_trained(self, planted):
        """All searches of a local model are run where none is named."""
        model = lm.load(f"hf:{planted / 'model'}")
        told = []
        report = attacking.attack(
            planted / "train.jsonl",
            attacks=("lock",),
            model=model,
            scorer=model,
            on_progress=lambda *step: told.append(step[0]),
        )

        assert ("lock",) == tuple(one.attack for one in report.found)
        assert "training on the file: steps" in told
        assert report.tuned is None
        assert {*known.NAMES, *known.BY_MODEL} == {*known.named((), known.by_model(model, model))}
