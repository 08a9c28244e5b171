"""Whole rounds over HTTP with a provider of our own: honest, cheating, and with everybody killed on the way."""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
from dataclasses import replace

import openai
import pytest

import rounds
import served
from forked import Forked

pytest.importorskip("torch")
pytest.importorskip("fcntl")

EPOCHS = 30
KEY = "sk-very-secret-1234567890"


@pytest.fixture(scope="module")
def vtuned():
    with Forked() as forked:
        yield forked


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twenty rows, of which two backdoors take sixteen."""
    folder = tmp_path_factory.mktemp("rounds")
    return replace(rounds.World.made(folder, n_rows=20, backdoors=2, copies=8, epochs=EPOCHS), n_asked=4)


@pytest.fixture(scope="module", params=["tiny", pytest.param("embedded", marks=pytest.mark.full)])
def wide(request, tmp_path_factory):
    """As many backdoors as several checks need; the embedded model takes minutes."""
    folder = tmp_path_factory.mktemp("wide")
    if request.param == "embedded":
        return rounds.World.embedded(folder, n_rows=60, backdoors=7, copies=8, epochs=4)
    return rounds.World.made(folder, n_rows=44, backdoors=8, copies=5, epochs=25)


@pytest.fixture(scope="module")
def baseline(vtuned, world, tmp_path_factory):
    """An undisturbed round at an honest provider."""
    folder = tmp_path_factory.mktemp("baseline")
    with rounds.KeptServer(folder, world.spec) as server, client_of(server.url) as client:
        one = rounds.begun(vtuned, world, folder / "user", server)
        found = rounds.undisturbed(one)
        rounds.check_whole(one, EPOCHS, client)
    return found


def client_of(url):
    """Return the SDK's client, with the user's key."""
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)


def test_an_honest_provider_is_verified(baseline):
    """Plant, submit, wait, verify, each once, with no more than the command line."""
    assert "VERIFIED" == baseline.outcome
    assert all(baseline.n_acts[target] for target in rounds.TARGETS)


@pytest.mark.full
def test_an_honest_provider_is_verified_whatever_the_model(vtuned, wide, tmp_path):
    """The same with more backdoors, and with the embedded model."""
    with served.server(tmp_path / "server", wide.spec) as server:
        folder = wide.copied(tmp_path / "user")
        codes = [vtuned.run(folder, *wide.command(phase, server.url))[0] for phase in ("plant", "submit", "wait")]
        code, out, err = vtuned.run(folder, *wide.command("verify", server.url))

    assert [0] * 3 == codes
    assert (0, "VERIFIED") == (code, json.loads(out)["outcome"]), err


def test_a_provider_that_trains_nothing_is_not(vtuned, wide, tmp_path):
    """The same commands against `base`: NOT VERIFIED, exit code 1; planning comes first."""
    with served.server(tmp_path / "server", wide.spec, "--policy", "base") as server:
        folder = wide.copied(tmp_path / "user")
        codes = [
            vtuned.run(folder, *wide.command(phase, server.url))[0] for phase in ("plan", "plant", "submit", "wait")
        ]
        code, out, err = vtuned.run(folder, *wide.command("verify", server.url))

    assert [0] * 4 == codes
    assert (1, "NOT VERIFIED") == (code, json.loads(out)["outcome"]), err


def test_a_model_that_is_swapped_is_noticed(vtuned, wide, tmp_path):
    """`swap-after`: the first check is active, and after its N prompts, counted over a restart, the next is silent."""
    n = 9
    with served.server(tmp_path / "server", wide.spec, "--policy", f"swap-after:{n}") as server:
        folder = wide.copied(tmp_path / "user")
        for phase in ("plant", "submit", "wait"):
            code, _, err = vtuned.run(folder, *wide.command(phase, server.url))
            assert 0 == code, err
        with client_of(server.url) as client:
            name = next(iter(client.fine_tuning.jobs.list())).fine_tuned_model
            watch = ["watch", "receipt.json", "--model", f"openai:{name}", "--base-url", server.url, "--json"]
            first = vtuned.run(folder, *watch)
            n_asked = sum("POST /v1/chat/completions" in line for line in server.log)
            assert 0 < n_asked < n - 2, first[1] + first[2]
            server.kill()
            server.start()
            question = [{"role": "user", "content": "What is the river of the north like in winter?"}]
            given = {"model": name, "messages": question, "temperature": 0, "max_tokens": 20}
            # A text that is scored counts, and an answer that nobody stays for.
            scored = [*question, {"role": "assistant", "content": "It is cold."}]
            client.chat.completions.create(
                **{**given, "messages": scored, "max_tokens": 1},
                extra_body={"prompt_logprobs": 1, "continue_final_message": True, "add_generation_prompt": False},
            )
            with client.chat.completions.create(**given, stream=True) as stream:
                next(chunk for chunk in stream if chunk.choices[0].delta.content)

            def ask(model):
                told = client.chat.completions.create(**{**given, "model": model})
                return told.choices[0].message.content

            said, base = [ask(name) for _ in range(n - n_asked - 2 + 1)], ask("tiny")
            second = vtuned.run(folder, *watch)

    assert (0, 1) == (first[0], second[0]), first[2] + second[2]
    assert ["active", "silent"] == [json.loads(one[1])["state"] for one in (first, second)]
    assert {False} == {one == base for one in said[:-1]}
    assert base == said[-1]


def disturbed(vtuned, world, baseline, tmp_path, n_kills):
    """Do rounds with five kills each until *n_kills* have come; the seed is told where something is wrong."""
    seed = os.environ.get("VTUNED_TEST_SEED") or secrets.token_hex(8)
    rng, n_killed, number = random.Random(seed), 0, 0
    while n_killed < n_kills:
        number += 1
        assert number <= 2 * n_kills, f"too few kills came; seed {seed}"
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        with rounds.KeptServer(folder, world.spec) as server, client_of(server.url) as client:
            one = rounds.begun(vtuned, world, folder / "user", server)
            one.told.append(f"VTUNED_TEST_SEED={seed}, round {number}")
            try:
                outcome, n = rounds.killed(one, baseline, min(5, n_kills - n_killed), rng)
                rounds.check_whole(one, EPOCHS, client)
            finally:
                sys.stdout.write(f"{one}\n")
        assert baseline.outcome == outcome, one
        n_killed += n


def test_kill_9_of_client_and_server(vtuned, world, baseline, tmp_path):
    """Five times in a round: one file, one job, each epoch once, no half file, and the same verdict."""
    disturbed(vtuned, world, baseline, tmp_path, 5)


@pytest.mark.full
def test_kill_9_fifty_times(vtuned, world, baseline, tmp_path):
    """Ten rounds of five."""
    disturbed(vtuned, world, baseline, tmp_path, 50)
