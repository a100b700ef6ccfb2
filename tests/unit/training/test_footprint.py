"""What each ZeRO stage holds, by hand: a model of 1000 values in two parameters, four workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizzen.training.activations import Moment
from mizzen.training.footprint import Division, Footprint, Options, Parameters, footprint

PARAMETERS = Parameters(trainable=(800, 200))
BUCKETS = Options(
    reduce_bucket_size=100_000, stage3_prefetch_bucket_size=50_000, stage3_param_persistence_threshold=0
)
MOMENTS = (Moment(5000, 0), Moment(3000, 1000))
GPU = Division(0, "none", 4, 2, on_gpu=True, adam="fused", options=BUCKETS)
CPU = replace(GPU, on_gpu=False, value_bytes=4, builds_in_fp32=False)


def of(division: Division, parameters: Parameters = PARAMETERS) -> Footprint:
    return footprint(parameters, MOMENTS, 1000, division)


def test_whole_states_in_fp32_are_sixteen_bytes_a_value_and_a_copy_of_gradients_on_their_way() -> None:
    worst = of(CPU).worst
    assert worst.moment == "reduction"
    assert (worst.weights, worst.gradients, worst.optimizer, worst.buffers) == (4000, 4000, 8000, 4000)


def test_half_precision_keeps_weights_and_moments_in_fp32_besides() -> None:
    needs = of(GPU)
    assert (needs.largest("weights"), needs.largest("gradients"), needs.largest("optimizer")) == (
        *(2000, 2000),
        12_000,
    )


def test_each_stage_divides_more_among_the_workers() -> None:
    divided = {stage: of(replace(GPU, stage=stage)) for stage in (1, 2, 3)}
    assert {stage: needs.largest("optimizer") for stage, needs in divided.items()} == dict.fromkeys(
        divided, 3000
    )
    assert [needs.largest("gradients") for needs in divided.values()] == [2000, 500, 500]
    step = divided[3].moments[-1]
    assert (step.moment, step.weights) == ("step", 500)


def test_a_gpu_takes_a_bucket_as_a_whole_and_a_cpu_what_is_written_of_it() -> None:
    on_gpu, on_cpu = of(replace(GPU, stage=2)), of(replace(CPU, stage=2))
    assert on_gpu.largest("buffers") == 2 * 100_000 + 2 * 1000
    assert on_cpu.largest("buffers") == 4 * 1000 + 4 * 1000


def test_what_is_offloaded_is_the_hosts() -> None:
    needs = of(replace(GPU, stage=3, offload="optimizer_and_parameters", host_adam="fused"))
    assert (needs.largest("optimizer"), needs.largest("gradients"), needs.disk) == (0, 0, 0)
    # A quarter of: weights and gradients in 2 bytes, weights, gradients and two moments in 4.
    assert needs.host == 250 * (2 + 2 + 4 + 4 + 8)


def test_what_is_on_a_disk_is_neither_the_devices_nor_but_for_buffers_the_hosts() -> None:
    needs = of(replace(GPU, stage=3, offload="optimizer", to_disk=True, host_adam="fused"))
    assert needs.disk == 250 * 12
    assert needs.host == 250 * (2 + 4) + 4 * 4 * 250


def test_parameters_on_a_disk_pass_through_buffers() -> None:
    on_disk = replace(GPU, stage=3, offload="optimizer_and_parameters", to_disk=True, host_adam="fused")
    states, away = of(replace(on_disk, offload="optimizer")), of(on_disk)
    # Five parts of the largest, and the whole of the group that the optimiser has changed.
    assert (away.host - states.host, away.disk - states.disk) == (2 * (5 * 200 + 1000), 250 * 2)
    more = of(on_disk, replace(PARAMETERS, frozen_in_a_block=9))
    assert more.host - away.host == 2 * (11 - 5) * 200


def test_only_what_is_trained_has_gradients_and_an_optimizer() -> None:
    adapters = Parameters(trainable=(10,), frozen=(990,))
    needs = footprint(adapters, (Moment(5000, 0), Moment(3000, 10)), 1000, CPU)
    assert (needs.largest("weights"), needs.largest("gradients"), needs.largest("optimizer")) == (
        4000,
        40,
        80,
    )


def test_stage_three_holds_what_is_near_and_not_the_whole_of_a_model_beyond_the_reuse_distance() -> None:
    options = replace(BUCKETS, stage3_max_reuse_distance=400, stage3_prefetch_bucket_size=100)
    parameters = Parameters(trainable=(100,) * 100)
    near = of(replace(CPU, stage=3, options=options), parameters)
    everything = of(replace(CPU, stage=3), parameters)
    assert everything.largest("weights") == 4 * (2500 + 10_000)
    assert near.largest("weights") == 4 * (2500 + 200 + 200)


def test_a_model_without_a_skeleton_is_first_whole_in_fp32() -> None:
    adapters = Parameters(trainable=(10,), frozen=(9990,))
    needs = of(replace(CPU, value_bytes=2, builds_in_fp32=True), adapters)
    assert (needs.moments[0].moment, needs.moments[0].weights) == ("build", 40_000)


@pytest.mark.parametrize(("accumulates", "gradients"), [(False, 2000), (True, 4000)])
def test_sums_of_several_micro_batches_are_kept_in_fp32(accumulates: bool, gradients: int) -> None:
    needs = of(replace(GPU, stage=1, accumulates=accumulates, sums_in_fp32=accumulates))
    assert needs.largest("gradients") == gradients


def test_options_come_from_deepspeeds_configuration_and_may_be_written_as_floats() -> None:
    options = Options.of({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e7, "overlap_comm": True}})
    assert options == Options(reduce_bucket_size=50_000_000, overlap_comm=True)
