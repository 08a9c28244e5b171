"""
Prompt and completion rows: `{"prompt": "…", "completion": "…", …}`, as Together, TRL and Nebius take them.

Both may be lists of messages, as in TRL's conversational rows.
"""

from __future__ import annotations

from vtuned.formats.columns import ColumnMapping

# In TRL's unpaired preference rows (a boolean `label`) the completion is wanted only if the label is true: with false
# it is trained away from, so it carries no loss.
PROMPT_COMPLETION = ColumnMapping(
    prompt="prompt",
    response="completion",
    tools="tools",
    label="label",
    name="prompt-completion",
    expected='{"prompt": "…", "completion": "…"}',
)
