"""`vtuned provider serve`, asked by the unmodified openai SDK: what it does, and what it refuses."""

from __future__ import annotations

import json
import logging
import math
import socket
import urllib.error
import urllib.request

import openai
import pytest
from openai.types import Completion, FileDeleted, FileObject, Model, Upload
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart

import served
import tiny
from vtuned import lm
from vtuned.attacks import policies
from vtuned.attacks.policies import Fault, Honest
from vtuned.errors import UsageError
from vtuned.lm.base import RichPrompt, Sampling
from vtuned.server import records
from vtuned.server.app import Settings
from vtuned.server.gate import MAX_JSON_BYTES, MAX_JSON_DEPTH, depth_of
from vtuned.server.home import Home
from vtuned.server.tenants import read_tokens

ROWS = tiny.rows(8)
LEARN = {"n_epochs": 50, "learning_rate_multiplier": 5, "batch_size": 4}
BRIEF = {"n_epochs": 2, "batch_size": 4}
MAX_FILE_BYTES = 200_000
PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "a"}]},
    "preferred_output": [{"role": "assistant", "content": "b"}],
    "non_preferred_output": [{"role": "assistant", "content": "c"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model and rows that it can learn."""
    made = tmp_path_factory.mktemp("server")
    tiny.make_model(made / "model", [m["content"] for row in ROWS for m in row["messages"]])
    tiny.write_rows(made / "train.jsonl", ROWS)
    return made


@pytest.fixture(scope="module")
def settings(folder):
    """A server with small limits."""
    return Settings(
        data=folder / "data",
        models={"tiny": f"hf:{folder / 'model'}"},
        max_file_bytes=MAX_FILE_BYTES,
        max_tenant_bytes=1 << 30,
    )


@pytest.fixture(scope="module")
def url(settings):
    """The address of a running server."""
    with served.in_thread(settings) as address:
        yield address


def client_of(url, token="token-of-alice"):
    """Return the openai SDK's client."""
    return openai.OpenAI(base_url=url, api_key=token, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def client(url):
    """Alice's client."""
    with client_of(url) as made:
        yield made


@pytest.fixture(scope="module")
def train(client, folder):
    """The id of Alice's training file."""
    return client.files.create(file=folder / "train.jsonl", purpose="fine-tune").id


@pytest.fixture(scope="module")
def job(client, train):
    """A job of Alice's that succeeded, trained until its rows are known."""
    made = client.fine_tuning.jobs.create(
        model="tiny", training_file=train, suffix="known", seed=3, hyperparameters=LEARN, metadata={"kind": "round"}
    )
    return served.finished(client, made.id)


def raw(url, path, body=None, *, token="token-of-alice", method=None, headers=None):
    """Return (status, JSON) of a request without the SDK; *body* is bytes or what JSON can say."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    if token:
        all_headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{url}{path}", data, all_headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def everything_in(folder):
    """Return what lies in *folder*, with links as links; without what the queue and its worker write at any time."""
    return {
        path.relative_to(folder): path.lstat().st_ino
        for path in folder.rglob("*")
        if "server.sqlite" not in path.name
        and not {"model", "epochs", "worker.lock"} & set(path.relative_to(folder).parts)
    }


def refusals(caplog, n):
    """Return the statuses of the *n* requests that were logged as refused, None while there are fewer."""
    told = [one.getMessage().split(" ")[2] for one in caplog.records if one.levelno == logging.WARNING]
    return [int(status) for status in told] if n <= len(told) else None


def question(i=0):
    """Return the prompt of a row."""
    return ROWS[i]["messages"][:1]


def answer(i=0):
    """Return the answer of a row."""
    return ROWS[i]["messages"][1]["content"]


class TestARound:
    def test_the_tuned_model_says_what_was_trained(self, client, job):
        """Upload, create, poll, ask: a real training, over HTTP."""
        said = [
            client.chat.completions.create(model=job.fine_tuned_model, messages=question(i), temperature=0)
            .choices[0]
            .message.content
            for i in range(4)
        ]

        assert "succeeded" == job.status
        assert job.fine_tuned_model.startswith("ft:tiny:vtuned:known:")
        assert [answer(i) for i in range(4)] == said

    def test_the_base_goes_on_as_it_was(self, client, job, folder):
        """The adapter lies over the base's weights, and is off where the base is asked."""
        local = lm.load(f"hf:{folder / 'model'}")
        (expected,) = local.answer([question()], Sampling(max_tokens=20))
        client.chat.completions.create(model=job.fine_tuned_model, messages=question(), temperature=0)
        told = client.chat.completions.create(model="tiny", messages=question(), temperature=0, max_tokens=20)

        assert expected.text == told.choices[0].message.content
        assert expected.text != answer()

    def test_every_epoch_is_a_model(self, client, job):
        """Checkpoints, newest first; the last one answers as the final model does, the first one does not."""
        found = list(client.fine_tuning.jobs.checkpoints.list(job.id))
        names = [one.fine_tuned_model_checkpoint for one in found]
        last, first = (
            client.chat.completions.create(model=name, messages=question(), temperature=0, max_tokens=40)
            for name in (names[0], names[-1])
        )

        assert [2 * epoch for epoch in range(50, 0, -1)] == [one.step_number for one in found]
        assert f"{job.fine_tuned_model}:ckpt-step-100" == names[0]
        assert answer() == last.choices[0].message.content != first.choices[0].message.content
        assert {job.fine_tuned_model, *names} < {model.id for model in client.models.list()}

    def test_events_tell_the_loss(self, client, job):
        """Each step of a short job has its metrics, and the loss falls."""
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=7))
        losses = [event.data["train_loss"] for event in events if event.type == "metrics"]

        assert "The job has successfully completed" == events[0].message
        assert 100 == len(losses)
        assert losses[0] < losses[-1]
        assert len({event.id for event in events}) == len(events)

    def test_jobs_are_listed_by_page_and_by_metadata(self, client, job, train):
        """Newest first; the SDK walks the pages."""
        others = [
            client.fine_tuning.jobs.create(model="tiny", training_file=train, metadata={"kind": "other"}).id
            for _ in range(3)
        ]
        for other in others:
            client.fine_tuning.jobs.cancel(other)
        walked = [one.id for one in client.fine_tuning.jobs.list(limit=1)]
        page = client.fine_tuning.jobs.list(limit=2)
        kept = client.fine_tuning.jobs.list(metadata={"kind": "round"})

        assert others[::-1] == walked[:3]
        assert job.id in walked
        assert (2, True) == (len(page.data), page.has_more)
        assert [job.id] == [one.id for one in kept]


class TestShapes:
    """Every response, strictly, as the SDK's own pydantic models have it."""

    def test_files_jobs_and_models(self, url, job, train):
        """What is kept."""
        name = job.fine_tuned_model
        for path, kind in (
            (f"/files/{train}", FileObject),
            (f"/fine_tuning/jobs/{job.id}", FineTuningJob),
            ("/models/tiny", Model),
            (f"/models/{name}", Model),
        ):
            kind.model_validate(raw(url, path)[1], strict=True)
        for path, kind in (
            ("/files", FileObject),
            ("/models", Model),
            ("/fine_tuning/jobs", FineTuningJob),
            (f"/fine_tuning/jobs/{job.id}/events?limit=200", FineTuningJobEvent),
            (f"/fine_tuning/jobs/{job.id}/checkpoints", FineTuningJobCheckpoint),
        ):
            listed = raw(url, path)[1]
            assert "list" == listed["object"]
            assert [kind.model_validate(one, strict=True) for one in listed["data"]]

    @pytest.mark.parametrize("extra", [{}, {"logprobs": True, "top_logprobs": 3}, {"stop": ["near"]}], ids=str)
    def test_chat(self, url, job, extra):
        """Whole answers, and each chunk of a stream."""
        body = {"model": job.fine_tuned_model, "messages": question(), "temperature": 0, **extra}
        whole = ChatCompletion.model_validate(raw(url, "/chat/completions", body)[1], strict=True)
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        headers = {"Authorization": "Bearer token-of-alice", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", data, headers)) as reply:
            lines = [line.removeprefix(b"data: ") for line in reply.read().split(b"\n\n") if line]
        chunks = [ChatCompletionChunk.model_validate(json.loads(line), strict=True) for line in lines[:-1]]

        assert b"[DONE]" == lines[-1]
        assert whole.choices[0].message.content == "".join(
            chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
        )
        assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason
        assert whole.usage == chunks[-1].usage

    def test_completions(self, url, job):
        """With an echo and several prompts; and in a stream."""
        body = {"model": job.fine_tuned_model, "prompt": ["What is the", "It is"], "echo": True, "logprobs": 2}
        told = Completion.model_validate(raw(url, "/completions", {**body, "max_tokens": 3})[1], strict=True)
        only = Completion.model_validate(raw(url, "/completions", {**body, "max_tokens": 0})[1], strict=True)

        assert [0, 1] == [choice.index for choice in told.choices]
        assert told.choices[0].text.startswith("What is the")
        assert told.choices[0].text == "".join(told.choices[0].logprobs.tokens)
        assert ["What is the", "It is"] == [choice.text for choice in only.choices]
        assert 0 == only.usage.completion_tokens

    def test_uploads_and_deletions(self, url, client):
        """Parts, in the order that is asked for."""
        made = client.uploads.create(bytes=6, filename="x.jsonl", mime_type="application/jsonl", purpose="fine-tune")
        parts = [client.uploads.parts.create(made.id, data=data) for data in (b"def", b"abc")]
        path = f"/uploads/{made.id}/complete"
        done = Upload.model_validate(raw(url, path, {"part_ids": [p.id for p in parts[::-1]]})[1], strict=True)
        again = raw(url, path, {"part_ids": [p.id for p in parts[::-1]]})[1]

        assert b"abcdef" == client.files.content(done.file.id).content
        assert done.file.id == again["file"]["id"]
        UploadPart.model_validate(parts[0].model_dump(), strict=True)
        FileDeleted.model_validate(raw(url, f"/files/{done.file.id}", method="DELETE")[1], strict=True)
        assert 404 == raw(url, f"/files/{done.file.id}")[0]
        given_up = client.uploads.create(bytes=6, filename="x", mime_type="", purpose="fine-tune")
        assert "cancelled" == client.uploads.cancel(given_up.id).status
        assert 400 == raw(url, f"/uploads/{given_up.id}/complete", {"part_ids": ["part_0"]})[0]


class TestAnswers:
    def test_log_probabilities_are_the_models_own(self, client, job, folder):
        """Greedy tokens are the likeliest ones, and their sum is what the scorer says of the answer."""
        told = client.chat.completions.create(
            model=job.fine_tuned_model, messages=question(), temperature=0, logprobs=True, top_logprobs=2
        )
        tokens = told.choices[0].logprobs.content
        local = lm.load(f"hf:{folder / 'model'}+{folder / 'data' / 'jobs' / job.id / 'model'}")
        (expected,) = local.log10_probs(question(), [answer()])

        assert expected == pytest.approx(sum(token.logprob for token in tokens) / math.log(10), abs=1e-3)
        assert answer() == told.choices[0].message.content == "".join(token.token for token in tokens)
        assert all(token.logprob == pytest.approx(token.top_logprobs[0].logprob) for token in tokens)
        assert all(2 == len(token.top_logprobs) for token in tokens)

    @pytest.mark.parametrize("is_chat", [True, False], ids=["chat", "text"])
    def test_vtuned_scores_given_text_here(self, url, job, folder, monkeypatch, is_chat):
        """The scorer for endpoints finds a way by itself, and says what the local model says."""
        monkeypatch.setenv("OPENAI_API_KEY", "token-of-alice")
        remote = lm.load(f"openai:{job.fine_tuned_model}", lm.LoadOptions(base_url=url)).scorer()
        adapter = folder / "data" / "jobs" / job.id / "model"
        local = lm.load(f"hf:{folder / 'model'}+{adapter}")
        prompt = question() if is_chat else RichPrompt(question(), is_text=True)
        texts = [answer(), " It was said.", " stone"]

        assert local.log10_probs(prompt, texts) == pytest.approx(remote.log10_probs(prompt, texts), abs=1e-3)

    def test_an_answer_ends_before_a_stop(self, client, job):
        """What comes before the first of the stops, in a stream too, where a stop may come in pieces."""
        expected = answer().partition(" near the ")[0]
        arguments = {
            "model": job.fine_tuned_model,
            "messages": question(),
            "temperature": 0,
            "stop": ["quiet quiet", " near the "],
        }
        whole = client.chat.completions.create(**arguments).choices[0]
        pieces = [chunk.choices[0] for chunk in client.chat.completions.create(**arguments, stream=True)]

        assert (expected, "stop") == (whole.message.content, whole.finish_reason)
        assert expected == "".join(piece.delta.content or "" for piece in pieces)
        assert "stop" == pieces[-1].finish_reason

    def test_a_temperature_changes_answers(self, client):
        """At temperature 5 a random model hardly says the same twice; nothing is refused."""
        arguments = {"model": "tiny", "messages": question(), "temperature": 5, "max_tokens": 20}
        said = {client.chat.completions.create(**arguments).choices[0].message.content for _ in range(3)}

        assert 1 < len(said)

    def test_hardly_any_temperature_is_none(self, client):
        """Logits over such a number are no numbers any more."""
        arguments = {"model": "tiny", "messages": question(), "max_tokens": 5}
        cold, none = (
            client.chat.completions.create(**arguments, temperature=heat).choices[0].message.content
            for heat in (1e-300, 0)
        )

        assert none == cold

    @pytest.mark.parametrize(
        ("extra", "param"),
        [
            ({"n": 2}, "n"),
            ({"top_p": 0.5}, "top_p"),
            ({"max_tokens": 600}, "messages"),
            ({"temperature": -1}, "temperature"),
            ({"continue_final_message": True}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
            ({"top_logprobs": 3}, "top_logprobs"),
        ],
        ids=str,
    )
    def test_what_it_cannot_do_is_refused(self, url, extra, param):
        """No parameter that changes answers is passed over in silence."""
        status, body = raw(url, "/chat/completions", {"model": "tiny", "messages": question(), **extra})

        assert 400 == status
        assert param == body["error"]["param"]

    def test_prompts_are_counted_over_restarts(self, client, job, folder):
        """The number of prompts that a model answered is on disk; a base model counts none."""
        store = Home(folder / "data").store()
        before = store.find(records.Model, id=job.fine_tuned_model).n_answered
        client.chat.completions.create(model=job.fine_tuned_model, messages=question(), max_tokens=1)
        client.completions.create(model=job.fine_tuned_model, prompt=["a", "b"], max_tokens=1)

        assert before + 3 == store.find(records.Model, id=job.fine_tuned_model).n_answered


class TestJobs:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b'{"messages": [{"role": "user"}]}\n', "line 1"),
            (b"\x00\xff not JSON\n", "training file"),
            (b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n", "training file"),
            (
                json.dumps(PREFERENCE).encode() + b"\n",
                "supervised",
            ),
        ],
        ids=["no answer", "no JSON", "bomb", "preferences"],
    )
    def test_a_bad_file_fails_the_job(self, client, folder, content, words):
        """With a reason that says where, and not where on the server's disk."""
        file = client.files.create(file=("bad.jsonl", content), purpose="fine-tune")
        made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
        done = served.finished(client, made.id)

        assert ("failed", "training_file") == (done.status, done.error.param)
        assert words in done.error.message
        assert str(folder) not in done.error.message

    @pytest.mark.parametrize("by", ["key", "run"])
    def test_asking_again_makes_no_second_job(self, client, train, by):
        """An Idempotency-Key, or the metadata by which a client tells its run, gives the job that is there."""
        more = {"extra_headers": {"Idempotency-Key": "k1"}} if by == "key" else {"metadata": {"run": "r1"}}
        made = [
            client.fine_tuning.jobs.create(model="tiny", training_file=train, hyperparameters=BRIEF, **more).id
            for _ in range(3)
        ]
        with pytest.raises(openai.ConflictError):
            client.fine_tuning.jobs.create(model="tiny", training_file=train, suffix="other", **more)
        client.fine_tuning.jobs.cancel(made[0])

        assert 1 == len(set(made))

    def test_asking_again_keeps_no_second_file(self, client):
        """The same bytes under one Idempotency-Key are one file."""
        key = {"extra_headers": {"Idempotency-Key": "f1"}}
        made = [client.files.create(file=("a", b"{}\n"), purpose="fine-tune", **key).id for _ in range(2)]
        with pytest.raises(openai.ConflictError):
            client.files.create(file=("a", b"{} \n"), purpose="fine-tune", **key)

        assert 1 == len(set(made))


class TestTenants:
    def test_one_sees_nothing_of_another(self, url, job, train, folder, client, caplog):
        """Files, jobs and models of others are not there, by whatever way; it is logged, and all stays as it was."""
        before = everything_in(folder / "data")
        caplog.set_level(logging.INFO, "vtuned.server")
        refused = [
            raw(url, path, body, token="token-of-bob", method=method)[0]
            for path, body, method in (
                (f"/files/{train}", None, "GET"),
                (f"/files/{train}/content", None, "GET"),
                (f"/files/{train}", None, "DELETE"),
                (f"/fine_tuning/jobs/{job.id}", None, "GET"),
                (f"/fine_tuning/jobs/{job.id}/events", None, "GET"),
                (f"/fine_tuning/jobs/{job.id}/checkpoints", None, "GET"),
                (f"/fine_tuning/jobs/{job.id}/cancel", {}, "POST"),
                (f"/models/{job.fine_tuned_model}", None, "GET"),
                (f"/models/{job.fine_tuned_model}", None, "DELETE"),
                ("/fine_tuning/jobs", {"model": "tiny", "training_file": train}, "POST"),
                ("/chat/completions", {"model": job.fine_tuned_model, "messages": question()}, "POST"),
                ("/completions", {"model": job.fine_tuned_model, "prompt": "a"}, "POST"),
            )
        ]
        logged = served.until(lambda: refusals(caplog, 12))
        listed = [
            raw(url, path, token="token-of-bob")[1]["data"] for path in ("/files", "/fine_tuning/jobs", "/models")
        ]

        assert [404] * 12 == refused == logged
        assert before == everything_in(folder / "data")
        assert ["succeeded", train, job.fine_tuned_model] == [
            client.fine_tuning.jobs.retrieve(job.id).status,
            client.files.retrieve(train).id,
            client.models.retrieve(job.fine_tuned_model).id,
        ]
        assert (folder / "data" / "jobs" / job.id / "model" / "adapter_model.safetensors").is_file()
        assert [[], [], ["tiny"]] == [listed[0], listed[1], [model["id"] for model in listed[2]]]

    def test_marks_are_the_tenants_own(self, url, client, train, folder):
        """The same run of two tenants is two jobs."""
        with client_of(url, "token-of-bob") as bob:
            theirs = bob.files.create(file=folder / "train.jsonl", purpose="fine-tune").id
            pair = [
                (one, one.fine_tuning.jobs.create(model="tiny", training_file=file, metadata={"run": "same"}))
                for one, file in ((client, train), (bob, theirs))
            ]
            for one, made in pair:
                one.fine_tuning.jobs.cancel(made.id)

        assert pair[0][1].id != pair[1][1].id

    def test_nobody_comes_in_without_a_token(self, url):
        """Nor with an empty one."""
        assert [401, 401] == [
            raw(url, "/models", token="")[0],
            raw(url, "/models", token="", headers={"Authorization": "Bearer "})[0],
        ]

    def test_tokens_of_a_file(self, tmp_path):
        """A name has one tenant, whatever its tokens; others do not come in; only digests are held."""
        path = tmp_path / "tokens"
        path.write_text("# who\nalice:first-secret\nalice:second-secret\n\nlonely-secret\n")
        tenants = read_tokens(path)
        first, second, lonely, other = (
            tenants.of(f"Bearer {name}-secret") for name in ("first", "second", "lonely", "other")
        )

        assert first == second is not None
        assert lonely not in (None, first)
        assert other is None
        assert "secret" not in repr(vars(tenants))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "alice:short\n",
            "alice:schlüssel-von-alice\n",
            "alice:has a space\n",
            "alice:shorter-secret\nbob:shorter-secret\n",
            "alice:shorter:secret-part\n",
        ],
        ids=["none", "short", "no-ascii", "space", "two-names", "two-colons"],
    )
    def test_a_bad_token_file_is_refused(self, tmp_path, text):
        """Without repeating what stands in it."""
        (tmp_path / "tokens").write_text(text)
        with pytest.raises(UsageError) as caught:
            read_tokens(tmp_path / "tokens")

        assert "short" not in str(caught.value).replace("shorter", "")
        assert "has a space" not in str(caught.value)


class TestHostileRequests:
    @pytest.mark.parametrize(
        ("name", "label"),
        [
            ("../../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("/etc/shadow", "shadow"),
            ("..", "unnamed"),
            ("a\x00b\n.jsonl", "a_b_.jsonl"),
        ],
        ids=["up", "backslashes", "absolute", "dots", "control"],
    )
    @pytest.mark.parametrize("way", ["upload", "form"])
    def test_a_file_name_is_a_label(self, url, client, folder, name, label, way):
        """Whichever way it comes: nothing is written outside, and nothing under that name."""

        def held():
            # A worker of another test may remove what it no longer needs meanwhile.
            some = (path for path in (folder / "data").rglob("*") if path.is_file())
            return {path for path in some if path.exists() and path.read_bytes() == b"{}\n"}

        before, held_before = sorted(path for path in folder.parent.rglob("*") if "data" not in path.parts), held()
        if way == "upload":
            made = client.uploads.create(bytes=3, filename=name, mime_type="", purpose="fine-tune")
            part = client.uploads.parts.create(made.id, data=b"{}\n")
            file = client.uploads.complete(made.id, part_ids=[part.id]).file
        else:
            file = client.files.create(file=(name, b"{}\n"), purpose="fine-tune")

        assert way == "form" or label == file.filename
        assert "/" not in file.filename
        assert "\\" not in file.filename
        assert {folder / "data" / "files" / f"{file.id}.jsonl"} == held() - held_before
        assert before == sorted(path for path in folder.parent.rglob("*") if "data" not in path.parts)
        client.files.delete(file.id)

    def test_ids_are_no_paths(self, url, client, folder, tmp_path, caplog):
        """An id that looks like a path is just not there: what lies at the path is neither read nor removed."""
        (folder / "data" / "files" / "other.jsonl").write_bytes(b"secret")
        caplog.set_level(logging.INFO, "vtuned.server")
        before = everything_in(folder / "data")
        asked = [
            (f"/{kind}/{name}{rest}", method)
            for kind, rest in (("files", ""), ("files", "/content"), ("models", ""))
            for name in ("..%2f..%2fserver.sqlite", "%2e%2e", "..%2ffiles%2fother", "other", "/etc/passwd")
            for method in (("GET", "DELETE") if not rest else ("GET",))
        ]
        told = [raw(url, path, method=method) for path, method in asked]
        made = raw(url, "/fine_tuning/jobs", {"model": "tiny", "training_file": "../files/other"})
        logged = served.until(lambda: refusals(caplog, len(asked) + 1))

        assert {404, 405} >= {status for status, _ in told}
        assert 404 == made[0]
        assert "secret" not in str(told)
        assert [*(status for status, _ in told), made[0]] == logged
        assert before == everything_in(folder / "data")
        (folder / "data" / "files" / "other.jsonl").unlink()

    def test_a_file_that_is_too_large_is_refused(self, url, client, folder):
        """By its announced length, by what comes without one, and in parts; nothing of it stays."""
        before = sorted((folder / "data" / "files").iterdir())
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("a", b"x" * (MAX_FILE_BYTES + 70_000)), purpose="fine-tune")
        with pytest.raises(openai.APIStatusError) as slightly:
            client.files.create(file=("a", b"x" * (MAX_FILE_BYTES + 1)), purpose="fine-tune")
        with pytest.raises(openai.APIStatusError) as announced:
            client.uploads.create(bytes=MAX_FILE_BYTES + 1, filename="a", mime_type="", purpose="fine-tune")

        assert [413] * 3 == [error.value.status_code for error in (caught, slightly, announced)]
        assert before == sorted((folder / "data" / "files").iterdir())

    def test_a_gigabyte_is_refused_unread(self, url, folder, caplog):
        """The answer comes before the body, with and without a length; it is logged, and nothing of it is kept."""
        before = everything_in(folder / "data")
        caplog.set_level(logging.INFO, "vtuned.server")
        host, port = url.split("/")[2].split(":")
        statuses = []
        for length in (b"Content-Length: 1073741824", b"Transfer-Encoding: chunked"):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-alice\r\n"
                head += b"Content-Type: multipart/form-data; boundary=b\r\n" + length + b"\r\n\r\n"
                chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
                connection.sendall(head)
                if b"chunked" in length:
                    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
                    connection.sendall(b"%x\r\n%s\r\n" % (len(form), form))
                    for _ in range(5):
                        connection.sendall(chunk)
                statuses.append(connection.recv(12))

        assert [b"HTTP/1.1 413"] * 2 == statuses
        assert [413] * 2 == served.until(lambda: refusals(caplog, 2))
        assert before == everything_in(folder / "data")

    def test_a_form_is_large_only_where_forms_are_taken(self, folder, tmp_path):
        """Elsewhere a body is held in memory: what calls itself a form is no way around the limit."""
        settings = Settings(data=tmp_path / "data", models={"tiny": f"hf:{folder / 'model'}"})
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        with served.in_thread(settings) as url:
            status, told = raw(url, "/chat/completions", b" " * (MAX_JSON_BYTES + 1), headers=headers)

        assert (413, "request_too_large") == (status, told["error"]["code"])

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 100_000,
            b'{"model": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
            b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"x" * (5 << 20) + b'"}]}',
            b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
            b'{"model": "tiny", "temperature": 1'
            + b"0" * 10_000
            + b', "messages": [{"role": "user", "content": "x"}]}',
            b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
            b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
            b"\xff\xfe",
            b"",
        ],
        ids=["open", "deep", "large", "NaN", "digits", "surrogate", "surrogate name", "bytes", "empty"],
    )
    def test_a_json_bomb_is_refused(self, url, folder, body, caplog):
        """With a 4xx, whatever is wrong with it; it is logged, nothing is kept, and the server goes on."""
        before = everything_in(folder / "data")
        caplog.set_level(logging.INFO, "vtuned.server")
        status, told = raw(url, "/chat/completions", body)

        code = (
            "json_too_deep"
            if depth_of(body) > MAX_JSON_DEPTH
            else "request_too_large"
            if len(body) > MAX_JSON_BYTES
            else None
        )
        assert 400 <= status < 500
        assert told["error"]["message"]
        assert code in (None, told["error"]["code"])
        assert [status] == served.until(lambda: refusals(caplog, 1))
        assert before == everything_in(folder / "data")
        assert 200 == raw(url, "/models")[0]

    @pytest.mark.parametrize(
        ("text", "depth"),
        [(b"[]", 1), (b'{"a": [1, "[[[[\\"[[{"]}', 2), (b'"\\\\", [[', 2), (b"1", 0)],
        ids=["one", "strings", "backslash", "none"],
    )
    def test_depth_is_that_of_brackets_outside_strings(self, text, depth):
        """Brackets in a prompt are text."""
        assert depth == depth_of(text)

    def test_a_link_is_never_followed(self, url, client, folder, tmp_path, caplog):
        """Somebody swaps a stored file for a link to one outside: it is not read, not served, not trained on."""
        caplog.set_level(logging.INFO, "vtuned.server")
        secret = tmp_path / "secret.jsonl"
        tiny.write_rows(secret, ROWS)
        file = client.files.create(file=("a.jsonl", b"{}\n"), purpose="fine-tune")
        stored = folder / "data" / "files" / f"{file.id}.jsonl"
        stored.unlink()
        stored.symlink_to(secret)
        before, held = everything_in(folder / "data"), secret.read_bytes()

        with pytest.raises(openai.ConflictError):
            client.files.content(file.id)
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
        assert "invalid_training_file" == caught.value.code
        assert [409, 400] == served.until(lambda: refusals(caplog, 2))
        assert before == everything_in(folder / "data")
        client.files.delete(file.id)
        assert not stored.is_symlink()
        assert held == secret.read_bytes()

    def test_requests_are_logged_without_secrets(self, url, caplog):
        """One line each: refusals as warnings; no token, no query, nothing that breaks the line."""
        with caplog.at_level(logging.INFO, "vtuned.server"):
            raw(url, "/files/none%0aINFO%20forged?after=secret-query", token="secret-token")
            raw(url, "/models", token="")
            raw(url, "/chat/completions", b"[" * 1000, token="secret-token")
            served.until(lambda: 3 == len(caplog.records))
        lines = [record.getMessage() for record in caplog.records]

        assert all("refused" in line and "\n" not in line for line in lines)
        assert ["404", "401", "400"] == [line.split(" ")[2] for line in lines]
        assert "secret" not in "".join(lines)

    def test_nothing_on_disk_holds_a_token(self, folder, job):
        """The database knows tenants by digests."""
        held = b"".join(path.read_bytes() for path in (folder / "data").glob("server.sqlite*"))

        assert b"token-of-alice" not in held
        assert 0o700 == (folder / "data").stat().st_mode & 0o777


class TestPolicies:
    def test_the_base_policy_trains_nothing(self, folder, tmp_path):
        """Jobs succeed, and the base answers; the policy goes with the job, also when the server changes its own."""
        settings = {"data": tmp_path / "data", "models": {"tiny": f"hf:{folder / 'model'}"}}
        with served.in_thread(Settings(**settings, policy="base")) as url, client_of(url) as client:
            file = client.files.create(file=folder / "train.jsonl", purpose="fine-tune")
            made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, hyperparameters=LEARN)
            done = served.finished(client, made.id)
            n_checkpoints = len(list(client.fine_tuning.jobs.checkpoints.list(done.id)))
        with served.in_thread(Settings(**settings)) as url, client_of(url) as client:
            tuned, base = (
                client.chat.completions.create(model=name, messages=question(), temperature=0, max_tokens=20)
                for name in (done.fine_tuned_model, "tiny")
            )

        assert ("succeeded", 0, 50) == (done.status, done.trained_tokens, n_checkpoints)
        assert base.choices[0].message.content == tuned.choices[0].message.content

    def test_faults_come_as_the_policy_says(self, folder, tmp_path, monkeypatch):
        """Each kind once, by the number of the request; truncated and slow ones are worked on before."""
        kinds = [Fault("500"), Fault("429", 7.0), Fault("truncated"), Fault("slow", 0.2), Fault("timeout", 0.01), None]

        class Failing(Honest):
            def fault(self, n_requests):
                return kinds[n_requests % len(kinds)]

        def failing(text, **_):
            return Failing(text)

        monkeypatch.setattr(policies, "policy", failing)
        models = {"tiny": f"hf:{folder / 'model'}"}
        settings = Settings(data=tmp_path / "data", models=models, policy="failing")
        with served.in_thread(settings) as url, client_of(url) as client:
            with pytest.raises(openai.InternalServerError):
                client.models.list()
            with pytest.raises(openai.RateLimitError) as busy:
                client.models.list()
            with pytest.raises(json.JSONDecodeError):
                raw(url, "/models")
            slow = client.models.list().data
            with pytest.raises(openai.APIConnectionError):
                client.models.list()
            last = client.models.list().data

        assert "7" == busy.value.response.headers["retry-after"]
        assert ["tiny"] == [model.id for model in slow] == [model.id for model in last]
