"""The RayJob that `mizzen train --on kubernetes` makes, run for real as KubeRay runs it.

KubeRay writes a RayJob's runtime environment and entry point into a shell's command line for the pod that
submits; so does this test, on a Ray cluster that was started like KubeRay's pods are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mizzen.cluster.config import ClusterConfig, StorePlace
from mizzen.cluster.train_job import manifest
from mizzen.store.store import ModelStore
from mizzen.training.job import parse
from mizzen.training.result import run_id

AWKWARD = 'it\'s "1 $HOME" `date` \\ é.csv'
"""A file's name with all that a shell, YAML and JSON give a meaning to."""


def go_quoted(text: str) -> str:
    """`text` between double quotes as KubeRay writes it: Go's strconv.Quote, but for control characters."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def submit_command(rayjob: dict[str, Any], address: str) -> str:
    """What the submitter's shell is told, as the operator's K8sJobMode has it."""
    spec = rayjob["spec"]
    environment = json.dumps(yaml.safe_load(spec["runtimeEnvYAML"]), ensure_ascii=False)
    job = spec["jobId"]
    return (
        f"if ! ray job status --address {address} {job} >/dev/null 2>&1 ; then "
        f"ray job submit --address {address} --no-wait --runtime-env-json {go_quoted(environment)} "
        f"--submission-id {job} -- {spec['entrypoint'].strip()} ; fi ; "
        f"ray job logs --address {address} --follow {job}"
    )


def series(path: Path) -> Path:
    """A table of four series, 40 months each."""
    rows = ["series,time,target"]
    for name in "abcd":
        rows += [f"{name},{2000 + i // 12}-{i % 12 + 1:02d}-01,{100 + i + 10 * (i % 12)}" for i in range(40)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_rayjob_submitted_as_kuberay_does_trains_and_publishes(
    kuberay_cluster: Any, tmp_path: Path
) -> None:
    table = series(tmp_path / AWKWARD)
    store = f"file://{tmp_path / 'store'}"
    job = parse(
        {
            "name": "monthly",
            "workload": "forecasting",
            "data": {
                "path": str(table),
                "columns": {"series": "series", "timestamp": "time", "target": "target"},
                "frequency": "MS",
                "horizon": 3,
                "context_length": 12,
            },
            "training": {"steps": 2, "micro_batch_size": 4},
            "scaling": {"workers": 2},
        },
        "the test's job",
    )
    run = run_id(job)
    rayjob = manifest(
        job, ClusterConfig(image="example/mizzen:1", store=StorePlace(url=store)), run, "default"
    )
    done = subprocess.run(
        ["bash", "-ce", "--", submit_command(rayjob, kuberay_cluster.address)],
        env={
            **os.environ,
            **kuberay_cluster.client_environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    published = ModelStore(store).resolve("monthly@production")
    assert published.lineage.world_size == 2
    assert published.lineage.job["data"]["path"] == str(table)
