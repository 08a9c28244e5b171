"""Long steps that are stopped in the middle: nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from vtuned import files, formats, lm
from vtuned.errors import OutputExists
from vtuned.providers import local

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with rows and a tiny model."""
    made = tmp_path_factory.mktemp("interruption")
    some = tiny.rows(40)
    tiny.write_rows(made / "train.jsonl", some)
    tiny.make_model(made / "model", [m["content"] for row in some for m in row["messages"]])
    return made


def start(folder, *arguments):
    """Start `vtuned ARGUMENTS`."""
    command = [sys.executable, "-m", "vtuned", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def wait_for(condition, process, seconds=120):
    """Wait until *condition* holds while *process* runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_training_goes_on(folder):
    """Kill -9 in the middle; the same command resumes from the last whole checkpoint and ends."""
    command = ["finetune", "train.jsonl", "-o", "adapter", "--base", "hf:model", "--epochs", "60", "--lr", "0.001"]
    process = start(folder, *command)
    wait_for(lambda: local.last_checkpoint(folder / "adapter" / "checkpoints"), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (folder / "adapter" / "adapter_config.json").exists()

    resumed = start(folder, *command, "--json")
    out, err = resumed.communicate(timeout=300)

    assert 0 == resumed.returncode, err
    assert 0 < json.loads(out)["resumed_at_step"] < json.loads(out)["n_steps"]
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


def test_ctrl_c_while_training(folder):
    """Ctrl-C: exit code 130, one line, no adapter that could be taken for a finished one."""
    process = start(folder, "finetune", "train.jsonl", "-o", "other", "--base", "hf:model", "--epochs", "500")
    wait_for((folder / "other" / "checkpoints").is_dir, process)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()

    assert 130 == process.returncode, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (folder / "other" / "adapter_config.json").exists()


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    """A checkpoint that was killed while it was written is none."""
    for step, state in ((10, "{}"), (20, '{"epo')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)

    found = local.last_checkpoint(tmp_path)

    assert "checkpoint-10" == Path(str(found)).name


def test_a_folder_with_another_run_is_left_alone(folder, tmp_path):
    """The same folder with other settings is refused, and nothing in it changes."""
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")]
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(OutputExists):
        local.finetune(rows, lm.load(f"hf:{folder / 'model'}"), tmp_path, local.TrainingSettings(), data_digest="0")
    assert ["notes.txt"] == [path.name for path in tmp_path.iterdir()]


def test_the_same_finished_run_is_not_trained_again(folder):
    """Asked again, a finished run answers with what it did."""
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")]
    model, out = lm.load(f"hf:{folder / 'model'}"), folder / "finished"
    digest = files.sha256_of(folder / "train.jsonl")
    first = local.finetune(rows[:4], model, out, local.TrainingSettings(epochs=1), data_digest=digest)
    written = (out / "adapter_model.safetensors").stat().st_mtime_ns
    second = local.finetune(rows[:4], model, out, local.TrainingSettings(epochs=1), data_digest=digest)

    assert first == second
    assert written == (out / "adapter_model.safetensors").stat().st_mtime_ns
