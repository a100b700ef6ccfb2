"""A run and its workers are one trace; of the steps, one once in a while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mizzen import logs, settings, tracing
from mizzen.training import telemetry
from mizzen.training.job import parse
from mizzen.training.loop import StepDone
from mizzen.training.phases import Phases

JOB = parse(
    {
        "name": "sales",
        "workload": "forecasting",
        "data": {"dataset": "m1-yearly"},
        "training": {"epochs": 1, "micro_batch_size": 4, "learning_rate": 0.1},
    },
    "the job",
)
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Trace = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_log_file() -> Iterator[None]:
    """Other tests of this process write into none."""
    yield
    logs.stop()


def step(number: int) -> StepDone:
    phases = Phases(data=0.1, forward=0.2, backward=0.3, step=0.15)
    return StepDone(number, 100, 1.0, 0.1, None, 1.0, 64, phases)


def test_driver_and_workers_are_one_trace_below_who_submitted_the_job(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = trace(TRACEPARENT=CALLER)
    with telemetry.driver(JOB, "sales-1", settings.current()), tracing.span("train"):
        handed_on = tracing.current().traceparent
    # Elsewhere, as Ray starts it:
    with telemetry.worker(JOB, "sales-1", 1, handed_on), tracing.part("evaluation", step=0):
        pass
    tracing.stop()
    run, train, worker, evaluation = map(collected.one, ("run", "train", "worker", "evaluation"))
    assert {one.trace_id for one in collected.spans} == {CALLER.split("-")[1]}
    assert run.parent_id == CALLER.split("-")[2]
    assert train.parent_id == run.span_id
    assert worker.parent_id == train.span_id
    assert evaluation.parent_id == worker.span_id
    assert run.attributes["mizzen.run"] == worker.attributes["mizzen.run"] == "sales-1"
    assert worker.attributes["mizzen.rank"] == 1


def test_a_step_is_told_with_its_phases_but_not_every_step(trace: Trace) -> None:
    collected, now_s = trace(), [0.0]
    steps = telemetry.Steps(lambda: now_s[0])
    with tracing.span("worker"):
        for number, now_s[0] in enumerate([0.0, 1.0, 9.9, 10.0, 11.0, 25.0], 1):
            steps.done(step(number))
    tracing.stop()
    told = collected.named("step")
    whole = [one for one in told if "mizzen.step" in one.attributes]
    assert [one.attributes["mizzen.step"] for one in whole] == [1, 4, 6]
    first = whole[0]
    assert first.end_ns - first.start_ns == pytest.approx(1e9)
    phases = [one for one in collected.spans if one.parent_id == first.span_id]
    assert [(one.name, (one.end_ns - one.start_ns) / 1e9) for one in phases] == [
        ("data", pytest.approx(0.1)),
        ("forward", pytest.approx(0.2)),
        ("backward", pytest.approx(0.3)),
        ("step", pytest.approx(0.15)),
    ]
    assert phases[0].start_ns == first.start_ns
    assert all(after.start_ns == before.end_ns for before, after in itertools.pairwise(phases))


def test_off_no_step_is_told(collector: Any) -> None:
    telemetry.Steps().done(step(1))
    with telemetry.driver(JOB, "sales-1", settings.current()):
        assert tracing.current() is tracing.NOTHING
    assert collector.num_requests == 0
