"""
The plain text that a trainer makes of an instruction and its input, as Axolotl's `format` writes it.

Knows nothing of columns or rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from string import Formatter

from vtuned.containers.base import Place
from vtuned.containers.jsontext import JSONPath
from vtuned.conversation import Turn
from vtuned.errors import UsageError
from vtuned.formats.spoken import Spoken

_FIELDS = ("instruction", "input")


@dataclass(frozen=True, slots=True)
class Frame:
    """
    What stands around the fields of a row.

    *with_input* and *without_input* hold {instruction} and perhaps {input}, *system* holds {system}. Raises UsageError
    for any other field.
    """

    with_input: str
    without_input: str
    system: str = "{system}"

    def __post_init__(self) -> None:
        for template in (self.with_input, self.without_input):
            fields = [name for _, name in pieces_of(template) if name]
            if "instruction" not in fields or len(set(fields)) != len(fields) or not set(fields) <= set(_FIELDS):
                raise UsageError(
                    f"cannot use the format {template[:60]!r}", hint="it must hold {instruction} and may hold {input}"
                )
        if [name for _, name in pieces_of(self.system) if name] != ["system"]:
            raise UsageError(f"cannot use the system format {self.system[:60]!r}", hint="it must hold {system}")

    def system_turn(self, turn: Turn) -> Turn:
        """Return the system turn *turn* with what stands around it."""
        (before, _), *rest = pieces_of(self.system)
        return replace(turn, before=before, after="".join(literal for literal, _ in rest))

    def user_turn(self, instruction: tuple[JSONPath, str], query: tuple[JSONPath, str]) -> Spoken:
        """Return the user turn, from the first field to the last that is not empty, with what stands around it."""
        fields: Mapping[str, tuple[JSONPath, str]] = {"instruction": instruction, "input": query}
        written: list[tuple[str, JSONPath | None]] = []
        for literal, name in pieces_of(self.with_input if query[1] else self.without_input):
            written.append((literal, None))
            if name and (fields[name][1] or name == "instruction"):
                written.append((fields[name][1], fields[name][0]))
        said = [i for i, (_, path) in enumerate(written) if path is not None]
        texts = [text for text, _ in written]
        first, last = said[0], said[-1]
        turn = Turn(
            "user",
            "".join(texts[first : last + 1]),
            before="".join(texts[:first]),
            after="".join(texts[last + 1 :]),
        )
        return Spoken(turn, Place(written[first][1] or (), 0), (Place(written[last][1] or ()),))


def pieces_of(template: str) -> list[tuple[str, str | None]]:
    """
    Return the pieces of a template: a literal text and the name of the field behind it, None behind the last.

    Doubled braces are plain ones. Raises UsageError if the braces do not match.
    """
    try:
        parsed = [(literal, name) for literal, name, _, _ in Formatter().parse(template)]
    except ValueError as error:
        raise UsageError(f"cannot read the template: {error}", hint="write a plain brace as {{ or }}") from None
    pieces: list[tuple[str, str | None]] = []
    open_literal = ""
    for literal, name in parsed:
        open_literal += literal
        if name is not None:
            pieces.append((open_literal, name))
            open_literal = ""
    return [*pieces, (open_literal, None)]


ALPACA_FRAME = Frame(
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
)
