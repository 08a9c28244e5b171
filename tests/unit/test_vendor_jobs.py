"""Together and Fireworks through their own packages, against a stand-in on loopback. Skipped where they are missing."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from vtuned.errors import LMUnavailable, ServiceError, ServiceRefused
from vtuned.jobs.base import JobRequest, Upload
from vtuned.jobs.services import Connection, connected
from vtuned.lm.endpoint_pace import Retries

KEY = "tk-very-secret-1234567890"
DATA = b'{"messages": []}\n' * 4
MARK = "0123456789abcdef"
FAST = Retries(tries=2, tries_to_connect=2, first_s=0.01, longest_s=0.02, patience_s=5.0)
# The packages' own warnings are theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


class StandIn:
    """Answers what *routes* (method and path as a pattern, to a function of match, headers and body) say."""

    def __init__(self, routes):
        self.routes, self.received = routes, []

    def __enter__(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                path = urlsplit(self.path).path
                owner.received.append((self.command, path, body))
                status, answer, headers = 404, {"error": {"message": "no", "code": "not_found"}}, {}
                for pattern, route in owner.routes.items():
                    if match := re.fullmatch(pattern, f"{self.command} {path}"):
                        status, answer, headers = route(match, self.headers, body)
                        break
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = serve  # noqa: N815

            def log_message(self, format, *args):
                """Keep quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()

    def bodies(self, method, pattern):
        return [json.loads(b) for m, path, b in self.received if m == method and re.fullmatch(pattern, path)]


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "planted.jsonl"
    path.write_bytes(DATA)
    return Upload(path=path, name=f"train-{MARK}.jsonl", n_bytes=len(DATA))


def send(service, upload):
    return service.upload(upload, note=lambda facts: None, on_bytes=lambda done, total: None)


@pytest.fixture
def together(monkeypatch):
    """(service, stand-in, exchanges): files by content, jobs, events and checkpoints as the package's types have them."""
    pytest.importorskip("together")
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    files, jobs = {}, {}

    def begin(match, headers, body):
        text = body.decode()
        (checksum,) = re.findall(r'name="checksum"\r\n\r\n(\w+)', text) or re.findall(r"checksum=(\w+)", text)
        (name,) = re.findall(r'name="file_name"\r\n\r\n([^\r]+)', text) or re.findall(r"file_name=([^&]+)", text)
        for file in files.values():
            if file["checksum"] == checksum:
                return 409, {"file_id": file["id"]}, {}
        made = {
            "id": f"file-{len(files)}",
            "object": "file",
            "bytes": 0,
            "created_at": 1,
            "filename": name,
            "FileType": "jsonl",
            "purpose": "fine-tune",
            "checksum": checksum,
        }
        files[made["id"]] = made
        return (
            302,
            {},
            {"Location": f"{server.url}/put/{made['id']}?signature=hush-hush", "X-Together-File-Id": made["id"]},
        )

    def put(match, headers, body):
        file = files[match[1]]
        assert hashlib.sha256(body).hexdigest() == file["checksum"]
        assert KEY not in str(headers)
        file["bytes"] = len(body)
        return 200, {}, {}

    def create(match, headers, body):
        asked = json.loads(body)
        made = {
            "id": f"ft-{len(jobs)}",
            "status": "queued",
            "user_id": "u",
            "created_at": "2026-11-25T10:00:00Z",
            "updated_at": "2026-11-25T10:00:00Z",
            "model": asked["model"],
            "training_file": asked["training_file"],
            "model_output_name": f"me/{asked['model']}-{asked['suffix']}",
        }
        jobs[made["id"]] = made
        return 200, made, {}

    def cancel(match, headers, body):
        jobs[match[1]]["status"] = "cancelled"
        return 200, jobs[match[1]], {}

    lora = {"default_rank": 8, "max_rank": 64, "max_batch_size": 32, "min_batch_size": 1, "max_batch_size_dpo": 16}
    limits = {"model_name": "m", "lora_training": {**lora, "target_modules": []}, "max_num_epochs": 20}
    limits |= {"min_learning_rate": 1e-6, "max_learning_rate": 1e-2, "max_num_evals": 9, "supports_vision": False}
    events = [
        {"object": "fine-tune-event", "created_at": "2026-11-25T10:00:00Z", "message": "queued", "type": "JOB_PENDING"},
        {
            "object": "fine-tune-event",
            "created_at": "2026-11-25T10:01:00Z",
            "message": "odd",
            "type": "JOB_START",
            "level": "warning",
        },
    ]
    checkpoints = [
        {
            "checkpoint_type": "Final",
            "created_at": "2026-11-25T11:00:00Z",
            "path": "p",
            "step": 20,
            "object_name": "me/b",
        },
        {"checkpoint_type": "Intermediate", "created_at": "2026-11-25T10:30:00Z", "path": "p", "step": 10},
    ]
    routes = {
        "POST /v1/files": begin,
        "PUT /put/(.*)": put,
        "POST /v1/files/(.*)/preprocess": lambda match, headers, body: (200, files[match[1]], {}),
        "GET /v1/files": lambda match, headers, body: (200, {"data": list(files.values())}, {}),
        "GET /v1/files/([^/]*)": lambda match, headers, body: (200, files[match[1]], {}),
        "GET /v1/fine-tunes/models/limits": lambda match, headers, body: (200, limits, {}),
        "POST /v1/fine-tunes/estimate-price": lambda match, headers, body: (200, {"estimation_available": False}, {}),
        "POST /v1/fine-tunes": create,
        "GET /v1/fine-tunes": lambda match, headers, body: (200, {"data": list(jobs.values())}, {}),
        "GET /v1/fine-tunes/([^/]*)/events": lambda match, headers, body: (200, {"data": events}, {}),
        "GET /v1/fine-tunes/([^/]*)/checkpoints": lambda match, headers, body: (200, {"data": checkpoints}, {}),
        "GET /v1/fine-tunes/([^/]*)": lambda match, headers, body: (200, jobs[match[1]], {}),
        "POST /v1/fine-tunes/([^/]*)/cancel": cancel,
    }
    kept = []
    with StandIn(routes) as server:
        server.jobs, server.files = jobs, files
        connection = Connection(base_url=server.url + "/v1", retries=FAST, timeout_s=20)
        yield connected("together", connection, on_exchange=kept.append), server, kept


def test_together_from_file_to_checkpoints(together, upload):
    """Upload, create, find, look, events, checkpoints, cancel, list."""
    service, server, kept = together
    assert service.find_file(upload) is None
    file = send(service, upload)
    request = JobRequest(model="m", training_file=file.id, n_epochs=3, batch_size=8, suffix="mine", seed=7)
    assert service.find_job(request, MARK, since=0) is None
    job = service.create(request, MARK)
    [body] = server.bodies("POST", "/v1/fine-tunes")
    found = service.find_job(request, MARK, since=0)
    server.jobs[job.id] |= {"status": "completed", "token_count": 99}
    done = service.get(job.id)

    assert upload.name == file.name == service.find_file(upload).name
    assert file.id == send(service, upload).id
    assert (3, 3, 8, 7) == (body["n_epochs"], body["n_checkpoints"], body["batch_size"], body["random_seed"])
    assert f"mine-{MARK}" == body["suffix"]
    assert job.id == found.id
    assert ("queued", None) == (job.status, job.fine_tuned_model)
    assert ("succeeded", f"me/m-mine-{MARK}", 99) == (done.status, done.fine_tuned_model, done.trained_tokens)
    assert [("queued", "info"), ("odd", "warn")] == [(e.message, e.level) for e in service.events(job.id, None)]
    assert ["odd"] == [event.message for event in service.events(job.id, "0")]
    assert [(10, None), (20, "me/b")] == [(one.step, one.model) for one in service.checkpoints(job.id)]
    assert "cancelled" == service.cancel(job.id).status
    assert [job.id] == [one.id for one in service.list()]
    told = "".join(exchange.model_dump_json() for exchange in kept)
    assert KEY not in told
    assert "hush" not in told


def test_together_says_what_it_does_not_take(together, monkeypatch):
    """Metadata, an unknown job, and no key."""
    service, server, _ = together
    with pytest.raises(ServiceRefused, match="metadata"):
        service.create(JobRequest(model="m", training_file="f", metadata={"a": "b"}), MARK)
    server.routes = {}
    with pytest.raises(ServiceError):
        service.get("ft-none")
    monkeypatch.delenv("TOGETHER_API_KEY")
    with pytest.raises(LMUnavailable, match="no API key"):
        connected("together", Connection())


@pytest.fixture
def fireworks(monkeypatch):
    """(service, stand-in): data sets and jobs under the ids that the client gives."""
    pytest.importorskip("fireworks")
    monkeypatch.setenv("FIREWORKS_API_KEY", KEY)
    monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "me")
    sets, jobs = {}, {}

    def create_set(match, headers, body):
        name = json.loads(body)["datasetId"]
        if name in sets:
            return 409, {"code": 6, "message": "already exists"}, {}
        sets[name] = {"name": f"accounts/me/datasets/{name}", "state": "UPLOADING", **json.loads(body)["dataset"]}
        return 200, sets[name], {}

    def fill(match, headers, body):
        assert DATA in body
        sets[match[1]]["state"] = "READY"
        return 200, {}, {}

    def get(held):
        def route(match, headers, body):
            return (200, held[match[1]], {}) if match[1] in held else (404, {"code": 5, "message": "not found"}, {})

        return route

    def create_job(kind):
        def route(match, headers, body):
            made = {"name": f"accounts/me/{kind}/job-{MARK}", "state": "JOB_STATE_PENDING", **json.loads(body)}
            if f"job-{MARK}" in jobs:
                return 409, {"code": 6, "message": "already exists"}, {}
            jobs[f"job-{MARK}"] = {**made, "createTime": "2026-11-25T10:00:00Z"}
            return 200, jobs[f"job-{MARK}"], {}

        return route

    def cancel(match, headers, body):
        jobs[match[1]]["state"] = "JOB_STATE_CANCELLED"
        return 200, {}, {}

    root = "/v1/accounts/me"
    routes = {
        f"POST {root}/datasets": create_set,
        f"POST {root}/datasets/([^:]*):upload": fill,
        f"GET {root}/datasets/(.*)": get(sets),
        f"POST {root}/supervisedFineTuningJobs": create_job("supervisedFineTuningJobs"),
        f"POST {root}/dpoJobs": create_job("dpoJobs"),
        f"POST {root}/supervisedFineTuningJobs/([^:]*):cancel": cancel,
        f"GET {root}/supervisedFineTuningJobs": lambda match, headers, body: (
            200,
            {"supervisedFineTuningJobs": list(jobs.values())},
            {},
        ),
        f"GET {root}/supervisedFineTuningJobs/(.*)": get(jobs),
        f"GET {root}/dpoJobs/(.*)": get(jobs),
    }
    with StandIn(routes) as server:
        server.jobs, server.sets = jobs, sets
        yield connected("fireworks", Connection(base_url=server.url, retries=FAST, timeout_s=20)), server


def test_fireworks_from_file_to_list(fireworks, upload):
    """Made once under ids of ours; rows are not set apart; a half-filled data set is filled again."""
    service, server = fireworks
    assert service.find_file(upload) is None
    file = send(service, upload)
    server.sets[file.id]["state"] = "UPLOADING"
    assert service.find_file(upload) is None
    assert file == send(service, upload) == service.find_file(upload)
    request = JobRequest(model="accounts/fireworks/models/m", training_file=file.id, n_epochs=2, suffix="mine")
    assert service.find_job(request, MARK, since=0) is None
    job = service.create(request, MARK)
    again = service.create(request, MARK)
    body = server.bodies("POST", ".*/supervisedFineTuningJobs")[0]
    server.jobs[f"job-{MARK}"] |= {"state": "JOB_STATE_COMPLETED", "outputModel": "accounts/me/models/out"}

    assert "4" == server.sets[file.id]["exampleCount"]
    assert (False, 2) == (body["evalAutoCarveout"], body["epochs"])
    assert f"accounts/me/datasets/{file.id}" == body["dataset"]
    assert "queued" == job.status
    assert job == again
    assert "accounts/me/models/out" == service.get(job.id).fine_tuned_model
    assert "accounts/me/models/out" == service.get(f"accounts/me/{job.id}").fine_tuned_model
    assert [job.id] == [one.id for one in service.list()]
    assert "cancelled" == service.cancel(job.id).status
    assert ([], []) == (service.events(job.id, None), service.checkpoints(job.id))


def test_fireworks_trains_preferences(fireworks, upload):
    """DPO is another kind of job, with its beta."""
    service, server = fireworks
    file = send(service, upload)
    request = JobRequest(model="m", training_file=file.id, method="dpo", beta=0.2, n_epochs=1)
    job = service.create(request, MARK)
    [body] = server.bodies("POST", ".*/dpoJobs")

    assert {"method": "DPO", "dpo": {"beta": 0.2}} == body["lossConfig"]
    assert {"baseModel": "m", "epochs": 1} == body["trainingConfig"]
    assert job.id == service.find_job(request, MARK, since=0).id == f"dpoJobs/job-{MARK}"


def test_fireworks_says_what_it_does_not_take(fireworks, monkeypatch):
    """A seed; and an account that nobody named."""
    service, _ = fireworks
    with pytest.raises(ServiceRefused, match="--seed"):
        service.create(JobRequest(model="m", training_file="f", seed=1), MARK)
    monkeypatch.delenv("FIREWORKS_ACCOUNT_ID")
    with pytest.raises(ServiceRefused, match="account"):
        connected("fireworks", Connection())
