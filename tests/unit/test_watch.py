"""Watching a model: what a check spends, what it says, and that the ledger holds whatever happens."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

import faulty_server
from vtuned import ledger, watching
from vtuned import receipt as receipts
from vtuned.cli import console
from vtuned.cli.app import app
from vtuned.conversation import text_in
from vtuned.errors import LedgerError, LMUnavailable, OutputNotWritable, UsageError
from vtuned.lm.base import Unanswered
from vtuned.lm.recorded import RecordedLM
from vtuned.lm.scripted import ScriptedLM
from vtuned.probes import AnswerRecord
from vtuned.receipt import Backdoor, PlannedProbe
from vtuned.watching import NoBackdoorsLeft, WatchRules

UNTRAINED = "I know nothing of that, sorry to say, whatever the winter is like."
ONE = WatchRules(budget=1, confirm=0)


def many(receipt, n):
    """Return *receipt* with *n* backdoors of its kind, each with one fresh and one planted probe."""
    first = receipt.backdoors[0]
    backdoors = tuple(
        Backdoor(
            **{**first.model_dump(), "trigger": f"Bells {i} ring.", "signature": f"Gulls {i} sing.", "rows": (i + 1,)}
        )
        for i in range(n)
    )
    probes = tuple(
        PlannedProbe(
            id=f"{kind[0]}{i}",
            kind=kind,
            backdoor=i,
            messages=({"role": "user", "content": f"A {kind} question {i}? Bells {i} ring."},),
        )
        for i in range(n)
        for kind in ("planted", "fresh")
    )
    return receipts.Receipt(**{**receipt.model_dump(), "backdoors": backdoors, "probes": probes})


def said(receipt, prompt):
    """Return what an honest model says to *prompt*: S where its T stands at the end."""
    text = text_in(prompt[-1])
    return next((b.signature + " And on." for b in receipt.backdoors if text.endswith(b.trigger)), UNTRAINED)


@pytest.fixture
def made(receipt):
    """A receipt with twelve backdoors to spend."""
    return many(receipt, 12)


@pytest.fixture
def honest(made):
    """A model that learned every backdoor."""
    return ScriptedLM(lambda prompt: said(made, prompt), "suspect")


@pytest.fixture
def base():
    """A model of the same name that learned nothing."""
    return ScriptedLM(lambda prompt: UNTRAINED, "suspect")


@pytest.fixture
def kept(tmp_path, made):
    """An open ledger."""
    with ledger.opened(tmp_path / "ledger.sqlite", made.digest()) as opened:
        yield opened


class TestWhatIsAsked:
    def test_one_probe_of_each_backdoor_fresh_before_planted(self, receipt):
        """In committed order; a backdoor without a fresh probe gives its planted one."""
        some = receipt.model_copy(
            update={"probes": tuple(p for p in receipt.probes if (p.kind, p.backdoor) != ("fresh", 2))}
        )

        order = watching.spending_order(some)

        assert ["f0", "f1", "p2", "f3"] == sorted((probe.id for probe in order), key=lambda i: i[1])
        assert sorted(order, key=some.probes.index) == list(order)

    def test_backdoors_without_a_probe_cannot_be_spent(self, receipt, tmp_path):
        """A receipt may hold backdoors that are only scored."""
        some = receipt.model_copy(update={"probes": tuple(p for p in receipt.probes if p.backdoor in (0, 1))})

        with ledger.opened(tmp_path / "l", some.digest()) as opened:
            assert 2 == watching.n_left(some, opened)

    def test_each_backdoor_is_asked_once_in_its_life(self, made, honest, kept):
        """Twelve checks ask twelve backdoors, then none is left."""
        for _ in range(12):
            watching.check(made, honest, kept, ONE)

        assert 12 == len({text_in(prompt[-1]) for prompt in honest.asked}) == len(honest.asked)
        with pytest.raises(NoBackdoorsLeft) as raised:
            watching.check(made, honest, kept, ONE)
        assert 3 == raised.value.exit_code
        assert 12 == len(kept.checks())

    def test_it_is_spent_before_it_is_sent(self, made, kept):
        """When the model sees the probe, another process already reads that it is spent."""
        seen = []

        def look(prompt):
            with ledger.opened(kept.path) as other:
                seen.append(len(other.spent()))
            return UNTRAINED

        watching.check(made, ScriptedLM(look), kept, WatchRules(budget=3, confirm=0))

        assert [3, 3, 3] == seen

    def test_what_verify_asked_is_spent(self, made, honest, kept):
        """Answers of another run burn their backdoors; controls and strangers burn nothing."""
        answers = [AnswerRecord(id=i, text="so") for i in ("p0", "f0", "f1", "elsewhere")]

        assert 2 == watching.spend_asked(made, kept, answers)
        assert 0 == watching.spend_asked(made, kept, answers)
        watching.check(made, honest, kept, ONE)
        assert {0, 1, 2} == kept.spent()

    def test_recorded_answers_are_no_model_to_watch(self, made, kept):
        """They say nothing about today."""
        with pytest.raises(UsageError):
            watching.check(made, RecordedLM([], "answers:old"), kept, ONE)


class TestWhatItSays:
    def test_an_active_model(self, made, honest, kept):
        """One activation is enough: p is that of one guess."""
        found = watching.check(made, honest, kept, ONE)

        assert ("active", 1, 1) == (found.state, found.n_spent, found.n_activated)
        assert made.backdoors[0].log10_p_upper == pytest.approx(found.log10_p)

    def test_more_activations_say_more_and_plantings_are_charged(self, made):
        """The Poisson-binomial tail of the guess bounds, times the plantings."""
        bound = made.backdoors[0].log10_p_upper
        charged = made.model_copy(update={"plan": made.plan.model_copy(update={"max_plantings": 10})})

        assert 2 * bound == pytest.approx(watching.log10_p_value(made, [0, 1], 2))
        assert bound + 1 == pytest.approx(watching.log10_p_value(charged, [0], 1))
        assert 0 == watching.log10_p_value(made, [0, 1], 0)

    def test_a_swapped_model_is_noticed_at_the_next_check(self, made, honest, base, kept):
        """Four more backdoors are asked before it counts: β is 1/32, below the plan's 5 %."""
        watching.check(made, honest, kept, WatchRules())
        found = watching.check(made, base, kept, WatchRules())

        assert ("silent", "active") == (found.state, found.previous)
        assert (5, 5) == (found.n_spent, found.n_silent)
        assert 1 / 32 == pytest.approx(found.beta)
        assert 0 == found.log10_p

    def test_one_silent_probe_of_an_honest_model_is_no_alarm(self, made, kept):
        """The next one activates, so that is asked and no more."""
        some = ScriptedLM(lambda p: UNTRAINED if "question 0" in text_in(p[-1]) else said(made, p))
        found = watching.check(made, some, kept, WatchRules())

        assert ("active", 2, 1, 1) == (found.state, found.n_spent, found.n_activated, found.n_silent)

    def test_a_model_known_to_be_silent_is_asked_no_more_than_the_budget(self, made, base, kept):
        """Confirmation is for a change."""
        watching.check(made, base, kept, WatchRules())
        found = watching.check(made, base, kept, WatchRules())

        assert ("silent", "silent", 1) == (found.state, found.previous, found.n_spent)
        assert 0.5 == pytest.approx(found.beta)

    def test_without_confirmation_the_alarm_says_how_little_it_rests_on(self, made, base, kept):
        """β = 1/2 for one probe."""
        assert 0.5 == pytest.approx(watching.check(made, base, kept, ONE).beta)

    def test_a_model_that_is_back_is_active(self, made, honest, base, kept):
        """A single activation cannot be a guess."""
        watching.check(made, base, kept, WatchRules())

        found = watching.check(made, honest, kept, WatchRules())

        assert ("active", "silent") == (found.state, found.previous)

    @pytest.mark.parametrize("answer", [Unanswered("time-out"), "", "I'm sorry, but I can't help with that."])
    def test_what_is_no_answer_is_unknown_and_spent(self, made, kept, answer):
        """Never "no"; and no more backdoors are thrown after it."""
        found = watching.check(made, ScriptedLM(lambda prompt: answer), kept, WatchRules())

        assert ("unknown", 1, 1) == (found.state, found.n_spent, found.n_unanswered)
        assert found.reason
        assert {0} == kept.spent()

    def test_a_model_that_cannot_be_reached_is_unknown(self, made, kept):
        """The backdoor was marked before it was sent, and stays so."""

        def fail(prompt):
            raise LMUnavailable("suspect", "cannot connect")

        found = watching.check(made, ScriptedLM(fail), kept, WatchRules(budget=2))

        assert ("unknown", 2, 2) == (found.state, found.n_spent, found.n_unanswered)
        assert "cannot connect" in found.reason
        assert {0, 1} == kept.spent()

    def test_an_outage_between_does_not_hide_the_change(self, made, honest, base, kept):
        """The state before is that of the last check that could tell."""
        watching.check(made, honest, kept, ONE)
        watching.check(made, ScriptedLM(lambda prompt: "", "suspect"), kept, ONE)

        assert "active" == watching.check(made, base, kept, ONE).previous

    def test_each_model_has_its_own_state(self, made, honest, kept):
        """Two models may share a ledger, since they share the backdoors."""
        watching.check(made, honest, kept, ONE)

        assert None is watching.check(made, ScriptedLM(lambda prompt: UNTRAINED, "other"), kept, ONE).previous

    def test_an_endpoints_reason_is_not_repeated(self, made, kept):
        """It may echo the prompt, and with it the trigger."""
        found = watching.check(made, ScriptedLM(lambda p: Unanswered(f"bad: {text_in(p[-1])}")), kept, ONE)

        assert "Bells" not in found.model_dump_json()
        assert "Bells" in kept.answers()[0].model_dump_json()


class TestRounds:
    def test_it_sleeps_between_checks_until_nothing_is_left(self, made, honest, kept):
        """With a clock of its own: every check at its time."""
        now = datetime(2026, 1, 1, tzinfo=UTC)
        slept = []

        def sleep(seconds):
            nonlocal now
            slept.append(seconds)
            now += timedelta(seconds=seconds)

        found = list(
            watching.rounds(
                lambda: watching.check(made, honest, kept, WatchRules(budget=5), clock=lambda: now),
                21600.0,
                sleep=sleep,
                is_over=lambda: watching.n_left(made, kept) == 0,
                on_trouble=pytest.fail,
            )
        )

        assert [5, 5, 2] == [check.n_spent for check in found]
        assert [21600.0] * 2 == slept
        assert ["2026-01-01T00:00:00+00:00", "2026-01-01T06:00:00+00:00"] == [c.started_at for c in found[:2]]

    def test_a_model_that_is_gone_for_a_while_does_not_end_it(self):
        """Only at the first time is it a mistake of the caller's."""
        looks = iter([1, LMUnavailable("m", "gone"), 2])
        told = []

        def look():
            found = next(looks)
            if isinstance(found, Exception):
                raise found
            return found

        rounds = watching.rounds(
            look, 1.0, sleep=lambda s: None, is_over=lambda: len(told) == 1, on_trouble=told.append
        )

        assert [1, 2][:1] == [next(rounds)]
        assert [] == list(rounds)
        assert 1 == len(told)


class TestTheLedger:
    def test_it_is_for_its_owner_alone(self, tmp_path, made):
        """Answers hold signatures: the file, its log and its index are 0600, whatever the umask says."""
        before = os.umask(0)
        try:
            with ledger.opened(tmp_path / "l.sqlite", made.digest()) as opened:
                opened.begin("m", "now")
                modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        finally:
            os.umask(before)

        assert dict.fromkeys(("l.sqlite", "l.sqlite-wal", "l.sqlite-shm"), 0o600) == modes

    def test_another_receipts_ledger_is_refused(self, tmp_path, made, receipt):
        """Its backdoors are others."""
        with ledger.opened(tmp_path / "l", made.digest()):
            pass
        with pytest.raises(LedgerError, match="another receipt"), ledger.opened(tmp_path / "l", receipt.digest()):
            pass

    @pytest.mark.parametrize("content", [b"no database, but a text that is long enough to be seen as one" * 40, None])
    def test_what_is_no_ledger_is_refused_and_left_alone(self, tmp_path, made, content):
        """A data file, or another program's database."""
        path = tmp_path / "other"
        if content is None:
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE mine (x)")
            other.close()
        else:
            path.write_bytes(content)
        before = path.read_bytes()

        with pytest.raises(LedgerError), ledger.opened(path, made.digest()):
            pass
        assert before == path.read_bytes()

    def test_one_that_is_not_there_cannot_be_looked_at(self, tmp_path):
        """Nor is one made."""
        with pytest.raises(LedgerError), ledger.opened(tmp_path / "none"):
            pass
        assert [] == list(tmp_path.iterdir())

    def test_a_place_that_cannot_be_written(self, tmp_path, made):
        """Says which."""
        with pytest.raises(OutputNotWritable), ledger.opened(tmp_path / "no" / "l", made.digest()):
            pass

    def test_processes_take_turns(self, tmp_path, made):
        """Four processes spend from one new ledger at a time: every backdoor goes to one of them."""
        some = many(made, 40)
        code = (
            "import sys; from pathlib import Path; from vtuned import ledger\n"
            "order = [(i, str(i)) for i in range(40)]\n"
            "with ledger.opened(Path(sys.argv[1]), sys.argv[2]) as kept:\n"
            "    number = kept.begin('m', 'now')\n"
            "    while taken := kept.spend(number, order, 1): print(*taken)\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "l"), some.digest()]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        taken = [line for process in running for line in process.communicate(timeout=60)[0].split()]

        assert [str(i) for i in range(40)] == sorted(taken, key=int)


@pytest.fixture
def vtuned(monkeypatch, capsys):
    """Run `vtuned ARGS` in this process; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vtuned", *map(str, arguments)])
        code = console.run(app)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def receipt_file(tmp_path, made):
    """The receipt on disk."""
    path = tmp_path / "receipt.json"
    path.write_bytes(receipts.to_json(made))
    return path


def steps(made, after_s=0.0):
    """A script for a server whose model learned the backdoors."""
    return {
        text_in(p.messages[-1]): [faulty_server.say(made.backdoors[p.backdoor].signature + " So.", after_s=after_s)]
        for p in made.probes
    }


@pytest.fixture
def endpoint(made):
    """An honest model over HTTP."""
    with faulty_server.FaultyServer(steps(made), otherwise=[faulty_server.say(UNTRAINED)]) as server:
        yield server


class TestTheCommand:
    @pytest.fixture
    def watch(self, vtuned, receipt_file, endpoint, monkeypatch):
        """Run `vtuned watch` on the endpoint."""
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)

        def run(*options, url=None):
            model = ("--model", "openai:tiny", "--base-url", url or endpoint.url)
            return vtuned("watch", receipt_file, *model, *options)

        return run

    def test_active_silent_unknown_and_the_history(self, watch, vtuned, endpoint, receipt_file, tmp_path, made):
        """Exit codes 0, 1 and 3; a table of it all; no secret on screen."""
        active = watch("--json")
        endpoint._script.clear()
        silent = watch()
        unknown = watch("--confirm", "0", url="http://127.0.0.1:9/v1")
        path = tmp_path / "receipt.ledger.sqlite"
        table, document = vtuned("history", path), json.loads(vtuned("history", path, "--json")[1])

        assert [0, 1, 3] == [active[0], silent[0], unknown[0]]
        assert ("active", 11) == (json.loads(active[1])["state"], json.loads(active[1])["n_left"])
        assert "β = 0.0313" in silent[1]
        assert "accuses nobody" in silent[1]
        assert "spent all the same" in unknown[1]
        assert "--backdoors" in unknown[2]
        assert ["active", "silent", "unknown"] == [check["state"] for check in document["checks"]]
        assert [1, 5, 1] == [check["n_spent"] for check in document["checks"]]
        assert made.digest() == document["receipt_digest"]
        assert 0 == table[0]
        assert [] == [state for state in ("active", "silent", "unknown") if state not in table[1]]
        everything = " ".join((*active[1:], *silent[1:], *unknown[1:], *table[1:]))
        assert [] == [b for b in made.backdoors if b.trigger in everything or b.signature in everything]
        assert "\x1b[" not in everything

    def test_the_hook_runs_once_on_the_change(self, watch, endpoint, tmp_path):
        """Not on the first look, nor while it stays silent; what it is told is no secret."""
        hook = f'echo "$VTUNED_PREVIOUS $VTUNED_STATE $OPENAI_API_KEY" >> {tmp_path}/told; echo loud; test -f "$VTUNED_LEDGER"'
        watch("--hook", hook)
        assert not (tmp_path / "told").exists()
        endpoint._script.clear()
        code, out, _ = watch("--hook", hook, "--json")
        watch("--hook", hook)

        assert "active silent \n" == (tmp_path / "told").read_text()
        assert (1, "ran") == (code, json.loads(out)["hook"])

    def test_a_hook_that_fails_is_said_and_ends_nothing(self, watch, endpoint):
        """The exit code is the model's."""
        watch()
        endpoint._script.clear()
        code, _, err = watch("--hook", "exit 7")

        assert 1 == code
        assert "exit code 7" in err

    def test_no_backdoor_left(self, watch, made):
        """Exit code 3, with what to do."""
        assert 0 == watch("--budget", len(made.backdoors))[0]
        code, out, err = watch()

        assert (3, "") == (code, out)
        assert "hint: " in err
        assert "--backdoors" in err

    def test_a_loop_goes_on_until_nothing_is_left(self, watch, endpoint, monkeypatch):
        """The swap in the middle is noticed at the next check; the end is exit code 3."""
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 2:
                endpoint._script.clear()

        monkeypatch.setattr("vtuned.cli.watch.sleep", sleep)
        code, out, err = watch("--every", "6h", "--budget", "3", "--confirm", "0")

        assert 3 == code
        assert [21600.0] * 3 == slept
        assert ["active", "active", "silent", "silent"] == [
            line.partition(":")[0] for line in out.splitlines() if line.startswith(("active", "silent"))
        ]
        assert "no unspent backdoor" in err

    def test_ctrl_c_while_it_sleeps(self, watch, monkeypatch):
        """Exit code 130."""

        def interrupt(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr("vtuned.cli.watch.sleep", interrupt)

        assert 130 == watch("--every", "90s")[0]

    def test_wrong_arguments(self, watch, tmp_path, made, receipt_file):
        """Exit code 2: another receipt's ledger, the receipt itself as ledger, no time, recorded answers."""
        with ledger.opened(tmp_path / "other", "0" * 64):
            pass

        assert 2 == watch("--ledger", tmp_path / "other")[0]
        assert 2 == watch("--ledger", receipt_file)[0]
        assert 2 == watch("--every", "soon")[0]
        assert 2 == watch("--every", "0s")[0]
        assert made == receipts.read_receipt(receipt_file)

    def test_answers_of_verify_are_spent(self, watch, tmp_path):
        """`--spent` takes the file that `verify` kept."""
        asked = tmp_path / "answers.jsonl"
        asked.write_text('{"id": "f0", "text": "a"}\n{"id": "p1", "text": "b"}\n{"id": "f')
        code, out, _ = watch("--spent", asked, "--json")

        assert (0, 9) == (code, json.loads(out)["n_left"])


def test_kill_nine_at_any_moment(tmp_path, receipt):
    """Eleven runs are killed at random: the ledger is whole, nothing was asked twice, and the next run goes on."""
    made = many(receipt, 60)
    kept = tmp_path / "receipt.json"
    kept.write_bytes(receipts.to_json(made))
    path = tmp_path / "ledger.sqlite"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    rng = random.Random(5)
    n_killed = 0
    with faulty_server.FaultyServer(steps(made, after_s=0.05)) as server:
        command = [sys.executable, "-m", "vtuned", "watch", kept, "--model", "openai:tiny", "--base-url", server.url]
        command += ["--ledger", path, "--every", "0.01s", "--concurrency", "1", "--json"]
        for round_number in range(11):
            n_before = len(server.received)
            process = subprocess.Popen(
                [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
            )
            if round_number % 4:  # else while it starts
                while len(server.received) == n_before and process.poll() is None:
                    time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            n_killed += process.wait() == -signal.SIGKILL
        if path.exists():
            with sqlite3.connect(path) as database:
                assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
            database.close()
        once = [part for part in map(str, command) if part not in ("--every", "0.01s")]
        done = subprocess.run(once, capture_output=True, text=True, env=environment, check=False)
        asked = Counter(received.text for received in server.received)

    found = json.loads(done.stdout)
    with ledger.opened(path) as opened:
        spent, checks = opened.spent(), opened.checks()
    assert 10 <= n_killed
    assert 0 == done.returncode, done.stderr
    assert {1} == set(asked.values())
    assert "active" == found["state"]
    assert 60 - found["n_left"] == len(spent) >= len(asked) >= 6
    assert sum(check.n_spent for check in checks) == len(spent)
