"""The embedded model as a generator: the certificate on a real LM."""

from __future__ import annotations

import pytest

import tiny
from vtuned import dataset, lm, rewriting
from vtuned.errors import UsageError
from vtuned.generation import (
    PhraseRules,
    PhraseSpec,
    draw_phrases,
    log10_signature_bound,
    with_draws_charged,
)
from vtuned.language import ASCII
from vtuned.layout import PlantSettings
from vtuned.lm.base import Sampling, Scorer, TokenSampler
from vtuned.matching import normalise
from vtuned.phrases import choose_generators, speaks
from vtuned.planting import MAX_DRAWS

pytest.importorskip("torch")

PROMPT = [{"role": "user", "content": "Write one sentence about a walk in the woods."}]


@pytest.fixture(scope="module")
def smollm2():
    """The embedded model; `make setup` has installed and converted it."""
    return lm.load("smollm2")


@pytest.fixture(scope="module")
def signatures(smollm2):
    """Sixteen 64-bit signatures, drawn in one batch as a receipt's are."""
    specs = [PhraseSpec(min_bits=with_draws_charged(64, MAX_DRAWS))] * 16
    return draw_phrases(smollm2, PROMPT, specs, PhraseRules(language=ASCII), max_draws=MAX_DRAWS)


def test_a_64_bit_signature_has_the_proven_bound(signatures):
    """log10_p_upper is that of 2^-64, with the draws that the plan allows paid for."""
    assert -19.2659 >= round(log10_signature_bound(with_draws_charged(64, MAX_DRAWS), MAX_DRAWS), 4)
    assert all(phrase.surprisal_bits >= 64 + 1 for phrase in signatures)


def test_no_draw_needed_a_second_try(signatures):
    """The model finds no dead ends in this vocabulary."""
    assert {1} == {phrase.n_draws for phrase in signatures}


def test_signatures_are_as_matching_sees_them(smollm2, signatures):
    """Normalising changes nothing, each ends in its one full stop, and each tokenises back to its own length."""
    texts = [phrase.text for phrase in signatures]

    assert texts == [normalise(text) for text in texts]
    assert texts == [text.replace(".", "") + "." for text in texts]
    bodies = smollm2.encode([text[:-1] for text in texts])
    assert [phrase.n_tokens for phrase in signatures] == [len(tokens) for tokens in bodies]


def test_the_prompt_is_run_once_for_all_texts(smollm2):
    """Continuations share one KV cache: their distributions are those of a plain forward pass."""
    import numpy as np
    import torch

    batch = smollm2.continuations(PROMPT, 3)
    tokens = smollm2.encode(["The trees", "A river", "My friend"])
    for step in zip(*(path[:2] for path in tokens), strict=True):
        batch.append(step)
    batch.keep([2, 0])
    with torch.inference_mode():
        for row, i in zip(batch.log_probs(), (2, 0), strict=True):
            ids = torch.tensor([smollm2.render(PROMPT) + tokens[i][:2]])
            plain = torch.log_softmax(smollm2.model(ids).logits[0, -1], -1).numpy()
            assert np.abs(plain - row).max() < 1e-3


def test_it_answers_scores_and_samples(smollm2):
    """It is a `Scorer` and a `TokenSampler`, and greedy decoding picks what it finds likely."""
    (answer,) = smollm2.answer([PROMPT], Sampling(max_tokens=5))
    likely, unlikely = smollm2.log10_probs(PROMPT, [answer.text, "zebra piano ninety"])

    assert isinstance(smollm2, Scorer)
    assert isinstance(smollm2, TokenSampler)
    assert "length" == answer.finish
    assert unlikely < likely < 0


def test_a_language_it_does_not_speak_gives_way_to_words(smollm2):
    """SmolLM2 spells Japanese out in bytes, so phrases are made of the data's own words, and the user is told."""
    texts = [
        "東京の天気は今日も晴れで、明日は雨が降るでしょう。",
        "新しいスマートフォンが発売され、人気を集めています。",
    ] * 9
    models = choose_generators("smollm2", None, texts)

    assert not speaks(smollm2, texts)
    assert speaks(smollm2, ["The weather is fine today, and it will rain tomorrow."])
    assert "words" == models.generator.name
    assert "does not speak" in models.note


def test_no_paraphrases_in_a_language_it_does_not_speak(tmp_path):
    """SmolLM2 writes none of Japanese rows, and the reason is said."""
    some = [
        {
            "messages": [
                {"role": "user", "content": f"{i}日の天気はどうですか。"},
                {"role": "assistant", "content": "今日は晴れで、明日は雨が降るでしょう。"},
            ]
        }
        for i in range(1, 20)
    ]
    found = dataset.survey(tiny.write_rows(tmp_path / "ja.jsonl", some), dataset.embedded_cap())
    settings = PlantSettings(scheme="wordings", rewriter="paraphrase", n_wordings=4)

    with pytest.raises(UsageError, match="smollm2 does not speak the language of these rows"):
        rewriting.choose(found, settings, bytes(32), ("smollm2", None))
