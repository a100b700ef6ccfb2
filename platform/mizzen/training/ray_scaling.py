"""When Ray Train changes the number of a run's workers: as Ray decides, but after a checkpoint.

Ray ends a group of workers to start it with more or fewer. Here they are asked first to write a checkpoint
and to stand still, so that a resize repeats no step. What each worker does at any number of them, `elastic`
decides.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from mizzen.training import pause
from mizzen.training.elastic import Resize
from mizzen.training.mailbox import Happened

ASK_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0
MOST_CONNECTIONS = 64
LONGEST_WAIT_S = 0.9 * pause.LONGEST_S
"""For the checkpoint; after it the resize is called off, and tried again later."""


class RayScaling(ElasticScalingPolicy):  # type: ignore[misc] # Ray has no types
    """Ray Train's scaling policy of an elastic run. It lives in the process of Ray Train's controller."""

    def __init__(self, scaling_config: ScalingConfig, mailbox: Any) -> None:
        super().__init__(scaling_config)
        self._mailbox = mailbox
        self._num_workers: int | None = None
        """Of the last group."""
        self._resize = Resize(LONGEST_WAIT_S)
        self._doubtful = False
        """Workers may have ended because their machine is gone, and Ray does not know yet."""
        self._ran = True
        """The last group has begun; else there was no room for it after all."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """See Ray's `ScalingPolicy`: at the start, and after workers have ended."""
        self._resize = Resize(LONGEST_WAIT_S)
        self._doubtful = True
        try:
            decision = super().make_decision_for_non_running_worker_group()
        finally:
            self._doubtful = False
        self._ran = self._ran and not isinstance(decision, ResizeDecision)
        return self._told(decision)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """See Ray's `ScalingPolicy`: every other second."""
        workers, self._ran = worker_group_state.workers, True
        if self._resize.asked_s is None:
            decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
            if not isinstance(decision, ResizeDecision):
                return decision
        self._maybe_send_resource_request()
        wanted, still = self._wanted(len(workers)), all(_on_each(workers, pause.reached) or [False])
        match self._resize.next(wanted is not None, still, time.monotonic()):
            case "ask":
                _on_each(workers, pause.begin)
            case "call_off":
                _on_each(workers, pause.end)
            case "resize":
                return self._told(self._get_resize_decision(wanted))
            case "go_on":
                pass
        return NoopDecision()

    def _wanted(self, now: int) -> int | None:
        """How many workers there shall be instead of those `now`; None to leave it at them.

        Ray goes by what machines have. Here more workers also have to find it free: on a cluster that is
        shared they would else wait for others' work, and those that train would have been ended for it.
        """
        reserved = self._get_reserved_resources()
        if reserved is None:
            return None
        possible = self._count_possible_workers(reserved)
        if possible > now:
            free = self._count_possible_workers(_available())
            possible = min(possible, now + free)
        return possible if possible != now and possible >= self.scaling_config.min_workers else None

    def _get_reserved_resources(self) -> dict[str, Any] | None:
        """As Ray's, with machines that came or went just now; Ray's own view may be 20 s old.

        A machine that went without a word stays there for half a minute. Workers that Ray wanted to start on
        it would be waited for another minute.
        """
        try:
            reserved: dict[str, Any] = ray.get(
                self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, True),
                timeout=ASK_TIMEOUT_S,
            )
        except RayError:
            return None
        if not self._doubtful:
            return reserved
        answering = _answering(reserved)
        there = {node: resources for node, resources in reserved.items() if node in answering}
        return there if self._ran else _free(there)

    def _told(self, decision: ScalingDecision) -> ScalingDecision:
        if isinstance(decision, ResizeDecision):
            before, self._num_workers = self._num_workers, decision.num_workers
            if before is not None and before != decision.num_workers:
                text = f"{_workers(decision.num_workers)} from now on, {before} before"
                self._mailbox.put.remote(Happened("resized", text))
        return decision


def _available() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()
    return found


def _free(nodes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What nobody uses of the nodes' resources."""
    available = _available()
    free = {}
    for node, resources in nodes.items():
        here = available.get(node, {})
        free[node] = {name: min(amount, here.get(name, 0.0)) for name, amount in resources.items()}
    return free


def _answering(nodes: Iterable[str]) -> set[str]:
    """Those of the nodes whose raylet takes a connection."""
    wanted = set(nodes)
    places = {
        node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["NodeID"] in wanted
    }
    with ThreadPoolExecutor(MOST_CONNECTIONS) as pool:
        answers = pool.map(_answers, places.values())
        return {node for node, answer in zip(places, answers, strict=True) if answer}


def _answers(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def _on_each(workers: Sequence[Any], function: Callable[[], Any]) -> list[Any]:
    """What `function` returns in each worker's process; nothing if one of them does not answer."""
    try:
        return list(ray.get([worker.execute_async(function) for worker in workers], timeout=ASK_TIMEOUT_S))
    except RayError:
        return []  # Ray Train notices by itself, at its next poll


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"
