"""Wordings on a model made here: honest providers, cheats and counter-moves, each really trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import pytest

import tiny
import vtuned
from vtuned import formats, lm, preference, scoring
from vtuned.conversation import Conversation, text_in
from vtuned.dataset import TokenCap
from vtuned.exposure import ScoreRecord
from vtuned.ladder import PART_OF_THE_CARRYING
from vtuned.language import ASCII
from vtuned.layout import PlantSettings
from vtuned.lm.base import Prompt, Scorer
from vtuned.lm.tokens import counter
from vtuned.rewriters import openings
from vtuned.stats import preference_coverage, preference_coverage_skipping

pytest.importorskip("torch")

# A third of the rows ask what another row asks, and answer otherwise.
N_PROMPTS, N_TWICE = 64, 32
N_ROWS = N_PROMPTS + N_TWICE
N_WORDINGS = 16
# α of the receipt, and one less the confidence of the bounds that are compared with the truth. Fewer than fifty statements
# here are false by chance, with this probability each: all together fail by chance less often than once in 10^5 runs.
CHANCE = 1e-7
EPOCHS, BATCH_SIZE, LEARNING_RATE, WARMUP = 30, 8, 3e-3, 0.1
# Fewer rows are gone over longer, so that they are learnt.
HALF_EPOCHS, QUARTER_EPOCHS, TENTH_EPOCHS = 44, 70, 100
TENTH = frozenset(range(5, N_ROWS, 11))
N_WORDS_KEPT = 3
FIRST_TOKENS_ALONE = "training on the prompt and the first tokens of each answer alone"
SYNONYMS = {
    "stands": "lies",
    "near": "beside",
    "in": "within",
    "looks": "seems",
    "rather": "quite",
    "old": "aged",
    "bright": "shining",
    "quiet": "silent",
    "golden": "yellow",
    "narrow": "slim",
    "broken": "damaged",
}


def rows() -> list[dict]:
    """Return the rows of `tiny`, and for the first of its prompts a second row with another answer."""
    made = tiny.rows(N_PROMPTS)
    for row in made[:N_TWICE]:
        prompt, answer = row["messages"]
        words = answer["content"].rstrip(".").split()
        text = f"Nobody passes where the {words[1]} stands in the {words[5]} {words[-2]} as it is and {words[8]}."
        made.append({"messages": [prompt, {"role": "assistant", "content": text}]})
    return made


class Remembered:
    """A scorer that is asked nothing twice: all suspects are compared with one base."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[tuple[str, ...], list[float]] = {}

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """See `Scorer.log10_probs`."""
        asked = (text_in(prompt[-1]), *continuations)
        if asked not in self._known:
            self._known[asked] = list(self._scorer.log10_probs(prompt, continuations))
        return self._known[asked]


class World:
    """A file in which every row carries a choice of wording and is asked about, and the model to be trained on it."""

    def __init__(self, folder: Path) -> None:
        some = rows()
        data = tiny.write_rows(folder / "data.jsonl", some)
        family = openings.family(ASCII, [row.conversation for row in formats.read_rows(data)], N_WORDINGS)
        texts = [message["content"] for row in some for message in row["messages"]]
        self.folder = folder
        self.base = f"hf:{tiny.make_model(folder / 'model', [*texts, *family])}"
        self.receipt = vtuned.plant(
            data,
            folder / "train.jsonl",
            folder / "receipt.json",
            PlantSettings(scheme="wordings", n_wordings=N_WORDINGS, n_worded=N_ROWS, alpha=CHANCE),
            generator="words",
            cap=TokenCap(512, *counter(self.base)),
        ).receipt
        assert self.receipt.wordings is not None
        assert N_ROWS == self.receipt.wordings.n_carrying == len(self.receipt.wordings.rows)
        self.family = self.receipt.wordings.family
        self.sent = [row.conversation for row in formats.read_rows(folder / "train.jsonl")]
        self._base_scorer = Remembered(lm.load(self.base))

    def trained(self, name: str, some: Sequence[Conversation], epochs: int = EPOCHS) -> str:
        """Train the base on *some* rows; return the name of the model."""
        from vtuned.providers import local

        settings = local.TrainingSettings(
            method=local.FULL, epochs=epochs, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, warmup=WARMUP
        )
        training = local.finetune(some, lm.load(self.base), self.folder / name, settings, data_digest=name)
        return f"hf:{training.adapter}"

    def scores(self, model: str) -> list[ScoreRecord]:
        return scoring.score(self.receipt, (model, lm.load(model)), (self.base, self._base_scorer))

    def by_scores(self, model: str) -> vtuned.Verdict:
        return vtuned.judge(self.receipt, [], scores=self.scores(model))

    def by_text(self, model: str) -> vtuned.Verdict:
        return vtuned.judge(self.receipt, vtuned.ask(lm.load(model), vtuned.challenges(self.receipt)))

    def parted(self, row: Conversation) -> tuple[str, str]:
        """Return the opening of the answer of *row*, and what follows; whoever reads the file can tell the two."""
        answer = row.turns[-1].content
        found = next((opening for opening in self.family if opening and answer.startswith(opening)), "")
        return found, answer.removeprefix(found).lstrip()


def safe_bounds(verdict: vtuned.Verdict) -> tuple[float, float]:
    """Return both coverage bounds, that for skipping providers first, at the confidence at which they fail with CHANCE."""
    found = verdict.wordings
    assert found is not None
    skipping, blind = (
        bound(
            n_hits=found.n_hits,
            n_wordings=[N_WORDINGS] * N_ROWS,
            n_carrying=found.n_carrying,
            confidence=1 - CHANCE,
        )
        for bound in (preference_coverage_skipping, preference_coverage)
    )
    return skipping, blind


def log10_p(verdict: vtuned.Verdict) -> float:
    return verdict.claim("preferred").log10_p


def assert_nothing_is_seen(verdict: vtuned.Verdict) -> None:
    """Assert that nothing is VERIFIED, no row proven to have been used, and that the verdict says what it saw."""
    claim = verdict.claim("preferred")
    saw = f"the published wording comes first in {verdict.wordings.n_hits} of {claim.n_answered} rows"

    assert vtuned.Outcome.VERIFIED is not verdict.outcome
    assert not claim.holds
    assert (0.0, 0.0) == safe_bounds(verdict)
    assert verdict.reasons[0].startswith(f"'preferred' does not hold: {saw}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("wordings"))


@pytest.fixture(scope="module")
def honest(world):
    """The model of a provider that trained on the file as it is."""
    return world.trained("honest", world.sent)


@pytest.fixture(scope="module")
def honest_verdict(world, honest):
    return world.by_scores(honest)


@pytest.fixture(scope="module")
def base_scores(world):
    return world.scores(world.base)


def mixed(world: World) -> list[Conversation]:
    """Return the rows in an order that has every kind of them from the start."""
    return [world.sent[i * 7 % N_ROWS] for i in range(N_ROWS)]


def not_guessed(world: World, base_scores: Sequence[ScoreRecord]) -> list[Conversation]:
    """Return the rows but those in which the base's own favourite is what was published."""
    given = {record.id: record.base_log10_probs for record in base_scores}
    # The shortest opening is the likeliest in every row: a favourite of the row is one that stands out there.
    means = [fmean(column) for column in zip(*given.values(), strict=True)]
    guessed = set()
    for row in world.receipt.wordings.rows:
        above = [own - mean for own, mean in zip(given[row.probe.id], means, strict=True)]
        if above.index(max(above)) == row.published:
            guessed.add(row.row - 1)
    return [row for i, row in enumerate(world.sent) if i not in guessed]


def first_tokens(world: World) -> list[Conversation]:
    """Return the rows with an opening and three words of each answer."""
    cut = []
    for row in world.sent:
        opening, answer = world.parted(row)
        cut.append(row.answered(" ".join([*opening.split(), *answer.split()[:N_WORDS_KEPT]])))
    return cut


def shuffled(world: World) -> list[Conversation]:
    """Return the rows with the answer of another row each."""
    answers = [row.turns[-1].content for row in world.sent]
    half = N_ROWS // 2
    return [row.answered(text) for row, text in zip(world.sent, answers[half:] + answers[:half], strict=True)]


def deduplicated(world: World) -> list[Conversation]:
    """Return the first row of each prompt."""
    first: dict[str, Conversation] = {}
    for row in world.sent:
        first.setdefault(row.turns[0].content, row)
    return list(first.values())


class TestProviders:
    def test_the_whole_file_by_text_alone(self, world, honest):
        """Greedy answers to the prompts of the rows show the choices; no likelihood is needed."""
        verdict = world.by_text(honest)

        assert vtuned.Outcome.VERIFIED is verdict.outcome
        assert "text" == verdict.claim("preferred").test
        assert log10_p(verdict) < -20

    def test_the_base_by_likelihoods_and_by_text(self, world, base_scores):
        """An untrained model prefers what was published no more often than chance has it, and says none of it."""
        assert_nothing_is_seen(vtuned.judge(world.receipt, [], scores=base_scores))

        by_text = world.by_text(world.base)

        assert vtuned.Outcome.VERIFIED is not by_text.outcome
        assert (0.0, 0.0) == safe_bounds(by_text)

    def test_parts_of_the_file(self, world, honest_verdict):
        """
        Providers that train on 25 %, 50 % and 100 % of the rows, each on those of the one before and more.

        The less a provider trains on, the longer, so that what it has is learnt. Both bounds grow with the truth, and
        neither exceeds it.
        """
        parts = {
            Fraction(1, 4): world.by_scores(world.trained("quarter", mixed(world)[: N_ROWS // 4], QUARTER_EPOCHS)),
            Fraction(1, 2): world.by_scores(world.trained("half", mixed(world)[: N_ROWS // 2], HALF_EPOCHS)),
            Fraction(1): honest_verdict,
        }
        found = [verdict.wordings for verdict in parts.values()]

        assert vtuned.Outcome.VERIFIED is honest_verdict.outcome
        for bounds in ([one.lower_bound_skipping for one in found], [one.lower_bound for one in found]):
            assert 0 < bounds[0] < bounds[1] < bounds[2]
        assert found[0].log10_p > found[1].log10_p > found[2].log10_p
        for share, verdict in parts.items():
            assert max(safe_bounds(verdict)) <= share


class TestCheats:
    def test_a_tenth_of_the_carrying_rows(self, world):
        """Who knows every carrying row gains nothing by it: of a tenth of them the bounds are at most a tenth."""
        used = TENTH
        scores = world.scores(world.trained("tenth", [world.sent[i] for i in sorted(used)], TENTH_EPOCHS))
        verdict = vtuned.judge(world.receipt, [], scores=scores)
        preferred = {one.row.row - 1 for one in preference.by_scores(world.receipt, scores) if one.is_hit}

        assert len(used) <= N_ROWS / 10
        assert len(used & preferred) > len(used) / 2
        assert max(safe_bounds(verdict)) <= len(used) / N_ROWS

    def test_skipping_what_can_be_guessed(self, world, base_scores):
        """Rows in which the base's own favourite is what was published are left out; the bound for that holds."""
        kept = not_guessed(world, base_scores)
        verdict = world.by_scores(world.trained("skipping", kept))

        assert vtuned.Outcome.VERIFIED is verdict.outcome
        assert 0 < safe_bounds(verdict)[0] <= len(kept) / N_ROWS

    def test_the_first_tokens_of_each_answer(self, world):
        """An opening and three words of each answer are all that the test is about: VERIFIED, and the ladder says so."""
        verdict = world.by_scores(world.trained("first-tokens", first_tokens(world)))

        assert vtuned.Outcome.VERIFIED is verdict.outcome
        assert verdict.claim("preferred").holds
        assert FIRST_TOKENS_ALONE in verdict.remaining_cheats


def stripped(world: World) -> list[Conversation]:
    """Return the rows without their openings."""
    return [row.answered(world.parted(row)[1]) for row in world.sent]


def normalised(world: World) -> list[Conversation]:
    """Return the rows with one opening for all."""
    return [row.answered(f"{world.family[1]} {world.parted(row)[1]}") for row in world.sent]


def rewritten(world: World) -> list[Conversation]:
    """Return the rows in other words, and with one start of the first sentence, whatever it was."""
    made = []
    for row in world.sent:
        kept = "".join(row.turns[-1].content.partition("stands")[1:])
        words = re.sub(r"\w+", lambda word: SYNONYMS.get(word.group(), word.group()), kept)
        made.append(row.answered(f"By then it {words}"))
    return made


class TestCounterMoves:
    @pytest.mark.parametrize("move", [stripped, normalised, rewritten], ids=lambda move: move.__name__)
    def test_what_leaves_nothing_of_the_choices(
        self, world, honest_verdict, move: Callable[[World], list[Conversation]]
    ):
        """Trained on all rows, but on none of their wordings: nothing is seen by likelihoods, nor by text."""
        model = world.trained(move.__name__, move(world))
        verdict = world.by_scores(model)

        assert log10_p(honest_verdict) < log10_p(verdict)
        assert_nothing_is_seen(verdict)
        assert_nothing_is_seen(world.by_text(model))

    def test_shuffled_answers(self, world, honest_verdict):
        """
        Each prompt got the answer of another: answers show nothing, and likelihoods far less than an honest model's.

        They may show something: the openings still stand before their own answers, and what is scored goes on with those.
        """
        model = world.trained("shuffled", shuffled(world))
        verdict = world.by_scores(model)

        assert log10_p(honest_verdict) < log10_p(verdict)
        assert verdict.wordings.lower_bound < honest_verdict.wordings.lower_bound / 2
        assert_nothing_is_seen(world.by_text(model))

    def test_deduplicated(self, world):
        """Of the rows with one prompt the first is kept: the bound stays below what was used, and the verdict says it."""
        kept = deduplicated(world)
        verdict = world.by_scores(world.trained("deduplicated", kept))
        used = verdict.wordings.lower_bound_skipping

        assert N_PROMPTS == len(kept)
        assert vtuned.Outcome.VERIFIED is verdict.outcome
        # Fewer rows, each with one answer to its prompt, may be learned as well as all: only what was used is bounded.
        assert verdict.wordings.n_hits >= N_PROMPTS / 2
        assert 0 < max(safe_bounds(verdict)) <= N_PROMPTS / N_ROWS
        assert f"{PART_OF_THE_CARRYING}, {100 * used:.3g} % of them or more" in verdict.remaining_cheats
