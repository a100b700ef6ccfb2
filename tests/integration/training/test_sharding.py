"""A language model trained in the ways that a job can ask for: the same examples give the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import TrainingError
from mizzen.settings import Settings
from mizzen.training import launch, operators, sharded
from mizzen.training.job import TrainJob, parse
from mizzen.training.result import TrainResult

UNIT = Path(__file__).resolve().parents[2] / "unit" / "workloads" / "chat" / "conftest.py"
WORDS = ("printer", "screen", "mouse", "cable", "disk", "fan", "key", "lamp", "router", "phone")

Job = Callable[..., TrainJob]
Losses = dict[int, float]


def chat_unit() -> Any:
    """What the unit tests of chat share."""
    spec = spec_from_file_location("chat_unit_conftest", UNIT)
    assert spec is not None and spec.loader is not None
    unit = module_from_spec(spec)
    spec.loader.exec_module(unit)
    return unit


@pytest.fixture(scope="module")
def chat_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Makes jobs of a few steps with a Llama of two layers, fields of sections changed."""
    base = chat_unit().make_tiny_base(tmp_path_factory.mktemp("base"))
    table = tmp_path_factory.mktemp("data") / "conversations.jsonl"
    with table.open("w") as lines:
        for i in range(60):
            question = f"My {WORDS[i % 10]} number {i} does not work."
            turns = [("user", question), ("assistant", f"Is the {WORDS[i % 10]} switched on?")]
            messages = [{"role": role, "content": content} for role, content in turns]
            lines.write(json.dumps({"messages": messages}) + "\n")

    def make(**sections: Any) -> TrainJob:
        content: dict[str, Any] = {
            "name": "tiny-chat",
            "workload": "chat",
            "data": {"path": str(table)},
            "model": {"base": str(base), "max_length": 128, "evaluation_conversations": 4},
            "training": {"steps": 3, "micro_batch_size": 4, "learning_rate": 1e-3},
            "scaling": {"workers": 1, "cpus_per_worker": 0.5},
        }
        return parse({**content, **{k: {**content.get(k, {}), **v} for k, v in sections.items()}}, "the test")

    return make


def trained(job: TrainJob, settings: Settings) -> tuple[Any, TrainResult]:
    prepared = launch.prepare(job, settings, lambda _: None)
    result = launch.train(job, prepared, settings, lambda _: None)
    return sharded.trained(job, prepared, result.checkpoint), result


@pytest.fixture(scope="module")
def plain(ray_home: Settings, chat_job: Job) -> tuple[Any, TrainResult]:
    return trained(chat_job(), ray_home)


@pytest.mark.long
@pytest.mark.parametrize(
    "sections",
    [
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": 2}},
        {"training": {"activation_checkpointing": True}, "deepspeed": {"zero_stage": 3}},
    ],
    ids=["layers shared by two workers", "activations reckoned again"],
)
def test_however_a_model_is_spread_it_learns_the_same(
    sections: dict[str, Any], plain: tuple[Any, TrainResult], ray_home: Settings, chat_job: Job
) -> None:
    expected, by = plain
    model, result = trained(chat_job(**sections), ray_home)
    assert result.num_steps == 3
    assert result.metrics == pytest.approx(by.metrics, rel=1e-3)
    assert result.metrics["loss"] < result.initial_metrics["loss"]
    for (name, value), (_, other) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert value.shape == other.shape, name
        assert (value - other).abs().max() < 1e-3, name


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose weights are large enough for DeepSpeed to move them (a MiB each)."""
    base: Path = chat_unit().make_tiny_base(tmp_path_factory.mktemp("wide"), intermediate_size=8192)
    return base


@pytest.mark.long
@pytest.mark.parametrize("offload", ["optimizer", "optimizer_and_parameters"])
def test_on_nvme_it_learns_the_same_and_goes_on_with_any_number_of_workers(
    offload: str, wide: Path, ray_home: Settings, chat_job: Job, tmp_path: Path
) -> None:
    can_use_nvme()
    (tmp_path / "fast").mkdir()
    places: dict[str, Any] = {"offload": offload, "offload_device": "nvme"}
    places |= {"nvme_path": str(tmp_path / "fast")}
    places["extra"] = {"zero_optimization": {"sub_group_size": 700_000}}  # several of them

    def part(workers: int, steps: int, **deepspeed: Any) -> TrainJob:
        return chat_job(
            model={"base": str(wide)},
            training={"steps": steps, "micro_batch_size": 4 // workers},
            deepspeed={"zero_stage": 3, **deepspeed},
            scaling={"workers": workers},
        )

    def done(job: TrainJob, run: str) -> tuple[Losses, Any]:
        seen: Losses = {}

        def watch(progress: launch.Progress) -> None:
            if progress.loss is not None:
                seen[progress.step] = progress.loss

        prepared = launch.prepare(job, ray_home, lambda _: None)
        result = launch.train(job, prepared, ray_home, watch, run=run)
        assert not list((tmp_path / "fast").iterdir())
        return seen, sharded.trained(job, prepared, result.checkpoint)

    whole, expected = done(part(2, 6), f"not-on-nvme-{offload}")
    seen = done(part(2, 2, **places), f"on-nvme-{offload}")[0]
    seen |= done(part(2, 3, **places), f"on-nvme-{offload}")[0]
    assert seen == pytest.approx({step: whole[step] for step in (1, 2, 3)}, rel=1e-6)
    done(part(1, 5, **places), f"on-nvme-{offload}")
    last, model = done(part(2, 6, **places), f"on-nvme-{offload}")
    assert last == pytest.approx({6: whole[6]}, rel=1e-3)
    for (name, value), (_, other) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert (value - other).abs().max() < 1e-3, name


def can_use_nvme() -> None:
    """Skip if DeepSpeed cannot: it compiles an operator against libaio."""
    try:
        operators.load_for_nvme()
    except TrainingError as cause:
        pytest.skip(str(cause))
