"""Prompt and completion rows: `{"prompt": "…", "completion": "…", …}`, as Together, TRL and Nebius take them."""

from __future__ import annotations

from collections.abc import Mapping

from vtuned.containers.base import Place
from vtuned.conversation import Conversation, Host, Turn
from vtuned.formats.base import Places


class PromptCompletion:
    """See `vtuned.formats.Codec`."""

    name = "prompt-completion"
    expected = '{"prompt": "…", "completion": "…"}'

    def recognises(self, row: object) -> bool:
        """See `Codec.recognises`."""
        return isinstance(row, Mapping) and "prompt" in row and "completion" in row

    def read(self, row: Mapping[str, object]) -> Conversation:
        """
        See `Codec.read`.

        In TRL's unpaired preference rows (a boolean `label`) the completion is wanted only if the label is true: with
        false it is trained away from, so it carries no loss.
        """
        for key in ("prompt", "completion"):
            if not isinstance(row.get(key), str):
                raise ValueError(f"{key} must be a string")
        is_wanted = row.get("label") is not False
        return Conversation(
            (Turn("user", str(row["prompt"])), Turn("assistant", str(row["completion"]), carries_loss=is_wanted))
        )

    def places(self, row: Mapping[str, object], host: Host) -> Places:
        """See `Codec.places`."""
        return Places((Place(("prompt",)),), Place(("completion",), 0))


PROMPT_COMPLETION = PromptCompletion()
