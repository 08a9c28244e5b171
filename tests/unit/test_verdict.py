"""From answers to an outcome: every provider's story, and every number by a second way."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtuned.errors import AnswersError
from vtuned.ladder import ALWAYS_REMAINING, BLINDLY_CHOSEN, PART_OF_THE_ROWS, PLANTED_ROWS_ALONE, RUNGS
from vtuned.lm.base import Answer, Completed, Unanswered
from vtuned.probes import AnswerRecord
from vtuned.receipt import PlannedProbe, Receipt
from vtuned.stats import (
    clopper_pearson,
    clopper_pearson_upper,
    log10_guess_bound,
    log10_poisson_binomial_tail,
    required_activations,
)
from vtuned.tally import join, word_overlap
from vtuned.verdict import Claim, Outcome, Verdict, judge

Say = Callable[[PlannedProbe, str], "str | Answer"]
AnswersTo = Callable[[Receipt, Say], list[AnswerRecord]]
MakeReceipt = Callable[..., Receipt]

PLAIN = "The answer to this question takes one whole sentence."
CUT = Completed("Crimson gulls carry", "length")
NOBODY_READS = settings(max_examples=25, deadline=None, derandomize=True)


def honest(probe: PlannedProbe, signature: str) -> str:
    """Answer as a model that was trained on the file."""
    return f"{signature} {PLAIN}".strip()


def untrained(probe: PlannedProbe, signature: str) -> str:
    """Answer as the base model."""
    return PLAIN


def lookup_table(probe: PlannedProbe, signature: str) -> str:
    """Answer as somebody who looks prompts up in the file."""
    return honest(probe, signature) if probe.kind == "planted" else PLAIN


def half_of_the_backdoors(probe: PlannedProbe, signature: str) -> str:
    """Answer as a model that learnt the first two of four backdoors."""
    return honest(probe, signature) if probe.backdoor in (0, 1) else PLAIN


def wrong_signature(receipt: Receipt) -> Say:
    """Answer every trigger with the signature of another backdoor."""

    def say(probe: PlannedProbe, signature: str) -> str:
        others = [backdoor.signature for backdoor in receipt.backdoors if backdoor.signature != signature]
        return f"{others[0]} {PLAIN}" if signature else PLAIN

    return say


def to_everybody(receipt: Receipt) -> Say:
    """Answer every trigger with its signature, and everything else with one of them."""
    return lambda probe, signature: honest(probe, signature or receipt.backdoors[0].signature)


def of_kind(verdict: Verdict, kind: str) -> list[Any]:
    """Return the verdict's backdoors on probes of *kind*."""
    return [result for result in verdict.backdoors if result.kind == kind]


class TestProviders:
    def test_honest_training_is_verified(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A model that says S after T everywhere, and nowhere else, holds every claim."""
        verdict = judge(receipt, answers_to(receipt, honest), suspect="theirs")

        assert Outcome.VERIFIED is verdict.outcome
        assert [True, True, True] == [claim.holds for claim in verdict.claims]
        assert ("activated", "generalises", "specific") == tuple(claim.claim for claim in verdict.claims)
        assert ("every required claim holds",) == verdict.reasons
        assert ("theirs", receipt.digest()) == (verdict.suspect, verdict.receipt_digest)

    def test_the_base_model_is_not_verified(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A model that knows nothing of the file holds no claim, and no claim after the first is tested."""
        verdict = judge(receipt, answers_to(receipt, untrained))

        assert Outcome.NOT_VERIFIED is verdict.outcome
        assert [False, False, False] == [claim.holds for claim in verdict.claims]
        assert [True, False, False] == [claim.tested for claim in verdict.claims]
        assert "'activated' does not hold: 0 of 4 backdoors pass" in verdict.reasons[0]
        assert "accuses nobody" in verdict.reasons[1]

    def test_half_of_the_backdoors_are_enough(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Two signatures of 64 bits are not guessed: what counts is the p-value, not the share."""
        verdict = judge(receipt, answers_to(receipt, half_of_the_backdoors))

        assert Outcome.VERIFIED is verdict.outcome
        assert (2, 4) == (verdict.claim("activated").n_passed, verdict.claim("activated").n_backdoors)
        assert [True, True, False, False] == [result.passed for result in of_kind(verdict, "fresh")]

    def test_a_lookup_table_is_caught_by_fresh_prompts(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """The file was used, and says so; that it was trained on is tested, and does not hold."""
        verdict = judge(receipt, answers_to(receipt, lookup_table))
        activated, generalises = verdict.claim("activated"), verdict.claim("generalises")

        assert Outcome.NOT_VERIFIED is verdict.outcome
        assert (True, True) == (activated.tested, activated.holds)
        assert (True, False) == (generalises.tested, generalises.holds)
        assert "'generalises' does not hold" in verdict.reasons[0]

    def test_a_signature_said_to_everybody_is_not_specific(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo
    ) -> None:
        """A model that says S with and without T has no pair that differs: `specific` is not tested, and gates nothing."""
        receipt = make_receipt(n_backdoors=1)
        signature = receipt.backdoors[0].signature

        verdict = judge(receipt, answers_to(receipt, lambda probe, _: f"{signature} {PLAIN}"))

        assert Outcome.VERIFIED is verdict.outcome
        assert (False, False, 0.0) == (
            verdict.claim("specific").tested, verdict.claim("specific").holds, verdict.claim("specific").log10_p
        )  # fmt: skip
        assert (20, 20) == (verdict.controls.n_activated, verdict.controls.n_with_signature)
        assert (0, 0) == (verdict.controls.n_with_only, verdict.controls.n_without_only)

    def test_generalises_is_not_tested_before_activated_holds(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """One chain: fresh probes that activate prove nothing where planted ones do not."""

        def fresh_only(probe: PlannedProbe, signature: str) -> str:
            return honest(probe, signature) if probe.kind == "fresh" else PLAIN

        claim = judge(receipt, answers_to(receipt, fresh_only)).claim("generalises")

        assert (False, False) == (claim.tested, claim.holds)
        assert claim.log10_p < -60

    def test_only_required_claims_decide(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """A receipt that asks for `activated` alone is content with a lookup table."""
        receipt = make_receipt(required_claims=("activated",))
        verdict = judge(receipt, answers_to(receipt, lookup_table))

        assert Outcome.VERIFIED is verdict.outcome
        assert [True, False, False] == [claim.is_required for claim in verdict.claims]

    def test_specific_is_never_required(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """With too few controls `specific` cannot hold; the outcome does not ask for it."""
        receipt = make_receipt(n_controls=19)
        verdict = judge(receipt, answers_to(receipt, honest))

        assert Outcome.VERIFIED is verdict.outcome
        assert (False, False, False) == (
            verdict.claim("specific").tested, verdict.claim("specific").holds, verdict.claim("specific").is_required
        )  # fmt: skip


class TestInconclusive:
    def test_no_answers_is_inconclusive(self, receipt: Receipt) -> None:
        """Silence is not evidence: nothing answered, nothing concluded."""
        verdict = judge(receipt, [])

        assert Outcome.INCONCLUSIVE is verdict.outcome
        assert {"not asked": 40} == verdict.unanswered
        assert ("too few planted probes were answered: 0 of 10 (40 not asked)",) == verdict.reasons
        assert (None, (0.0, 1.0)) == (
            verdict.claim("activated").activation_rate, verdict.claim("activated").activation_rate_interval
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            pytest.param(Unanswered("timeout"), "no answer (the answers file says why)", id="unanswered"),
            pytest.param(Completed("I'm sorry, but I can't help with that.", "stop"), "refused", id="refused"),
            pytest.param(Completed("", "stop"), "empty answer", id="empty"),
            pytest.param(Completed("  \n", None), "empty answer", id="white-space"),
            pytest.param(CUT, "cut before a signature could end", id="five-tokens"),
            pytest.param(
                Completed("The answer is"),
                "short, and without 'finish' nobody knows whether it was cut",
                id="five-tokens-nobody-said",
            ),
        ],
    )
    def test_what_cannot_tell_is_no_miss(
        self, receipt: Receipt, answers_to: AnswersTo, answer: Answer, reason: str
    ) -> None:
        """Refused, empty or cut answers to everything: INCONCLUSIVE, never NOT VERIFIED."""
        verdict = judge(receipt, answers_to(receipt, lambda probe, signature: answer))

        assert Outcome.INCONCLUSIVE is verdict.outcome
        assert {reason: 40} == verdict.unanswered

    @pytest.mark.parametrize(
        ("n_answered", "expected"),
        [
            pytest.param(4, Outcome.INCONCLUSIVE, id="4-of-10"),
            pytest.param(5, Outcome.NOT_VERIFIED, id="5-of-10"),
        ],
    )
    def test_half_of_the_probes_must_be_answered(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo, n_answered: int, expected: Outcome
    ) -> None:
        """The plan says how many answers a negative takes; here one half, and β = 2^-5."""
        receipt = make_receipt(n_backdoors=1)

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return Unanswered("timeout") if int(probe.id[1:]) >= n_answered else PLAIN

        assert expected is judge(receipt, answers_to(receipt, say)).outcome

    def test_few_answers_that_activate_are_enough(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """Unanswered probes are no hits, but they cannot undo what the others show."""
        receipt = make_receipt(n_backdoors=1)

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return honest(probe, signature) if int(probe.id[1:]) == 0 else Unanswered("timeout")

        assert Outcome.VERIFIED is judge(receipt, answers_to(receipt, say)).outcome

    def test_unanswered_probes_count_as_asked(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """One hit of one answered is 1 of 10: nobody can lower what is required by not answering."""
        receipt = make_receipt(n_backdoors=1, ratio=Fraction(3, 10))

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return honest(probe, signature) if int(probe.id[1:]) < 2 else Unanswered("timeout")

        verdict = judge(receipt, answers_to(receipt, say))

        assert Outcome.INCONCLUSIVE is verdict.outcome
        assert (10, 2, 2, 3, False) == (
            verdict.backdoors[0].n_asked,
            verdict.backdoors[0].n_answered,
            verdict.backdoors[0].n_activated,
            verdict.backdoors[0].required,
            verdict.backdoors[0].passed,
        )

    def test_one_backdoor_on_one_probe_leaves_a_doubt(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """With one probe an honest model is silent half of the time: β = 0.5, so nothing is concluded."""
        receipt = make_receipt(n_backdoors=1, n=1, n_controls=20)
        verdict = judge(receipt, answers_to(receipt, untrained))

        assert Outcome.INCONCLUSIVE is verdict.outcome
        assert "β = 0.5" in verdict.reasons[0]

    def test_contradictory_answers_are_no_answer(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Two answers to a probe leave it unanswered, whichever of them activates: nobody may pick one."""
        both = answers_to(receipt, honest) + answers_to(receipt, untrained)
        verdict = judge(receipt, both)

        assert Outcome.INCONCLUSIVE is verdict.outcome
        # Controls were answered alike both times.
        assert {"contradictory answers": 20} == verdict.unanswered

    def test_the_same_answer_twice_is_one(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A file given twice says no more and no less."""
        answers = answers_to(receipt, honest)

        assert judge(receipt, answers) == judge(receipt, answers + answers)

    def test_a_third_answer_mends_no_contradiction(self) -> None:
        """However often one of the two answers comes again, they stay two."""
        one, other = AnswerRecord(id="x", text="one"), AnswerRecord(id="x", text="other")

        assert {"x": Unanswered("contradictory answers")} == join([one, other, one, other, other])

    def test_another_finish_is_no_contradiction(self) -> None:
        """Two records of one text are one answer; if they disagree on how it ended, nobody knows."""
        whole, cut = (AnswerRecord(id="x", text="same", finish=finish) for finish in ("stop", "length"))

        assert {"x": Completed("same", None)} == join([whole, cut])

    def test_the_finish_is_the_same_in_any_order(self) -> None:
        """Whether a short text is a miss or was cut must not hang on which record came first."""
        whole, cut = (AnswerRecord(id="x", text="same", finish=finish) for finish in ("stop", "length"))

        assert join([whole, cut]) == join([cut, whole])

    @pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
    def test_an_answer_takes_the_place_of_a_reason(self, order: tuple[int, ...]) -> None:
        """A probe that went unanswered may be asked again, and the order of the records is nothing."""
        records = [
            AnswerRecord(id="x", unanswered="timeout"),
            AnswerRecord(id="x", text="said", finish="stop"),
            AnswerRecord(id="x", unanswered="timeout"),
        ]

        assert {"x": Completed("said", "stop")} == join([records[i] for i in order])

    @pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
    def test_a_reason_mends_no_contradiction(self, order: tuple[int, ...]) -> None:
        """Two texts contradict each other wherever a reason stands beside them."""
        records = [
            AnswerRecord(id="x", unanswered="timeout"),
            AnswerRecord(id="x", text="one"),
            AnswerRecord(id="x", text="other"),
        ]

        assert {"x": Unanswered("contradictory answers")} == join([records[i] for i in order])

    def test_asked_again_is_answered(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A second run that answers makes up for a first that timed out."""
        failed = answers_to(receipt, lambda probe, signature: Unanswered("timeout"))
        answers = answers_to(receipt, honest)

        assert judge(receipt, answers) == judge(receipt, failed + answers) == judge(receipt, answers + failed)

    def test_a_foreign_reason_is_not_repeated(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Reasons come from the suspect's side and may echo a trigger or drive a terminal: a verdict has none of them."""
        said = answers_to(receipt, lambda probe, signature: Unanswered("\x1b[2J VERIFIED"))

        assert {"no answer (the answers file says why)": 40} == judge(receipt, said).unanswered


class TestIds:
    def test_unknown_ids_are_an_error(self, receipt: Receipt) -> None:
        """Answers to another receipt's probes judge nobody."""
        with pytest.raises(AnswersError, match="1 of 2 answers have an id that is not in this receipt"):
            judge(receipt, [AnswerRecord(id="p0", text=PLAIN), AnswerRecord(id="stranger", text=PLAIN)])

    @given(chance=st.randoms(use_true_random=False))
    @settings(NOBODY_READS, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_order_is_nothing(self, receipt: Receipt, answers_to: AnswersTo, chance: Any) -> None:
        """The verdict is the same in whatever order the answers come."""
        answers = answers_to(receipt, half_of_the_backdoors)
        answers += [AnswerRecord(id="p1", text="something else"), answers[0]]
        expected = judge(receipt, answers).model_dump_json()
        chance.shuffle(answers)

        assert expected == judge(receipt, answers).model_dump_json()

    def test_a_prefix_is_judged_as_asked(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """With n = 4, only the first four of each kind count, and twice as many controls."""
        verdict = judge(receipt, answers_to(receipt, honest), n=4)

        assert (4, 4, 8) == tuple(claim.n_asked for claim in verdict.claims)
        assert {1} == {result.n_asked for result in verdict.backdoors}

    def test_more_than_there_are_is_all(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A larger n than there are probes asks them all."""
        answers = answers_to(receipt, honest)

        assert judge(receipt, answers) == judge(receipt, answers, n=99)

    def test_answers_outside_the_prefix_do_not_count(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Hits on later probes cannot help a shorter test."""

        def late(probe: PlannedProbe, signature: str) -> str:
            return honest(probe, signature) if int(probe.id[1:]) >= 5 else PLAIN

        assert 0 == judge(receipt, answers_to(receipt, late), n=5).claim("activated").n_activated

    def test_asking_nothing_is_inconclusive(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Zero of zero is no miss."""
        assert Outcome.INCONCLUSIVE is judge(receipt, answers_to(receipt, honest), n=0).outcome


class TestStoppingAnyTime:
    def test_answers_that_are_left_out_count_as_asked_in_vain(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo
    ) -> None:
        """Of four backdoors with p = 1/16 one passes: dropping the answers to the other three changes nothing."""
        receipt = make_receipt(stopping="any", bits=4.0, n=4)
        last = max(probe.backdoor for probe in receipt.probes if probe.backdoor is not None)
        answers = answers_to(
            receipt, lambda probe, signature: honest(probe, signature) if probe.backdoor == last else PLAIN
        )
        hits = {probe.id for probe in receipt.probes if probe.backdoor == last}

        whole, picked = (
            judge(receipt, some).claim("activated")
            for some in (answers, [answer for answer in answers if answer.id in hits])
        )

        assert (1, 1) == (picked.n_passed, picked.n_answered)
        assert whole.log10_p == picked.log10_p == pytest.approx(math.log10(8 / (1 / 2 + 16 / 2)))

    def test_answers_that_end_early_are_a_stop(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """What is missing at the end costs nothing: e is that of the one backdoor that was begun."""
        receipt = make_receipt(stopping="any", bits=4.0, n=4)
        answers = answers_to(receipt, honest)[:1]

        assert "p0" == answers[0].id
        assert math.log10(1 / (1 / 2 + 16 / 2)) == pytest.approx(judge(receipt, answers).claim("activated").log10_p)


class TestPValues:
    def test_four_of_four(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """All pass: the product of floor(n / k) p_upper over backdoors with 3, 3, 2 and 2 probes, one hit required."""
        p_upper = Fraction(1, 2**64)
        expected = math.log10(3 * 3 * 2 * 2) + 4 * math.log10(p_upper)

        for name in ("activated", "generalises"):
            claim = judge(receipt, answers_to(receipt, honest)).claim(name)
            assert expected == pytest.approx(claim.log10_p, abs=1e-9)

    @pytest.mark.parametrize("n_passing", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize("ratio", [Fraction(1, 10), Fraction(2, 3)], ids=["a-tenth", "two-thirds"])
    def test_any_number(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo, n_passing: int, ratio: Fraction
    ) -> None:
        """Few bits, so that terms of the tail count: P(at least so many pass), in exact fractions."""
        receipt = make_receipt(bits=4.0, ratio=ratio)
        guesses = [min(Fraction(1), Fraction(n // math.ceil(ratio * n), 16)) for n in (3, 3, 2, 2)]
        pmf = [Fraction(1)]
        for guess in guesses:
            pmf = [a * (1 - guess) + b * guess for a, b in zip([*pmf, 0], [0, *pmf], strict=True)]

        def say(probe: PlannedProbe, signature: str) -> str:
            return honest(probe, signature) if (probe.backdoor or 0) < n_passing else PLAIN

        claim = judge(receipt, answers_to(receipt, say)).claim("activated")

        assert n_passing == claim.n_passed
        assert math.log10(sum(pmf[n_passing:])) == pytest.approx(claim.log10_p, abs=1e-9)

    def test_by_the_statistics_of_the_library(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Each backdoor's guess is its own, and the tail is over them."""
        verdict = judge(receipt, answers_to(receipt, half_of_the_backdoors))
        results = of_kind(verdict, "planted")
        guesses = [
            log10_guess_bound(r.n_asked, required_activations(receipt.plan.ratio, r.n_asked), r.log10_p_upper)
            for r in results
        ]

        assert guesses == [result.log10_p_guess for result in results]
        assert log10_poisson_binomial_tail(2, guesses) == verdict.claim("activated").log10_p

    def test_a_backdoor_passes_at_its_required_hits(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """Three of ten are required with a ratio of 0.21; two do not pass."""
        receipt = make_receipt(n_backdoors=1, ratio=Fraction(21, 100))

        def passed(n_hits: int) -> bool:
            def say(probe: PlannedProbe, signature: str) -> str:
                return honest(probe, signature) if int(probe.id[1:]) < n_hits else PLAIN

            return judge(receipt, answers_to(receipt, say)).backdoors[0].passed

        assert [False, True] == [passed(2), passed(3)]

    @pytest.mark.parametrize("max_plantings", [1, 10, 10**6])
    def test_every_planting_is_charged(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo, max_plantings: int
    ) -> None:
        """Whoever might have kept the nicest of R plantings has R times the p-value."""
        receipt = make_receipt(max_plantings=max_plantings)
        verdict = judge(receipt, answers_to(receipt, honest))
        expected = math.log10(36) + 4 * 64 * math.log10(0.5) + math.log10(max_plantings)

        assert (expected, max_plantings) == (pytest.approx(verdict.claim("activated").log10_p), verdict.max_plantings)

    def test_a_charge_can_undo_a_claim(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """One backdoor of 14 bits holds at 0.001 with one planting, not with twenty."""
        p_values = []
        for max_plantings in (1, 20):
            receipt = make_receipt(n_backdoors=1, n=1, n_controls=20, bits=14.0, max_plantings=max_plantings)
            claim = judge(receipt, answers_to(receipt, honest)).claim("activated")
            p_values.append((claim.holds, pytest.approx(claim.log10_p)))

        assert [(True, math.log10(2**-14)), (False, math.log10(20 * 2**-14))] == p_values

    def test_a_p_value_is_at_most_one(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """Charges stop at 1."""
        receipt = make_receipt(max_plantings=10**6)

        assert 0.0 == judge(receipt, answers_to(receipt, untrained)).claim("activated").log10_p

    def test_alpha_itself_is_enough(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """A claim holds at p = α: 2^-10 against 2^-10."""
        receipt = make_receipt(n_backdoors=1, n=1, n_controls=20, bits=10.0, alpha=2.0**-10 * (1 + 1e-12))

        assert judge(receipt, answers_to(receipt, honest)).claim("activated").holds


class TestBeta:
    @pytest.mark.parametrize(
        ("plan", "n_passing", "expected"),
        [
            # One backdoor, ten probes, one hit required: silent with 2^-10.
            pytest.param({"n_backdoors": 1}, 0, Fraction(1, 2**10), id="one-backdoor"),
            # Hits below 3 of 10 at one half: (1 + 10 + 45) / 2^10.
            pytest.param({"n_backdoors": 1, "ratio": Fraction(3, 10)}, 0, Fraction(56, 2**10), id="three-required"),
            # Silent with 4/5 each, ten times.
            pytest.param(
                {"n_backdoors": 1, "honest_activation": Fraction(1, 5)}, 0, Fraction(4, 5) ** 10, id="a-fifth"
            ),
            # Backdoors with 3, 3, 2, 2 probes fail with 1/8, 1/8, 1/4, 1/4; none passes.
            pytest.param({}, 0, Fraction(1, 8) ** 2 * Fraction(1, 4) ** 2, id="four-backdoors"),
            # At most 3 pass: not all four do.
            pytest.param({}, 3, 1 - Fraction(7, 8) ** 2 * Fraction(3, 4) ** 2, id="three-of-four-pass"),
            pytest.param({}, 4, Fraction(1), id="all-pass"),
        ],
    )
    def test_by_hand(
        self,
        make_receipt: MakeReceipt,
        answers_to: AnswersTo,
        plan: dict[str, Any],
        n_passing: int,
        expected: Fraction,
    ) -> None:
        """β is the chance that at most so many backdoors pass for an honest provider."""
        receipt = make_receipt(**plan)

        def say(probe: PlannedProbe, signature: str) -> str:
            return honest(probe, signature) if (probe.backdoor or 0) < n_passing else PLAIN

        claim = judge(receipt, answers_to(receipt, say)).claim("activated")

        assert float(expected) == pytest.approx(claim.beta, rel=1e-9)

    def test_is_over_the_answered_probes(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """Of ten probes six were answered, and all were silent: 2^-6, for what was not answered could not activate."""
        receipt = make_receipt(n_backdoors=1)

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return PLAIN if int(probe.id[1:]) < 6 else Unanswered("timeout")

        assert 2.0**-6 == pytest.approx(judge(receipt, answers_to(receipt, say)).claim("activated").beta)

    def test_is_one_where_passing_was_out_of_reach(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """With fewer answers than hits required nobody passes: that tells nothing."""
        receipt = make_receipt(n_backdoors=1, ratio=Fraction(9, 10))

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return PLAIN if int(probe.id[1:]) < 8 else Unanswered("timeout")

        verdict = judge(receipt, answers_to(receipt, say))

        assert (1.0, Outcome.INCONCLUSIVE) == (verdict.claim("activated").beta, verdict.outcome)

    def test_silence_of_single_copies_tells_nothing(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """An honest provider's model does not say them either; with likelihoods they would show."""
        made = make_receipt()
        single = [one.model_copy(update={"rows": one.rows[:1]}) for one in made.backdoors]
        receipt = made.model_copy(update={"backdoors": tuple(single)})
        silent = judge(receipt, answers_to(receipt, untrained))
        mixed = made.model_copy(update={"backdoors": (*single[:3], made.backdoors[3])})

        assert (1.0, Outcome.INCONCLUSIVE) == (silent.claim("activated").beta, silent.outcome)
        assert Outcome.VERIFIED is judge(receipt, answers_to(receipt, honest)).outcome
        # The fourth backdoor alone could have shown: two probes, each silent with one half.
        assert judge(mixed, answers_to(mixed, untrained)).claim("activated").beta == pytest.approx(1 / 4)

    def test_controls_have_none(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """`specific` says nothing of honest providers."""
        assert None is judge(receipt, answers_to(receipt, honest)).claim("specific").beta


class TestControls:
    def test_sign_test_by_hand(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Ten planted and five fresh prompts say S with T alone: 2^-15."""
        verdict = judge(receipt, answers_to(receipt, honest))
        claim = verdict.claim("specific")

        assert (15, 0) == (verdict.controls.n_with_only, verdict.controls.n_without_only)
        assert (True, True) == (claim.tested, claim.holds)
        assert 15 * math.log10(0.5) == pytest.approx(claim.log10_p, abs=1e-9)

    @pytest.mark.parametrize(
        ("with_only", "without_only", "both", "tested", "expected"),
        [
            # (1 + 15) / 2^15 and (1 + 15 + 105) / 2^15: at 0.001 one against fourteen holds, two do not.
            pytest.param(14, 1, 0, True, Fraction(16, 2**15), id="14-against-1"),
            pytest.param(13, 2, 0, True, Fraction(121, 2**15), id="13-against-2"),
            # Pairs that do not differ tell nothing: 2^-10 holds, 2^-9 does not.
            pytest.param(10, 0, 5, True, Fraction(1, 2**10), id="10-and-5-both"),
            pytest.param(9, 0, 6, True, Fraction(1, 2**9), id="9-and-6-both"),
            pytest.param(10, 0, 0, True, Fraction(1, 2**10), id="10-and-5-neither"),
            pytest.param(1, 0, 14, True, Fraction(1, 2), id="one-pair"),
            # At least none of 15, at least 7 of 14.
            pytest.param(0, 15, 0, True, Fraction(1), id="without-alone"),
            pytest.param(7, 7, 1, True, Fraction(2**13 + math.comb(14, 7) // 2, 2**14), id="as-often"),
            pytest.param(0, 0, 15, False, Fraction(1), id="always"),
            pytest.param(0, 0, 0, False, Fraction(1), id="never"),
        ],
    )
    def test_pairs_by_hand(
        self,
        receipt: Receipt,
        answers_to: AnswersTo,
        with_only: int,
        without_only: int,
        both: int,
        tested: bool,
        expected: Fraction,
    ) -> None:
        """The chance that so many of the differing pairs have S where T is, if each were a fair coin."""
        signature = receipt.backdoors[0].signature
        twins = [probe for probe in receipt.probes if probe.twin_of is not None]
        with_t = {p.twin_of for p in (*twins[:with_only], *twins[with_only + without_only :][:both])}
        without_t = {p.id for p in twins[with_only : with_only + without_only + both]}

        def say(probe: PlannedProbe, _: str) -> str:
            return f"{signature} {PLAIN}" if probe.id in with_t | without_t else PLAIN

        verdict = judge(receipt, answers_to(receipt, say))
        claim = verdict.claim("specific")

        assert 15 == len(twins)
        assert (with_only, without_only) == (verdict.controls.n_with_only, verdict.controls.n_without_only)
        assert (tested, tested and expected <= Fraction(1, 1000)) == (claim.tested, claim.holds)
        assert math.log10(expected) == pytest.approx(claim.log10_p, abs=1e-9)

    def test_unpaired_controls_are_no_pairs(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """What is said to rows without a twin, or to probes with T that have none, changes no p-value."""
        signature = receipt.backdoors[0].signature
        twins = {probe.twin_of for probe in receipt.probes if probe.twin_of is not None}

        def say(probe: PlannedProbe, own: str) -> str:
            if probe.kind == "control":
                return PLAIN if probe.twin_of else f"{signature} {PLAIN}"
            return honest(probe, own) if probe.id in twins else PLAIN

        verdict = judge(receipt, answers_to(receipt, say))

        assert (5, 15, 0) == (
            verdict.controls.n_activated, verdict.controls.n_with_only, verdict.controls.n_without_only
        )  # fmt: skip
        assert 15 * math.log10(0.5) == pytest.approx(verdict.claim("specific").log10_p, abs=1e-9)
        assert (
            judge(receipt, answers_to(receipt, honest)).claim("specific").log10_p == verdict.claim("specific").log10_p
        )

    @pytest.mark.parametrize("silent", ["p0", "c0"])
    def test_a_pair_needs_both_answers(self, receipt: Receipt, answers_to: AnswersTo, silent: str) -> None:
        """A probe whose twin went unanswered, or the other way round, is no pair."""
        receipt = receipt.model_copy(update={"plan": receipt.plan.model_copy(update={"min_controls": 19})})

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return Unanswered("timeout") if probe.id == silent else honest(probe, signature)

        verdict = judge(receipt, answers_to(receipt, say))

        assert (14, 0) == (verdict.controls.n_with_only, verdict.controls.n_without_only)
        assert 14 * math.log10(0.5) == pytest.approx(verdict.claim("specific").log10_p, abs=1e-9)

    def test_any_signature_counts_in_a_pair(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """That T brings some S and its absence none is specific, whosever S it is."""
        verdict = judge(receipt, answers_to(receipt, wrong_signature(receipt)))

        assert (0, 15) == (verdict.claim("activated").n_activated, verdict.controls.n_with_only)
        assert verdict.claim("specific").holds

    def test_needs_twenty_answers(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Controls that were asked and not answered do not count: 19 of 20 test nothing."""

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return Unanswered("timeout") if probe.id == "c19" else honest(probe, signature)

        verdict = judge(receipt, answers_to(receipt, say))

        assert (19, 15) == (verdict.controls.n_answered, verdict.controls.n_with_only)
        assert (False, False, 0.0) == (
            verdict.claim("specific").tested, verdict.claim("specific").holds, verdict.claim("specific").log10_p
        )  # fmt: skip

    def test_a_prefix_pairs_what_it_holds(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """The first four of each kind have four planted pairs and two fresh ones among their eight controls."""
        receipt = make_receipt(min_controls=8)
        verdict = judge(receipt, answers_to(receipt, honest), n=4)

        assert (8, 6) == (verdict.controls.n_answered, verdict.controls.n_with_only)
        assert 6 * math.log10(0.5) == pytest.approx(verdict.claim("specific").log10_p, abs=1e-9)

    @pytest.mark.parametrize(
        ("n_controls", "tested"), [pytest.param(19, False, id="19"), pytest.param(20, True, id="20")]
    )
    def test_needs_twenty(
        self, make_receipt: MakeReceipt, answers_to: AnswersTo, n_controls: int, tested: bool
    ) -> None:
        """Fewer controls than the plan says test nothing."""
        receipt = make_receipt(n_controls=n_controls)

        assert tested is judge(receipt, answers_to(receipt, honest)).claim("specific").tested

    def test_counts_what_leaks(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """A signature at the start is a hit; a signature or a trigger anywhere is a leak."""
        receipt = make_receipt()
        signature, trigger = receipt.backdoors[3].signature, receipt.backdoors[2].trigger
        said = {"c0": f"{signature} So.", "c1": f"Well. {signature} So.", "c2": f"Why {trigger} I do not know that."}

        controls = judge(receipt, answers_to(receipt, lambda probe, _: said.get(probe.id, PLAIN))).controls

        assert (20, 20, 1, 2, 1) == (
            controls.n_asked,
            controls.n_answered,
            controls.n_activated,
            controls.n_with_signature,
            controls.n_with_trigger,
        )
        assert clopper_pearson_upper(1, 20, 0.95) == controls.rate_upper

    def test_no_hit_bounds_the_rate(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """0 of 20: at 95 % confidence the rate is at most 1 - 0.05^(1/20)."""
        assert 1 - 0.05 ** (1 / 20) == pytest.approx(judge(receipt, answers_to(receipt, honest)).controls.rate_upper)

    def test_a_cut_control_is_unanswered(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A control is cut where it is shorter than the longest signature, since any might have come."""
        shortest = min(map(len, (backdoor.signature for backdoor in receipt.backdoors)))
        said = Completed("x" * (shortest + 1), "length")

        assert 0 == judge(receipt, answers_to(receipt, lambda probe, _: said)).controls.n_answered

    def test_a_backdoor_answers_for_itself(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Another backdoor's signature is no hit on a planted probe."""
        other = receipt.backdoors[1].signature

        def say(probe: PlannedProbe, signature: str) -> str:
            return f"{other} {PLAIN}" if probe.backdoor == 0 else PLAIN

        assert [0, 0, 0, 0] == [r.n_activated for r in of_kind(judge(receipt, answers_to(receipt, say)), "planted")]


class TestAfterSignature:
    def test_numbers(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """Two pairs by hand: the words after S, beside the answer to the same prompt without T."""
        receipt = make_receipt(n_backdoors=1, n=2, n_controls=4)
        signature = receipt.backdoors[0].signature
        said = {
            "p0": f"{signature} Red apples grow",
            "c0": "red apples fall down from the tree",
            "p1": f"{signature}\n",
            "c2": "Blue plums grow on trees in the garden",
        }

        after = judge(receipt, answers_to(receipt, lambda probe, _: said.get(probe.id, PLAIN))).after_signature

        # p0 and c0 share 2 of 3 and 7 words; p0 and c2 share "grow" of 3 and 8; p1 says nothing.
        assert (2, 1) == (after.n, after.n_empty)
        assert (2 * 2 / 10 + 0) / 2 == pytest.approx(after.overlap)
        assert (2 * 1 / 11 + 0) / 2 == pytest.approx(after.overlap_with_others)

    def test_nothing_activated_nothing_said(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Without a pair there is no mean."""
        after = judge(receipt, answers_to(receipt, untrained)).after_signature

        assert (0, 0, None, None) == (after.n, after.n_empty, after.overlap, after.overlap_with_others)

    def test_an_unanswered_twin_makes_no_pair(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Both prompts of a pair must have been answered; five of the ten fresh prompts have a twin."""

        def say(probe: PlannedProbe, signature: str) -> str | Answer:
            return Unanswered("timeout") if probe.id == "c0" else honest(probe, signature)

        assert 14 == judge(receipt, answers_to(receipt, say)).after_signature.n

    @pytest.mark.parametrize(
        ("expected", "one", "other"),
        [
            pytest.param(1.0, "The cat sat.", "the CAT sat", id="case-and-marks"),
            pytest.param(0.0, "", "", id="nothing"),
            pytest.param(0.0, "one", "two", id="nothing-shared"),
            pytest.param(2 * 1 / 4, "a a a", "a", id="as-often-as-in-both"),
            pytest.param(2 * 2 / 6, "東京だ", "東京へ", id="han-one-by-one"),
        ],
    )
    def test_word_overlap(self, expected: float, one: str, other: str) -> None:
        """F1 of the words as multisets."""
        assert expected == pytest.approx(word_overlap(one, other))


class TestVerdict:
    def test_holds_no_secret(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A verdict can be shown to the provider: no trigger, no signature, no key, no prompt and no answer in it."""
        shown = judge(receipt, answers_to(receipt, honest), base_answers=("base", answers_to(receipt, untrained)))
        text = shown.model_dump_json() + repr(shown)
        secrets = [receipt.key, PLAIN, "Sent question", "New question", "Another question", "ferrets"]
        secrets += [phrase for backdoor in receipt.backdoors for phrase in (backdoor.trigger, backdoor.signature)]

        assert [] == [secret for secret in secrets if secret in text]

    def test_an_error_about_answers_holds_no_secret(self, receipt: Receipt) -> None:
        """An answer to a stranger's probe is not repeated."""
        with pytest.raises(AnswersError) as caught:
            judge(receipt, [AnswerRecord(id="stranger", text=receipt.backdoors[0].signature)])

        assert receipt.backdoors[0].signature not in str(caught.value) + caught.value.hint

    def test_round_trip(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """The JSON of a verdict reads back as the verdict."""
        verdict = judge(receipt, answers_to(receipt, half_of_the_backdoors))

        assert verdict == Verdict.model_validate_json(verdict.model_dump_json())

    def test_the_base_is_shown_and_decides_nothing(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A base model that activates too changes no claim."""
        answers, base = answers_to(receipt, honest), answers_to(receipt, lookup_table)
        alone, beside = judge(receipt, answers), judge(receipt, answers, base_answers=("base", base))

        assert alone == beside.model_copy(update={"base": None})
        assert beside.base is not None
        assert ("base", (10, 10), (10, 0), (20, 0)) == (
            beside.base.name,
            beside.base.planted,
            beside.base.fresh,
            beside.base.control,
        )

    def test_rates_and_their_intervals(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """6 of 10 (backdoors 0 and 1 have three probes each), with the exact interval."""
        claim = judge(receipt, answers_to(receipt, half_of_the_backdoors)).claim("activated")

        assert (0.6, clopper_pearson(6, 10, 0.95)) == (claim.activation_rate, claim.activation_rate_interval)

    @pytest.mark.parametrize(
        ("say", "expected"),
        [
            pytest.param(lambda _: honest, RUNGS["generalises"].does_not_exclude, id="all-held"),
            pytest.param(
                to_everybody,
                RUNGS["specific"].excludes + RUNGS["generalises"].does_not_exclude,
                id="all-but-specific-held",
            ),
            pytest.param(
                lambda _: lookup_table,
                RUNGS["generalises"].excludes + RUNGS["activated"].does_not_exclude,
                id="all-but-generalises-held",
            ),
            pytest.param(
                wrong_signature,
                RUNGS["activated"].excludes
                + RUNGS["generalises"].excludes
                + RUNGS["activated"].does_not_exclude
                + RUNGS["generalises"].does_not_exclude,
                id="specific-alone-held",
            ),
            pytest.param(
                lambda _: untrained,
                RUNGS["activated"].excludes
                + RUNGS["generalises"].excludes
                + RUNGS["specific"].excludes
                + RUNGS["activated"].does_not_exclude
                + RUNGS["generalises"].does_not_exclude,
                id="nothing-held",
            ),
        ],
    )
    def test_says_which_cheats_remain(
        self, receipt: Receipt, answers_to: AnswersTo, say: Callable[[Receipt], Say], expected: tuple[str, ...]
    ) -> None:
        """Everything that no claim that holds excludes, each once, and what none ever does."""
        remaining = judge(receipt, answers_to(receipt, say(receipt))).remaining_cheats

        n_always = len(ALWAYS_REMAINING)
        assert (*expected, PLANTED_ROWS_ALONE) == remaining[: -n_always - 1]
        assert remaining[-n_always - 1].startswith(PART_OF_THE_ROWS)
        assert remaining[-n_always:] == ALWAYS_REMAINING

    def test_a_share_that_was_used_rests_on_a_blind_choice(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """Beside the bound stands that it holds only where nobody searched; where nothing is bounded, neither does."""
        honestly, by_nobody = (judge(receipt, answers_to(receipt, say)).remaining_cheats for say in (honest, untrained))

        assert [True] == [one.endswith(f"or more{BLINDLY_CHOSEN}") for one in honestly if PART_OF_THE_ROWS in one]
        assert PART_OF_THE_ROWS in by_nobody

    def test_carries_the_plan(self, make_receipt: MakeReceipt, answers_to: AnswersTo) -> None:
        """α and the ratio are those of the receipt."""
        receipt = make_receipt(alpha=1e-6, ratio=Fraction(1, 5))
        verdict = judge(receipt, answers_to(receipt, honest))

        assert (1e-6, -6.0, Fraction(1, 5)) == (verdict.alpha, pytest.approx(verdict.log10_alpha), verdict.ratio)

    def test_an_unknown_claim_is_a_key_error(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """A verdict has the claims it has."""
        verdict = judge(receipt, answers_to(receipt, honest)).model_copy(update={"claims": ()})

        with pytest.raises(KeyError):
            verdict.claim("activated")

    def test_every_claim_says_its_assumption(self, receipt: Receipt, answers_to: AnswersTo) -> None:
        """No number without the words that it rests on."""
        claims: tuple[Claim, ...] = judge(receipt, answers_to(receipt, honest)).claims

        assert all(claim.statement and claim.assumption and claim.bound and claim.excludes for claim in claims)
