"""Publishes models with the weights that they begin with: `small_models.py JOB.json ...`.

Everything of the road is real but the training: data, export, gate, version, alias. `mizzen train` does the
same for a job of no steps, but starts a Ray for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mizzen import settings
from mizzen.store.store import ModelStore
from mizzen.training import data, job, pipeline
from mizzen.training.result import TrainResult, run_folder, run_id
from mizzen.training.tables import RaySources


def publish(file: Path) -> str:
    """Publish what the job in `file` begins with; the version's digest."""
    wanted, here = job.load(file), settings.current()
    prepared = data.prepare(wanted, RaySources(), here, print)
    run = run_id(wanted)
    result = TrainResult(
        run_id=run,
        folder=run_folder(wanted, run, here),
        checkpoint=None,
        metrics={},
        initial_metrics={},
        num_steps=0,
        reason="there was nothing to do",
        world_size=1,
        deepspeed={},
        duration_s=0.0,
    )
    store = ModelStore(here.store_url)
    return pipeline.publish(wanted, prepared, result, store, here, print, lambda _: None).digest


for argument in sys.argv[1:]:
    print(publish(Path(argument)))
