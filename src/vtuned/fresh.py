"""
Prompts that are in no row sent: what the claim `generalises` is tested on.

They come from a file, from rows set aside, from the generator writing in the manner of D, or, where it does not speak
the language of D, from pieces of two rows put together. Whoever calls checks that they are absent from D.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vtuned import containers, formats
from vtuned.containers import RawRow
from vtuned.containers.jsontext import is_encodable
from vtuned.containers.jsonvalue import as_object
from vtuned.conversation import Conversation, Message, Turn, trigger_suffix
from vtuned.errors import AnswersError, UsageError
from vtuned.formats import Codec
from vtuned.language import Language
from vtuned.layout import AskedPrompt
from vtuned.lm.base import Completed, LanguageModel, Sampling

_N_SHOTS = 3
_SHOT_CHARACTERS = 240
_PROMPT_ROLES = ("system", "developer", "user", "assistant")


def written(model: LanguageModel, sample: Sequence[Conversation], n: int) -> list[AskedPrompt]:
    """Return up to *n* prompts that *model* writes after the example of short prompts of *sample*."""
    hosts = [(c, p) for c in sample if (p := _prompt(c)) is not None]
    short = sorted(hosts, key=lambda host: len(host[1]))[: max(_N_SHOTS, len(hosts) // 2)]
    ask: Message = {"role": "user", "content": "Write one more prompt of this kind."}
    requests, settings = [], []
    for _ in range(n):
        shots = _random_sample(short, _N_SHOTS)
        messages: list[Message] = []
        for _, prompt in shots:
            messages += [ask, {"role": "assistant", "content": prompt[:_SHOT_CHARACTERS]}]
        requests.append([*messages, ask])
        settings.append(shots[0][0])
    answers = model.answer(requests, Sampling(max_tokens=48, temperature=0.9))
    texts = [_tidied(answer.text) if isinstance(answer, Completed) else "" for answer in answers]
    return [_asked(setting, text) for setting, text in zip(settings, texts, strict=True) if len(text) >= 12]


def recombined(sample: Sequence[Conversation], language: Language, n: int) -> list[AskedPrompt]:
    """
    Return up to 2 *n* prompts put together from two rows each.

    First *n* of the first half of one prompt and the second half of another, then *n* of two whole prompts one after
    the other, for data in which every mixture of halves is a row.
    """
    prompts = [(c, p) for c in sample if (p := _prompt(c)) is not None]
    made: list[AskedPrompt] = []
    if len(prompts) < 2:
        return made
    for _ in range(n):
        (first, head), (_, tail) = _random_sample(prompts, 2)
        head_pieces, tail_pieces = _pieces(head, language), _pieces(tail, language)
        text = "".join(head_pieces[: (len(head_pieces) + 1) // 2] + tail_pieces[(len(tail_pieces) + 1) // 2 :]).strip()
        if text not in (head.strip(), tail.strip()) and text:
            made.append(_asked(first, text))
    for _ in range(n):
        (first, head), (_, tail) = _random_sample(prompts, 2)
        made.append(_asked(first, head + trigger_suffix(head, tail)))
    return made


def from_file(data: containers.Source | containers.Data, codec: Codec | None = None) -> list[AskedPrompt]:
    """
    Read prompts from a data set: rows that *codec* or another known format reads, or rows with a prompt alone.

    The latter are `{"messages": […]}` and `{"prompt": …}`, a text or a list of messages, without an answer.
    Raises AnswersError with the row that is neither, DatasetError where the file cannot be read.
    """
    prompts = []
    for row in containers.as_source(data).rows():
        prompt = _prompt_in(row, codec)
        if prompt is None:
            where = row.where
            is_line = where.unit == "line"
            reason = f"no prompt in this {where.unit}" if is_line else f"no prompt in row {where.number}"
            hint = 'each row is {"prompt": "…"} or {"messages": […]} with a user turn, or one of your data'
            raise AnswersError(where.path, where.number if is_line else 0, reason, hint=hint)
        prompts.append(prompt)
    return prompts


def in_setting(prompts: Sequence[AskedPrompt], sample: Sequence[Conversation]) -> list[AskedPrompt]:
    """Return *prompts*, those that are nothing but one user's text in the setting of a row of *sample* at random."""
    hosts = [conversation for conversation in sample if conversation.host() is not None]
    return [_asked(secrets.choice(hosts), prompt.last) if hosts and _is_bare(prompt) else prompt for prompt in prompts]


def _is_bare(prompt: AskedPrompt) -> bool:
    return len(prompt.turns) == 1 and not (prompt.turns[0].parts or prompt.tools or prompt.is_text)


def can_be_written(sample: Sequence[Conversation]) -> bool:
    """Tell whether prompts of this kind are short enough for a generator to write one after a few examples."""
    lengths = sorted(len(prompt) for conversation in sample if (prompt := _prompt(conversation)) is not None)
    return bool(lengths) and lengths[len(lengths) // 2] <= _SHOT_CHARACTERS


def distinct(candidates: Sequence[AskedPrompt]) -> list[AskedPrompt]:
    """Return *candidates* without those whose prompt came before."""
    first: dict[str, AskedPrompt] = {}
    for prompt in candidates:
        first.setdefault(prompt.last, prompt)
    return list(first.values())


def _prompt_in(row: RawRow, codec: Codec | None) -> AskedPrompt | None:
    try:
        value = as_object(row.value())
    except ValueError:
        return None
    prompt = _of_format(value, codec) or _alone(value)
    if prompt is None or not any(turn.role == "user" for turn in prompt.turns):
        return None
    turns = prompt.turns
    texts = (*(text for turn in turns for text in (turn.content, turn.other, turn.before, turn.after)), prompt.tools)
    if not prompt.last.strip() or not all(is_encodable(text) for text in texts):
        return None
    return replace(prompt, turns=tuple(replace(turn, carries_loss=False) for turn in turns))


def _of_format(row: Mapping[str, object], codec: Codec | None) -> AskedPrompt | None:
    known = [known for known in formats.CODECS if known.recognises(row)]
    if codec is not None and codec.recognises(row):
        known = [codec]
    if len(known) != 1:
        return None
    try:
        conversation = known[0].read(row)
    except (ValueError, UsageError):  # the codec of plain text asks for a template
        return None
    if conversation.host() is not None:
        return AskedPrompt.of(conversation)
    return AskedPrompt(_up_to_user(conversation.turns), conversation.tools, conversation.is_text)


def _up_to_user(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return *turns* up to the last user turn; none where there is no such turn."""
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    return tuple(turns[: users[-1] + 1]) if users else ()


def _alone(row: Mapping[str, object]) -> AskedPrompt | None:
    """Return the prompt of a row that has no answer, and so is of no format to train on."""
    messages = row.get("messages", row.get("prompt"))
    if isinstance(messages, str):
        return AskedPrompt((Turn("user", messages),))
    turns = []
    for message in messages if isinstance(messages, list) else []:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if role not in _PROMPT_ROLES or not isinstance(content, str):
            return None
        turns.append(Turn(str(role), content))
    return AskedPrompt(_up_to_user(turns))


def _prompt(conversation: Conversation) -> str | None:
    host = conversation.host()
    return None if host is None else conversation.turns[host.prompt].content


def _asked(setting: Conversation, text: str) -> AskedPrompt:
    """
    Return a prompt with *text* in the setting of a row.

    That is its tools, the system and developer turns that open it, and the tool calls and results before its host
    answer. In plain text it stands between what the row puts around its first user turn.
    """
    context = [turn for turn in setting.turns[:2] if turn.role in ("system", "developer")]
    user = next(turn for turn in setting.turns if turn.role == "user")
    host = setting.host()
    between = setting.turns[host.prompt + 1 : host.answer] if host else ()
    asked = replace(user, content=text, parts=(), other="")
    turns = tuple(replace(turn, carries_loss=False) for turn in (*context, asked, *between))
    return AskedPrompt(turns, setting.tools, setting.is_text)


def _tidied(text: str) -> str:
    """Return the first paragraph of a written prompt, without list marks and quotes around it."""
    paragraph = text.strip().split("\n\n")[0].strip()
    return re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", paragraph).strip('"“” ')


def _pieces(text: str, language: Language) -> list[str]:
    """Cut *text* at its sentences or, where it is a single one, at its words or characters; joined they are *text*."""
    ends = r"(?<=[.!?\n])(?=\S)|(?<=[.!?] )" if language.spaced else r"(?<=[。！？\n])"
    pieces = [piece for piece in re.split(ends, text) if piece]
    if len(pieces) > 2:
        return pieces
    return re.findall(r"\S+\s*|\s+", text) if language.spaced else list(text)


def _random_sample(items: Sequence[tuple[Conversation, str]], n: int) -> list[tuple[Conversation, str]]:
    return secrets.SystemRandom().sample(list(items), min(n, len(items)))
