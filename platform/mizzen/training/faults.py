"""What a run does when something goes wrong: workers that end, a loss that is no number, silence.

Policies here decide and return a value; `loop`, `launch` and `worker` act on it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mizzen.workloads.contract import Fields


class Faults(Fields):
    """What a run does when something goes wrong."""

    max_failures: int = Field(3, ge=0)
    """So often the workers are started again from the last checkpoint, after one of them was killed, crashed
    or stalled. A machine that is taken away with notice does not count; an error that would come again does
    not lead to another try."""
    on_nan: Literal["stop", "skip", "roll_back"] = "stop"
    """When the loss or the gradient is no finite number: end the run, leave this step's batch out, or go back
    to the last checkpoint and leave the batch out there."""
    max_skipped_steps: int = Field(10, ge=1)
    """With `skip`: the run ends when it would have to skip more than so many steps."""
    max_roll_backs: int = Field(3, ge=1)
    """With `roll_back`: the run ends when it would have to go back more often."""
    stall_timeout_s: float | None = Field(None, ge=1)
    """So long the workers may go without a step, an evaluation or a checkpoint that advances. Default: 30
    times the usual step, at least 10 minutes; before the first step 30 minutes."""
    on_stall: Literal["stop", "restart"] = "restart"
    """End the run, or start its workers again from the last checkpoint, as one of `max_failures`."""
    notice_s: float = Field(25.0, ge=0)
    """After SIGTERM the run may take so long to write a checkpoint before it ends. Kubernetes kills 30 s
    after SIGTERM by default, spot machines go after 30 to 120 s."""
