"""DeepSpeed's configuration follows from the job."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mizzen.training import engine
from mizzen.training.configuration import DeepSpeedOptions, LossScale, with_buffers
from mizzen.training.elastic import Scaling
from mizzen.training.job import Schedule, Training, TrainJob


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


def test_bf16_is_switched_on() -> None:
    config = engine.configuration(job(training=Training(epochs=1, precision="bf16")))
    assert config["bf16"] == {"enabled": True}
    assert "fp16" not in config and "data_types" not in config


def test_fp16_scales_the_loss_by_itself() -> None:
    training = Training(epochs=1, precision="fp16")
    moving = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16}
    moving |= {"loss_scale_window": 1000, "min_loss_scale": 1}
    assert engine.configuration(job(training=training))["fp16"] == moving


def test_the_loss_scale_moves_as_the_job_says_or_stands() -> None:
    def fp16(**scale: Any) -> Any:
        training = Training(epochs=1, precision="fp16", loss_scale=LossScale(**scale))
        return engine.configuration(job(training=training))["fp16"]

    moving = fp16(initial_power=8, window=50, minimum=4)
    assert moving["loss_scale"] == 0
    assert (moving["initial_scale_power"], moving["loss_scale_window"], moving["min_loss_scale"]) == (
        8,
        50,
        4,
    )
    assert fp16(static=128) == {"enabled": True, "loss_scale": 128}
    with pytest.raises(ValidationError, match="static does not move"):
        fp16(static=128, window=50)


def test_deepspeed_takes_the_loss_scale_as_it_is_meant() -> None:
    from deepspeed.runtime.precision_config import DeepSpeedFP16Config

    training = Training(epochs=1, precision="fp16", loss_scale=LossScale(initial_power=8, window=50))
    read = DeepSpeedFP16Config(**engine.configuration(job(training=training))["fp16"])
    assert (read.loss_scale, read.initial_scale_power, read.loss_scale_window) == (0, 8, 50)


@pytest.mark.parametrize(
    ("precision", "steps", "kept"), [("bf16", 2, "fp32"), ("bf16", 1, None), ("fp32", 2, None)]
)
def test_several_micro_batches_are_summed_in_fp32(precision: Any, steps: int, kept: str | None) -> None:
    training = Training(epochs=1, precision=precision, gradient_accumulation_steps=steps)
    assert engine.configuration(job(training=training)).get("data_types", {}).get("grad_accum_dtype") == kept


def test_on_nvme_states_lie_below_its_folder_and_buffers_fit_what_passes_through_them() -> None:
    options = DeepSpeedOptions(
        zero_stage=3, offload="optimizer_and_parameters", offload_device="nvme", nvme_path="/fast"
    )
    config = engine.configuration(job(deepspeed=options))
    place = {"device": "nvme", "nvme_path": "/fast", "pin_memory": False}
    zero = with_buffers(config, 5001, 0, 2)["zero_optimization"]
    assert zero["offload_optimizer"] == place
    assert zero["offload_param"] == {**place, "buffer_size": 2501, "buffer_count": 5, "max_in_cpu": 0}
    assert zero["stage3_max_reuse_distance"] == zero["stage3_prefetch_bucket_size"] == 0
    # While activations are reckoned again, all that is frozen in a block is there at a time.
    zero = with_buffers(config, 5001, 9, 2)["zero_optimization"]
    assert zero["offload_param"]["buffer_count"] == 11


def test_without_nvme_no_buffer_is_set() -> None:
    config = engine.configuration(job(deepspeed=DeepSpeedOptions(zero_stage=3, offload="optimizer")))
    assert with_buffers(config, 5000, 9, 2) == config


def test_the_optimizer_is_pytorchs_in_one_kernel_but_deepspeeds_where_states_are_off_the_gpu() -> None:
    def parameters(offload: Any, gpus: int) -> Any:
        options = DeepSpeedOptions(zero_stage=2, offload=offload)
        config = engine.configuration(job(deepspeed=options, scaling=Scaling(gpus_per_worker=gpus)))
        return config["optimizer"]["params"]

    for offload, gpus in [("none", 0), ("none", 1), ("optimizer", 0)]:
        assert parameters(offload, gpus)["torch_adam"] and parameters(offload, gpus)["fused"]
    assert not {"torch_adam", "fused"} & parameters("optimizer", 1).keys()


def test_workers_that_share_layers_are_autotps() -> None:
    config = engine.configuration(
        job(deepspeed=DeepSpeedOptions(tensor_parallel=2), scaling=Scaling(workers=4))
    )
    assert config["tensor_parallel"] == {"autotp_size": 2, "vocab_parallel_lm_head": False}
    assert "tensor_parallel" not in engine.configuration(job())


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


def test_the_norm_is_deepspeeds_own_from_the_first_step_on_wherever_its_optimiser_steps() -> None:
    class OfDeepSpeed:
        """As bf16 with several micro-batches has it at stage 1: it keeps no norm before its first step."""

    around = SimpleNamespace(
        optimizer=OfDeepSpeed(),
        module=torch.nn.Linear(1, 1),
        is_gradient_accumulation_boundary=lambda: True,
        step=lambda: None,
        get_global_grad_norm=lambda: 2.0,
    )
    assert engine.step(around) == 2.0
