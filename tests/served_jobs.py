"""A fine-tuning service of OpenAI's protocol that trains nothing, on loopback, and fails where it is told to."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "sk-very-secret-1234567890"
_LONGEST_BODY = 5_000_000


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "no", param: str | None = None, headers=None):
        super().__init__(code)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "code": code, "type": "invalid_request_error", "param": param}}


class NoSuchPath(Refused):
    def __init__(self, status: int):
        super().__init__(status, "")
        self.body = b"nothing here"


class JobServer:
    """
    `files`, `uploads` and `jobs` are what it holds, `received` every request as (method, path).

    *faults* maps "METHOD path-regex" to steps that are used up one a request, before or after the work: "lose" does the
    work and resets the connection, "drop" resets it before, "hang" says nothing, an int is a status, and a function
    is called. *statuses* are what a job says at each look, the last one stays.
    """

    def __init__(self, *, statuses=("validating_files", "running", "succeeded"), answers=None, page=100):
        self.files: dict[str, dict] = {}
        self.contents: dict[str, bytes] = {}
        self.uploads: dict[str, dict] = {}
        self.jobs: dict[str, dict] = {}
        self.events: dict[str, list[dict]] = {}
        self.received: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.headers: list[Mapping[str, str]] = []
        self.faults: dict[str, list[Any]] = {}
        self.models = {"base-1"}
        self.statuses, self.page = statuses, page
        self.answers: Callable[[str, str], str] = answers or (lambda model, text: "It is blue today.")
        self.asked: list[tuple[str, str]] = []
        self.takes_metadata = self.lists_files = True
        self.answer_after_s = 0.0
        self.error: dict | None = None
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self._n = 0

    def __enter__(self) -> Self:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def n(self, method: str, pattern: str) -> int:
        return sum(m == method and re.fullmatch(pattern, path) is not None for m, path in self.received)

    def new_id(self, prefix: str) -> str:
        self._n += 1
        return f"{prefix}-{self._n:04d}"

    def fault(self, method: str, path: str) -> Any:
        for key, steps in self.faults.items():
            if steps and re.fullmatch(key, f"{method} {path}"):
                return steps.pop(0)
        return None

    def paged(self, items: list[dict], query: Mapping[str, list[str]]) -> dict:
        after = query.get("after", [None])[0]
        ids = [item["id"] for item in items]
        start = ids.index(after) + 1 if after in ids else 0
        size = min(int(query.get("limit", ["20"])[0]), self.page)
        return {"object": "list", "data": items[start : start + size], "has_more": start + size < len(items)}

    def file(self, name: str, data: bytes) -> dict:
        made = {
            "id": self.new_id("file"),
            "object": "file",
            "bytes": len(data),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": "fine-tune",
            "status": "processed",
        }
        self.files[made["id"]] = made
        self.contents[made["id"]] = data
        return made

    def job(self, body: dict) -> dict:
        if body["model"] not in self.models:
            raise Refused(404, "model_not_found", "The model does not exist", "model")
        if "metadata" in body and not self.takes_metadata:
            raise Refused(400, "unknown_parameter", "Unknown parameter: 'metadata'", "metadata")
        if body["training_file"] not in self.files:
            raise Refused(400, "invalid_file", "no such file", "training_file")
        job_id = self.new_id("ftjob")
        made = {
            "id": job_id,
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "finished_at": None,
            "model": body["model"],
            "fine_tuned_model": None,
            "organization_id": "org-1",
            "result_files": [],
            "seed": body.get("seed", 1),
            "status": self.statuses[0],
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "hyperparameters": {"n_epochs": 3},
            "method": body.get("method"),
            "metadata": body.get("metadata"),
            "error": None,
            "trained_tokens": None,
        }
        self.jobs[job_id] = made
        self.events[job_id] = []
        self.tell(job_id, "Created fine-tuning job")
        return made

    def tell(self, job_id: str, message: str, level: str = "info") -> None:
        event = {"id": self.new_id("ftevent"), "object": "fine_tuning.job.event", "created_at": int(time.time())}
        self.events[job_id].append({**event, "level": level, "message": message, "type": "message", "data": {}})

    def looked_at(self, job_id: str) -> dict:
        job = self.jobs[job_id]
        if job["status"] in self.statuses and job["status"] != self.statuses[-1]:
            job["status"] = self.statuses[self.statuses.index(job["status"]) + 1]
            self.tell(job_id, f"now {job['status']}")
            if job["status"] == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['model']}:{job_id}", "trained_tokens": 1234, "finished_at": 1}
            if job["status"] == "failed":
                job["error"] = self.error or {
                    "code": "invalid_training_file",
                    "message": "line 3 is odd",
                    "param": "training_file",
                }
        return job

    def checkpoints(self, job_id: str) -> list[dict]:
        return [
            {
                "id": f"ckpt-{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": 1_700_000_000 + step,
                "fine_tuned_model_checkpoint": f"ft:{self.jobs[job_id]['model']}:{job_id}:ckpt-step-{step}",
                "fine_tuning_job_id": job_id,
                "metrics": {"step": step, "train_loss": 1.0 / step},
                "step_number": step,
            }
            for step in (30, 20, 10)
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: JobServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: clients go away on purpose here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            data = self._chunks()
        else:
            data = self.rfile.read(min(int(self.headers.get("content-length", 0)), _LONGEST_BODY))
        self._serve("POST", data)

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _serve(self, method: str, data: bytes) -> None:
        owner, parts = self.server.owner, urlsplit(self.path)
        path = parts.path.removeprefix("/v1")
        with owner.lock:
            owner.received.append((method, path))
            owner.times.append(time.monotonic())
            owner.headers.append({name.lower(): value for name, value in self.headers.items()})
            step = owner.fault(method, path)
        if self._fails(step):
            return
        try:
            if self.headers.get("authorization") == "Bearer bad":
                raise Refused(401, "invalid_api_key")
            if path == "/chat/completions":
                time.sleep(owner.answer_after_s)
            with owner.lock:
                body = self._answer(method, path, data, parse_qs(parts.query))
        except Refused as refused:
            self._respond(refused.status, refused.body, refused.headers)
            return
        if callable(step):
            step()
        if step == "lose":
            self._reset()
            return
        self._respond(200, body)

    def _fails(self, step: Any) -> bool:
        """Do what a fault says in place of the work; False where the work is to be done."""
        if step == "drop":
            self._reset()
        elif step == "hang":
            self.server.owner.ending.wait()
        elif isinstance(step, Refused):
            self._respond(step.status, step.body, step.headers)
        elif isinstance(step, int):
            self._respond(step, {"error": {"message": "no", "code": None, "param": None}})
        elif isinstance(step, bytes):
            self._respond(200, step)
        else:
            return False
        return True

    def _answer(self, method: str, path: str, data: bytes, query: Mapping[str, list[str]]) -> dict:
        owner = self.server.owner
        for pattern, answer in (
            ("POST /files", self._post_file),
            ("POST /uploads", self._post_upload),
            ("POST /uploads/([^/]+)/parts", self._post_part),
            ("POST /uploads/([^/]+)/complete", self._complete),
        ):
            if match := re.fullmatch(pattern, f"{method} {path}"):
                return answer(data, *match.groups())
        if (method, path) == ("GET", "/files"):
            if not owner.lists_files:
                raise NoSuchPath(405)
            return owner.paged(list(reversed(owner.files.values())), query)
        if (method, path) == ("POST", "/fine_tuning/jobs"):
            return owner.job(json.loads(data))
        if (method, path) == ("GET", "/fine_tuning/jobs"):
            return owner.paged(list(reversed(owner.jobs.values())), query)
        if (method, path) == ("POST", "/chat/completions"):
            return self._chat(json.loads(data))
        if match := re.fullmatch(r"/fine_tuning/jobs/([^/]+)(/\w+)?", path):
            return self._job(method, match[1], match[2] or "", query)
        raise NoSuchPath(404)

    def _job(self, method: str, job_id: str, what: str, query: Mapping[str, list[str]]) -> dict:
        owner = self.server.owner
        if job_id not in owner.jobs:
            raise Refused(404, "job_not_found", "no such job")
        if what == "/events":
            return owner.paged(list(reversed(owner.events[job_id])), query)
        if what == "/checkpoints":
            return owner.paged(owner.checkpoints(job_id), query)
        if what == "/cancel":
            owner.jobs[job_id]["status"] = "cancelled"
            return owner.jobs[job_id]
        return owner.looked_at(job_id)

    def _chat(self, body: dict) -> dict:
        owner, text = self.server.owner, body["messages"][-1]["content"]
        owner.asked.append((body["model"], text))
        message = {"role": "assistant", "content": owner.answers(body["model"], text)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "cmpl-1", "model": body["model"], "choices": [choice], "usage": {}}

    def _post_file(self, data: bytes) -> dict:
        name, content = self._part_of(data, "file")
        if b"REFUSE ME" in content:
            raise Refused(400, "invalid_file_format", "line 1 is not JSON", "file")
        return self.server.owner.file(name, content)

    def _post_upload(self, data: bytes) -> dict:
        body, owner = json.loads(data), self.server.owner
        upload = {"id": owner.new_id("upload"), "object": "upload", "status": "pending", "parts": {}, **body}
        owner.uploads[upload["id"]] = upload
        return {key: value for key, value in upload.items() if key != "parts"}

    def _post_part(self, data: bytes, upload_id: str) -> dict:
        owner = self.server.owner
        part_id = owner.new_id("part")
        owner.uploads[upload_id]["parts"][part_id] = self._part_of(data, "data")[1]
        return {"id": part_id, "object": "upload.part", "created_at": 1, "upload_id": upload_id}

    def _complete(self, data: bytes, upload_id: str) -> dict:
        owner = self.server.owner
        upload = owner.uploads[upload_id]
        if upload["status"] != "pending":
            raise Refused(400, "upload_not_pending", "this upload is over")
        content = b"".join(upload["parts"][part] for part in json.loads(data)["part_ids"])
        if len(content) != upload["bytes"]:
            raise Refused(400, "wrong_size", "the bytes do not add up")
        upload["status"] = "completed"
        shown = {key: value for key, value in upload.items() if key != "parts"}
        return {**shown, "file": owner.file(upload["filename"], content)}

    def _part_of(self, data: bytes, name: str) -> tuple[str, bytes]:
        """Return file name and content of the multipart field *name*."""
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        for part in BytesParser(policy=HTTP).parsebytes(head + data).iter_parts():
            if part.get_param("name", header="content-disposition") == name:
                return part.get_filename() or "", part.get_payload(decode=True)
        raise Refused(400, "no_file")

    def _respond(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        sent = {"content-type": "application/json", "content-length": str(len(data)), "x-request-id": "req-7"}
        for key, value in {**sent, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
