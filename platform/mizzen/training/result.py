"""What a training run leaves: its result, and the folder in which it is kept."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mizzen.settings import Settings
from mizzen.training.job import TrainJob

RESULT = "result.json"
RUN_ID_CHARACTERS = 47


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its best checkpoint and the validation metrics of that checkpoint."""

    run_id: str
    folder: Path
    checkpoint: Path | None
    """None if the run had no step: the model is then what `build_model` gives."""
    metrics: Mapping[str, float]
    initial_metrics: Mapping[str, float]
    num_steps: int
    reason: str
    """Why the run ended."""
    world_size: int
    deepspeed: Mapping[str, Any]
    duration_s: float


def run_id(job: TrainJob) -> str:
    """A fresh name for a run of `job`: DNS-1035 and at most 47 characters, as a RayJob's name must be."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    suffix = f"-{now}-{secrets.token_hex(2)}"
    name = job.name if job.name[0].isalpha() else f"job-{job.name}"
    return name[: RUN_ID_CHARACTERS - len(suffix)].rstrip("-") + suffix


def run_folder(job: TrainJob, run: str, settings: Settings) -> Path:
    """The folder of a run on this machine, with the job in it; a later attempt finds that of an earlier."""
    folder = settings.runs_dir / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job.model_dump(mode="json"), indent=1))
    return folder


def keep(result: TrainResult) -> None:
    """Write the result into its run's folder."""
    (result.folder / RESULT).write_text(json.dumps(asdict(result), indent=1, default=str))
