"""Follows a reference to a model: says which version it means at the start, and afterwards when that changes.

Moves of an alias are objects with ascending numbers that never change, so a poll asks for the next number
and nothing else: one request without a body, answered "not there" nearly always. An ETag would say no more,
and not every store has one. It loads nothing itself and does not know Ray.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mizzen.errors import MizzenError
from mizzen.serving.pins import Pin, pin
from mizzen.serving.spec import App
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore

logger = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""How long a start waits for its version before it fails. Ray Serve then starts the next replica at once:
without this pause replicas would start and fail in a circle as fast as they can, with it they come up within
seconds of the version all the same. It is below the 30 s after which Serve calls a start slow, and would
show that instead of the reason."""
LOOK_S = 2.0
"""How often a start that waits looks."""
MAX_PAUSE_S = 600.0
"""The longest pause before a version that could not be loaded is tried again."""
_JITTER = 0.2

V = TypeVar("V")
Load = Callable[[Manifest], Awaitable[V]]
Replace = Callable[[Manifest], Awaitable[bool]]
"""Has this version answer from now on, and says whether it does."""
Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]


class Watcher:
    """Follows the reference of one application."""

    def __init__(
        self,
        app: App,
        store: ModelStore,
        every_s: float,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        self.app = app
        self.store = store
        self.every_s = every_s
        self._sleep = sleep
        self._clock = clock
        self.answers: Pin | None = None
        """The version that answers now."""
        self._signs: tuple[str, ...] | None = None
        """Of a change since we looked last; None before that."""
        self._failed: Manifest | None = None
        self._failures = 0
        self._retry_at_s = 0.0
        self._away = False

    async def first(self, load: Load[V]) -> V:
        """What `load` makes of the version that the reference means, waiting `PATIENCE_S` for it to be there.

        Raises `MizzenError` if there is none, and whatever `load` raises.
        """
        deadline_s = self._clock() + PATIENCE_S
        while True:
            signs: tuple[str, ...] | None = None
            try:
                signs = await asyncio.to_thread(self.store.signs_of_change, self.app.model)
                manifest = await asyncio.to_thread(self.store.resolve, self.app.model)
                loaded = await load(manifest)
            except Exception:
                # Whatever is wrong with the version: the next one may be better.
                if not await self._changed_before(deadline_s, signs):
                    raise
            else:
                self._signs, self.answers = signs, pin(manifest)
                return loaded

    async def _changed_before(self, deadline_s: float, signs: tuple[str, ...] | None) -> bool:
        while self._clock() < deadline_s:
            await self._sleep(LOOK_S)
            try:
                # None: not even the first look has reached the store.
                if signs is None or await asyncio.to_thread(self.store.has_changed, signs):
                    return True
            except MizzenError:
                continue  # the store is away, and the error that is raised in the end says so
        return False

    async def run(self, replace: Replace) -> None:
        """Poll for ever, and call `replace` when the reference means another version.

        A reference that names one version is done with once that answers.
        """
        while self._signs is None or self._signs or self._failed is not None:
            await self._sleep(self.every_s * random.uniform(1 - _JITTER, 1 + _JITTER))
            await self.poll(replace)

    async def poll(self, replace: Replace) -> None:
        """Look once; nothing that is wrong with the store or with a version is raised."""
        try:
            moved = self._signs is None or await asyncio.to_thread(self.store.has_changed, self._signs)
            if not moved and (self._failed is None or self._clock() < self._retry_at_s):
                self._is_there()
                return
            # In this order: a move between the two questions is a sign for the next poll.
            signs = await asyncio.to_thread(self.store.signs_of_change, self.app.model)
            wanted = await asyncio.to_thread(self.store.resolve, self.app.model)
        except MizzenError as cause:
            if not self._away:
                logger.warning("%s is not looked up until the store answers again: %s", self.app.model, cause)
            self._away = True
            return
        self._is_there()
        self._signs = signs
        if pin(wanted) == self.answers:
            self._failed = None
            return
        if self._failed is None or wanted.version != self._failed.version:
            self._failures = 0
        if await replace(wanted):
            self.answers, self._failed = pin(wanted), None
            return
        self._failed, self._failures = wanted, self._failures + 1
        doublings = min(self._failures, 16)  # a power of thousands would overflow
        pause_s = min(MAX_PAUSE_S, max(self.every_s, 1.0) * 2**doublings)
        self._retry_at_s = self._clock() + pause_s
        logger.warning("%s@%s is tried again in %.0f s", wanted.name, wanted.version, pause_s)

    def _is_there(self) -> None:
        if self._away:
            logger.info("the store answers again")
        self._away = False
