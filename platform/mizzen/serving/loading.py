"""Makes a model version of the store into an HTTP application that answers, and takes it down again.

It does not decide which version: it is given a `Pin`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from mizzen import logs, metrics, tracing
from mizzen.errors import IntegrityError, ServeFileError
from mizzen.files import validate
from mizzen.recording import ServedMetrics
from mizzen.serving import drift
from mizzen.serving.access_log import AccessLog
from mizzen.serving.auth import Access
from mizzen.serving.batching import ServeBatching
from mizzen.serving.http import Facts, Limits, http_app, shadow_app
from mizzen.serving.middleware import METHODS
from mizzen.serving.model_routes import ModelRoutes
from mizzen.serving.pins import Pin, check
from mizzen.serving.retrievers import Retrievers
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.sessions import Sessions, TracedRuntime
from mizzen.serving.shadow import Shadow
from mizzen.serving.spec import App
from mizzen.serving.tensor_model import TensorModel
from mizzen.store.lake import ParquetLake
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore
from mizzen.workloads import registry
from mizzen.workloads.contract import SILENT, Endpoint, Recorder, ServedModel, Workload


@dataclass
class Loaded:
    """A version that answers."""

    pin: Pin
    app: ASGIApp
    endpoint: Endpoint
    batching: ServeBatching
    recorder: ServedMetrics
    lake: ParquetLake | None
    workload: str
    info: dict[str, str]
    _shown: ServedMetrics | None = None

    def show_as(self, reference: str) -> None:
        """Show from now on that this replica answers with the version, which `reference` means."""
        before, app = self._shown, self.recorder.recorder.fixed["app"]
        self._shown = ServedMetrics(app, self.pin.name, self.pin.version)
        self._shown.loaded(alias=alias_of(reference), **self.info)
        if before is not None:
            before.forget()

    async def close(self) -> None:
        """Take it down; no request is in flight any more. Whatever of it fails, the rest goes too."""
        self.recorder.forget()
        if self._shown is not None:
            self._shown.forget()
        async with AsyncExitStack() as rest:
            rest.push_async_callback(asyncio.to_thread, _send_what_is_left)
            if self.lake is not None:
                rest.push_async_callback(self.lake.close)
            rest.callback(self.batching.close)
            await self.endpoint.close()


@dataclass(frozen=True)
class Surroundings:
    """What the versions of one replica share."""

    store_url: str
    cache_dir: Path
    access: Access | None = None
    levels: ServiceLevels | None = None
    shadow: Shadow | None = None


def alias_of(reference: str) -> str:
    """The alias that a reference names, `none` if it names none."""
    which = reference.partition("@")[2]
    return "none" if not which or which.isdigit() else which


async def load(app: App, wanted: Pin, around: Surroundings, *, as_shadow: bool = False) -> Loaded:
    """Fetch, verify, load and start a version. The event loop stays free meanwhile, up to `Endpoint.start`.

    As a shadow it records nothing of what it is asked, and has no lake: it cannot keep anything.
    Raises `MizzenError`: `IntegrityError` if the store now holds other bytes than were pinned.
    """
    recorder = ServedMetrics(app.name, wanted.name, wanted.version)
    recorder.recorder.count(metrics.RELOAD_FAILURES, 0)
    begun_s = time.monotonic()
    async with AsyncExitStack() as undo:
        undo.callback(recorder.forget)
        with tracing.span("load", app=app.name, model=wanted.name, version=str(wanted.version)):
            loaded = await _load(app, wanted, around, recorder, undo, as_shadow=as_shadow)
        undo.pop_all()
    recorder.recorder.observe(metrics.MODEL_LOAD_DURATION, time.monotonic() - begun_s)
    recorder.recorder.set(metrics.MODEL_LOADED_AT, time.time())
    return loaded


async def _load(
    app: App,
    wanted: Pin,
    around: Surroundings,
    recorder: ServedMetrics,
    undo: AsyncExitStack,
    *,
    as_shadow: bool,
) -> Loaded:
    """`undo` hears of what must be let go if the version cannot be loaded after all."""
    with tracing.span("fetch"):
        manifest, folder = await asyncio.to_thread(_fetch, wanted, around.store_url, around.cache_dir)
    check(app, manifest)
    workload = registry.get(manifest.workload)
    options = validate(workload.serve_options, app.options, ServeFileError, f"app {app.name}", "options")
    of_requests: Recorder = SILENT if as_shadow else recorder.recorder
    batching = ServeBatching(app.batching, None if as_shadow else recorder.recorder)
    undo.callback(batching.close)
    runtime = await asyncio.to_thread(Sessions, app.execution_provider, app.num_threads)
    # Of its own: versions of a knowledge base come and go, and their sessions are not to stay.
    passages = await asyncio.to_thread(TracedRuntime, app.execution_provider, app.num_threads)
    lake = None if as_shadow else ParquetLake(around.store_url)
    model = ServedModel(
        identity=wanted.identity,
        folder=folder,
        runtime=runtime,
        batched=batching,
        app=app.name,
        facts={
            "quality": manifest.quality,
            "baselines": manifest.baselines,
            "precision": manifest.precision,
            "created_at": manifest.created_at.isoformat(),
        },
        retriever=Retrievers(ModelStore(around.store_url), around.cache_dir, passages),
        lake=lake,
        recorder=of_requests,
    )
    if not as_shadow:
        model = replace(model, watch_inputs=drift.watching(folder, recorder.recorder))
    with tracing.span("start"):
        endpoint = await asyncio.to_thread(workload.endpoint, model, options)
        undo.push_async_callback(endpoint.close)
        await endpoint.start()
    facts = Facts(workload.summary, workload.name, examples=partial(workload.examples, folder))
    info = {
        "digest": wanted.digest,
        "workload": workload.name,
        "precision": manifest.precision,
        "provider": runtime.provider,
    }
    tensors = await asyncio.to_thread(_tensor_model, workload, model, app.batching.max_batch_size)
    if as_shadow:
        asgi = shadow_app(wanted.identity, endpoint, facts, tensors)
    else:
        show_zeros(recorder.recorder, ModelRoutes(endpoint, has_tensors=tensors is not None))
        asgi = http_app(
            wanted.identity,
            endpoint,
            recorder,
            _limits(app),
            facts,
            around.access,
            app.cors,
            tensors,
            around.levels,
            around.shadow,
            _access_log(app, recorder),
        )
    return Loaded(wanted, asgi, endpoint, batching, recorder, lake, workload.name, info)


def show_zeros(recorder: Recorder, routes: ModelRoutes) -> None:
    """Show counters before anything has happened: `rate` and `increase` miss a series' first appearance."""
    for reason in metrics.REJECTED.labels[-1].values:
        recorder.count(metrics.REJECTED, 0, reason=reason)
    for template, methods in routes.methods.items():
        for method in sorted(methods & METHODS):
            for code in ("200", "500"):
                recorder.count(metrics.REQUESTS, 0, route=template, method=method, code=code)


def _send_what_is_left() -> None:
    """Spans and log lines: the replica may be ended soon."""
    tracing.flush()
    if (file := logs.file()) is not None:
        file.flush()


def _access_log(app: App, recorder: ServedMetrics) -> AccessLog | None:
    file = logs.file()
    return AccessLog(file, recorder.recorder.fixed) if app.access_log and file is not None else None


def _limits(app: App) -> Limits:
    return Limits(
        max_ongoing_requests=app.max_ongoing_requests,
        max_queued_requests=app.max_queued_requests,
        max_request_bytes=app.max_request_bytes,
        timeout_s=app.timeout_s,
        stream_timeout_s=app.stream_timeout_s,
        body_timeout_s=app.body_timeout_s,
    )


def _tensor_model(workload: Workload, model: ServedModel, max_rows: int) -> TensorModel | None:
    """The model for the Open Inference Protocol, if it has a signature."""
    signature = workload.signature(model.folder, model.runtime)
    if signature is None:
        return None
    predict = workload.open(model.folder, model.runtime)
    return TensorModel(model.identity, model.app, signature, predict, model.batched, max_rows)


def _fetch(wanted: Pin, store_url: str, cache_dir: Path) -> tuple[Manifest, Path]:
    store = ModelStore(store_url)
    manifest = store.manifest(wanted.name, wanted.version)
    if manifest.digest != wanted.digest:
        raise IntegrityError(
            f"{wanted.name}@{wanted.version} is not the version that was asked for",
            saw=manifest.digest,
            allowed=wanted.digest,
            remedy="Check that all replicas use the same store, then reload.",
        )
    return manifest, store.fetch(manifest, cache_dir)
