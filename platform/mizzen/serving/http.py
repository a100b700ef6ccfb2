"""One HTTP application for one loaded model version: the workload's routes, probes, examples, docs, metrics.

It does not load models and does not know Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.dependencies import models
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen import metrics, totals
from mizzen.errors import ServingError
from mizzen.recording import ServedMetrics
from mizzen.serving import inference_protocol, openapi
from mizzen.serving.access_log import AccessLog
from mizzen.serving.admission import Admission
from mizzen.serving.auth import OPEN, Access, Authentication
from mizzen.serving.bodies import Bodies
from mizzen.serving.deadline import Deadline
from mizzen.serving.limits import RATE_HEADERS, Unit
from mizzen.serving.middleware import ALWAYS_ANSWERED, Answers, Front
from mizzen.serving.model_routes import ModelRoutes
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.shadow import Copies, Shadow
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
    recorder: ServedMetrics,
    limits: Limits,
    facts: Facts,
    access: Access | None = None,
    cors: Cors | None = None,
    tensors: TensorModel | None = None,
    levels: ServiceLevels | None = None,
    shadow: Shadow | None = None,
    log: AccessLog | None = None,
) -> ASGIApp:
    """The application that answers for `identity`, as `access` lets it; its endpoint has been started."""
    app = _documented(identity, endpoint, facts, tensors, needs_key=access is not None)
    routes = ModelRoutes(endpoint, has_tensors=tensors is not None)
    read_body = Bodies(limits.max_request_bytes, limits.body_timeout_s).read
    inside: ASGIApp = _Routes(app)
    if shadow is not None:
        inside = Copies(inside, shadow, routes.left_out)
    places = limits.max_ongoing_requests, limits.max_queued_requests
    waits = recorder.recorder.cell(metrics.QUEUE_WAIT, queue="admission")
    inside = Admission(inside, *places, read_body, waits.observe)
    if access is not None:
        inside = Authentication(inside, access)
    inside = Deadline(inside, limits.timeout_s, limits.stream_timeout_s)
    if cors is not None:
        inside = _shared(inside, cors)
    return Front(inside, identity, recorder, recorder.recorder.fixed, levels, routes.is_own, log)


def shadow_app(
    identity: ModelIdentity, endpoint: Endpoint, facts: Facts, tensors: TensorModel | None
) -> ASGIApp:
    """The routes of a shadow alone: nobody is counted, asked for a key, or told to wait."""
    return Answers(_Routes(_documented(identity, endpoint, facts, tensors, needs_key=False)))


def _documented(
    identity: ModelIdentity, endpoint: Endpoint, facts: Facts, tensors: TensorModel | None, *, needs_key: bool
) -> FastAPI:
    """The routes with their documentation."""
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
    _check_free(endpoint)
    app.include_router(endpoint.router)
    app.router.routes.insert(0, app.router.routes.pop())  # asked most, so found first
    openapi.complete(app, needs_key=needs_key)
    return app


def _check_free(endpoint: Endpoint) -> None:
    """Raise `ServingError` if a route of the workload would answer in place of one of ours."""
    for route in endpoint.router.routes:
        pattern = getattr(route, "path_regex", None)
        taken = [path for path in sorted(OPEN | ALWAYS_ANSWERED) if pattern and pattern.match(path)]
        if taken:
            raise ServingError(
                f"the workload's route {getattr(route, 'path', '')} takes the place of {taken[0]}",
                remedy="Give the workload's routes paths of their own, such as /v1/...",
            )


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

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def prometheus(request: Request) -> Response:
        """Totals over all replicas on this machine, in Prometheus's text format or OpenMetrics."""
        content, content_type = totals.answer(request.headers.get("accept"))
        return Response(content, media_type=content_type)


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
            *(f"x-ratelimit-{told}-{unit}" for told in RATE_HEADERS for unit in get_args(Unit)),
        ],
        max_age=cors.max_age_s,
    )


class _Routes:
    """The routes of `app` without what FastAPI puts around them: `Front` answers exceptions."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.routes = AsyncExitStackMiddleware(app.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.app
        await self.routes(scope, receive, send)
