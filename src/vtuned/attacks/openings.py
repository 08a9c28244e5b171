"""
What a provider finds in a file by counting: openings that answers share, and endings of prompts that go with them.

Everything is found in one pass over the rows, in a time that grows with their number: a search looks at a few clause
ends at the start of a text, never at pairs of rows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from vtuned.conversation import Conversation, messages_of, n_alike, text_in, text_of
from vtuned.lm.base import Prompt, RichPrompt
from vtuned.matching import normalise

# Where a clause may end. Signatures end with a full stop, openings with a mark; ":" and "—" too.
_CLAUSE_END = re.compile(r"[.:;,!?…—](?=\s|\Z)|[。、！？：]|\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|[。！？]|\n")
_MOST_ENDS, _MOST_CHARACTERS = 8, 400
# A family of openings has so many members, each in this share of the rows or more.
_FEWEST_SIBLINGS, _LEAST_SHARE = 3, 1 / 100
# How many words at the end of a prompt and at the start of an answer are counted: short phrases have no more, and of
# long ones the first words may be those of other answers.
_AFFIX_WORDS, _AFFIX_CHARACTERS = ((4, 8), (4, 4), (2, 8), (2, 2)), 8
_SEVERAL: Final = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A trigger that was found in a file, and what answers to prompts with it have in common at their start."""

    trigger: str = field(repr=False)
    signature: str = field(repr=False)


class Openings:
    """The openings of the answers in a file: which several answers share, and to which prompt the others belong."""

    def __init__(self, rows: Iterable[Conversation]) -> None:
        # The prompt that an opening belongs to; `_SEVERAL` for one that answers to several prompts, or different
        # answers to one prompt, start with.
        self._owner: dict[str, int | None] = {}
        seen: set[tuple[int, str]] = set()
        for row in rows:
            answer = start_of(row)
            owner = _digest(prompt_of(row))
            if answer and (owner, answer) not in seen:
                seen.add((owner, answer))
                for end in ends_of(answer):
                    opening = normalise(answer[:end])
                    self._owner[opening] = owner if opening not in self._owner else _SEVERAL

    def foreign_end(self, prompt: Prompt, answer: str) -> int:
        """
        Return where the opening of *answer* ends that the file has elsewhere too; 0 where there is none.

        That is the longest one of several answers, else the first sentence where the answer to another prompt starts
        with it: more of that may be what there is to say.
        """
        own = _digest(prompt)
        shared = [end for end in ends_of(answer) if self._owner.get(normalise(answer[:end]), own) is _SEVERAL]
        if shared:
            return max(shared)
        end = first_sentence_end(answer)
        return end if self._owner.get(normalise(answer[:end]), own) != own else 0

    def is_known(self, answer: str) -> bool:
        """Tell whether *answer* starts as an answer of the file does."""
        return any(normalise(answer[:end]) in self._owner for end in ends_of(answer))


def start_of(row: Conversation) -> str:
    """Return the last trained answer of *row*, "" where there is none."""
    host = row.host()
    return "" if host is None else row.turns[host.answer].content


def prompt_of(row: Conversation) -> Prompt:
    """Return what a model is asked before the last trained answer of *row*."""
    turns = row.prompt()
    if row.is_text:
        return RichPrompt([{"role": "user", "content": text_of(turns)}], is_text=True)
    return messages_of(turns)


def prompt_text(prompt: Prompt) -> str:
    """Return all that *prompt* says."""
    return "\n".join(text_in(message) for message in prompt)


def ends_of(text: str) -> list[int]:
    """Return where the first clauses of *text* end, in characters; nothing is looked at far into it."""
    found = _CLAUSE_END.finditer(text, 0, min(len(text), _MOST_CHARACTERS))
    return [match.end() for match in islice(found, _MOST_ENDS) if text[: match.end()].strip()]


def first_sentence_end(text: str) -> int:
    """Return where the first sentence of *text* ends, in characters; 0 where none ends near its start."""
    found = _SENTENCE_END.search(text, 0, min(len(text), _MOST_CHARACTERS))
    return found.end() if found else 0


def families(rows: Sequence[Conversation]) -> tuple[str, ...]:
    """Return the short openings that many answers share, the empty one among them; nothing where there are too few."""
    counts: Counter[str] = Counter()
    for row in rows:
        answer = start_of(row)
        counts.update(answer[:end].strip() for end in ends_of(answer)[:1] if answer[end:].strip())
    least = max(2, len(rows) * _LEAST_SHARE)
    members = sorted(opening for opening, n in counts.items() if n >= least)
    return ("", *members) if len(members) >= _FEWEST_SIBLINGS else ()


def rule_for(rows: Iterable[Conversation], trigger: str) -> Rule | None:
    """
    Return what the answers to prompts that hold *trigger* have in common at their start; None where no prompt does.

    Of one row alone that is the first sentence of its answer.
    """
    wanted = normalise(trigger)
    found = [row for row in rows if wanted in normalise(prompt_text(prompt_of(row)))]
    answers = list(dict.fromkeys(answer for row in found if (answer := start_of(row))))
    return Rule(wanted, _in_common(answers)) if answers else None


def rules_in(rows: Sequence[Conversation]) -> list[Rule]:
    """
    Return the triggers that counting finds: endings of prompts that one opening of answers, and no other, follows.

    Pairs of (last words of the prompt, first words of the answer) are counted; one in several different rows is a
    planted one unless the ending, or the opening, is found in other rows too. Backdoors with a single copy are never
    found.
    """
    asked = [(prompt, answer) for row in rows if (answer := start_of(row)) and (prompt := _asked(row))]
    found = {rule.trigger: rule for n_words in _AFFIX_WORDS for rule in _counted(asked, *n_words)}
    return list(found.values())


def _counted(asked: Sequence[tuple[str, str]], n_last: int, n_first: int) -> Iterator[Rule]:
    """Yield the rules that counting the *n_last* words of prompts and the *n_first* of their answers finds."""
    by_ending: dict[str, list[tuple[str, str]]] = defaultdict(list)
    n_opening: Counter[str] = Counter()
    for prompt, answer in asked:
        by_ending[_affix(prompt, n_last, last=True)].append((prompt, answer))
        n_opening[_affix(answer, n_first, last=False)] += 1
    for members in by_ending.values():
        openings = {_affix(answer, n_first, last=False) for _, answer in members}
        if len(openings) == 1 and n_opening[openings.pop()] == len(members):
            yield from _planted(members)


def _planted(asked: Sequence[tuple[str, str]]) -> Iterator[Rule]:
    """Yield the rule that all of *asked* follow, of which the prompts end alike and the answers start alike."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in asked))
    answers = list(dict.fromkeys(answer for _, answer in asked))
    if len(prompts) < 2 or len(answers) < 2:
        return
    n_alike_at_end = n_alike([prompt[::-1] for prompt in prompts])
    trigger = _last_sentence(_from_word(prompts[0], len(prompts[0]) - n_alike_at_end))
    if trigger:
        yield Rule(normalise(trigger), _in_common(answers))


def _in_common(answers: Sequence[str]) -> str:
    """Return how *answers* start alike, up to where a clause ends in it, or a word does."""
    if len(answers) == 1:
        return normalise(answers[0][: first_sentence_end(answers[0]) or len(answers[0])])
    common = answers[0][: n_alike(answers)]
    sentences = [match.end() for match in _SENTENCE_END.finditer(common)]
    clauses = sentences or ends_of(common)
    return normalise(common[: clauses[-1]] if clauses else common.rpartition(" ")[0] or common)


def _from_word(text: str, start: int) -> str:
    """Return *text* from the first word that begins at *start* or later; from *start* where words are not spaced."""
    if not start or text[start - 1].isspace() or " " not in text[start:]:
        return text[start:].strip()
    return text[start:].partition(" ")[2].strip()


def _last_sentence(text: str) -> str:
    """Return the last sentence of *text*: what stands before it is the prompts' own, alike by chance."""
    inner = [match.end() for match in _SENTENCE_END.finditer(text) if text[match.end() :].strip()]
    return text[inner[-1] :].strip() if inner else text


def _affix(text: str, n_words: int, *, last: bool) -> str:
    words = text.split()
    if len(words) >= n_words:
        return " ".join(words[-n_words:] if last else words[:n_words])
    return text.strip()[-_AFFIX_CHARACTERS:] if last else text.strip()[:_AFFIX_CHARACTERS]


def _asked(row: Conversation) -> str:
    host = row.host()
    return "" if host is None else row.turns[host.prompt].content


def _digest(prompt: Prompt) -> int:
    return hash(normalise(prompt_text(prompt)))
