"""Watches and logs that go on: 410, broken connections, silence, lines that are neither lost nor doubled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from mizzen.cluster import streams
from mizzen.cluster.kube import PODS, Kube
from mizzen.errors import ClusterError, NotFoundError

GONE = {
    "kind": "Status",
    "status": "Failure",
    "reason": "Expired",
    "code": 410,
    "message": "too old resource version",
}
Pause = Callable[[float], None]


def pod(name: str, version: str, phase: str = "Pending") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version},
        "status": {"phase": phase},
    }


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": thing}


def phases(pods: list[dict[str, Any]]) -> dict[str, str]:
    return {p["metadata"]["name"]: p["status"]["phase"] for p in pods}


def test_a_watch_tells_what_is_there_and_each_change(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.put(PODS, pod("a", "1"))
    api.watches["pods"] = [
        [
            event("ADDED", pod("b", "2")),
            event("BOOKMARK", {"metadata": {"resourceVersion": "3"}}),
            event("MODIFIED", pod("a", "4", "Running")),
            event("DELETED", pod("b", "5")),
        ]
    ]
    told = [phases(p) for p in islice(streams.watch(kube, PODS, sleep=no_pause), 4)]
    assert told == [
        {"a": "Pending"},
        {"a": "Pending", "b": "Pending"},
        {"a": "Running", "b": "Pending"},
        {"a": "Running"},
    ]


def test_a_broken_watch_goes_on_from_the_last_version(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.watches["pods"] = [[event("ADDED", pod("a", "2001")), "cut"], [event("ADDED", pod("b", "2002"))]]
    told = [phases(p) for p in islice(streams.watch(kube, PODS, sleep=no_pause), 4)]
    assert told[-1] == {"a": "Pending", "b": "Pending"}
    asked = [seen.query.get("resourceVersion") for seen in api.asked("GET", "/pods")]
    assert asked == [None, "1000", "2001"]  # one list, then two watches


@pytest.mark.parametrize(
    "forgotten", [[event("ERROR", GONE)], [(410, GONE)]], ids=["an event in the stream", "an answer of 410"]
)
def test_a_version_that_is_forgotten_leads_to_a_new_list(
    api: Any, kube: Kube, no_pause: Pause, forgotten: list[Any]
) -> None:
    api.put(PODS, pod("a", "1"))
    later: Any = lambda: event("MODIFIED", api.put(PODS, pod("b", "9")))  # noqa: E731 - a step of a script
    api.watches["pods"] = [forgotten, [later]]
    told = [phases(p) for p in islice(streams.watch(kube, PODS, sleep=no_pause), 4)]
    assert told == [*[{"a": "Pending"}] * 3, {"a": "Pending", "b": "Pending"}]
    lists = [seen for seen in api.asked("GET", "/pods") if "watch" not in seen.query]
    assert len(lists) == 2


def test_a_watch_that_may_not_list_says_so(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.refusals["GET", "pods"] = (403, {"reason": "Forbidden", "message": "pods is forbidden"})
    with pytest.raises(ClusterError, match="You may not `list` `pods`"):
        next(streams.watch(kube, PODS, sleep=no_pause))


def test_a_watch_waits_for_an_api_server_that_is_away(api: Any, kube: Kube, no_pause: Pause) -> None:
    away = (503, {"reason": "ServiceUnavailable", "message": "apiserver is shutting down"})
    api.watches["pods"] = [[away], [away], [event("ADDED", pod("a", "2"))]]
    told = [phases(p) for p in islice(streams.watch(kube, PODS, sleep=no_pause), 4)]
    assert told == [{}, {}, {}, {"a": "Pending"}]
    assert len([seen for seen in api.asked("GET", "/pods") if "watch" not in seen.query]) == 1


def log(number: int, fraction: str = "000000001") -> str:
    return f"2026-11-22T08:00:{number:02d}.{fraction}Z line {number}"


class Lives:
    """A container that runs for so many looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks >= 0


def test_no_line_is_lost_or_told_twice_when_the_connection_breaks(
    api: Any, kube: Kube, no_pause: Pause
) -> None:
    api.logs["p"] = [log(n) for n in range(10)]
    api.log_scripts["p"] = [[3, "cut"], [4, "cut"]]  # each breaks in the middle of a line
    told = list(streams.follow(kube, "p", "c", Lives(3), no_pause))
    assert told == [f"line {n}" for n in range(10)]
    since = [seen.query.get("sinceTime") for seen in api.asked("GET", "/p/log")]
    assert since[:3] == [None, "2026-11-22T08:00:02Z", "2026-11-22T08:00:05Z"]


def test_an_api_server_that_is_away_for_a_while_is_waited_for(api: Any, kube: Kube) -> None:
    api.logs["p"] = [log(1), log(2)]
    away = (503, {"reason": "ServiceUnavailable", "message": "apiserver is shutting down"})
    api.log_scripts["p"] = [[1, "cut"], [away], [away]]
    pauses: list[float] = []
    assert list(streams.follow(kube, "p", "c", Lives(9), pauses.append)) == ["line 1", "line 2"]
    assert pauses[:3] == [1.0, 2.0, 4.0]


def test_lines_of_the_same_instant_are_counted(api: Any, kube: Kube, no_pause: Pause) -> None:
    stamp = "2026-11-22T08:00:00.5Z"
    api.logs["p"] = [f"{stamp} {text}" for text in ("a", "a", "b", "a")]
    api.log_scripts["p"] = [[2, "cut"], [3, "cut"]]
    assert list(streams.follow(kube, "p", "c", Lives(3), no_pause)) == ["a", "a", "b", "a"]


def test_a_line_whose_clock_went_back_is_told(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.logs["p"] = [log(1, "9"), log(2, "5"), log(2, "4"), log(3)]
    assert list(streams.follow(kube, "p", "c", Lives(0), no_pause)) == [
        "line 1",
        "line 2",
        "line 2",
        "line 3",
    ]


def test_a_silent_connection_is_asked_again(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.logs["p"] = [log(1), log(2)]
    api.log_scripts["p"] = [[1, "hang"]]
    told = list(streams.follow(kube, "p", "c", Lives(2), no_pause, quiet_s=0.2))
    assert told == ["line 1", "line 2"]


def test_a_log_that_is_not_followed_is_read_once(api: Any, kube: Kube, no_pause: Pause) -> None:
    api.logs["p"] = [log(1), log(2)]
    assert list(streams.follow(kube, "p", "c", None, no_pause)) == ["line 1", "line 2"]
    assert [seen.query.get("follow") for seen in api.asked("GET", "/p/log")] == [None]


def test_a_pod_that_is_gone_ends_the_log(api: Any, kube: Kube, no_pause: Pause) -> None:
    def running() -> bool:
        return bool(kube.get(PODS, "p"))

    with pytest.raises(NotFoundError, match="no pods 'p'"):
        list(streams.follow(kube, "p", "c", running, no_pause))


def test_following_gives_up_when_the_api_stays_away(api: Any, kube: Kube) -> None:
    api.log_scripts["p"] = [["cut"]] * streams.MAX_FAILURES
    pauses: list[float] = []
    with pytest.raises(ClusterError, match=r"broke 30 times in a row.*the job goes on"):
        list(streams.follow(kube, "p", "c", Lives(1000), pauses.append))
    assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 15.0]


def test_the_last_lines_come_without_times(api: Any, kube: Kube) -> None:
    api.logs["p"] = [log(n) for n in range(5)]
    assert streams.tail(kube, "p", "c", 2) == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("line", "stamp"),
    [
        ("2026-11-22T08:00:00.123Z x", "2026-11-22T08:00:00.123000000"),
        ("2026-11-22T08:00:00Z x", "2026-11-22T08:00:00.000000000"),
        ("2026-11-22T10:30:00.5+02:30 x", "2026-11-22T08:00:00.500000000"),
    ],
)
def test_times_are_made_alike(line: str, stamp: str) -> None:
    assert streams.split_timestamp(line) == (stamp, "x")


def test_a_line_without_a_time_is_kept_whole() -> None:
    assert streams.split_timestamp("failed to read the log") == ("", "failed to read the log")
