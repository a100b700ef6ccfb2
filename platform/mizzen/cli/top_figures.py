"""What `mizzen top` shows, reckoned from two readings: rates, quantiles, progress. Pure functions.

A counter that has fallen was reset, so what it shows now is what has happened since, as PromQL has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mizzen import metrics
from mizzen.cli.top_readings import Labels, Reading
from mizzen.series import Series
from mizzen.serving.middleware import ALWAYS_ANSWERED

PRIMARY = "primary"
TICK_S = 12.0
"""CPU time is counted every few seconds: over less than this it would jump."""

Chosen = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class AppLine:
    """One application; rates are per second. None: nothing happened from which it could be told."""

    app: str
    versions: tuple[str, ...]
    """`MODEL@VERSION` of all that replicas have loaded; what is no primary, with its role and share."""
    replicas: int
    requests_per_s: float
    server_errors_per_s: float
    client_errors_per_s: float
    p50_s: float | None
    p99_s: float | None
    in_flight: int
    queue_wait_p99_s: float | None
    tokens_per_s: float | None
    sequences_running: int | None
    sequences_waiting: int | None


@dataclass(frozen=True)
class RunLine:
    """One training run that goes on."""

    train_job: str
    run: str
    workers: int
    step: int
    num_steps: int | None
    loss: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class CostLine:
    """What an application or a job has reserved and uses."""

    owner_kind: str
    owner: str
    cpus: float
    gpus: float
    cpus_used: float | None
    memory_bytes: float


@dataclass(frozen=True)
class Board:
    """All of it."""

    apps: tuple[AppLine, ...]
    runs: tuple[RunLine, ...]
    costs: tuple[CostLine, ...]


def board(before: Reading, now: Reading, long_before: Reading | None = None) -> Board:
    """What happened between `before` and `now`; CPU time is reckoned since `long_before`, if given."""
    between = Between(before, now)
    apps = sorted({dict(labels)["app"] for labels in now.of(metrics.MODEL_INFO.name)})
    runs = {(dict(labels)["train_job"], dict(labels)["run"]) for labels in now.of(metrics.TRAINING_STEP.name)}
    owners = now.of(metrics.RESERVED_CPUS.name)
    long = Between(long_before or before, now)
    return Board(
        tuple(_app(app, between) for app in apps),
        tuple(_run(job, run, between) for job, run in sorted(runs)),
        tuple(sorted((_cost(dict(labels), long) for labels in owners), key=lambda one: -one.cpus)),
    )


@dataclass(frozen=True)
class Between:
    """Two readings, and what happened between them."""

    before: Reading
    now: Reading

    @property
    def elapsed_s(self) -> float:
        """Never 0."""
        return max(self.now.at_s - self.before.at_s, 1e-9)

    def increase(self, name: str, chosen: Chosen) -> float:
        """By how much the counters called `name` have risen together."""
        return sum(self._risen(name, labels) for labels in self.now.of(name) if chosen(dict(labels)))

    def rate(self, series: Series, chosen: Chosen) -> float:
        """The same per second."""
        return self.increase(series.name, chosen) / self.elapsed_s

    def gauge(self, series: Series, chosen: Chosen) -> float | None:
        """The sum of gauges now; None if there is none."""
        found = [value for labels, value in self.now.of(series.name).items() if chosen(dict(labels))]
        return sum(found) if found else None

    def quantile(self, series: Series, q: float, chosen: Chosen) -> float | None:
        """The `q` quantile of what a histogram was told between the readings."""
        buckets: dict[float, float] = {}
        name = f"{series.name}_bucket"
        for labels in self.now.of(name):
            known = dict(labels)
            if chosen(known):
                bound = float(known["le"])
                buckets[bound] = buckets.get(bound, 0.0) + self._risen(name, labels)
        return quantile(buckets, q)

    def _risen(self, name: str, labels: Labels) -> float:
        now, before = self.now.of(name)[labels], self.before.of(name).get(labels, 0.0)
        return now - before if now >= before else now


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """The `q` quantile of a histogram's cumulative buckets, by upper bound, as PromQL interpolates it.

    None if they are empty; beyond the last finite bound, that bound.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, below, lower = q * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        below, lower = buckets[bound], bound
    return lower


def _app(app: str, between: Between) -> AppLine:
    def ours(labels: Mapping[str, str]) -> bool:
        return labels["app"] == app and labels.get("route") not in ALWAYS_ANSWERED

    def with_code(first: str) -> Chosen:
        return lambda labels: ours(labels) and labels["code"].startswith(first)

    def in_state(state: str) -> Chosen:
        return lambda labels: ours(labels) and labels["state"] == state

    versions = _versions(app, between.now)
    generates = between.gauge(metrics.CHAT_SEQUENCES, ours) is not None
    running = between.gauge(metrics.CHAT_SEQUENCES, in_state("running"))
    waiting = between.gauge(metrics.CHAT_SEQUENCES, in_state("waiting"))
    return AppLine(
        app=app,
        versions=tuple(versions[key] for key in sorted(versions)),
        replicas=int(
            between.gauge(metrics.MODEL_INFO, lambda one: ours(one) and _is_primary(one, between)) or 0
        ),
        requests_per_s=between.rate(metrics.REQUESTS, ours),
        server_errors_per_s=between.rate(metrics.REQUESTS, with_code("5")),
        client_errors_per_s=between.rate(metrics.REQUESTS, with_code("4")),
        p50_s=between.quantile(metrics.REQUEST_DURATION, 0.5, ours),
        p99_s=between.quantile(metrics.REQUEST_DURATION, 0.99, ours),
        in_flight=int(between.gauge(metrics.REQUESTS_IN_FLIGHT, ours) or 0),
        queue_wait_p99_s=between.quantile(metrics.QUEUE_WAIT, 0.99, ours),
        tokens_per_s=between.rate(metrics.CHAT_GENERATED_TOKENS, ours) if generates else None,
        sequences_running=_whole(running),
        sequences_waiting=_whole(waiting),
    )


def _versions(app: str, now: Reading) -> dict[tuple[str, str], str]:
    """What is said of each version, by model and version."""
    found = {}
    for labels in map(dict, now.of(metrics.MODEL_INFO.name)):
        if labels["app"] == app:
            found[labels["model"], labels["version"]] = f"{labels['model']}@{labels['version']}"
    for line, weight in now.of(metrics.TRAFFIC_WEIGHT.name).items():
        labels = dict(line)
        key = labels["model"], labels["version"]
        if labels["app"] == app and key in found and labels["role"] != PRIMARY:
            found[key] += f" {labels['role']} {weight:.0%}"
    return found


def _is_primary(version: Mapping[str, str], between: Between) -> bool:
    """Whether a replica that has loaded the version counts as one; a canary is loaded beside the primary."""
    same = [
        dict(labels)["role"]
        for labels in between.now.of(metrics.TRAFFIC_WEIGHT.name)
        if all(dict(labels)[name] == version[name] for name in ("app", "model", "version"))
    ]
    return not same or PRIMARY in same


def _run(train_job: str, run: str, between: Between) -> RunLine:
    def ours(labels: Mapping[str, str]) -> bool:
        return labels["train_job"] == train_job and labels["run"] == run

    step = int(between.gauge(metrics.TRAINING_STEP, ours) or 0)
    num_steps = _whole(between.gauge(metrics.TRAINING_NUM_STEPS, ours))
    step_s = _mean_step_s(between, ours)
    left = None
    if num_steps is not None and step_s is not None:
        left = max(0, num_steps - step) * step_s
    return RunLine(
        train_job=train_job,
        run=run,
        workers=int(between.gauge(metrics.TRAINING_WORKERS, ours) or 0),
        step=step,
        num_steps=num_steps,
        loss=between.gauge(metrics.TRAINING_LOSS, ours),
        samples_per_s=between.rate(metrics.TRAINING_SAMPLES, ours) or None,
        tokens_per_s=between.rate(metrics.TRAINING_TOKENS, ours) or None,
        seconds_left=left,
    )


def _mean_step_s(between: Between, ours: Chosen) -> float | None:
    """How long a step took between the readings; if none ended, how long it has taken so far."""
    name = metrics.TRAINING_STEP_DURATION.name
    for one in (between, Between(Reading(0.0, {}), between.now)):
        count = one.increase(f"{name}_count", ours)
        if count:
            return one.increase(f"{name}_sum", ours) / count
    return None


def _cost(owner: Mapping[str, str], between: Between) -> CostLine:
    def ours(labels: Mapping[str, str]) -> bool:
        return labels["owner"] == owner["owner"] and labels["owner_kind"] == owner["owner_kind"]

    return CostLine(
        owner_kind=owner["owner_kind"],
        owner=owner["owner"],
        cpus=between.gauge(metrics.RESERVED_CPUS, ours) or 0.0,
        gpus=between.gauge(metrics.RESERVED_GPUS, ours) or 0.0,
        cpus_used=between.rate(metrics.USED_CPU, ours) if between.elapsed_s >= TICK_S else None,
        memory_bytes=between.gauge(metrics.RESIDENT_MEMORY, ours) or 0.0,
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def window(readings: Iterable[Reading], now: Reading, at_least_s: float) -> Reading | None:
    """The latest of `readings` that is at least so much older than `now`, else the oldest, if any."""
    older = [one for one in readings if one is not now]
    enough = [one for one in older if now.at_s - one.at_s >= at_least_s]
    return enough[-1] if enough else older[0] if older else None
