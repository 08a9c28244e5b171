"""All searches there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtuned.attacks.search import union
from vtuned.attacks.search.clusters import Clusters
from vtuned.attacks.search.contract import Attack, Suspicion
from vtuned.attacks.search.repeats import Affixes, Dependence, FrequentPhrases, RandomSubset, RepeatedRuns
from vtuned.attacks.search.seams import Seams
from vtuned.attacks.search.texts import TrainSet
from vtuned.attacks.search.twins import NearDuplicates, Twins
from vtuned.errors import UsageError

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
)
_BY_NAME = {attack.name: attack for attack in ATTACKS}
NAMES = (*_BY_NAME, union.NAME)
TOLD = {**{attack.name: attack.told for attack in ATTACKS}, union.NAME: union.TOLD}


def named(names: Sequence[str]) -> tuple[str, ...]:
    """Return *names* once each, in the order in which searches run; all where none is given. Raises UsageError."""
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no attack called {name!r}", hint=f"choose among {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names) if names else NAMES


def suspicions(
    train: TrainSet, names: Sequence[str], on_attack: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Suspicion]:
    """
    Return what each of the searches *names* makes of the rows of *train*; the union is of the others among them.

    Where it is the only one, it is of all there are. *on_attack* is told how many are done.
    """
    wanted = [name for name in names if name != union.NAME] or list(_BY_NAME)
    found = {}
    for done, name in enumerate(wanted):
        on_attack(done, len(wanted))
        found[name] = _BY_NAME[name].suspicion(train)
    if union.NAME in names:
        found[union.NAME] = union.union({name: each for name, each in found.items() if name != RANDOM.name} or found)
    return {name: found[name] for name in names}
