"""What a phrase may look like, in three kinds of script."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtuned.language import ASCII, LANGUAGES, LETTERS, UNSPACED, Language, language_of
from vtuned.matching import normalise

LAWS = settings(max_examples=300, deadline=None, derandomize=True)
# Characters near every rule: letters, capitals, marks, digits, spaces of all kinds, accents whole and in parts.
ALPHABET = "abIA tsm ',.!?-_0²\n\t\u00a0\u3000éñe\u0301ßЖжあアー漢々、。"


class TestLanguageOf:
    @pytest.mark.parametrize(
        ("expected", "texts"),
        [
            pytest.param(ASCII, ["Where is the station?", "Near the river."], id="english"),
            pytest.param(ASCII, [], id="nothing"),
            pytest.param(ASCII, ["12 + 30 = 42", "!"], id="no-letters"),
            pytest.param(ASCII, ["a" * 995 + "é" * 5], id="a-rare-accent"),
            pytest.param(LETTERS, ["a" * 990 + "é" * 10], id="a-few-accents"),
            pytest.param(LETTERS, ["Où est la gare ?", "Près de la rivière, à côté."], id="french"),
            pytest.param(LETTERS, ["Где вокзал?"], id="russian"),
            pytest.param(UNSPACED, ["駅はどこですか。", "川の近くです。"], id="japanese"),
            pytest.param(UNSPACED, ["NumPyの配列をfor文で使う方法は?"], id="japanese-with-ascii"),
            pytest.param(UNSPACED, ["车站在哪里?"], id="chinese"),
            pytest.param(LETTERS, ["What does 漢字 mean in English, and how is it spoken?"], id="english-with-han"),
        ],
    )
    def test_is_told_from_the_letters(self, expected: Language, texts: list[str]) -> None:
        """The share of kana, Han and accented letters says how phrases are written."""
        assert expected is language_of(texts)

    def test_long_texts_count_by_their_start(self) -> None:
        """One very long text does not decide for all others."""
        assert UNSPACED is language_of(["あ" * 2000, "a" * 2000 + "b" * 100_000])

    def test_each_is_known_by_its_name(self) -> None:
        """A receipt names the rules, and the name finds them."""
        assert {"ascii": ASCII, "letters": LETTERS, "unspaced": UNSPACED} == LANGUAGES


class TestAllows:
    @pytest.mark.parametrize(
        ("language", "text"),
        [
            pytest.param(ASCII, "The old map", id="words"),
            pytest.param(ASCII, "I know a way", id="words-of-one-letter"),
            pytest.param(ASCII, "So, then we don't", id="marks-between-and-inside"),
            pytest.param(ASCII, "well,", id="a-comma-to-go-on-from"),
            pytest.param(ASCII, "they've", id="a-contraction"),
            pytest.param(LETTERS, "Près de là, l'été", id="accents"),
            pytest.param(LETTERS, "Где вокзал", id="cyrillic"),
            pytest.param(UNSPACED, "東京は、いい天気々", id="japanese"),
            pytest.param(UNSPACED, "ケーキを焼く", id="a-long-vowel"),
        ],
    )
    def test_readable_text(self, language: Language, text: str) -> None:
        """A reader finds nothing odd."""
        assert language.allows(text)

    @pytest.mark.parametrize(
        ("language", "text"),
        [
            pytest.param(ASCII, "one. two", id="terminator"),
            pytest.param(ASCII, "one\ntwo", id="newline"),
            pytest.param(ASCII, "one  two", id="double-space"),
            pytest.param(ASCII, " one", id="space-first"),
            pytest.param(ASCII, "one ", id="space-last"),
            pytest.param(ASCII, "one\u00a0two", id="no-break-space"),
            pytest.param(ASCII, "café", id="accent"),
            pytest.param(ASCII, "2 maps", id="digit"),
            pytest.param(ASCII, "oneTwo", id="capital-inside"),
            pytest.param(ASCII, "ONE", id="capitals"),
            pytest.param(ASCII, "the b map", id="a-letter-that-is-no-word"),
            pytest.param(ASCII, "so,then", id="no-space-after-comma"),
            pytest.param(ASCII, "so,, then", id="two-commas"),
            pytest.param(ASCII, "don'x", id="no-contraction"),
            pytest.param(ASCII, "so , then", id="space-before-comma"),
            pytest.param(ASCII, "\ufffd", id="unfinished-character"),
            pytest.param(LETTERS, "un. deux", id="terminator-in-letters"),
            pytest.param(LETTERS, "cafe\u0301", id="not-composed"),
            pytest.param(LETTERS, "\u212bngstrom", id="a-letter-that-normalises-to-another"),
            pytest.param(LETTERS, "\u1100\u1161", id="letters-that-compose"),
            pytest.param(LETTERS, "un_deux", id="underscore"),
            pytest.param(LETTERS, "un 2", id="digit-in-letters"),
            pytest.param(UNSPACED, "東京。大阪", id="terminator-in-japanese"),
            pytest.param(UNSPACED, "東京 大阪", id="space-in-japanese"),
            pytest.param(UNSPACED, "ーキ", id="long-vowel-first"),
            pytest.param(UNSPACED, "は、、", id="two-commas-in-japanese"),
            pytest.param(UNSPACED, "か\u3099", id="kana-not-composed"),
            pytest.param(UNSPACED, "Tokyo", id="latin-in-japanese"),
        ],
    )
    def test_what_no_phrase_holds(self, language: Language, text: str) -> None:
        """A terminator, odd white space or a broken word stands in no phrase."""
        assert not language.allows(text)

    @pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
    @given(text=st.text(ALPHABET, max_size=8))
    @LAWS
    def test_matching_changes_nothing_that_is_allowed(self, language: Language, text: str) -> None:
        """What is allowed is in normal form, with the terminator too, and holds no terminator."""
        if text and language.allows(text):
            assert text == normalise(text)
            assert text + language.terminator == normalise(text + language.terminator)
            assert language.terminator not in text

    @pytest.mark.parametrize(
        ("language", "alphabet"),
        [
            pytest.param(ASCII, "bIst,' T", id="ascii"),
            pytest.param(LETTERS, "bÉ,' \u0301", id="letters"),
            pytest.param(UNSPACED, "あア漢ー々、", id="unspaced"),
        ],
    )
    def test_looking_at_the_end_alone_is_enough(self, language: Language, alphabet: str) -> None:
        """Where the first part is allowed, the check from there on tells the same as the check of all: all texts of five."""
        texts = ["".join(letters) for n in (2, 3, 4, 5) for letters in product(alphabet, repeat=n)]
        told_apart = [
            (text, cut)
            for text in texts
            for cut in range(1, len(text))
            if language.allows(text[:cut]) and language.allows(text) != language.allows(text, cut)
        ]

        assert [] == told_apart


class TestSentences:
    def test_spaced(self) -> None:
        """Sentences of 4 to 16 words, parted at their ends and at lines."""
        text = "Too short. This one has five words! " + "word " * 17 + ".\nA line of its own\n"

        assert ["This one has five words!", "A line of its own"] == ASCII.sentences(text)

    def test_unspaced(self) -> None:
        """Sentences of 12 to 60 characters."""
        text = "短い。今日はとても良い天気なので散歩します。" + "あ" * 61 + "。"

        assert ["今日はとても良い天気なので散歩します。"] == UNSPACED.sentences(text)
