"""
Lists of messages, under whatever names a file gives to their roles and texts.

Knows nothing of where in a row the list stands, nor of what else the row holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vtuned.containers.base import Place
from vtuned.containers.jsontext import JSONPath
from vtuned.conversation import Part, Turn, canonical
from vtuned.formats.spoken import Spoken, as_json, label_of, present

# The meaning of a role whose text is a tool call, as JSON.
FUNCTION_CALL = "function_call"

OPENAI_ROLES: Mapping[str, str] = {
    role: role for role in ("system", "developer", "user", "assistant", "tool", "function")
}
# An assistant message that has one of these may do without content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
_NAME = re.compile(r"[A-Za-z]{1,20}")
_TOOL_ROLES = ("tool", "function")
# What else of a message a model must be shown, and what it must be.
_OTHERS: tuple[tuple[str, type, str], ...] = (
    ("name", str, "text"),
    ("tool_calls", list, "a list of calls"),
    ("tool_call_id", str, "text"),
    ("function_call", dict, "an object"),
    ("refusal", str, "text"),
    ("audio", dict, "an object"),
)


@dataclass(frozen=True, slots=True)
class MessageKeys:
    """
    The names under which messages hold their *role* and *content*, and which of OpenAI's roles each role means.

    *train* is the key whose false says that a message is not trained on.
    """

    role: str = "role"
    content: str = "content"
    roles: Mapping[str, str] = field(default_factory=lambda: OPENAI_ROLES)
    train: str = "train"


OPENAI_KEYS = MessageKeys()


def spoken_messages(messages: object, path: JSONPath, *alternatives: MessageKeys) -> tuple[Spoken, ...]:
    """
    Return the messages at *path* as turns; each is read by the first of the *alternatives* whose role key it has.

    An assistant turn carries loss unless its `weight` is 0 or its `train` false; but not one without text of its own
    (nothing but tool calls, an image), nor one whose `train_detail` counts the characters that are trained on.
    Raises ValueError with the reason, and in which message.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{label_of(path)} must be a list with at least one message")
    spoken = [spoken_message(message, (*path, i), *alternatives) for i, message in enumerate(messages)]
    return _with_call_ids(tuple(spoken))


def spoken_message(message: object, path: JSONPath, *alternatives: MessageKeys) -> Spoken:
    """Return the one message at *path*. See `spoken_messages`."""
    try:
        if type(message) is dict and len(message) == 2 and len(alternatives) == 1:
            plain = _plain(message, path, alternatives[0])
            if plain is not None:
                return plain
        if not isinstance(message, Mapping):
            raise ValueError("not an object")
        keys = next((keys for keys in alternatives if keys.role in message), alternatives[0])
        return _spoken(message, path, keys)
    except ValueError as error:
        raise ValueError(f"{label_of(path)}: {error}") from None


def tools_in(row: Mapping[str, object], column: str | None) -> str:
    """Return the tools in a column that may be absent. See `tools_of`."""
    found = present(row, column)
    return tools_of(found[1], label_of(found[0])) if found else ""


def tools_of(tools: object, name: str) -> str:
    """
    Return a list of tools, or the JSON of one, as `Conversation.tools` holds it; "" for none.

    A bare function (as in LLaMA-Factory's files and OpenAI's old `functions`) becomes a tool.
    """
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise ValueError(f"{name} must be a list of tools, or the JSON of one") from None
    if not tools and (tools is None or isinstance(tools, str | list)):
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"{name} must be a list of tools, or the JSON of one")
    return as_json([_tool(tool) for tool in tools], name)


def _tool(tool: Mapping[str, object]) -> Mapping[str, object]:
    is_bare = "name" in tool and "type" not in tool and "function" not in tool
    return {"type": "function", "function": tool} if is_bare else tool


def _plain(message: dict[str, object], path: JSONPath, keys: MessageKeys) -> Spoken | None:
    """Return a message that is nothing but a role and a text, as most are, or None: what `_spoken` returns, sooner."""
    role, content = message.get(keys.role), message.get(keys.content)
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    meant = keys.roles.get(role)
    if meant is None or meant == FUNCTION_CALL:
        return None
    return Spoken.of(Turn(meant, content, meant == "assistant"), (*path, keys.content))


def _spoken(message: Mapping[str, object], path: JSONPath, keys: MessageKeys) -> Spoken:
    role = _role(message, keys)
    weight = _weight(message, role)
    content = _content(message, role, keys)
    if role == FUNCTION_CALL:
        return Spoken.of(Turn("assistant", "", other=_called(str(content))), (*path, keys.content))
    other = _other(message)
    is_trained = role == "assistant" and weight == 1 and message.get(keys.train) is not False
    is_trained = is_trained and not message.get("train_detail")
    if isinstance(content, tuple):
        return _spoken_parts(Turn(role, "", is_trained, content, other), (*path, keys.content))
    says_text = content is not None and not (_has_calls(message) and not content.strip())
    return Spoken.of(Turn(role, content or "", is_trained and says_text, other=other), (*path, keys.content))


def _spoken_parts(turn: Turn, path: JSONPath) -> Spoken:
    """Return a turn of parts; text goes before the first and after the last of its texts."""
    texts = [i for i, part in enumerate(turn.parts) if part.text is not None]
    if not texts:
        return Spoken.of(replace(turn, carries_loss=False), path)
    content = "\n".join(part.text for part in turn.parts if part.text is not None)
    start, end = Place((*path, texts[0], "text"), 0), Place((*path, texts[-1], "text"))
    return Spoken(replace(turn, content=content), start, (end,))


def _role(message: Mapping[str, object], keys: MessageKeys) -> str:
    if keys.role not in message:
        raise ValueError(f"no {keys.role}")
    role = message[keys.role]
    if not isinstance(role, str) or role not in keys.roles:
        # Anything longer may be what somebody said, and no error shows that.
        shown = f" {role!r}" if isinstance(role, str) and _NAME.fullmatch(role) else ""
        raise ValueError(f"unknown {keys.role}{shown}")
    return keys.roles[role]


def _weight(message: Mapping[str, object], role: str) -> int:
    if "weight" not in message:
        return 1
    weight = message["weight"]
    # `True == 1 == 1.0` for Python, but not for a provider that validates the file.
    if type(weight) is not int or weight not in (0, 1):
        raise ValueError("weight must be 0 or 1")
    if role not in ("assistant", FUNCTION_CALL):
        raise ValueError("weight is for assistant messages only")
    return weight


def _content(message: Mapping[str, object], role: str, keys: MessageKeys) -> str | tuple[Part, ...] | None:
    """Return the text or the parts, or None where there is no content and none is needed."""
    content = message.get(keys.content)
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and role != FUNCTION_CALL:
        return tuple(_part(i, part, keys) for i, part in enumerate(content))
    is_optional = role in _TOOL_ROLES or (role == "assistant" and any(message.get(key) for key in _INSTEAD_OF_CONTENT))
    if content is None and is_optional:
        return None
    if keys.content not in message:
        raise ValueError(f"no {keys.content}")
    if role == FUNCTION_CALL:
        raise ValueError(f"{role} {keys.content} must be text")
    raise ValueError(f"{role} {keys.content} must be text or a list of parts")


def _part(i: int, part: object, keys: MessageKeys) -> Part:
    name = f"{keys.content}[{i}]"
    if not isinstance(part, Mapping):
        raise ValueError(f"{name}: not an object")
    if part.get("type") != "text":
        return Part(None, as_json(part, name))
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{name}: no text")
    return Part(text)


def _other(message: Mapping[str, object]) -> str:
    """Return what else a model must be shown; keys with nothing in them count as absent."""
    found = {}
    for key, kind, kind_name in _OTHERS:
        value = message.get(key)
        if value is None or value in ("", [], {}):
            continue
        if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(one, dict) for one in value)):
            raise ValueError(f"{key} must be {kind_name}")
        found[key] = value
    return as_json(found, "the message") if found else ""


def _has_calls(message: Mapping[str, object]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _called(text: str) -> str:
    """Return the tool calls that *text* spells, as ShareGPT files do: `{"name": …, "arguments": …}`, or several."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError("a function call must be JSON with name and arguments")
    return canonical({"tool_calls": [_call(call) for call in calls]})


def _call(call: Mapping[str, object]) -> dict[str, object]:
    arguments = call.get("arguments", {})
    spelled = arguments if isinstance(arguments, str) else canonical(arguments)
    return {"type": "function", "function": {"name": call["name"], "arguments": spelled}}


def _with_call_ids(spoken: tuple[Spoken, ...]) -> tuple[Spoken, ...]:
    """Number tool calls that have no id, and name in each tool turn without one the call that it answers."""
    if not [one for one in spoken if one.turn.other]:
        return spoken
    open_calls: list[str] = []
    return tuple(_with_ids(one, i, open_calls) for i, one in enumerate(spoken))


def _with_ids(one: Spoken, i: int, open_calls: list[str]) -> Spoken:
    """Return turn *i* with ids; *open_calls* are those that wait for an answer, and is kept up to date."""
    other: dict[str, Any] = json.loads(one.turn.other) if one.turn.other else {}
    if one.turn.role == "assistant":
        calls = other.get("tool_calls", [])
        for k, call in enumerate(calls):
            call.setdefault("id", f"call_{i}_{k}")
        open_calls[:] = [call["id"] for call in calls]
    elif one.turn.role == "tool" and "tool_call_id" not in other and open_calls:
        other["tool_call_id"] = open_calls.pop(0)
    return one._replace(turn=replace(one.turn, other=canonical(other) if other else ""))
