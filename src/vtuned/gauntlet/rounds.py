"""
One policy from the upload to its verdict: a server of its own, the openai SDK, and what `vtuned verify` does.

Each round has a folder. A finished one is taken from there; one that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from vtuned import documents, files, heldout, lm, measuring, scoring, verdict, verification
from vtuned.attacks import policies
from vtuned.attacks.policies import Policy, Work
from vtuned.conversation import Conversation
from vtuned.errors import JobFailed, LMError, LMUnavailable, ServiceError, ServiceRefused, UsageError, VtunedError
from vtuned.exposure import ScoreRecord
from vtuned.gauntlet.server import serving
from vtuned.gauntlet.table import Conduct, Round, bounds_of, state_of
from vtuned.gauntlet.world import World, by_answers
from vtuned.heldout import HeldOut
from vtuned.jobs import journal as journals
from vtuned.jobs.base import Event, FineTuningService, Job
from vtuned.jobs.following import Pauses, check_succeeded, followed
from vtuned.jobs.journal import Journal
from vtuned.jobs.runs import job_in, run_of
from vtuned.jobs.services import Connection, connected
from vtuned.jobs.submitting import Order, planned, submit
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.openai import OpenAILM
from vtuned.lm.options import LoadOptions
from vtuned.lm.tokens import counter
from vtuned.measuring import LOSS, MEASURES, Measured
from vtuned.planting import OnProgress
from vtuned.probes import AnswerRecord, Probe
from vtuned.scoring import ScoreFile
from vtuned.server.home import Home
from vtuned.transcript import Transcript
from vtuned.verdict import Verdict

T = TypeVar("T")

# Our own server takes any token; the environment's key is none of its business.
_NO_KEY, _KEY_VARIABLE = "none", "VTUNED_GAUNTLET_KEY"
# A model of a slow machine answers one prompt after another.
_TIMEOUT_S = 900.0
_PAUSES = Pauses(first_s=0.3, longest_s=5.0)
_MOST_TRIES = 8
_ROUND = "round.json"


class Serving(Protocol):
    """How a server is run: see `vtuned.gauntlet.server.serving`."""

    def __call__(
        self, data: Path, models: dict[str, str], policy: str, *, oracle: Path | None, port: int, log: Path
    ) -> AbstractContextManager[str]:
        """Serve while the block runs; give the base URL."""


def folder_of(world: World, policy: str) -> Path:
    """Return where the round of *policy* is kept."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", policy)
    if name != policy.replace(":", "-", 1):
        # Two models or shares may differ in nothing but what no file name can hold.
        name = f"{name[:80]}-{hashlib.sha256(policy.encode()).hexdigest()[:8]}"
    return world.folder / "policies" / name


def finished(world: World, policy: str) -> Round | None:
    """Return the round of *policy* that an earlier run finished, None where there is none. Raises UsageError."""
    kept = folder_of(world, policy) / _ROUND
    return _read(kept) if kept.is_file() else None


def all_finished(world: World) -> list[Round]:
    """Return all rounds that earlier runs finished, the oldest first. Raises UsageError where one cannot be read."""
    kept = (world.folder / "policies").glob(f"*/{_ROUND}")
    return [_read(path) for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)]


def _read(path: Path) -> Round:
    try:
        return documents.read(Round, path.read_bytes())
    except ValueError as error:
        raise UsageError(
            f"{path} is no finished round of this version ({error})", hint="delete it, and its policy runs anew"
        ) from None


def run(world: World, policy: str, on_progress: OnProgress, *, serve: Serving = serving) -> Round:
    """
    Return what becomes of *policy*; what goes wrong on the way is told in its `trouble`, and tried again when called again.

    Raises OutputNotWritable where the folder cannot be written.
    """
    began = time.monotonic()
    place = folder_of(world, policy)
    files.check_folder(place)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        result = _whole_round(world, policy, place, on_progress, serve)
    except JobFailed as error:
        _set_aside(place / "run")
        return Round(policy=policy, does=_does(policy), trouble=str(error), seconds=_since(began))
    except VtunedError as error:
        why = f"{error}; {error.hint}" if error.hint else str(error)
        return Round(policy=policy, does=_does(policy), trouble=why, seconds=_since(began))
    result = result.model_copy(update={"seconds": _since(began)})
    files.write_bytes(place / _ROUND, result.model_dump_json(indent=1).encode() + b"\n", force=True)
    return result


def _set_aside(run: Path) -> None:
    """Give *run*, whose job failed, another name: the next try begins with a job of its own."""
    number = 1
    while (aside := run.with_name(f"{run.name}-failed-{number}")).exists():
        number += 1
    with contextlib.suppress(FileNotFoundError):
        run.rename(aside)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _whole_round(world: World, policy: str, place: Path, on_progress: OnProgress, serve: Serving) -> Round:
    settings = world.settings
    data = place / "data"
    done = _done(world, policies.policy(policy, key=Home.made(data).key(), oracle=world.receipt))
    with serve(
        data,
        {settings.name: settings.spec},
        policy,
        oracle=world.secret,
        port=_port(place / "run"),
        log=place / "server.log",
    ) as url:
        job = _trained(world, place / "run", url, on_progress)
        asked = _Asked(world, place / "run", url, job.fine_tuned_model or "", on_progress)
        verdicts, unscored = asked.verdicts()
    for name, one in zip(("verdict", "verdict-likelihoods"), verdicts, strict=False):
        files.write_bytes(place / f"{name}.json", one.model_dump_json(indent=1).encode() + b"\n", force=True)
    said = verdicts[0]
    return Round(
        policy=policy,
        does=_does(policy),
        conduct=done.conduct,
        outcome=said.outcome,
        reasons=said.reasons,
        claims=tuple(state_of(claim) for claim in said.claims),
        coverage=bounds_of(verdicts),
        by_likelihoods=verdicts[1].outcome if len(verdicts) > 1 else None,
        unscored=unscored,
        mean_gain=said.held_out.mean_gain if said.held_out else None,
        n_used=done.n_used,
        share_used=done.n_used / len(world.rows),
        cost=done.cost,
        trained_tokens=job.trained_tokens,
    )


def _does(policy: str) -> str:
    """Return in a line what *policy* does."""
    told = {usage.partition("[")[0].partition(":")[0]: line for usage, line in policies.known()}
    return "; ".join(told[part.partition(":")[0]].rstrip(".") for part in policies.parts(policy))


@dataclass(frozen=True, slots=True)
class _Done:
    """What a policy really does with the job: whether that is what was asked for, of how many rows, at what cost."""

    conduct: Conduct
    n_used: int
    cost: float


@dataclass(frozen=True, slots=True)
class _Known:
    """A policy whose work is known: some look at all rows with the base, once is enough."""

    name: str
    known: Work

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return self.known

    def serve(self, deployed: policies.Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        return deployed.tuned

    def fault(self, n_requests: int) -> policies.Fault | None:
        """See `Policy.fault`."""
        return None


def _done(world: World, policy: Policy) -> _Done:
    asked = Work(world.rows, world.settings.spec, world.settings.training.settings())
    work = policy.work(asked)
    conduct: Conduct = "cheat"
    if work == asked:
        conduct = "honest" if policies.serves_tuned(policy) else "in part"
    count, _ = counter(world.settings.spec)
    return _Done(conduct, n_used(asked.rows, work), float(policies.cost(_Known(policy.name, work), asked, count)))


def n_used(rows: Sequence[Conversation], work: Work) -> int:
    """
    Return how many of *rows* are trained on by *work*, whole or in part.

    A row is known by its prompt, which no policy changes; of rows that share one, as many count as there are to train on.
    """
    if not work.trains:
        return 0
    return (Counter(row.prompt() for row in rows) & Counter(row.prompt() for row in work.rows)).total()


def _port(folder: Path) -> int:
    """Return the port at which the run in *folder* began, so that it goes on there; 0, any, for a new one."""
    if not journals.is_run(folder):
        return 0
    entries = journals.opened(folder).entries
    url = run_of(entries).first.base_url or ""
    return int(url.rpartition(":")[2].partition("/")[0] or 0)


def _trained(world: World, folder: Path, url: str, on_progress: OnProgress) -> Job:
    """Submit the file at *url*, unless that was done, and wait for the job. Raises ServiceError, JobFailed."""
    training = world.settings.training
    method = "dpo" if any(row.rejected for row in world.rows) else "supervised"
    connection = Connection(base_url=url, key_variable=_KEY_VARIABLE, timeout_s=_TIMEOUT_S)
    journal = journals.begun(folder)
    service = connected("openai", connection, on_exchange=journal.exchanged)
    order = Order(
        train=world.train,
        validation=None,
        request={"model": world.settings.name, "method": method, "seed": training.seed, **training.hyperparameters()},
        service="openai",
        base_url=url,
        address=service.address,
        key_variable=_KEY_VARIABLE,
        receipt=world.secret,
    )
    planned(journal, order)
    _insisting(lambda: submit(journal, service, on_step=on_progress))
    job = _insisting(lambda: _followed(journal, service, on_progress))
    check_succeeded(service.name, job)
    return job


def _followed(journal: Journal, service: FineTuningService, on_progress: OnProgress) -> Job:
    def look(job: Job) -> None:
        if not job.has_ended:
            on_progress(f"job {job.status}", 0, 0)

    def tell(events: list[Event]) -> None:
        steps = [event.data for event in events if "total_steps" in event.data]
        if steps:
            on_progress("training", int(steps[-1]["step"]), int(steps[-1]["total_steps"]))

    return followed(journal, service, job_in(journal), pauses=_PAUSES, on_look=look, on_events=tell)


def _insisting(work: Callable[[], T]) -> T:
    """Return what *work* returns, called again where the line fails: each try goes on where the one before it was."""
    for _ in range(_MOST_TRIES - 1):
        try:
            return work()
        except ServiceRefused:
            raise
        except ServiceError as error:
            if type(error) is not ServiceError:
                raise
    return work()


@dataclass(frozen=True, slots=True)
class _Asked:
    """The tuned model called *name* behind *url*, what it says and what that shows; answers are kept in *folder*."""

    world: World
    folder: Path
    url: str
    name: str
    on_progress: OnProgress

    def verdicts(self) -> tuple[list[Verdict], str | None]:
        """Return the verdict by answers, the one by likelihoods where these were wanted, and why they could not be had."""
        receipt = self.world.receipt
        options = LoadOptions(base_url=self.url, api_key=_NO_KEY, timeout=_TIMEOUT_S)
        model = lm.load(f"openai:{self.name}", options)
        assert isinstance(model, OpenAILM)
        answers = self._answers(model, verification.challenges(receipt), "answers")
        held_out = self._held_out(model)
        found = [verdict.judge(receipt, answers, suspect=model.name, held_out=held_out)]
        if not self.world.settings.exposure:
            return found, None
        try:
            scores = self._scores(model)
        except LMError as error:
            return found, str(error)
        return [*found, verdict.judge(receipt, answers, suspect=model.name, scores=scores, held_out=held_out)], None

    def _answers(self, model: OpenAILM, questions: Sequence[Probe], what: str) -> list[AnswerRecord]:
        transcript = Transcript(model, questions, self.folder / f"{what}.jsonl")
        with transcript.writing(force=False, may_be_complete=True):
            return verification.collect(
                model,
                questions,
                transcript=transcript,
                on_progress=lambda done, total: self.on_progress(f"asking, {what}", done, total),
            )

    def _held_out(self, model: OpenAILM) -> HeldOut:
        world, measure = self.world, self.world.settings.measure
        rows, base = world.held_out, world.base_measured
        if measure == LOSS:
            own: list[Measured] = measuring.losses(
                self._scorer(model), rows, lambda done, total: self.on_progress("scoring held-out rows", done, total)
            )
        else:
            own = by_answers(measure, rows, self._answers(model, measuring.questions(rows), "held-out"))
        gains = measuring.gains(measure, own, base)
        return heldout.held_out(
            gains,
            measure=MEASURES[measure],
            n_left_out=len(rows) - len(gains),
            n_silent=measuring.n_silent(own, base),
            margin=world.bar.margin,
            margin_source=world.bar.source,
        )

    def _scores(self, model: OpenAILM) -> list[ScoreRecord]:
        """Return what the model gives signatures among their decoys. Raises LMError where it shows no likelihoods."""
        kept = ScoreFile(self.folder / "scores.jsonl", setup=self.url)
        with kept.writing(force=False):
            for _ in range(_MOST_TRIES - 1):
                with contextlib.suppress(LMError):
                    return self._all_scores(model, self._scorer(model), kept)
            return self._all_scores(model, self._scorer(model), kept)

    def _all_scores(self, model: OpenAILM, scorer: Scorer, kept: ScoreFile) -> list[ScoreRecord]:
        world = self.world
        return scoring.score(
            world.receipt,
            (model.name, scorer),
            (world.settings.spec, world.base_scorer),
            kept=kept,
            on_progress=lambda done, total: self.on_progress("scoring signatures", done, total),
        )

    def _scorer(self, model: OpenAILM) -> Scorer:
        found = model.scorer()
        if found is None:
            raise LMUnavailable(model.name, "it shows no likelihoods of given texts", hint="give another --measure")
        return found
