"""Jobs of a server and what becomes of them: other methods, cancelling, kill -9, and the command's own errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest
from openai.types import ModelDeleted

import served
import tiny
from vtuned import lm
from vtuned.providers import runs
from vtuned.server import records, worker
from vtuned.server.app import Settings
from vtuned.server.home import Home
from vtuned.server.orders import JobOrder, request_of

ROWS = tiny.rows(8)
BRIEF = {"n_epochs": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model and rows that it can learn."""
    made = tmp_path_factory.mktemp("server-jobs")
    tiny.make_model(made / "model", [m["content"] for row in ROWS for m in row["messages"]])
    tiny.write_rows(made / "train.jsonl", ROWS)
    return made


def client_of(url):
    """Return the openai SDK's client."""
    return openai.OpenAI(base_url=url, api_key="token-of-alice", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def client(folder):
    """A client of a running server."""
    settings = Settings(data=folder / "data", models={"tiny": f"hf:{folder / 'model'}"})
    with served.in_thread(settings) as url, client_of(url) as made:
        yield made


@pytest.fixture(scope="module")
def train(client, folder):
    """The id of the training file."""
    return client.files.create(file=folder / "train.jsonl", purpose="fine-tune").id


def question(i=0):
    """Return the prompt of a row."""
    return ROWS[i]["messages"][:1]


def answer(i=0):
    """Return the answer of a row."""
    return ROWS[i]["messages"][1]["content"]


def a_job(folder, tmp_path, **how):
    """Return a home with a job of ten epochs of two steps, its database, and the job."""
    home = Home.made(tmp_path / "data")
    store, file = home.store(), home.file("file-1")
    file.write_bytes((folder / "train.jsonl").read_bytes())
    given = {"n_epochs": 10, "batch_size": 4, **how}
    order = JobOrder(model="tiny", training_file="file-1", hyperparameters=given)
    spec = f"hf:{folder / 'model'}"
    job = records.Job("ftjob-1", "t", 0, "tiny", spec, "honest", "file-1", 0, request_of(order), None, status="queued")
    home.keep_rows("file-1", job.id)
    store.add(job)
    return home, store, job


def workers(data):
    """Return the processes that train for the server on the folder *data*."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "vtuned.server.worker" in (line := process.info["cmdline"] or []) and str(data) in line:
            found.append(process)
    return found


class TestJobs:
    def test_preferences_are_trained_by_dpo(self, client, folder):
        """Rows with two outputs, the method that says so, and its beta."""
        some = [
            {
                "input": {"messages": row["messages"][:1]},
                "preferred_output": row["messages"][1:],
                "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
            }
            for row in ROWS[:4]
        ]
        file = client.files.create(file=tiny.write_rows(folder / "dpo.jsonl", some), purpose="fine-tune")
        method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}}
        made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=method)
        done = served.finished(client, made.id)

        assert ("succeeded", 0.2) == (done.status, done.method.dpo.hyperparameters.beta)

    def test_a_job_is_cancelled_while_it_runs(self, client, train, folder):
        """Nothing of it is served, its worker ends, and the next job gets its turn."""
        long = client.fine_tuning.jobs.create(model="tiny", training_file=train, hyperparameters={"n_epochs": 1000})
        served.until(lambda: client.fine_tuning.jobs.retrieve(long.id).status == "running")
        behind = client.fine_tuning.jobs.create(model="tiny", training_file=train, hyperparameters=BRIEF)
        cancelled = client.fine_tuning.jobs.cancel(long.id)
        done = served.finished(client, behind.id)

        assert ("cancelled", None) == (cancelled.status, cancelled.fine_tuned_model)
        assert "succeeded" == done.status
        assert "cancelled" == client.fine_tuning.jobs.retrieve(long.id).status
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.cancel(behind.id)

    def test_a_deleted_file_does_not_stop_its_job(self, client, folder):
        """The job keeps the bytes under a name of its own."""
        file = client.files.create(file=folder / "train.jsonl", purpose="fine-tune")
        made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, hyperparameters=BRIEF)
        client.files.delete(file.id)

        assert "succeeded" == served.finished(client, made.id).status

    def test_all_weights_are_trained_where_asked(self, client, train):
        """`lora: false`, as Nebius calls it: a whole model, served from weights of its own, and deleted."""
        how = {"n_epochs": 1, "lora": False}
        made = client.fine_tuning.jobs.create(model="tiny", training_file=train, hyperparameters=how)
        done = served.finished(client, made.id)
        name = done.fine_tuned_model
        told = client.chat.completions.create(model=name, messages=question(), max_tokens=2)
        ModelDeleted.model_validate(client.models.delete(name).model_dump(), strict=True)

        assert told.choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=name, messages=question())


def test_the_page_on_the_provider_runs(folder, tmp_path):
    """Its lines of Python, against a server with a tiny model in place of the embedded one."""
    page = (Path(__file__).parents[2] / "docs" / "provider.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    settings = Settings(data=tmp_path / "data", models={"smollm2": f"hf:{folder / 'model'}"})
    with served.in_thread(settings) as url:
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            env={**os.environ, "OPENAI_BASE_URL": url},
        )

    assert 0 == result.returncode, result.stderr
    assert "The job has successfully completed" == result.stdout.splitlines()[0]


class TestTheProcess:
    def test_a_job_goes_on_whatever_ends(self, folder, tmp_path):
        """Kill -9 of the server, kill -9 of its worker, SIGTERM: one job, each epoch once, and no half file."""
        data = tmp_path / "data"
        with served.server(data, folder / "model") as running, client_of(running.url) as client:
            file = client.files.create(file=folder / "train.jsonl", purpose="fine-tune")
            how = {"n_epochs": 60, "learning_rate_multiplier": 10}
            made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, hyperparameters=how)
            trainer = data / "jobs" / made.id / "model" / "checkpoints"
            served.until(lambda: any(trainer.glob("checkpoint-*/trainer_state.json")))
            running.kill()
            (data / "files" / "file-unknown.jsonl").write_bytes(b"half")
            (data / "jobs" / made.id / ".partial-x").mkdir()
            running.start()
            served.until(lambda: workers(data))[0].kill()
            served.until(lambda: any("ended with code -9" in line for line in running.log))
            served.until(lambda: workers(data))
            code = running.stop()
            left = workers(data)
            running.start()
            done = served.finished(client, made.id)
            steps = [one.step_number for one in client.fine_tuning.jobs.checkpoints.list(made.id, limit=100)]
            told = client.chat.completions.create(model=done.fine_tuned_model, messages=question(), temperature=0)
            n_jobs = len(list(client.fine_tuning.jobs.list()))
        record = json.loads((data / "jobs" / made.id / "model" / "vtuned-training.json").read_bytes())

        assert (0, []) == (code, left)
        assert "succeeded" == done.status
        assert 0 < record["done"]["resumed_at_step"] < 240
        assert [4 * epoch for epoch in range(60, 0, -1)] == steps
        assert answer() == told.choices[0].message.content
        assert 1 == n_jobs
        assert not (data / "files" / "file-unknown.jsonl").exists()
        assert not [*data.rglob(".partial-*"), *data.rglob(".vtuned-*")]

    @pytest.mark.parametrize("method", ["lora", "full"])
    @pytest.mark.parametrize("dying_in", [5, 10], ids=["in the middle", "the last epoch"])
    def test_no_epoch_is_lost_between_a_trainers_checkpoint_and_the_epochs_end(
        self, folder, tmp_path, monkeypatch, dying_in, method
    ):
        """A worker that dies there has its epoch made from the trainer's checkpoint by the next one."""
        home, store, job = a_job(folder, tmp_path, lora=method == "lora")
        keep = worker._Run._keep_epoch

        def die(self, work, epoch, model):
            if epoch == dying_in:
                raise KeyboardInterrupt
            keep(self, work, epoch, model)

        monkeypatch.setattr(worker._Run, "_keep_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            worker.run(home, job.id, None)
        before = [one.step for one in store.all(records.Checkpoint)]
        monkeypatch.setattr(worker._Run, "_keep_epoch", keep)
        worker.run(home, job.id, None)
        last, final = (
            lm.load(spec).log10_probs(question(), [answer()])
            for spec in (
                f"hf:{folder / 'model'}+{path}" if method == "lora" else f"hf:{path}"
                for path in (home.job(job.id) / "epochs" / "step-20", home.job(job.id) / "model")
            )
        )

        assert [2 * epoch for epoch in range(1, dying_in)] == before
        assert [2 * epoch for epoch in range(1, 11)] == [one.step for one in store.all(records.Checkpoint)]
        assert "succeeded" == store.find(records.Job, id=job.id).status
        assert pytest.approx(last, abs=1e-4) == final
        name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
        assert all((home.root / model.folder / name).is_file() for model in store.all(records.Model))
        assert not list(home.root.rglob("trainer_state.json"))
        assert not list(home.root.rglob("optimizer.pt"))

    def test_a_training_that_was_done_is_not_done_again(self, folder, tmp_path, monkeypatch):
        """A worker that dies after it, with checkpoints still there: the next one finishes, and removes them."""
        home, store, job = a_job(folder, tmp_path)

        def die(*arguments, **named):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(runs, "_drop_checkpoints", die)
            with pytest.raises(KeyboardInterrupt):
                worker.run(home, job.id, None)
        model = home.job(job.id) / "model"
        was_there, written = (model / "checkpoints").is_dir(), (model / "adapter_model.safetensors").stat().st_mtime_ns
        worker.run(home, job.id, None)

        assert was_there
        assert "succeeded" == store.find(records.Job, id=job.id).status
        assert not (model / "checkpoints").exists()
        assert written == (model / "adapter_model.safetensors").stat().st_mtime_ns

    def test_a_job_whose_worker_always_dies_fails(self, folder, tmp_path, monkeypatch):
        """The third time; the queue does not try for ever."""
        monkeypatch.setattr(sys, "executable", "/bin/false")
        settings = Settings(data=tmp_path / "data", models={"tiny": f"hf:{folder / 'model'}"})
        with served.in_thread(settings) as url, client_of(url) as client:
            file = client.files.create(file=folder / "train.jsonl", purpose="fine-tune")
            made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
            done = served.finished(client, made.id)

        assert ("failed", "server_error") == (done.status, done.error.code)

    def test_one_address_and_one_folder_have_one_server(self, folder, tmp_path):
        """A port in use, and a folder in use, are said in one line; Ctrl-C ends the server with 130."""
        with served.server(tmp_path / "data", folder / "model") as running:
            port = running.url.split(":")[2].partition("/")[0]
            tries = [
                subprocess.run(
                    [sys.executable, "-m", "vtuned", "provider", "serve", "--data", str(data), *more],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=120,
                )
                for data, more in (
                    (tmp_path / "other", ["--port", port]),
                    (tmp_path / "data", ["--port", "0"]),
                    (tmp_path / "other", ["--host", "0.0.0.0"]),
                    (tmp_path / "other", ["--model", "x=openai:y"]),
                )
            ]
            code = running.stop(signal.SIGINT)

        assert [2] * 4 == [one.returncode for one in tries]
        assert ["is in use", "another server", "--tokens", "not a local model"] == [
            next(
                word for word in ("is in use", "another server", "--tokens", "not a local model") if word in one.stderr
            )
            for one in tries
        ]
        assert 130 == code
