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


def new_run(job: TrainJob, settings: Settings) -> tuple[str, Path]:
    """A fresh run id and its folder, with the job in it."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{job.name}-{now}-{secrets.token_hex(2)}"
    folder = settings.runs_dir / run_id
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job.model_dump(mode="json"), indent=1))
    return run_id, folder


def keep(result: TrainResult) -> None:
    """Write the result into its run's folder."""
    (result.folder / RESULT).write_text(json.dumps(asdict(result), indent=1, default=str))
