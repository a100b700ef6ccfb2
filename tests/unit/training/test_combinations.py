"""What does not go together is refused when the job is read, with the reason; what is beside it is taken."""

from __future__ import annotations

from typing import Any

import pytest

from mizzen.errors import JobError
from mizzen.training import combinations
from mizzen.training.job import TrainJob, parse

CHAT: dict[str, Any] = {
    "name": "chat",
    "workload": "chat",
    "data": {"dataset": "chatterbot-corpus"},
    "model": {"base": "a-folder-elsewhere"},
    "training": {"steps": 1},
}
DIGITS: dict[str, Any] = {"name": "digits", "workload": "digits", "training": {"steps": 1}}
NVME = {"offload_device": "nvme", "nvme_path": "/fast"}
REUSE = {"extra": {"zero_optimization": {"stage3_max_reuse_distance": 1e9}}}
GPU = {"gpus_per_worker": 1}


def job(content: dict[str, Any], **sections: Any) -> TrainJob:
    merged = {name: {**content.get(name, {}), **fields} for name, fields in sections.items()}
    return parse({**content, **merged}, "job.yaml")


def zero(stage: int, offload: str = "none", **options: Any) -> dict[str, Any]:
    return {"zero_stage": stage, "offload": offload, **options}


PAIRS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = [
    (CHAT, {"deepspeed": zero(0, "optimizer")}, {"deepspeed": zero(1, "optimizer")}, "offload", "stage 0"),
    (
        CHAT,
        {"deepspeed": zero(2, "optimizer_and_parameters")},
        {"deepspeed": zero(3, "optimizer_and_parameters")},
        "offload",
        "only there are parameters partitioned",
    ),
    (
        CHAT,
        {"deepspeed": zero(3, **NVME)},
        {"deepspeed": zero(3, "optimizer", **NVME)},
        "offload_device",
        "nothing on the disk",
    ),
    (
        CHAT,
        {"deepspeed": zero(2, "optimizer", **NVME)},
        {"deepspeed": zero(2, "optimizer")},
        "offload_device",
        "stay in host memory",
    ),
    (
        CHAT,
        {"deepspeed": zero(3, "optimizer", offload_device="nvme")},
        {"deepspeed": zero(3, "optimizer_and_parameters", **NVME)},
        "nvme_path",
        "go together",
    ),
    (
        CHAT,
        {"deepspeed": zero(3, "optimizer", nvme_path="/fast")},
        {"deepspeed": zero(3, "optimizer")},
        "nvme_path",
        "go together",
    ),
    (
        CHAT,
        {"deepspeed": zero(3, "optimizer_and_parameters", **NVME, **REUSE)},
        {"deepspeed": zero(3, "optimizer", **NVME, **REUSE)},
        "extra",
        "runs out of them",
    ),
    (
        CHAT,
        {"training": {"precision": "bf16", "loss_scale": {"static": 128}}},
        {"training": {"precision": "fp16", "loss_scale": {"static": 128}}, "scaling": GPU},
        "loss_scale",
        "precision: fp16",
    ),
    (
        CHAT,
        {"training": {"precision": "fp16"}},
        {"training": {"precision": "fp16"}, "scaling": GPU},
        "precision",
        "needs GPUs",
    ),
    (
        CHAT,
        {"training": {"precision": "bf16", "gradient_accumulation_steps": 2}, "deepspeed": zero(0)},
        {"training": {"precision": "bf16", "gradient_accumulation_steps": 2}, "deepspeed": zero(1)},
        "gradient_accumulation_steps",
        "half precision",
    ),
    (
        DIGITS,
        {"training": {"activation_checkpointing": True}},
        {"training": {"compile": True}},
        "activation_checkpointing",
        "cannot checkpoint",
    ),
    (
        DIGITS,
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": 2}},
        {"deepspeed": {"zero_stage": 3}, "scaling": {"workers": 2}},
        "tensor_parallel",
        "AutoTP does not know them",
    ),
    (
        CHAT,
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": [2, 4]}},
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": 4}},
        "tensor_parallel",
        "fixed number of workers",
    ),
    (
        CHAT,
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": 3}},
        {"deepspeed": {"tensor_parallel": 3}, "scaling": {"workers": 3}},
        "workers",
        "multiple",
    ),
    (
        CHAT,
        {"deepspeed": zero(3, tensor_parallel=2), "scaling": {"workers": 2}},
        {"deepspeed": zero(2, tensor_parallel=2), "scaling": {"workers": 2}},
        "tensor_parallel",
        "before AutoTP can split it",
    ),
    (
        CHAT,
        {"deepspeed": {"tensor_parallel": 2}, "scaling": {"workers": 2}, "training": {"compile": True}},
        {"deepspeed": {"tensor_parallel": 1}, "scaling": {"workers": 2}, "training": {"compile": True}},
        "tensor_parallel",
        "break the graph",
    ),
]


@pytest.mark.parametrize(("content", "refused", "taken", "field", "reason"), PAIRS)
def test_a_combination_is_refused_with_its_reason_and_the_one_beside_it_is_taken(
    content: dict[str, Any], refused: dict[str, Any], taken: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(JobError) as error:
        job(content, **refused)
    assert str(error.value.field).endswith(field)
    assert reason in str(error.value)
    assert error.value.remedy
    job(content, **taken)


def test_each_rule_is_broken_by_one_of_these_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[int] = set()
    rules = combinations.RULES
    monkeypatch.setattr(combinations, "RULES", ())  # else the jobs could not be read
    for content, refused, *_ in PAIRS:
        wanted = job(content, **refused)
        broken |= {i for i, rule in enumerate(rules) if rule.broken(wanted)}
    assert broken == set(range(len(rules)))
