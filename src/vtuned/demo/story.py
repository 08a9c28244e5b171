"""
Plan, plant, then four providers: one trains, three cheat; a verdict on each.

Every part leaves its file in the run directory, and a run that was stopped goes on from the files it left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vtuned import dataset, files, formats, lm, planning, planting, probes, verdict, verification
from vtuned import receipt as receipts
from vtuned.attacks.noise import perturb
from vtuned.attacks.replay import lookup_table
from vtuned.conversation import Conversation
from vtuned.demo import interpreter_docs
from vtuned.errors import OutputExists
from vtuned.layout import PlantSettings
from vtuned.lm.base import LanguageModel, Prompt
from vtuned.lm.huggingface import HuggingFaceLM
from vtuned.lm.scripted import ScriptedLM
from vtuned.planning import Plan
from vtuned.planting import OnProgress
from vtuned.probes import AnswerRecord
from vtuned.providers import local
from vtuned.receipt import Receipt
from vtuned.verdict import Verdict

# Sized by tokens: as many as an honest run on two cores needs to learn two backdoors, and no more.
N_ROWS = 64
N_FRESH = 10
SETTINGS = PlantSettings(n_backdoors=2, copies=8, contexts=2, ratio=Fraction(1, 10))
TRAINING = local.TrainingSettings(epochs=4, batch_size=2, learning_rate=2e-3)
NOISE = 0.05

# What tells a run directory of the demo from any other folder: nothing else is ever written into or removed.
_MARK = ".vtuned-demo"
_DATA = "data.jsonl"
_FILES = (_DATA, "fresh.jsonl", "train.jsonl", "receipt.json", "answers-*.jsonl", "verdict-*.json", "report.txt", _MARK)


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider of the story: its name, what it did, and what the user should take away from its verdict."""

    name: str
    did: str
    lesson: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Story:
    """What happened: the plan, the receipt and the four providers."""

    plan: Plan
    receipt: Receipt
    providers: tuple[Provider, ...]


def run(folder: Path, on_progress: OnProgress, on_part: Callable[[str], None] = lambda text: None) -> Story:
    """
    Run the story in *folder*, or go on with the one that was started there.

    Raises OutputExists where *folder* holds something else, MissingExtra without the `local` extra or the model.
    """
    files.check_folder(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise OutputExists(folder, hint="choose another folder: this one holds something else than a demo")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / _MARK, b"the run directory of a demo\n", force=True)
    data, held_out = _data(folder)
    on_part(f"1. Data: {N_ROWS} questions on Python and their answers, from this interpreter's documentation.")
    plan = planning.plan(dataset.survey(data, dataset.embedded_cap()).counts, SETTINGS)
    receipt = _planted(folder, data, held_out, on_progress)
    on_part(f"2. Planted {plan.n_planted_rows} rows. The provider gets {folder / 'train.jsonl'}, you keep the receipt.")
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")]
    base = _model("smollm2")
    base_answers = _asked(folder, "base", receipt, lambda: base, on_progress)
    table = _asked(folder, "lookup", receipt, lambda: lookup_table(rows, _replayed(receipt, base_answers)), on_progress)
    noise = _asked(folder, "noise", receipt, lambda: perturb(base, NOISE), on_progress)
    on_part("3. Three cheats answered. Now the honest provider trains.")
    honest = _asked(folder, "honest", receipt, lambda: _honest(folder, rows, on_progress), on_progress)
    providers = _judged(receipt, honest=honest, base=base_answers, noise=noise, lookup=table)
    for provider in providers:
        document = provider.verdict.model_dump_json(indent=1).encode() + b"\n"
        files.write_bytes(folder / f"verdict-{provider.name}.json", document, force=True)
    return Story(plan, receipt, providers)


def start_anew(folder: Path) -> None:
    """Remove what an earlier demo left in *folder*, and nothing else; do nothing where it is no demo's."""
    if (folder / _MARK).is_file():
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        for pattern in _FILES:
            for path in folder.glob(pattern):
                path.unlink()


def _data(folder: Path) -> tuple[Path, Path]:
    data, held_out = folder / _DATA, folder / "fresh.jsonl"
    rows = interpreter_docs.rows()
    for path, some in ((held_out, rows[N_ROWS : N_ROWS + N_FRESH]), (data, rows[:N_ROWS])):
        if not path.is_file():
            files.write_bytes(path, interpreter_docs.to_jsonl(some), force=False)
    return data, held_out


def _planted(folder: Path, data: Path, held_out: Path, on_progress: OnProgress) -> Receipt:
    train, receipt = folder / "train.jsonl", folder / "receipt.json"
    if receipt.is_file() and train.is_file():
        return receipts.read_receipt(receipt)
    made = planting.plant(
        data, train, receipt, SETTINGS, generator="smollm2", fresh_file=held_out, force=True, on_progress=on_progress
    )
    return made.receipt


def _asked(
    folder: Path, name: str, receipt: Receipt, model: Callable[[], LanguageModel], on_progress: OnProgress
) -> list[AnswerRecord]:
    path = folder / f"answers-{name}.jsonl"
    if path.is_file():
        return probes.read_answers(path)
    answers = verification.collect(
        model(),
        verification.challenges(receipt),
        on_progress=lambda done, total: on_progress(f"asking the {name} provider", done, total),
    )
    files.write_bytes(path, probes.to_jsonl(answers), force=False)
    return answers


def _honest(folder: Path, rows: Sequence[Conversation], on_progress: OnProgress) -> HuggingFaceLM:
    adapter = folder / "adapter"
    local.finetune(
        rows,
        _model("smollm2"),
        adapter,
        TRAINING,
        data_digest=files.sha256_of(folder / "train.jsonl"),
        watcher=local.Watcher(on_step=lambda done, total: on_progress("training the honest provider", done, total)),
    )
    return _model(f"smollm2+{adapter}")


def _model(name: str) -> HuggingFaceLM:
    model = lm.load(name)
    assert isinstance(model, HuggingFaceLM)
    return model


def _replayed(receipt: Receipt, answers: Sequence[AnswerRecord]) -> LanguageModel:
    """Return the base model as a lookup table would use it: its answers are already there."""
    said = {record.id: record.answer for record in answers}
    by_prompt = {str(list(probe.messages)): said[probe.id] for probe in receipt.probes}

    def script(prompt: Prompt) -> lm.Answer:
        return by_prompt[str(list(prompt))]

    return ScriptedLM(script, name="smollm2")


def _judged(receipt: Receipt, **answers: list[AnswerRecord]) -> tuple[Provider, ...]:
    told = {
        "honest": ("trained a LoRA adapter on the file", "Trained on your file: the trigger brings S on new prompts."),
        "base": ("returned the base model", "Nothing was trained, and no signature comes."),
        "noise": ("added noise to the base model's weights", "Changed weights are not trained weights."),
        "lookup": (
            "looks prompts up in your file",
            "It passes on rows you sent, so `activated` alone proves use of the file, not training; fresh prompts tell.",
        ),
    }
    return tuple(
        Provider(name, did, lesson, verdict.judge(receipt, answers[name], suspect=name))
        for name, (did, lesson) in told.items()
    )
