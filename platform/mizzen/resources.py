"""What a replica or a training worker costs: CPUs and GPUs reserved times how long, CPU time and memory used.

It reserves nothing and limits nothing: whoever starts the process does.
"""

from __future__ import annotations

import time
from typing import Literal

import psutil

from mizzen import metrics
from mizzen.recording import Recorder

TICK_EVERY_S = 5.0
"""How often `Resources.tick` wants to be called: a process that is killed loses what came after its last."""


class Resources:
    """The costs of this process, from now on, for the application or the training job that it works for.

    `cpus` and `gpus` are what is reserved for this process, busy or not; fractions are fine. `tick` is to be
    called from one place at a time.
    """

    def __init__(
        self, owner_kind: Literal["app", "train_job"], owner: str, cpus: float, gpus: float = 0.0
    ) -> None:
        self._recorder = Recorder(owner_kind=owner_kind, owner=owner)
        self._cpus, self._gpus = cpus, gpus
        self._process = psutil.Process()
        self._at_s = time.monotonic()
        self._used_s = self._cpu_time_s()
        self._recorder.set(metrics.RESERVED_CPUS, cpus)
        self._recorder.set(metrics.RESERVED_GPUS, gpus)
        self.tick()

    def tick(self) -> None:
        """Count what has been reserved and used since the last call; it takes some 0.1 ms."""
        now_s, used_s = time.monotonic(), self._cpu_time_s()
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        more_s, self._used_s = used_s - self._used_s, used_s
        self._recorder.count(metrics.RESERVED_CPU, self._cpus * elapsed_s)
        self._recorder.count(metrics.RESERVED_GPU, self._gpus * elapsed_s)
        self._recorder.count(metrics.USED_CPU, max(0.0, more_s))
        self._recorder.set(metrics.RESIDENT_MEMORY, self._process.memory_info().rss)

    def close(self) -> None:
        """Count the rest; nothing is reserved any more."""
        self.tick()
        self._recorder.forget()

    def _cpu_time_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system
