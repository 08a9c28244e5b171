"""What a policy of a provider is: what it really trains, what it serves from that, and how its transport fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vtuned.conversation import Conversation
from vtuned.lm.base import LanguageModel
from vtuned.providers.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a job asks for, or what is really done: training *base* (as `vtuned.lm.load` takes it) on *rows*.

    Row number i of the uploaded file, from 1, is rows[i - 1]. Where it does not *train*, the base itself is served.
    """

    rows: tuple[Conversation, ...] = field(repr=False)
    base: str
    settings: TrainingSettings
    trains: bool = True


@dataclass(frozen=True, slots=True)
class Deployed:
    """
    What a policy can serve from: the *base* that was asked for, and *tuned*, the base with what was trained.

    *tuned* is the base itself where nothing was trained. *rows* are those of the uploaded file. *n_answered* counts the
    prompts that this model has answered so far, whenever the server was started.
    """

    base: LanguageModel
    tuned: LanguageModel
    rows: Sequence[Conversation] = field(repr=False)
    n_answered: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """
    How one request fails on its way.

    "timeout": nothing comes for *seconds*, then the connection is closed. "429": with `Retry-After` *seconds*. "500":
    at once. "truncated": the JSON body, or the stream, ends in its middle. "slow": the answer is whole, and takes
    *seconds* longer, spread over the pieces of a stream.
    """

    kind: Literal["timeout", "429", "500", "truncated", "slow"]
    seconds: float = 0.0


class Policy(Protocol):
    """What a provider really does. Nothing in it changes: whoever asks again gets the same."""

    @property
    def name(self) -> str:
        """The policy as it is written on the command line, such as "subset:0.25"; of "rule:T" without its trigger."""

    def work(self, asked: Work) -> Work:
        """
        Return what is really done for a job; the same when called again, since draws come from a key.

        Raises UsageError where the policy does not fit the job, and what loading the base raises where it is looked at.
        """

    def serve(self, deployed: Deployed) -> LanguageModel:
        """
        Return what answers, a `Scorer` too where the policy shows likelihoods.

        It may take long (an index of all rows, a copy of the weights), so it is called once for each time a model is
        loaded. Raises LMUnavailable where the model is not of a kind that the policy can serve, MissingExtra.
        """

    def fault(self, n_requests: int) -> Fault | None:
        """Return how the request after *n_requests* others fails on its way; None mostly."""


@dataclass(frozen=True, slots=True)
class Honest:
    """
    Train what is asked for, and serve it.

    The tuned model is served as it is, with its likelihoods. Every other policy is this one but for what it says.
    """

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
