"""Trains a recipe of Mizzen, publishes it, and writes what the published model predicts, as a peer does.

    ours.py JOB OUT --seed N [--set KEY=VALUE ...] [--quick]
    ours.py JOB OUT --published NAME@VERSION

The prediction is the exported ONNX model's, opened from the store as an endpoint opens it. With `--published`
nothing is trained: the version has to be of this recipe. It judges nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import handover
from mizzen import settings
from mizzen.store.manifest import Manifest
from mizzen.store.runtime import OnnxRuntime
from mizzen.store.store import ModelStore
from mizzen.training import data, job, pipeline
from mizzen.training.job import TrainJob
from mizzen.workloads.contract import Batch, Predict, Prepared

BATCH_SIZE = 64
QUICK = ("training.epochs=1",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--published", metavar="NAME@VERSION")
    parser.add_argument("--quick", action="store_true", help="one epoch: to try it")
    arguments = parser.parse_args()
    more = [*arguments.set, *(QUICK if arguments.quick else ())]
    recipe = job.load(arguments.job, [f"training.seed={arguments.seed}", "publish.alias=null", *more])
    here = settings.current()
    store = ModelStore(here.store_url)
    if arguments.published:
        manifest = store.resolve(arguments.published)
        check(manifest, recipe)
    else:
        manifest = pipeline.run(recipe, here, say=print, watch=lambda _: None).manifest
    prepared = data.opened(here.prepared_dir / manifest.lineage.data_digest)
    folder = store.fetch(manifest, here.cache_dir)
    predict = recipe.implementation.open(folder, OnnxRuntime("cpu", num_threads=1))
    arguments.out.mkdir(parents=True, exist_ok=True)
    name, values = predictions(recipe, prepared, predict)
    np.save(arguments.out / name, values)
    report = {
        "model": f"{manifest.name}@{manifest.version}",
        "digest": manifest.digest,
        "data_digest": manifest.lineage.data_digest,
        "precision": manifest.precision,
        "run": manifest.lineage.run_id,
        "validation": dict(manifest.lineage.metrics),
        "reported": dict(manifest.quality),
        "seed": manifest.lineage.job["training"]["seed"],
    }
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def check(manifest: Manifest, recipe: TrainJob) -> None:
    """Raises `ValueError` if the version was trained by another recipe; its seed may be another.

    That it is of the same data says its digest, which the evaluator compares.
    """
    sections = ("model", "training", "scaling")
    was, now = manifest.lineage.job, recipe.for_the_record()
    different = [
        f"{section}.{name}"
        for section in sections
        for name in now[section]
        # A field that is newer than the version had no other value than its default.
        if name in was[section] and was[section][name] != now[section][name] and name != "seed"
    ]
    if different:
        raise ValueError(f"{manifest.name}@{manifest.version} is of another recipe: {', '.join(different)}")


def predictions(recipe: TrainJob, prepared: Prepared, predict: Predict) -> tuple[str, np.ndarray[Any, Any]]:
    """The file's name, and what the model says of each example of the test split."""
    rows = []
    for batch in batches(recipe, prepared):
        inputs = recipe.implementation.inputs(batch)
        outputs = predict({name: tensor.numpy() for name, tensor in inputs.items()})
        if recipe.workload == "recommendation":
            rows.append(outputs["scores"])
        else:
            middle = recipe.model.quantiles.index(0.5)
            location_B1, scale_B1 = batch["scale"].numpy().T[:, :, None]
            rows.append(location_B1 + scale_B1 * outputs["quantiles"][:, :, middle].astype(np.float64))
    name = handover.SCORES if recipe.workload == "recommendation" else handover.FORECASTS
    return name, np.concatenate(rows)


def batches(recipe: TrainJob, prepared: Prepared) -> Iterator[Batch]:
    """The test split, in its order."""
    examples: Any = recipe.implementation.evaluation_data(recipe.model, prepared, "test")
    for first in range(0, len(examples), BATCH_SIZE):
        rows = [examples[number] for number in range(first, min(first + BATCH_SIZE, len(examples)))]
        yield recipe.implementation.collate(rows)


if __name__ == "__main__":
    main()
