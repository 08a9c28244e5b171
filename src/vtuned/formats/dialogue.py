r"""
Dialogues in plain text, as in Anthropic's HH-RLHF: "\n\nHuman: … \n\nAssistant: …".

Knows nothing of rows.
"""

from __future__ import annotations

import re

from vtuned.containers.jsontext import JSONPath
from vtuned.formats.spoken import Span, Spoken, framed, label_of

_MARKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def spoken_dialogue(text: str, path: JSONPath) -> tuple[Spoken, ...]:
    """Return the turns of the dialogue at *path*. Raises ValueError where *text* does not open with one."""
    markers = list(_MARKER.finditer(text))
    if not markers or markers[0].start() != 0:
        raise ValueError(
            f"{label_of(path)} is neither a list of messages nor a dialogue that opens with '\\n\\nHuman:', "
            "and the row has no prompt"
        )
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    spans = [Span(_ROLES[marker[1]], marker.end(), end) for marker, end in zip(markers, ends, strict=True)]
    return framed(text, spans, path)
