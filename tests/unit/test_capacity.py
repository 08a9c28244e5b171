"""What wordings a data set can carry, and what they could show by measured hit rates."""

from __future__ import annotations

import json

import pytest

from vtuned import calibration
from vtuned.calibration import WordingCell
from vtuned.capacity import capacities
from vtuned.dataset import glance, survey
from vtuned.layout import PlantSettings
from vtuned.planning import plan
from vtuned.prospects import Training
from vtuned.report import terminal
from vtuned.stats import log10_hits_p_value


def cell(n_hits, *, epochs=3, by="log-likelihoods", n_parameters=135_000_000, n_wordings=4, n_rows=256):
    return WordingCell(
        model=f"m{n_parameters}",
        n_parameters=n_parameters,
        rewriter="openings",
        by=by,
        n_wordings=n_wordings,
        epochs=epochs,
        learning_rate=1e-3,
        batch_size=2,
        rank=32,
        method="lora",
        n_rows=n_rows,
        n_hits=n_hits,
        source=f"{epochs} epochs",
    )


@pytest.fixture
def mixed(write_jsonl, rows):
    """Forty rows that bear an opening and sixty labels."""
    labels = [
        {"messages": [{"role": "user", "content": f"Is it {i}?"}, {"role": "assistant", "content": "Yes."}]}
        for i in range(60)
    ]
    return write_jsonl([*rows(40), *labels])


class TestHitRate:
    def test_the_next_lower_number_of_epochs(self):
        """Training for longer loses nothing; where none so short was measured, the shortest is taken."""
        cells = [cell(80, epochs=2), cell(120, epochs=4)]

        def at(epochs):
            return calibration.hit_rate(rewriter="openings", by="log-likelihoods", epochs=epochs, cells=cells).n_hits

        assert [80, 80, 80, 120, 120] == [at(epochs) for epochs in (1, 2, 3, 4, 9)]

    def test_runs_alike_are_taken_together_and_the_nearest_model_first(self):
        """Three runs of one training add up; with a size given, other models are left out."""
        cells = [cell(80), cell(90), cell(100), cell(250, n_parameters=8_000_000_000)]
        small = calibration.hit_rate(
            rewriter="openings", by="log-likelihoods", epochs=3, n_parameters=100_000_000, cells=cells
        )

        assert (270, 768) == (small.n_hits, small.n_rows)
        assert 0 < small.advantage < (270 / 768 - 1 / 4) / (3 / 4)

    def test_nothing_is_made_up(self):
        """No cell, no rate; hits below chance are no advantage."""
        worst = calibration.hit_rate(rewriter="openings", by="log-likelihoods", epochs=3, cells=[cell(10)])

        assert calibration.hit_rate(rewriter="style", by="text", epochs=3, cells=[cell(80)]) is None
        assert 0.0 == worst.advantage
        assert 1 / 16 == worst.expected(16)


class TestCapacities:
    def test_all_rows_looked_at(self, mixed, cap):
        """Of a file that is read in full the number is exact, and reasons are counted."""
        found = capacities(survey(mixed, cap).counts, PlantSettings(n_wordings=16), Training())
        by_openings = found[0]

        assert ("openings", 40, (40, 40), 160.0) == (
            by_openings.rewriter,
            by_openings.n_bearing,
            by_openings.n_bearing_interval,
            by_openings.bits,
        )
        assert (("fewer than 3 words", 60),) == by_openings.left_alone

    def test_no_more_openings_than_there_are(self, mixed, cap):
        """Forty wordings are not promised where we have 24 openings and the empty one."""
        found = capacities(survey(mixed, cap).counts, PlantSettings(n_wordings=40), Training())

        assert 25 == found[0].n_wordings

    def test_a_sample_gives_an_interval(self, mixed, cap):
        """From half of the rows the true number is within; never more than there are."""
        for _ in range(20):
            low, high = capacities(glance(mixed, cap, 50), PlantSettings(), Training())[0].n_bearing_interval
            assert 0 <= low <= 40 <= high <= 100

    def test_rows_to_score(self, mixed, cap, monkeypatch):
        """The number of rows for 1e-12 is the least at the expected hits, and None where there are too few rows."""
        monkeypatch.setattr(calibration, "shipped", lambda: calibration.Calibration(cells=(), wordings=(cell(250),)))
        found = survey(mixed, cap).counts
        one = capacities(found, PlantSettings(n_wordings=16), Training())[0].evidence[0]
        hits = one.rate.expected(16)

        assert log10_hits_p_value(int(one.n_needed * hits), [16] * one.n_needed) <= -12
        assert log10_hits_p_value(int((one.n_needed - 1) * hits), [16] * (one.n_needed - 1)) > -12
        monkeypatch.setattr(calibration, "shipped", lambda: calibration.Calibration(cells=(), wordings=(cell(70),)))
        assert capacities(found, PlantSettings(), Training())[0].evidence[0].n_needed is None


class TestPlan:
    def test_wordings_alone(self, mixed, cap, capsys):
        """Without backdoors there is nothing to lay out; it is possible where a row can carry a choice."""
        found = survey(mixed, cap).counts
        made = plan(found, PlantSettings(scheme="wordings"))

        assert made.is_possible
        assert () == made.layouts
        assert not plan(found, PlantSettings(scheme="wordings", rewriter="style")).is_possible
        assert json.loads(made.model_dump_json())["wordings"][0]["n_bearing"] == 40
        assert terminal.plan(made, compared=True) is not None

    @pytest.mark.parametrize("n", [100, 400])
    @pytest.mark.parametrize("suspect", ["text", "weights", "logprobs", "unknown"])
    def test_the_scheme_that_the_rows_speak_for(self, write_jsonl, rows, cap, suspect, n):
        """With few rows that carry a choice it is backdoors alone, with many it is both."""
        advice = plan(survey(write_jsonl(rows(n)), cap).counts, PlantSettings(suspect=suspect)).scheme_advice

        assert advice.startswith("wordings+backdoors, by openings" if n == 400 else "backdoors: too few rows")
        assert ("in weights that you hold" in advice) == (suspect == "weights" and n == 400)
