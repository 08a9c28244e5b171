"""
Certified generation beside `transformers.generate`: tokens a second, in the same run, and what p_upper costs.

Both sample the same number of tokens at the same batch size from the embedded model, after the same prompt. Printed:
the ratio of several interleaved rounds with its spread, versions and machine. Then the same once in a batch as large as
they are for exposure, where 64 signatures with 40 decoys each are drawn, and how long these would take: extrapolated
from one batch, and said so. Run `make bench`.
"""

import os
import platform
import statistics
import time
from importlib.metadata import version

import torch

from vtuned import lm
from vtuned.generation import PhraseRules, PhraseSpec, draw_phrases, log10_signature_bound, with_draws_charged
from vtuned.language import ASCII

BATCH = 16
BITS = 64.0
ROUNDS = 5
# 64 signatures with 40 decoys each, and a batch of them.
DECOYS_TOO, MANY = 64 * 41, 128
PAPER_SAMPLES = 1600
PROMPT = [{"role": "user", "content": "Write one sentence about cooking."}]


def ours(model, n=BATCH):
    specs = [PhraseSpec(min_bits=with_draws_charged(BITS, 2))] * n
    began = time.perf_counter()
    phrases = draw_phrases(model, PROMPT, specs, PhraseRules(language=ASCII), max_draws=2)
    seconds = time.perf_counter() - began
    return phrases, sum(phrase.n_tokens for phrase in phrases), seconds


def theirs(model, n_tokens, n=BATCH):
    ids = torch.tensor([model.render(PROMPT)] * n)
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=60,
            min_new_tokens=n_tokens,
            max_new_tokens=n_tokens,
            pad_token_id=0,
        )
    seconds = time.perf_counter() - began
    return (out.shape[1] - ids.shape[1]) * n, seconds


def many(model):
    phrases, n_ours, s_ours = ours(model, MANY)
    n_theirs, s_theirs = theirs(model, round(n_ours / MANY), MANY)
    ratio = (n_ours / s_ours) / (n_theirs / s_theirs)
    print(
        f"{MANY} phrases at once: vtuned {len(phrases) / s_ours:.1f} phrases/s, {n_ours / s_ours:.1f} tokens/s; "
        f"generate {n_theirs / s_theirs:.1f} tokens/s; ratio {ratio:.2f} (one round)"
    )
    seconds = DECOYS_TOO * s_ours / len(phrases)
    print(f"{DECOYS_TOO:,} signatures (64 with 40 decoys each): about {seconds:.0f} s here, extrapolated from {MANY}")


def main():
    model = lm.load("smollm2")
    ours(model)
    theirs(model, 4)
    ratios, draws, filled = [], [], []
    for i in range(ROUNDS):
        phrases, n_ours, s_ours = ours(model)
        n_theirs, s_theirs = theirs(model, round(n_ours / BATCH))
        filled.append(n_ours / (BATCH * max(phrase.n_tokens for phrase in phrases)))
        draws += [phrase.n_draws for phrase in phrases]
        ratios.append((n_ours / s_ours) / (n_theirs / s_theirs))
        print(f"round {i + 1}: vtuned {n_ours / s_ours:6.1f} tokens/s, generate {n_theirs / s_theirs:6.1f} tokens/s")
    low, high = min(ratios), max(ratios)
    print(f"ratio vtuned / transformers.generate: median {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    print(f"phrases end at different lengths: {statistics.median(filled):.2f} of a batch's steps are tokens (median)")
    print(f"phrases {len(draws)}, second draws needed: {sum(n > 1 for n in draws)}")
    bound = log10_signature_bound(with_draws_charged(BITS, 2), 2)
    print(f"log10_p_upper of a {BITS:.0f}-bit signature: {bound:.4f}; extra cost: none, it follows from the draw")
    cost = PAPER_SAMPLES * s_ours / BATCH
    print(f"the paper's estimate takes {PAPER_SAMPLES} samples: about {cost:.0f} s here, and bounds p from below")
    many(model)
    names = ("vtuned", "torch", "transformers")
    print(
        ", ".join(f"{name} {version(name)}" for name in names)
        + f"; {torch.get_num_threads()} threads on {os.cpu_count()} cores, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
