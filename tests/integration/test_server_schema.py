"""Whatever the OpenAPI document allows, and much that it does not, the server answers without a 5xx."""

from __future__ import annotations

from itertools import count

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

import served
import tiny
from vtuned.server.app import Settings

HEADERS = {"Authorization": "Bearer token-of-alice"}


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """The operations of a running server, as its OpenAPI document has them."""
    folder = tmp_path_factory.mktemp("schema")
    rows = tiny.rows(4)
    tiny.make_model(folder / "model", [m["content"] for row in rows for m in row["messages"]])
    some = Settings(data=folder / "data", models={"tiny": f"hf:{folder / 'model'}"}, max_file_bytes=100_000)
    with served.in_thread(some) as url:
        document = schemathesis.openapi.from_url(f"{url.removesuffix('/v1')}/openapi.json")
        yield [found.ok() for found in document.get_all_operations()]


@pytest.fixture(scope="module")
def known(operations, tmp_path_factory):
    """Ids of a file, an upload and a job that are there, by the names of the path parameters."""
    url = operations[0].schema.location.replace("openapi.json", "v1")
    rows = tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", tiny.rows(4))
    with openai.OpenAI(base_url=url, api_key="token-of-alice") as client:
        file = client.files.create(file=rows, purpose="fine-tune").id
        upload = client.uploads.create(bytes=3, filename="a", mime_type="", purpose="fine-tune").id
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file).id
        client.fine_tuning.jobs.cancel(job)
    return {"file_id": file, "upload_id": upload, "job_id": job, "model": "tiny"}


def test_nothing_is_a_server_error(operations, known):
    """A few examples of each operation; the model that they name is there, and its answers are short."""
    seen, turns = set(), count()

    def ask(case):
        if isinstance(case.body, dict) and "model" in case.body:
            case.body |= {"model": "tiny", "max_tokens": 2, "max_completion_tokens": 2}
        if case.method != "DELETE" and len(case.path_parameters or {}) and next(turns) % 2:
            case.path_parameters |= {name: known[name] for name in case.path_parameters}
        answer = case.call(headers=HEADERS)
        seen.add(answer.status_code)
        assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text}"

    for operation in operations:
        limits = settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        limits(given(case=operation.as_strategy())(ask))()

    assert 20 == len(operations)
    assert {200, 400, 404} <= seen
