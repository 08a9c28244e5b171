"""The service as one ASGI application, with its queue."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vtuned import __version__
from vtuned import receipt as receipts
from vtuned.attacks import policies
from vtuned.errors import VtunedError
from vtuned.server import answer_routes, file_routes, job_routes
from vtuned.server.gate import Gate
from vtuned.server.home import Home
from vtuned.server.orders import refusal_of
from vtuned.server.queue import Queue
from vtuned.server.refusals import Refusal, error_body, log_unexpected
from vtuned.server.serving import Models, check_bases
from vtuned.server.state import State
from vtuned.server.store import now
from vtuned.server.tenants import Tenants
from vtuned.server.transport import Faulty, Logged

LOG = logging.getLogger("vtuned.server")

HONEST = "honest"
MAX_FILE_BYTES = 512 << 20
MAX_TENANT_BYTES = 4 << 30
MAX_UNFINISHED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What a server is told: its folder *data*, its base models by name, its policy, and its limits.

    *tenants* are those who may come in; without, every bearer token is a tenant of its own. *oracle* is the receipt that
    the policy `planted-only` is shown.
    """

    data: Path
    models: Mapping[str, str] = field(default_factory=lambda: {"smollm2": "smollm2"})
    policy: str = HONEST
    oracle: Path | None = None
    tenants: Tenants = field(default_factory=lambda: Tenants(None))
    max_file_bytes: int = MAX_FILE_BYTES
    max_tenant_bytes: int = MAX_TENANT_BYTES
    max_unfinished: int = MAX_UNFINISHED


def application(settings: Settings) -> FastAPI:
    """
    Return the service; its queue works while the application runs.

    Raises OutputNotWritable for a folder that cannot be used, UsageError for models and policies that are not known.
    """
    check_bases(settings.models)
    home = Home.made(settings.data)
    store = home.store()
    home.tidy(store)
    oracle = receipts.read_receipt(settings.oracle) if settings.oracle else None
    policy = policies.policy(settings.policy, key=home.key(), oracle=oracle)
    queue = Queue(home, store, settings.oracle)
    models = Models(home, store, settings.models, oracle)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        queue.start()
        yield
        queue.stop()

    # The documentation pages of FastAPI load scripts from elsewhere; /openapi.json does not.
    app = FastAPI(
        title="vtuned provider",
        version=__version__,
        description="OpenAI's files, uploads, fine-tuning jobs, models and completions.",
        docs_url=None,
        redoc_url=None,
        lifespan=working,
        dependencies=[Depends(HTTPBearer(auto_error=False))],
    )
    app.state.server = state = State(
        home=home,
        store=store,
        models=models,
        policy=settings.policy,
        started=now(),
        max_file_bytes=settings.max_file_bytes,
        max_tenant_bytes=settings.max_tenant_bytes,
        max_unfinished=settings.max_unfinished,
        wake=queue.wake,
    )
    for routes in (file_routes, job_routes, answer_routes):
        app.include_router(routes.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(VtunedError, _failed)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(
        Gate,
        tenants=settings.tenants,
        max_file_bytes=settings.max_file_bytes,
        may_come=partial(file_routes.may_come, state),
    )
    if settings.policy != HONEST:
        app.add_middleware(Faulty, fault=policy.fault, count=store.count_request)
    app.add_middleware(Logged)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error.body() if isinstance(error, Refusal) else error_body(error.status_code, str(error.detail))
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    refusal = refusal_of(list(error.errors()))
    return JSONResponse(refusal.body(), refusal.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer for a model that cannot be loaded or asked: the server's own log says why, the tenant is told that."""
    LOG.error("%s: %s", type(error).__name__, error)
    return JSONResponse(error_body(503, "The server cannot do this now."), 503)


async def _unexpected(request: Request, error: Exception) -> Response:
    log_unexpected("a request", error)
    return JSONResponse(error_body(500, "The server had an error."), 500)
