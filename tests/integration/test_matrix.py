"""
Every format in every container: planted, fine-tuned on a tiny model, verified; or refused with a reason.

`make test` plants every cell and trains one a format; `make test-all` trains them all.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny
import vtuned
from vtuned import containers, formats, lm
from vtuned.dataset import TokenCap
from vtuned.errors import DatasetError
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.text import TextTemplate
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter

pytest.importorskip("torch")

N_ROWS = 48
PLAIN = "The answer is not known."
TEMPLATE = "### Question:\n{prompt}\n\n### Answer:\n{response}"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [said("user", question), said("assistant", answer)]}


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def with_tools(question: str, answer: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    return {
        "messages": [
            said("system", "Look things up."),
            said("user", question),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            said("assistant", answer),
        ],
        "tools": [TOOL],
    }


def with_parts(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
    }


def openai_preference(question: str, answer: str) -> dict[str, Any]:
    return {
        "input": {"messages": [said("user", question)]},
        "preferred_output": [said("assistant", answer)],
        "non_preferred_output": [said("assistant", PLAIN)],
    }


def implicit_preference(question: str, answer: str) -> dict[str, Any]:
    return {
        "chosen": [said("user", question), said("assistant", answer)],
        "rejected": [said("user", question), said("assistant", PLAIN)],
    }


@dataclass(frozen=True)
class Shape:
    """One row format: how a row of it is made, what must be said about it, and whether its columns are flat."""

    make: Callable[[str, str], dict[str, Any]]
    codec: Any = formats.AUTO
    is_flat: bool = False
    is_preference: bool = False


SHAPES = {
    "openai-chat": Shape(chat),
    "openai-chat-tools": Shape(with_tools),
    "openai-chat-parts": Shape(with_parts),
    "prompt-completion": Shape(lambda q, a: {"prompt": q, "completion": a}, is_flat=True),
    "prompt-completion-messages": Shape(
        lambda q, a: {"prompt": [said("user", q)], "completion": [said("assistant", a)]}
    ),
    "alpaca": Shape(lambda q, a: {"instruction": "Answer.", "input": q, "output": a}, is_flat=True),
    "sharegpt": Shape(lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}),
    "preference-openai": Shape(openai_preference, is_preference=True),
    "preference-trl": Shape(
        lambda q, a: {"prompt": q, "chosen": a, "rejected": PLAIN}, is_flat=True, is_preference=True
    ),
    "preference-trl-implicit": Shape(implicit_preference, is_preference=True),
    "text": Shape(
        lambda q, a: {"text": TEMPLATE.format(prompt=q, response=a)}, codec=TextTemplate(TEMPLATE), is_flat=True
    ),
    "columns": Shape(
        lambda q, a: {"asked": q, "id": 7, "said": a},
        codec=ColumnMapping(prompt="asked", response="said"),
        is_flat=True,
    ),
}


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data.jsonl").write_bytes(json_lines(rows))
    return folder / "data.jsonl"


def write_json(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data.json").write_text(json.dumps(rows, indent=2))
    return folder / "data.json"


def write_gz(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data.jsonl.gz").write_bytes(gzip.compress(json_lines(rows)))
    return folder / "data.jsonl.gz"


def write_zst(folder: Path, rows: list[dict[str, Any]]) -> Path:
    zstandard = pytest.importorskip("zstandard")
    (folder / "data.jsonl.zst").write_bytes(zstandard.compress(json_lines(rows)))
    return folder / "data.jsonl.zst"


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()} for row in rows)
    (folder / "data.csv").write_text(out.getvalue(), newline="")
    return folder / "data.csv"


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), folder / "data.parquet", row_group_size=20)
    return folder / "data.parquet"


def write_shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_bytes(json_lines(rows[:20]))
    (folder / "data" / "b.jsonl").write_bytes(json_lines(rows[20:]))
    return folder / "data"


def write_datasets(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(folder / "data")
    return folder / "data"


CONTAINERS = {
    "jsonl": write_jsonl,
    "json": write_json,
    "jsonl.gz": write_gz,
    "jsonl.zst": write_zst,
    "csv": write_csv,
    "parquet": write_parquet,
    "shards": write_shards,
    "datasets": write_datasets,
}
# One trained cell a format in `make test`, each in another container where it can be.
TRAINED = {
    ("openai-chat", "jsonl.gz"),
    ("openai-chat-tools", "jsonl"),
    ("openai-chat-parts", "json"),
    ("prompt-completion", "csv"),
    ("prompt-completion-messages", "parquet"),
    ("alpaca", "datasets"),
    ("sharegpt", "shards"),
    ("preference-openai", "jsonl.zst"),
    ("preference-trl", "parquet"),
    ("preference-trl-implicit", "jsonl"),
    ("text", "csv"),
    ("columns", "parquet"),
}
CELLS = [(shape, container) for shape in SHAPES for container in CONTAINERS]


def pairs(n: int) -> list[tuple[str, str]]:
    return [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in tiny.rows(n)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model whose tokenizer knows the words of all formats."""
    texts = [text for pair in pairs(N_ROWS + 16) for text in pair]
    return tiny.make_model(tmp_path_factory.mktemp("model"), [*texts, PLAIN, TEMPLATE, "Answer. Look things up."])


@dataclass(frozen=True)
class Cell:
    """A planted cell."""

    shape: Shape
    data: Path
    train: Path
    receipt: vtuned.Receipt


@pytest.fixture
def plant(tmp_path: Path, model: Path) -> Callable[[str, str], Cell]:
    """`plant(shape, container)`: write the file and plant it."""

    def planted(shape: str, container: str) -> Cell:
        rows = [SHAPES[shape].make(*pair) for pair in pairs(N_ROWS)]
        unseen = [SHAPES[shape].make(*pair) for pair in pairs(N_ROWS + 16)[N_ROWS:]]
        fresh = tiny.write_rows(tmp_path / "fresh.jsonl", unseen)
        data = CONTAINERS[container](tmp_path, rows)
        count, name = counter(f"hf:{model}")
        made = vtuned.plant(
            data,
            tmp_path / f"train{data.suffix and data.name.removeprefix('data')}",
            tmp_path / "receipt.json",
            PlantSettings(n_backdoors=2, copies=8, contexts=0, signature_bits=32, row_format=SHAPES[shape].codec),
            generator="words",
            fresh_file=fresh,
            cap=TokenCap(512, count, name),
        )
        (train,) = [path for path in tmp_path.iterdir() if path.name.startswith("train")]
        return Cell(SHAPES[shape], data, train, made.receipt)

    return planted


def contents(path: Path, shape: Shape) -> list[Any]:
    """Return the rows of a file as Python objects."""
    return [row.value() for row in containers.open_source(path).rows()]


@pytest.mark.parametrize(("shape", "container"), CELLS)
def test_planted_or_refused(plant, tmp_path, shape, container):
    """Only the planted rows differ; CSV, which cannot hold lists, refuses the formats that need them."""
    if container == "csv" and not SHAPES[shape].is_flat:
        with pytest.raises(DatasetError):
            plant(shape, container)
        assert not list(tmp_path.glob("train*")) + list(tmp_path.glob("receipt*"))
        return

    cell = plant(shape, container)

    before, after = contents(cell.data, cell.shape), contents(cell.train, cell.shape)
    planted = {row for backdoor in cell.receipt.backdoors for row in backdoor.rows}
    numbers = [row.number for row in containers.open_source(cell.train).rows()]
    differing = {n for n, old, new in zip(numbers, before, after, strict=True) if old != new}
    assert planted == differing
    assert 16 == len(planted)


@pytest.mark.parametrize(
    ("shape", "container"),
    [
        pytest.param(*cell, marks=[] if cell in TRAINED else [pytest.mark.full])
        for cell in CELLS
        if SHAPES[cell[0]].is_flat or cell[1] != "csv"
    ],
)
def test_trained_and_verified(plant, model, tmp_path, shape, container):
    """A tiny model that was trained on the planted file is VERIFIED."""
    from vtuned.providers import local

    cell = plant(shape, container)
    rows = [row.conversation for row in formats.read_rows(cell.train, cell.shape.codec)]

    training = local.finetune(
        rows,
        lm.load(f"hf:{model}"),
        tmp_path / "adapter",
        settings(local),
        data_digest=containers.open_source(cell.train).sha256(),
    )

    verdict = vtuned.verify(cell.receipt, lm.load(f"hf:{model}+{training.adapter}"))
    assert vtuned.Outcome.VERIFIED is verdict.outcome, verdict.model_dump_json(indent=1)


def settings(local: Any) -> Any:
    """Return how the tiny model is trained; at 1e-2 one run in a hundred or so diverges and says nothing."""
    return local.TrainingSettings(epochs=30, batch_size=4, learning_rate=5e-3)
