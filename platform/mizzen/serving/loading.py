"""Makes a model version of the store into an HTTP application that answers, and takes it down again.

It does not decide which version: it is given a `Pin`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from mizzen import tracing
from mizzen.errors import IntegrityError, ServeFileError
from mizzen.files import validate
from mizzen.recording import ServedMetrics
from mizzen.serving import drift
from mizzen.serving.auth import Access
from mizzen.serving.batching import ServeBatching
from mizzen.serving.http import Facts, Limits, http_app
from mizzen.serving.pins import Pin
from mizzen.serving.retrievers import Retrievers
from mizzen.serving.sessions import Sessions, TracedRuntime
from mizzen.serving.spec import App
from mizzen.serving.tensor_model import TensorModel
from mizzen.store.lake import ParquetLake
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore
from mizzen.workloads import registry
from mizzen.workloads.contract import Endpoint, ServedModel, Workload


@dataclass
class Loaded:
    """A version that answers."""

    pin: Pin
    app: ASGIApp
    endpoint: Endpoint
    batching: ServeBatching
    recorder: ServedMetrics
    lake: ParquetLake
    info: dict[str, str]

    async def close(self) -> None:
        """Take it down; no request is in flight any more."""
        self.recorder.forget()
        await self.endpoint.close()
        self.batching.close()
        await self.lake.close()


async def load(
    app: App, wanted: Pin, store_url: str, cache_dir: Path, access: Access | None = None
) -> Loaded:
    """Fetch, verify, load and start a version. The event loop stays free meanwhile, up to `Endpoint.start`.

    Raises `MizzenError`: `IntegrityError` if the store now holds other bytes than were pinned.
    """
    with tracing.span("load", app=app.name, model=wanted.name, version=str(wanted.version)):
        return await _load(app, wanted, store_url, cache_dir, access)


async def _load(app: App, wanted: Pin, store_url: str, cache_dir: Path, access: Access | None) -> Loaded:
    with tracing.span("fetch"):
        manifest, folder = await asyncio.to_thread(_fetch, wanted, store_url, cache_dir)
    workload = registry.get(manifest.workload)
    options = validate(workload.serve_options, app.options, ServeFileError, f"app {app.name}", "options")
    recorder = ServedMetrics(app.name, wanted.name, wanted.version)
    batching = ServeBatching(app.batching, recorder.recorder)
    runtime = await asyncio.to_thread(Sessions, app.execution_provider, app.num_threads)
    # Of its own: versions of a knowledge base come and go, and their sessions are not to stay.
    passages = await asyncio.to_thread(TracedRuntime, app.execution_provider, app.num_threads)
    lake = ParquetLake(store_url)
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
        retriever=Retrievers(ModelStore(store_url), cache_dir, passages),
        lake=lake,
        recorder=recorder.recorder,
        watch_inputs=drift.watching(folder, recorder.recorder),
    )
    with tracing.span("start"):
        endpoint = await asyncio.to_thread(workload.endpoint, model, options)
        await endpoint.start()
    limits = Limits(
        max_ongoing_requests=app.max_ongoing_requests,
        max_queued_requests=app.max_queued_requests,
        max_request_bytes=app.max_request_bytes,
        timeout_s=app.timeout_s,
        stream_timeout_s=app.stream_timeout_s,
        body_timeout_s=app.body_timeout_s,
    )
    facts = Facts(workload.summary, workload.name, examples=partial(workload.examples, folder))
    info = {
        "digest": wanted.digest,
        "workload": workload.name,
        "precision": manifest.precision,
        "provider": runtime.provider,
    }
    tensors = await asyncio.to_thread(_tensor_model, workload, model, app.batching.max_batch_size)
    asgi = http_app(wanted.identity, endpoint, recorder, limits, facts, access, app.cors, tensors)
    recorder.loaded(**info)
    return Loaded(wanted, asgi, endpoint, batching, recorder, lake, info)


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
