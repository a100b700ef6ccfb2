"""Workloads with a clock in their loss: what a step takes, seen from inside of any training loop.

A plug-in for Mizzen (`plugged_in` installs it for child processes) and a module for the bare loop. Both loops
call the same `loss` once a step, so the time between two calls is a whole step of either, with whatever the
loop does beside. The clock keeps everything in memory until the last step. It judges nothing.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any, ClassVar

import psutil
from shapes import SHAPES, ShapeName

from mizzen.workloads.chat.workload import ChatWorkload
from mizzen.workloads.contract import DataReport, Fields, Prepared, Sources
from mizzen.workloads.recommendation import RecommendationWorkload

FOLDER_VARIABLE, STEPS_VARIABLE = "MIZZEN_LOAD_CLOCK", "MIZZEN_LOAD_STEPS"
CORES_VARIABLE = "MIZZEN_LOAD_CORES"
"""Numbers of the cores that workers may use, with commas; default: all."""
PREFIX = "timed-"


WARM_UP_STEPS = 10


class Clock:
    """When each step began, and its loss; written to `rank-N.json` once the last has begun.

    A GPU works behind the host's back: it is waited for where the measured steps begin, and where they end,
    and nowhere between.
    """

    def __init__(self) -> None:
        self._began_s: list[float] = []
        self._losses: list[Any] = []
        self._cpu: list[tuple[float, float]] = []
        """CPU seconds of this process and of the whole machine, as each step began."""

    def tick(self) -> None:
        """A step's forward pass begins."""
        if not self._began_s and (cores := os.environ.get(CORES_VARIABLE)):
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setaffinity(int(thread.name), {int(core) for core in cores.split(",")})
        if len(self._began_s) in (WARM_UP_STEPS, int(os.environ[STEPS_VARIABLE]) - 1):
            self._wait()
        self._began_s.append(time.perf_counter())
        machine = psutil.cpu_times()
        busy_s = machine.user + machine.system + machine.irq + machine.softirq + machine.nice
        self._cpu.append((time.process_time(), busy_s))

    def take(self, loss: Any) -> None:
        """The loss of the step."""
        self._losses.append(loss.detach())
        if len(self._losses) == int(os.environ[STEPS_VARIABLE]):
            self._write()

    @staticmethod
    def _wait() -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _write(self) -> None:
        import torch.distributed

        together = torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if together else 0
        file = Path(os.environ[FOLDER_VARIABLE]) / f"rank-{rank}.json"
        on_gpu = torch.cuda.is_available()
        content = {
            "began_s": self._began_s,
            "process_cpu_s": [process_s for process_s, _ in self._cpu],
            "machine_cpu_s": [machine_s for _, machine_s in self._cpu],
            "losses": [float(loss) for loss in self._losses],
            "num_threads": torch.get_num_threads(),
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else _peak_resident_bytes(),
        }
        file.write_text(json.dumps(content))


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


class NoData(Fields):
    """The `data` section of `TimedTokens`."""


class TokensModel(Fields):
    """The `model` section of `TimedTokens`."""

    shape: ShapeName
    length: int
    """Tokens of an example."""


NUM_EXAMPLES = 1 << 20


class TimedTokens(ChatWorkload):
    """A Llama on random tokens of one length: what a GPU can do, with nothing to read. Never published."""

    name: ClassVar[str] = PREFIX + "tokens"
    data_config: ClassVar[Any] = NoData
    model_config: ClassVar[Any] = TokensModel

    def __init__(self) -> None:
        self._clock = Clock()

    def samples_needed(self, data: Any, model: Any) -> tuple[str, ...]:
        """None."""
        return ()

    def prepare(self, data: Any, sources: Sources, folder: Path) -> DataReport:
        """There is nothing to prepare: examples are made as they are asked for."""
        return DataReport(NUM_EXAMPLES, NUM_EXAMPLES, {}, {})

    def check(self, config: Any, mode: Any) -> None:
        """Anything goes."""

    def build_model(self, config: Any, prepared: Prepared, *, dropout: float) -> Any:
        """In fp32."""
        return SHAPES[config.shape].build()

    def skeleton(self, config: Any, prepared: Prepared, *, dropout: float) -> None:
        """None: there are no weights to read."""

    def outline(self, config: Any, *, dropout: float, batch_size: int) -> None:
        """None."""

    def begin_training(self, config: Any, model: Any) -> None:
        """As it is."""

    def training_data(self, config: Any, prepared: Prepared) -> Any:
        """Random tokens, the same for the same number."""
        return RandomTokens(NUM_EXAMPLES, SHAPES[config.shape].vocabulary, config.length)

    def evaluation_data(self, config: Any, prepared: Prepared, split: Any) -> Any:
        """One example, for there must be one."""
        return RandomTokens(1, SHAPES[config.shape].vocabulary, config.length)

    def collate(self, rows: Any) -> dict[str, Any]:
        """`input_ids` and `labels` (B, T), nothing masked."""
        import torch

        input_ids_BT = torch.stack(list(rows))
        return {"input_ids": input_ids_BT, "labels": input_ids_BT}

    def count(self, batch: Any) -> int:
        """Tokens."""
        return int(batch["input_ids"].numel())

    def inputs(self, batch: Any) -> dict[str, Any]:
        """Tokens alone."""
        return {"input_ids": batch["input_ids"]}

    def predict(self, model: Any, inputs: Any) -> dict[str, Any]:
        """`logits` (B, T, V)."""
        return {"logits": model(input_ids=inputs["input_ids"], use_cache=False).logits}

    def loss(self, model: Any, batch: Any) -> Any:
        """The mean over all tokens but the first."""
        from torch.nn.functional import cross_entropy

        self._clock.tick()
        logits_BTV = self.predict(model, batch)["logits"]
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())
        self._clock.take(loss)
        return loss


class RandomTokens:
    """A map-style data set."""

    def __init__(self, num: int, vocabulary: int, length: int) -> None:
        self._num, self._vocabulary, self._length = num, vocabulary, length

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> Any:
        import torch

        generator = torch.Generator().manual_seed(index)
        return torch.randint(self._vocabulary, (self._length,), generator=generator)


chat, recommendation, tokens = TimedChat(), TimedRecommendation(), TimedTokens()


def plugged_in(site: Path) -> dict[str, str]:
    """Variables with which a Python finds these workloads; `site` becomes a folder of packages."""
    metadata = site / "mizzen_timed-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mizzen-timed\nVersion: 1.0\n")
    names = ("chat", "recommendation", "tokens")
    lines = [f"{PREFIX}{name} = {Path(__file__).stem}:{name}" for name in names]
    (metadata / "entry_points.txt").write_text("\n".join(["[mizzen.workloads]", *lines]) + "\n")
    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), here, before]))}
