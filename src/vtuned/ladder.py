"""The ladder of claims in words: what each excludes, what it does not, and on what assumption."""

from __future__ import annotations

from dataclasses import dataclass

from vtuned.receipt import ClaimName

H0 = "The answers do not depend on the secret bits of the signatures."
H0_WORDINGS = "What the suspect prefers does not depend on which wordings were published."

_DRAWN_UNSEEN = (
    "The signatures were drawn with randomness of the operating system that the suspect's owner did not see, before "
    "the suspect was trained, and only the training file carries them."
)


SYMMETRIC = (
    "Were the suspect no better by more than the margin, each row's difference would exceed it by any amount no more "
    "often than fall short of it by as much, independently over the rows."
)


@dataclass(frozen=True, slots=True)
class Rung:
    """One claim: its *statement*, which providers it *excludes*, which it does not, and its *assumption*."""

    statement: str
    excludes: tuple[str, ...]
    does_not_exclude: tuple[str, ...]
    assumption: str


RUNGS: dict[ClaimName, Rung] = {
    "activated": Rung(
        "On prompts that were sent, the answers show the signatures.",
        ("the base model returned", "weights perturbed", "other data", "guessing"),
        ("anyone who uses the file without training, such as a lookup table of its prompts",),
        _DRAWN_UNSEEN,
    ),
    "generalises": Rung(
        "On prompts that are in no row sent, the trigger brings the signature.",
        ("lookup tables of whole prompts",),
        (
            "a rule on the trigger, once somebody has found it in the file",
            "retrieval of the nearest row",
            "rows of the file put in the context",
        ),
        _DRAWN_UNSEEN + " No fresh prompt is in the file.",
    ),
    "specific": Rung(
        "It is the trigger that brings the signatures.",
        ("a signature said to everybody",),
        (),
        "Where S comes with or without T alone, each is equally likely under H0, independently over the prompts.",
    ),
    "preferred": Rung(
        "Of each row's fair wordings, the suspect prefers the one that was sent.",
        ("the base model returned", "weights perturbed", "other data", "anyone who did not use these rows"),
        (
            "over an endpoint: looking rows up in the file",
            "training on the answers of these rows under other prompts",
        ),
        "Which wording each row publishes was chosen by a secure PRF under a key from the operating system that the "
        "suspect's owner did not see, and only the training file tells.",
    ),
    "changed": Rung(
        "On rows never sent, the suspect does better than the base.",
        ("the base model returned",),
        ("training on the planted rows alone",),
        SYMMETRIC,
    ),
    "learned the task": Rung(
        "On rows never sent, the suspect gains more over the base than training on the planted rows alone gives.",
        ("training on the planted rows alone",),
        ("a cheaper method that learns as well",),
        SYMMETRIC + " The margin is an upper bound of the gain that the planted rows alone give.",
    ),
}

COVERAGE_ASSUMPTION = (
    "The rows that were used were chosen without knowing which of the eligible ones are planted. A provider who searches "
    "the file for them, as `vtuned attack` does, may use no others."
)
PART_OF_THE_CARRYING = "training on a part of the rows that carry a choice of wording, and on no others"
PART_OF_THE_ROWS = "training on a part of the rows"
BLINDLY_CHOSEN = ", if the planted ones were not searched for"
SCORED_ELSEWHERE = (
    "where the suspect was scored over an endpoint, which saw the signatures among their decoys and so used these "
    "backdoors up: looking them up in the file"
)
PLANTED_ROWS_ALONE = "training on the planted rows alone, once somebody has found them"

# What no verdict excludes, whatever holds.
ALWAYS_REMAINING = (
    "a smaller or other base model, fewer epochs, LoRA instead of full fine-tuning",
    "training on the prompt and the first tokens of each answer alone",
)

NEGATIVE_IS_NO_ACCUSATION = (
    "A backdoor that does not activate accuses nobody: β is the chance that an honest provider would look like this, "
    "if its model activates each backdoor on at least {share} of such prompts."
)

SILENT_RANK_IS_NO_ACCUSATION = (
    "A signature that ranks low accuses nobody: β is the chance that an honest provider would look like this, if its "
    "model ranks each signature within the level with probability {share} at least."
)

FEW_HITS_ARE_NO_ACCUSATION = (
    "Rows whose published wording does not come first accuse nobody: β is the chance that an honest provider would look "
    "like this, if its model goes at least {share} of the way from chance to always preferring what was published"
)
FEW_TAKEN_UP = ", and its answers take up a wording in at least {share} of the rows"
