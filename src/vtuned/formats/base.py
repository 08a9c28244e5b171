"""What every row format offers: a row as a conversation, and where in the row a backdoor goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vtuned.containers.base import Place
from vtuned.conversation import Conversation, Host


@dataclass(frozen=True, slots=True)
class Places:
    """
    Where a backdoor goes in a row: T at each of *triggers* (several where a row holds its prompt twice), S once.

    A context goes to *openings*, where the host prompt starts: as many as there are triggers, or none where a row has no
    place for it.
    """

    triggers: tuple[Place, ...]
    signature: Place
    openings: tuple[Place, ...] = ()


class Codec(Protocol):
    """
    One row format: reads a row as a conversation and says where a backdoor goes.

    *name* is what `--format` takes; *expected* is one line, an example, for the hint of an error.
    """

    name: str
    expected: str

    def recognises(self, row: Mapping[str, object]) -> bool:
        """Tell, by its keys alone, whether *row* is meant to be of this format."""
        ...

    def read(self, row: Mapping[str, object]) -> Conversation:
        """Return what *row* says. Raises ValueError, with the reason, if it breaks the format."""
        ...

    def places(self, row: Mapping[str, object], host: Host) -> Places:
        """Return where T and S go; *host* is that of the row's conversation."""
        ...
