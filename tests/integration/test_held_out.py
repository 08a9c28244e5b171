"""Held-out gain on a model made here: the planted rows alone, their first tokens alone, and the whole file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
import vtuned
from vtuned import files, formats, heldout, lm, measuring
from vtuned.conversation import Conversation
from vtuned.dataset import TokenCap
from vtuned.heldout import HeldOut
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter

pytest.importorskip("torch")

N_TRAIN, N_FRESH, N_HELD_OUT = 200, 20, 40
EPOCHS, BATCH_SIZE, LEARNING_RATE = 16, 4, 4e-3
N_WORDS_KEPT = 3


class World:
    """A planted file, its base model, and rows that were never sent: some for the margin, others for the test."""

    def __init__(self, folder: Path, answer: str = tiny.SAID_LAST) -> None:
        some = tiny.task_rows(answer)
        ends = list(itertools.accumulate((0, N_TRAIN, N_FRESH, N_HELD_OUT, N_HELD_OUT)))
        names = ("data", "fresh", "for_margin", "holdout")
        paths = {
            name: tiny.write_rows(folder / f"{name}.jsonl", some[start:end])
            for name, (start, end) in zip(names, itertools.pairwise(ends), strict=True)
        }
        self.folder, self.paths = folder, paths
        self.base = tiny.make_model(folder / "model", [m["content"] for row in some for m in row["messages"]])
        count, name = counter(f"hf:{self.base}")
        self.train = folder / "train.jsonl"
        self.receipt = vtuned.plant(
            paths["data"],
            self.train,
            folder / "receipt.json",
            PlantSettings(n_backdoors=2, copies=16, contexts=0, signature_bits=32),
            generator="words",
            fresh_file=paths["fresh"],
            cap=TokenCap(512, count, name),
        ).receipt
        self.base_losses = {which: self.losses("", which) for which in ("for_margin", "holdout")}

    def trained(self, name: str, rows: Sequence[Conversation], **settings: object) -> str:
        """Train the base on *rows*; return the adapter's folder."""
        from vtuned.providers import local

        chosen = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE, **settings}
        training = local.finetune(
            rows,
            lm.load(f"hf:{self.base}"),
            self.folder / name,
            local.TrainingSettings(**chosen),
            data_digest=files.sha256_of(self.train),
        )
        return str(training.adapter)

    def losses(self, adapter: str, which: str) -> list[measuring.Measured]:
        """Return the losses of the base with *adapter* on the rows *which*."""
        rows, _ = measuring.held_out_rows(row.conversation for row in formats.read_rows(self.paths[which]))
        return measuring.losses(lm.load(f"hf:{self.base}+{adapter}" if adapter else f"hf:{self.base}"), rows)

    def gains(self, adapter: str, which: str) -> list[float]:
        return measuring.gains("loss", self.losses(adapter, which), self.base_losses[which])

    def held_out(self, adapter: str, margin: float) -> HeldOut:
        return heldout.held_out(self.gains(adapter, "holdout"), measure="loss", margin=margin)

    def verdict(self, adapter: str, found: HeldOut) -> vtuned.Verdict:
        suspect = lm.load(f"hf:{self.base}+{adapter}")
        return vtuned.judge(self.receipt, vtuned.ask(suspect, vtuned.challenges(self.receipt)), held_out=found)

    def rows(self, numbers: set[int] | None = None) -> list[Conversation]:
        """Return the training file's rows, or those of *numbers*."""
        return [row.conversation for row in formats.read_rows(self.train, numbers=numbers)]

    @property
    def planted(self) -> dict[int, str]:
        """The signature in each planted row."""
        return {row: backdoor.signature for backdoor in self.receipt.backdoors for row in backdoor.rows}


def truncated(world: World) -> list[Conversation]:
    """Return the training rows, each answer cut after its first words, or after a signature and as many."""
    cut = []
    for number, row in enumerate(world.rows(), start=1):
        n_words = len(world.planted.get(number, "").split()) + N_WORDS_KEPT
        answer = row.turns[-1]
        cut.append(
            replace(row, turns=(*row.turns[:-1], replace(answer, content=" ".join(answer.content.split()[:n_words]))))
        )
    return cut


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("held-out"))


@pytest.fixture(scope="module")
def planted_only(world):
    """The adapter of a provider that found the planted rows and trained on nothing else."""
    return world.trained("planted-only", world.rows(set(world.planted)))


@pytest.fixture(scope="module")
def margin(world, planted_only):
    """G, from other held-out rows than those that are tested."""
    return measuring.margin_of(world.gains(planted_only, "for_margin"))


def test_the_planted_rows_alone_change_a_model_and_teach_no_task(world, planted_only, margin):
    """They gain on every held-out row, but no more than the margin: the cheat is VERIFIED, and told from an honest run."""
    found = world.held_out(planted_only, margin)
    verdict = world.verdict(planted_only, found)

    assert margin > 0
    assert verdict.claim("changed").holds
    assert not verdict.claim("learned the task").holds


def test_the_whole_file_teaches_the_task(world, margin):
    """An honest run gains more than the planted rows alone give, by far; nothing of the ladder is missing."""
    adapter = world.trained("whole", world.rows())
    found = world.held_out(adapter, margin)
    verdict = world.verdict(adapter, found)

    assert vtuned.Outcome.VERIFIED is verdict.outcome
    assert found.log10_p_learned < -6
    assert verdict.claim("learned the task").holds
    assert "training on the planted rows alone" not in " ".join(verdict.remaining_cheats)


def test_the_first_tokens_of_answers_teach_no_task(world, margin):
    """A cheat that trains on the first words of each answer says the signatures, and does not know how answers go on."""
    adapter = world.trained("openings", truncated(world))
    found = world.held_out(adapter, margin)
    verdict = world.verdict(adapter, found)

    assert found.mean_gain < margin
    assert verdict.claim("activated").holds
    assert not verdict.claim("learned the task").holds


def test_where_first_words_say_the_task_training_on_them_alone_may_pass_and_is_named(tmp_path):
    """
    Half of what each answer tells stands in its first words: who trains on these gains much of what honest runs gain.

    No margin from the planted rows alone can tell that apart, so the verdict never says that it is excluded.
    """
    world = World(tmp_path, tiny.SAID_FIRST)
    adapter = world.trained("openings", truncated(world))
    found = world.held_out(adapter, 0.0)
    verdict = world.verdict(adapter, found)

    assert vtuned.Outcome.VERIFIED is verdict.outcome
    assert verdict.claim("learned the task").holds
    assert "training on the prompt and the first tokens of each answer alone" in verdict.remaining_cheats
