"""Jobs on a Ray cluster as KubeRay starts it: submitted, trained on both workers, explained, stopped.

KubeRay writes a RayJob's runtime environment and entry point into a shell's command line for the pod that
submits; so does the test of the RayJob that `mizzen train --on kubernetes` makes.

Every node has a home of its own, so what one node has of another has gone through the store. The tests run in
their order: the last one stops the cluster.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import sklearn.datasets
import yaml

from mizzen import metrics, totals
from mizzen.cluster.config import ClusterConfig, StorePlace
from mizzen.cluster.train_job import manifest
from mizzen.store import audit
from mizzen.store.objects import Objects
from mizzen.store.runs import RunRecord, Runs
from mizzen.store.store import ModelStore
from mizzen.training.job import parse
from mizzen.training.result import run_id

MIZZEN = Path(sys.executable).with_name("mizzen")
TIMEOUT_S = 400.0
"""Generous: the machine may be busy with other tests."""
JOB: dict[str, Any] = {
    "name": "digits",
    "workload": "digits",
    "training": {"steps": 8, "micro_batch_size": 16, "learning_rate": 3e-3, "evaluate_every_steps": 4},
    "scaling": {"workers": 2, "cpus_per_worker": 2},  # a whole worker node each
}
AWKWARD = 'it\'s "1 $HOME" `date` \\ é.csv'
"""A file's name with all that a shell, YAML and JSON give a meaning to."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module")
def client(kuberay_cluster: Any, store_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody who submits jobs."""
    return {
        **os.environ,
        **kuberay_cluster.client_environment,
        "RAY_API_SERVER_ADDRESS": kuberay_cluster.address,
        "MIZZEN_STORE": store_url,
        "MIZZEN_HOME": str(tmp_path_factory.mktemp("client-home")),
    }


@pytest.fixture(scope="module")
def mizzen(client: dict[str, str]) -> Run:
    """Runs a command of ours, with more in the environment if wanted."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MIZZEN, *map(str, arguments)],
            env={**client, **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("job") / "job.yaml"
    file.write_text(json.dumps(JOB))
    return file


@pytest.fixture(scope="module")
def trained(mizzen: Run, job_file: Path) -> tuple[str, str]:
    """The id of a run that has succeeded, and what was printed while it was followed."""
    result = mizzen("train", job_file, "--on", "ray", "--follow")
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.search(r"submitted (\S+);", result.stderr)
    assert found, result.stderr
    return found[1], result.stdout


def the_record(store_url: str, run: str) -> RunRecord:
    return Runs(store_url).show(run)


def test_a_job_is_trained_by_both_worker_nodes_and_published(
    trained: tuple[str, str], kuberay_cluster: Any, store_url: str
) -> None:
    run, printed = trained
    record = the_record(store_url, run)
    assert (record.state, record.place, record.attempt, record.step) == ("succeeded", "ray", 1, 8)
    assert (record.model, record.version) == ("digits", 1)
    assert record.initial_metrics["accuracy"] < record.metrics["accuracy"]
    nodes = re.findall(r"worker \d of 2 is on \S+ \(([\d.]+), node (\w+)\)", printed)
    assert {ip for ip, _ in nodes} == {worker.ip for worker in kuberay_cluster.workers}
    assert len({node for _, node in nodes}) == 2
    published = ModelStore(store_url).resolve("digits@production")
    assert published.version == 1
    assert published.gate.passed
    assert published.lineage.run_id == run
    assert published.lineage.world_size == 2
    assert published.lineage.initial_metrics == record.initial_metrics
    for node in kuberay_cluster.nodes:  # the workers' copies came through the store, which keeps none
        assert (node.home / "prepared" / published.lineage.data_digest).is_dir()
    assert not [name for name in Runs(store_url).objects.sizes_bytes(f"runs/{run}") if "prepared" in name]


def test_its_progress_is_in_the_log_and_no_secret_is(
    trained: tuple[str, str], kuberay_cluster: Any, store_url: str
) -> None:
    run, printed = trained
    kept = "\n".join(Runs(store_url).log(run).new_lines())
    for text in (printed, kept):
        for expected in ("preparing data", "step 0 of 8: validation accuracy", "published digits@1"):
            assert expected in text
        assert kuberay_cluster.token not in text


def test_it_is_listed_and_shown_with_what_it_published(trained: tuple[str, str], mizzen: Run) -> None:
    (listed,) = json.loads(mizzen("jobs", "list", "--on", "ray", "--json").stdout)
    shown = json.loads(mizzen("jobs", "show", trained[0], "--on", "ray", "--json").stdout)
    for job in (listed, shown):
        assert (job["name"], job["state"], job["reason"]) == (trained[0], "succeeded", "")
        assert (job["job"], job["workload"], job["workers"]) == ("digits", "digits", 2)
        assert (job["model"], job["version"]) == ("digits", 1)


def test_a_second_attempt_goes_on_from_the_last_checkpoint(
    trained: tuple[str, str], kuberay_cluster: Any, client: dict[str, str], store_url: str
) -> None:
    """As KubeRay does when a RayJob is tried again: the same run, with the same environment, on the head."""
    run, first = trained[0], the_record(store_url, trained[0])
    longer = {**JOB, "training": {**JOB["training"], "steps": 12}}
    result = subprocess.run(
        [sys.executable, "-m", "mizzen.cluster.entry", "--run", run, "--place", "ray"],
        env={
            **client,
            "RAY_ADDRESS": kuberay_cluster.gcs_address,
            "MIZZEN_HOME": str(kuberay_cluster.head.home),
            "MIZZEN_JOB": json.dumps(longer),
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "going on from a checkpoint" in result.stdout
    assert "step 0 of" not in result.stdout
    record = the_record(store_url, run)
    assert (record.state, record.attempt, record.step, record.version) == ("succeeded", 2, 12, 2)
    assert record.created_at == first.created_at
    history = Runs(store_url).history(run)
    assert [point.step for point in history if point.metrics] == [0, 4, 8, 12]
    assert max(point.step for point in history if point.loss is not None) == 12
    second = ModelStore(store_url).manifest("digits", 2)
    assert second.lineage.initial_metrics == first.initial_metrics
    # The driver's series are on the head, and a restart of two workers counts once; those of a worker are
    # where it runs, and a step of both counts once, by the first of them, which either node may have.
    nodes = [kuberay_cluster.head, *kuberay_cluster.workers]
    for series, on_head, elsewhere in ((metrics.TRAINING_RESTARTS, 1, 0), (metrics.TRAINING_STEPS, 0, 12)):
        found = [totals.samples(series, node.home / "metrics") for node in nodes]
        head, *others = [sum(n for labels, n in one if labels["run"] == run) for one in found]
        assert (head, sum(others)) == (on_head, elsewhere)
    samples = [totals.samples(metrics.TRAINING_SAMPLES, node.home / "metrics") for node in nodes[1:]]
    assert [n for one in samples for labels, n in one if labels["run"] == run] == [12 * 16] * 2


@pytest.mark.long
def test_a_table_that_is_sent_along_is_read_on_the_head_and_trained_on_elsewhere(
    mizzen: Run, job_file: Path, store_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    digits = sklearn.datasets.load_digits()
    table = pandas.DataFrame(digits.data.astype(int), columns=[f"pixel_{n}" for n in range(64)])
    table.assign(label=digits.target)[:600].to_csv(folder / "mine.csv", index=False)
    sent = ["--set", f"cluster.working_dir={folder}", "--set", "data.path=mine.csv"]
    result = mizzen("train", job_file, "--on", "ray", "--follow", *sent, "--set", "publish.model=sent")
    assert result.returncode == 0, result.stdout + result.stderr
    assert ModelStore(store_url).resolve("sent").lineage.data_report["rows_kept"] == 600


@pytest.mark.long
def test_a_job_that_fails_says_why_in_a_sentence(mizzen: Run, job_file: Path, store_url: str) -> None:
    diverges = ["--set", "training.learning_rate=1e30", "--set", "training.gradient_clipping=0"]
    result = mizzen("train", job_file, "--on", "ray", "--follow", *diverges)
    assert result.returncode != 0
    assert re.search(r"finite number at step \d+.*Lower training\.learning_rate", result.stdout)
    run = re.findall(r"submitted (\S+);", result.stderr)[0]
    job = json.loads(mizzen("jobs", "show", run, "--on", "ray", "--json").stdout)
    assert job["state"] == "failed"
    assert job["reason"].startswith("the loss is no longer a finite number at step")
    assert "\n" not in job["reason"]
    record = the_record(store_url, run)
    assert (record.state, record.version) == ("failed", None)


@pytest.mark.long
def test_a_job_that_is_cancelled_ends_and_leaves_its_log(
    mizzen: Run, client: dict[str, str], job_file: Path, store_url: str
) -> None:
    submitted = mizzen("train", job_file, "--on", "ray", "--json", "--set", "training.steps=1000000")
    run = json.loads(submitted.stdout)["name"]
    follow = [MIZZEN, "jobs", "logs", run, "--follow", "--on", "ray"]
    with subprocess.Popen(follow, env=client, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 0 of" in line:
                assert mizzen("jobs", "delete", run, "--on", "ray").returncode == 8  # not while it runs
                assert mizzen("jobs", "cancel", run, "--on", "ray").returncode == 0
    job = json.loads(mizzen("jobs", "show", run, "--on", "ray", "--json").stdout)
    assert (job["state"], job["version"]) == ("cancelled", None)
    record = the_record(store_url, run)
    assert (record.state, record.error) == ("cancelled", "it was stopped")
    assert mizzen("jobs", "cancel", run, "--on", "ray").returncode == 8  # it has ended
    assert mizzen("jobs", "delete", run, "--on", "ray").returncode == 0
    assert Runs(store_url).find(run) is None
    told = [entry for entry in audit.entries(Objects(store_url)) if entry.target == run]
    assert [(one.action, one.outcome, one.details) for one in told] == [
        ("job.cancel", "done", {"place": "ray"}),
        ("job.delete", "done", {"place": "ray"}),
    ]


@pytest.mark.long
def test_a_cancelled_job_goes_on_where_it_stopped(
    mizzen: Run, client: dict[str, str], job_file: Path, store_url: str
) -> None:
    several = {"name": "cancelled", "training.steps": 600, "training.evaluate_every_steps": 50}
    several |= {"checkpointing.every_steps": 10, "publish.model": "goes-on"}
    options = [part for name, value in several.items() for part in ("--set", f"{name}={value}")]
    run = json.loads(mizzen("train", job_file, "--on", "ray", "--json", *options).stdout)["name"]
    follow = [MIZZEN, "jobs", "logs", run, "--follow", "--on", "ray"]
    with subprocess.Popen(follow, env=client, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 50 of" in line:
                assert mizzen("jobs", "cancel", run, "--on", "ray").returncode == 0
    assert the_record(store_url, run).state == "cancelled"
    other = mizzen("train", job_file, "--on", "ray", "--resume", *options, "--set", "training.seed=5")
    assert (other.returncode, "cannot go on with another training.seed" in other.stderr) == (2, True), other
    result = mizzen("train", job_file, "--on", "ray", "--resume", "--follow", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.search(rf"going on with run {run} after step (\d+)", result.stderr)
    assert found, result.stderr
    assert 50 <= int(found[1]) < 600
    assert "step 0 of" not in result.stdout.partition("going on from a checkpoint")[2]
    record = the_record(store_url, run)
    assert (record.state, record.attempt, record.step, record.version) == ("succeeded", 2, 600, 1)
    steps = [point.step for point in Runs(store_url).history(run) if point.metrics]
    assert steps == list(range(0, 601, 50))


def test_a_wrong_token_a_wrong_address_and_a_wrong_name_are_told_apart(mizzen: Run, client: Any) -> None:
    refused = mizzen("jobs", "list", "--on", "ray", RAY_AUTH_TOKEN="0" * 64)
    assert (refused.returncode, "does not let us in" in refused.stderr) == (8, True), refused.stderr
    assert client["RAY_AUTH_TOKEN"] not in refused.stderr
    away = mizzen("jobs", "list", "--on", "ray", "--address", "http://127.0.0.1:9")
    assert (away.returncode, "no Ray cluster can be reached" in away.stderr) == (8, True), away.stderr
    unknown = mizzen("jobs", "logs", "nobody", "--on", "ray")
    assert (unknown.returncode, "knows no job 'nobody'" in unknown.stderr) == (3, True), unknown.stderr


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


@pytest.mark.long
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


def test_the_log_stays_when_the_cluster_is_gone(
    trained: tuple[str, str], kuberay_cluster: Any, mizzen: Run
) -> None:
    kuberay_cluster.stop()
    result = mizzen("jobs", "logs", trained[0], "--on", "ray")
    assert result.returncode == 0, result.stderr
    assert "published digits@1" in result.stdout
    assert json.loads(mizzen("jobs", "show", trained[0], "--on", "ray", "--json").stdout)["version"] == 2
