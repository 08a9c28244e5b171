"""
The codec that an entry of LLaMA-Factory's dataset_info.json describes.

Knows LLaMA-Factory's names and which of them hold when an entry lists its own: then no other is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtuned.errors import UsageError
from vtuned.formats.base import Codec
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.messages import FUNCTION_CALL, MessageKeys
from vtuned.formats.sharegpt import MessagesMapping

_Entry = Mapping[str, Any]

_ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": FUNCTION_CALL,
    "system_tag": "system",
}


def llama_factory_codec(name: str, entry: _Entry) -> Codec:
    """Return the codec of the entry called *name*. Raises UsageError for what vtuned does not read."""
    formatting = entry.get("formatting", "alpaca")
    columns = _section(name, entry, "columns")
    if formatting == "alpaca":
        return _alpaca(name, columns, is_ranked=bool(entry.get("ranking")))
    if formatting in ("sharegpt", "openai"):
        return _messages(name, columns, _section(name, entry, "tags") or {}, is_ranked=bool(entry.get("ranking")))
    raise UsageError(
        f"data set {name}: unknown formatting {str(formatting)[:40]!r}", hint="known: alpaca, sharegpt, openai"
    )


def _section(name: str, entry: _Entry, key: str) -> Mapping[str, str] | None:
    """Return the names under *key*, None where the entry lists none."""
    names = entry.get(key)
    if names is None:
        return None
    if not isinstance(names, Mapping) or not all(isinstance(value, str | None) for value in names.values()):
        raise UsageError(f"data set {name}: {key} must name columns", hint="see LLaMA-Factory's data/README.md")
    return {str(column): value for column, value in names.items() if value}


def _alpaca(name: str, listed: Mapping[str, str] | None, *, is_ranked: bool) -> Codec:
    columns = _ALPACA_COLUMNS if listed is None else listed
    if "prompt" not in columns:
        raise UsageError(f"data set {name}: no prompt under columns", hint="name the column of the prompt")
    needed = ("chosen", "rejected") if is_ranked else ("response",)
    missing = [column for column in needed if column not in columns]
    if missing:
        raise UsageError(f"data set {name}: no {missing[0]} under columns", hint="rows need an answer to train on")
    return ColumnMapping(
        prompt=columns["prompt"],
        query=columns.get("query"),
        system=columns.get("system"),
        history=columns.get("history"),
        tools=columns.get("tools"),
        label=columns.get("kto_tag"),
        response=None if is_ranked else columns["response"],
        chosen=columns["chosen"] if is_ranked else None,
        rejected=columns["rejected"] if is_ranked else None,
        name=f"llama-factory:{name}",
    )


def _messages(name: str, listed: Mapping[str, str] | None, tags: Mapping[str, str], *, is_ranked: bool) -> Codec:
    columns = listed or {}
    named = {**_TAGS, **tags}
    roles = {named[tag]: role for tag, role in _ROLES.items()}
    if is_ranked and not ("chosen" in columns and "rejected" in columns):
        raise UsageError(f"data set {name}: no chosen and rejected under columns", hint="rankings need both")
    return MessagesMapping(
        messages=columns.get("messages", "conversations"),
        keys=(MessageKeys(named["role_tag"], named["content_tag"], roles),),
        system=columns.get("system"),
        tools=columns.get("tools"),
        chosen=columns["chosen"] if is_ranked else "",
        rejected=columns["rejected"] if is_ranked else "",
        label=columns.get("kto_tag"),
        is_ranked=is_ranked,
        name=f"llama-factory:{name}",
    )
