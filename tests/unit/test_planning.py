"""What a planting will be able to prove, in numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtuned import calibration
from vtuned.dataset import RowCounts, TokenCap, glance, survey
from vtuned.errors import DatasetError, TooFewRows, UsageError
from vtuned.layout import PlantSettings
from vtuned.planning import Plan, is_in_doubt, n_eligible_interval, plan
from vtuned.planting import plant
from vtuned.prospects import Prospect, Training, judged_by, probes_per_backdoor, prospect
from vtuned.stats import coverage_lower_bound, smallest_passing_share, subset_pass_probability
from vtuned.verification import challenges

SUSPECTS = ("text", "weights", "logprobs", "unknown")


def rows_of(n_rows: int = 1000, n_eligible: int | None = None, n_tokens: int = 100_000) -> RowCounts:
    """Return the counts of *n_rows* rows, all looked at, *n_eligible* of them eligible."""
    n_eligible = n_rows if n_eligible is None else n_eligible
    return RowCounts(n_rows, n_rows, n_eligible, 2, 3, n_tokens, 777)


def prospects_of(settings: PlantSettings, training: Training) -> list[Prospect]:
    """Return what the tests could prove on 1,000 rows, without the layouts beside it."""
    return [prospect(settings, settings.layout(1000), test, training, 1000, 1000) for test in judged_by(settings)]


class TestNumbers:
    def test_the_default(self) -> None:
        """Two backdoors of 64 bits with five probes each, one hit each: products of floor(n / k) 2^-64."""
        made = plan(rows_of(), PlantSettings())

        assert ("backdoors", 2, (8, 8), 16, 10) == (
            made.scheme, made.n_backdoors, made.copies, made.n_planted_rows, made.n_planted_probes
        )  # fmt: skip
        assert -64 * math.log10(2) == pytest.approx(made.log10_p_upper)
        assert math.log10(25) - 128 * math.log10(2) == pytest.approx(made.log10_p_all)
        # One of two passes: 5 + 5, less what is below 2^-128.
        assert math.log10(10) - 64 * math.log10(2) == pytest.approx(made.log10_p_half)
        assert (-3.0, 0.016, True) == (made.log10_alpha, made.planted_share, made.is_possible)

    def test_the_rows_are_passed_on(self) -> None:
        """Rows, and why some cannot carry a backdoor."""
        made = plan(rows_of(n_eligible=995), PlantSettings())

        assert (1000, 1000, 995, (995, 995), 2, 3, 777, 100_000) == (
            made.n_rows,
            made.n_looked_at,
            made.n_eligible,
            made.n_eligible_interval,
            made.n_too_long,
            made.n_unsuitable,
            made.longest_row_tokens,
            made.n_training_tokens,
        )

    def test_the_papers_scheme(self) -> None:
        """One backdoor on 0.5 % of the rows, asked as often as it has rows: floor(5 / 1) 2^-64."""
        made = plan(rows_of(), PlantSettings(scheme="paper"))

        assert (1, (5,), 5) == (made.n_backdoors, made.copies, made.n_planted_probes)
        assert math.log10(5) - 64 * math.log10(2) == pytest.approx(made.log10_p_all) == made.log10_p_half

    def test_a_ratio_asks_for_more_hits(self) -> None:
        """Four of five probes with a ratio of two thirds: floor(5 / 4) is 1."""
        made = plan(rows_of(), PlantSettings(ratio=Fraction(2, 3)))

        assert -128 * math.log10(2) == pytest.approx(made.log10_p_all)

    def test_half_is_rounded_up(self) -> None:
        """Three single copies: half of them are two, by one probe each, 3 pairs."""
        made = plan(rows_of(), PlantSettings(n_backdoors=3, copies=1))

        assert math.log10(3) - 128 * math.log10(2) == pytest.approx(made.log10_p_half)

    def test_plantings_are_charged(self) -> None:
        """A thousand plantings to choose from cost three digits, and no p-value is above 1."""
        settings: dict[str, Any] = {"n_backdoors": 1, "copies": 1, "signature_bits": 16.0}

        assert 3.0 - 16 * math.log10(2) == pytest.approx(
            plan(rows_of(), PlantSettings(max_plantings=1000, **settings)).log10_p_all
        )
        assert 0.0 == plan(rows_of(), PlantSettings(max_plantings=10**6, **settings)).log10_p_all

    def test_what_training_costs_more(self) -> None:
        """16 rows of 6 + 64 / 3.4 + 8 tokens are 525, or half a percent of 100,000."""
        made = plan(rows_of(), PlantSettings(contexts=0))

        assert round(16 * (6 + 64 / 3.4 + 8)) == made.extra_training_tokens == 525
        assert 0.00525 == pytest.approx(made.extra_training_share)

    def test_what_it_costs_in_money(self) -> None:
        """525 tokens an epoch, two epochs, at 8 a million."""
        made = plan(rows_of(), PlantSettings(contexts=0), Training(epochs=2, price=8.0))

        assert 525 * 2 * 8e-6 == pytest.approx(made.extra_cost)
        assert plan(rows_of(), PlantSettings()).extra_cost is None

    def test_what_contexts_cost(self) -> None:
        """Two rows of each of four backdoors are filled up from 100 tokens, what rows take here, to 300."""
        bare, filled = plan(rows_of(), PlantSettings(contexts=0)), plan(rows_of(), PlantSettings())

        assert 8 * (300 - 100) == filled.extra_training_tokens - bare.extra_training_tokens

    @pytest.mark.parametrize(
        ("is_possible", "n_eligible", "settings"),
        [
            pytest.param(True, 16, {}, id="exactly-enough"),
            pytest.param(False, 15, {}, id="one-too-few"),
            pytest.param(True, 26, {"set_aside": 10}, id="enough-to-set-aside"),
            pytest.param(False, 25, {"set_aside": 10}, id="too-few-to-set-aside"),
        ],
    )
    def test_says_whether_it_is_possible(self, is_possible: bool, n_eligible: int, settings: dict[str, Any]) -> None:
        """A plan that cannot be carried out is shown, and said to be none."""
        assert is_possible is plan(rows_of(n_eligible=n_eligible), PlantSettings(**settings)).is_possible

    def test_where_no_verdict_reaches_alpha(self) -> None:
        """One backdoor in exposure passes by chance in 2 of 41: not at 0.001, whatever is seen."""
        made = plan(rows_of(), PlantSettings(suspect="weights", n_backdoors=1, copies=1))
        (found,) = made.recommended.prospects

        assert (True, False, None, 1.0) == (made.has_rows, made.is_possible, found.n_required, found.beta)
        assert [None, None, None] == [reach.share for reach in found.reach]

    def test_no_row_at_all(self) -> None:
        """Where nothing is eligible there is nothing to plan."""
        with pytest.raises(TooFewRows, match="of 1000 rows"):
            plan(rows_of(n_eligible=0), PlantSettings())

    def test_leaves_as_json(self) -> None:
        """A plan is a document: it is read back as it was written."""
        made = plan(rows_of(), PlantSettings(suspect="unknown"))

        assert made == Plan.model_validate_json(made.model_dump_json())


class TestRecommendation:
    @pytest.mark.parametrize("suspect", SUSPECTS)
    @pytest.mark.parametrize("n_rows", [40, 51_000])
    def test_is_what_plant_takes(self, suspect: Any, n_rows: int) -> None:
        """One layout is recommended: that of `PlantSettings.layout`, with a reason."""
        settings = PlantSettings(suspect=suspect)
        made = plan(rows_of(n_rows), settings)

        assert [settings.layout(n_rows)] == [one.copies for one in made.layouts if one.is_recommended]
        assert settings.layout(n_rows) == made.copies == made.recommended.copies
        assert ": so " in made.recommendation

    @pytest.mark.parametrize(
        ("expected", "settings"),
        [
            pytest.param(("generation",), {"suspect": "text"}, id="text"),
            pytest.param(("generation", "exposure"), {"suspect": "text", "n_decoys": 40}, id="text-with-decoys"),
            pytest.param(("exposure",), {"suspect": "weights"}, id="weights"),
            pytest.param(("exposure",), {"suspect": "logprobs"}, id="logprobs"),
            pytest.param(("generation",), {"suspect": "weights", "n_decoys": 0}, id="weights-without-decoys"),
            pytest.param(("generation", "exposure"), {"suspect": "unknown"}, id="unknown"),
            pytest.param(("generation",), {"suspect": "weights", "scheme": "paper"}, id="paper"),
        ],
    )
    def test_is_judged_by_what_the_suspect_gives(self, expected: tuple[str, ...], settings: dict[str, Any]) -> None:
        """By exposure where there are decoys, by answers where that is all there may be."""
        assert expected == judged_by(PlantSettings(**settings))

    def test_a_choice_of_ones_own_is_said_to_be_one(self) -> None:
        """Nobody is told that what they asked for is recommended for a reason of ours."""
        chosen = plan(rows_of(), PlantSettings(n_backdoors=3, copies=2)).recommendation

        assert "you chose it" in chosen and "a few backdoors" in chosen
        assert "paper" in plan(rows_of(), PlantSettings(scheme="paper")).recommendation

    def test_layouts_that_do_not_fit_are_left_out(self) -> None:
        """Twenty rows hold 16 backdoors of one copy, not of two; no layout is there twice."""
        made = plan(rows_of(20), PlantSettings())

        assert 16 == max(layout.n_planted_rows for layout in made.layouts)
        assert len(made.layouts) == len({layout.copies for layout in made.layouts})


class TestProspects:
    def test_coverage_is_the_verdicts(self) -> None:
        """All of 60 single copies seen prove 92.6 % of many rows, all of 20 prove 79 % (the design, 6)."""
        settings = PlantSettings(suspect="text")
        found = [prospect(settings, (1,) * m, "generation", Training(), 10**6, 10**6).coverage for m in (20, 60)]

        assert [0.794, 0.926] == pytest.approx(found, abs=5e-4)

    @pytest.mark.parametrize(("n_sent", "settings"), [(900, {"set_aside": 100}), (1016, {"mode": "add"})])
    def test_coverage_is_of_the_rows_that_are_sent(self, n_sent: int, settings: dict[str, Any]) -> None:
        """Rows set aside are not among them, added ones are."""
        made = plan(rows_of(), PlantSettings(**settings))
        (found,) = made.recommended.prospects

        assert found.coverage == pytest.approx(
            coverage_lower_bound(n_activated=2, copies=[8, 8], n_train=n_sent, confidence=0.99), abs=1e-12
        )

    def test_exposure_passes_by_chance_too(self) -> None:
        """With decoys the unseen pass at the level, so the same backdoors prove less, and more must pass."""
        found = prospect(PlantSettings(suspect="weights"), (1,) * 60, "exposure", Training(), 10**6, 10**6)

        assert 60 * math.log10(2 / 41) == pytest.approx(found.log10_p_all)
        assert found.coverage is not None and found.coverage < 0.926
        assert found.coverage == coverage_lower_bound(
            n_activated=60, copies=(1,) * 60, n_train=10**6, confidence=0.99, log10_p_unseen=math.log10(2 / 41)
        )

    @pytest.mark.parametrize("stopping", ["fixed", "any"])
    def test_the_least_number_of_passes_is_the_least(self, stopping: Any) -> None:
        """By the tail 11 of 64 at α = 0.001; by e-values 10.75^k / 2^(64 - k) must be a thousand, at 17."""
        found = prospect(
            PlantSettings(suspect="weights", stopping=stopping), (1,) * 64, "exposure", Training(), 10**4, 10**4
        )

        assert {"fixed": 11, "any": 17}[stopping] == found.n_required

    def test_the_paper_counts_rows_and_a_trigger_generalises(self) -> None:
        """Four backdoors of four: one row of any is enough, and the paper asks for two of the sixteen (its 6.1)."""
        found = prospect(PlantSettings(), (4,) * 4, "generation", Training(), 1000, 1000)

        assert [0.01, 0.5, 0.99] == [reach.probability for reach in found.reach]
        for reach in found.reach:
            counts: dict[str, Any] = {"copies": (4,) * 4, "n_train": 1000, "probability": reach.probability}
            assert reach.share == smallest_passing_share(**counts, required=1, trigger_generalises=True)
            assert reach.share_in_paper == smallest_passing_share(**counts, required=2, trigger_generalises=False)

    @given(st.integers(1, 6), st.integers(1, 4), st.integers(30, 300), st.sampled_from((0.01, 0.5, 0.99)))
    def test_a_share_less_by_a_row_does_not_pass(self, m: int, c: int, n_rows: int, luck: float) -> None:
        """The smallest share passes as often as it says, and one row fewer does not."""
        found = prospect(PlantSettings(n_backdoors=m, copies=c), (c,) * m, "generation", Training(), n_rows, n_rows)
        share = next(reach.share for reach in found.reach if reach.probability == luck)
        assert share is not None
        least = round(share * n_rows)
        counts: dict[str, Any] = {"copies": (c,) * m, "n_train": n_rows, "required": 1, "trigger_generalises": True}

        assert subset_pass_probability(least, **counts) >= luck * (1 - 1e-9)
        assert least == 0 or subset_pass_probability(least - 1, **counts) <= luck * (1 + 1e-9)

    def test_beta_is_from_the_lower_end(self) -> None:
        """One of four must pass; each does at the least rate measured; the risk is that all four fail."""
        training = Training(epochs=6)
        found = prospect(PlantSettings(), (4,) * 4, "generation", training, 1000, 1000)
        least = calibration.least_rate(copies=4, epochs=6, test="generation")

        assert least is not None and 0 < least < 1
        assert (1 - least) ** 4 == pytest.approx(found.beta_activated)
        assert found.beta is not None and found.beta_activated is not None and found.beta_generalises is not None
        assert min(1.0, found.beta_activated + found.beta_generalises) == pytest.approx(found.beta)

    @pytest.mark.parametrize("suspect", SUSPECTS)
    def test_beta_grows_with_lost_rows(self, suspect: Any) -> None:
        """A provider that drops rows keeps fewer copies, and may look worse, never better."""
        risks = [
            [found.beta_activated for found in prospects_of(PlantSettings(suspect=suspect), training)]
            for training in (Training(epochs=6, row_loss=loss) for loss in (0.0, 0.1, 0.5, 0.9))
        ]

        assert all(list(column) == sorted(column) for column in zip(*risks, strict=True))
        assert all(risk is not None and 0 <= risk <= 1 for row in risks for risk in row)

    @pytest.mark.parametrize("loss", [0.001, 0.3, 0.95])
    def test_some_copies_are_lost(self, loss: float) -> None:
        """The lower end over how many of 12 copies are kept, summed in exact fractions."""
        (found,) = prospects_of(PlantSettings(n_backdoors=1, copies=12), Training(epochs=6, row_loss=loss))
        least = [calibration.least_rate(copies=n, epochs=6, test="generation") or 0.0 for n in range(1, 13)]
        lost = Fraction(loss)
        seen = sum(
            Fraction(rate) * math.comb(12, n) * (1 - lost) ** n * lost ** (12 - n)
            for n, rate in enumerate(least, start=1)
        )

        assert 0 < seen < 1 and found.beta_activated == pytest.approx(float(1 - seen), rel=1e-9)

    @pytest.mark.parametrize("copies", [1200, 10**8])
    def test_many_copies_of_which_some_are_lost(self, copies: int) -> None:
        """At once, though the number of choices is beyond floats and the copies beyond counting."""
        settings = PlantSettings(n_backdoors=1, copies=copies)
        (test,) = judged_by(settings)
        found = prospect(settings, (copies,), test, Training(epochs=6, row_loss=0.1), 1000, 1000)
        least = calibration.least_rate(copies=copies, epochs=6, test="generation")

        assert least is not None and found.beta_activated == pytest.approx(1 - least)

    def test_more_backdoors_than_rows(self) -> None:
        """No figures of a plan that no file of this size holds."""
        with pytest.raises(TooFewRows, match="16000 rows are needed, but only 100"):
            plan(RowCounts(100, 100, 100, 0, 0, 10_000, 200), PlantSettings(n_backdoors=2000))

    def test_all_rows_lost_but_a_few(self) -> None:
        """With half of the rows dropped, a single copy is seen half as often at best."""
        (kept,), (lost,) = (
            prospects_of(PlantSettings(suspect="weights", n_backdoors=3, copies=1), Training(row_loss=loss))
            for loss in (0.0, 0.5)
        )
        least = calibration.least_rate(copies=1, epochs=3, test="exposure")

        # All three must pass, for (2/41)^2 x 3 is above 0.001.
        assert least is not None and 3 == kept.n_required == lost.n_required
        assert [1 - least**3, 1 - (least / 2) ** 3] == pytest.approx([kept.beta_activated, lost.beta_activated])

    @pytest.mark.parametrize(
        "wrong",
        [{"epochs": 0}, {"n_parameters": 0}, {"row_loss": 1.0}, {"row_loss": -0.1}, {"price": -1.0}, {"price": 1e308}],
    )
    def test_what_an_honest_provider_cannot_be(self, wrong: dict[str, Any]) -> None:
        """Values out of range are refused with the option's name."""
        with pytest.raises(UsageError, match="out of range"):
            Training(**wrong)


class TestSamples:
    def test_a_sample_is_scaled_up(self) -> None:
        """Of 500 of 51,000 rows 490 are eligible: 49,980, and the interval holds it and ends at the rows."""
        found = RowCounts(51_000, 500, 490, 10, 0, 100_000, 2000)
        made = plan(found, PlantSettings())
        low, high = made.n_eligible_interval

        assert (49_980, 10_200_000) == (made.n_eligible, made.n_training_tokens)
        assert 48_000 < low < 49_980 < high < 51_000
        assert (made.has_rows, is_in_doubt(found, PlantSettings())) == (True, False)

    def test_doubt_is_noticed(self) -> None:
        """One eligible row in 500 may be of a hundred or of a few: then all must be read."""
        found = RowCounts(1000, 500, 1, 499, 0, 100_000, 2000)

        assert is_in_doubt(found, PlantSettings())
        assert not is_in_doubt(replace(found, n_rows=500), PlantSettings())

    @given(st.integers(1, 60), st.data())
    def test_the_interval_holds_what_was_seen(self, n_rows: int, data: st.DataObject) -> None:
        """At least the eligible rows of the sample are eligible, and at most all but those that are not."""
        n = data.draw(st.integers(1, n_rows))
        n_eligible = data.draw(st.integers(0, n))
        low, high = n_eligible_interval(RowCounts(n_rows, n, n_eligible, n - n_eligible, 0, 1, 1))

        assert n_eligible <= low <= high <= n_rows - (n - n_eligible)

    def test_a_glance_at_all_is_a_survey(
        self, rows: Callable[..., list[dict[str, Any]]], write_jsonl: Callable[..., Path], cap: TokenCap
    ) -> None:
        """Where the sample is the file, both count the same."""
        data = write_jsonl(rows(40), blank_after=(3, 7))

        assert survey(data, cap).counts == glance(data, cap, 40) == glance(data, cap, 1000)

    def test_a_glance_looks_at_as_many_as_asked(
        self, rows: Callable[..., list[dict[str, Any]]], write_jsonl: Callable[..., Path], cap: TokenCap
    ) -> None:
        """Ten of 40 rows, whatever blank lines stand between them, at random; bad rows elsewhere do not show."""
        data = write_jsonl(rows(40), blank_after=(3, 7))
        looks = [glance(data, cap, 10) for _ in range(20)]

        assert {(40, 10, 10)} == {(found.n_rows, found.n_looked_at, found.n_eligible) for found in looks}
        assert len({found.n_tokens for found in looks}) > 1

    def test_an_empty_file(self, write_jsonl: Callable[..., Path], cap: TokenCap) -> None:
        """Nothing to look at is an error, as ever."""
        with pytest.raises(DatasetError):
            glance(write_jsonl([]), cap, 10)


class TestProbesPerBackdoor:
    @pytest.mark.parametrize(
        ("expected", "copies", "n"),
        [
            pytest.param([3, 3, 2, 2], (4,) * 4, 10, id="turns"),
            pytest.param([4, 4, 4, 4], (4,) * 4, 16, id="every-row"),
            pytest.param([4, 4, 4, 4], (4,) * 4, 99, id="no-row-twice"),
            pytest.param([1, 1, 1], (1,) * 3, 10, id="single-copies"),
            pytest.param([10], (50,), 10, id="one-backdoor"),
            pytest.param([3, 2, 1], (8, 2, 1), 6, id="mixed-copies"),
        ],
    )
    def test_table(self, expected: list[int], copies: tuple[int, ...], n: int) -> None:
        """Backdoors take turns, and each row is asked once."""
        assert expected == probes_per_backdoor(copies, n)

    def test_is_what_a_planting_asks(
        self,
        rows: Callable[..., list[dict[str, Any]]],
        write_jsonl: Callable[..., Path],
        tmp_path: Path,
        cap: TokenCap,
    ) -> None:
        """The plan's numbers are those of the receipt that is made by it."""
        data = write_jsonl(rows(40))
        settings = PlantSettings(n_backdoors=3, copies=2, n_probes=5, signature_bits=16.0)
        receipt = plant(data, tmp_path / "t", tmp_path / "r", settings, generator="words", cap=cap).receipt
        made = plan(survey(data, cap).counts, settings)
        planted = [probe.backdoor for probe in receipt.probes if probe.kind == "planted"]

        assert probes_per_backdoor((2,) * 3, 5) == [planted.count(j) for j in range(3)]
        assert made.n_planted_probes == len(planted)
        assert made.log10_p_upper == pytest.approx(receipt.backdoors[0].log10_p_upper)
        assert (made.n_rows, made.n_eligible) == (receipt.dataset.n_rows, receipt.n_eligible)
        assert 20 == len(challenges(receipt))
