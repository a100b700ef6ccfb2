"""The job file: what is right is taken as it is, what is wrong is named with what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import InputError, JobError, NotFoundError
from mizzen.training import job as jobs
from mizzen.workloads import registry

JOBS = sorted(file for file in Path(__file__).parents[3].glob("jobs/*.yaml") if file.stem != "serve")

MINIMAL: dict[str, Any] = {
    "name": "shop",
    "workload": "recommendation",
    "data": {"dataset": "movielens-100k"},
    "training": {"epochs": 2},
}


def with_(**sections: Any) -> dict[str, Any]:
    return {**MINIMAL, **sections}


def test_a_minimal_job_gets_defaults() -> None:
    job = jobs.parse(MINIMAL, "job")
    assert job.model_name == "shop"
    assert job.deepspeed.zero_stage == 1
    assert job.publish.alias == "production"
    assert job.precision == job.implementation.precisions[0]


def test_a_job_survives_the_way_to_a_worker() -> None:
    job = jobs.parse(MINIMAL, "job")
    assert jobs.parse(job.model_dump(mode="json", exclude_unset=True), "job") == job


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_what_a_run_records_of_its_job_is_a_job_file(file: Path) -> None:
    recorded = jobs.load(file).for_the_record()
    assert jobs.parse(recorded, "the record").for_the_record() == recorded


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_(training={"epochs": 1, "betas": [0.9, 1.5]}), ["betas", "1.5", "less than 1"]),
        (with_(scaling={"workers": 2, "gpus_per_worker": 2}), ["gpus_per_worker", "less than or equal to 1"]),
        (with_(trainning={}), ["trainning: no such field", "training"]),
        (with_(training={"epochs": 1, "lr": 1}), ["training.lr: no such field", "learning_rate"]),
        (with_(training={"epochs": 1, "steps": 5}), ["training", "either epochs or steps"]),
        (with_(training={}), ["training", "either epochs or steps"]),
        (with_(training={"epochs": 0}), ["training.epochs", "saw 0"]),
        (with_(training={"epochs": 1, "precision": "fp8"}), ["training.precision", "fp32", "bf16", "'fp8'"]),
        (with_(deepspeed={"zero_stage": 4}), ["deepspeed.zero_stage", "saw 4"]),
        (with_(deepspeed={"zero_stage": 0, "offload": "optimizer"}), ["offload", "zero_stage 1, 2 or 3"]),
        (
            with_(deepspeed={"zero_stage": 2, "offload": "optimizer_and_parameters"}),
            ["offload", "needs zero_stage 3"],
        ),
        (with_(deepspeed={"extra": {"bf16": {"enabled": True}}}), ["extra.bf16", "training.precision"]),
        (with_(deepspeed={"extra": {"zero_optimization": 3}}), ["extra.zero_optimization", "not 3"]),
        (with_(deepspeed={"extra": {"zero_optimization": None}}), ["extra.zero_optimization", "not None"]),
        (
            with_(deepspeed={"extra": {"zero_optimization": {"stage": 2}}}),
            ["extra.zero_optimization.stage", "deepspeed.zero_stage"],
        ),
        (with_(scaling={"workers": 0}), ["scaling.workers", "saw 0"]),
        (with_(name="My Job"), ["name", "'My Job'"]),
        (with_(publish={"quantize": "int3"}), ["publish.quantize", "int8"]),
        (with_(model={"hiden_size": 3}), ["model.hiden_size: no such field", "hidden_size"]),
        (with_(data={"dataset": "movielens-100k", "colums": {}}), ["data.colums: no such field"]),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(content: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(JobError) as error:
        jobs.parse(content, "job.yaml")
    for part in said:
        assert part in str(error.value)


def test_an_unknown_workload_is_named_with_those_that_are_there() -> None:
    with pytest.raises(NotFoundError, match=r"'vision'.*recommendation"):
        jobs.parse(with_(workload="vision"), "job")


def test_set_changes_a_field(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: shop\nworkload: recommendation\ndata: {dataset: movielens-100k}\ntraining: {epochs: 2}\n"
    )
    job = jobs.load(
        file, ["training.epochs=5", "scaling.workers=2", "deepspeed.extra.wall_clock_breakdown=true"]
    )
    assert job.training.epochs == 5
    assert job.scaling.workers == 2
    assert job.deepspeed.extra == {"wall_clock_breakdown": True}


def test_set_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: shop\nworkload: recommendation\ntraining: {epochs: 2}\n")
    with pytest.raises(JobError, match=r"training\.epoch: no such field"):
        jobs.load(file, ["training.epoch=5"])
    with pytest.raises(InputError, match="key=value"):
        jobs.load(file, ["training.epochs"])


def test_a_missing_file_is_an_error_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such file"):
        jobs.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("workload", ["recommendation", "chat", "forecasting"])
def test_every_ready_job_file_is_valid(workload: str) -> None:
    recipes = registry.get(workload).recipes()
    assert "quickstart" in recipes
    for recipe in recipes.values():
        assert jobs.load(recipe.file).workload == workload
