"""Long steps that are stopped in the middle: nothing half-written, and the same command goes on."""

from __future__ import annotations

import contextlib
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
from vtuned.errors import OutputExists, OutputNotWritable
from vtuned.lm.options import LoadOptions
from vtuned.providers import local, runs

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with rows and a tiny model."""
    made = tmp_path_factory.mktemp("interruption")
    some = tiny.rows(40)
    tiny.write_rows(made / "train.jsonl", some)
    tiny.make_model(made / "model", [m["content"] for row in some for m in row["messages"]])
    return made


def start(folder, *arguments, launcher=()):
    """Start `vtuned ARGUMENTS`, with the help of a launcher if there is one."""
    command = [sys.executable, *launcher, "-m", "vtuned", *map(str, arguments)]
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


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }} .<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def finished(folder):
    """The folder of a finished run on the first four rows."""
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")][:4]
    out = folder / "identity"
    local.finetune(rows, lm.load(f"hf:{folder / 'model'}"), out, local.TrainingSettings(epochs=1), data_digest="0")
    return out


@pytest.mark.parametrize(
    ("options", "settings", "read_otherwise"),
    [
        ({"dtype": "bfloat16"}, {}, False),
        ({"chat_template": "other.jinja"}, {}, False),
        ({}, {"bf16": True}, False),
        ({}, {}, True),
    ],
    ids=["dtype", "chat template", "bf16", "rows read otherwise"],
)
def test_a_run_that_would_end_otherwise_is_another(folder, finished, options, settings, read_otherwise):
    """What changes the weights is told apart, though file and settings are the same; the folder stays as it is."""
    (folder / "other.jinja").write_text(TEMPLATE)
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")][: 3 if read_otherwise else 4]
    if "chat_template" in options:
        options = {"chat_template": folder / options["chat_template"]}
    model = lm.load(f"hf:{folder / 'model'}", LoadOptions(**options))
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}

    with pytest.raises(OutputExists, match="already exists"):
        local.finetune(rows, model, finished, local.TrainingSettings(epochs=1, **settings), data_digest="0")
    assert before == {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_bits_are_told_apart(folder, finished):
    """A model that was loaded in 4 bits makes another adapter."""
    pytest.importorskip("bitsandbytes")
    rows = [row.conversation for row in formats.read_rows(folder / "train.jsonl")][:4]
    model = lm.load(f"hf:{folder / 'model'}", LoadOptions(bits=4))
    model = lm.huggingface.HuggingFaceLM(f"hf:{folder / 'model'}", model.model, model.tokenizer)

    with pytest.raises(OutputExists):
        local.finetune(rows, model, finished, local.TrainingSettings(epochs=1), data_digest="0")


def test_one_run_at_a_time_trains_into_a_folder(folder):
    """The same command beside a run that is under way: exit code 2 and why; the run itself goes on."""
    pytest.importorskip("fcntl")
    command = ["finetune", "train.jsonl", "-o", "shared", "--base", "hf:model", "--epochs", "500"]
    process = start(folder, *command)
    try:
        wait_for((folder / "shared" / "checkpoints").is_dir, process)
        second = start(folder, *command)
        _, err = second.communicate(timeout=120)
        is_running = process.poll() is None
    finally:
        process.kill()
        process.communicate(timeout=60)

    assert (2, True) == (second.returncode, is_running)
    assert "another run is training into it" in " ".join(err.split())
    local.check_folder(folder / "shared")  # with its process the lock is gone


def test_orphans_of_a_killed_launcher_keep_others_out(folder):
    """The workers of a torchrun that was killed train on; nobody else trains into their folder meanwhile."""
    pytest.importorskip("fcntl")
    command = ["finetune", "train.jsonl", "-o", "orphans", "--base", "hf:model", "--epochs", "500", "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start(folder, *command, launcher=launcher)
    workers = []
    try:
        wait_for((folder / "orphans" / "checkpoints").is_dir, process)
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        with pytest.raises(OutputNotWritable, match="another run"):
            local.check_folder(folder / "orphans")
    finally:
        process.kill()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        process.communicate(timeout=60)

    assert len(workers) >= 2


def children_of(pid):
    """Return the processes that *pid* started, and those that they did."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not say who started whom")
    own = [int(child) for child in path.read_text().split()]
    return [*own, *(one for child in own for one in children_of(child))]


def test_a_lock_leaves_nothing_and_ends_with_its_block(tmp_path):
    """Twice in a row, but not at once."""
    pytest.importorskip("fcntl")
    with runs.locked(tmp_path), pytest.raises(OutputNotWritable), runs.locked(tmp_path):
        pass
    with runs.locked(tmp_path):
        assert [] == list(tmp_path.iterdir())
