"""DeepSpeed's configuration follows from the job."""

from typing import Any

import pytest

from mizzen.training import engine
from mizzen.training.job import DeepSpeedOptions, Scaling, Schedule, Training, TrainJob


def job(**sections: Any) -> TrainJob:
    return TrainJob(
        **{"name": "j", "workload": "w", "data": {}, "model": {}, "training": Training(epochs=1), **sections}
    )


def test_batch_sizes_and_clipping_come_from_the_job() -> None:
    training = Training(epochs=1, micro_batch_size=4, gradient_accumulation_steps=3, gradient_clipping=0.5)
    config = engine.configuration(job(training=training))
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_zero_stage_is_set(stage: Any) -> None:
    config = engine.configuration(job(deepspeed=DeepSpeedOptions(zero_stage=stage)))
    assert config["zero_optimization"] == {"stage": stage}


def test_offload_moves_optimizer_and_parameters_to_the_host() -> None:
    options = DeepSpeedOptions(zero_stage=3, offload="optimizer_and_parameters")
    zero = engine.configuration(job(deepspeed=options, scaling=Scaling(gpus_per_worker=1)))[
        "zero_optimization"
    ]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}


def test_on_gpus_the_offloaded_optimizer_is_deepspeeds_own() -> None:
    options = DeepSpeedOptions(zero_stage=2, offload="optimizer")
    config = engine.configuration(job(deepspeed=options, scaling=Scaling(gpus_per_worker=1)))
    assert "torch_adam" not in config["optimizer"]["params"]
    assert engine.configuration(job(deepspeed=options))["optimizer"]["params"]["torch_adam"] is True


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_precision_is_switched_on(precision: Any) -> None:
    config = engine.configuration(job(training=Training(epochs=1, precision=precision)))
    assert config[precision] == {"enabled": True}


def test_extra_options_are_merged_into_their_sections() -> None:
    options = DeepSpeedOptions(
        zero_stage=3, extra={"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    )
    config = engine.configuration(job(deepspeed=options))
    assert config["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 1000}
    assert config["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1.0, 1.0, 1.0]),
        (Schedule(type="linear"), [1.0, 0.5, 0.0]),
        (Schedule(type="linear", final_ratio=0.2), [1.0, 0.6, 0.2]),
        (Schedule(type="cosine"), [1.0, 0.5, 0.0]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: Schedule, expected: list[float]) -> None:
    factor = engine.learning_rate_factor(job(training=Training(epochs=1, schedule=schedule)), 10)
    assert [factor(0), factor(5), factor(10)] == pytest.approx(expected)


def test_the_learning_rate_warms_up() -> None:
    schedule = Schedule(type="cosine", warmup_steps=4)
    factor = engine.learning_rate_factor(job(training=Training(epochs=1, schedule=schedule)), 10)
    assert [factor(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
