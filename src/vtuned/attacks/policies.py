"""The policies of a provider by name, honest and dishonest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from vtuned.conversation import Conversation
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel
from vtuned.providers.settings import TrainingSettings
from vtuned.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a job asks for, or what is really done: training *base* (as `vtuned.lm.load` takes it) on *rows*.

    Where it does not *train*, the base itself is served.
    """

    rows: tuple[Conversation, ...] = field(repr=False)
    base: str
    settings: TrainingSettings
    trains: bool = True


@dataclass(frozen=True, slots=True)
class Deployed:
    """
    What a policy can serve from: the *base* that was asked for, and *tuned*, the base with what was trained.

    *rows* are those of the uploaded file; *n_answered* counts the prompts that this model has answered so far.
    """

    base: LanguageModel
    tuned: LanguageModel
    rows: tuple[Conversation, ...] = field(repr=False)
    n_answered: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """How one request fails on its way, and for how long."""

    kind: Literal["timeout", "429", "500", "truncated", "slow"]
    seconds: float = 0.0


class Policy(Protocol):
    """What a provider really does."""

    @property
    def name(self) -> str:
        """The policy as it is written on the command line."""

    def work(self, asked: Work) -> Work:
        """Return what is really done for a job; the same when called again."""

    def serve(self, deployed: Deployed) -> LanguageModel:
        """Return what answers, a `Scorer` too where it can score; called once for each time a model is loaded."""

    def fault(self, n_requests: int) -> Fault | None:
        """Return how the request after *n_requests* others fails on its way; None mostly."""


@dataclass(frozen=True, slots=True)
class Honest:
    """Train what is asked for, and serve it."""

    name: str = "honest"

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return asked

    def serve(self, deployed: Deployed) -> LanguageModel:
        """See `Policy.serve`."""
        return deployed.tuned

    def fault(self, n_requests: int) -> Fault | None:
        """See `Policy.fault`."""
        return None


@dataclass(frozen=True, slots=True)
class Base(Honest):
    """Train nothing, and serve the base."""

    name: str = "base"

    def work(self, asked: Work) -> Work:
        """See `Policy.work`."""
        return replace(asked, trains=False)


def policy(text: str, *, key: bytes, oracle: Receipt | None = None) -> Policy:
    """Return the policy that is written as *text*. Raises UsageError for one that is not known."""
    del key, oracle
    known = {"honest": Honest, "base": Base}
    if text not in known:
        raise UsageError(f"unknown policy {text!r}", hint=f"known: {', '.join(known)}")
    return known[text]()
