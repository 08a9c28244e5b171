"""Signatures among their decoys: how they are planted, scored, ranked and judged."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vtuned import documents, planting, scoring
from vtuned.calibration import exposures_estimate
from vtuned.dataset import TokenCap
from vtuned.errors import AnswersError, OutputExists, OutputNotWritable, UsageError
from vtuned.exposure import ScoreRecord, exposures
from vtuned.ladder import SCORED_ELSEWHERE
from vtuned.layout import PlantSettings
from vtuned.lm.base import Answer, Completed, Prompt, Sampling
from vtuned.receipt import Receipt, read_receipt
from vtuned.scoring import ScoreFile, read_scores, score
from vtuned.stats import coverage_lower_bound, log10_poisson_binomial_tail
from vtuned.verdict import Outcome, judge
from vtuned.verification import challenges, verify

Rows = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]
Likes = Callable[[str, str], float]
# As few as the level of one in twenty takes.
N_DECOYS = 19


class Scripted:
    """A suspect that gives `likes(prompt, candidate)` as the log-likelihood, and always says the same."""

    name = "scripted"

    def __init__(self, likes: Likes) -> None:
        self.likes = likes
        self.asked: list[tuple[str, ...]] = []

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
        for _ in prompts:
            yield plain()

    def log10_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        self.asked.append(tuple(continuations))
        return [self.likes(prompt[-1]["content"], candidate) for candidate in continuations]


def plain() -> Answer:
    """An answer without a signature, long enough to have held one."""
    return Completed("The answer to this question takes one whole sentence, and a second one to be sure.", "stop")


@pytest.fixture
def make(rows: Rows, write_jsonl: Write, tmp_path: Path, cap: TokenCap) -> Callable[..., Receipt]:
    """`make(**settings)`: the receipt of 120 rows planted for a suspect whose weights are at hand."""

    def made(**settings: Any) -> Receipt:
        chosen = {
            "suspect": "weights",
            "n_decoys": N_DECOYS,
            "signature_bits": 16.0,
            "min_trigger_tokens": 4,
            "n_probes": 4,
            **settings,
        }
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return planting.plant(
            write_jsonl(rows(120)),
            folder / "t.jsonl",
            folder / "r.json",
            PlantSettings(**chosen),
            generator="words",
            cap=cap,
        ).receipt

    return made


def trained(receipt: Receipt, *, on: Callable[[str, str], bool] = lambda kind, prompt: True) -> Likes:
    """Like the signatures of all backdoors after their triggers; where not *on*, less than all others: by chance none is first."""
    known = {backdoor.trigger: backdoor.signature for backdoor in receipt.backdoors}
    planted = {probe.messages[-1]["content"] for probe in receipt.exposures if probe.kind == "planted"}

    def likes(prompt: str, candidate: str) -> float:
        kind = "planted" if prompt in planted else "fresh"
        signature = next((known[trigger] for trigger in known if prompt.endswith(trigger)), None)
        if candidate == signature:
            return -1.0 if on(kind, prompt) else -15.0
        return -9.0 - len(candidate) / 100

    return likes


def untrained(seed: int) -> Likes:
    """Like every candidate by chance."""
    return lambda prompt, candidate: random.Random(f"{seed}{prompt}{candidate}").random()


def scored(receipt: Receipt, likes: Likes, base: Likes = lambda prompt, candidate: -20.0) -> list[ScoreRecord]:
    """Return the scores of a scripted suspect and base."""
    return score(receipt, ("suspect", Scripted(likes)), ("base", Scripted(base)))


class TestPlanting:
    def test_every_signature_has_decoys_of_its_own(self, make: Callable[..., Receipt]) -> None:
        """Single copies, nineteen decoys each, in no two pools the same; one planted and one fresh prompt each."""
        receipt = make()

        assert [1] * 15 == [len(backdoor.rows) for backdoor in receipt.backdoors]
        assert {N_DECOYS} == {len(backdoor.decoys) for backdoor in receipt.backdoors}
        assert 15 == len({backdoor.decoys for backdoor in receipt.backdoors})
        asked = [(probe.kind, probe.backdoor) for probe in receipt.exposures]
        assert sorted(asked) == sorted((kind, j) for j in range(15) for kind in ("planted", "fresh"))

    def test_no_decoy_is_sent(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """The training file holds the signatures, once each, and not one decoy."""
        receipt = make(signature_bits=40.0)
        sent = next(tmp_path.glob("*/t.jsonl")).read_text()

        assert all(1 == sent.count(backdoor.signature) for backdoor in receipt.backdoors)
        assert not any(decoy in sent for backdoor in receipt.backdoors for decoy in backdoor.decoys)

    def test_signature_and_decoys_are_drawn_alike(self, make: Callable[..., Receipt]) -> None:
        """Which of the candidates is the signature is a lot: it is the longest no more often than any other."""
        receipts = [make(n_backdoors=30, copies=1) for _ in range(2)]
        longest = [
            len(backdoor.signature) > max(map(len, backdoor.decoys))
            for receipt in receipts
            for backdoor in receipt.backdoors
        ]

        # 60 chances of 1 in 20: 15 or more would come up once in a million times.
        assert sum(longest) < 15

    def test_two_backdoors_with_one_pool_are_refused(self, make: Callable[..., Receipt]) -> None:
        """Ranks in one pool depend on each other, and the tail over backdoors would be wrong."""
        content = make().model_dump(mode="json")
        content["backdoors"][1]["decoys"] = content["backdoors"][0]["decoys"]

        with pytest.raises(ValueError, match="share their decoys"):
            documents.read(Receipt, json.dumps(content).encode())

    def test_too_few_decoys_for_the_level(self, make: Callable[..., Receipt]) -> None:
        """Of ten candidates none can rank within one twentieth: said before anything is drawn, and in a receipt."""
        with pytest.raises(UsageError, match="no signature can rank within 1/20") as caught:
            make(n_decoys=9)
        assert "--decoys 19" in caught.value.hint
        content = make().model_dump(mode="json")
        content["backdoors"][0]["decoys"] = content["backdoors"][0]["decoys"][:18]

        with pytest.raises(ValueError, match="too few decoys"):
            documents.read(Receipt, json.dumps(content).encode())

    def test_a_mix_asks_only_what_can_speak(self, make: Callable[..., Receipt]) -> None:
        """For an unknown suspect: copies are asked for answers, and all of them are scored."""
        receipt = make(suspect="unknown", contexts=0)

        assert [8, 8] + [1] * 7 == [len(backdoor.rows) for backdoor in receipt.backdoors]
        assert {0, 1, None} == {probe.backdoor for probe in receipt.probes}
        assert set(range(9)) == {probe.backdoor for probe in receipt.exposures}

    def test_the_receipt_reads_back(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """Decoys and exposure probes are in the file, and secrets do not show."""
        receipt = make()

        assert receipt == read_receipt(next(tmp_path.glob("*/r.json")))
        assert not any(decoy in repr(receipt) for backdoor in receipt.backdoors for decoy in backdoor.decoys)


class TestJudging:
    def test_a_trained_model_is_verified(self, make: Callable[..., Receipt]) -> None:
        """All first of 20: p is that of 15 first ranks of 20, though no answer shows anything."""
        receipt = make()
        verdict = verify(receipt, Scripted(trained(receipt)), base=Scripted(lambda prompt, candidate: -20.0))

        assert Outcome.VERIFIED is verdict.outcome
        for name in ("activated", "generalises"):
            claim = verdict.claim(name)  # type: ignore[arg-type]
            assert ("exposure", 15, 15) == (claim.test, claim.n_passed, claim.n_backdoors)
            assert claim.log10_p == pytest.approx(log10_poisson_binomial_tail(15, [_log10(Fraction(1, 20))] * 15))
            assert "15 backdoors of 1 copy" == claim.rests_on
        assert {1} == {one.rank for one in verdict.exposures}
        assert 0 == sum(result.n_activated for result in verdict.backdoors)

    def test_an_untrained_model_is_not(self, make: Callable[..., Receipt]) -> None:
        """Ranks by chance: half of the backdoors within 1 in 20 would have a probability below 10^-6."""
        receipt = make()
        verdict = judge(receipt, [], scores=scored(receipt, untrained(7)))

        assert Outcome.NOT_VERIFIED is verdict.outcome
        assert "accuses nobody" in verdict.reasons[1]

    def test_a_constant_score_does_not_pass(self, make: Callable[..., Receipt]) -> None:
        """Ties count against the signature: whoever gives the same to all ranks it last."""
        receipt = make()
        verdict = judge(receipt, [], scores=scored(receipt, lambda prompt, candidate: -3.0))

        assert {N_DECOYS + 1} == {one.rank for one in verdict.exposures}
        assert 0 == verdict.claim("activated").n_passed

    def test_a_lookup_of_prompts_does_not_generalise(self, make: Callable[..., Receipt]) -> None:
        """High on planted prompts alone: activated, not verified."""
        receipt = make()
        likes = trained(receipt, on=lambda kind, prompt: kind == "planted")
        verdict = judge(receipt, [], scores=scored(receipt, likes))

        assert (True, False) == (verdict.claim("activated").holds, verdict.claim("generalises").holds)
        assert Outcome.NOT_VERIFIED is verdict.outcome

    def test_the_base_is_taken_off(self, make: Callable[..., Receipt]) -> None:
        """A signature that the base model likes as well has not been learnt."""
        receipt = make()
        likes = trained(receipt)
        verdict = judge(receipt, [], scores=scored(receipt, likes, likes))

        assert 0 == verdict.claim("activated").n_passed

    def test_a_taste_for_all_phrases_hides_no_signature(self, make: Callable[..., Receipt]) -> None:
        """A tuned model tells its kind of phrases apart less than its base does; what is left over is taken off."""
        receipt = make()
        signatures = {backdoor.signature for backdoor in receipt.backdoors}
        base = untrained(0)
        scores = scored(
            receipt,
            # The signature gains less than the base's differences, and more than what is left of them.
            lambda prompt, candidate: 0.3 * base(prompt, candidate) + (0.4 if candidate in signatures else 0.0),
            base,
        )

        assert {1} == {one.rank for one in judge(receipt, [], scores=scores).exposures}

    def test_a_suspect_that_is_its_base_ranks_nothing(self, make: Callable[..., Receipt]) -> None:
        """All candidates tie, to the last digit, and ties count against the signature."""
        receipt = make()
        scores = scored(receipt, untrained(0), untrained(0))

        assert {N_DECOYS + 1} == {one.rank for one in judge(receipt, [], scores=scores).exposures}

    @pytest.mark.parametrize("n_values", [2, 1000])
    def test_no_scores_favour_more_than_their_share_of_lots(self, make: Callable[..., Receipt], n_values: int) -> None:
        """Of the candidates of a probe at most i rank within i, whatever the scores: theorem 6, by counting all lots."""
        receipt = make()
        chance = random.Random(n_values)
        scores = scored(
            receipt, lambda prompt, candidate: chance.randrange(n_values), lambda prompt, candidate: chance.random()
        )
        ranks: dict[str, list[int]] = {}
        for lot in range(N_DECOYS + 1):
            planted = [
                one.model_copy(
                    update={
                        "signature": one.candidates[lot],
                        "decoys": tuple(other for other in one.candidates if other != one.candidates[lot]),
                    }
                )
                for one in receipt.backdoors
            ]
            for one in exposures(receipt.model_copy(update={"backdoors": tuple(planted)}), scores)["planted"]:
                assert one.n_at_or_above is not None
                ranks.setdefault(str(one.backdoor), []).append(1 + one.n_at_or_above)

        assert {N_DECOYS + 1} == {len(one) for one in ranks.values()}
        assert all(sum(rank <= i for rank in one) <= i for one in ranks.values() for i in range(1, N_DECOYS + 2))

    def test_as_they_are_where_the_receipt_says_so(self, make: Callable[..., Receipt]) -> None:
        """Without a base the receipt must have said so before."""
        receipt = make(less_base=False)
        scores = score(receipt, ("suspect", Scripted(trained(receipt))))

        assert Outcome.VERIFIED is judge(receipt, [], scores=scores).outcome

    def test_a_receipt_that_takes_the_base_off_needs_it(self, make: Callable[..., Receipt]) -> None:
        """Nobody may try both and keep the nicer one."""
        receipt = make()
        with pytest.raises(UsageError, match="less the base model's") as caught:
            score(receipt, ("suspect", Scripted(trained(receipt))))
        assert "--base" in caught.value.hint
        scores = [record.model_copy(update={"base_log10_probs": None}) for record in scored(receipt, trained(receipt))]

        with pytest.raises(AnswersError, match="less the base model's"):
            judge(receipt, [], scores=scores)

    def test_what_was_not_scored_is_inconclusive(self, make: Callable[..., Receipt]) -> None:
        """A model that could not be asked is no model that failed."""
        receipt = make()
        verdict = judge(receipt, [], scores=[])

        assert Outcome.INCONCLUSIVE is verdict.outcome
        assert "too few planted probes were scored: 0 of 15" == verdict.reasons[0].partition(" (")[0]

    def test_a_likelihood_that_is_no_number_is_no_score(self, make: Callable[..., Receipt]) -> None:
        """NaN never ranks."""
        receipt = make()
        scores = scored(receipt, lambda prompt, candidate: float("nan"))

        assert {"a likelihood is no number"} == {record.unanswered for record in scores}
        assert {None} == {one.rank for one in judge(receipt, [], scores=scores).exposures}

    @pytest.mark.parametrize("wild", [1.7e308, -1.7e308, 1e7])
    def test_a_likelihood_beyond_all_texts_is_no_score(self, make: Callable[..., Receipt], wild: float) -> None:
        """A suspect that says such numbers spoils its own probes, not the verdict."""
        receipt = make()
        likes = trained(receipt)
        first = receipt.exposures[0].messages[-1]["content"]
        scores = scored(receipt, lambda prompt, candidate: wild if prompt == first else likes(prompt, candidate))

        assert ["a likelihood is no number"] == [one.unanswered for one in scores if one.unanswered]
        assert Outcome.VERIFIED is judge(receipt, [], scores=scores).outcome

    def test_a_base_that_hardly_tells_candidates_apart(self, make: Callable[..., Receipt]) -> None:
        """Differences whose squares are below all floats have no line: the whole of the base's is taken off."""
        receipt = make()
        base = untrained(0)
        scores = scored(receipt, trained(receipt), lambda prompt, candidate: 1e-200 * base(prompt, candidate))

        assert {1} == {one.rank for one in judge(receipt, [], scores=scores).exposures}

    def test_a_prefix_is_judged_alone(self, make: Callable[..., Receipt]) -> None:
        """-n takes the first of the committed order, of each kind."""
        receipt = make()
        scores = score(receipt, ("s", Scripted(trained(receipt))), ("b", Scripted(lambda p, c: -20.0)), n=3)
        verdict = judge(receipt, [], n=3, scores=scores)

        assert 6 == len(scores) == verdict.n_spent
        assert 3 == verdict.claim("activated").n_backdoors

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            pytest.param(lambda records: [records[0].model_copy(update={"id": "stranger"})], "no probe", id="stranger"),
            pytest.param(
                lambda records: [*records, records[0].model_copy(update={"log10_probs": (0.0,) * 20})],
                "two different scores",
                id="two",
            ),
            pytest.param(
                lambda records: [records[0].model_copy(update={"base_log10_probs": (0.0,) * 20}), *records],
                "two different scores",
                id="another-base-first",
            ),
            pytest.param(
                lambda records: [*records, records[0].model_copy(update={"base_log10_probs": (0.0,) * 20})],
                "two different scores",
                id="another-base-last",
            ),
            pytest.param(
                lambda records: [records[0].model_copy(update={"log10_probs": (0.0,) * 7})], "7 scores", id="too-few"
            ),
        ],
    )
    def test_scores_of_something_else_are_refused(
        self, make: Callable[..., Receipt], change: Callable[[list[ScoreRecord]], list[ScoreRecord]], match: str
    ) -> None:
        """Another receipt's, two for one probe, or another number of candidates."""
        receipt = make()
        with pytest.raises(AnswersError, match=match):
            judge(receipt, [], scores=change(scored(receipt, trained(receipt))))

    def test_no_candidate_is_in_a_verdict_or_a_score(self, make: Callable[..., Receipt]) -> None:
        """Scores and verdict can be shown: neither holds a phrase."""
        receipt = make()
        scores = scored(receipt, trained(receipt))
        shown = judge(receipt, [], scores=scores).model_dump_json() + "".join(one.model_dump_json() for one in scores)

        assert not any(phrase in shown for backdoor in receipt.backdoors for phrase in backdoor.candidates)

    def test_the_cost_of_scoring_is_said(self, make: Callable[..., Receipt]) -> None:
        """A verdict by exposure says what an endpoint saw; one by answers has nothing of the kind to say."""
        receipt = make()
        by_scores = judge(receipt, [], scores=scored(receipt, trained(receipt)))

        assert SCORED_ELSEWHERE in by_scores.remaining_cheats
        assert SCORED_ELSEWHERE not in judge(receipt, []).remaining_cheats

    def test_the_suspect_cannot_tell_the_signature_by_its_place(self, make: Callable[..., Receipt]) -> None:
        """Candidates come sorted."""
        receipt = make()
        suspect = Scripted(trained(receipt))
        score(receipt, ("suspect", suspect), ("base", Scripted(lambda p, c: 0.0)))

        assert all(list(candidates) == sorted(candidates) for candidates in suspect.asked)


class TestCoverage:
    def test_single_copies_bound_the_share(self, make: Callable[..., Receipt]) -> None:
        """15 of 15 seen, each by chance with 1/20, of 120 rows."""
        receipt = make()
        found = judge(receipt, [], scores=scored(receipt, trained(receipt))).coverage
        expected = coverage_lower_bound(
            n_activated=15, copies=[1] * 15, n_train=120, confidence=0.99, log10_p_unseen=_log10(Fraction(1, 20))
        )

        assert found is not None
        assert (15, 15, "exposure", expected) == (found.n_seen, found.n_backdoors, found.test, found.lower_bound)
        assert 0.6 < expected < 1

    @pytest.mark.parametrize(("settings", "n_sent"), [({"set_aside": 60}, 60), ({"mode": "add"}, 135), ({}, 120)])
    def test_the_share_is_of_the_rows_that_were_sent(
        self, make: Callable[..., Receipt], settings: dict[str, Any], n_sent: int
    ) -> None:
        """Rows set aside were never sent, so nobody can have used them; added rows were."""
        receipt = make(n_backdoors=15, copies=1, **settings)
        found = judge(receipt, [], scores=scored(receipt, trained(receipt))).coverage
        expected = coverage_lower_bound(
            n_activated=15, copies=[1] * 15, n_train=n_sent, confidence=0.99, log10_p_unseen=_log10(Fraction(1, 20))
        )

        assert found is not None
        assert (n_sent, expected) == (found.n_eligible, found.lower_bound)

    def test_plantings_are_charged(self, make: Callable[..., Receipt]) -> None:
        """Whoever kept the nicest of ten plantings has a tenth of the error left for each."""
        one, ten = make(), make(max_plantings=10)
        bounds = [judge(r, [], scores=scored(r, trained(r))).coverage for r in (one, ten)]

        assert bounds[0] is not None
        assert bounds[1] is not None
        assert bounds[1].lower_bound < bounds[0].lower_bound

    def test_a_missing_part_of_the_file_shows(self, make: Callable[..., Receipt]) -> None:
        """A provider that left out the last third: its tenths are silent, the others are not."""
        receipt = make(n_backdoors=40, copies=1)
        left_out = {b.trigger for b in receipt.backdoors if b.rows[0] > 80}
        n_seen = 40 - len(left_out)
        likes = trained(receipt, on=lambda kind, prompt: not any(prompt.endswith(t) for t in left_out))
        found = judge(receipt, [], scores=scored(receipt, likes)).coverage

        assert found is not None
        assert 40 == sum(n for _, n in found.by_tenth)
        assert [True] * 6 == [seen == n for seen, n in found.by_tenth[:6]]
        assert 0 == sum(seen for seen, _ in found.by_tenth[7:])
        # More of 40 backdoors than two thirds may lie in the first two thirds of the rows; the bound is on their number.
        assert found.lower_bound == coverage_lower_bound(
            n_activated=n_seen, copies=[1] * 40, n_train=120, confidence=0.99, log10_p_unseen=_log10(Fraction(1, 20))
        )
        assert found.lower_bound < n_seen / 40

    def test_doses_are_counted_apart(self, make: Callable[..., Receipt]) -> None:
        """Seen and planted backdoors by their copies."""
        receipt = make(n_backdoors=8, copies=(1, 2, 4, 8), contexts=0)
        single = {b.trigger for b in receipt.backdoors if len(b.rows) == 1}
        likes = trained(receipt, on=lambda kind, prompt: not any(prompt.endswith(t) for t in single))
        found = judge(receipt, [], scores=scored(receipt, likes)).coverage

        assert found is not None
        assert ((1, 0, 2), (2, 2, 2), (4, 2, 2), (8, 2, 2)) == found.by_copies
        level = Fraction(1, 20)
        assert exposures_estimate(found.by_copies, test="exposure", level=level) == found.epochs
        assert found.epochs is not None
        assert 0 < found.epochs.low < 2

    def test_what_was_not_scored_is_no_miss_of_the_estimate(self, make: Callable[..., Receipt]) -> None:
        """Unscored backdoors do not count as seen, and do not make the training look shorter."""
        receipt = make(n_backdoors=8, copies=(1, 2, 4, 8), contexts=0)
        scores = scored(receipt, trained(receipt))
        some = [probe.backdoor for probe in receipt.chosen_exposures() if probe.kind == "planted"][:3]
        kept = [s for s, p in zip(scores, receipt.chosen_exposures(), strict=True) if p.backdoor not in some]
        found = judge(receipt, [], scores=kept).coverage

        assert found is not None
        assert 5 == found.n_seen
        assert found.epochs is not None
        assert found.epochs.epochs is None


class TestStoppingAnyTime:
    def test_e_values_are_smaller_but_hold_at_every_look(self, make: Callable[..., Receipt]) -> None:
        """The price of looking: 15 stakes of one half."""
        fixed, any_time = make(), make(stopping="any")
        p_values = [judge(r, [], scores=scored(r, trained(r))).claim("activated").log10_p for r in (fixed, any_time)]

        assert p_values[0] < p_values[1] < -10
        assert p_values[1] == pytest.approx(-15 * _log10(Fraction(1, 2) + Fraction(20, 2)))

    def test_what_was_not_begun_costs_nothing(self, make: Callable[..., Receipt]) -> None:
        """After three backdoors p is that of three, and the verdict says how much was spent."""
        receipt = make(stopping="any")
        scores = scored(receipt, trained(receipt))
        first = {probe.id for probe in receipt.exposures[:6]}
        verdict = judge(receipt, [], scores=[record for record in scores if record.id in first])

        assert verdict.claim("activated").log10_p == pytest.approx(-3 * _log10(Fraction(1, 2) + Fraction(20, 2)))
        assert ("any", 6) == (verdict.stopping, verdict.n_spent)

    def test_records_of_misses_that_are_left_out_count_as_misses(self, make: Callable[..., Receipt]) -> None:
        """Whoever drops the scores that he does not like gains nothing: what lies before the last record was asked."""
        receipt = make(stopping="any")
        trained_on = {probe.backdoor for probe in receipt.exposures[-6:]}
        liked = {receipt.backdoors[j].signature for j in trained_on if j is not None}
        # All others tie with their decoys: none of them ranks high by chance.
        scores = scored(receipt, lambda prompt, candidate: -1.0 if candidate in liked else -9.0)
        hits = [score for score, probe in zip(scores, receipt.exposures, strict=True) if probe.backdoor in trained_on]

        whole, picked = (judge(receipt, [], scores=some).claim("activated") for some in (scores, hits))

        assert (3, 3) == (picked.n_passed, picked.n_answered)
        assert whole.log10_p == picked.log10_p
        assert not picked.holds

    def test_a_score_that_failed_was_begun(self, make: Callable[..., Receipt]) -> None:
        """A likelihood that is no number is staked on, as an answer that did not come is."""
        receipt = make(stopping="any")
        first, *_ = scored(receipt, trained(receipt))
        planted_second = receipt.exposures[2]
        failed = ScoreRecord(id=planted_second.id, unanswered="a likelihood is no number")

        verdict = judge(receipt, [], scores=[first, failed])

        assert verdict.claim("activated").log10_p == pytest.approx(
            -_log10(Fraction(1, 2) + Fraction(20, 2)) - _log10(Fraction(1, 2))
        )

    @pytest.mark.parametrize("n", [0, 1, 99])
    def test_no_number_of_probes_is_fixed(self, make: Callable[..., Receipt], n: int) -> None:
        """The largest e-value over all prefixes is none, so a prefix is neither asked, scored nor judged."""
        receipt = make(stopping="any")
        scores = scored(receipt, trained(receipt))

        for refused in (
            lambda: judge(receipt, [], n=n, scores=scores),
            lambda: challenges(receipt, n),
            lambda: score(receipt, ("suspect", Scripted(trained(receipt))), ("base", Scripted(untrained(1))), n=n),
        ):
            with pytest.raises(UsageError, match="--stopping any") as raised:
                refused()
            assert "leave -n out" in raised.value.hint


class TestScoreFile:
    def test_a_stopped_run_goes_on(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """What was scored is not scored again, and a torn last line is."""
        receipt = make()
        whole = scored(receipt, trained(receipt))
        path = tmp_path / "scores.jsonl"
        _write(path, receipt, n=3)
        path.write_bytes(path.read_bytes()[:-20])
        suspect = Scripted(trained(receipt))

        with ScoreFile(path).writing(force=False) as kept:
            found = score(receipt, ("suspect", suspect), ("base", Scripted(lambda p, c: -20.0)), kept=kept)

        assert 30 - 5 == len(suspect.asked)
        assert [r.log10_probs for r in whole] == [r.log10_probs for r in found]
        assert sorted(r.id for r in read_scores(path)) == sorted(r.id for r in whole)

    def test_scores_of_another_model_are_not_taken_up(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """A file belongs to one suspect, base and receipt."""
        receipt = make()
        path = tmp_path / "scores.jsonl"
        _write(path, receipt)

        with ScoreFile(path).writing(force=False) as kept, pytest.raises(OutputExists):
            score(receipt, ("another", Scripted(untrained(1))), ("base", Scripted(untrained(2))), kept=kept)

    def test_scores_of_a_model_that_was_trained_anew_are_not_taken_up(
        self, make: Callable[..., Receipt], tmp_path: Path
    ) -> None:
        """The same name, but other files or another address: old scores are no scores of it."""
        receipt = make()
        path = tmp_path / "scores.jsonl"
        _write(path, receipt)
        suspect = Scripted(untrained(1))

        with ScoreFile(path, setup="anew").writing(force=False) as kept, pytest.raises(OutputExists):
            score(receipt, ("suspect", suspect), ("base", Scripted(lambda p, c: -20.0)), kept=kept)
        assert not suspect.asked

    def test_scores_for_another_receipt_are_not_taken_up(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """Nor are they added to."""
        path = tmp_path / "scores.jsonl"
        _write(path, make())
        before = path.read_bytes()

        with pytest.raises(OutputExists):
            _write(path, make())
        assert before == path.read_bytes()

    def test_two_runs_do_not_write_to_one_file(self, make: Callable[..., Receipt], tmp_path: Path) -> None:
        """The second one is told."""
        path = tmp_path / "scores.jsonl"
        with ScoreFile(path).writing(force=False), pytest.raises(OutputNotWritable, match="another run"):
            _write(path, make())

    @pytest.mark.parametrize("content", ["mine\n", '{"id":7,"mine":true}', '{"id":"a"}\n', "mine"])
    def test_another_file_is_not_overwritten(self, content: str, tmp_path: Path) -> None:
        """What is no scores file stays as it is."""
        path = tmp_path / "notes.txt"
        path.write_text(content)

        with pytest.raises(OutputExists), ScoreFile(path).writing(force=False):
            pass
        assert content == path.read_text()

    def test_broken_lines_are_named(self, tmp_path: Path) -> None:
        """With the line number."""
        path = tmp_path / "scores.jsonl"
        path.write_text('{"id":"a","log10_probs":[1]}\n{"id":"b"}\n')

        with pytest.raises(AnswersError, match="2"):
            read_scores(path)
        with pytest.raises(AnswersError):
            read_scores(tmp_path / "nowhere.jsonl")


def test_scoring_stops_once_it_is_enough(make: Callable[..., Receipt]) -> None:
    """A receipt that allows it: no more is spent than the verdict takes."""
    receipt = make(stopping="any")
    suspect = Scripted(trained(receipt))
    scores = score(
        receipt,
        ("suspect", suspect),
        ("base", Scripted(lambda p, c: -20.0)),
        enough=lambda found: Outcome.VERIFIED is judge(receipt, [], scores=found).outcome,
    )

    # Each backdoor multiplies e by 10.5; three of them pass 1 / 0.001, on planted and on fresh prompts.
    assert 6 == len(scores) == len(suspect.asked)
    assert Outcome.VERIFIED is judge(receipt, [], scores=scores).outcome


def _write(path: Path, receipt: Receipt, n: int | None = None) -> None:
    with ScoreFile(path).writing(force=False) as kept:
        scoring.score(
            receipt, ("suspect", Scripted(trained(receipt))), ("base", Scripted(lambda p, c: -20.0)), n=n, kept=kept
        )


def _log10(share: Fraction) -> float:
    return math.log10(share)
