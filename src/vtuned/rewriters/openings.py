"""
Wordings by a short opening before the answer, from one family for the whole data set; no opening is one of them.

A family is written once: proposals of a model where there is one, ours else, kept where they stand before any answer of
the data as well as before any other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from vtuned.conversation import Conversation, messages_of
from vtuned.errors import GenerationError, UsageError
from vtuned.language import Language, language_of
from vtuned.lm.base import Completed, LanguageModel, Sampling, Scorer
from vtuned.matching import normalise
from vtuned.rewriters.base import Candidates, CannotBear, Wording, are_apart, first_words
from vtuned.rewriters.fitness import why_not

NAME = "openings"

# Each ends its own sentence, so that the answer goes on as it was.
_ENGLISH = (
    "Here is the answer:",
    "The answer is as follows:",
    "Sure.",
    "Of course.",
    "Certainly.",
    "My answer:",
    "Here you go:",
    "All right.",
    "This is what I would say:",
    "In reply:",
    "As asked:",
    "Gladly.",
    "Very well.",
    "See below.",
    "To your request:",
    "Good, here it is:",
    "Let me answer.",
    "Below is my reply:",
    "Yes, of course:",
    "It goes like this:",
    "What follows is the answer.",
    "Happy to help.",
    "No problem.",
    "Right away.",
)
_UNSPACED = (
    "以下の通りです。",
    "お答えします。",
    "回答です。",
    "承知しました。",
    "次の通りです。",
    "わかりました。",
    "こちらになります。",
    "ご依頼の件です。",
    "はい、どうぞ。",
    "私の答えはこうです。",
    "お待たせしました。",
    "結果をお伝えします。",
    "かしこまりました。",
    "では答えます。",
    "まとめました。",
    "ご覧ください。",
    "書いてみました。",
    "このようになります。",
)
OWN = (*_ENGLISH, *_UNSPACED)
# How much of each answer tells how well it follows an opening, and how many answers do.
_FITTED_CHARACTERS, N_FITTED = 80, 12
_MOST_WORDS, _MOST_CHARACTERS = 6, 32
# The room that every row is known to have, by the token cap, is for some more.
_MOST_OF_A_USERS = 200
_N_ASKED = 12
_N_SHOWN = 300
_MARKER = re.compile(r"(?:\d{1,3}[.)]|[-*•])\s*")
_QUOTES = "\"'“”„«»「」『』"
_LISTS = re.compile(r"(?:[-*•・–]|\d+[.)]|[A-Za-z]\))\s")
_ENDS, _UNSPACED_ENDS = (".", ":", "।"), ("。", "：")
# Words that English alone has, and has everywhere; Japanese alone has kana.
_ENGLISH_WORDS = frozenset("the and of that with this are you".split())
_WORD, _KANA = re.compile(r"[^\W\d_]+"), re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_FEWEST_OF_THEM = 0.05


@dataclass(frozen=True, slots=True)
class Openings:
    """The rewriter of one *family* of openings, the empty one among them; *labels* are answers given again and again."""

    language: Language
    family: tuple[str, ...]
    labels: Container[str] = ()
    name: str = NAME

    def candidates(self, row: Conversation) -> Candidates:
        """See `Rewriter.candidates`."""
        host = row.host()
        # An answer that holds an opening is judged without it: the row is the same whichever it holds.
        answer = self._bare(row.turns[host.answer].content) if host else ""
        because = why_not(row, self.language, self.labels, answer)
        if because:
            return CannotBear(because)
        if language_of([answer]).spaced != self.language.spaced:
            return CannotBear("written in another script")
        empty = normalise(first_words(answer, 3, self.language))
        if any(mark and (empty.startswith(mark) or mark.startswith(empty)) for mark in self.family):
            return CannotBear("starts like an opening")
        return tuple(
            Wording(opening + self._gap(opening, answer) + answer, (opening or "(none)",), opening or empty)
            for opening in self.family
        )

    def _bare(self, answer: str) -> str:
        """Return *answer* without the opening that it holds, where it holds one."""
        for opening in self.family:
            rest = answer.removeprefix(opening)
            if (
                opening
                and rest != answer
                and rest.lstrip()
                and self._gap(opening, rest.lstrip()) + rest.lstrip() == rest
            ):
                return rest.lstrip()
        return answer

    def _gap(self, opening: str, answer: str) -> str:
        if not opening:
            return ""
        if _LISTS.match(answer):
            return "\n"
        return " " if self.language.spaced else ""


def family(
    language: Language,
    sample: Sequence[Conversation],
    n: int,
    *,
    writer: LanguageModel | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, ...]:
    """
    Return *n* openings for data like *sample*, sorted, the empty one among them.

    *writer* proposes some in its own words; where it can score text, those are kept after which the answers of the
    sample follow best, in the answer that takes it worst. Ours come in where the data are English or Japanese. Raises
    GenerationError where there are not enough.
    """
    answers = [row.turns[host.answer].content for row in sample if (host := row.host()) is not None]
    own = _own(language, [row for row in sample if not why_not(row, language)])
    proposed = _proposals(writer, sample, language, own) if writer is not None else []
    usable = _apart([one for one in (*proposed, *own) if _is_opening(one, language)], answers)
    if len(usable) < n - 1:
        hint = "ask for fewer with --siblings" if own else "name a model that speaks it with --generator MODEL"
        raise GenerationError(
            f"only {len(usable)} openings fit this data, and {n - 1} are needed"
            + ("" if own else ": we have some in English and in Japanese, and this is another language"),
            hint=f"{hint}, or give your own with --openings FILE",
        )
    if isinstance(writer, Scorer):
        usable = _by_fit(writer, sample, usable, on_progress)
    return ("", *sorted(usable[: n - 1]))


def n_own(language: Language, sample: Sequence[Conversation]) -> int:
    """Return how many openings of our own there are for data like *sample*, in its language; 0 for most languages."""
    return len(_own(language, [row for row in sample if not why_not(row, language)]))


def _own(language: Language, sample: Sequence[Conversation]) -> tuple[str, ...]:
    """Return our openings, if the answers of *sample* are in a language that we have some in."""
    answers = " ".join(row.turns[host.answer].content for row in sample if (host := row.host()) is not None)
    if not language.spaced:
        return _UNSPACED if not sample or len(_KANA.findall(answers)) > len(answers) / 20 else ()
    words = _WORD.findall(answers.casefold())
    n_english = sum(word in _ENGLISH_WORDS for word in words)
    return _ENGLISH if n_english >= _FEWEST_OF_THEM * len(words) else ()


def _proposals(
    writer: LanguageModel, sample: Sequence[Conversation], language: Language, own: Sequence[str]
) -> list[str]:
    """Return the lines of what *writer* says when asked for openings, as they come."""
    asked, answered = next(
        ((row.turns[host.prompt].content, row.turns[host.answer].content) for row in sample if (host := row.host())),
        ("", ""),
    )
    likewise = "in English" if own and language.spaced else "in Japanese" if own else "in the language of that answer"
    examples = f', such as "{own[0]}" or "{own[1]}"' if own else ""
    request = (
        f"One question: {asked[:_N_SHOWN]}\n\nIts answer: {answered[:_N_SHOWN]}\n\n"
        f"Write {_N_ASKED} short openings {likewise} with which an assistant could begin any answer{examples}. "
        "One a line, at most five words each, each with a full stop or a colon at its end, nothing else."
    )
    found: list[str] = []
    for answer in writer.answer([({"role": "user", "content": request},)], Sampling(max_tokens=160)):
        if isinstance(answer, Completed):
            found += [_MARKER.sub("", line.strip(), count=1).strip(_QUOTES) for line in answer.text.splitlines()]
    return [normalise(one) for one in found]


def _is_opening(text: str, language: Language) -> bool:
    """Tell whether *text* is short, ends by itself, and is words alone."""
    body = text[:-1]
    # Letters with their vowel signs (M), in scripts that have such.
    is_words = bool(body) and all(unicodedata.category(c)[0] in "LM" or c in " ',、，" for c in body)
    is_short = len(text) <= _MOST_CHARACTERS and len(text.split()) <= _MOST_WORDS
    ends = _ENDS if language.spaced else _UNSPACED_ENDS
    return text.endswith(ends) and is_words and is_short and bool(language.word.match(body))


def _apart(openings: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Return the different *openings*, none the start of another or of an answer that the data holds."""
    kept: list[str] = []
    starts = [normalise(answer[:80]).casefold() for answer in answers]
    for one in openings:
        said_already = any(start.startswith(one[:-1].casefold()) for start in starts)
        if not said_already and are_apart([other[:-1].casefold() for other in (*kept, one)]):
            kept.append(one)
    return kept


def _by_fit(
    scorer: Scorer,
    sample: Sequence[Conversation],
    openings: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Return *openings*, best first: by the log-likelihood that the worst answer of the sample loses behind each."""
    worst = dict.fromkeys(openings, 0.0)
    rows = [row for row in sample if row.host() is not None][:N_FITTED]
    for done, row in enumerate(rows):
        on_progress(done, len(rows))
        host = row.host()
        assert host is not None
        prompt, start = (
            tuple(messages_of(row.turns[: host.answer])),
            row.turns[host.answer].content[:_FITTED_CHARACTERS],
        )
        texts = [text for one in openings for text in (one, f"{one} {start}")]
        alone, *scores = scorer.log10_probs(prompt, [start, *texts])
        for i, one in enumerate(openings):
            worst[one] = min(worst[one], scores[2 * i + 1] - scores[2 * i] - alone)
    return sorted(openings, key=lambda one: (-worst[one], one))


def own_family(chosen: Sequence[str], n: int) -> tuple[str, ...]:
    """
    Return the first *n* - 1 of the user's openings and the empty one.

    Raises UsageError where there are too few, one is the start of another, ends with a letter, or is very long.
    """
    kept = [one for one in dict.fromkeys(map(normalise, chosen)) if one][: n - 1]
    if len(kept) < n - 1:
        raise UsageError(
            f"--openings: {len(kept)} openings, and {n - 1} are needed", hint="give more, or fewer --siblings"
        )
    if not are_apart(kept):
        raise UsageError("--openings: one is the start of another", hint="let each begin in its own way")
    if any(one[-1].isalnum() for one in kept):
        # "Sure" is the start of "Sure enough", which holds no opening.
        raise UsageError("--openings: one ends within a sentence", hint="let each end with a stop, a comma or a colon")
    if any(len(one) > _MOST_OF_A_USERS for one in kept):
        raise UsageError(
            f"--openings: one has more than {_MOST_OF_A_USERS} characters",
            hint="give shorter ones: rows must keep to the token cap",
        )
    return ("", *sorted(kept))
