"""The Ray Serve graph: one application per model, its ASGI app built inside the replica.

`build` is the import path (`mizzen.serving.app:build`) for `serve deploy` and for a RayService; it takes one
entry of a serve file and the store's address. A request goes from the ingress straight into the replica
that holds the model: there is no other hop.

Which version answers is either pinned, by `user_config`, as `mizzen serve` does it; or, with `watch_every_s`,
each replica follows the alias by itself, as on a cluster. A change of either does not restart replicas: each
loads the new version beside the old, swaps, lets requests in flight finish, and closes the old one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from mizzen import settings
from mizzen.errors import ServingError, StoreError
from mizzen.recording import ServedMetrics
from mizzen.serving.auth import Access, access
from mizzen.serving.http import forget_closed
from mizzen.serving.loading import Loaded, load
from mizzen.serving.pins import DEPLOYMENT, IMPORT_PATH, Pin, check, pin, resolve
from mizzen.serving.spec import App
from mizzen.serving.switch import Switch
from mizzen.serving.watch import PATIENCE_S, Watcher
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore

logger = logging.getLogger(__name__)

_FREE_AFTER_S = 1.0
"""The tasks that answered the last requests still hold a version when it is closed."""
_PROBE_SLOTS = 32
"""Requests above our own queue that Serve lets through, so that probes are answered when it is full."""
_FOR_EVER = 1_000_000
"""Starts of a replica that follows its alias: until there is a version that can be loaded. Serve gives up
earlier, after `RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT` starts for each replica that is wanted (3 by default):
that variable must be as high where Serve's controller runs, which is the head."""


class Arguments(BaseModel, extra="forbid"):
    """What `build` takes: one entry of a serve file, and where its model is."""

    app: App
    store_url: str | None = None
    """Default: `MIZZEN_STORE`, in the environment of the Ray processes."""
    watch_every_s: float = Field(0, ge=0)
    """How often each replica asks whether its alias has moved; 0 pins the version that it means now."""

    @property
    def store(self) -> str:
        """The store's address."""
        return self.store_url or settings.current().store_url


class Replica:
    """One replica: holds a version in memory and answers for it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        _log_with_serve()
        self.arguments = Arguments.model_validate(arguments)
        self.switch: Switch[Loaded] = Switch()
        self._loading: asyncio.Task[bool] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._access: Access | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.switch

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Answer with another version, or follow the reference if `user_config` is empty.

        At the start this returns when a version is loaded; later at once. Serve sends no requests to a
        replica while this runs, so a running replica loads in the background.
        """
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._loading is not None:
            await self._loading
        if not user_config:
            await self._follow()
            return
        wanted = Pin.model_validate(user_config)
        if self.switch.current is None:
            self.switch.swap(await self._load(wanted))
        elif self.switch.current.pin != wanted:
            self._loading = asyncio.create_task(self._replace(wanted))

    async def _follow(self) -> None:
        try:
            store = ModelStore(self.arguments.store)
        except StoreError:
            await asyncio.sleep(PATIENCE_S)
            raise
        watcher = Watcher(self.arguments.app, store, self.arguments.watch_every_s)
        if self.switch.current is None:
            self.switch.swap(await watcher.first(self._load_checked))
        else:
            watcher.answers = self.switch.current.pin
        self._watching = asyncio.create_task(watcher.run(self._take_over))
        self._watching.add_done_callback(_tell_why)

    async def _take_over(self, manifest: Manifest) -> bool:
        # A task of its own: when the watcher is cancelled, a version is still loaded or not, never half.
        self._loading = asyncio.create_task(self._replace(pin(manifest), manifest))
        return await asyncio.shield(self._loading)

    async def _load(self, wanted: Pin) -> Loaded:
        here = settings.current()
        if self._access is None:
            self._access = await asyncio.to_thread(
                access, self.arguments.app.name, here, self.arguments.store
            )
        return await load(self.arguments.app, wanted, self.arguments.store, here.cache_dir, self._access)

    async def _load_checked(self, manifest: Manifest) -> Loaded:
        check(self.arguments.app, manifest)
        return await self._load(pin(manifest))

    async def _replace(self, wanted: Pin, manifest: Manifest | None = None) -> bool:
        try:
            new = await (self._load_checked(manifest) if manifest else self._load(wanted))
        except Exception:
            # Whatever is wrong with the new version, the old one goes on answering.
            logger.exception("%s@%s cannot be loaded; the version before stays", wanted.name, wanted.version)
            ServedMetrics(self.arguments.app.name, wanted.name, wanted.version).reload_failed()
            return False
        old = self.switch.swap(new)
        logger.info("%s@%s answers from now on", wanted.name, wanted.version)
        if old is not None:
            task = asyncio.create_task(self._retire(old))
            self._closing.add(task)
            task.add_done_callback(self._retired)
        return True

    async def _retire(self, old: Loaded) -> None:
        await self.switch.drained(old)
        await old.close()

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the version before was not closed cleanly", exc_info=task.exception())
        asyncio.get_running_loop().call_later(_FREE_AFTER_S, _free)


def _tell_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("the alias is not followed any more", exc_info=task.exception())


def _free() -> None:
    forget_closed()
    # Serve freezes what exists at startup; thaw it, or the first version's memory is never freed.
    gc.unfreeze()
    gc.collect()


def _log_with_serve() -> None:
    # Serve's logger writes the replica's log file; what other loggers say in a replica is lost.
    ours = logging.getLogger("mizzen")
    ours.setLevel(logging.INFO)
    for handler in logging.getLogger("ray.serve").handlers:
        ours.addHandler(handler)


def build(args: dict[str, Any]) -> Application:
    """The Serve application for one entry of a serve file, and its other `Arguments`.

    Without `watch_every_s` the alias is resolved here, and `user_config` of the deployment overrides what it
    was resolved to. With it nothing is asked of the store: there need not be a version yet.
    Raises `ServingError`, `NotFoundError`, `ServeFileError`, `StoreError`.
    """
    try:
        arguments = Arguments.model_validate(args)
    except ValueError as cause:
        raise ServingError(f"the arguments of {IMPORT_PATH} are wrong: {cause}") from None
    app, follows = arguments.app, arguments.watch_every_s > 0
    pinned = {} if follows else pin(resolve(app, ModelStore(arguments.store))).model_dump()
    deployment = serve.deployment(serve.ingress()(Replica))
    return deployment.options(
        name=DEPLOYMENT,
        user_config=pinned,
        ray_actor_options={"num_cpus": app.num_cpus, "num_gpus": app.num_gpus},
        max_ongoing_requests=app.max_ongoing_requests + app.max_queued_requests + _PROBE_SLOTS,
        max_queued_requests=-1,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        max_constructor_retry_count=_FOR_EVER if follows else 1,
        # A line for each request would cost as much as a lookup of the user; /metrics counts them.
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        **_scale(app),
    ).bind(arguments.model_dump(mode="json"))


def _scale(app: App) -> dict[str, Any]:
    if isinstance(app.replicas, int):
        return {"num_replicas": app.replicas}
    scaling = AutoscalingConfig(
        min_replicas=app.replicas.min,
        # An app that may go to nothing starts with a replica all the same: so errors show at once.
        initial_replicas=max(1, app.replicas.min),
        max_replicas=app.replicas.max,
        target_ongoing_requests=app.replicas.target_ongoing_requests,
        downscale_to_zero_delay_s=app.replicas.idle_s,
    )
    return {"autoscaling_config": scaling}
