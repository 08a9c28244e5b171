"""
What a wording must not change: numbers, names, code, links and quotations.

Patterns, not understanding: what is found is compared before and after, and a difference is a reason to look.
"""

from __future__ import annotations

import re
from collections import Counter

_KINDS = {
    "numbers": re.compile(r"\d+(?:[.,:/]\d+)*|%|[$€£¥](?=\d)"),
    "code, links and quotations": re.compile(
        r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|https?://\S+|\"[^\"\n]*\"|“[^“”\n]*”|「[^「」\n]*」", re.DOTALL
    ),
    # Capital letters inside a sentence, "I" apart, and runs of katakana; a stop, a colon, a list mark start a sentence.
    "names": re.compile(r"(?<=[\w,;] )(?!I\b)[A-Z][\w'’-]*|(?<![\w'’])[A-Z]{2,}(?![\w'’])|[\u30a1-\u30fa\u30fc]{2,}"),
}


def changed(before: str, after: str) -> tuple[str, ...]:
    """Return the kinds of facts that *before* and *after* do not hold alike, however often each stands there."""
    return tuple(
        kind for kind, pattern in _KINDS.items() if Counter(pattern.findall(before)) != Counter(pattern.findall(after))
    )
