"""What `mizzen train` leaves of a run for `mizzen jobs`, and how a run here is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mizzen.store.runs import Runs

MIZZEN = Path(sys.executable).with_name("mizzen")
TIMEOUT_S = 400.0
"""Generous: the machine may be busy with other tests."""
JOB = {
    "name": "digits",
    "workload": "digits",
    "training": {"steps": 8, "micro_batch_size": 16, "learning_rate": 3e-3},
    "scaling": {"workers": 2, "cpus_per_worker": 0.5},
}


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(JOB))
    return file


def mizzen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MIZZEN, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)


def test_a_run_is_listed_and_its_log_can_be_read_when_it_is_over(job_file: Path, mizzen_home: Path) -> None:
    trained = mizzen("train", str(job_file), "--json")
    assert trained.returncode == 0, trained.stderr
    run = json.loads(trained.stdout)["run_id"]
    (job,) = json.loads(mizzen("jobs", "list", "--json").stdout)
    assert (job["name"], job["state"], job["model"], job["version"]) == (run, "succeeded", "digits", 1)
    log = mizzen("jobs", "logs", run, "--follow").stdout
    for expected in ("preparing data", "step 8 of 8: validation accuracy", "published digits@1"):
        assert expected in log
    learned = json.loads(mizzen("runs", "show", run, "--json").stdout)
    losses, validations = learned["curves"]["train/loss"][run], learned["curves"]["validation/accuracy"][run]
    assert ([step for step, _ in validations], losses[-1][0]) == ([0, 8], 8)
    assert learned["runs"][0]["median"]["time/step_seconds"] > 0
    assert list((mizzen_home / "runs" / run / "tensorboard").glob("events.out.tfevents.*"))
    assert mizzen("jobs", "delete", run).returncode == 0
    assert json.loads(mizzen("jobs", "list", "--json").stdout) == []
    assert mizzen("models", "show", "digits@1").returncode == 0  # what it published stays


def test_a_run_that_is_cancelled_ends_with_all_that_it_started(job_file: Path, mizzen_home: Path) -> None:
    endless = ["train", str(job_file), "--set", "training.steps=1000000"]
    with subprocess.Popen([MIZZEN, *endless], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        run = next(line.split()[1] for line in process.stderr if line.startswith("run "))
        with subprocess.Popen(
            [MIZZEN, "jobs", "logs", run, "--follow"], stdout=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout is not None
            assert any("step 0 of 1000000" in line for line in follower.stdout)
            assert mizzen("jobs", "cancel", run).returncode == 0
            follower.stdout.read()  # it ends, because the run does
        process.stderr.read()
        assert process.wait(TIMEOUT_S) == 143
    record = Runs(f"file://{mizzen_home}/store").show(run)
    assert (record.state, record.error, record.version) == ("cancelled", "it was stopped", None)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(os.fspath(mizzen_home)) not in left
    again = mizzen("jobs", "cancel", run)
    assert (again.returncode, "has ended already" in again.stderr) == (8, True)
