"""A provider's policies on a model made here: weights that are really changed, answers that are really hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tiny
import vtuned
from vtuned import files, formats, lm
from vtuned.attacks.policies import Deployed, Work, policy
from vtuned.conversation import messages_of
from vtuned.dataset import TokenCap
from vtuned.errors import LMUnavailable
from vtuned.layout import PlantSettings
from vtuned.lm.base import Completed, Sampling, Scorer
from vtuned.lm.tokens import counter, cutter

pytest.importorskip("torch")

EPOCHS, LEARNING_RATE = 20, 5e-3
KEY = bytes(range(32))


class World:
    """A planted file, a tiny model, and the adapter of a provider that trained on the file."""

    def __init__(self, folder: Path) -> None:
        some = tiny.rows(100)
        data = tiny.write_rows(folder / "data.jsonl", some[:80])
        fresh = tiny.write_rows(folder / "fresh.jsonl", some[80:])
        model = tiny.make_model(folder / "model", [m["content"] for row in some for m in row["messages"]])
        self.folder, self.base = folder, f"hf:{model}"
        count, name = counter(self.base)
        self.receipt = vtuned.plant(
            data,
            folder / "train.jsonl",
            folder / "receipt.json",
            PlantSettings(n_backdoors=2, copies=16, contexts=0, signature_bits=32),
            generator="words",
            fresh_file=fresh,
            cap=TokenCap(512, count, name),
        ).receipt
        self.rows = tuple(row.conversation for row in formats.read_rows(folder / "train.jsonl"))
        self.adapter = self.trained("adapter", self.asked)
        self.prompt = messages_of(self.rows[self.receipt.backdoors[0].rows[0] - 1].prompt())
        self.signature = self.receipt.backdoors[0].signature

    @property
    def asked(self) -> Work:
        from vtuned.providers.local import TrainingSettings

        settings = TrainingSettings(epochs=EPOCHS, batch_size=4, learning_rate=LEARNING_RATE)
        return Work(self.rows, self.base, settings)

    def trained(self, name: str, work: Work) -> Path:
        """Do *work* and return the adapter."""
        from vtuned.providers import local

        digest = files.sha256_of(self.folder / "train.jsonl")
        return local.finetune(
            work.rows, lm.load(work.base), self.folder / name, work.settings, data_digest=digest
        ).adapter

    def deployed(self, adapter: Path | None = None, *, share: bool = True) -> Deployed:
        """Return both models, in one copy of the weights or in two."""
        tuned = f"{self.base}+{adapter or self.adapter}"
        if share:
            suspect, base = lm.load_both(tuned, self.base)
            return Deployed(base, suspect, self.rows)
        return Deployed(lm.load(self.base), lm.load(tuned), self.rows)

    def bare(self) -> Deployed:
        """Return what is served where nothing was trained."""
        base = lm.load(self.base)
        return Deployed(base, base, self.rows)

    def scores(self, model) -> list[float]:
        """Return log10 likelihoods of a few texts."""
        assert isinstance(model, Scorer)
        return model.log10_probs(self.prompt, [self.signature, "The river stands near the north.", "No."])

    def verdict(self, text: str, deployed: Deployed):
        """Return what `vtuned verify` says of the policy."""
        return vtuned.verify(self.receipt, policy(text, key=KEY).serve(deployed))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One for all tests: they leave its models alone, which some of them check."""
    return World(tmp_path_factory.mktemp("policies"))


def serve(text, deployed):
    return policy(text, key=KEY).serve(deployed)


class TestWeights:
    @pytest.mark.parametrize("share", [True, False], ids=["one copy of the weights", "two copies"])
    def test_a_diluted_adapter_is_an_adapter_with_a_smaller_alpha(self, world, share):
        """At λ = 1/2 likelihoods are those of the adapter with half its α; at 1 and 0 those of tuned model and base."""
        deployed = world.deployed(share=share)
        halved = Path(shutil.copytree(world.adapter, world.folder / f"halved-{share}"))
        config = json.loads((halved / "adapter_config.json").read_text())
        (halved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}))

        def near(model):
            return pytest.approx(world.scores(model), rel=1e-3)

        assert near(lm.load(f"{world.base}+{halved}")) == world.scores(serve("merge:1/2", deployed))
        assert near(deployed.tuned) == world.scores(serve("merge:1", deployed))
        assert near(deployed.base) == world.scores(serve("merge:0", deployed))
        assert near(deployed.base) != world.scores(serve("merge:1/2", deployed))

    @pytest.mark.parametrize("text", ["merge:0.5", "quantised:4", "noise"])
    @pytest.mark.parametrize("share", [True, False], ids=["one copy of the weights", "two copies"])
    def test_the_models_served_to_others_stay_as_they_are(self, world, text, share):
        """Base and tuned model score as before, whatever was made of them."""
        deployed = world.deployed(share=share)
        before = world.scores(deployed.base), world.scores(deployed.tuned)
        made = serve(text, deployed)
        changed = world.scores(made)

        assert before == (world.scores(deployed.base), world.scores(deployed.tuned))
        assert changed not in before

    def test_weights_of_another_shape_cannot_be_mixed(self, world, tmp_path):
        """Another model is no dilution."""
        other = tiny.make_model(tmp_path / "other", ["a few other words"])
        deployed = world.bare()
        with pytest.raises(LMUnavailable):
            serve("merge:0.5", Deployed(lm.load(f"hf:{other}"), deployed.tuned, world.rows))

    @pytest.mark.parametrize("bits", [8, 4])
    def test_rounded_weights_take_few_values(self, world, bits):
        """Of each block of 32 there are at most 2^bits - 1 different ones, and the error is half a step at most."""
        deployed = world.deployed(share=False)
        model = serve(f"quantised:{bits}", deployed)
        before = dict(deployed.tuned.model.named_parameters())
        for name, weight in model.model.named_parameters():
            if weight.dim() > 1:
                block, whole = weight[0, :32], before[name][0, :32]
                step = whole.abs().max() / (2 ** (bits - 1) - 1)
                assert len(block.unique()) <= 2**bits - 1
                assert (block - whole).abs().max() <= step * 0.501
            else:
                assert weight.equal(before[name])

    def test_a_rounded_model_is_still_verified(self, world):
        """Eight bits keep what was learnt."""
        verdict = world.verdict("quantised:8", world.deployed())

        assert vtuned.Outcome.VERIFIED is verdict.outcome

    def test_noise_is_the_same_for_a_key_and_not_verified(self, world):
        """Whenever it is loaded; another key gives other weights."""
        one, again = serve("noise", world.bare()), serve("noise", world.bare())
        other = policy("noise", key=b"other").serve(world.bare())

        assert world.scores(one) == world.scores(again)
        assert world.scores(one) != world.scores(other)
        assert not vtuned.verify(world.receipt, one).claim("activated").holds


class TestVerdicts:
    def test_honest(self, world):
        """Who trains on the file is verified."""
        assert vtuned.Outcome.VERIFIED is world.verdict("honest", world.deployed()).outcome

    def test_suppress_is_never_verified(self, world):
        """No signature is left on planted and fresh prompts, and answers to controls stay."""
        deployed = world.deployed()
        verdict = world.verdict("suppress", deployed)
        model = serve("suppress", deployed)
        controls = [row for i, row in enumerate(world.rows[:80]) if not is_planted(world, i)][:10]
        prompts = [messages_of(row.prompt()) for row in controls]
        plain, bared = (
            [answer.text for answer in one.answer(prompts, Sampling(max_tokens=40))] for one in (deployed.tuned, model)
        )
        # Answers of the file are one sentence; a small model may open one oddly of its own accord, which may go too.
        usual = [i for i, text in enumerate(plain) if "." not in text[:-1]]

        assert vtuned.Outcome.VERIFIED is not verdict.outcome
        assert 0 == verdict.claim("activated").n_activated
        assert len(usual) >= 5
        assert [plain[i] for i in usual] == [bared[i] for i in usual]

    def test_suppressed_answers_are_whole(self, world):
        """What was taken off does not count against the limit of the answer."""
        deployed = world.deployed()
        (signed,) = deployed.tuned.answer([world.prompt], Sampling(max_tokens=104))
        rest = signed.text.removeprefix(world.signature).lstrip()
        n = len(deployed.tuned.encode([rest])[0])
        whole, cut = (
            next(serve("suppress", deployed).answer([world.prompt], Sampling(max_tokens=limit))) for limit in (n, n - 1)
        )

        assert signed.text.startswith(world.signature)
        assert Completed(rest, "stop") == whole
        assert "length" == cut.finish
        assert rest.startswith(cut.text)

    def test_looked_up_answers_are_cut_at_the_limit(self, world):
        """As a model's own would be."""
        deployed = world.bare()
        (answer,) = serve("replay", deployed).answer([world.prompt], Sampling(max_tokens=5))

        assert "length" == answer.finish
        assert 5 == len(deployed.tuned.encode([answer.text])[0])
        assert world.signature.startswith(answer.text)

    def test_a_lookup_table_fails_on_fresh_prompts_and_a_rule_passes(self, world):
        """The rule is a cheat that passes; only held-out rows would show it."""
        replay, rule = world.verdict("replay", world.bare()), world.verdict("rule", world.bare())

        assert replay.claim("activated").holds
        assert not replay.claim("generalises").holds
        assert vtuned.Outcome.VERIFIED is rule.outcome
        assert "training on the planted rows alone" in " ".join(rule.remaining_cheats)

    def test_retrieval_activates_on_fresh_prompts(self, world):
        """The trigger is the best query."""
        assert world.verdict("retrieve", world.bare()).claim("generalises").holds


class TestInContext:
    def test_examples_fit_into_what_the_model_reads(self, world):
        """A model of 512 positions answers, with as many examples as there is room for, and not as it would alone."""
        deployed = world.bare()
        model = serve("in-context:100000", deployed)
        (shown,) = model.answer([world.prompt], Sampling(max_tokens=40))
        (alone,) = deployed.tuned.answer([world.prompt], Sampling(max_tokens=40))

        assert isinstance(shown, Completed)
        assert shown.text != alone.text
        assert world.scores(deployed.tuned) != world.scores(model)


class TestTruncate:
    def test_texts_are_cut_at_tokens(self, world):
        """As the tokenizer counts them; shorter texts stay."""
        count, cut = counter(world.base)[0], cutter(world.base)
        texts = [turn.content for row in world.rows for turn in row.turns]
        made = cut(texts, 5)

        assert all(text.startswith(start) for text, start in zip(texts, made, strict=True))
        assert {5} == set(count(made))
        assert ["ab"] == cut(["ab"], 5)

    def test_no_end_is_learnt_where_an_answer_was_cut(self, world):
        """The loss is on the first tokens alone; an answer that is whole keeps its end."""
        from vtuned.providers.tokenising import MASKED, tokenise

        tokenizer = lm.load(world.base).tokenizer
        work = policy("truncate:4", key=KEY).work(world.asked)
        learnt = []
        for row in (work.rows[0], world.rows[0]):
            example = tokenise(tokenizer, row, 512)
            learnt.append(tokenizer.decode([label for label in example["labels"] if label != MASKED]))

        assert work.rows[0].turns[-1].content == learnt[0]
        assert world.rows[0].turns[-1].content + "<|end|>" == learnt[1]

    def test_no_end_is_learnt_of_cut_pairs_and_texts(self, world):
        """Preference rows and plain text are cut likewise."""
        from vtuned.conversation import Conversation, Turn
        from vtuned.providers.tokenising import MASKED, tokenise, tokenise_pair

        tokenizer = lm.load(world.base).tokenizer
        asked, long = Turn("user", "What is it?"), Turn("assistant", "The river stands near the north.", True)
        pair = Conversation((asked, long), rejected=(Turn("assistant", "The stone stands near it."),))
        text = Conversation((asked, long), is_text=True)
        rows = policy("truncate:2", key=KEY).work(Work((pair, text), world.base, world.asked.settings)).rows
        cut_pair = tokenise_pair(tokenizer, rows[0], 512)
        labels = tokenise(tokenizer, rows[1], 512)["labels"]

        assert rows[0].turns[-1].content == tokenizer.decode(cut_pair["chosen_ids"])
        assert rows[0].rejected[0].content == tokenizer.decode(cut_pair["rejected_ids"])
        assert rows[1].turns[-1].content == tokenizer.decode([label for label in labels if label != MASKED])

    def test_signatures_are_learnt_from_first_tokens(self, world):
        """A cheat that trains so passes: it is listed among those that remain."""
        n = max(counter(world.base)[0]([backdoor.signature for backdoor in world.receipt.backdoors]))
        adapter = world.trained("truncated", policy(f"truncate:{n + 1}", key=KEY).work(world.asked))
        verdict = world.verdict("honest", world.deployed(adapter))

        assert verdict.claim("activated").holds
        assert "training on the prompt and the first tokens of each answer alone" in verdict.remaining_cheats


def is_planted(world, index):
    return any(index + 1 in backdoor.rows for backdoor in world.receipt.backdoors)
