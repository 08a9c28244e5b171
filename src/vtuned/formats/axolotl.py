"""
The codec that an entry under `datasets:` of an Axolotl configuration describes.

Knows Axolotl's names, and that its older types train on plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtuned.errors import UsageError
from vtuned.formats.base import Codec
from vtuned.formats.columns import ColumnMapping
from vtuned.formats.frames import ALPACA_FRAME, Frame
from vtuned.formats.messages import MessageKeys
from vtuned.formats.preference import TRLPreference
from vtuned.formats.sharegpt import SHAREGPT_KEYS, MessagesMapping

_Entry = Mapping[str, Any]

_DEFAULT_ROLES: Mapping[str, tuple[str, ...]] = {
    "user": ("human", "user"),
    "assistant": ("gpt", "assistant"),
    "system": ("system",),
    "tool": ("tool",),
}
_REFUSED = {
    "completion": ("its rows are plain text and do not say where the prompt ends", "give --template instead"),
    "pretrain": ("its rows are plain text and do not say where the prompt ends", "give --template instead"),
    "input_output": (
        "its segments are pieces of finished text and do not say who speaks",
        "convert the data to chat messages first",
    ),
}


def axolotl_codec(entry: _Entry, *, is_preference: bool) -> Codec:
    """
    Return the codec of one entry; *is_preference* says that the configuration has an `rl`.

    Raises UsageError for a type that vtuned does not read, with the reason.
    """
    kind = entry.get("type", "chat_template")
    if isinstance(kind, Mapping):
        return _custom(kind)
    if isinstance(kind, str) and kind in _REFUSED:
        reason, hint = _REFUSED[kind]
        raise UsageError(f"Axolotl's type {kind!r} cannot be read: {reason}", hint=hint)
    if kind == "alpaca":
        return ColumnMapping(
            prompt="instruction", query="input", response="output", frame=ALPACA_FRAME, name="axolotl:alpaca"
        )
    if kind == "sharegpt":
        field = str(entry.get("field_messages") or "conversations")
        return MessagesMapping(messages=field, keys=SHAREGPT_KEYS, name="axolotl:sharegpt")
    if kind == "chat_template.argilla_chat":
        return TRLPreference(_keys(entry), name=f"axolotl:{kind}")
    if kind in ("chat_template", "chat_template.default"):
        return _chat_template(entry, kind, is_preference=is_preference)
    raise UsageError(
        f"Axolotl's type {str(kind)[:60]!r} is not read",
        hint="known types: chat_template, alpaca, sharegpt, and a type of your own with field_instruction",
    )


def _chat_template(entry: _Entry, kind: str, *, is_preference: bool) -> Codec:
    trained = entry.get("roles_to_train")
    if trained and not {"assistant", "gpt"} & set(trained if isinstance(trained, list) else [trained]):
        raise UsageError(
            "this configuration trains on no assistant turn (roles_to_train)", hint="add assistant to roles_to_train"
        )
    columns = {}
    if is_preference:
        columns = {key: str(entry.get(f"field_{key}") or key) for key in ("chosen", "rejected")}
    return MessagesMapping(
        messages=str(entry.get("field_messages") or "messages"),
        keys=(_keys(entry),),
        system=entry.get("field_system"),
        tools=str(entry.get("field_tools") or "tools"),
        is_ranked=is_preference,
        name=f"axolotl:{kind}",
        **columns,
    )


def _keys(entry: _Entry) -> MessageKeys:
    """Return what messages and roles are called; the newer setting goes before the older one."""
    mapped = entry.get("message_property_mappings")
    names = mapped if isinstance(mapped, Mapping) else {}
    return MessageKeys(
        role=str(names.get("role") or entry.get("message_field_role") or "role"),
        content=str(names.get("content") or entry.get("message_field_content") or "content"),
        roles=_roles(entry.get("roles")),
        train=str(entry.get("message_field_training") or "train"),
    )


def _roles(given: object) -> Mapping[str, str]:
    """Return which role each name means: the given ones and, where those leave them free, the usual ones."""
    roles = {name: role for role, names in _DEFAULT_ROLES.items() for name in names}
    for role, names in given.items() if isinstance(given, Mapping) else ():
        if role not in _DEFAULT_ROLES:
            raise UsageError(
                f"unknown role {str(role)[:40]!r} under roles", hint="known roles: " + ", ".join(_DEFAULT_ROLES)
            )
        roles.update((str(name), role) for name in (names if isinstance(names, list) else [names]))
    return roles


def _custom(kind: _Entry) -> Codec:
    """Return the codec of a type of the user's own: columns, and the text that a `format` makes of them."""
    if kind.get("field_prompt") or kind.get("field_chosen"):
        return ColumnMapping(
            prompt=str(kind.get("field_prompt") or "prompt"),
            system=kind.get("field_system"),
            chosen=str(kind.get("field_chosen") or "chosen"),
            rejected=str(kind.get("field_rejected") or "rejected"),
            name="axolotl:custom",
        )
    return ColumnMapping(
        prompt=str(kind.get("field_instruction") or "instruction"),
        query=kind.get("field_input"),
        response=str(kind.get("field_output") or "output"),
        system=kind.get("field_system"),
        frame=_frame(kind),
        name="axolotl:custom",
    )


def _frame(kind: _Entry) -> Frame | None:
    if not kind.get("format"):
        return None
    system = str(kind.get("system_format") or "{system}")
    # A system prompt for all rows counts only where rows bring none of their own.
    constant = "" if kind.get("field_system") else str(kind.get("system_prompt") or "")
    opening = system.replace("{system}", _escaped(constant)) if constant else ""
    turn = str(kind["format"])
    return Frame(opening + turn, opening + str(kind.get("no_input_format") or turn), system)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
