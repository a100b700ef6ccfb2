"""The versions that a replica holds, by their role: the first, a canary, a shadow; and how they change.

A change loads the new version beside the old, lets it take over, and closes the old one once its last request
is answered. One change at a time. What cannot be loaded changes nothing: the version before stays, and
without one all requests go to the first. It does not decide which versions are wanted, and knows no Ray.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Literal, Protocol, TypeVar

from starlette.types import Scope

from mizzen import metrics
from mizzen.recording import Recorder
from mizzen.serving.http import forget_closed
from mizzen.serving.middleware import UNKNOWN, method_of, route_of
from mizzen.serving.pins import Pin, PinnedCanary, PinnedShadow, check_alike
from mizzen.serving.service_levels import ServiceLevels
from mizzen.serving.shadow import Shadow, Target
from mizzen.serving.spec import App
from mizzen.serving.split import Split
from mizzen.serving.switch import Answering, Switch

logger = logging.getLogger(__name__)

Role = Literal["primary", "canary", "shadow"]
_FREE_AFTER_S = 1.0
"""The tasks that answered the last requests still hold a version when it is closed."""


class Version(Answering, Protocol):
    """A version that is loaded."""

    @property
    def pin(self) -> Pin:
        """Which it is."""
        ...

    @property
    def workload(self) -> str:
        """Of what kind it is."""
        ...

    def show_as(self, reference: str) -> None:
        """Show that this replica answers with it, by this reference."""
        ...


V = TypeVar("V", bound=Version)
Load = Callable[[Pin, Role], Awaitable[V]]


class Roles(Generic[V]):
    """What a replica answers with; `switch` is its ASGI app."""

    def __init__(
        self, app: App, load: Load[V], levels: ServiceLevels, record: Callable[..., Recorder] = Recorder
    ) -> None:
        """`record` makes a recorder of labels."""
        self.app = app
        self.shadow = Shadow()
        self.switch: Switch[V] = Switch(self._note_unloaded)
        self.switch.at_end.append(self._end)
        self._load = load
        self._levels = levels
        self._canary: PinnedCanary | None = None
        """The one that is wanted."""
        self._shadowing: V | None = None
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._record = record
        name = app.model.partition("@")[0]
        self._without_version = record(app=app.name, model=name, version="none")
        self._shares: dict[tuple[Role, Pin], Recorder] = {}
        """Who shows which share of the requests a version gets."""

    @property
    def first(self) -> Pin | None:
        """The version that answers, if there is one."""
        return None if self.switch.current is None else self.switch.current.pin

    async def answer_with(self, wanted: Pin, reference: str) -> None:
        """Have `wanted` answer; a canary of the same version takes over at once.

        Raises whatever loading it raises, and then everything stays.
        """
        async with self._changing:
            canary = self.switch.canary
            if self.first == wanted:
                return
            if canary is not None and canary.pin == wanted:
                self.switch.share(None, None)
                new = canary
            else:
                new = await self._load(wanted, "primary")
            new.show_as(reference)
            self._retire(self.switch.swap(new))
            logger.info("%s@%s answers from now on", wanted.name, wanted.version)
            await self._settle_canary()

    async def replace(self, wanted: Pin, reference: str) -> bool:
        """The same, in a replica that answers already: says whether it does with `wanted`."""
        try:
            await self.answer_with(wanted, reference)
        except Exception:
            self._note_failure(wanted, "the version before stays")
            return False
        return True

    async def share_with(self, wanted: PinnedCanary | None) -> bool:
        """Have a canary answer its share, or none; says whether it is so. Raises nothing."""
        async with self._changing:
            self._canary = wanted
            return await self._settle_canary()

    async def _settle_canary(self) -> bool:
        wanted, here = self._canary, self.switch.canary
        if wanted is None or wanted.pin == self.first:  # two copies of one version would be of no use
            self._retire(self.switch.share(None, None))
            self._show_shares()
            return True
        if here is None or here.pin != wanted.pin:
            here = await self._loaded_beside(wanted.pin, "canary")
            if here is not None:
                here.show_as(wanted.canary.model)
        if here is not None:
            split = Split(wanted.canary.weight, here.pin.version, here.pin.digest.encode()[:64])
            old = self.switch.share(here, split)
            self._retire(old if old is not here else None)
        self._show_shares()
        return here is not None

    async def copy_to(self, wanted: PinnedShadow | None) -> bool:
        """Send copies to a shadow, or to none; says whether it is so. Raises nothing."""
        async with self._changing:
            here, target = self._shadowing, self.shadow.target
            if wanted is None:
                new = None
            elif here is not None and here.pin == wanted.pin:
                new = here
            else:
                new = await self._loaded_beside(wanted.pin, "shadow")
                if new is None:
                    self._show_shares()
                    return False
            self.shadow.target = None
            if new is not None and wanted is not None:
                recorder = self._record(**self._labels(new.pin))
                for outcome in metrics.SHADOW_REQUESTS.labels[-1].values:
                    recorder.count(metrics.SHADOW_REQUESTS, 0, outcome=outcome)
                self.shadow.target = Target(new.app, wanted.shadow, self.app.stream_timeout_s, recorder)
            self._shadowing = new
            if target is not None:
                await target.close()
            self._retire(here if here is not new else None)
            self._show_shares()
            return True

    async def _loaded_beside(self, wanted: Pin, role: Role) -> V | None:
        """A version beside the first, or None if it cannot be loaded, which is told."""
        try:
            new = await self._load(wanted, role)
            try:
                if self.switch.current is not None:
                    check_alike(self.app, self.switch.current.workload, new.workload)
            except BaseException:
                await new.close()
                raise
        except Exception:
            # Whatever is wrong with it, the first goes on answering.
            self._note_failure(wanted, f"there is no such {role}")
            return None
        logger.info("%s@%s is the %s from now on", wanted.name, wanted.version, role)
        return new

    def _show_shares(self) -> None:
        shares: dict[tuple[Role, Pin], float] = {}
        canary, split = self.switch.canary, self.switch.split
        weight = 0.0 if split is None else split.weight
        if self.first is not None:
            shares["primary", self.first] = 1.0 - weight
        if self._canary is not None and self._canary.pin != self.first:
            shares["canary", self._canary.pin] = 0.0
        if canary is not None:
            shares["canary", canary.pin] = weight
        if self._shadowing is not None and self.shadow.target is not None:
            shares["shadow", self._shadowing.pin] = self.shadow.target.options.share
        self._show(shares)

    def _show(self, shares: dict[tuple[Role, Pin], float]) -> None:
        """Show these shares, and no others any more."""
        for key in self._shares.keys() - shares.keys():
            self._shares.pop(key).forget()
        for (role, pin), share in shares.items():
            if (role, pin) not in self._shares:
                self._shares[role, pin] = self._record(**self._labels(pin))
            self._shares[role, pin].set(metrics.TRAFFIC_WEIGHT, share, role=role)

    def _retire(self, old: V | None) -> None:
        if old is not None:
            task = asyncio.create_task(self._close(old))
            self._closing.add(task)
            task.add_done_callback(self._retired)

    async def _close(self, old: V) -> None:
        await self.switch.drained(old)
        await old.close()

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the version before was not closed cleanly", exc_info=task.exception())
        asyncio.get_running_loop().call_later(_FREE_AFTER_S, _free)

    async def _end(self) -> None:
        await self.copy_to(None)
        self._canary = None
        self._show({})
        self._levels.close()

    def _labels(self, pin: Pin) -> dict[str, str]:
        return {"app": self.app.name, "model": pin.name, "version": str(pin.version)}

    def _note_failure(self, wanted: Pin, what_now: str) -> None:
        """Tell of the exception that is being handled."""
        logger.exception("%s@%s cannot be loaded; %s", wanted.name, wanted.version, what_now)
        self._record(**self._labels(wanted)).count(metrics.RELOAD_FAILURES)

    def _note_unloaded(self, scope: Scope, status: int) -> None:
        recorder = self._without_version
        method = method_of(scope)
        route = route_of(scope)
        recorder.count(metrics.REQUESTS, route=route, method=method, code=str(status))
        recorder.observe(metrics.REQUEST_DURATION, 0.0, route=route)
        if status >= 500 and route == UNKNOWN:
            recorder.count(metrics.REJECTED, reason="unavailable")
            self._levels.answered(status, None, "unavailable")


def _free() -> None:
    forget_closed()
    # Serve freezes what exists at startup; thaw it, or the first version's memory is never freed.
    gc.unfreeze()
    gc.collect()
