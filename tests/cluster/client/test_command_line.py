"""The verbs as they are typed, in processes of their own, against the server that plays the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mizzen.cluster.kube import CONFIG_MAPS, PODS, RAY_JOBS, RAY_SERVICES

JOB = Path(__file__).resolve().parents[3] / "jobs" / "forecasting.yaml"
Typed = subprocess.CompletedProcess[str]


@pytest.fixture
def mizzen(kubeconfig: Path, tmp_path: Path) -> Any:
    """Runs a command line with the kubeconfig file in the environment."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "MIZZEN_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> Typed:
        command = [sys.executable, "-c", "from mizzen.cli import main; main()", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False
        )

    return run


@pytest.fixture
def release(api: Any) -> Any:
    """A release with its configuration."""
    labels = {"mizzen.dev/config": "jobs", "app.kubernetes.io/instance": "blue"}
    content = {"release": "blue", "image": "example/mizzen:1"}
    api.put(
        CONFIG_MAPS,
        {
            "metadata": {"name": "blue-jobs", "labels": labels},
            "data": {"config.yaml": yaml.safe_dump(content)},
        },
    )
    return api


def test_a_job_is_submitted_explained_followed_and_stopped(release: Any, mizzen: Any) -> None:
    submitted = mizzen("train", str(JOB), "--on", "kubernetes", "--json")
    assert submitted.returncode == 0, submitted.stderr
    name = json.loads(submitted.stdout)["name"]
    rayjob = release.objects[RAY_JOBS.path("team", name)]
    assert rayjob["metadata"]["labels"]["app.kubernetes.io/instance"] == "blue"
    rayjob["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
    rayjob["status"]["message"] = "error: the data has no column 'y'; saw x. Name another."
    shown = mizzen("jobs", "show", name, "--on", "kubernetes")
    assert "the data has no column 'y'; saw x. Name another." in shown.stdout
    listed = json.loads(mizzen("jobs", "list", "--on", "kubernetes", "--json").stdout)
    assert [(job["name"], job["state"]) for job in listed] == [(name, "failed")]
    terminated = {"name": "s", "state": {"terminated": {}}}
    release.put(
        PODS,
        {
            "metadata": {"name": "s-1", "labels": {"job-name": name}},
            "spec": {"containers": [{"name": "s"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [terminated]},
        },
    )
    release.logs["s-1"] = ["2026-11-22T08:00:00.1Z step 1", "2026-11-22T08:00:00.2Z error: no column"]
    told = mizzen("jobs", "logs", name, "--follow", "--on", "kubernetes")
    assert told.stdout == "step 1\nerror: no column\n"
    assert mizzen("jobs", "cancel", name, "--on", "kubernetes").returncode == 8  # it has ended
    assert mizzen("jobs", "delete", name, "--on", "kubernetes").returncode == 0
    assert RAY_JOBS.path("team", name) not in release.objects


def test_an_app_that_failed_is_told_by_the_status(api: Any, mizzen: Any) -> None:
    app = {"name": "ratings", "route_prefix": "/ratings", "args": {"app": {"model": "ratings@production"}}}
    failed = {"status": "DEPLOY_FAILED", "message": "ModuleNotFoundError: No module named 'x'"}
    labels = {"app.kubernetes.io/part-of": "mizzen", "app.kubernetes.io/instance": "blue"}
    api.put(
        RAY_SERVICES,
        {
            "metadata": {"name": "blue", "labels": labels},
            "spec": {"serveConfigV2": yaml.safe_dump({"applications": [app]})},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "activeServiceStatus": {"rayClusterName": "b", "applicationStatuses": {"ratings": failed}},
            },
        },
    )
    told = mizzen("status", "--on", "kubernetes")
    assert told.returncode == 7
    assert "No module named 'x'" in told.stdout


def test_an_error_of_the_cluster_is_one_line_and_its_own_exit_code(api: Any, mizzen: Any) -> None:
    api.refusals["GET", "rayjobs"] = (403, {"reason": "Forbidden", "message": "rayjobs.ray.io is forbidden"})
    refused = mizzen("jobs", "list", "--on", "kubernetes")
    assert refused.returncode == 8
    assert "You may not `list` `rayjobs.ray.io`" in refused.stderr
    assert "Traceback" not in refused.stderr
