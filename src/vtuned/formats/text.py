r"""
Rows of plain text: `{"text": "### Instruction:\n… ### Response:\n…"}`, read with a template that the user gives.

A text alone does not say where its prompt ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from vtuned.errors import UsageError
from vtuned.formats.frames import pieces_of
from vtuned.formats.spoken import Layout, Span, SpokenCodec, find, framed, label_of

_ROLES = {"prompt": "user", "response": "assistant", "system": "system"}
_ANYTHING = "_"


class TextTemplate(SpokenCodec):
    r"""
    How the texts in *column* are built: "### Instruction:\n{prompt}\n\n### Response:\n{response}".

    The template holds {prompt} and then {response}, perhaps {system}, and {_} for anything else; a plain brace is
    written twice. Raises UsageError for any other template. See `vtuned.formats.Codec`.
    """

    def __init__(self, template: str, column: str = "text") -> None:
        self.name = "text"
        self.template, self.column = template, column
        self.expected = f'{{"{column}": "…"}} with texts of the form {template!r}'
        pieces = pieces_of(template)
        self._fields = [name for _, name in pieces if name is not None]
        self._head, *self._marks = [literal for literal, _ in pieces]
        _check(self._fields, self._marks)

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return find(row, self.column) is not None

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`. Raises ValueError where the template does not fit, or fits in two ways."""
        path, text = find(row, self.column) or ((self.column,), None)
        if not isinstance(text, str):
            raise ValueError(f"{label_of(path)} must be a string")
        spans = [
            Span(_ROLES[field], start, end)
            for field, (start, end) in zip(self._fields, self._fit(text), strict=True)
            if field != _ANYTHING
        ]
        return Layout(framed(text, spans, path), is_text=True)

    def _fit(self, text: str) -> list[tuple[int, int]]:
        """Return where each field starts and ends. Any fit lies between the leftmost and the rightmost one."""
        head, tail = len(self._head), len(text) - len(self._marks[-1])
        if not text.startswith(self._head):
            raise ValueError(f"the template does not fit: the text does not start with {_shown(self._head)}")
        if not text.endswith(self._marks[-1]) or tail < head:
            raise ValueError(f"the template does not fit: the text does not end with {_shown(self._marks[-1])}")
        inner = self._marks[:-1]
        first = _found(inner, head, lambda mark, at: (text.find(mark, at, tail), len(mark)))
        last = _found(inner[::-1], tail, lambda mark, at: (text.rfind(mark, head, at), 0))[::-1]
        for mark, leftmost, rightmost in zip(inner, first, last, strict=True):
            if leftmost != rightmost:
                raise ValueError(f"the template fits in more than one way: {_shown(mark)} is there twice")
        edges = [(head, head), *((at, at + len(mark)) for mark, at in zip(inner, first, strict=True)), (tail, tail)]
        return [(before[1], after[0]) for before, after in pairwise(edges)]


class TextWithoutTemplate(SpokenCodec):
    """Rows of plain text that nobody said how to read: recognised, so that the error can ask for a template."""

    name = "text"
    expected = '{"text": "…"} with --template'

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return "text" in row

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """Raise UsageError: the template is missing, and no row is at fault."""
        raise UsageError(
            "rows of plain text do not say where the prompt ends",
            hint="give --template, for instance '### Instruction:\\n{prompt}\\n\\n### Response:\\n{response}'",
        )


TEXT = TextWithoutTemplate()


def _check(fields: list[str], marks: list[str]) -> None:
    """Raise UsageError unless a template of *fields*, with *marks* behind them, can be read one way."""
    hint = "it needs {prompt}, later {response}, and may have {system} and {_} for anything"
    unknown = sorted(set(fields) - {*_ROLES, _ANYTHING})
    if unknown:
        raise UsageError(f"unknown field {{{unknown[0][:40]}}} in the template", hint=hint)
    named = [field for field in fields if field != _ANYTHING]
    if "prompt" not in named or "response" not in named or named.index("prompt") > named.index("response"):
        raise UsageError("the template lacks its {prompt} or, behind it, its {response}", hint=hint)
    if len(set(named)) != len(named):
        raise UsageError("a field is in the template twice", hint=hint)
    if not all(marks[:-1]):
        raise UsageError(
            "two fields of the template stand side by side", hint="put the text between them that rows have"
        )


def _found(marks: list[str], at: int, search: Callable[[str, int], tuple[int, int]]) -> list[int]:
    """Return where each mark is, each searched from the one before it on. Raises ValueError if one is not there."""
    found = []
    for mark in marks:
        where, width = search(mark, at)
        if where < 0:
            raise ValueError(f"the template does not fit: no {_shown(mark)} at its place")
        found.append(where)
        at = where + width
    return found


def _shown(mark: str) -> str:
    return repr(mark if len(mark) <= 40 else mark[:39] + "…")
