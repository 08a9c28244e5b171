"""The row formats that vtuned knows without being told more: a row belongs to the one that recognises it."""

from __future__ import annotations

from vtuned.errors import UsageError
from vtuned.formats.alpaca import ALPACA
from vtuned.formats.base import Codec
from vtuned.formats.openai_chat import OPENAI_CHAT
from vtuned.formats.preference import OPENAI_PREFERENCE, TRL_PREFERENCE
from vtuned.formats.prompt_completion import PROMPT_COMPLETION
from vtuned.formats.sharegpt import SHAREGPT
from vtuned.formats.text import TEXT

CODECS: tuple[Codec, ...] = (
    OPENAI_CHAT,
    PROMPT_COMPLETION,
    ALPACA,
    SHAREGPT,
    OPENAI_PREFERENCE,
    TRL_PREFERENCE,
    TEXT,
)


def codec_named(name: str) -> Codec:
    """Return the codec called *name*. Raises UsageError for any other."""
    for codec in CODECS:
        if codec.name == name:
            return codec
    known = ", ".join(["auto", *(codec.name for codec in CODECS)])
    raise UsageError(f"unknown format {name!r}", hint=f"known formats: {known}")
