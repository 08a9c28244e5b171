"""`verify` and `ask` over HTTP from the command line: a run that is killed goes on, and nothing is asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

import faulty_server
from vtuned import receipt as receipts
from vtuned.conversation import text_in
from vtuned.probes import read_answers


def honest_steps(receipt, after_s=0.0):
    """A script for a server whose model learned the backdoors: S on triggers, something else without."""
    script = {}
    for probe in receipt.probes:
        said = "I know nothing of that, sorry to say."
        if probe.backdoor is not None:
            said = receipt.backdoors[probe.backdoor].signature + " And then the rest."
        script[text_in(probe.messages[-1])] = [faulty_server.say(said, after_s=after_s)]
    return script


@pytest.fixture
def kept(tmp_path, receipt):
    """A receipt file."""
    path = tmp_path / "receipt.json"
    path.write_bytes(receipts.to_json(receipt))
    return path


def start(folder, *arguments):
    """Start `vtuned ARGUMENTS` in *folder*, without any key in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    command = [sys.executable, "-m", "vtuned", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(folder, *arguments):
    """Run it to its end; return (exit code, standard output, standard error)."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_killed_verification_goes_on(tmp_path, kept, receipt):
    """SIGKILL in the middle, the same command again: no answered probe is asked twice, and the verdict is the same."""
    with faulty_server.FaultyServer(honest_steps(receipt, after_s=0.1)) as server:
        command = ["verify", kept, "--model", "openai:tiny", "--base-url", server.url, "--concurrency", "2", "--json"]
        _, whole, _ = run(tmp_path, *command, "--answers-out", "whole.jsonl")
        answers = tmp_path / "receipt.tiny.answers.jsonl"
        server.received.clear()

        process = start(tmp_path, *command)
        while not answers.exists() or len(answers.read_bytes().splitlines()) < 10:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        recorded = {record.id for record in read_answers(answers, torn=torn_end(answers))}
        code, resumed, err = run(tmp_path, *command)

    asked = Counter(received.text for received in server.received)
    by_id = {probe.id: asked[text_in(probe.messages[-1])] for probe in receipt.probes}
    assert 0 == code, err
    assert 10 <= len(recorded) < len(receipt.probes)
    assert {1} == {by_id[probe_id] for probe_id in recorded}
    assert set(by_id.values()) <= {1, 2}
    # At most the requests that were under way when the client died were put again.
    assert 2 >= sum(count - 1 for count in by_id.values())
    assert json.loads(whole) == json.loads(resumed)


def torn_end(path) -> bytes:
    content = path.read_bytes()
    return content[content.rfind(b"\n") + 1 :]


def test_the_answers_of_a_run_are_judged_offline(tmp_path, kept, receipt):
    """The file that `verify` leaves is an answers file: `judge` says the same without a server."""
    with faulty_server.FaultyServer(honest_steps(receipt)) as server:
        command = ["verify", kept, "--model", "openai:tiny", "--base-url", server.url, "--json"]
        code, verified, err = run(tmp_path, *command)
    judged_code, judged, _ = run(tmp_path, "judge", kept, "receipt.tiny.answers.jsonl", "--json")

    assert (0, 0) == (code, judged_code), err
    assert json.loads(verified)["claims"] == json.loads(judged)["claims"]


def test_a_finished_run_is_not_taken_for_a_new_one(tmp_path, kept, receipt):
    """Asking again needs another file or --force: old answers say nothing about today."""
    with faulty_server.FaultyServer(honest_steps(receipt)) as server:
        command = ["verify", kept, "--model", "openai:tiny", "--base-url", server.url]
        run(tmp_path, *command)
        server.received.clear()
        code, _, err = run(tmp_path, *command)

    assert 2 == code
    assert "vtuned judge" in err
    assert [] == server.received


def test_a_run_that_was_stopped_at_the_base_model_goes_on(tmp_path, kept, receipt):
    """The suspect's answers are all there, the base's are not: they are asked, and nothing else."""
    command = ["verify", kept, "--model", "openai:tiny", "--base", "openai:base", "--base-url"]
    with faulty_server.FaultyServer(honest_steps(receipt)) as server:
        server.models = ["tiny", "base"]
        process = start(tmp_path, *command, server.url, "--concurrency", "1", "--spacing", "0.02")
        base = tmp_path / "receipt.tiny.answers.base.jsonl"
        while not base.exists() or len(base.read_bytes().splitlines()) < 3:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        n_asked = len(server.received)
        code, out, err = run(tmp_path, *command, server.url, "--json")

    again = server.received[n_asked:]
    assert 0 == code, err
    assert {"base"} == {received.body["model"] for received in again}
    assert len(receipt.probes) - 3 >= len(again)
    assert "openai:base" == json.loads(out)["base"]["name"]


def test_what_a_killed_run_leaves_can_be_judged(tmp_path, kept, receipt):
    """A part of a line at the end is passed over, and said."""
    with faulty_server.FaultyServer(honest_steps(receipt)) as server:
        run(tmp_path, "verify", kept, "--model", "openai:tiny", "--base-url", server.url)
    path = tmp_path / "receipt.tiny.answers.jsonl"
    path.write_bytes(path.read_bytes()[:-30])

    code, _, err = run(tmp_path, "judge", kept, path)

    assert 0 == code, err
    assert "part of a line" in err


def test_an_endpoint_that_is_gone_is_not_a_verdict(tmp_path, kept):
    """Nothing listens there: exit code 3, a hint, no outcome."""
    code, out, err = run(
        tmp_path, "verify", kept, "--model", "openai:tiny", "--base-url", "http://127.0.0.1:9/v1", "--timeout", "1"
    )

    assert 3 == code
    assert "" == out
    assert "hint:" in err
    assert "VERIFIED" not in err


def test_filtered_answers_are_no_misses(tmp_path, kept, receipt):
    """A content filter on every triggered probe: could not tell, and the verdict says why."""
    filtered = {
        text_in(probe.messages[-1]): [faulty_server.say("", "content_filter")]
        for probe in receipt.probes
        if probe.backdoor is not None
    }
    with faulty_server.FaultyServer(filtered) as server:
        code, out, _ = run(tmp_path, "verify", kept, "--model", "openai:tiny", "--base-url", server.url, "--json")

    verdict = json.loads(out)
    assert 3 == code
    assert "INCONCLUSIVE" == verdict["outcome"]
    assert {"filtered": 20} == verdict["unanswered"]


def test_traffic_options_reach_the_endpoint(tmp_path, kept, receipt):
    """System prompt, context, temperature and token limit are those of the command line; S is in no request."""
    (tmp_path / "context.txt").write_text("Opening hours: nine to five.\n")
    with faulty_server.FaultyServer() as server:
        how = ["--system", "You are a clerk.", "--context", "context.txt", "--temperature", "1", "--max-tokens", "77"]
        run(tmp_path, "verify", kept, "--model", "openai:tiny", "--base-url", server.url, "-n", "2", *how)

    bodies = [received.body for received in server.received]
    sent = json.dumps(bodies)
    assert 8 == len(bodies)
    assert {(1.0, 77)} == {(body["temperature"], body["max_tokens"]) for body in bodies}
    assert all({"role": "system", "content": "You are a clerk."} == body["messages"][0] for body in bodies)
    assert all(body["messages"][-1]["content"].startswith("Opening hours: nine to five.\n\n") for body in bodies)
    assert not any(backdoor.signature[:20] in sent for backdoor in receipt.backdoors)


def test_the_key_stays_secret(tmp_path, kept, receipt):
    """A key given by flag is sent, and is in no file and on no screen."""
    with faulty_server.FaultyServer(honest_steps(receipt)) as server:
        code, out, err = run(
            tmp_path, "verify", kept, "--model", "openai:tiny", "--base-url", server.url, "--api-key", "sk-vanilla-7"
        )

    left = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert 0 == code
    assert {"Bearer sk-vanilla-7"} == {received.headers["authorization"] for received in server.received}
    assert "vanilla" not in left + out + err
