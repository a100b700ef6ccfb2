"""Knowledge bases for the endpoints that ask them: from a reference to a version, open for questions.

A reference is resolved again when the store shows that it may mean another version, which is asked at most
every few seconds. While that is loaded, and while the store is away, the version before goes on answering.
What a retriever is made of is not known here: the workload of the version knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mizzen.errors import GateError, MizzenError
from mizzen.store.manifest import Manifest
from mizzen.store.store import ModelStore
from mizzen.workloads import registry
from mizzen.workloads.contract import Retriever, Runtime

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How often the store is asked whether a reference has moved: one request without a body."""


@dataclass
class _Followed:
    """A reference, and what it meant when we looked last."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    retriever: Retriever | None = None
    signs: tuple[str, ...] | None = None
    looked_s: float = 0.0
    away: bool = False


class Retrievers:
    """Opens knowledge bases and keeps them open; safe to call from threads, and each call blocks its own."""

    def __init__(
        self,
        store: ModelStore,
        cache_dir: Path,
        runtime: Runtime,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache_dir = cache_dir
        self._runtime = runtime
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._guard = threading.Lock()

    def __call__(self, reference: str) -> Retriever:
        """What `reference` means now; the same object as long as it means the same version.

        Raises `NotFoundError`, `GateError`, `StoreError` if there is none that could answer.
        """
        with self._guard:
            followed = self._followed.setdefault(reference, _Followed())
        current = followed.retriever
        if current is None:
            with followed.lock:  # the first callers wait for one of them to open it
                return followed.retriever or self._first(reference, followed)
        if self._is_due(followed) and followed.lock.acquire(blocking=False):
            try:
                if self._is_due(followed):
                    self._look(reference, followed)
            finally:
                followed.lock.release()
        return followed.retriever or current

    def _is_due(self, followed: _Followed) -> bool:
        return followed.signs != () and self._clock() - followed.looked_s >= LOOK_EVERY_S

    def _first(self, reference: str, followed: _Followed) -> Retriever:
        # In this order: a move between the two questions is a sign for the next look.
        signs = self._store.signs_of_change(reference)
        retriever = self._opened(self._store.resolve(reference))
        followed.signs, followed.retriever, followed.looked_s = signs, retriever, self._clock()
        return retriever

    def _look(self, reference: str, followed: _Followed) -> None:
        """Ask whether the reference has moved, and follow it; what goes wrong is logged, and tried again."""
        try:
            if followed.signs is None or self._store.has_changed(followed.signs):
                signs = self._store.signs_of_change(reference)
                manifest = self._store.resolve(reference)
                if followed.retriever is None or manifest.identity != followed.retriever.identity:
                    followed.retriever = self._opened(manifest)
                    logger.info("%s means %s@%s now", reference, manifest.name, manifest.version)
                followed.signs = signs
            followed.away = False
        except MizzenError as cause:
            if not followed.away:
                logger.warning("the version of %s that was open goes on answering: %s", reference, cause)
            followed.away = True
        followed.looked_s = self._clock()

    def _opened(self, manifest: Manifest) -> Retriever:
        """Fetch, verify and open a version, or take the one that is open under another reference."""
        for followed in list(self._followed.values()):
            if followed.retriever is not None and followed.retriever.identity == manifest.identity:
                return followed.retriever
        if not manifest.gate.passed:
            raise GateError(
                f"{manifest.name}@{manifest.version} did not pass its gate, so it is not asked",
                saw="\n".join(manifest.gate.lines()),
                remedy="Name a version that passed: look with `mizzen models list`.",
            )
        folder = self._store.fetch(manifest, self._cache_dir)
        return registry.get(manifest.workload).retriever(folder, self._runtime, manifest.identity)
