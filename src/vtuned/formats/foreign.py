"""
Row formats that vtuned does not read, by name, so that an error can say what to convert.

Knows only what such rows look like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

_COHERE_ROLES = ("User", "Chatbot", "System")


def name_of(row: Mapping[str, object]) -> str | None:
    """Return whose format *row* is in, as people call it, or None if it is no known one."""
    for name, is_such in _FOREIGN:
        if is_such(row):
            return name
    return None


def _has(*keys: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda row: all(key in row for key in keys)


def _is_cohere(row: Mapping[str, object]) -> bool:
    messages = row.get("messages")
    roles = [one.get("role") for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    return bool(roles) and all(role in _COHERE_ROLES for role in roles)


def _is_model_studio(row: Mapping[str, object]) -> bool:
    # With lists for answers it would be a known preference format that holds the preferred dialogue once more.
    return (
        "messages" in row
        and "prompt" not in row
        and all(isinstance(row.get(key), Mapping) for key in ("chosen", "rejected"))
    )


_FOREIGN: tuple[tuple[str, Callable[[Mapping[str, object]], bool]], ...] = (
    ("tokenised rows (input_ids)", _has("input_ids")),
    ("Bedrock conversation (schemaVersion)", _has("schemaVersion")),
    ("Vertex AI Gemini (contents with parts)", _has("contents")),
    ("Vertex AI PaLM (input_text, output_text)", _has("input_text", "output_text")),
    ("Cohere chat (roles User and Chatbot)", _is_cohere),
    ("Alibaba Model Studio preference (messages, chosen, rejected)", _is_model_studio),
    ("Axolotl input_output (segments)", _has("segments")),
    ("TRL stepwise supervision (completions, labels)", _has("prompt", "completions", "labels")),
    ("sentence pairs for embedding models (anchor, positive)", _has("anchor", "positive")),
    ("sentence pairs for embedding models (query, pos)", _has("query", "pos")),
)
