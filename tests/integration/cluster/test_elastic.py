"""A run grows when a machine joins the cluster, and goes on with fewer workers when one is gone, or will be.

The workers record which examples they train on; see `recorded/mizzen_recorded.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mizzen_digits import workload as digits
from mizzen_digits.config import DigitsData, DigitsModel
from safetensors.torch import load_file

from mizzen.store.runs import RunRecord, Runs
from mizzen.store.store import ModelStore
from mizzen.training.batches import SampleStream
from mizzen.workloads.contract import Prepared

pytestmark = pytest.mark.long
CODE = Path(__file__).parent / "recorded"
TIMEOUT_S = 400.0
"""Generous: the machine may be busy with other tests."""
NUM_STEPS, BATCH_SIZE, SAVED_EVERY, SEED, LEARNING_RATE = 40, 32, 5, 3, 3e-3
JOB: dict[str, Any] = {
    "name": "digits",
    "workload": "recorded",
    "training": {
        "steps": NUM_STEPS,
        "micro_batch_size": BATCH_SIZE // 2,
        "learning_rate": LEARNING_RATE,
        "evaluate_every_steps": NUM_STEPS,
        "seed": SEED,
    },
    "checkpointing": {"every_steps": SAVED_EVERY},
    "scaling": {"workers": [1, 2], "resize_every_s": 1},
}
RUN = "digits-grows"


@dataclass(frozen=True)
class Life:
    """What workers trained on from one start to their end: examples in the stream's order, step by step."""

    num_workers: int
    steps: list[list[int]]

    @property
    def examples(self) -> list[int]:
        return [index for step in self.steps for index in step]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers write."""
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module")
def trained(
    start_kuberay: Callable[..., Any],
    recorded: Path,
    store_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunRecord:
    """A run that began on a machine with room for one worker; a second machine came, and went."""
    variables = {"PYTHONPATH": str(CODE), "RECORDED": str(recorded)}
    cluster = start_kuberay(workers=0, head_cpus=1, variables=variables)
    printed = tmp_path_factory.mktemp("printed") / "log.txt"
    with running(JOB, RUN, cluster, store_url, printed, variables) as process:
        until(lambda: lines(recorded, 1) > 2 * 10, process, printed)
        cluster.add_node(num_cpus=1)
        until(lambda: lines(recorded, 2) > 2 * 7, process, printed)
        cluster.lose(cluster.workers[-1])
    return Runs(store_url).show(RUN)


@contextmanager
def running(
    job: Mapping[str, Any],
    run: str,
    cluster: Any,
    store_url: str,
    printed: Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A run of `job` on the cluster, as KubeRay begins it on the head; after the block it has succeeded."""
    environ = {
        **os.environ,
        **cluster.client_environment,
        **(variables or {}),
        "RAY_ADDRESS": cluster.gcs_address,
        "MIZZEN_JOB": json.dumps(job),
        "MIZZEN_STORE": store_url,
        "MIZZEN_HOME": str(cluster.head.home),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "mizzen.cluster.entry", "--run", run, "--place", "ray"]
    with (
        printed.open("w") as file,
        subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield process
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0, printed.read_text()[-6000:]


def until(reached: Callable[[], bool], process: subprocess.Popen[bytes], printed: Path) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < until_s and process.poll() is None, printed.read_text()[-6000:]
        time.sleep(0.1)


def lines(folder: Path, num_workers: int) -> int:
    files = folder.glob(f"*-{num_workers}")
    return sum(len(file.read_text().splitlines()) for file in files)


@pytest.fixture(scope="module")
def lives(trained: RunRecord, recorded: Path) -> list[Life]:
    """The workers' own records, in their order."""
    files = sorted(recorded.glob("*-*-*"), key=lambda file: file.stat().st_mtime)
    batches = {
        file: [list(map(int, line.split())) for line in file.read_text().splitlines()] for file in files
    }
    alone = [file for file in files if file.name.endswith("-0-1")]
    pair = sorted(
        (file for file in files if file.name.endswith("-2")), key=lambda file: file.name.split("-")[1]
    )
    found = [Life(1, in_steps([batches[file]], 2)) for file in alone]
    found.insert(1, Life(2, in_steps([batches[file] for file in pair], 1)))
    return found


def in_steps(ranks: list[list[list[int]]], micro_steps: int) -> list[list[int]]:
    """Of whole steps."""
    number = min(len(batches) for batches in ranks) // micro_steps
    steps = [
        [batch for batches in ranks for batch in batches[step * micro_steps : (step + 1) * micro_steps]]
        for step in range(number)
    ]
    return [[index for batch in step for index in batch] for step in steps]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    sources: Any = None  # the digits come with a library
    return Prepared(folder, "digest", digits.prepare(DigitsData(), sources, folder))


def test_the_run_tells_that_it_grew_and_that_it_shrank(trained: RunRecord) -> None:
    assert (trained.state, trained.step, trained.attempt) == ("succeeded", NUM_STEPS, 1)
    resized = [event.text for event in trained.events if event.kind == "resized"]
    assert resized == ["2 workers from now on, 1 before", "1 worker from now on, 2 before"]
    [lost] = [event for event in trained.events if event.kind in ("node_lost", "worker_failed")]
    assert trained.events.index(lost) > [event.kind for event in trained.events].index("resized")
    assert [event.kind for event in trained.events].count("resumed") == 2


def test_growing_repeats_nothing_and_a_loss_repeats_what_no_checkpoint_has(
    lives: list[Life], prepared: Prepared
) -> None:
    data: Any = digits.training_data(DigitsModel(), prepared)
    stream = SampleStream(len(data), SEED)
    order = [stream.at(position) for position in range(NUM_STEPS * BATCH_SIZE)]
    one, two, last = lives
    assert [life.num_workers for life in lives] == [1, 2, 1]
    assert one.examples == order[: len(one.examples)]
    grew = len(one.examples)
    assert two.examples == order[grew : grew + len(two.examples)]
    went_on = len(order) - len(last.examples)
    assert last.examples == order[went_on:]
    # The last step that both workers had begun was not over when one of them was killed.
    lost = grew + (len(two.steps) - 1) * BATCH_SIZE
    assert 0 <= lost - went_on <= SAVED_EVERY * BATCH_SIZE
    assert went_on >= grew


def test_the_model_is_that_of_a_run_whose_workers_never_changed(
    trained: RunRecord, store_url: str, prepared: Prepared, tmp_path: Path
) -> None:
    """A loop of plain PyTorch over the same examples, all in one batch."""
    manifest = ModelStore(store_url).resolve("digits@production")
    assert manifest.lineage.world_size == 1
    folder = ModelStore(store_url).fetch(manifest, tmp_path)
    torch.manual_seed(SEED)
    model = digits.build_model(DigitsModel(), prepared, dropout=0.0)
    data: Any = digits.training_data(DigitsModel(), prepared)
    stream = SampleStream(len(data), SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(NUM_STEPS):
        rows = [data[stream.at(step * BATCH_SIZE + i)] for i in range(BATCH_SIZE)]
        digits.loss(model, digits.collate(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    for name, tensor in load_file(folder / "weights.safetensors").items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=2e-3)


def test_a_machine_that_is_taken_away_with_notice_costs_no_step(
    start_kuberay: Callable[..., Any], tmp_path: Path
) -> None:
    """As spot machines are: the run writes a checkpoint, and goes on elsewhere."""
    many = 1500
    training = {"steps": many, "micro_batch_size": 16, "evaluate_every_steps": many}
    job = {**JOB, "workload": "digits", "training": training, "checkpointing": {"every_steps": many}}
    job["scaling"] = {"workers": [1, 2], "resize_every_s": 3600}
    cluster = start_kuberay(workers=1, num_cpus=1, head_cpus=1)
    store, printed = f"file://{tmp_path / 'store'}", tmp_path / "log.txt"
    with running(job, "digits-drained", cluster, store, printed) as process:
        until(lambda: "step 0 of" in printed.read_text(), process, printed)
        cluster.drain(cluster.workers[-1])
        until(lambda: "going on from a checkpoint" in printed.read_text(), process, printed)
        cluster.lose(cluster.workers[-1])
    record = Runs(store).show("digits-drained")
    assert (record.state, record.step, record.attempt) == ("succeeded", many, 1)
    events = {event.kind: event.text for event in record.events}
    assert not events.keys() & {"node_lost", "worker_failed", "stalled"}
    assert events["resized"] == "1 worker from now on, 2 before"
    noticed = re.search(r"machines are taken away, after step (\d+)", events["notice"])
    resumed = re.search(r"after step (\d+)", events["resumed"])
    assert noticed and resumed and noticed[1] == resumed[1]
