"""The log lines of a release's pods: what the metrics container of each prints of the files beside it.

Replicas and training workers write files; `mizzen metrics --logs` in their pod prints all of them. What a
line says, and which ones are wanted, `log_lines` knows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mizzen.cluster import kube_jobs, streams
from mizzen.cluster.config import INSTANCE_LABEL
from mizzen.cluster.kube import PODS, Kube
from mizzen.cluster.kube import connect as connected
from mizzen.cluster.streams import Position, Sleep
from mizzen.errors import InputError, MizzenError, NotFoundError
from mizzen.log_files import time_of
from mizzen.log_lines import Wanted

CONTAINER = "metrics"
PART = "app.kubernetes.io/part-of=mizzen"
LOOK_EVERY_S = 5.0
"""How often new pods are looked for, while lines are followed."""


class PodLogs:
    """The logs of all pods of Mizzen in one namespace, or of one release there."""

    def __init__(self, kube: Kube, release: str | None = None, sleep: Sleep = time.sleep) -> None:
        self._kube, self._sleep = kube, sleep
        self._labels = f"{PART},{INSTANCE_LABEL}={release}" if release else PART
        self._places: dict[str, Position] = {}
        """How far each pod's log was read."""

    @classmethod
    def connect(cls, namespace: str | None, context: str | None, release: str | None) -> PodLogs:
        """Those that `kubectl` would reach. Raises `ClusterError`."""
        return cls(connected(namespace, context), release)

    def lines(self, wanted: Wanted) -> Iterator[str]:
        """What there is now, by time. Raises `NotFoundError` if no pod has such a container."""
        pods = self._pods()
        if not pods:
            raise NotFoundError(
                f"no pod of Mizzen in the namespace {self._kube.namespace!r} prints log lines",
                saw=f"no pods with {self._labels} and a container {CONTAINER!r}",
                remedy="Name the namespace with --namespace; the chart needs metricsSidecar.enabled.",
            )
        begin = f"{wanted.since[:19]}.000000000" if wanted.since else ""
        found: list[str] = []
        for name in pods:
            place = self._places.setdefault(name, Position(begin))
            found += filter(wanted.takes, self._read(name, place, live=False))
        return iter(sorted(found, key=time_of))

    def followed(self, wanted: Wanted) -> Iterator[str]:
        """What comes after that, also of pods that come later; endless. Raises `ClusterError`."""
        arrived: queue.SimpleQueue[str | MizzenError] = queue.SimpleQueue()
        read: set[str] = set()

        def follow(name: str) -> None:
            try:
                for line in self._read(name, self._places.setdefault(name, Position()), live=True):
                    arrived.put(line)
            except MizzenError as error:
                arrived.put(error)
            read.discard(name)

        while True:
            for name in self._pods():
                if name not in read:
                    read.add(name)
                    threading.Thread(target=follow, args=(name,), name=f"log of {name}", daemon=True).start()
            until_s = time.monotonic() + LOOK_EVERY_S
            while (left_s := until_s - time.monotonic()) > 0:
                try:
                    letter = arrived.get(timeout=left_s)
                except queue.Empty:
                    break
                if isinstance(letter, MizzenError):
                    raise letter
                if wanted.takes(letter):
                    yield letter

    def _read(self, name: str, place: Position, *, live: bool) -> Iterator[str]:
        def running() -> bool:
            return kube_jobs.is_running(self._kube.get(PODS, name), CONTAINER)

        try:
            yield from streams.follow(
                self._kube, name, CONTAINER, running if live else None, self._sleep, position=place
            )
        except (NotFoundError, InputError):
            return  # deleted while we read, or not begun yet

    def _pods(self) -> list[str]:
        """Names of the pods that have the container, and have begun."""
        found = streams.patiently(self._kube, lambda: self._kube.find(PODS, self._labels), self._sleep)
        return [pod["metadata"]["name"] for pod in found if _prints(pod)]


def _prints(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("spec") or {}).get("containers") or []
    return kube_jobs.has_begun(pod) and any(one["name"] == CONTAINER for one in containers)
