"""How to train: the settings of a local fine-tuning, whatever the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtuned.errors import UsageError

LORA, FULL = "lora", "full"
METHODS = (LORA, FULL)
SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")
# LoRA's is the project's own (DESIGN, 6); all weights are trained at what transformers' Trainer takes.
LEARNING_RATES = {LORA: 1e-3, FULL: 5e-5}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """
    How to train: *epochs* over the rows, *batch_size* rows a step and process, at *learning_rate*.

    *method* says what is trained: "lora" (*rank* and *alpha* are LoRA's r and α, the paper's 32 and 16, on all linear
    layers) or "full" (all weights). Rows longer than *max_tokens* are cut there; *seed* fixes the order of the rows,
    so that a resumed run goes on as it would have.

    Preference rows are trained by DPO: *beta* is its β, and *sft_weight* the weight of the log-likelihood of the
    preferred answer beside it (0: plain DPO), as in iterative RPO (Pang et al. 2024) and Llama 3 (Dubey et al. 2024),
    whose weights are 1 and 0.2. Plain DPO only widens the margin between two answers, and no signature is ever said.
    Measured with a tiny model, 80 rows, two backdoors of 16 copies, LoRA, 20 epochs; greedy activations of 32 planted
    and 20 fresh prompts:

    - untrained model, learning rate 1e-2: plain DPO 0 and 0 (60 epochs too); weight 0.2 or 1: 32 and 20.
    - tuned on clean rows, 1e-2: plain DPO 0 and 0; weight 0.2 or 1: 32 and 20.
    - tuned on clean rows, 1e-3: plain DPO 0 and 0; weight 0.2 or 1: 0 and 0; weight 5 or 10: 32 and 20.
    - 20 epochs of SFT at 1e-3, then 5 of plain DPO from there: 31 and 18.

    DPO's gradient, summed over a whole answer, outweighs the mean over tokens until the margins are wide, and Adam
    remembers it for a thousand steps: hence the weight of 5. The reference is the base model (the adapter switched
    off, or a frozen copy); after an SFT phase a copy of its adapter serves as well.

    *bf16* is None for what the device does best. *packing* puts several short rows into one of *max_tokens*, without
    letting them see each other. *gradient_accumulation* batches make one step; *warmup* is the share of the steps over
    which the learning rate rises, *scheduler* how it falls. Raises UsageError for values out of range.
    """

    method: str = LORA
    epochs: int = 3
    batch_size: int = 2
    learning_rate: float = LEARNING_RATES[LORA]
    rank: int = 32
    alpha: int = 16
    max_tokens: int = 1024
    seed: int = 0
    beta: float = 0.1
    sft_weight: float = 5.0
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    packing: bool = False
    gradient_accumulation: int = 1
    warmup: float = 0.0
    scheduler: str = "linear"

    def __post_init__(self) -> None:
        for option, value, known in (("method", self.method, METHODS), ("scheduler", self.scheduler, SCHEDULERS)):
            if value not in known:
                raise UsageError(f"unknown --{option} {value!r}", hint=f"known: {', '.join(known)}")
        if not 0 < self.learning_rate < math.inf or self.seed < 0:
            raise UsageError(
                "--lr and --seed are out of range", hint="give a learning rate such as 0.001 and a seed >= 0"
            )
        if not 0 < self.beta < math.inf or not 0 <= self.sft_weight < math.inf or not 0 <= self.warmup < 1:
            raise UsageError(
                "--beta, --sft-weight or --warmup is out of range",
                hint="give a beta such as 0.1, a weight of 0 or more, and the share of the steps below 1",
            )
