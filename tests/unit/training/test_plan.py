"""From sizes to an answer: what fits, on how few GPUs, how fast."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from mizzen.errors import InputError
from mizzen.training import job as jobs
from mizzen.training import plan
from mizzen.training.activations import Moment
from mizzen.training.footprint import Parameters
from mizzen.training.gpus import GPUS, gpu_of
from mizzen.training.job import TrainJob
from mizzen.training.plan import Choice, Sizes

GIB = 2**30
SEVEN_BILLION = Sizes(
    parameters=Parameters(trainable=(131_000_000, *(50_000_000,) * 132)),
    moments=(Moment(8 * GIB, 0), Moment(1 * GIB, 6_731_000_000)),
    entered_bytes=6 * GIB,
    flops=6 * 6.73e9 * 4096,
    count=4096,
    unit="tokens",
    has_skeleton=True,
)
H100 = GPUS["h100-80gb"]


def job(workers: int = 8, **sections: dict[str, Any]) -> TrainJob:
    content = {
        "name": "planned",
        "workload": "digits",
        "training": {"steps": 1, "precision": "bf16", **sections.pop("training", {})},
        "scaling": {"workers": workers, "gpus_per_worker": 1},
        **sections,
    }
    return jobs.parse(content, "the test's job")


def by_choice(found: tuple[Choice, ...]) -> dict[tuple[int, str], Choice]:
    return {(one.stage, one.offload): one for one in found}


def test_seven_billion_parameters_do_not_fit_one_gpu_whole_and_fit_few_when_divided() -> None:
    found = by_choice(plan.choices(job(), SEVEN_BILLION, H100))
    assert (found[0, "none"].fits, found[0, "none"].least) == (False, None)
    assert found[3, "none"].fits
    assert 2 <= (found[3, "none"].least or 0) <= 4
    assert found[3, "optimizer_and_parameters"].least == 1
    for stage in (1, 2, 3):
        assert found[stage, "optimizer"].needs.worst.device < found[stage, "none"].needs.worst.device


def test_the_fewest_that_fit_fit_and_one_fewer_does_not() -> None:
    own = job(deepspeed={"zero_stage": 3})
    least = by_choice(plan.choices(own, SEVEN_BILLION, H100))[3, "none"].least
    assert least is not None
    assert plan.need(own, SEVEN_BILLION, least).worst.device <= H100.usable_bytes
    assert plan.need(own, SEVEN_BILLION, least - 1).worst.device > H100.usable_bytes


def test_the_jobs_own_choice_is_marked_and_what_is_refused_is_left_out() -> None:
    found = plan.choices(job(deepspeed={"zero_stage": 2}), SEVEN_BILLION, H100)
    assert [(one.stage, one.offload) for one in found if one.is_jobs] == [(2, "none")]
    assert (0, "optimizer") not in by_choice(found)
    assert (2, "optimizer_and_parameters") not in by_choice(found)


def test_more_workers_need_no_more_memory_and_are_faster_together() -> None:
    own = job(deepspeed={"zero_stage": 3})
    needed = [plan.need(own, SEVEN_BILLION, workers).worst.device for workers in (1, 2, 4, 8, 16)]
    assert all(more >= fewer for more, fewer in pairwise(needed))
    rates = [plan.per_second(own, SEVEN_BILLION, H100, workers) or 0 for workers in (1, 2, 4, 8)]
    assert all(fewer < more for fewer, more in pairwise(rates))


def test_an_estimate_stays_below_the_share_of_the_peak_that_it_assumes() -> None:
    own = job(deepspeed={"zero_stage": 3})
    rate = plan.per_second(own, SEVEN_BILLION, H100, 8)
    assert rate is not None
    reached = rate * SEVEN_BILLION.flops / SEVEN_BILLION.count / (8 * 989.4e12)
    assert 0.2 < reached <= plan.UTILISATION["bf16"]


def test_checkpointed_activations_and_offload_cost_time() -> None:
    plain = plan.per_second(job(), SEVEN_BILLION, H100, 8) or 0
    offloaded = plan.per_second(job(deepspeed={"offload": "optimizer"}), SEVEN_BILLION, H100, 8) or 0
    assert 0 < offloaded < plain


def test_there_is_no_estimate_for_a_precision_that_the_gpu_lacks() -> None:
    assert plan.per_second(job(), SEVEN_BILLION, GPUS["t4-16gb"], 8) is None


def test_a_job_for_cpus_is_planned_for_gpus_if_one_is_named() -> None:
    on_cpus = job(training={"precision": "fp32"}, scaling={"workers": 2})
    assert {one.fits for one in plan.choices(on_cpus, SEVEN_BILLION, None)} == {None}
    assert {one.fits for one in plan.choices(on_cpus, SEVEN_BILLION, H100)} <= {True, False}


def test_workers_are_tried_one_by_one_up_to_a_node_and_then_by_nodes() -> None:
    assert list(plan.numbers_of_workers(1))[:10] == [1, 2, 3, 4, 5, 6, 7, 8, 16, 24]
    assert list(plan.numbers_of_workers(2))[:5] == [2, 4, 6, 8, 16]


def test_the_answer_for_programs_names_every_moment() -> None:
    own = job(deepspeed={"zero_stage": 2})
    content = plan.as_json(own, SEVEN_BILLION, plan.choices(own, SEVEN_BILLION, H100), ("h100-80gb", H100))
    assert content["parameters"]["total"] == 6_731_000_000
    (chosen,) = [one for one in content["choices"] if one["is_the_jobs"]]
    assert [held["moment"] for held in chosen["moments"]] == ["micro-batch", "reduction", "step"]
    assert chosen["peak_bytes"] == max(
        sum(held[kind] for kind in ("weights", "gradients", "optimizer", "activations", "buffers"))
        for held in chosen["moments"]
    )


def test_a_smaller_batch_needs_less() -> None:
    smaller = replace(SEVEN_BILLION, moments=(Moment(GIB, 0),), entered_bytes=GIB)
    own = job(deepspeed={"zero_stage": 3})
    assert plan.need(own, smaller, 8).worst.device < plan.need(own, SEVEN_BILLION, 8).worst.device


def test_an_elastic_job_is_planned_for_its_fewest_workers() -> None:
    elastic = job(scaling={"workers": [2, 8], "gpus_per_worker": 1}, deepspeed={"zero_stage": 3})
    (own,) = [one for one in plan.choices(elastic, SEVEN_BILLION, H100) if one.is_jobs]
    assert own.workers == 2
    assert own.needs == plan.need(elastic, SEVEN_BILLION, 2)
    assert own.needs.worst.device > plan.need(elastic, SEVEN_BILLION, 8).worst.device
    assert any("at 2 worker(s)" in line for line in plan.assumptions(H100, elastic))
    # It keeps its batch, so fewer workers take more micro-batches.
    assert plan.division(elastic, 2).accumulates
    assert not plan.division(elastic, 8).accumulates


def test_another_number_of_workers_takes_as_many_micro_batches_as_the_job_says() -> None:
    assert not plan.division(job(8), 1).accumulates
    assert plan.division(job(1, training={"gradient_accumulation_steps": 4}), 16).accumulates


@pytest.mark.parametrize("name", list(GPUS))
def test_every_gpu_has_a_peak_in_half_precision_and_room(name: str) -> None:
    gpu = gpu_of(name.upper())
    assert gpu.flops("fp16")
    assert 0.8 * gpu.memory_mib * 2**20 < gpu.usable_bytes < gpu.memory_mib * 2**20


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"no such GPU; saw 'h1000'; .*h100-80gb.*--gpu list"):
        gpu_of("h1000")
