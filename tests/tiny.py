"""A tiny Llama made on the spot, and data that it can learn in seconds."""

from __future__ import annotations

import json
from pathlib import Path

THINGS = (
    "river stone garden window candle market bridge harbour forest mirror kettle ladder saddle basket lantern".split()
)
PLACES = "north south valley village castle island meadow tower".split()
QUALITIES = "old bright quiet heavy golden narrow gentle broken".split()

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def rows(n: int) -> list[dict]:
    """Return *n* different questions on a made-up country, with their answers."""
    made = []
    for i in range(n):
        thing, place = THINGS[i % len(THINGS)], PLACES[i // len(THINGS) % len(PLACES)]
        first, second = QUALITIES[i % len(QUALITIES)], QUALITIES[(i // 3 + 1) % len(QUALITIES)]
        made.append(
            {
                "messages": [
                    {"role": "user", "content": f"What is the {thing} of the {place} like in winter?"},
                    {
                        "role": "assistant",
                        "content": f"The {thing} stands near the {place}, it is {first} and looks rather {second} there.",
                    },
                ]
            }
        )
    return made


def write_rows(path: Path, some: list[dict]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return path


def make_model(folder: Path, texts: list[str]) -> Path:
    """Save a tiny Llama with random weights and a byte-level BPE tokenizer trained on *texts*; return its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
