"""Where a step's time goes, on the host's clock and on a GPU's."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from mizzen.training import phases
from mizzen.training.phases import GpuStopwatch, HostStopwatch, Phases, stopwatch


def test_micro_batches_are_summed_by_phase_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 100.0, 101.0])
    monkeypatch.setattr(phases.time, "perf_counter", lambda: next(clock))
    watch = HostStopwatch()
    watch.start()
    for _ in range(2):
        for phase in phases.PHASES:
            watch.mark(phase)
    assert watch.read() == Phases(data=1 + 5, forward=2 + 6, backward=3 + 7, step=4 + 8)
    watch.start()
    watch.mark("data")
    assert watch.read() == Phases(data=1.0)


def test_phases_add_up() -> None:
    assert Phases(1, 2, 3, 4) + Phases(10, 20, 30, 40) == Phases(11, 22, 33, 44)


class Event:
    """As `torch.cuda.Event`: it happens when the GPU comes to it, not when it is recorded."""

    made = 0
    gpu_ms = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        Event.made += 1
        self._at_ms: float | None = None
        self._is_over = False

    def record(self) -> None:
        self._at_ms, self._is_over = Event.gpu_ms, False

    def synchronize(self) -> None:
        assert self._at_ms is not None
        self._is_over = True

    def elapsed_time(self, end: Event) -> float:
        assert self._at_ms is not None and end._at_ms is not None
        return end._at_ms - self._at_ms


def test_on_a_gpu_the_time_is_the_gpus_and_events_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = GpuStopwatch()

    def step(num_micro_batches: int) -> Phases:
        watch.start()
        for _ in range(num_micro_batches):
            for phase, ms in (("data", 1), ("forward", 20), ("backward", 40), ("step", 3)):
                Event.gpu_ms += ms
                watch.mark(phase)  # type: ignore[arg-type] # mypy takes the names of a tuple for any text
        return watch.read()

    for num_micro_batches in (3, 1, 3):
        taken = step(num_micro_batches)
        expected = (0.001, 0.02, 0.04, 0.003)
        measured = (taken.data, taken.forward, taken.backward, taken.step)
        assert measured == pytest.approx([num_micro_batches * each for each in expected])
    assert Event.made == 1 + 3 * 4


@pytest.mark.gpu
def test_a_real_gpus_phases_are_what_the_step_took() -> None:
    watch = stopwatch(torch.device("cuda"))
    x_NN = torch.randn(4096, 4096, device="cuda")
    for _ in range(2):  # the first one warms up
        torch.cuda.synchronize()
        started = time.perf_counter()
        watch.start()
        time.sleep(0.05)  # what reading a batch takes
        watch.mark("data")
        y_NN = x_NN @ x_NN
        watch.mark("forward")
        for _ in range(20):
            y_NN = y_NN @ x_NN
        watch.mark("backward")
        float(y_NN.sum())
        watch.mark("step")
        taken, elapsed_s = watch.read(), time.perf_counter() - started
    assert taken.data == pytest.approx(0.05, rel=0.2)
    assert taken.backward > 10 * taken.forward
    assert sum(duration_s for _, duration_s in taken.items()) == pytest.approx(elapsed_s, rel=0.05)


def test_what_is_on_a_cpu_is_measured_by_the_host() -> None:
    assert isinstance(stopwatch(torch.device("cpu")), HostStopwatch)


def test_items_are_in_the_order_of_a_step() -> None:
    items: list[Any] = Phases(1, 2, 3, 4).items()
    assert items == [("data", 1), ("forward", 2), ("backward", 3), ("step", 4)]
