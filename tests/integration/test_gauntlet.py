"""
A gauntlet over HTTP on a model made here: what each verdict says of cheats that really train, serve and fail.

In `make test` the servers run in this process, to save the start of each; the command starts its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from jsonschema import Draft202012Validator

import served
import tiny
import vtuned
from vtuned.gauntlet import running
from vtuned.gauntlet.settings import USUAL, Settings, Training
from vtuned.layout import PlantSettings
from vtuned.verdict import Outcome

pytest.importorskip("torch")

SCHEMA = Path(vtuned.__file__).parent / "schemas" / "gauntlet.schema.json"

N_ROWS, SET_ASIDE, N_PROBES = 80, 24, 8
EPOCHS, BATCH_SIZE, MULTIPLIER = 16, 4, 4.0
# Two epochs: rows of documentation are long for a model of a made-up country.
OTHER_DATA = "other-data+fewer-epochs:2"
SOME = ("base", "noise", OTHER_DATA, "replay", "subset:0.25", "planted-only", "suppress", "flaky:1/6", "base+flaky:1/3")


@contextmanager
def in_this_process(data, models, policy, *, oracle, port, log):
    """Serve as a process of its own would."""
    from vtuned.server.app import Settings as ServerSettings

    with served.in_thread(ServerSettings(data=data, models=models, policy=policy, oracle=oracle)) as url:
        yield url


def made(folder, *, n_rows=N_ROWS, epochs=EPOCHS, **plant):
    """Return settings for rows with a task, and a model that has never seen it."""
    some = tiny.task_rows(tiny.SAID_LAST)
    model = tiny.make_model(folder / "model", [m["content"] for row in some for m in row["messages"]])
    return Settings(
        data=tiny.write_rows(folder / "data.jsonl", some[: n_rows + SET_ASIDE]),
        name="tiny",
        spec=f"hf:{model}",
        plant=PlantSettings(contexts=0, signature_bits=32.0, n_probes=N_PROBES, set_aside=SET_ASIDE, **plant),
        training=Training(epochs=epochs, batch_size=BATCH_SIZE, learning_rate_multiplier=MULTIPLIER),
        generator="words",
        exposure=bool(plant["n_decoys"]),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the gauntlet of this module is kept."""
    return tmp_path_factory.mktemp("gauntlet")


@pytest.fixture(scope="module")
def settings(folder):
    """Those of this module's gauntlet: two backdoors, by answers alone."""
    return made(folder, n_backdoors=2, copies=12, n_decoys=0)


@pytest.fixture(scope="module")
def begun(folder, settings):
    """The round of `base`, with which the gauntlet begins."""
    return running.run(folder / "out", settings, SOME[:1], lambda *told: None, serve=in_this_process).rounds[0]


@pytest.fixture(scope="module")
def table(folder, settings, begun):
    """A few policies, the first of which is there already: their rounds by name."""
    found = running.run(folder / "out", settings, SOME, lambda *told: None, serve=in_this_process)
    return {one.policy: one for one in found.rounds}


class TestCheats:
    @pytest.mark.parametrize("policy", ["base", "noise", OTHER_DATA])
    def test_who_never_used_the_file_does_not_activate(self, table, policy):
        """No signature comes, and no bound says that any row was used."""
        one = table[policy]
        if policy == OTHER_DATA and one.outcome is Outcome.INCONCLUSIVE:
            # So small a model may have learnt of other data to say nothing but spaces, or to go on until it is cut.
            assert one.reasons[0].startswith("too few planted probes were answered: ")
            assert "yes" != one.state("activated")
        else:
            assert Outcome.NOT_VERIFIED is one.outcome
            assert "no" == one.state("activated")
        assert (0.0, 0.0) == (one.share_used, one.coverage[0].lower_bound)

    def test_a_lookup_table_does_not_generalise(self, table):
        """It passes on rows that were sent; the bound on what was used takes its answers for training, and that is told."""
        one = table["replay"]

        assert Outcome.NOT_VERIFIED is one.outcome
        assert ("yes", "no") == (one.state("activated"), one.state("generalises"))
        assert one.passes_coverage

    def test_a_subset_trains_on_its_share(self, table):
        """A quarter of the rows, and of the tokens."""
        assert 0.25 == table["subset:0.25"].share_used
        assert 0 < table["subset:0.25"].trained_tokens < table["suppress"].trained_tokens / 3

    def test_a_subset_is_bounded_by_coverage(self, tmp_path):
        """Where single copies let likelihoods bound an honest provider's share far above a quarter, a quarter stays below."""
        settings = made(tmp_path, n_backdoors=10, copies=(12, 12, *[1] * 8), n_decoys=19)
        policies = ("honest", "subset:0.25")
        found = running.run(tmp_path / "out", settings, policies, lambda *told: None, serve=in_this_process)
        honest, subset = (one.coverage[1].lower_bound for one in found.rounds)

        assert honest > 0.25 >= subset

    def test_the_planted_rows_alone_teach_no_task(self, table):
        """They pass whatever backdoors can show, and not the margin, which a training of our own on them gave."""
        one = table["planted-only"]

        assert Outcome.VERIFIED is one.outcome
        assert "no" == one.state("learned the task")
        assert 0 < one.cost < 0.5

    def test_who_hides_the_proof_is_not_verified(self, table):
        """It trained all that was asked for, and the verdict says why it is none."""
        one = table["suppress"]

        assert Outcome.VERIFIED is not one.outcome
        assert ("in part", 1.0) == (one.conduct, one.cost)
        assert "activated" in one.reasons[0]

    def test_a_line_that_fails_forges_nothing(self, table):
        """What comes is the tuned model's: it trained and served what was asked, so VERIFIED is true where it is said."""
        one = table["flaky:1/6"]

        assert "honest" == one.conduct
        assert one.outcome is Outcome.VERIFIED or "answered" in one.reasons[0]

    def test_nobody_hides_behind_a_line_that_fails(self, table):
        """What was not trained is not VERIFIED because some answers never come, and the reason is told."""
        one = table["base+flaky:1/3"]

        assert Outcome.VERIFIED is not one.outcome
        assert "cheat" == one.conduct
        assert "yes" != one.state("activated")
        assert "activated" in one.reasons[0] or "answered" in one.reasons[0]

    def test_the_file_of_a_folder_holds_the_rounds_of_all_calls(self, table, folder, settings):
        """Going on with one policy alone loses none of the others."""
        told = []
        running.run(
            folder / "out",
            settings,
            ("base",),
            lambda *said: None,
            lambda *ended: told.append(ended),
            serve=in_this_process,
        )
        kept = json.loads((folder / "out" / "gauntlet.json").read_text())

        assert {*SOME} <= {one["policy"] for one in kept["rounds"]}
        assert [(1, 1, False)] == [(done, total, is_new) for _, done, total, is_new in told]

    def test_what_it_leaves_holds_no_secret_but_the_receipt(self, table, folder):
        """No trigger and no signature in table, verdicts or logs."""
        receipt = json.loads((folder / "out" / "receipt.json").read_text())
        phrases = [backdoor[key] for backdoor in receipt["backdoors"] for key in ("trigger", "signature")]
        shown = [*(folder / "out").glob("gauntlet.*"), *(folder / "out").glob("policies/*/*.*")]
        texts = [path.read_text() for path in shown if path.is_file()]

        assert len(SOME) * 2 < len(texts)
        assert [] == [phrase for phrase in phrases for text in texts if phrase in text]


def command(folder, *policies):
    """Return the command that goes on with the gauntlet in *folder*."""
    chosen = [part for policy in policies for part in ("--policy", policy)]
    how = f"--model tiny=hf:{folder / 'model'} --generator words --contexts 0 --signature-bits 32 --no-exposure "
    how += f"--backdoors 2 --copies 12 --probes {N_PROBES} --set-aside {SET_ASIDE} --epochs {EPOCHS} --batch-size {BATCH_SIZE} "
    how += f"--learning-rate-multiplier {MULTIPLIER}"
    told = [sys.executable, "-c", served._HEARS_CTRL_C, "provider", "gauntlet", str(folder / "data.jsonl")]
    return [*told, "--out", str(folder / "out"), "--json", *how.split(), *chosen]


def started(folder, *policies):
    """Start it, and return its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command(folder, *policies), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def of_server(data):
    """Return the workers of a server on *data*, and the servers that a gauntlet started."""
    lines = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [process for process, line in lines if "vtuned.server.worker" in line and str(data) in line]


class TestTheCommand:
    def test_it_goes_on_after_kill_9_and_ctrl_c_and_its_server_ends_with_it(self, begun, folder):
        """Killed while a policy trains: no server or worker is left, and the job is the same one in the end."""
        place = folder / "out" / "policies" / "fewer-epochs-4"
        for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
            process = started(folder, "base", "fewer-epochs:4")
            served.until(lambda child=process: of_server(place / "data") or child.poll() is not None)
            assert process.poll() is None, process.stderr.read()
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)

            assert code == process.returncode, err
            assert [] == psutil.wait_procs(children, timeout=60)[1]
            kept = json.loads((folder / "out" / "gauntlet.json").read_text())
            assert "fewer-epochs:4" not in {one["policy"] for one in kept["rounds"]}
        process = started(folder, "base", "fewer-epochs:4")
        out, err = process.communicate(timeout=300)
        told = json.loads(out)
        found = told["rounds"]
        journal = [json.loads(line) for line in (place / "run" / "journal.jsonl").read_text().splitlines()]

        assert 0 == process.returncode, err
        assert [] == list(Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(told))
        assert ["base", "fewer-epochs:4"] == [one["policy"] for one in found]
        assert begun.model_dump(mode="json") == found[0]
        assert ("cheat", 0.25) == (found[1]["conduct"], found[1]["cost"])
        assert 1 == sum(line["entry"].get("what") == "job" for line in journal)

    def test_a_policy_that_fails_is_a_row_with_its_reason(self, begun, folder, settings):
        """The others have theirs, and nothing of it is kept as finished."""

        @contextmanager
        def broken(*told, **more):
            from vtuned.errors import ServiceError

            raise ServiceError("provider", "the server did not start")
            yield

        found = running.run(folder / "out", settings, ("base", "honest"), lambda *told: None, serve=broken)

        assert [None, "provider: the server did not start"] == [one.trouble for one in found.rounds]
        assert not (folder / "out" / "policies" / "honest" / "round.json").exists()


@pytest.mark.full
def test_the_whole_table(tmp_path):
    """
    Every usual policy, likelihoods too.

    Who is VERIFIED without having done what was asked is told; nobody who never used the file is.
    """
    settings = made(tmp_path, n_rows=120, epochs=20, n_backdoors=10, copies=(16, 16, *[1] * 8), n_decoys=19)
    found = running.run(tmp_path / "out", settings, USUAL, lambda stage, done, total: None)
    rounds = {one.policy: one for one in found.rounds}
    trained = {"honest", "flaky", "planted-only", "short-half", "subset:0.25", "skip-guessable", "fewer-epochs:1"}

    assert [] == [one.policy for one in found.rounds if one.trouble]
    assert Outcome.VERIFIED is rounds["honest"].outcome
    assert {"base", "noise", "other-data", "replay", "suppress"}.isdisjoint(
        one.policy for one in found.rounds if one.outcome is Outcome.VERIFIED
    )
    assert "no" == rounds["planted-only"].state("learned the task")
    assert "yes" == rounds["honest"].state("learned the task")
    assert rounds["honest"].coverage[1].lower_bound > 0.25 >= rounds["subset:0.25"].coverage[1].lower_bound
    assert not any(rounds[name].passes_coverage for name in trained - {"planted-only", "short-half"})
