"""What a run does when something goes wrong: workers that end, a loss that is no number, silence.

Policies here decide and return a value: `loop` acts on `FiniteSteps`, `failures` on `Retries`, `mailbox` on
`Stalls`. They know neither Ray nor DeepSpeed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from pydantic import Field

from mizzen.errors import TrainingError
from mizzen.workloads.contract import Fields

Verdict = Literal["go_on", "skip", "roll_back", "stop"]

USUAL_STEPS = 30
"""A run has stalled after so many times its usual step..."""
STALL_FLOOR_S = 600.0
"""...but never sooner than this: evaluations compile, disks are slow, stores are away."""
START_LIMIT_S = 1800.0
"""Before the first step a model is built, loaded and perhaps compiled."""
STEPS_FOR_USUAL = 101
"""The usual step is the median of the last so many."""


class Faults(Fields):
    """What a run does when something goes wrong."""

    max_failures: int = Field(3, ge=0)
    """So often the workers are started again from the last checkpoint, after one of them was killed, crashed
    or stalled. A machine that is taken away with notice does not count; an error that would come again does
    not lead to another try."""
    on_nan: Literal["stop", "skip", "roll_back"] = "stop"
    """When the loss or the gradient of a step is no finite number: end the run; leave this step's batch out;
    or take weights and optimiser back to the last checkpoint, too, and go on with what comes after this
    batch. No batch is tried again, so a run cannot go round in circles, and no such step changes weights."""
    max_skipped_steps: int = Field(10, ge=1)
    """With `skip`: the run ends when it would have to skip more than so many steps."""
    max_roll_backs: int = Field(3, ge=1)
    """With `roll_back`: the run ends when it would have to go back more often."""
    stall_timeout_s: float | None = Field(None, ge=1)
    """So long a worker may go without a step, a batch of an evaluation, or a checkpoint that advances.
    Default: 30 times the usual step, at least 10 minutes; before the first step at least 30 minutes."""
    on_stall: Literal["stop", "restart"] = "restart"
    """End the run, or start its workers again from the last checkpoint, as one of `max_failures`."""
    notice_s: float = Field(25.0, ge=0)
    """After SIGTERM the run may take so long to write a checkpoint before it ends. Kubernetes kills 30 s
    after SIGTERM by default, spot machines go after 30 to 120 s."""


# --- steps ----------------------------------------------------------------------------------------


@dataclass
class FiniteSteps:
    """What to do after a step, by whether its loss and its gradient are finite numbers.

    With `stop` each rank looks at what it has. With `skip` and `roll_back` all ranks come to the same
    verdict by the norm, which is the same on all of them: `engine.step` makes it NaN if the loss of any rank
    is not finite. In fp16 an infinite norm is the loss scale's own business.
    """

    faults: Faults
    precision: str = "fp32"
    skipped: int = 0
    roll_backs: int = 0

    @property
    def discards(self) -> bool:
        """Whether a step that is not finite must leave weights and optimiser as they are, on all ranks."""
        return self.faults.on_nan != "stop"

    def after(self, loss: float, gradient_norm: float | None) -> Verdict:
        """What to do after a step with this loss on this rank and this norm over all ranks."""
        if self._finite(loss, gradient_norm):
            return "go_on"
        if self.faults.on_nan == "skip":
            self.skipped += 1
            return "skip" if self.skipped <= self.faults.max_skipped_steps else "stop"
        if self.faults.on_nan == "roll_back":
            self.roll_backs += 1
            return "roll_back" if self.roll_backs <= self.faults.max_roll_backs else "stop"
        return "stop"

    def _finite(self, loss: float, gradient_norm: float | None) -> bool:
        norm = 0.0 if gradient_norm is None else gradient_norm
        sound = not math.isnan(norm) if self.precision == "fp16" else math.isfinite(norm)
        return sound and (self.discards or math.isfinite(loss))

    def sentence(self, step: int, back: int | None = None) -> str:
        """What was done about a step, and for the how manieth time; `back`: the step of the checkpoint."""
        said = f"step {step} was not finite: its batch is left out"
        if self.faults.on_nan == "skip":
            return f"{said} ({self.skipped} of at most {self.faults.max_skipped_steps})"
        where = (
            "there is no checkpoint to go back to" if back is None else f"weights are those of step {back}"
        )
        return f"{said}, {where} ({self.roll_backs} of at most {self.faults.max_roll_backs})"

    def error(self, step: int, loss: float, gradient_norm: float | None) -> TrainingError:
        """Why the run stops."""
        what = "loss" if not math.isfinite(loss) else "gradient"
        before = {
            "stop": "",
            "skip": f", and {self.faults.max_skipped_steps} steps were skipped already",
            "roll_back": f", and the run went back {self.faults.max_roll_backs} times already",
        }[self.faults.on_nan]
        return TrainingError(
            f"the {what} is no longer a finite number at step {step}{before}",
            saw=loss if what == "loss" else f"a gradient of norm {gradient_norm}",
            remedy="Lower training.learning_rate, or set training.gradient_clipping or precision: fp32; "
            "faults.on_nan: skip leaves such batches out.",
        )


# --- failures of workers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Why the workers of a run ended before its end."""

    kind: Literal["notice", "ours", "error", "store", "node", "process", "connection"]
    """A machine is taken away with notice; an error of Mizzen's that says what is wrong; any other exception;
    the store is away;
    a machine is gone; a process is gone; another worker could not be reached any more."""
    sentence: str
    where: str = ""
    """The step that the error came in, as the worker has noted it."""


@dataclass
class Retries:
    """Whether workers are started again after a failure."""

    max_failures: int
    counted: list[Failure] = field(default_factory=list)

    def after(self, failure: Failure) -> str | None:
        """None to start again, from the last checkpoint; else why not, to go after the failure's sentence."""
        if failure.kind == "notice":
            return None
        if failure.kind == "ours":
            return "it would come again"
        before = self.counted[-1] if self.counted else None
        self.counted.append(failure)
        if failure.kind == "error" and failure == before:
            return "it came at the same place twice in a row"
        if len(self.counted) > self.max_failures:
            return f"faults.max_failures is {self.max_failures}"
        return None


# --- stalls ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sign:
    """A sign of life of a rank."""

    heard_s: float
    idle_s: float
    """So long before, the rank has advanced last."""
    stepped: bool
    """It has taken a step since its start."""


@dataclass
class Stalls:
    """Whether a worker makes no progress any more, by what is heard of each.

    Times are seconds on the listener's own clock. Nothing is expected of workers that have not joined.
    """

    faults: Faults
    _signs: dict[int, Sign] = field(default_factory=dict)
    """The last of each rank."""
    _durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_FOR_USUAL))

    def heard(self, rank: int, sign: Sign) -> None:
        """A rank gives a sign of life."""
        self._signs[rank] = sign

    def left(self, rank: int) -> None:
        """A rank has done its work."""
        self._signs.pop(rank, None)

    def over(self) -> None:
        """All workers have ended, or will be; perhaps others join later."""
        self._signs.clear()

    def took(self, duration_s: float) -> None:
        """A step took so long."""
        self._durations_s.append(duration_s)

    def limit_s(self, stepped: bool) -> float:
        """How long a rank may take to advance."""
        given = self.faults.stall_timeout_s
        if not stepped:
            return max(START_LIMIT_S, given or 0.0)
        return given or max(STALL_FLOOR_S, USUAL_STEPS * median(self._durations_s or [0.0]))

    def stalled(self, now_s: float) -> Mapping[int, float]:
        """Ranks that have not advanced for too long, with the seconds since.

        By its own word, or because nothing is heard of it for so long. The two are not added: a rank that
        was slow and goes on has not had the time to say so.
        """
        return {
            rank: sign.idle_s + now_s - sign.heard_s
            for rank, sign in sorted(self._signs.items())
            if max(sign.idle_s, now_s - sign.heard_s) > self.limit_s(sign.stepped)
        }


def collective_timeout_s(faults: Faults) -> float:
    """How long a collective operation waits for the others before it fails.

    Longer than a stall takes to be noticed, which names the culprit. It ends workers whose peer has gone
    without a word, should Ray be unable to.
    """
    return max(START_LIMIT_S, (faults.stall_timeout_s or 0.0) + 60.0)
