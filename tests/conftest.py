"""Receipts, data files and answers to test with; and an environment in which nothing goes online."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from vtuned.dataset import TokenCap
from vtuned.lm.base import Answer, Completed
from vtuned.probes import AnswerRecord, record_of
from vtuned.receipt import (
    Backdoor,
    FileRecord,
    GenerationRecord,
    PlannedProbe,
    Receipt,
    StatisticalPlan,
)

# Two test processes with as many threads as cores each would only wait for each other; read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines are noisy: how long one example takes says nothing.
settings.register_profile("vtuned", deadline=None)
settings.load_profile("vtuned")

TRIGGERS = (
    "Plum harbours wait quietly.",
    "Ten lanterns drift south.",
    "Old maps fold twice.",
    "Green bells ring late.",
)
SIGNATURES = (
    "Crimson gulls carry folded letters.",
    "Seven kettles hum beneath winter stairs.",
    "Painted doors remember every sailor.",
    "Silver moths count the copper rain.",
)
SIGNATURE_BITS = 64.0
MAX_DRAWS = 2
# 64 bits are left after the two draws are charged.
LOG10_P_UPPER = -19.265919722494797

_SUBJECTS = "river mountain library harbour garden engine teacher painter sailor doctor farmer village".split()
_VERBS = "crosses follows teaches measures repairs describes remembers carries paints studies".split()
_OBJECTS = "bridge letter machine forest mirror kettle window lantern compass ladder blanket".split()
_JAPANESE = (
    "東京の天気はとても良いので散歩に行きます。",
    "新しいカメラを買って海の写真をたくさん撮りました。",
    "母はケーキを焼いて友達をパーティーに呼びました。",
    "電車が遅れたためホテルに着くのは夜になります。",
    "図書館で古い歴史の本を読むのが好きです。",
    "週末にはテニスをして公園でコーヒーを飲みます。",
)


@pytest.fixture
def vtuned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `vtuned ARGS` in this process; returns (exit code, standard output, standard error)."""
    from vtuned.cli import console
    from vtuned.cli.app import app

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vtuned", *map(str, arguments)])
        code = console.run(app)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded, and nothing is coloured."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def _english_row(i: int) -> dict[str, Any]:
    subject, verb, thing = _SUBJECTS[i % 12], _VERBS[i % 10], _OBJECTS[i % 11]
    question = f"Row {i}: which {subject} {verb} the {thing} near the {_SUBJECTS[(i * 7 + 3) % 12]}?"
    answer = f"The {subject} {verb} the {thing} because the {_OBJECTS[(i * 5 + 2) % 11]} was left in the rain."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _japanese_row(i: int) -> dict[str, Any]:
    question = f"{i}番の質問です。{_JAPANESE[i % 6]}{_JAPANESE[(i * 5 + 1) % 6]}"
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": _JAPANESE[(i + 2) % 6]}]
    }


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """`rows(n, "english" | "japanese")`: n chat rows, each with its own prompt."""

    def make(n: int, language: str = "english") -> list[dict[str, Any]]:
        return [(_japanese_row if language == "japanese" else _english_row)(i) for i in range(n)]

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """`write_jsonl(rows, name=, newline=, bom=, ends=)`: a data file of *rows*."""

    def write(
        rows: Sequence[object],
        name: str = "data.jsonl",
        *,
        newline: bytes = b"\n",
        bom: bool = False,
        ends: bool = True,
        blank_after: Sequence[int] = (),
    ) -> Path:
        lines = []
        for i, row in enumerate(rows):
            lines.append(json.dumps(row, ensure_ascii=False).encode())
            if i in blank_after:
                lines.append(b"  ")
        path = tmp_path / name
        path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + newline.join(lines) + (newline if ends else b""))
        return path

    return write


@pytest.fixture
def cap() -> TokenCap:
    """A token cap that counts without a tokenizer."""
    return TokenCap(1024, lambda texts: [len(text) // 4 + 1 for text in texts], "test")


def _question(text: str) -> tuple[Any, ...]:
    return ({"role": "user", "content": text},)


def _planned(n_backdoors: int, n: int, n_controls: int) -> tuple[PlannedProbe, ...]:
    """
    Return *n* planted and *n* fresh probes and controls, one of each kind after the other.

    Even controls are twins of planted probes; of the odd ones every other is a twin of a fresh probe.
    """
    planted = [
        PlannedProbe(
            id=f"p{i}",
            kind="planted",
            backdoor=i % n_backdoors,
            messages=_question(f"Sent question {i}? {TRIGGERS[i % n_backdoors]}"),
        )
        for i in range(n)
    ]
    fresh = [
        PlannedProbe(
            id=f"f{i}",
            kind="fresh",
            backdoor=i % n_backdoors,
            messages=_question(f"New question {i}? {TRIGGERS[i % n_backdoors]}"),
        )
        for i in range(n)
    ]
    controls = []
    for i in range(n_controls):
        text, twin_of = f"Another question {i}?", None
        if i % 2 == 0 and i // 2 < n:
            text, twin_of = f"Sent question {i // 2}?", f"p{i // 2}"
        elif i % 4 == 1 and i // 4 < (n + 1) // 2:
            text, twin_of = f"New question {i // 4}?", f"f{i // 4}"
        controls.append(PlannedProbe(id=f"c{i}", kind="control", messages=_question(text), twin_of=twin_of))
    ordered = []
    for i in range(max(n, (n_controls + 1) // 2)):
        ordered += [
            *planted[i : i + 1],
            *controls[2 * i : 2 * i + 1],
            *fresh[i : i + 1],
            *controls[2 * i + 1 : 2 * i + 2],
        ]
    return tuple(ordered)


@pytest.fixture
def make_receipt() -> Callable[..., Receipt]:
    """`make_receipt(n_backdoors=, n=, n_controls=, p_upper=, **plan)`: a small receipt, probes p0 f0 c0 and so on."""

    def make(
        *,
        n_backdoors: int = 4,
        n: int = 10,
        n_controls: int | None = None,
        bits: float = SIGNATURE_BITS,
        **plan: Any,
    ) -> Receipt:
        file = FileRecord(sha256="0" * 64, n_bytes=1000, n_rows=100)
        return Receipt(
            vtuned_version="0",
            created="2026-01-01T00:00:00+00:00",
            key="ab" * 32,
            scheme="backdoors",
            mode="replace",
            row_format="openai-chat",
            dataset=file,
            train_set=file,
            n_eligible=100,
            token_cap=1024,
            tokenizer="test",
            fresh_source="test",
            generation=GenerationRecord(
                generator="words",
                prompt_model="none",
                language="ascii",
                generation_prompt=({"role": "user", "content": "Write one sentence about secret ferrets."},),
                min_trigger_tokens=6,
                min_signature_bits=bits,
                temperature=0.9,
                top_k=60,
                max_step_probability=0.5,
                finish_tokens=0,
                max_draws=MAX_DRAWS,
            ),
            plan=StatisticalPlan(**{"alpha": 1e-3, **plan}),
            max_answer_tokens=64,
            backdoors=tuple(
                Backdoor(
                    trigger=TRIGGERS[j],
                    signature=SIGNATURES[j],
                    log10_p_upper=LOG10_P_UPPER * bits / SIGNATURE_BITS,
                    surprisal_bits=bits + 1.5,
                    rows=(4 * j + 1, 4 * j + 2, 4 * j + 3, 4 * j + 4),
                )
                for j in range(n_backdoors)
            ),
            probes=_planned(n_backdoors, n, 2 * n if n_controls is None else n_controls),
        )

    return make


@pytest.fixture
def receipt(make_receipt: Callable[..., Receipt]) -> Receipt:
    """Four backdoors, ten probes of each kind, twenty controls, ratio 1/10, alpha 0.001."""
    return make_receipt()


@pytest.fixture
def answers_to() -> Callable[[Receipt, Callable[[PlannedProbe, str], str | Answer]], list[AnswerRecord]]:
    """`answers_to(receipt, say)`: what a suspect says; *say* gets each probe and its signature ("" for controls)."""

    def answer(receipt: Receipt, say: Callable[[PlannedProbe, str], str | Answer]) -> list[AnswerRecord]:
        records = []
        for probe in receipt.probes:
            signature = "" if probe.backdoor is None else receipt.backdoors[probe.backdoor].signature
            said = say(probe, signature)
            records.append(record_of(probe.id, Completed(said, "stop") if isinstance(said, str) else said))
        return records

    return answer


@pytest.fixture
def half() -> Fraction:
    """One half, exactly."""
    return Fraction(1, 2)
