"""A training of which only the model is wanted, for as long as this process runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from vtuned.conversation import Conversation
from vtuned.lm.huggingface import HuggingFaceLM, detached
from vtuned.providers import local
from vtuned.providers.settings import TrainingSettings


def after_one_pass(
    base: HuggingFaceLM,
    rows: Iterable[Conversation],
    settings: TrainingSettings,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> HuggingFaceLM:
    """
    Return what training on *rows* makes of *base*, which stays as it is; what is written on the way is removed.

    *on_step* is told how many steps are done, and how many there are. Raises what `vtuned.providers.local.finetune` raises.
    """
    copy = detached(base)
    with tempfile.TemporaryDirectory() as folder:
        local.finetune(
            rows, copy, Path(folder) / "pass", settings, data_digest="", watcher=local.Watcher(on_step=on_step)
        )
    # The copy was changed in place; made anew, it answers as it will, without dropout.
    return HuggingFaceLM(base.name, copy.model, copy.tokenizer)
