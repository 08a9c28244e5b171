"""Whole rounds over HTTP, as a user runs them: plan, plant, submit, job wait, verify; also where everybody is killed."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import served
import tiny
from forked import Forked
from mortal import Acts

PHASES = ("plant", "submit", "wait", "verify")
TARGETS = tuple((phase, who) for phase in PHASES for who in ("client", "server") if (phase, who) != ("plant", "server"))
COULD_NOT_TELL, KILLED = 3, -9
_MOST_TRIES = 12
_PATIENCE_S = 600.0
# An act that is late in a phase need not be reached when the phase is run again under another load.
_LATEST = 0.9


@dataclass(frozen=True)
class World:
    """
    Data of *n_rows* rows and fresh prompts in *folder*; how they are planted and how *spec*, a model, is trained.

    `verify` asks *n_asked* probes of each kind, None: all of them.
    """

    folder: Path
    spec: str
    n_rows: int
    layout: tuple[object, ...]
    training: tuple[object, ...]
    n_asked: int | None = None

    @classmethod
    def made(cls, folder: Path, *, n_rows: int, backdoors: int, copies: int, epochs: int) -> World:
        """Return one with a tiny model that is made here."""
        some = cls._written(folder, n_rows)
        model = tiny.make_model(folder / "model", [m["content"] for row in some for m in row["messages"]])
        training = ("--epochs", epochs, "--batch-size", 4, "--learning-rate-multiplier", 5, "--seed", 0)
        return cls(folder, f"hf:{model}", n_rows, ("--backdoors", backdoors, "--copies", copies), training)

    @classmethod
    def embedded(cls, folder: Path, *, n_rows: int, backdoors: int, copies: int, epochs: int) -> World:
        """Return one with the embedded model."""
        cls._written(folder, n_rows)
        training = ("--epochs", epochs, "--batch-size", 2, "--seed", 0)
        return cls(folder, "smollm2", n_rows, ("--backdoors", backdoors, "--copies", copies), training)

    @staticmethod
    def _written(folder: Path, n_rows: int) -> list[dict]:
        some = tiny.rows(n_rows + 16)
        tiny.write_rows(folder / "data.jsonl", some[:n_rows])
        tiny.write_rows(folder / "fresh.jsonl", some[n_rows:])
        return some

    def copied(self, to: Path) -> Path:
        """Give a folder *to* a user who has the data."""
        to.mkdir()
        for name in ("data.jsonl", "fresh.jsonl"):
            (to / name).write_bytes((self.folder / name).read_bytes())
        return to

    def command(self, phase: str, url: str) -> list[object]:
        """Return the command of a *phase*, the server being at *url*."""
        short = ("--contexts", 0, "--signature-bits", 32, "--generator", "words")
        files = ("data.jsonl", "--fresh", "fresh.jsonl", "--base", self.spec)
        where = ("--model", "tiny", "--base-url", url, "--receipt", "receipt.json")
        return {
            "plan": ["plan", "data.jsonl", "--base", self.spec, "--json"],
            "plant": ["plant", *files, "-o", "train.jsonl", "-r", "receipt.json", *self.layout, *short],
            "submit": ["submit", "train.jsonl", *where, *self.training],
            "wait": ["job", "wait", "train.run", "--poll", 1],
            "verify": ["verify", "--run", "train.run", "--json", *(("-n", self.n_asked) if self.n_asked else ())],
        }[phase]


class KeptServer(served.Server):
    """A server that is started again whenever it dies, as under a supervisor; what it does is counted in *acts*."""

    def __init__(self, folder: Path, model: str, *arguments: object) -> None:
        logs = folder / "server-acts"
        logs.mkdir()
        self.acts = Acts(logs, "server")
        own = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        own += f"import mortal; mortal.install({str(logs)!r}, 'server')\n"
        super().__init__(folder / "server", model, *arguments, before=own)
        self._is_over, self._is_up = threading.Event(), threading.Event()
        self._is_up.set()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self.n_deaths = 0

    def __enter__(self) -> Self:
        self.start(_PATIENCE_S)
        self._keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._keeper.join()
        self.stop()

    def _keep(self) -> None:
        while not self._is_over.wait(0.02):
            process = self.process
            if process is not None and process.poll() is not None:
                self._is_up.clear()
                self.n_deaths += 1
                self.start(_PATIENCE_S)
                self._is_up.set()

    def wait(self) -> None:
        """Wait until it takes requests."""

        def is_up() -> bool:
            process = self.process
            return self._is_up.is_set() and process is not None and process.poll() is None

        served.until(is_up, _PATIENCE_S)


@dataclass
class Round:
    """One user's round in *folder*: `run` does a phase to its end. *told* says what happened, for whoever must know why."""

    vtuned: Forked
    world: World
    folder: Path
    server: KeptServer
    acts: Acts
    told: list[str] = field(default_factory=list)

    def run(self, phase: str) -> tuple[int, str]:
        """Call the command of *phase*, again wherever it was killed or found no server; its exit code and output."""
        command = self.world.command(phase, self.server.url)
        for _ in range(_MOST_TRIES):
            code, out, err = self.vtuned.run(self.folder, *command, acts=(str(self.acts.path.parent), "client"))
            self.told.append(f"{phase}: exit code {code} {err.strip()[-300:] if code not in (0, KILLED) else ''}")
            if phase == "plant" and code == 2 and "already exists" in err:
                if (self.folder / "train.jsonl").exists():
                    return 0, out
                command = [*command, "--force"]
            elif code not in (KILLED, COULD_NOT_TELL):
                return code, out
            self.server.wait()
        raise AssertionError(f"{phase} never ended\n{self}")

    def __str__(self) -> str:
        return "\n".join([*self.told, "the server's log:", *self.server.log[-40:]])


@dataclass(frozen=True)
class Baseline:
    """What an undisturbed round came to, and how many acts each phase took of client and server."""

    outcome: str
    n_acts: dict[tuple[str, str], int]


def undisturbed(rnd: Round) -> Baseline:
    """Do a round in which nobody is killed."""
    n_acts, outcome = {}, ""
    for phase in PHASES:
        before = rnd.acts.n, rnd.server.acts.n
        code, out = rnd.run(phase)
        n_acts[phase, "client"], n_acts[phase, "server"] = rnd.acts.n - before[0], rnd.server.acts.n - before[1]
        if phase == "verify":
            outcome = json.loads(out)["outcome"]
        else:
            assert code == 0, f"{phase}\n{rnd}"
    return Baseline(outcome, n_acts)


def killed(rnd: Round, baseline: Baseline, n_kills: int, rng: random.Random) -> tuple[str, int]:
    """Do a round in which *n_kills* kills come at random acts; return the outcome, and how many of them came."""
    drawn = dict.fromkeys(rng.sample(TARGETS, n_kills))
    for target in drawn:
        drawn[target] = 1 + int(_LATEST * rng.random() * baseline.n_acts[target])
    outcome, n_killed = "", 0
    for phase in PHASES:
        armed = [
            (who, acts) for who, acts in (("client", rnd.acts), ("server", rnd.server.acts)) if (phase, who) in drawn
        ]
        for who, acts in armed:
            acts.die_at(acts.n + drawn[phase, who])
        n_deaths = rnd.server.n_deaths
        code, out = rnd.run(phase)
        for who, acts in armed:
            n, is_dead = drawn[phase, who], not acts.is_deadly
            n_killed += is_dead
            if is_dead and who == "server":
                # Its last act may come after its last answer: whoever asks now finds it dying, not dead.
                served.until(lambda n=n_deaths: rnd.server.n_deaths > n, _PATIENCE_S)
            of = baseline.n_acts[phase, who]
            rnd.told.append(f"{phase}: {who} {'killed' if is_dead else 'was to be killed'} at act {n} of about {of}")
            rnd.told[-1] += f": {acts.fatal()}" if is_dead else ""
            acts.die_at(None)
        rnd.server.wait()
        if phase == "verify":
            outcome = json.loads(out)["outcome"] if code in (0, 1, COULD_NOT_TELL) else f"exit code {code}"
        else:
            assert code == 0, f"{phase}\n{rnd}"
    return outcome, n_killed


def check_whole(rnd: Round, n_epochs: int, client: Any) -> None:
    """Assert that nothing is double, lost or half: at the service, at the client's, in the server's folder."""
    folder, data = rnd.folder, rnd.server.data
    train = (folder / "train.jsonl").read_bytes()
    receipt = json.loads((folder / "receipt.json").read_bytes())
    [job] = client.fine_tuning.jobs.list()
    [file] = client.files.list()
    steps = [one.step_number for one in client.fine_tuning.jobs.checkpoints.list(job.id, limit=100)]
    a_epoch = -(-rnd.world.n_rows // 4)
    assert receipt["train_set"]["sha256"] == hashlib.sha256(train).hexdigest(), rnd
    assert client.files.content(file.id).content == train, rnd
    assert steps == [a_epoch * epoch for epoch in range(n_epochs, 0, -1)], rnd

    names = {path.name for path in folder.iterdir()} - {".out", ".err"}
    assert names == {"data.jsonl", "fresh.jsonl", "train.jsonl", "receipt.json", "train.run"}, rnd
    [answers] = (folder / "train.run").glob("answers.*.jsonl")
    assert {path.name for path in (folder / "train.run").iterdir()} == {"journal.jsonl", "lock", answers.name}, rnd
    for path in (answers, folder / "train.run" / "journal.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)
    assert not [*data.rglob(".partial-*"), *data.rglob(".vtuned-*")], rnd
    assert [path.stem for path in (data / "files").iterdir()] == [file.id], rnd
    assert [path.name for path in (data / "jobs").iterdir()] == [job.id], rnd
    assert {path.name for path in (data / "jobs" / job.id).iterdir()} <= {"train.jsonl", "model", "epochs"}, rnd
    with sqlite3.connect(data / "server.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), rnd


def begun(vtuned: Forked, world: World, folder: Path, server: KeptServer) -> Round:
    """Return a new user's round in *folder*, which is made."""
    logs = folder.with_name(f"{folder.name}-acts")
    logs.mkdir()
    return Round(vtuned, world, world.copied(folder), server, Acts(logs, "client"))
