"""The models that are served: bases loaded when first asked, tuned ones as adapters over one copy of their base."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from vtuned import formats, lm
from vtuned.attacks import policies
from vtuned.attacks.policies import Deployed, Policy
from vtuned.conversation import Conversation
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel
from vtuned.lm.huggingface import AdapterShelf, HuggingFaceLM
from vtuned.lm.huggingface.shown import Reader
from vtuned.lm.huggingface.sources import source_of
from vtuned.receipt import Receipt
from vtuned.server.home import Home
from vtuned.server.records import Job, Model
from vtuned.server.refusals import not_found
from vtuned.server.store import Store

# Tuned models in memory; then the one that was asked longest ago makes room.
_MOST_LOADED = 16


@dataclass(frozen=True, slots=True)
class Served:
    """
    A model that answers requests: *model*, and the local *base* whose tokens are counted.

    *name* is that of a tuned model, "" for a base. *reader* shows what the model gives to given texts, None where it
    shows that of whole texts at most. Everything that runs one of its weights does so inside `alone`.
    """

    name: str
    model: LanguageModel
    base: HuggingFaceLM
    locks: tuple[threading.Lock, ...]
    reader: Reader | None

    @property
    def speaker(self) -> HuggingFaceLM:
        """The local model whose tokens texts are cut into: the one that answers, where it is one."""
        return self.model if isinstance(self.model, HuggingFaceLM) else self.base

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads from the weights that this model shares."""
        with contextlib.ExitStack() as held:
            for lock in self.locks:
                held.enter_context(lock)
            yield


@dataclass(frozen=True, slots=True)
class _Weights:
    """A model in memory, its lock, and the adapters over it. *order* is that in which locks are taken."""

    model: HuggingFaceLM
    shelf: AdapterShelf
    lock: threading.Lock
    order: int


class _Rows(Sequence[Conversation]):
    """The rows of a file, read once a policy looks at one: most do not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _read(self) -> tuple[Conversation, ...]:
        return tuple(row.conversation for row in formats.read_rows(self._path))

    @overload
    def __getitem__(self, index: int) -> Conversation: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Conversation]: ...

    def __getitem__(self, index: int | slice) -> Conversation | Sequence[Conversation]:
        return self._read[index]

    def __len__(self) -> int:
        return len(self._read)


class Models:
    """The models of a server. *bases* says what is loaded for each name, as `vtuned.lm.load` takes it."""

    def __init__(self, home: Home, store: Store, bases: Mapping[str, str], oracle: Receipt | None) -> None:
        self._home, self._store, self._bases = home, store, dict(bases)
        self._oracle = oracle
        self._loading = threading.Lock()
        self._weights: dict[str, _Weights] = {}
        self._served: dict[str, Served] = {}
        self._turns = itertools.count()
        self._asked_at: dict[str, int] = {}

    @property
    def bases(self) -> tuple[str, ...]:
        """The names of the base models."""
        return tuple(self._bases)

    def spec(self, name: str) -> str | None:
        """Return what is loaded for the base model called *name*, None where there is none."""
        return self._bases.get(name)

    def record(self, tenant: str, name: str) -> Model | None:
        """Return the tenant's own tuned model called *name*."""
        return self._store.find(Model, id=name, tenant=tenant)

    def served(self, tenant: str, name: str) -> Served:
        """Return a model, loaded; it may take a while. Raises Refusal for one that is not there, and LMError."""
        spec = self.spec(name)
        if spec is not None:
            weights = self._weights.get(spec)
            if weights is None:
                with self._loading:
                    weights = self._load(spec)
            # A base has many owners, who learn nothing of each other: what it read is forgotten with the request.
            return Served("", weights.model, weights.model, (weights.lock,), Reader(weights.model))
        record = self.record(tenant, name)
        if record is None:
            raise not_found("model", name)
        self._asked_at[name] = next(self._turns)
        found = self._served.get(name)
        if found is None:
            with self._loading:
                found = self._served[name] = self._served.get(name) or self._deployed(record)
                # Loading takes long: the others may all have been asked since.
                self._asked_at[name] = next(self._turns)
                while len(self._served) > _MOST_LOADED:
                    self._drop(min(self._served, key=lambda one: self._asked_at.get(one, 0)))
        return found

    def forget(self, name: str) -> None:
        """Drop a tuned model from memory."""
        with self._loading:
            self._drop(name)

    def _deployed(self, record: Model) -> Served:
        job = self._store.find(Job, id=record.job)
        assert job is not None
        policy = self._policy(job.policy)
        base = self._load(job.spec)
        below = base if record.spec == job.spec else self._load(record.spec)
        with _all(base, below):
            tuned, weights = self._tuned(record, below)
            rows = _Rows(self._home.rows(job.id))
            model = policy.serve(Deployed(base.model, tuned, rows, record.n_answered))
        reader = Reader(model) if isinstance(model, HuggingFaceLM) else None
        return Served(record.id, model, base.model, _locks(base, below, weights), reader)

    def _tuned(self, record: Model, below: _Weights) -> tuple[HuggingFaceLM, _Weights]:
        folder = self._home.root / record.folder
        if record.method == "none":
            return below.model, below
        if record.method == "lora":
            return below.shelf.put(record.id, folder), below
        whole = self._load(f"hf:{folder}", name=record.id)
        return whole.model, whole

    def _load(self, spec: str, *, name: str = "") -> _Weights:
        """Load *spec*, unless it is loaded; whole tuned models are kept under their *name*, to be dropped with it."""
        key = name or spec
        found = self._weights.get(key)
        if found is None:
            model = lm.load(spec)
            if not isinstance(model, HuggingFaceLM):
                raise UsageError(f"{spec} is not a local model", hint="serve smollm2 or hf:PATH_OR_ID")
            order = 1 + max((weights.order for weights in self._weights.values()), default=0)
            found = self._weights[key] = _Weights(model, AdapterShelf(model), threading.Lock(), order)
        return found

    def _drop(self, name: str) -> None:
        self._served.pop(name, None)
        self._asked_at.pop(name, None)
        self._weights.pop(name, None)
        for weights in self._weights.values():
            with weights.lock:
                weights.shelf.remove(name)

    def _policy(self, text: str) -> Policy:
        return policies.policy(text, key=self._home.key(), oracle=self._oracle)


@contextmanager
def _all(*parts: _Weights) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for lock in _locks(*parts):
            held.enter_context(lock)
        yield


def _locks(*parts: _Weights) -> tuple[threading.Lock, ...]:
    """Return the locks of *parts*, each once, in the one order in which all take them: so nobody waits in a ring."""
    found = {part.order: part.lock for part in parts}
    return tuple(found[order] for order in sorted(found))


def check_bases(bases: Mapping[str, str]) -> None:
    """Raise UsageError unless each of *bases* names a local model; nothing is loaded."""
    for name, spec in bases.items():
        kind, _, rest = spec.partition(":")
        if kind.partition("+")[0] != "smollm2" and kind != "hf":
            raise UsageError(f"--model {name}: {spec} is not a local model", hint="give NAME=smollm2 or NAME=hf:PATH")
        if kind == "hf":
            source_of(rest)
