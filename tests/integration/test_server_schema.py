"""Whatever the OpenAPI document allows, and much that it does not, the server answers without a 5xx."""

from __future__ import annotations

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


def test_nothing_is_a_server_error(operations):
    """A few examples of each operation; the model that they name is there, and its answers are short."""
    seen = set()

    def ask(case):
        if isinstance(case.body, dict) and "model" in case.body:
            case.body |= {"model": "tiny", "max_tokens": 2, "max_completion_tokens": 2}
        answer = case.call(headers=HEADERS)
        seen.add(answer.status_code)
        assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text}"

    for operation in operations:
        limits = settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        limits(given(case=operation.as_strategy())(ask))()

    assert 19 == len(operations)
    assert {200, 400, 404} <= seen
