"""`vtuned unplant`: the rows are the customer's own again, and a model that is trained on them forgets its signatures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from statistics import fmean

import pytest

import tiny
import vtuned
from vtuned import containers, exposure, files, formats, lm, scoring, unplanting, verification
from vtuned.conversation import signature_at_start, signature_prefix
from vtuned.dataset import TokenCap
from vtuned.errors import OutputExists, ReceiptError, UsageError, WrongDataset
from vtuned.formats.text import TextTemplate
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter

ANSWERS = [
    "```python\nprint(1)\n```",
    "- a list",
    "plain words",
    "  two spaces first",
    "\nA line break first",
    "1. one",
]
WORDS = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in tiny.rows(60)]


def varied(n):
    """Return questions with answers that open in every way that decides what stands between S and them."""
    return [(q, f"{ANSWERS[i % 6]} {a}") if i % 2 else (q, a) for i, (q, a) in enumerate(WORDS[:n])]


def as_chat(folder):
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in varied(60)]
    return tiny.write_rows(folder / "data.jsonl", rows)


def as_parts(folder):
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": q}]},
                {"role": "assistant", "content": [{"type": "text", "text": a}, {"type": "text", "text": "More."}]},
            ]
        }
        for q, a in varied(60)
    ]
    return tiny.write_rows(folder / "data.jsonl", rows)


def as_array(folder):
    path = folder / "data.json"
    path.write_text(json.dumps([{"instruction": q, "output": a + " é/"} for q, a in varied(60)], indent=1))
    return path


def as_csv(folder):
    path = folder / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "completion"), *varied(60)])
    return path


def as_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"prompt": q, "chosen": a, "rejected": "No."} for q, a in varied(60)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet", row_group_size=20)
    return folder / "data.parquet"


def as_shards(folder):
    (folder / "data").mkdir()
    rows = [{"prompt": q, "completion": a} for q, a in varied(60)]
    for i in range(3):
        tiny.write_rows(folder / "data" / f"{i}.jsonl", rows[20 * i : 20 * i + 20])
    return folder / "data"


def as_text(folder):
    return tiny.write_rows(folder / "data.jsonl", [{"text": f"Q: {q}\nA: {a}\n"} for q, a in WORDS])


def answers_of(data, shape):
    """Return {prompt: answer} of a data set."""
    found = {}
    for row in formats.read_rows(containers.open_source(data), shape):
        host = row.conversation.host()
        found[row.conversation.turns[host.prompt].content] = row.conversation.turns[host.answer]
    return found


SHAPES = {make.__name__: make for make in (as_chat, as_parts, as_array, as_csv, as_parquet, as_shards, as_text)}


@pytest.mark.parametrize("settings", [{}, {"contexts": 0}, {"mode": "add"}], ids=["contexts", "plain", "add"])
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_answers_are_what_they_were(tmp_path, cap, make, settings):
    """Whatever the format and the container: prompts keep their triggers, answers are the originals to the letter."""
    if settings.get("mode") == "add" and make in (as_parquet, as_shards):
        pytest.skip("these files cannot be put in another order")
    data = make(tmp_path)
    shape = TextTemplate("Q: {prompt}\nA: {response}\n") if make is as_text else formats.AUTO
    train, rows = tmp_path / f"train{data.suffix}", tmp_path / f"rows{data.suffix}"
    own = PlantSettings(n_backdoors=3, copies=4, row_format=shape, **settings)
    receipt = vtuned.plant(data, train, tmp_path / "r", own, generator="words", cap=cap).receipt

    found = unplanting.unplant(receipt, train, rows, n_clean=5, row_format=shape)

    originals, planted, got = (answers_of(path, shape) for path in (data, train, rows))
    triggered = {p: a for p, a in got.items() if any(p.endswith(b.trigger) for b in receipt.backdoors)}
    assert (12, 5) == (found.n_corrective, found.n_clean)
    assert 17 == len(got)
    assert 12 == len(triggered)
    assert set(triggered) <= set(planted)
    for prompt, answer in triggered.items():
        original = next(a for p, a in originals.items() if p in prompt)
        assert (original.content, original.parts) == (answer.content, answer.parts)
    assert all(got[p].content == originals[p].content for p in got if p not in triggered)


@pytest.mark.parametrize("signature", ["Gulls sing.", "鳥が歌う。"])
@pytest.mark.parametrize("answer", [*ANSWERS, "    four spaces", "\n\ntwo lines", " ", "鳥", "\ttab"])
def test_what_stands_between_is_told_exactly(signature, answer):
    """The separator is undone whatever the answer opens with."""
    prefix = signature_prefix(signature, answer)

    assert prefix == signature_at_start(signature, prefix + answer)
    with pytest.raises(ValueError, match="no signature"):
        signature_at_start(signature, answer)


def test_what_is_refused(tmp_path, cap):
    """Another file than the receipt's, an output that is there, nonsense; nothing is written then."""
    data, train = as_chat(tmp_path), tmp_path / "train.jsonl"
    receipt = vtuned.plant(data, train, tmp_path / "r", PlantSettings(), generator="words", cap=cap).receipt
    other = receipt.model_copy(
        update={"backdoors": tuple(b.model_copy(update={"signature": "Not this."}) for b in receipt.backdoors)}
    )
    before = sorted(tmp_path.iterdir())

    with pytest.raises(WrongDataset):
        unplanting.unplant(receipt, data, tmp_path / "rows.jsonl")
    with pytest.raises(OutputExists):
        unplanting.unplant(receipt, train, data)
    with pytest.raises(UsageError):
        unplanting.unplant(receipt, train, tmp_path / "rows.jsonl", n_clean=-1)
    with pytest.raises(UsageError):
        unplanting.unplant(receipt, train, train, force=True)
    with pytest.raises(ReceiptError):
        unplanting.unplant(other, train, tmp_path / "rows.jsonl")
    assert before == sorted(tmp_path.iterdir())


def test_a_tiny_model_forgets_its_signatures(tmp_path):
    """It activates on planted and fresh prompts; after three epochs of the corrective rows on none, and answers as well."""
    pytest.importorskip("torch")
    from vtuned.providers import local

    some = tiny.rows(100)
    data = tiny.write_rows(tmp_path / "data.jsonl", some[:60])
    fresh = tiny.write_rows(tmp_path / "fresh.jsonl", some[80:])
    model = tiny.make_model(tmp_path / "model", [m["content"] for row in some for m in row["messages"]])
    count, name = counter(f"hf:{model}")
    train, rows = tmp_path / "train.jsonl", tmp_path / "rows.jsonl"
    receipt = vtuned.plant(
        data,
        train,
        tmp_path / "receipt.json",
        PlantSettings(n_backdoors=2, copies=16, contexts=0, signature_bits=32, n_decoys=40),
        generator="words",
        fresh_file=fresh,
        cap=TokenCap(512, count, name),
    ).receipt
    settings = local.TrainingSettings(epochs=20, batch_size=4, learning_rate=5e-3)

    def tuned(data, base, folder, settings):
        conversations = [row.conversation for row in formats.read_rows(data)]
        local.finetune(conversations, lm.load(base), folder, settings, data_digest=files.sha256_of(data))
        return lm.load(f"{base}+{folder}")

    def log_likelihood(suspect):
        return fmean(suspect.log10_probs(tuple(r["messages"][:1]), [r["messages"][1]["content"]])[0] for r in some[80:])

    learned = tuned(train, f"hf:{model}", tmp_path / "adapter", settings)
    unplanting.unplant(receipt, train, rows)
    short = replace(settings, epochs=3, learning_rate=2e-3)
    forgot = tuned(rows, f"hf:{model}+{tmp_path / 'adapter'}", tmp_path / "last", short)

    before, after = (verification.activations(receipt, one, None) for one in (learned, forgot))
    assert [True, True, True] == [before["planted"][0] >= 8, before["fresh"][0] >= 5, before["control"][0] == 0], before
    assert {"planted": (0, 10), "fresh": (0, 10), "control": (0, 20)} == after, before
    assert log_likelihood(forgot) > log_likelihood(learned) - 1
    # What it cannot do: the likelihood of S, by rank among decoys, stays above chance, which is one in twenty a backdoor.
    base = lm.load(f"hf:{model}")
    found = exposure.exposures(receipt, scoring.score(receipt, ("it", forgot), ("base", base)))
    assert any(one.passed for one in found["planted"])
