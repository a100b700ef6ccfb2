"""Training on real Ray Train and DeepSpeed with two workers over gloo."""

import copy
import json
import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mizzen import local_ray, metrics, totals
from mizzen.errors import DataError, GateError, TrainingError
from mizzen.series import Series
from mizzen.settings import Settings
from mizzen.store.store import ModelStore
from mizzen.training import launch, pipeline
from mizzen.training.job import TrainJob
from mizzen.training.mailbox import Progress
from mizzen.training.result import TrainResult

Job = Callable[..., TrainJob]
CHANNELS, HIDDEN = 16, 64
"""Of the digits' network, by default."""
GAUGES = (
    metrics.TRAINING_STEP,
    metrics.TRAINING_NUM_STEPS,
    metrics.TRAINING_WORKERS,
    metrics.TRAINING_LOSS,
    metrics.TRAINING_LEARNING_RATE,
    metrics.TRAINING_GRADIENT_NORM,
    metrics.TRAINING_VALIDATION,
    metrics.TRAINING_LAST_ACTIVITY,
    metrics.TRAINING_MEMORY,
    metrics.CHECKPOINT_BYTES,
)


def trained(
    job: TrainJob, settings: Settings, watch: launch.Watch = lambda _: None
) -> tuple[Any, TrainResult]:
    prepared = launch.prepare(job, settings, lambda _: None)
    return prepared, launch.train(job, prepared, settings, watch)


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, float]]:
    """The highest value of each of `GAUGES` that was seen while the first run went on, by its id."""
    return {}


@pytest.fixture(scope="module")
def exposed() -> list[list[str]]:
    """What listened beyond loopback at each progress of the first run."""
    return []


def open_to_others() -> list[str]:
    """What of Ray listens beyond loopback now."""

    def loopback(address: str) -> bool:
        return ip_address(address.removeprefix("::ffff:")).is_loopback  # an IPv4 address on an IPv6 socket

    found = []
    for process in local_ray.processes():
        with suppress(psutil.NoSuchProcess):  # it has ended in this moment
            found += [
                f"{process.name()} on {connection.laddr}"
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN and not loopback(connection.laddr.ip)
            ]
    return found


@pytest.fixture(scope="module")
def first(
    ray_home: Settings, job: Job, shown: dict[str, dict[str, float]], exposed: list[list[str]]
) -> tuple[Any, TrainResult, list[Progress]]:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        exposed.append(open_to_others())
        for series in GAUGES:
            for labels, value in totals.samples(series, ray_home.metrics_dir):
                of_run = shown.setdefault(labels["run"], {})
                of_run[series.name] = max(value, of_run.get(series.name, value))

    prepared, result = trained(job(), ray_home, watch)
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


@pytest.mark.long
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


@pytest.mark.long
def test_bf16_trains_under_zero_2(ray_home: Settings, job: Job) -> None:
    halved = job(training={"precision": "bf16"}, deepspeed={"zero_stage": 2})
    _, result = trained(halved, ray_home)
    assert result.metrics["accuracy"] > result.initial_metrics["accuracy"] + 0.3


@pytest.mark.long
def test_gradient_accumulation_takes_the_same_examples_for_a_step(
    first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings, job: Job
) -> None:
    _, expected, _ = first
    split = job(training={"micro_batch_size": 8, "gradient_accumulation_steps": 2})
    _, result = trained(split, ray_home)
    assert result.metrics == pytest.approx(expected.metrics, rel=0.02)


@pytest.mark.long
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
        trained(
            job("digits-that-diverge", training={"learning_rate": 1e30, "gradient_clipping": 0}), ray_home
        )
    counts = totals.samples(metrics.TRAINING_NONFINITE, ray_home.metrics_dir)
    assert max(n for labels, n in counts if labels["train_job"] == "digits-that-diverge") >= 1


def test_nothing_listens_beyond_loopback_while_it_trains(
    first: tuple[Any, TrainResult, list[Progress]], exposed: list[list[str]]
) -> None:
    _, _, seen = first
    assert exposed == [[]] * len(seen)


def counted(series: Series, folder: Path, run: str, **labels: str) -> float:
    """The one line of a run's counter, over both workers."""
    wanted = {"train_job": "digits", "run": run, **labels}
    (found,) = [value for given, value in totals.samples(series, folder) if given == wanted]
    return found


def of_the_model(rows: int) -> int:
    """Operations behind the digits' network, from its shapes."""
    layers = [  # the last convolution has half the resolution
        2 * 64 * 9 * 1 * CHANNELS,
        2 * 16 * 9 * CHANNELS * 2 * CHANNELS,
        2 * 16 * 2 * CHANNELS * HIDDEN,
        2 * HIDDEN * 10,
    ]
    return rows * (3 * sum(layers) - layers[0])  # nobody needs the gradient of the image


def test_workers_record_their_series_with_totals_over_both(
    first: tuple[Any, TrainResult, list[Progress]], ray_home: Settings
) -> None:
    _, result, _ = first
    folder, run = ray_home.metrics_dir, result.run_id
    assert counted(metrics.TRAINING_STEPS, folder, run) == 24
    assert counted(metrics.TRAINING_SAMPLES, folder, run) == 24 * 32
    assert counted(metrics.TRAINING_FLOPS, folder, run) == of_the_model(rows=24 * 32)
    assert counted(metrics.TRAINING_NONFINITE, folder, run) == 0
    text = totals.exposition(folder).decode()
    about = f'{{run="{run}",train_job="digits"}}'
    assert f"mizzen_training_step_duration_seconds_count{about} 24.0" in text
    assert f"mizzen_training_checkpoint_duration_seconds_count{about} 6.0" in text  # three, by two workers
    (took_s,) = re.findall(rf"mizzen_training_step_duration_seconds_sum{re.escape(about)} (\S+)", text)
    for rank in ("0", "1"):
        by_phase = {
            phase: counted(metrics.TRAINING_PHASE, folder, run, rank=rank, phase=phase)
            for phase in ("data", "forward", "backward", "step")
        }
        assert min(by_phase.values()) > 0
        assert 0.5 * float(took_s) < sum(by_phase.values()) < 1.5 * float(took_s)
    owner = {"owner_kind": "train_job", "owner": "digits"}
    for series in (metrics.RESERVED_CPU, metrics.USED_CPU):
        (seconds,) = [value for labels, value in totals.samples(series, folder) if labels == owner]
        assert seconds > 0
    # The run has ended: nothing is left of what it showed while it went on.
    for gauge in (metrics.TRAINING_LOSS, metrics.TRAINING_LAST_ACTIVITY, metrics.TRAINING_WORKERS):
        assert not [labels for labels, _ in totals.samples(gauge, folder) if labels["run"] == run]


def test_gauges_show_a_run_while_it_goes_on(
    first: tuple[Any, TrainResult, list[Progress]], shown: dict[str, dict[str, float]]
) -> None:
    _, result, _ = first
    seen = shown[result.run_id]
    assert set(seen) == {series.name for series in GAUGES}
    assert seen["mizzen_training_planned_steps"] == 24
    assert seen["mizzen_training_workers"] == 2
    assert seen["mizzen_training_learning_rate"] == pytest.approx(3e-3)


def test_figures_of_a_step_come_with_the_progress(first: tuple[Any, TrainResult, list[Progress]]) -> None:
    _, _, seen = first
    told = [progress for progress in seen if progress.loss is not None]
    assert [progress.step for progress in told] == list(range(1, 25))  # a short run tells of each
    for progress in told:
        figures = progress.figures
        phases_s = [figures[f"{name}_seconds"] for name in ("data", "forward", "backward", "optimizer")]
        assert 0 < sum(phases_s) <= figures["step_seconds"]
        assert figures["samples_per_second"] == pytest.approx(32 / figures["step_seconds"])
        assert figures["gradient_norm"] > 0
        assert figures["memory_bytes"] > 2**20


def test_a_table_of_ones_own_without_its_column_is_refused(ray_home: Settings, job: Job, csv: Path) -> None:
    csv.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"label|pixel"):
        launch.prepare(job(data={"path": str(csv)}), ray_home, lambda _: None)


def test_a_job_goes_the_whole_road_into_the_store(
    first: tuple[Any, TrainResult, list[Progress]],
    ray_home: Settings,
    job: Job,
    series_of_this_process: Path,
) -> None:
    published = pipeline.run(job("digits-road"), ray_home, say=lambda _: None, watch=lambda _: None)
    store = ModelStore(ray_home.store_url)
    manifest = store.resolve("digits-road@production")
    assert manifest == published.manifest
    prepared, expected, _ = first  # the same seed gives the same to the last bit
    assert manifest.lineage.data_digest == prepared.digest
    assert manifest.lineage.metrics == expected.metrics
    assert manifest.gate.passed
    assert manifest.lineage.job["training"]["steps"] == 24
    assert manifest.lineage.deepspeed["zero_optimization"] == {"stage": 1}
    assert manifest.lineage.world_size == 2
    assert {"torch", "ray", "deepspeed", "onnxruntime"} <= manifest.lineage.libraries.keys()
    assert manifest.quality["accuracy"] > manifest.baselines["most frequent digit"]["accuracy"]
    assert {"weights.safetensors"} <= {entry.path for entry in manifest.files}
    json.dumps(published.summary())
    found = totals.samples(metrics.STORE_PUBLISHES, series_of_this_process)
    assert {labels["gate"]: n for labels, n in found if labels["model"] == "digits-road"} == {
        "passed": 1,
        "failed": 0,
    }
    sizes = totals.samples(metrics.STORE_VERSION_BYTES, series_of_this_process)
    assert [n for labels, n in sizes if labels["model"] == "digits-road"] == [manifest.size_bytes]
    moves = totals.samples(metrics.STORE_ALIAS_MOVES, series_of_this_process)
    assert ({"model": "digits-road", "alias": "production"}, 1) in moves
    restarts = totals.samples(metrics.TRAINING_RESTARTS, series_of_this_process)
    assert [n for labels, n in restarts if labels["run"] == published.result.run_id] == [0]
    ended = totals.samples(metrics.TRAINING_RUNS, series_of_this_process)
    assert {labels["outcome"]: n for labels, n in ended if labels["train_job"] == "digits-road"} == {
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
    }


def test_a_failed_gate_moves_no_alias_and_keeps_the_report(
    ray_home: Settings, job: Job, monkeypatch: pytest.MonkeyPatch, series_of_this_process: Path
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
        bad = job("digits-bad", publish={"model": "digits-bad"})
        pipeline.run(bad, ray_home, say=lambda _: None, watch=lambda _: None)
    assert error.value.exit_code == 4
    found = totals.samples(metrics.STORE_GATE_FAILURES, series_of_this_process)
    assert {labels["check"]: n for labels, n in found if labels["model"] == "digits-bad"} == {
        "parity": 1,
        "quality": 0,
        "nothing_judged": 0,
    }
    ended = totals.samples(metrics.TRAINING_RUNS, series_of_this_process)
    assert {labels["outcome"]: n for labels, n in ended if labels["train_job"] == "digits-bad"} == {
        "succeeded": 0,
        "failed": 1,
        "cancelled": 0,
    }
    store = ModelStore(ray_home.store_url)
    assert not store.aliases("digits-bad")
    assert not store.manifest("digits-bad", 1).gate.passed
    with pytest.raises(GateError):
        store.set_alias("digits-bad", 1, "production")
