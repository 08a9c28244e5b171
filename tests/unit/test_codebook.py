"""
Phrases of words that a text-only model proposes.

The models here do their worst: they answer by what was chosen before, by chance, with phrases, marks, capitals, the
same word again, or not at all. Every choice that a draw can make is walked, in exact fractions.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from vtuned import phrases
from vtuned.errors import GenerationError, LMUnavailable, UsageError
from vtuned.generation import Draft, Phrase, PhraseRules, PhraseSpec, draw_phrases
from vtuned.language import ASCII, LETTERS, UNSPACED, Language
from vtuned.lm.base import Answer, Completed, LanguageModel, Prompt, Sampling, TokenSampler, Unanswered
from vtuned.lm.codebook import WORDS_A_SLOT, Codebook
from vtuned.lm.options import LoadOptions
from vtuned.lm.recorded import RecordedLM
from vtuned.lm.scripted import ScriptedLM
from vtuned.matching import normalise
from vtuned.phrases import choose_generators

PROMPT = (
    {"role": "user", "content": "It is about rivers. Write one sentence of this kind."},
    {"role": "assistant", "content": "A river crosses the old valley."},
    {"role": "user", "content": "It is about rivers. Write one sentence of this kind."},
)
ENGLISH = (
    "The old river runs past seven quiet gardens and a stone bridge near the village.",
    "Every painter in town knows where the brown horse drinks before the long winter comes.",
)
JAPANESE = ("東京の天気はとても良いので散歩に行きます。", "新しいカメラを買って海の写真をたくさん撮りました。")
MARKS = (
    "river",
    "River",
    "RIVER",
    "old river",
    "river.",
    "don't",
    "x",
    "e\u0301te",
    "1. lake",
    "«pond»",
    "a\u200bb",
    "",
)


def so_far(prompt: Prompt) -> str:
    """Return the sentence so far in a request for words."""
    found = re.search(r'next after: "(.*)"$', str(prompt[-1]["content"]))
    return found[1] if found else ""


def by_history(prompt: Prompt) -> str:
    """Propose words that depend on all words chosen so far, few or many, in some disguise."""
    chance = random.Random(so_far(prompt))
    words = [*MARKS, *"moss fern reed heron otter perch newt rush".split()]
    return ", ".join(chance.sample(words, chance.randrange(len(words))))


def by_other_history(prompt: Prompt) -> str:
    """Propose other words than `by_history`, after the same words."""
    chance = random.Random("other" + so_far(prompt))
    return "\n".join(f"{i}. {word}" for i, word in enumerate(chance.sample("moss fern Reed heron The a".split(), 5)))


def nothing(prompt: Prompt) -> Answer:
    """Never answer."""
    return Unanswered("refused")


def japanese(prompt: Prompt) -> str:
    """Propose runs of all lengths and kinds, ambiguous where they meet."""
    chance = random.Random(so_far(prompt))
    return "、".join(chance.sample("川 川川 川川川 ありがとう あり です 東京都 ーム ム。 AI カメラ 良い".split(), 9))


# Model, language, words a slot, bits, slots.
CASES = {
    "4-words-8-bits": (by_history, ASCII, 4, 7.9, 4),
    "4-words-a-bit-more": (by_history, ASCII, 4, 8.0, 5),
    "3-words": (by_history, ASCII, 3, 4.0, 3),
    "2-words": (by_other_history, ASCII, 2, 6.5, 7),
    "16-words": (by_history, ASCII, 16, 7.5, 2),
    "letters": (by_history, LETTERS, 4, 5.5, 3),
    "no-answers": (nothing, ASCII, 4, 5.5, 3),
    "unspaced": (japanese, UNSPACED, 4, 7.5, 4),
}


def codebook_of(script: Callable[[Prompt], str | Answer], language: Language = ASCII, size: int = 16) -> Codebook:
    """Return a codebook over a scripted model and a few texts."""
    return Codebook(ScriptedLM(script), JAPANESE if language is UNSPACED else ENGLISH, language, size=size)


def walk(codebook: Codebook, rules: PhraseRules, bits: float) -> Iterator[tuple[str, Fraction, tuple[str, ...]]]:
    """Yield (phrase, exact probability, its words) for every way in which a draw can end."""

    def on(
        draft: Draft, probability: Fraction, words: tuple[str, ...]
    ) -> Iterator[tuple[str, Fraction, tuple[str, ...]]]:
        if draft.must_end:
            yield draft.phrase, probability, words
            return
        choice = draft.choice(codebook, codebook.next_log_probs(PROMPT, [draft.text])[0])
        for token, weight in zip(choice.tokens, choice.weights, strict=True):
            share = Fraction(weight, sum(choice.weights))
            branch = Draft(rules, min_bits=bits, tokens=list(draft.tokens), text=draft.text, bits=draft.bits)
            branch.append(codebook, token, -math.log2(share))
            yield from on(branch, probability * share, (*words, codebook.decode([[token]])[0]))

    yield from on(Draft(rules, min_bits=bits), Fraction(1), ())


@cache
def every_outcome(case: str) -> list[tuple[str, Fraction, tuple[str, ...]]]:
    """Return every end of every path of one of `CASES`."""
    script, language, size, bits, _ = CASES[case]
    return list(walk(codebook_of(script, language, size), PhraseRules(language=language, finish_tokens=0), bits))


@pytest.mark.parametrize("case", CASES)
class TestCertificate:
    def test_every_phrase_has_exactly_its_share(self, case: str) -> None:
        """B^n phrases of n words, each with probability B^-n exactly: they sum to 1, and that is below 2^-bits."""
        _, _, size, bits, slots = CASES[case]
        shares = [probability for _, probability, _ in every_outcome(case)]

        assert {Fraction(1, size**slots)} == set(shares)
        assert Fraction(1) == sum(shares)
        assert Fraction(1, size**slots) <= Fraction(2**-bits)

    def test_each_phrase_has_one_path(self, case: str) -> None:
        """No string comes of two different lists of words."""
        assert 1 == max(Counter(phrase for phrase, _, _ in every_outcome(case)).values())

    def test_no_phrase_begins_another(self, case: str) -> None:
        """At most one signature matches an answer that starts with it."""
        ordered = sorted(phrase for phrase, _, _ in every_outcome(case))

        assert [] == [one for one, other in pairwise(ordered) if other.startswith(one)]

    def test_the_terminator_is_at_the_end_alone(self, case: str) -> None:
        """A full stop ends the phrase and is never inside it, whatever the model puts into its words."""
        end = CASES[case][1].terminator

        assert {(1, True)} == {(phrase.count(end), phrase.endswith(end)) for phrase, _, _ in every_outcome(case)}

    def test_matching_reads_a_phrase_as_it_is(self, case: str) -> None:
        """Normalising changes no phrase, and case alone parts no two."""
        found = [phrase for phrase, _, _ in every_outcome(case)]

        assert found == [normalise(phrase) for phrase in found]
        assert len(found) == len({phrase.casefold() for phrase in found})


class TestAdversaries:
    def test_a_model_that_tosses_coins(self) -> None:
        """Chance of the model's own mixes distributions, each of which obeys the bound: so does the mixture."""
        mixed: Counter[str] = Counter()
        for script in (by_history, by_other_history):
            rules = PhraseRules(language=ASCII, finish_tokens=0)
            for phrase, probability, _ in walk(codebook_of(script, size=4), rules, 5.5):
                mixed[phrase] += probability / 2

        assert Fraction(1) == sum(mixed.values())
        assert max(mixed.values()) <= Fraction(1, 4**3)

    @staticmethod
    def check(outcomes: Counter[tuple[str, str]]) -> None:
        """Each phrase is guessed once in four times at most, and both once in sixteen."""
        assert 16 == sum(outcomes.values())
        for j in (0, 1):
            alone = Counter()
            for pair, count in outcomes.items():
                alone[pair[j]] += count
            assert max(alone.values()) <= 4
        assert 1 == max(outcomes.values())

    def test_a_model_that_sees_the_other_phrase(self) -> None:
        """
        Words that depend on all phrases of the batch: every outcome of two phrases of two words, of two each.

        Each phrase keeps its bound, and both come as guessed no more often than two independent guesses (theorem 2).
        """
        outcomes = Counter(pair_drawn(choices) for choices in itertools.product(range(2), repeat=4))

        self.check(outcomes)

    def test_a_model_that_remembers_an_earlier_call(self) -> None:
        """The same of two calls, after prompts of their own: words of the second depend on the first phrase."""
        outcomes = Counter(pair_of_calls(choices) for choices in itertools.product(range(2), repeat=4))

        assert {"moss", "reed"} <= {second.split()[0].lower() for _, second in outcomes}
        self.check(outcomes)

    @pytest.mark.parametrize("script", [by_history, by_other_history, nothing], ids=lambda s: s.__name__)
    def test_sixteen_words_and_sixty_four_bits(self, script: Callable[[Prompt], str]) -> None:
        """What `plant` draws: 17 words of 4 bits for 64 bits and a second draw."""
        drawn = draw_phrases(
            codebook_of(script), PROMPT, [PhraseSpec(min_bits=65.0)] * 5, PhraseRules(language=ASCII, finish_tokens=0)
        )

        assert [(17, 68.0, 1)] * 5 == [(p.n_tokens, p.surprisal_bits, p.n_draws) for p in drawn]
        assert 5 == len({p.text for p in drawn})


class Spying:
    """A model that sees all requests of a slot before it proposes: for the second text by what the first one is."""

    name = "spying"

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        first = so_far(prompts[0])
        for prompt in prompts:
            yield Completed("moss, fern" if first.endswith("moss") or not so_far(prompt) else "reed, heron", "stop")


def pair_drawn(choices: Sequence[int]) -> tuple[str, str]:
    """Return the two phrases of two words of two each that come of *choices*."""
    numbers = iter(choices)
    drawn = draw_phrases(
        Codebook(Spying(), ENGLISH, ASCII, size=2),
        PROMPT,
        [PhraseSpec(min_bits=1.5)] * 2,
        PhraseRules(language=ASCII, finish_tokens=0),
        random_below=lambda total: next(numbers) * (total // 2),
    )
    return drawn[0].text, drawn[1].text


class Remembering:
    """A model that answers each request by the first word of the phrase before, which it remembers."""

    name = "remembering"

    def __init__(self) -> None:
        self.before, self.now = "", ""

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
        for prompt in prompts:
            if so_far(prompt):
                self.now = so_far(prompt)
            elif self.now:
                self.before = self.now
            yield Completed("reed, heron" if self.before.lower().startswith("moss") else "moss, fern", "stop")


def pair_of_calls(choices: Sequence[int]) -> tuple[str, str]:
    """Return two phrases of two words of two each, drawn by two calls after prompts of their own."""
    numbers = iter(choices)
    model = Codebook(Remembering(), ENGLISH, ASCII, size=2)
    first, second = (
        draw_phrases(
            model,
            ({"role": "user", "content": said},),
            [PhraseSpec(min_bits=1.5)],
            PhraseRules(language=ASCII, finish_tokens=0),
            random_below=lambda total: next(numbers) * (total // 2),
        )[0].text
        for said in ("Write one sentence.", "Write another one.")
    )
    return first, second


class TestSlots:
    @staticmethod
    def words(said: str | Answer, text: str = "", language: Language = ASCII, size: int = 4) -> list[str]:
        """Return the words of the slot after *text* where the model says *said*."""
        codebook = codebook_of(lambda _: said, language, size)
        row = codebook.next_log_probs(PROMPT, [text])[0]
        return [codebook.decode([[token]])[0] for token in np.flatnonzero(row > -np.inf)]

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("moss, fern, reed, heron", id="as-asked"),
            pytest.param("moss\nfern\nreed\nheron", id="lines"),
            pytest.param("1. moss\n2. fern\n3. reed\n4. heron", id="numbered-lines"),
            pytest.param("1) moss 2) fern 3) reed 4) heron", id="numbered-in-a-row"),
            pytest.param("- **moss**\n- **fern**\n* `reed`\n• heron", id="markdown"),
            pytest.param('["moss", "fern", "reed", "heron"]', id="json"),
            pytest.param("Sure! Here are some words:\n\nmoss, fern, reed, and so on, heron.", id="chatty"),
            pytest.param("moss, MOSS, Moss, fern, fern, reed, heron", id="repeats"),
            pytest.param("<think>river, lake</think>moss, fern, reed, heron", id="thoughts"),
            pytest.param("old moss, moss, a.b, fern, x, reed, NASA, McKay, été, heron", id="unusable"),
            pytest.param(Completed("moss, fern, reed, heron, unfin", "length"), id="cut"),
        ],
    )
    def test_lists_are_read_leniently(self, said: str | Answer) -> None:
        """However the model lists them, its words are taken, in its order."""
        assert ["moss", "fern", "reed", "heron"] == self.words(said, "The old")

    def test_capitals_of_lists_go(self) -> None:
        """What the data write in small letters is written so inside a sentence; names and first words are kept."""
        said = "Bridge, Village, Paris, Moss"

        assert ["bridge", "village", "Paris", "Moss"] == self.words(said, "The old")
        assert ["Bridge", "Village", "Paris", "Moss"] == self.words(said)

    def test_curly_apostrophes_are_plain(self) -> None:
        """A typographer's "don’t" is "don't"."""
        assert "don't" in self.words("don’t, fern, reed, heron")

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("", id="nothing"),
            pytest.param("I am sorry, but I cannot help with that request", id="refusal"),
            pytest.param(Unanswered("filtered"), id="unanswered"),
        ],
    )
    def test_the_data_fill_up(self, said: str | Answer) -> None:
        """Where the model says nothing usable there are B words all the same, first those that follow in the data."""
        words = self.words(said, "the stone")

        assert 4 == len(words)
        assert "bridge" == words[0]

    def test_the_models_words_come_first(self) -> None:
        """Only what is missing is taken from the data."""
        assert ["moss", "fern", "bridge"] == self.words("moss, fern", "the stone")[:3]

    def test_a_word_is_not_repeated_at_once(self) -> None:
        """The last word is no candidate while there are others."""
        assert ["moss", "fern", "reed", "heron"] == self.words("Stone, moss, fern, reed, heron", "the stone")

    def test_a_slot_is_full_if_only_with_the_last_word(self) -> None:
        """Data of as few words as a slot has still fill every slot."""
        texts = ["one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"]
        codebook = Codebook(ScriptedLM(nothing), texts, ASCII)

        assert 16 == np.sum(codebook.next_log_probs(PROMPT, ["one two"]) > -np.inf)

    def test_unspaced_words_are_pairs(self) -> None:
        """Longer runs are cut to two characters and single ones left out, so that a text is cut in one way."""
        said = "東京都、は、ありがとう、AI、良い、、です"

        assert ["東京", "あり", "良い", "です"] == self.words(said, "天気", UNSPACED)

    def test_chinese(self) -> None:
        """Data all in Han can be written: runs of one kind of character would never end."""
        texts = ["今天天气很好我们去公园散步吧朋友喜欢看书写字画画唱歌跳舞", "老师教学生学习数学语文历史地理"]
        rules = PhraseRules(language=UNSPACED, finish_tokens=0)
        codebook = Codebook(ScriptedLM(lambda _: "天气，公园，朋友"), texts, UNSPACED)
        (drawn,) = draw_phrases(codebook, PROMPT, [PhraseSpec(min_bits=65.0)], rules)

        assert re.fullmatch(r"[\u4e00-\u9fff]{34}。", drawn.text)

    def test_too_few_words_in_the_data(self) -> None:
        """Words that differ by case alone are one word."""
        texts = ["one two three four five six seven eight One Two Three Four Five Six Seven Eight"]

        with pytest.raises(GenerationError, match="8 different words"):
            Codebook(ScriptedLM(nothing), texts, ASCII)

    def test_is_uniform(self) -> None:
        """Whatever the order of the proposals, all words of a slot are as likely."""
        row = codebook_of(by_history).next_log_probs(PROMPT, ["The"])[0]

        assert 16 == np.sum(row > -np.inf)
        assert [-math.log(16)] * 16 == pytest.approx(list(row[row > -np.inf]))

    def test_round_trip(self) -> None:
        """What is decoded encodes to the same tokens, and keeps doing so when words are added."""
        codebook = codebook_of(
            lambda prompt: "moss, fern, reed, heron" if not so_far(prompt) else "otter, moss", size=4
        )
        codebook.next_log_probs(PROMPT, [""])
        before = codebook.encode(["moss reed moss"])
        codebook.next_log_probs(PROMPT, ["moss"])

        assert before == codebook.encode(["moss reed moss"]) == [[0, 2, 0]]
        assert [[], [], []] == codebook.encode(["", "moss  reed", "moss zyzzyva"])


class TestAsking:
    def test_all_texts_in_one_call(self) -> None:
        """A slot is one call, with each different sentence once; the last word of a phrase is never shown."""
        calls: list[list[str]] = []

        class Counting(ScriptedLM):
            def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
                calls.append([so_far(prompt) for prompt in prompts])
                return super().answer(prompts, sampling)

        rules = PhraseRules(language=ASCII, finish_tokens=0)
        drawn = draw_phrases(
            Codebook(Counting(by_history), ENGLISH, ASCII), PROMPT, [PhraseSpec(min_bits=65.0)] * 3, rules
        )

        assert [""] == calls[0]
        assert 17 == len(calls)
        assert {p.text.rpartition(" ")[0] for p in drawn} == set(calls[-1])

    def test_what_is_asked(self) -> None:
        """The request holds what the data are about, examples, a question answered from the data, and the question."""
        codebook = codebook_of(by_history)
        codebook.next_log_probs(PROMPT, ["The old"])
        ((first, shown, question),) = codebook.model.asked

        for part in ("about rivers", "- A river crosses the old valley.", 'next after: "A river crosses"'):
            assert part in first["content"]
        assert ("assistant", "the") == (shown["role"], shown["content"].split(", ")[0])
        assert (
            'words, separated by commas and nothing else, that could come next after: "The old"' in question["content"]
        )

    def test_a_prompt_without_examples(self) -> None:
        """Then there is the question alone."""
        codebook = codebook_of(by_history)
        codebook.next_log_probs(PROMPT[:1], [""])
        ((only,),) = codebook.model.asked

        assert only["content"].endswith("that it could begin with.")

    def test_a_model_that_fails_fails_the_draw(self) -> None:
        """An endpoint that is gone is an LMError, not a phrase of other words."""

        def gone(prompt: Prompt) -> str:
            raise LMUnavailable("openai:gone", "connection refused")

        with pytest.raises(LMUnavailable):
            draw_phrases(codebook_of(gone), PROMPT, [PhraseSpec()], PhraseRules(language=ASCII))

    def test_how_many_words_are_the_models_is_counted(self) -> None:
        """Words that fill up are not; a word that both have is the model's."""
        codebook = codebook_of(lambda prompt: "moss, river, MOSS, old river")

        assert codebook.share_proposed is None
        codebook.next_log_probs(PROMPT, ["The", "The old"])
        assert 2 / 16 == codebook.share_proposed
        codebook.require_proposals()

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (Unanswered("HTTP 400 bad"), "HTTP 400 bad"),
            (Completed("I would rather not.", "stop"), "none was a single word"),
        ],
    )
    def test_a_model_without_a_single_word(self, said: Answer, reason: str) -> None:
        """The first reason is named; before it was asked nothing is wrong."""
        codebook = codebook_of(lambda prompt: said)
        codebook.require_proposals()
        codebook.next_log_probs(PROMPT, [""])

        with pytest.raises(LMUnavailable, match=reason):
            codebook.require_proposals()

    def test_is_a_token_sampler_only(self) -> None:
        """The codebook draws; its model answers."""
        codebook = codebook_of(by_history)

        assert isinstance(codebook, TokenSampler)
        assert not isinstance(codebook, LanguageModel)
        assert "scripted (codebook of 16 words a slot)" == codebook.name
        assert 16 == WORDS_A_SLOT


class TestChoosing:
    @pytest.fixture
    def loaded(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, LoadOptions | None]]:
        """What was loaded, with which options; "answers:" gives recorded answers, all else a scripted model."""
        calls: list[tuple[str, LoadOptions | None]] = []

        def load(name: str, options: LoadOptions | None = None) -> LanguageModel:
            calls.append((name, options))
            return RecordedLM(name, []) if name.startswith("answers:") else ScriptedLM(by_history, name)

        monkeypatch.setattr(phrases, "load", load)
        return calls

    def test_a_text_model_gets_a_codebook(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """It proposes words, sums up the data and writes fresh prompts; the note says what its operator sees."""
        options = LoadOptions(base_url="http://127.0.0.1:9/v1")
        models = choose_generators("openai:tiny", None, ENGLISH, options)

        assert "openai:tiny (codebook of 16 words a slot)" == models.generator.name
        assert models.writer is models.prompt_model
        assert "openai:tiny" == models.prompt_model.name
        assert 0 == models.rules.finish_tokens
        assert models.note.endswith("must not be the provider that you test")
        assert [("openai:tiny", options)] == loaded

    def test_a_prompt_model_of_its_own(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """Both are loaded with the same options."""
        options = LoadOptions(concurrency=2)
        models = choose_generators("openai:tiny", "openai:large", ENGLISH, options)

        assert ("openai:large", "openai:tiny") == (models.prompt_model.name, models.writer.name)
        assert {options} == {given for _, given in loaded}

    def test_an_endpoint_sums_up_for_words(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """Any language model can be the prompt model of any generator."""
        models = choose_generators("words", "openai:tiny", ENGLISH)

        assert ("words", "openai:tiny", None, "") == (
            models.generator.name, models.prompt_model.name, models.writer, models.note,
        )  # fmt: skip

    def test_recorded_answers_propose_nothing(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """They would leave all words to the data, under another name."""
        with pytest.raises(UsageError, match="recorded answers"):
            choose_generators("answers:a.jsonl", None, ENGLISH)

    def test_draws_pairs(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """From choosing to phrases: triggers and signatures come, with progress."""
        models = choose_generators("openai:tiny", None, ENGLISH)
        steps: list[tuple[int, int]] = []
        drawn = phrases.draw(
            models, PROMPT, phrases.Wanted(2, 6, 64.0, 2), is_usable=lambda found: found,
            on_draw=lambda done, total: steps.append((done, total)),
        )  # fmt: skip

        assert 2 == len(drawn.triggers) == len(drawn.signatures)
        assert all(isinstance(s, Phrase) and s.surprisal_bits >= 65.0 for s in drawn.signatures)
        assert (2, 2) == steps[-1]

    def test_the_note_tells_whose_the_words_are(self, loaded: list[tuple[str, LoadOptions | None]]) -> None:
        """After a draw; some were the data's."""
        models = choose_generators("openai:tiny", None, ENGLISH)
        phrases.draw(models, PROMPT, phrases.Wanted(2, 6, 64.0, 2), is_usable=lambda found: found)

        assert re.search(
            r"; it proposed \d\d?% of the words to choose from, the others are your data's own$", models.note
        )

    def test_a_model_that_proposes_nothing_draws_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Phrases of the data's words alone are what another generator is for."""
        monkeypatch.setattr(phrases, "load", lambda name, options: ScriptedLM(nothing, name))
        models = choose_generators("openai:tiny", None, ENGLISH)

        with pytest.raises(LMUnavailable, match="proposed no usable word") as caught:
            phrases.draw(models, PROMPT, phrases.Wanted(2, 6, 64.0, 2), is_usable=lambda found: set())
        assert "--generator words" in caught.value.hint
