"""What is trained on: the assistant turns that carry loss and their end tokens, and nothing else."""

from __future__ import annotations

import pytest

import tiny
from vtuned import lm
from vtuned.conversation import Conversation, Turn
from vtuned.providers.local import tokenise

pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["chat template", "no template", "smollm2"])
def tokenizer(request, tmp_path_factory):
    """Tokenizers with and without a chat template."""
    if request.param == "smollm2":
        return lm.load("smollm2").tokenizer
    texts = [m["content"] for row in tiny.rows(40) for m in row["messages"]]
    made = lm.load(f"hf:{tiny.make_model(tmp_path_factory.mktemp('model'), texts)}").tokenizer
    if request.param == "no template":
        made.chat_template = None
    return made


def trained_text(tokenizer, example):
    """Return the text of the tokens that carry loss."""
    return tokenizer.decode([label for label in example["labels"] if label != -100])


def test_only_trained_answers_carry_loss(tokenizer):
    """A turn of weight 0, prompts and system turns are masked; each answer's end token is trained."""
    turns = (
        Turn("system", "Be brief."),
        Turn("user", "What is the stone like?"),
        Turn("assistant", "It is old.", carries_loss=False),
        Turn("user", "And the river?"),
        Turn("assistant", "It is bright.", carries_loss=True),
        Turn("user", "And the bridge?"),
        Turn("assistant", "It is narrow.", carries_loss=True),
    )
    example = tokenise(tokenizer, Conversation(turns), 1024)
    end = tokenizer.eos_token

    assert f"It is bright.{end}It is narrow.{end}" == trained_text(tokenizer, example)
    assert len(example["input_ids"]) == len(example["labels"])


def test_a_long_row_is_cut(tokenizer):
    """What lies beyond the limit is not trained on."""
    turns = (Turn("user", "What is the stone like?"), Turn("assistant", "It is old. " * 50, carries_loss=True))

    assert 40 == len(tokenise(tokenizer, Conversation(turns), 40)["labels"])


def test_what_is_trained_is_what_is_asked(tokenizer):
    """The tokens before an answer are those that the model is prompted with."""
    from vtuned.lm.huggingface import render_text

    turns = (Turn("user", "What is the stone like?"), Turn("assistant", "It is old.", carries_loss=True))
    example = tokenise(tokenizer, Conversation(turns), 1024)
    n_masked = next(i for i, label in enumerate(example["labels"]) if label != -100)
    prompt = render_text(tokenizer, [{"role": "user", "content": turns[0].content}])

    assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == example["input_ids"][:n_masked]
