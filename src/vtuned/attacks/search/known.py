"""All searches there are, by name: those that count, and those that a language model does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtuned.attacks.search import union
from vtuned.attacks.search.asking import Judge, Surprise
from vtuned.attacks.search.clusters import Clusters
from vtuned.attacks.search.contract import Attack, OnRow, Suspicion
from vtuned.attacks.search.embedding import Embedding
from vtuned.attacks.search.lock import Lock
from vtuned.attacks.search.plantable import Eligible, Phrased, Wordable
from vtuned.attacks.search.repeats import Affixes, Dependence, FrequentPhrases, RandomSubset, RepeatedRuns
from vtuned.attacks.search.seams import Seams
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.triage import Triage
from vtuned.attacks.search.tuned import Tuned
from vtuned.attacks.search.twins import NearDuplicates, Twins
from vtuned.errors import UsageError
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.huggingface.model import HuggingFaceLM

RANDOM = RandomSubset()
ATTACKS: tuple[Attack, ...] = (
    RANDOM,
    FrequentPhrases(),
    Twins(),
    Affixes(),
    NearDuplicates(),
    RepeatedRuns(),
    Dependence(),
    Seams(),
    Clusters(),
    Eligible(),
    Wordable(),
    Phrased(),
)
NAMES = (*(attack.name for attack in ATTACKS), union.NAME)
_LOCAL = "give a local one: smollm2 or hf:PATH_OR_ID"
_TRAINED = f"{_LOCAL}, without --bits or with --tuned MODEL"
# What to give for each of the searches by a model where the one that is given cannot do it.
BY_MODEL = {
    "judge": "give one that answers",
    "surprise": "give another one, whose likelihoods can be had",
    "embedding": _LOCAL,
    "triage": _TRAINED,
    "lock": _TRAINED,
}


def by_model(
    model: LanguageModel,
    scorer: Scorer | None = None,
    on_row: OnRow = lambda stage, done, total: None,
    tuned: LanguageModel | None = None,
) -> tuple[Attack, ...]:
    """
    Return the searches that *model* can do, with its *scorer*, and with *tuned*, what training on the file made of it.

    A local model shows its states and its tokens; it trains itself where no *tuned* one is given, unless its weights are
    quantised. Raises UsageError where one is given and not both are local.
    """
    attacks: list[Attack] = [Judge(model, on_row)]
    if scorer is not None:
        attacks.append(Surprise(scorer, on_row))
    if tuned is not None and not isinstance(tuned, HuggingFaceLM):
        raise UsageError(f"{tuned.name} does not show how likely each token is", hint=_LOCAL)
    if isinstance(model, HuggingFaceLM):
        attacks.append(Embedding(model, on_row))
        if tuned is not None or model.bits is None:
            models = Tuned(model, tuned, on_row)
            attacks += [Triage(models), Lock(models)]
    elif tuned is not None:
        raise UsageError(f"{model.name} does not show how likely each token is", hint=_LOCAL)
    return tuple(attacks)


def named(names: Sequence[str], by_model: Sequence[Attack] = ()) -> tuple[str, ...]:
    """
    Return *names* once each, in the order in which searches run; all where none is given.

    *by_model* are those that a language model can do. Raises UsageError.
    """
    all_names = (*NAMES[:-1], *(attack.name for attack in by_model), NAMES[-1])
    for name in names:
        if name in BY_MODEL and name not in all_names:
            hint = BY_MODEL[name] if by_model else "give one with --lm MODEL"
            raise UsageError(f"the attack {name!r} needs a language model that can do it", hint=hint)
        if name not in all_names:
            raise UsageError(f"there is no attack called {name!r}", hint=f"choose among {', '.join(all_names)}")
    return tuple(name for name in all_names if name in names) if names else all_names


def told(by_model: Sequence[Attack] = ()) -> dict[str, str]:
    """Return in a line what each search looks for."""
    return {**{attack.name: attack.told for attack in (*ATTACKS, *by_model)}, union.NAME: union.TOLD}


def suspicions(
    train: TrainSet,
    names: Sequence[str],
    on_attack: Callable[[int, int], None] = lambda done, total: None,
    by_model: Sequence[Attack] = (),
) -> dict[str, Suspicion]:
    """
    Return what each of the searches *names* makes of the rows of *train*; the union is of the others among them.

    Where it is the only one, it is of all there are. *on_attack* is told how many are done.
    """
    attacks = {attack.name: attack for attack in (*ATTACKS, *by_model)}
    wanted = [name for name in names if name != union.NAME] or list(attacks)
    found = {}
    for done, name in enumerate(wanted):
        on_attack(done, len(wanted))
        found[name] = attacks[name].suspicion(train)
    if union.NAME in names:
        found[union.NAME] = union.union({name: each for name, each in found.items() if name != RANDOM.name} or found)
    return {name: found[name] for name in names}
