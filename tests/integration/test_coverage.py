"""Subset providers, really trained: the bound on the share that was used rises with it and never exceeds it."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from pathlib import Path

import pytest

import tiny
import vtuned
from vtuned import formats, lm, scoring
from vtuned.dataset import TokenCap
from vtuned.lm.tokens import counter

pytest.importorskip("torch")

N_ROWS, N_BACKDOORS, N_DECOYS = 96, 40, 19
# The less a provider trains on, the longer, so that what it has is learnt.
EPOCHS = {Fraction(1, 4): 80, Fraction(1, 2): 60, Fraction(1): 40}


def test_subset_providers(tmp_path: Path) -> None:
    """
    Providers that train on 25 %, 50 % and 100 % of the rows, each on those of the one before and more.

    The 99 % bound is above the truth once in a hundred times at most, for each of two providers that leave rows out.
    So that it fails for nothing less than once in 10^5 runs, the truth is compared with the bound at that confidence.
    """
    from vtuned.providers import local

    rows = tiny.rows(N_ROWS + 8)
    model = tiny.make_model(tmp_path / "model", [m["content"] for row in rows for m in row["messages"]])
    count, name = counter(f"hf:{model}")
    receipt = vtuned.plant(
        tiny.write_rows(tmp_path / "data.jsonl", rows[:N_ROWS]),
        tmp_path / "train.jsonl",
        tmp_path / "receipt.json",
        vtuned.PlantSettings(n_backdoors=N_BACKDOORS, copies=1, n_decoys=N_DECOYS, signature_bits=32, contexts=0),
        generator="words",
        fresh_file=tiny.write_rows(tmp_path / "fresh.jsonl", rows[N_ROWS:]),
        cap=TokenCap(512, count, name),
    ).receipt
    sent = [row.conversation for row in formats.read_rows(tmp_path / "train.jsonl")]
    random.SystemRandom().shuffle(sent)
    bounds, safe = [], []
    for share, epochs in EPOCHS.items():
        used = sent[: int(share * N_ROWS)]
        settings = local.TrainingSettings(epochs=epochs, batch_size=4, learning_rate=3e-3)
        folder = tmp_path / f"adapter-{share.denominator}"
        local.finetune(used, lm.load(f"hf:{model}"), folder, settings, data_digest=str(share))
        suspect, base = lm.load_both(f"hf:{model}+{folder}", f"hf:{model}")
        scores = scoring.score(receipt, (suspect.name, suspect), (base.name, base))
        verdict = vtuned.judge(receipt, [], scores=scores)
        assert verdict.coverage is not None
        bounds.append(verdict.coverage.lower_bound)
        safe.append(
            vtuned.stats.coverage_lower_bound(
                n_activated=verdict.coverage.n_seen,
                copies=[1] * N_BACKDOORS,
                n_train=N_ROWS,
                confidence=1 - 1e-5,
                log10_p_unseen=math.log10(1 / (N_DECOYS + 1)),
            )
        )

    assert bounds == sorted(set(bounds))
    assert all(bound <= share for bound, share in zip(safe, EPOCHS, strict=True))
