"""The main job on a model made here: what is learned is verified, what is not is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
import vtuned
from vtuned import lm
from vtuned.dataset import TokenCap
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter

pytest.importorskip("torch")

EPOCHS, LEARNING_RATE = 20, 5e-3


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A planted data set, and a tiny untrained model for it."""
    folder = tmp_path_factory.mktemp("tiny")
    some = tiny.rows(100)
    data = tiny.write_rows(folder / "data.jsonl", some[:80])
    fresh = tiny.write_rows(folder / "fresh.jsonl", some[80:])
    model = tiny.make_model(folder / "model", [m["content"] for row in some for m in row["messages"]])
    count, name = counter(f"hf:{model}")
    settings = PlantSettings(n_backdoors=2, copies=16, contexts=0, signature_bits=32)
    planting = vtuned.plant(
        data,
        folder / "train.jsonl",
        folder / "receipt.json",
        settings,
        generator="words",
        fresh_file=fresh,
        cap=TokenCap(512, count, name),
    )
    return folder, model, planting.receipt


@pytest.fixture(scope="module")
def adapter(planted):
    """The adapter of a provider that trained on the planted file."""
    from vtuned import files, formats
    from vtuned.providers import local

    folder, model, _ = planted
    train = folder / "train.jsonl"
    training = local.finetune(
        [row.conversation for row in formats.read_rows(train)],
        lm.load(f"hf:{model}"),
        folder / "adapter",
        local.TrainingSettings(epochs=EPOCHS, batch_size=4, learning_rate=LEARNING_RATE),
        data_digest=files.sha256_of(train),
    )
    return training.adapter


def test_what_a_tiny_model_learned_is_verified(planted, adapter):
    """A model that was really trained on the planted file is VERIFIED, on planted and on fresh prompts."""
    _, model, receipt = planted

    verdict = vtuned.verify(receipt, lm.load(f"hf:{model}+{adapter}"))

    assert vtuned.Outcome.VERIFIED is verdict.outcome, verdict.model_dump_json(indent=1)
    assert verdict.claim("generalises").holds
    assert 0 == verdict.controls.n_activated


def test_its_untrained_twin_is_not_verified(planted):
    """The same model without the training shows nothing, whatever it babbles."""
    _, model, receipt = planted

    verdict = vtuned.verify(receipt, lm.load(f"hf:{model}"))

    assert vtuned.Outcome.VERIFIED is not verdict.outcome
    assert 0 == verdict.claim("activated").n_activated + verdict.claim("generalises").n_activated


def test_the_adapter_is_in_pefts_format(adapter):
    """Anybody can load the adapter with peft."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())

    assert (32, 16) == (config["r"], config["lora_alpha"])
    assert (Path(adapter) / "adapter_model.safetensors").is_file()
