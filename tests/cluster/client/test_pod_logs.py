"""Log lines of a release's pods, through the real client, against the server that plays the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from mizzen.cluster.kube import PODS, Kube
from mizzen.cluster.pod_logs import PodLogs
from mizzen.errors import ClusterError, NotFoundError
from mizzen.log_lines import Wanted

Pause = Callable[[float], None]


def pod(
    name: str, release: str = "blue", container: str = "metrics", phase: str = "Running"
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "mizzen", "app.kubernetes.io/instance": release}
    state = {"running": {}} if phase == "Running" else {"terminated": {}}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "ray-worker"}, {"name": container}]},
        "status": {"phase": phase, "containerStatuses": [{"name": container, "state": state}]},
    }


def line(second: int, **fields: str) -> str:
    content = {"time": f"2026-11-22T08:00:{second:02}.000Z", "level": "info", **fields}
    return json.dumps(content, separators=(",", ":"))


def printed(second: int, **fields: str) -> str:
    """As the API gives a line: with the time at which the container has printed it."""
    return f"2026-11-22T08:00:{second:02}.400000000Z {line(second, **fields)}"


def test_lines_of_all_pods_come_by_time_and_others_not_at_all(api: Any, kube: Kube, no_pause: Pause) -> None:
    for one in (pod("a"), pod("b"), pod("green", "green"), pod("none", container="other")):
        api.put(PODS, one)
    api.put(PODS, pod("early", phase="Pending"))
    api.logs["a"] = [printed(1), "2026-11-22T08:00:02Z no JSON", printed(4, level="error")]
    api.logs["b"] = [printed(3)]
    api.logs["green"] = [printed(2)]
    told = list(PodLogs(kube, "blue", no_pause).lines(Wanted()))
    assert told == [line(1), line(3), line(4, level="error")]
    assert list(PodLogs(kube, "blue", no_pause).lines(Wanted(level="error"))) == [line(4, level="error")]
    assert len(list(PodLogs(kube, None, no_pause).lines(Wanted()))) == 4


def test_only_what_is_asked_for_is_fetched(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.put(PODS, pod("a"))
    api.logs["a"] = [printed(second) for second in range(10)]
    told = list(PodLogs(kube, None, no_pause).lines(Wanted(since="2026-11-22T08:00:07.000Z")))
    assert told == [line(7), line(8), line(9)]
    (asked,) = api.asked("GET", "/a/log")
    assert asked.query["sinceTime"] == "2026-11-22T08:00:07Z"
    assert asked.query["container"] == "metrics"


def test_following_goes_on_behind_what_was_told_and_finds_new_pods(
    api: Any, kube: Kube, no_pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mizzen.cluster.pod_logs.LOOK_EVERY_S", 0.02)
    api.put(PODS, pod("a"))
    api.logs["a"] = [printed(1)]
    logs = PodLogs(kube, None, no_pause)
    assert list(logs.lines(Wanted())) == [line(1)]
    followed = logs.followed(Wanted())
    api.logs["a"].append(printed(2))
    assert next(followed) == line(2)
    api.put(PODS, pod("b"))
    api.logs["b"] = [printed(3)]
    assert list(islice(followed, 1)) == [line(3)]


def test_without_such_a_pod_it_is_said_what_to_do(api: Any, kube: Kube, no_pause: Pause) -> None:
    with pytest.raises(NotFoundError, match=r"prints log lines.*metricsSidecar"):
        PodLogs(kube, "blue", no_pause).lines(Wanted())


def test_who_may_not_read_logs_is_told(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.put(PODS, pod("a"))
    api.refusals["GET log", "pods"] = (403, {"reason": "Forbidden", "message": "no"})
    logs = PodLogs(kube, None, no_pause)
    with pytest.raises(ClusterError, match="may not"):
        logs.lines(Wanted())
    with pytest.raises(ClusterError, match="may not"):
        next(logs.followed(Wanted()))
