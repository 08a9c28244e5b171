"""How a prompt becomes the text that a model reads: its chat template, or plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtuned.conversation import Message, text_in
from vtuned.errors import UsageError
from vtuned.lm.base import Prompt, is_text, tools_of

_MARK = "answer"
_TOKEN_AT_START = re.compile(r"\s*(<[^<>\s]+>)")


def render_text(tokenizer: Any, prompt: Prompt, *, answering: bool = True) -> str:
    """
    Return *prompt* as the model reads it, to be tokenised without adding special tokens.

    A chat template is shown the tools and the text of each message. Plain text stands as it is, and without a chat
    template the contents stand on lines of their own; both start with the token that the tokenizer starts texts with.
    Raises jinja2.TemplateError where the template refuses the prompt, or the prompt holds more than text.
    """
    from jinja2 import TemplateError

    messages = [_shown(message) for message in prompt]
    if not is_text(prompt) and getattr(tokenizer, "chat_template", None):
        tools = list(tools_of(prompt)) or None
        try:
            return str(
                tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=answering)
            )
        except TemplateError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise TemplateError(f"{type(error).__name__}: {error}") from error
    if is_text(prompt):
        return _with_start(tokenizer, messages[0]["content"])
    end = {"assistant": tokenizer.eos_token or ""}
    return _with_start(tokenizer, "".join(m["content"] + end.get(m["role"], "") + "\n" for m in messages))


def use_template(tokenizer: Any, path: Path) -> None:
    """Make *tokenizer* use the Jinja template in the file *path*. Raises UsageError for one that cannot be read."""
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: the chat template cannot be read: {reason}", hint="give a Jinja file") from error
    try:
        render_text(tokenizer, [{"role": "user", "content": _MARK}])
    except TemplateSyntaxError as error:
        raise UsageError(
            f"{path}, line {error.lineno}: not a Jinja template: {error.message}", hint="mend that line"
        ) from error
    except TemplateError:
        return  # It may ask for a system message, say; each prompt will tell.


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token that the chat template puts after an answer, or None."""
    from jinja2 import TemplateError

    messages: Sequence[Message] = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
    try:
        after = render_text(tokenizer, messages, answering=False).rpartition(_MARK)[2]
    except TemplateError:
        return None
    found = _TOKEN_AT_START.match(after)
    token: int | None = tokenizer.get_vocab().get(found.group(1)) if found else None
    return token


def _with_start(tokenizer: Any, text: str) -> str:
    """Return *text* after the token that *tokenizer* starts texts with, where there is one; never after two."""
    start = tokenizer.bos_token
    adds_one = start and list(tokenizer("")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return start + text if adds_one and not text.startswith(start) else text


def _shown(message: Message) -> dict[str, Any]:
    """
    Return *message* as templates are written for: text content, tool arguments as objects.

    OpenAI's API has arguments as JSON text; templates would quote it once more. Serving engines convert it likewise.
    """
    from jinja2 import TemplateError

    content = message.get("content")
    if isinstance(content, list):
        others = sorted({str(part.get("type")) for part in content} - {"text"})
        if others:
            raise TemplateError(f"the prompt holds {', '.join(others)}, and this model reads text only")
    shown: dict[str, Any] = {**message, "content": text_in(message)}
    if message.get("tool_calls"):
        shown["tool_calls"] = [_with_arguments(call) for call in message["tool_calls"]]
    return shown


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
