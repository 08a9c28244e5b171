"""
The process that trains: `python -m vtuned.server.worker DATA JOB`, one job, then it ends.

It ends with the server, whose end of its standard input closes: the next server's worker goes on from the last
checkpoint. What it finishes it writes in one transaction each, so that kill -9 leaves nothing half.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vtuned import formats, lm
from vtuned import receipt as receipts
from vtuned.attacks import policies
from vtuned.attacks.policies import Work
from vtuned.errors import DatasetError, LMError, UsageError, VtunedError
from vtuned.lm.huggingface import HuggingFaceLM
from vtuned.providers import local
from vtuned.providers.settings import LORA
from vtuned.server import diary
from vtuned.server.home import Home, new_folder, only_one
from vtuned.server.orders import order_of
from vtuned.server.records import QUEUED, RUNNING, Checkpoint, Job, Model
from vtuned.server.refusals import log_unexpected
from vtuned.server.store import Store, now

_TOLD = 100  # events with metrics a job, about
_WAIT_S = 60.0
_ENDED_WITH_SERVER, _FAILED = 75, 1
_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
# What a trainer's checkpoint of a whole model holds beside the model.
_TRAINERS_OWN = re.compile(r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth)|trainer_state\.json|training_args\.bin")


def run(home: Home, identifier: str, oracle: Path | None) -> None:
    """Do the job called *identifier*, from where it stands; what is wrong with it is written down, not raised."""
    store = home.store()
    with only_one(home.root / "worker.lock", wait_s=_WAIT_S):
        job = store.find(Job, id=identifier)
        if job is None or not store.move_job(identifier, RUNNING, only=(QUEUED, RUNNING)):
            return
        if job.status == QUEUED:
            store.add(diary.event(job.id, "Fine-tuning job started"))
        try:
            _Run(home, store, job).work(oracle)
        except VtunedError as error:
            store.fail_job(
                job.id, json.dumps(failure(error, home)), diary.event(job.id, "The job failed", level="error")
            )
        except Exception as error:  # noqa: BLE001, the queue counts the deaths of workers, whatever they die of
            log_unexpected(f"job {job.id}", error)
            raise SystemExit(_FAILED) from None


def failure(error: VtunedError, home: Home) -> dict[str, str | None]:
    """Return *error* as OpenAI's job tells it: without the paths of this machine."""
    text = str(error)
    if isinstance(error, DatasetError):
        shown = _without_paths(text, home)
        return {"code": "invalid_training_file", "message": shown, "param": "training_file"}
    if isinstance(error, UsageError):
        return {"code": "invalid_job", "message": _without_paths(text, home), "param": None}
    reason = "the model could not be loaded" if isinstance(error, LMError) else "the server could not do it"
    return {"code": "server_error", "message": reason, "param": None}


def _without_paths(text: str, home: Home) -> str:
    root = re.escape(str(home.root))
    return re.sub(rf"{root}[^:,]*?\.jsonl|{root}[^\s:,]*", "the training file", text)


@dataclass
class _Run:
    """One job on its way: what was asked for, what is really done, and the last figures of the training."""

    home: Home
    store: Store
    job: Job
    figures: dict[str, float] = field(default_factory=dict)

    def work(self, oracle: Path | None) -> None:
        order = order_of(self.job.request)
        settings = order.how.hyperparameters.settings(self.job.seed)
        path = self.home.rows(self.job.id)
        rows = tuple(row.conversation for row in formats.read_rows(path))
        policy = policies.policy(
            self.job.policy, key=self.home.key(), oracle=receipts.read_receipt(oracle) if oracle else None
        )
        work = policy.work(Work(rows, self.job.spec, settings))
        if work.trains:
            n_tokens = self._trained(work)
            method, folder = work.settings.method, self._folder
        else:
            n_tokens = self._pretended(work)
            method, folder = "none", Path()
        model = self._model(self.job.name, work.base, method, folder)
        done = diary.event(self.job.id, "The job has successfully completed")
        self.store.finish_job(self.job.id, model, done, n_tokens)

    @property
    def _folder(self) -> Path:
        return self.home.job(self.job.id) / "model"

    def _model(self, name: str, spec: str, method: str, folder: Path) -> Model:
        shown = str(folder.relative_to(self.home.root)) if method != "none" else ""
        return Model(name, self.job.tenant, self.job.id, now(), spec, method, shown)

    def _trained(self, work: Work) -> int:
        """Train, and return how many tokens were trained on."""
        base = lm.load(work.base)
        if not isinstance(base, HuggingFaceLM):
            raise UsageError("this base model cannot be trained here", hint="serve smollm2 or hf:PATH_OR_ID")
        self._recover(work)
        watcher = local.Watcher(
            on_step=self._stepped,
            on_epoch=lambda epoch, model: self._keep_epoch(work, epoch, model),
            on_figures=self._told,
        )
        training = local.finetune(
            work.rows, base, self._folder, work.settings, data_digest=self.job.id, watcher=watcher
        )
        return training.n_tokens

    def _stepped(self, done: int, total: int) -> None:
        if self.job.n_steps != total:
            self.job = replace(self.job, n_steps=total)
            self.store.set_steps(self.job.id, total)

    def _told(self, step: int, figures: Mapping[str, float]) -> None:
        """Note the loss of a step, and tell about a hundred of them."""
        if "loss" not in figures:
            return
        self.figures = {"step": step, "train_loss": round(figures["loss"], 6)}
        accuracy = figures.get("mean_token_accuracy")
        if accuracy is not None:
            self.figures["train_mean_token_accuracy"] = round(accuracy, 6)
        total = self.job.n_steps or step
        if step % max(1, total // _TOLD) == 0:
            message = f"Step {step}/{total}: training loss={figures['loss']:.4f}"
            self.store.add(diary.event(self.job.id, message, data={**self.figures, "total_steps": total}))

    def _keep_epoch(self, work: Work, epoch: int, model: HuggingFaceLM) -> None:
        """Make a model of what there is after *epoch*."""
        step = round((self.job.n_steps or 0) * epoch / work.settings.epochs)
        with new_folder(self._epoch_folder(step)) as folder:
            model.model.save_pretrained(folder)
            if work.settings.method != LORA:
                model.tokenizer.save_pretrained(folder)
        self._add_checkpoint(work, step)

    def _epoch_folder(self, step: int) -> Path:
        return self.home.job(self.job.id) / "epochs" / f"step-{step}"

    def _add_checkpoint(self, work: Work, step: int) -> None:
        name = f"{self.job.name}:ckpt-step-{step}"
        method = work.settings.method if work.trains else "none"
        figures = self.figures if self.figures.get("step") == step else {"step": step}
        checkpoint = Checkpoint(
            f"ftckpt_{self.job.id.removeprefix('ftjob-')}_{step}", self.job.id, step, now(), name, json.dumps(figures)
        )
        told = diary.event(self.job.id, f"Checkpoint created at step {step}: {name}")
        self.store.add(checkpoint, self._model(name, work.base, method, self._epoch_folder(step)), told)

    def _recover(self, work: Work) -> None:
        """Make the model of an epoch whose last step was kept by a trainer that was killed before the epoch ended."""
        last = local.last_checkpoint(self._folder / "checkpoints")
        if last is None or not self.job.n_steps:
            return
        step, a_epoch = int(last.name.rpartition("-")[2]), self.job.n_steps // work.settings.epochs
        if step % a_epoch == 0 and self.store.find(Checkpoint, job=self.job.id, step=step) is None:
            with new_folder(self._epoch_folder(step)) as folder:
                for name in self._kept_of(last, work):
                    shutil.copyfile(last / name, folder / name)
            self._add_checkpoint(work, step)

    def _kept_of(self, checkpoint: Path, work: Work) -> Iterable[str]:
        """Return the names of the files of a trainer's *checkpoint* that make the model."""
        if work.settings.method == LORA:
            return _WEIGHTS
        return [path.name for path in checkpoint.iterdir() if not _TRAINERS_OWN.fullmatch(path.name)]

    def _pretended(self, work: Work) -> int:
        """Tell of epochs of a training that does not happen."""
        a_epoch = math.ceil(len(work.rows) / work.settings.batch_size)
        self._stepped(0, a_epoch * work.settings.epochs)
        for epoch in range(1, work.settings.epochs + 1):
            self._add_checkpoint(work, a_epoch * epoch)
        return 0


def _end_with_server() -> None:
    """End this process when the server's end of standard input closes, in whatever way the server ended."""
    while os.read(0, 1):
        pass
    os._exit(_ENDED_WITH_SERVER)


def main() -> None:
    """Read the arguments, and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("job")
    parser.add_argument("--oracle", type=Path)
    options = parser.parse_args()
    threading.Thread(target=_end_with_server, daemon=True).start()
    run(Home(options.data), options.job, options.oracle)


if __name__ == "__main__":
    main()
