"""One HTTP application for one loaded model version: the workload's routes, probes, examples, docs, metrics.

It does not load models and does not know Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.dependencies import models
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from mizzen import metrics
from mizzen.errors import MizzenError
from mizzen.serving import inference_protocol, openapi
from mizzen.serving.admission import Admission
from mizzen.serving.auth import Access, Authentication
from mizzen.serving.bodies import Bodies
from mizzen.serving.deadline import Deadline
from mizzen.serving.middleware import REQUEST_ID, Answers, Front, relative_path
from mizzen.serving.replies import reply
from mizzen.serving.spec import Cors
from mizzen.serving.tensor_model import TensorModel
from mizzen.workloads.contract import Endpoint, Example, Fields, ModelIdentity


class Limits(Fields):
    """How much an application takes in, and for how long; the serve file says what each means."""

    max_ongoing_requests: int
    max_queued_requests: int
    max_request_bytes: int
    timeout_s: float = 60
    stream_timeout_s: float = 600
    body_timeout_s: float = 15


class Health(Fields):
    """The answer of a probe."""

    status: str
    model: str
    version: int


class ExampleRequest(Fields):
    """A request that works on this version."""

    path: str
    """Below the route prefix."""
    body: dict[str, Any]


def no_examples() -> Sequence[Example]:
    """For a model without example requests."""
    return ()


@dataclass(frozen=True)
class Facts:
    """What the documentation page says of the model."""

    summary: str
    workload: str
    examples: Callable[[], Sequence[Example]] = no_examples
    """Makes requests that work on this version; it may read files."""


def http_app(
    identity: ModelIdentity,
    endpoint: Endpoint,
    recorder: metrics.ServedMetrics,
    limits: Limits,
    facts: Facts,
    access: Access | None = None,
    cors: Cors | None = None,
    tensors: TensorModel | None = None,
) -> ASGIApp:
    """The application that answers for `identity`, as `access` lets it; its endpoint has been started."""
    # Its documentation page brings its own scripts: nothing is loaded from elsewhere.
    app = FastAPIOffline(
        title=f"{identity.name}, version {identity.version}",
        version=str(identity.version),
        description=f"{facts.summary}\n\nWorkload `{facts.workload}`, digest `{identity.digest}`.",
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_probes(app, identity, endpoint)
    _add_examples(app, facts)
    if tensors is not None:
        app.include_router(inference_protocol.router(tensors, endpoint.problem))
    app.include_router(endpoint.router)
    openapi.complete(app, needs_key=access is not None)
    for kind in (MizzenError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)
    # Not `add_middleware`: Starlette answers an unexpected exception outside of it, where it has no name.
    bodies = Bodies(limits.max_request_bytes, limits.body_timeout_s)
    inside: ASGIApp = Admission(app, limits.max_ongoing_requests, limits.max_queued_requests, bodies.read)
    if access is not None:
        inside = Authentication(inside, access)
    inside = Deadline(inside, limits.timeout_s, limits.stream_timeout_s)
    if cors is not None:
        inside = _shared(inside, cors)
    return Front(inside, identity, recorder)


def forget_closed() -> None:
    """Have FastAPI drop the endpoints that it remembers, or a closed version's memory is never freed.

    It classifies handlers (is it a coroutine function?) in caches whose keys hold the handlers.
    """
    for value in vars(models).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _add_probes(app: FastAPI, identity: ModelIdentity, endpoint: Endpoint) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> Health:
        """Whether the process is alive."""
        return Health(status="alive", model=identity.name, version=identity.version)

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> Health:
        """Whether the model is loaded and can answer: while it cannot, the answer is 503."""
        problem = endpoint.problem()
        if problem is not None:
            raise HTTPException(503, problem)
        return Health(status="ready", model=identity.name, version=identity.version)

    @app.get("/metrics", tags=["operation"])
    def prometheus() -> Response:
        """Totals over all replicas on this machine, in Prometheus's text format."""
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


def _add_examples(app: FastAPI, facts: Facts) -> None:
    @app.get("/examples", tags=["operation"])
    def examples() -> list[ExampleRequest]:
        """Requests (POST) that work on the version that is loaded; the first is the one to try."""
        return [ExampleRequest(path=one.path, body=dict(one.body)) for one in facts.examples()]


def _shared(app: ASGIApp, cors: Cors) -> ASGIApp:
    """`app`, also for pages of the sites in `cors`."""
    return CORSMiddleware(
        Answers(app),
        allow_origins=cors.origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # a key is one; which others a client's library sends is its own business
        expose_headers=[
            "mizzen-model",
            "mizzen-version",
            "mizzen-digest",
            "mizzen-request-id",
            "retry-after",
        ],
        max_age=cors.max_age_s,
    )


async def _answer(request: Request, exception: Exception) -> Response:
    answer = reply(exception, request.scope.get(REQUEST_ID, ""))
    body = answer.body(relative_path(request.scope))
    return Response(body, answer.status, headers=dict(answer.headers), media_type="application/json")
