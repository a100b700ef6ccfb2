"""What a job file may say about recommendation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mizzen.training import job
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.config import DataConfig, ModelConfig


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "give either dataset or interactions"),
        ({"dataset": "movielens-100k", "interactions": "a.csv"}, "give either dataset or interactions"),
        ({"dataset": "movielens-1b"}, "movielens-100k"),
        ({"dataset": "movielens-100k", "columns": {"user": "who"}}, "columns describes tables of your own"),
        ({"interactions": "a.csv", "items": "b.csv"}, "items and item_columns belong together"),
        ({"interactions": "a.csv", "min_rating": 4}, "min_rating needs columns.rating"),
        ({"interactions": "a", "types": {"click": None}}, "types and columns.type belong together"),
        ({"interactions": "a", "columns": {"type": "t"}}, "types and columns.type belong together"),
        ({"interactions": "a", "columns": {"type": "t"}, "types": {}}, "names no type"),
        ({"interactions": "a", "columns": {"type": "t"}, "types": {"r": 4}}, "needs columns.rating"),
        (
            {
                "interactions": "a",
                "columns": {"type": "t", "rating": "v"},
                "types": {"r": 4},
                "min_rating": 3,
            },
            "instead of min_rating",
        ),
        ({"dataset": "movielens-100k", "types": {"click": None}}, "types describes tables of your own"),
        ({"interactions": "a.csv", "min_interactions": 2}, "greater than or equal to 3"),
        ({"interactions": "a.csv", "max_history": 4}, "max_history may not be below min_interactions"),
        ({"interactions": "a.csv", "colums": {}}, "Extra inputs"),
        (
            {
                "interactions": "a",
                "items": "b",
                "item_columns": {"attributes": ["x"], "separators": {"y": "|"}},
            },
            "separators names 'y'",
        ),
        (
            {"interactions": "a", "items": "b", "item_columns": {"attributes": ["item"]}},
            "names a column twice",
        ),
    ],
)
def test_contradictory_data_is_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DataConfig.model_validate(data)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"hidden_size": 10, "num_heads": 3}, "no multiple of num_heads"),
        ({"loss": "full", "num_negatives": 5}, "goes with loss: sampled only"),
        ({"loss": "bpr"}, "full"),
        ({"max_length": 0}, "greater than or equal to 1"),
        ({"history_dropout": 1}, "less than 1"),
        ({"num_members": 0}, "greater than or equal to 1"),
    ],
)
def test_a_contradictory_model_is_refused(model: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate(model)


@pytest.mark.parametrize("name", sorted(workload.recipes()))
def test_each_recipe_is_a_valid_job_of_this_workload(name: str) -> None:
    recipe = job.load(workload.recipes()[name].file)
    assert recipe.workload == workload.name
    assert isinstance(recipe.data, DataConfig)
    assert isinstance(recipe.model, ModelConfig)


@pytest.mark.parametrize("name", sorted(workload.recipes()))
def test_a_job_that_is_written_out_in_full_is_read_as_the_same_job(name: str) -> None:
    """Defaults that are written out contradict nothing."""
    recipe = job.load(workload.recipes()[name].file)
    assert job.parse(recipe.model_dump(mode="json"), "written out") == recipe
