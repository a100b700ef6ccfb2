"""Verbs that act on clusters, where there is none: what they say, and manifests that need none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

MIZZEN = Path(sys.executable).with_name("mizzen")
JOB = Path(__file__).parents[3] / "jobs" / "forecasting.yaml"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MIZZEN, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "list"],
        ["jobs", "show", "a"],
        ["status"],
        ["doctor"],
        ["train", str(JOB)],
    ],
    ids=" ".join,
)
def test_without_a_kubeconfig_file_a_verb_says_where_it_looks_for_one(arguments: list[str]) -> None:
    done = run(*arguments, "--on", "kubernetes")
    assert done.returncode == 8, done.stderr
    assert "KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_ray_cluster_a_verb_says_which_address_it_tried() -> None:
    done = run("jobs", "list", "--on", "ray", "--address", "http://127.0.0.1:9")
    assert done.returncode == 8
    assert "http://127.0.0.1:9" in done.stderr
    assert "--address" in done.stderr


def test_a_manifest_can_be_printed_without_any_cluster() -> None:
    done = run(
        "train", str(JOB), "--on", "kubernetes", "--dry-run", "--image", "example/mizzen:1",
        "--namespace", "team", "--set", "scaling.workers=3", "--set", "cluster.queue=gpus",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rayjob = yaml.safe_load(done.stdout)
    assert rayjob["kind"] == "RayJob"
    assert rayjob["metadata"]["namespace"] == "team"
    assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    spec = rayjob["spec"]["rayClusterSpec"]
    assert spec["workerGroupSpecs"][0]["replicas"] == 3
    images = {c["image"] for c in spec["headGroupSpec"]["template"]["spec"]["containers"]}
    assert images == {"example/mizzen:1"}
    sent = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])["env_vars"]["MIZZEN_JOB"]
    assert json.loads(sent)["scaling"] == {"workers": 3}


def test_a_working_dir_becomes_a_config_map_beside_the_job(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "table.csv").write_text("a,b\n1,2\n")
    done = run(
        "train", str(JOB), "--on", "kubernetes", "--dry-run", "--image", "example/mizzen:1",
        "--set", f"cluster.working_dir={folder}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rayjob, code = yaml.safe_load_all(done.stdout)
    assert code["kind"] == "ConfigMap"
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    named = [v["configMap"]["name"] for v in head["volumes"] if "configMap" in v]
    assert named == [code["metadata"]["name"]]


def test_without_an_image_a_manifest_needs_a_cluster_that_names_one() -> None:
    done = run("train", str(JOB), "--on", "kubernetes", "--dry-run")
    assert done.returncode == 8
    assert "KUBECONFIG" in done.stderr
