"""Chat and recommendation with a clock in their loss: what a step takes, seen from inside of any training loop.

A plug-in for Mizzen (`plugged_in` installs it for child processes) and a module for the bare loop. Both loops
call the same `loss` once a micro-batch, so the time between two calls is a whole step of either, with
whatever the loop does beside. The clock keeps everything in memory until the last step. It judges nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import psutil

from mizzen.workloads.chat.workload import ChatWorkload
from mizzen.workloads.recommendation import RecommendationWorkload

FOLDER_VARIABLE, STEPS_VARIABLE = "MIZZEN_LOAD_CLOCK", "MIZZEN_LOAD_STEPS"
PREFIX = "timed-"


class Clock:
    """When each step began, and its loss; written to `rank-N.json` once the last has begun."""

    def __init__(self) -> None:
        self._began_s: list[float] = []
        self._losses: list[Any] = []
        self._cpu: list[tuple[float, float]] = []
        """CPU seconds of this process and of the whole machine, as each step began."""

    def tick(self) -> None:
        """A step's forward pass begins."""
        self._began_s.append(time.perf_counter())
        machine = psutil.cpu_times()
        busy_s = machine.user + machine.system + machine.irq + machine.softirq + machine.nice
        self._cpu.append((time.process_time(), busy_s))

    def take(self, loss: Any) -> None:
        """The loss of the step."""
        self._losses.append(loss.detach())
        if len(self._losses) == int(os.environ[STEPS_VARIABLE]):
            self._write()

    def _write(self) -> None:
        import torch.distributed

        file = Path(os.environ[FOLDER_VARIABLE]) / f"rank-{torch.distributed.get_rank()}.json"
        content = {
            "began_s": self._began_s,
            "process_cpu_s": [process_s for process_s, _ in self._cpu],
            "machine_cpu_s": [machine_s for _, machine_s in self._cpu],
            "losses": [float(loss) for loss in self._losses],
            "num_threads": torch.get_num_threads(),
        }
        file.write_text(json.dumps(content))


class TimedChat(ChatWorkload):
    """Chat with a clock."""

    name: ClassVar[str] = PREFIX + "chat"

    def __init__(self) -> None:
        self._clock = Clock()

    def loss(self, model: Any, batch: Any) -> Any:
        """See `Workload`."""
        self._clock.tick()
        loss = super().loss(model, batch)
        self._clock.take(loss)
        return loss


class TimedRecommendation(RecommendationWorkload):
    """Recommendation with a clock."""

    name: ClassVar[str] = PREFIX + "recommendation"

    def __init__(self) -> None:
        self._clock = Clock()

    def loss(self, model: Any, batch: Any) -> Any:
        """See `Workload`."""
        self._clock.tick()
        loss = super().loss(model, batch)
        self._clock.take(loss)
        return loss


chat, recommendation = TimedChat(), TimedRecommendation()


def plugged_in(site: Path) -> dict[str, str]:
    """Variables with which a Python finds these workloads; `site` becomes a folder of packages."""
    metadata = site / "mizzen_timed-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mizzen-timed\nVersion: 1.0\n")
    names = ("chat", "recommendation")
    lines = [f"{PREFIX}{name} = {Path(__file__).stem}:{name}" for name in names]
    (metadata / "entry_points.txt").write_text("\n".join(["[mizzen.workloads]", *lines]) + "\n")
    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), here, before]))}
