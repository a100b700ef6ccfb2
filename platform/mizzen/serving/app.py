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
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from mizzen import logs, settings, tracing
from mizzen.errors import ServingError, StoreError
from mizzen.resources import TICK_EVERY_S, Resources
from mizzen.serving.auth import Access, access
from mizzen.serving.loading import Loaded, Surroundings, load
from mizzen.serving.pins import (
    DEPLOYMENT,
    IMPORT_PATH,
    Pin,
    Pinned,
    PinnedCanary,
    PinnedShadow,
    check,
    pin,
    resolve,
)
from mizzen.serving.roles import Role, Roles
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.spec import App
from mizzen.serving.watch import PATIENCE_S, Replace, Watcher
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
    """One replica: holds versions in memory and answers for them."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = Arguments.model_validate(arguments)
        _log_with_serve(self.arguments.app.name)
        tracing.start(role="replica", app=self.arguments.app.name)
        app = self.arguments.app
        self.resources = Resources("app", app.name, app.num_cpus, app.num_gpus)
        self.levels = ServiceLevels(app.name, app.slo)
        self.roles: Roles[Loaded] = Roles(app, self._load, self.levels)
        self.roles.switch.at_end.insert(0, self._end)  # before the roles end: nobody may change them then
        self._changes: set[asyncio.Task[Any]] = set()
        self._watching: list[asyncio.Task[None]] = []
        self._ticking: asyncio.Task[None] | None = None
        self._access: Access | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.roles.switch

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Hold other versions, or follow the references if `user_config` is empty.

        At the start this returns when the first version is loaded; later at once. Serve sends no requests to
        a replica while this runs, so a running replica loads in the background; a canary and a shadow are
        always loaded there.
        """
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        for task in self._watching:
            task.cancel()
        self._watching = []
        await asyncio.gather(*self._changes)
        if not user_config:
            await self._follow()
            return
        wanted = Pinned.model_validate(user_config)
        if self.roles.first is None:
            await self.roles.answer_with(wanted.first, self.arguments.app.model)
        self._begin(self._hold(wanted))

    async def _hold(self, wanted: Pinned) -> None:
        await self.roles.replace(wanted.first, self.arguments.app.model)
        await self.roles.share_with(wanted.canary)
        await self.roles.copy_to(wanted.shadow)

    async def _follow(self) -> None:
        try:
            store = ModelStore(self.arguments.store)
        except StoreError:
            await asyncio.sleep(PATIENCE_S)
            raise
        app, every_s = self.arguments.app, self.arguments.watch_every_s
        watcher = Watcher(app, store, every_s)
        if self.roles.first is None:
            await watcher.first(self._first)
        else:
            watcher.answers = self.roles.first
        self._watch(watcher.run(self._take_over))
        if app.canary is not None:
            self._watch(_from_now(Watcher(app.of(app.canary.model), store, every_s), self._share_with))
        if app.shadow is not None:
            self._watch(_from_now(Watcher(app.of(app.shadow.model), store, every_s), self._copy_to))

    def _watch(self, follow: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(follow)
        task.add_done_callback(_tell_why)
        self._watching.append(task)

    async def _first(self, manifest: Manifest) -> None:
        check(self.arguments.app, manifest)
        await self.roles.answer_with(pin(manifest), self.arguments.app.model)

    async def _take_over(self, manifest: Manifest) -> bool:
        return await self._change(self.roles.replace(pin(manifest), self.arguments.app.model))

    async def _share_with(self, manifest: Manifest) -> bool:
        canary = self.arguments.app.canary
        assert canary is not None
        return await self._change(self.roles.share_with(PinnedCanary(pin=pin(manifest), canary=canary)))

    async def _copy_to(self, manifest: Manifest) -> bool:
        shadow = self.arguments.app.shadow
        assert shadow is not None
        return await self._change(self.roles.copy_to(PinnedShadow(pin=pin(manifest), shadow=shadow)))

    async def _change(self, change: Coroutine[Any, Any, bool]) -> bool:
        # A task of its own: when the watcher is cancelled, a version is still loaded or not, never half.
        return await asyncio.shield(self._begin(change))

    def _begin(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        # Kept, for first, canary and shadow may change at once, and the loop itself holds tasks but weakly.
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task

    async def _load(self, wanted: Pin, role: Role) -> Loaded:
        here, app, store_url = settings.current(), self.arguments.app, self.arguments.store
        if self._access is None:
            self._access = await asyncio.to_thread(access, app.name, here, store_url)
        around = Surroundings(store_url, here.cache_dir, self._access, self.levels, self.roles.shadow)
        return await load(app, wanted, around, as_shadow=role == "shadow")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_EVERY_S)
            self.resources.tick()

    async def _end(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        for task in self._watching:
            task.cancel()
        self.resources.close()


async def _from_now(watcher: Watcher, replace: Replace) -> None:
    """Have what the reference means now, and then whatever it means."""
    await watcher.poll(replace)
    await watcher.run(replace)


def _tell_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("the alias is not followed any more", exc_info=task.exception())


def _log_with_serve(app: str) -> None:
    # Serve's logger writes Serve's own log file of the replica; `mizzen jobs` and errors at start look there.
    logs.start(f"replica-{app}", app=app)
    ours = logging.getLogger("mizzen")
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
    pinned = {} if follows else resolve(app, ModelStore(arguments.store)).pinned(app).model_dump()
    deployment = serve.deployment(serve.ingress()(Replica))
    return deployment.options(
        name=DEPLOYMENT,
        user_config=pinned,
        ray_actor_options={"num_cpus": app.num_cpus, "num_gpus": app.num_gpus},
        # Twice, for a canary has a queue of its own, and may come at any time.
        max_ongoing_requests=2 * (app.max_ongoing_requests + app.max_queued_requests) + _PROBE_SLOTS,
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
