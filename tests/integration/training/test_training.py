"""Training on real Ray Train and DeepSpeed with two workers over gloo."""

import copy
import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mizzen import local_ray, totals
from mizzen.errors import DataError, GateError, TrainingError
from mizzen.settings import Settings
from mizzen.store.store import ModelStore
from mizzen.training import launch, pipeline
from mizzen.training.job import TrainJob
from mizzen.training.launch import Progress
from mizzen.training.result import TrainResult

Job = Callable[..., TrainJob]


def trained(
    job: TrainJob, settings: Settings, watch: launch.Watch = lambda _: None
) -> tuple[Any, TrainResult]:
    prepared = launch.prepare(job, settings, lambda _: None)
    return prepared, launch.train(job, prepared, settings, watch)


@pytest.fixture(scope="module")
def first(ray_home: Settings, job: Job) -> tuple[Any, TrainResult, list[Progress]]:
    seen: list[Progress] = []
    prepared, result = trained(job(), ray_home, seen.append)
    return prepared, result, seen


def test_training_improves_the_held_out_quality(first: tuple[Any, TrainResult, list[Progress]]) -> None:
    _, result, _ = first
    assert result.num_steps == 24
    assert result.reason == "finished"
    assert result.metrics["accuracy"] > result.initial_metrics["accuracy"] + 0.3


def test_progress_arrives_while_it_trains(first: tuple[Any, TrainResult, list[Progress]]) -> None:
    _, _, seen = first
    assert {p.num_steps for p in seen} == {24}
    assert seen[-1].step == 24
    assert [p.step for p in seen if p.metrics] == [0, 8, 16, 24]


@pytest.mark.parametrize("stage", [0, 3])
def test_every_zero_stage_trains_the_same_model(
    stage: int, first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings, job: Job
) -> None:
    _, expected, _ = first  # stage 1
    prepared, result = trained(job(deepspeed={"zero_stage": stage}), ray_home)
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-3)
    model = pipeline.trained_model(job(deepspeed={"zero_stage": stage}), prepared, result)
    again = pipeline.trained_model(job(), prepared, expected)
    for (name, value), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert value.shape == other.shape, name
        assert (value - other).abs().max() < 1e-4, name


def test_the_same_seed_gives_the_same_metrics_to_the_last_bit(
    first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings, job: Job
) -> None:
    prepared, expected, _ = first
    again, result = trained(job(), ray_home)
    assert again.digest == prepared.digest
    assert result.metrics == expected.metrics


def test_bf16_trains_under_zero_2(ray_home: Settings, job: Job) -> None:
    halved = job(training={"precision": "bf16"}, deepspeed={"zero_stage": 2})
    _, result = trained(halved, ray_home)
    assert result.metrics["accuracy"] > result.initial_metrics["accuracy"] + 0.3


def test_gradient_accumulation_takes_the_same_examples_for_a_step(
    first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings, job: Job
) -> None:
    _, expected, _ = first
    split = job(training={"micro_batch_size": 8, "gradient_accumulation_steps": 2})
    _, result = trained(split, ray_home)
    assert result.metrics == pytest.approx(expected.metrics, rel=0.02)


def test_a_run_stops_early_and_keeps_its_best_checkpoint(ray_home: Settings, job: Job) -> None:
    hopeless = job(
        training={
            "learning_rate": 1e-9,
            "steps": 400,
            "early_stopping": {"patience": 2, "min_improvement": 0.5},
        }
    )
    _, result = trained(hopeless, ray_home)
    assert result.num_steps == 24  # evaluated at 8 (the first), 16 and 24 without improvement
    assert result.reason.startswith("stopped early")
    assert result.checkpoint is not None
    assert result.checkpoint.is_dir()


def test_a_loss_that_diverges_ends_the_run_with_the_step_and_a_remedy(ray_home: Settings, job: Job) -> None:
    with pytest.raises(TrainingError, match=r"finite number at step \d+.*training\.learning_rate"):
        trained(job(training={"learning_rate": 1e30, "gradient_clipping": 0}), ray_home)


def test_nothing_listens_beyond_loopback_while_it_trains(ray_home: Settings, job: Job) -> None:
    def loopback(address: str) -> bool:
        return ip_address(address.removeprefix("::ffff:")).is_loopback  # an IPv4 address on an IPv6 socket

    def exposed() -> list[str]:
        return [
            f"{process.name()} on {connection.laddr}"
            for process in local_ray.processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and not loopback(connection.laddr.ip)
        ]

    seen: list[list[str]] = []
    trained(job(), ray_home, lambda progress: seen.append(exposed()))
    assert seen
    assert seen == [[]] * len(seen)


def test_workers_record_their_series(
    first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings
) -> None:
    text = totals.exposition(ray_home.metrics_dir).decode()
    for series in ("mizzen_training_loss", "mizzen_training_step_duration_seconds_count"):
        assert f'{series}{{job="digits"}}' in text
    line = next(x for x in text.splitlines() if x.startswith("mizzen_training_samples_total"))
    assert float(line.rsplit(" ", 1)[1]) >= 24 * 32


def test_a_table_of_ones_own_without_its_column_is_refused(ray_home: Settings, job: Job, csv: Path) -> None:
    csv.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"label|pixel"):
        launch.prepare(job(data={"path": str(csv)}), ray_home, lambda _: None)


def test_a_job_goes_the_whole_road_into_the_store(ray_home: Settings, job: Job) -> None:
    published = pipeline.run(job(), ray_home, say=lambda _: None, watch=lambda _: None)
    store = ModelStore(ray_home.store_url)
    manifest = store.resolve("digits@production")
    assert manifest == published.manifest
    assert manifest.gate.passed
    assert manifest.lineage.job["training"]["steps"] == 24
    assert manifest.lineage.deepspeed["zero_optimization"] == {"stage": 1}
    assert manifest.lineage.world_size == 2
    assert {"torch", "ray", "deepspeed", "onnxruntime"} <= manifest.lineage.libraries.keys()
    assert manifest.quality["accuracy"] > manifest.baselines["most frequent digit"]["accuracy"]
    assert {"weights.safetensors"} <= {entry.path for entry in manifest.files}
    json.dumps(published.summary())


def test_a_failed_gate_moves_no_alias_and_keeps_the_report(
    ray_home: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(job().implementation)
    export = kind.export

    def export_another(self: Any, model: Any, *others: Any) -> None:
        """Write a model of the same shape with other weights."""
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        export(self, other, *others)

    monkeypatch.setattr(kind, "export", export_another)
    with pytest.raises(GateError, match=r"refused digits-bad@1.*\n.*FAILED") as error:
        pipeline.run(job(publish={"model": "digits-bad"}), ray_home, say=lambda _: None, watch=lambda _: None)
    assert error.value.exit_code == 4
    store = ModelStore(ray_home.store_url)
    assert not store.aliases("digits-bad")
    assert not store.manifest("digits-bad", 1).gate.passed
    with pytest.raises(GateError):
        store.set_alias("digits-bad", 1, "production")
