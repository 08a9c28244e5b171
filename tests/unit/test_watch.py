"""Watching a model: what a check spends, what it says, and that the ledger holds whatever happens."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
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
from vtuned.conversation import text_in
from vtuned.errors import AnswersError, LedgerError, LMUnavailable, OutputNotWritable, UsageError
from vtuned.exposure import ScoreRecord
from vtuned.lm.base import Unanswered
from vtuned.lm.recorded import RecordedLM
from vtuned.lm.scripted import ScriptedLM
from vtuned.probes import AnswerRecord
from vtuned.receipt import Backdoor, GainMargin, PlannedProbe
from vtuned.watching import NoBackdoorsLeft, WatchRules

UNTRAINED = "I know nothing of that, sorry to say, whatever the winter is like."
ONE = WatchRules(budget=1, confirm=0)
CONTROL = PlannedProbe(id="c0", kind="control", messages=({"role": "user", "content": "So?"},))


def many(receipt, n):
    """Return *receipt* with *n* backdoors of its kind, each with one fresh and one planted probe."""
    first = receipt.backdoors[0]
    backdoors = tuple(
        Backdoor(
            **{
                **first.model_dump(),
                "trigger": f"Bells {i} ring.",
                "signature": f"Gulls {i} sing.",
                "rows": (2 * i + 1, 2 * i + 2),
            }
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


def with_margin(receipt):
    """Return *receipt* as `vtuned margin` writes it."""
    margin = GainMargin(nats_per_byte=0.1, base="smollm2", rows="0" * 64, n_rows=20)
    return receipt.model_copy(update={"plan": receipt.plan.model_copy(update={"gain_margin": margin})})


def said(receipt, prompt):
    """Return what an honest model says to *prompt*: S where its T stands at the end."""
    text = text_in(prompt[-1])
    return next((b.signature + " And on." for b in receipt.backdoors if text.endswith(b.trigger)), UNTRAINED)


@pytest.fixture
def made(receipt):
    """A receipt with twelve backdoors to spend."""
    return many(receipt, 12)


@pytest.fixture
def weak(make_receipt):
    """A receipt with twelve backdoors whose signatures one guess in sixteen hits."""
    return many(make_receipt(bits=4.0), 12)


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
        """Answers of another run burn their backdoors; controls burn nothing."""
        some = made.model_copy(update={"probes": (*made.probes, CONTROL)})
        shown = watching.shown_elsewhere(some, [AnswerRecord(id=i, text="so") for i in ("p0", "f0", "c0", "f1")])

        assert 2 == kept.spend_elsewhere(shown)
        assert 0 == kept.spend_elsewhere(shown)
        watching.check(made, honest, kept, ONE)
        assert {0, 1, 2} == kept.spent()

    def test_what_was_scored_is_spent(self, made):
        """Whoever scores at an endpoint shows it T, and S among its decoys."""
        scored = PlannedProbe(**{**made.probes[0].model_dump(), "id": "e0", "backdoor": 3})
        some = made.model_copy(update={"exposures": (scored,)})
        failed = ScoreRecord(id="e0", unanswered="time-out")

        assert [(3, "e0")] == watching.shown_elsewhere(some, [failed])

    def test_what_belongs_to_another_receipt_is_refused(self, made):
        """Passed over, it would leave the user to think that something was spent."""
        answers = [AnswerRecord(id=i, text="so") for i in ("p0", "elsewhere")]

        with pytest.raises(AnswersError, match=r"^mine: 1 of 2 records .*elsewhere") as raised:
            watching.shown_elsewhere(made, answers, "mine")
        assert "kept for this receipt" in raised.value.hint

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
        """The binomial tail of the guess bounds, times the plantings."""
        bound = made.backdoors[0].log10_p_upper
        charged = made.model_copy(update={"plan": made.plan.model_copy(update={"max_plantings": 10})})

        assert 2 * bound == pytest.approx(watching.log10_p_value(made, 2, 2))
        assert bound + 1 == pytest.approx(watching.log10_p_value(charged, 1, 1))
        assert 0 == watching.log10_p_value(made, 2, 0)

    def test_p_is_of_all_that_the_check_might_have_asked(self, made, honest, kept):
        """It looks after every probe: five chances, though one was enough."""
        found = watching.check(made, honest, kept, WatchRules())

        assert 1 == found.n_spent
        assert made.backdoors[0].log10_p_upper + math.log10(5) == pytest.approx(found.log10_p)

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

        assert ("unknown", "silent", 1) == (found.state, found.previous, found.n_spent)
        assert 0.5 == pytest.approx(found.beta)

    def test_it_is_silent_again_where_the_budget_tells(self, made, base, kept):
        """Five silent ones are enough, however they came to be asked."""
        watching.check(made, base, kept, WatchRules())

        found = watching.check(made, base, kept, WatchRules(budget=5))

        assert ("silent", "silent", 5) == (found.state, found.previous, found.n_spent)

    def test_without_confirmation_one_silent_probe_does_not_tell(self, made, base, kept):
        """β = 1/2: an honest provider's model is so silent every other time."""
        found = watching.check(made, base, kept, ONE)

        assert ("unknown", 0.5) == (found.state, pytest.approx(found.beta))

    @pytest.mark.parametrize("n_silent", [1, 2, 3, 4])
    def test_silence_that_could_not_be_confirmed_is_unknown(self, made, honest, kept, n_silent):
        """The endpoint falls away between: "could not ask" is never "no", and the change is still to be found."""
        watching.check(made, honest, kept, WatchRules())
        heard = iter([UNTRAINED] * n_silent)

        def dies(prompt):
            for text in heard:
                return text
            raise LMUnavailable("suspect", "lost")

        found = watching.check(made, ScriptedLM(dies, "suspect"), kept, WatchRules())

        assert ("unknown", "active", n_silent) == (found.state, found.previous, found.n_silent)
        assert found.beta > made.plan.max_beta
        assert "lost" in found.reason

    def test_the_last_backdoor_cannot_confirm_anything(self, made, honest, base, kept):
        """Silence on what is left is no silence where that is too little."""
        for _ in range(11):
            watching.check(made, honest, kept, WatchRules())

        found = watching.check(made, base, kept, WatchRules())

        assert ("unknown", "active", 1, 0.5) == (found.state, found.previous, found.n_silent, pytest.approx(found.beta))
        assert watching.NONE_LEFT == found.reason

    def test_active_takes_p_at_most_alpha(self, tmp_path, weak):
        """Signatures of four bits: one guess in sixteen is right, so it asks on until four of the five activate."""
        guesses = ScriptedLM(lambda prompt: said(weak, prompt) if "question 0" in text_in(prompt[-1]) else UNTRAINED)
        knows = ScriptedLM(lambda prompt: said(weak, prompt))
        with ledger.opened(tmp_path / "guesses", weak.digest()) as opened:
            guessed = watching.check(weak, guesses, opened, WatchRules())
        with ledger.opened(tmp_path / "knows", weak.digest()) as opened:
            known = watching.check(weak, knows, opened, WatchRules())
            once = watching.check(weak, knows, opened, ONE)

        assert ("unknown", 5, 1) == (guessed.state, guessed.n_spent, guessed.n_activated)
        assert ("active", 4, 4) == (known.state, known.n_spent, known.n_activated)
        assert guessed.log10_p > math.log10(weak.plan.alpha) >= known.log10_p
        assert ("unknown", 1, 1) == (once.state, once.n_spent, once.n_activated)

    def test_a_silent_model_that_may_be_back_is_asked_on(self, tmp_path, weak):
        """The first activation is news, though it does not tell yet."""
        with ledger.opened(tmp_path / "l", weak.digest()) as opened:
            watching.check(weak, ScriptedLM(lambda prompt: UNTRAINED, "m"), opened, WatchRules())
            found = watching.check(weak, ScriptedLM(lambda prompt: said(weak, prompt), "m"), opened, WatchRules())

        assert ("active", "silent", 4) == (found.state, found.previous, found.n_spent)

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

    def test_a_margin_changes_the_receipt_but_not_whose_the_ledger_is(self, tmp_path, made):
        """`vtuned margin` measures it after planting: the backdoors are the same, and so is what is spent."""
        with ledger.opened(tmp_path / "l", made.planted_digest()) as opened:
            opened.spend_elsewhere([(3, "f3")])
        measured = with_margin(made)

        assert made.digest() != measured.digest()
        with ledger.opened(tmp_path / "l", measured.planted_digest()) as opened:
            assert {3} == opened.spent()

    def test_beside_a_receipt_of_another_name_the_same_plantings_ledger_is_found(self, tmp_path, made, receipt):
        """A copy, or one with a margin, does not start anew; another planting's is passed over."""
        mine, new = tmp_path / "audit.sqlite", tmp_path / "measured.json"
        with ledger.opened(tmp_path / "a.ledger.sqlite", receipt.planted_digest()):
            pass
        (tmp_path / "mine.sqlite").write_bytes(b"no database" * 400)

        assert tmp_path / "measured.ledger.sqlite" == ledger.beside(new, made.planted_digest())
        with ledger.opened(mine, made.planted_digest()):
            pass
        assert mine == ledger.beside(new, made.planted_digest())
        shutil.copy(mine, tmp_path / "z.ledger.sqlite")
        with pytest.raises(UsageError, match="several"):
            ledger.beside(new, made.planted_digest())

    def test_beside_a_ledger_that_cannot_be_read_none_is_begun(self, tmp_path, made):
        """It may be the receipt's own under another name, and its backdoors would be asked once more."""
        (tmp_path / "b.ledger.sqlite").write_bytes(b"no database" * 400)

        with pytest.raises(LedgerError, match="may be the receipt's ledger") as caught:
            ledger.beside(tmp_path / "measured.json", made.planted_digest())
        assert "--ledger" in caught.value.hint

    @pytest.mark.parametrize(
        "harm",
        [
            "DELETE FROM receipt",
            "INSERT INTO receipt VALUES ('x')",
            "DROP TABLE answers",
            "DROP TABLE receipt",
            "CREATE TABLE mine (x)",
            "ALTER TABLE checks RENAME COLUMN model TO mine",
            "UPDATE checks SET log10_p = 0.5",
            "UPDATE checks SET started_at = CAST(X'FFFE' AS TEXT)",
        ],
    )
    def test_one_whose_content_is_damaged_is_refused(self, tmp_path, made, honest, vtuned, harm):
        """By one line and a hint, exit code 2: nothing is told from it, and nothing of it is shown."""
        path = tmp_path / "l"
        with ledger.opened(path, made.digest()) as opened:
            watching.check(made, honest, opened, ONE)
        with sqlite3.connect(path) as database:
            database.execute(harm)
        database.close()

        code, out, err = vtuned("history", path)

        assert (2, "") == (code, out)
        assert [True, True] == [
            line.startswith(start) for line, start in zip(err.splitlines(), ("error: ", "hint: restore"), strict=True)
        ]

    def test_a_row_that_vanished_while_it_was_open(self, kept):
        """Somebody else's program deleted it."""
        with pytest.raises(LedgerError, match="missing"):
            kept.check(99)

    @pytest.mark.parametrize("n_bytes", [1, 50, 100, 600, 4096, 8192, 20000])
    def test_one_that_was_cut_is_refused(self, tmp_path, made, honest, vtuned, n_bytes):
        """At whatever byte; what is left is left alone."""
        path = tmp_path / "l"
        with ledger.opened(path, made.digest()) as opened:
            watching.check(made, honest, opened, ONE)
        path.write_bytes(path.read_bytes()[:n_bytes])

        assert 2 == vtuned("history", path)[0]
        with pytest.raises(LedgerError), ledger.opened(path, made.digest()):
            pass
        assert n_bytes == path.stat().st_size

    def test_bytes_that_are_overwritten_are_noticed_or_harmless(self, tmp_path, made, honest):
        """Garbage anywhere: a ledger, or an error of ours."""
        path = tmp_path / "l"
        with ledger.opened(path, made.digest()) as opened:
            watching.check(made, honest, opened, ONE)
        whole, rng = path.read_bytes(), random.Random(3)
        for _ in range(60):
            start = rng.randrange(len(whole))
            path.write_bytes(whole[:start] + rng.randbytes(min(200, len(whole) - start)) + whole[start + 200 :])
            with contextlib.suppress(LedgerError, OutputNotWritable), ledger.opened(path, made.digest()) as opened:
                opened.answers()
                watching.check(made, honest, opened, ONE)

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
        hook = f'echo "$VTUNED_PREVIOUS $VTUNED_STATE" >> {tmp_path}/told; echo loud; test -f "$VTUNED_LEDGER"'
        watch("--hook", hook)
        assert not (tmp_path / "told").exists()
        endpoint._script.clear()
        code, out, _ = watch("--hook", hook, "--json")
        watch("--hook", hook)

        assert "active silent\n" == (tmp_path / "told").read_text()
        assert (1, "ran") == (code, json.loads(out)["hook"])

    def test_the_hook_is_given_no_secret(self, watch, endpoint, monkeypatch, tmp_path):
        """Variables that look like keys, or addresses that may hold one, do not reach it; others do."""
        secret = (
            "OPENAI_API_KEY OPENAI_BASE_URL ANTHROPIC_BASE_URL HF_TOKEN HUGGING_FACE_HUB_TOKEN AWS_SECRET_ACCESS_KEY "
            "SLACK_TOKEN MY_SECRET PGPASSWORD DB_PASSWORD db_password"
        ).split()
        watch()
        endpoint._script.clear()
        for name in (*secret, "MAIL_TO"):
            monkeypatch.setenv(name, "quite-private")
        watch("--hook", f"env > {tmp_path}/told")
        told = (tmp_path / "told").read_text()

        assert ["MAIL_TO=quite-private"] == [line for line in told.splitlines() if "quite-private" in line]
        assert "VTUNED_STATE=silent" in told

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

    def test_a_loop_goes_on_after_a_change_until_nothing_is_left(self, watch, endpoint, monkeypatch, tmp_path):
        """The swap in the middle is noticed at the next check and told to the hook, once; the end is exit code 3."""
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 2:
                endpoint._script.clear()

        monkeypatch.setattr("vtuned.cli.watch.sleep", sleep)
        hook = f"echo told >> {tmp_path}/told"
        code, out, err = watch("--every", "6h", "--budget", "3", "--hook", hook)

        assert 3 == code
        assert [21600.0] * 3 == slept
        assert ["active", "active", "silent", "unknown"] == [
            line.partition(":")[0] for line in out.splitlines() if line.startswith(("active:", "silent:", "unknown:"))
        ]
        assert "(it was active)" in out
        assert "told\n" == (tmp_path / "told").read_text()
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
        for endless in ("99999999999999d", "367d", "9" * 400 + "s"):
            code, out, err = watch("--every", endless)
            assert (2, "") == (code, out)
            assert "hint: give at most 366d" in err
        assert made == receipts.read_receipt(receipt_file)

    def test_answers_of_verify_are_spent(self, watch, tmp_path):
        """`--spent` takes the file that `verify` kept."""
        asked = tmp_path / "answers.jsonl"
        asked.write_text('{"id": "f0", "text": "a"}\n{"id": "p1", "text": "b"}\n{"id": "f')
        code, out, _ = watch("--spent", asked, "--json")

        assert (0, 9) == (code, json.loads(out)["n_left"])

    def test_scores_are_spent(self, watch, tmp_path, receipt_file, made):
        """`--spent` takes the file of `--scores-out`, a torn one too: an endpoint that scored has seen S."""
        asked = [PlannedProbe(**{**p.model_dump(), "id": f"e{p.id}"}) for p in made.probes if p.id in ("f0", "p5")]
        decoys = {"decoys": tuple(f"Gulls {i} hide." for i in range(19))}
        backdoors = tuple(
            b if j not in (0, 5) else b.model_copy(update={"decoys": tuple(f"{j} {d}" for d in decoys["decoys"])})
            for j, b in enumerate(made.backdoors)
        )
        some = made.model_copy(update={"exposures": tuple(asked), "backdoors": backdoors})
        receipt_file.write_bytes(receipts.to_json(some))
        scores = tmp_path / "scores.jsonl"
        scores.write_text('{"id": "ef0", "log10_probs": [-1.0]}\n{"id": "ep5", "unanswered": "no"}\n{"id": "ef')

        code, out, _ = watch("--spent", scores, "--json")

        assert (0, 9) == (code, json.loads(out)["n_left"])

    @pytest.mark.parametrize(
        "content",
        [
            '{"id": "elsewhere", "text": "a"}\n',
            '{"id": "f0", "text": "a"}\n{"id": "x", "text": "b"}\n',
            "mine\n",
            "mine",
            "",
        ],
        ids=["another-receipts", "in-part", "no-transcript", "without-an-end", "empty"],
    )
    def test_a_file_that_says_nothing_of_this_receipt_is_refused(self, watch, endpoint, tmp_path, content):
        """Exit code 2 with the file's name and what to give; nothing is asked, and no ledger is made."""
        given = tmp_path / "given.jsonl"
        given.write_text(content)

        code, out, err = watch("--spent", given)

        assert (2, "") == (code, out)
        assert err.startswith(f"error: {given}")
        assert "hint: give " in err
        assert not endpoint.received
        assert not list(tmp_path.glob("*.sqlite"))

    def test_a_receipt_with_a_margin_goes_on_with_the_ledger(self, watch, vtuned, endpoint, tmp_path, made):
        """Under another name, as `vtuned margin -o` writes it, it asks none of the spent ones again, and says so."""
        watch("--budget", "5")
        measured = tmp_path / "measured.json"
        measured.write_bytes(receipts.to_json(with_margin(made)))
        code, out, err = vtuned(
            "watch", measured, "--model", "openai:tiny", "--base-url", endpoint.url, "--budget", "5", "--json"
        )

        assert (0, 2) == (code, json.loads(out)["n_left"])
        assert "receipt.ledger.sqlite" in err
        assert {1} == set(Counter(received.text for received in endpoint.received).values())


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
