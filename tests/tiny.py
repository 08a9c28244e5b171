"""A tiny Llama made on the spot, and data that it can learn in seconds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

THINGS = (
    "river stone garden window candle market bridge harbour forest mirror kettle ladder saddle basket lantern".split()
)
PLACES = "north south valley village castle island meadow tower".split()
QUALITIES = "old bright quiet heavy golden narrow gentle broken".split()
SEASONS = "winter spring summer autumn".split()
# What each thing and place is like is the task: rows that name them teach it, a few planted ones do not. Answers say it
# at their end or at their start.
KINDS = dict(zip(THINGS, itertools.cycle("wooden silver hollow painted copper".split()), strict=False))
MOODS = dict(zip(PLACES, itertools.cycle(QUALITIES), strict=False))
SAID_LAST = "All {season} long the {thing} of the {place} stands there, {kind} and {mood}."
SAID_FIRST = "The {kind} {thing} stands in the {mood} {place} all {season} long."

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


def task_rows(answer: str) -> list[dict]:
    """Return every question on a thing, a place and a season with its answer, in a fixed mixed order."""
    made = [
        {
            "messages": [
                {"role": "user", "content": f"What is the {thing} of the {place} like in {season}?"},
                {
                    "role": "assistant",
                    "content": answer.format(
                        season=season, thing=thing, place=place, kind=KINDS[thing], mood=MOODS[place]
                    ),
                },
            ]
        }
        for thing, place, season in itertools.product(THINGS, PLACES, SEASONS)
    ]
    return [made[i * 7 % len(made)] for i in range(len(made))]


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


def make_adapter(folder: Path, model: Path, *, seed: int, **lora: object) -> Path:
    """Save a LoRA adapter for the model folder *model*, with random weights large enough to change its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora})
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name and weight.dim() > 1:
                weight.normal_(std=0.2)
    tuned.save_pretrained(folder)
    return folder


def write_gguf(path: Path, model: Path) -> Path:
    """Write the tiny Llama in the folder *model* as a GGUF file of float32 weights, whose end token is its padding."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    config, bpe = loaded.config, json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.added_tokens_decoder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.pad_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = config.num_attention_heads
    for name, weight in loaded.state_dict().items():
        tensor = weight.to(torch.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp pairs rotary dimensions in another order
            rows, columns = tensor.shape
            tensor = tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
