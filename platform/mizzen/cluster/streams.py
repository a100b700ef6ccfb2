"""What the Kubernetes API tells over time: changes of objects, and lines of a container's log.

Both go on when a connection breaks: a watch from the version last seen (or from a new list when the API has
forgotten that version, 410), a log from the time of the last line, so that no line is lost or told twice.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import urllib3

from mizzen.cluster.kube import PODS, Kind, Kube, Object
from mizzen.cluster.refusals import AwayError
from mizzen.errors import ClusterError

QUIET_S = 60.0
"""A log that says nothing for so long is asked for again: some load balancers drop silent connections."""
WATCH_S = 10
PAUSE_S = 1.0
MAX_PAUSE_S = 15.0
MAX_FAILURES = 30
"""Connections in a row that may fail before following gives up."""
FEW_FAILURES = 3
"""... where nothing is followed, and the store may have the same log."""
TIMESTAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$")
LOGS = Kind("pods/log")
BROKEN = (urllib3.exceptions.HTTPError, OSError, AwayError)

Sleep = Callable[[float], None]
Answer = TypeVar("Answer")


def watch(
    kube: Kube,
    kind: Kind,
    labels: str = "",
    fields: str = "",
    sleep: Sleep = time.sleep,
    window_s: int = WATCH_S,
) -> Iterator[list[Object]]:
    """All objects that the selectors choose: now, after each change, and at least every `window_s`; endless.

    An object's disappearance is a change too. Raises `ClusterError` if the API stays away.
    """
    state, version = _listed(kube, kind, labels, fields)
    failures = 0
    while True:
        yield list(state.values())
        quiet = True
        try:
            if version is None:
                state, version = _listed(kube, kind, labels, fields)
                continue
            for change, found in _changes(kube, kind, labels, fields, version, window_s):
                failures, quiet = 0, False
                if change == "ERROR":  # 410 and whatever else: a new list is always right
                    version = None
                    break
                version = found["metadata"]["resourceVersion"]
                if change == "BOOKMARK":
                    continue
                uid = found["metadata"]["uid"]
                if change == "DELETED":
                    state.pop(uid, None)
                else:
                    state[uid] = found
                yield list(state.values())
        except BROKEN as cause:
            failures = _failed(kube, failures, cause, sleep)
        except ClusterError as cause:
            if version is None:
                raise  # the list itself is refused
            version = None  # 410 as an answer, for instance
            failures = _failed(kube, failures, cause, sleep)
        else:
            if quiet:  # so that a proxy which ends every answer at once makes no storm
                sleep(PAUSE_S)


def _listed(kube: Kube, kind: Kind, labels: str, fields: str) -> tuple[dict[str, Object], str | None]:
    items, version = kube.snapshot(kind, labels, fields)
    return {item["metadata"]["uid"]: item for item in items}, version


def _changes(
    kube: Kube, kind: Kind, labels: str, fields: str, version: str, window_s: int
) -> Iterator[tuple[str, Object]]:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(window_s),
        "labelSelector": labels,
        "fieldSelector": fields,
    }
    with kube.stream("watch", kind, kind.path(kube.namespace), query, window_s + QUIET_S) as answer:
        for line in lines_of(answer):
            event = json.loads(line)
            yield event["type"], event["object"]


def lines_of(answer: Any) -> Iterator[str]:
    """Whole lines of an open answer; the piece of a line before a break is not one."""
    rest = b""
    for chunk in answer.stream(4096, decode_content=True):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


@dataclass
class Position:
    """Where in a log we are: the time of the last line, and how many lines of that very time were told."""

    time: str = ""
    count: int = 0

    @property
    def since(self) -> str:
        """For `sinceTime`, which knows whole seconds."""
        return f"{self.time[:19]}Z" if self.time else ""


def follow(
    kube: Kube,
    pod: str,
    container: str,
    running: Callable[[], bool] | None,
    sleep: Sleep = time.sleep,
    quiet_s: float = QUIET_S,
    position: Position | None = None,
) -> Iterator[str]:
    """The lines of a container's log until it has ended; `running` says whether it still runs.

    With None as `running`, the lines that are there now. They begin after `position`, which moves along.
    Raises `NotFoundError` if the pod goes away, `ClusterError` if the API stays away.
    """
    position, failures = position or Position(), 0
    allowed = MAX_FAILURES if running is not None else FEW_FAILURES
    while True:
        try:
            alive = running is not None and running()
            for line in read(kube, pod, container, position, running is not None, quiet_s):
                failures = 0
                yield line
        except urllib3.exceptions.ReadTimeoutError:
            continue  # it only said nothing
        except BROKEN as cause:
            failures = _failed(kube, failures, cause, sleep, allowed)
            continue
        if not alive:
            return
        sleep(PAUSE_S)


def read(
    kube: Kube, pod: str, container: str, position: Position, live: bool, quiet_s: float
) -> Iterator[str]:
    """The lines after `position`, which moves along. Errors while reading are urllib3's."""
    path = f"{PODS.path(kube.namespace, pod)}/log"
    query = {
        "container": container,
        "timestamps": "true",
        "follow": "true" if live else "",
        "sinceTime": position.since,
    }
    skip, at = position.count, position.time
    seen_at, seen, behind = "", 0, True
    with kube.stream("get", LOGS, path, query, quiet_s) as answer:
        for line in lines_of(answer):
            stamp, text = split_timestamp(line)
            seen = seen + 1 if stamp == seen_at else 1
            seen_at = stamp
            behind = behind and (stamp < at or (stamp == at and seen <= skip))
            if behind:
                continue
            position.time, position.count = stamp, seen
            yield text


def tail(kube: Kube, pod: str, container: str, num_lines: int) -> list[str]:
    """The last lines of a container's log. Raises `ClusterError` or `NotFoundError`."""
    path = f"{PODS.path(kube.namespace, pod)}/log"
    query = {"container": container, "tailLines": str(num_lines)}
    try:
        with kube.stream("get", LOGS, path, query, QUIET_S) as answer:
            return list(lines_of(answer))
    except BROKEN as cause:
        raise ClusterError(f"the log of {pod} cannot be read", saw=str(cause), remedy="Try again.") from None


def split_timestamp(line: str) -> tuple[str, str]:
    """The time of a log line in UTC with nine decimals (so that it sorts as text), and its text."""
    stamp, _, text = line.partition(" ")
    found = TIMESTAMP.match(stamp)
    if not found:
        return "", line
    second, fraction, zone = found.groups()
    if zone != "Z":
        moment = datetime.fromisoformat(f"{second}{zone}").astimezone(UTC)
        second = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second}.{(fraction or '').ljust(9, '0')}", text


def patiently(kube: Kube, ask: Callable[[], Answer], sleep: Sleep = time.sleep) -> Answer:
    """What `ask` returns; asked again while the API is away. Raises `ClusterError` if it stays away."""
    failures = 0
    while True:
        try:
            return ask()
        except AwayError as cause:
            failures = _failed(kube, failures, cause, sleep)


def _failed(
    kube: Kube, failures: int, cause: BaseException, sleep: Sleep, allowed: int = MAX_FAILURES
) -> int:
    if failures + 1 >= allowed:
        raise ClusterError(
            f"the connection to {kube.host} broke {allowed} times in a row",
            saw=f"{type(cause).__name__}: {cause}",
            remedy="Check your network; the job goes on meanwhile, follow it again later.",
        ) from None
    sleep(min(PAUSE_S * 2**failures, MAX_PAUSE_S))
    return failures + 1
