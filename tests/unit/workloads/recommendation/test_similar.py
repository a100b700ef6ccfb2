"""Similar items: by the cosine of what the network has learned, with filters, also after an ensemble."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mizzen.workloads.contract import Prepared
from mizzen.workloads.recommendation import similar
from mizzen.workloads.recommendation.catalogue import Catalogue

PATH = "/v1/similar-items"
World = tuple[Any, Prepared, torch.nn.Module]


@pytest.fixture(scope="module")
def cosine(world: World, exported: Path) -> Callable[[str, str], float]:
    """Of two items, by PyTorch."""
    numbers = Catalogue.read(exported / "items.arrow").numbers
    table = world[2].get_parameter("items.weight").detach()

    def between(one: str, two: str) -> float:
        return float(torch.cosine_similarity(table[numbers[one]], table[numbers[two]], dim=0))

    return between


def test_items_come_by_the_cosine_of_their_embeddings(
    served: Any, cosine: Callable[[str, str], float]
) -> None:
    body = served.ask(PATH, {"items": ["item 05"], "num_results": 100}).json()
    found = {item["item_id"]: item["score"] for item in body["items"]}
    assert len(found) == 23
    assert "item 05" not in found
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for item, score in found.items():
        assert score == pytest.approx(cosine("item 05", item), abs=1e-5)
    assert (body["model_version"], body["unknown_items"]) == (3, [])


def test_several_items_are_answered_by_what_is_like_them_all(served: Any, exported: Path) -> None:
    numbers = Catalogue.read(exported / "items.arrow").numbers
    vectors_VD = load_file(exported / similar.FILE)["vectors"]
    mean_D = vectors_VD[[numbers["item 05"] - 1, numbers["item 06"] - 1]].mean(0)
    cosine_V = vectors_VD @ mean_D / np.linalg.norm(mean_D)
    body = served.ask(PATH, {"items": ["item 05", "lost", "item 06"], "num_results": 3}).json()
    assert body["unknown_items"] == ["lost"]
    for item in body["items"]:
        assert item["score"] == pytest.approx(cosine_V[numbers[item["item_id"]] - 1], abs=1e-5)
        assert item["item_id"] not in ("item 05", "item 06")


def test_filters_and_excluded_items_hold(served: Any) -> None:
    body = {
        "items": ["item 05"],
        "num_results": 100,
        "exclude_items": ["item 21"],
        "filters": {"year": {"ge": 2000}},
    }
    found = {item["item_id"] for item in served.ask(PATH, body).json()["items"]}
    assert found == {"item 20", "item 22", "item 23"}
    wrong = served.ask(PATH, {"items": ["item 05"], "filters": {"colour": {"ge": 1}}})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "filters")


def test_items_that_nobody_knows_are_not_found(served: Any) -> None:
    answer = served.ask(PATH, {"items": ["lost", 7]})
    assert answer.status_code == 404
    assert "'lost', '7'" in answer.json()["error"]


def test_a_version_without_vectors_says_what_is_missing_and_answers_everything_else(
    serve: Callable[[Path], Any], exported: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(exported, old)
    (old / similar.FILE).unlink()
    app = serve(old)
    answer = app.ask(PATH, {"items": ["item 05"]})
    assert answer.status_code == 404
    assert "Publish it again" in answer.json()["error"]
    assert app.ask("/v1/recommendations", {"user_id": "user 3"}).status_code == 200
    from mizzen.workloads.recommendation import workload

    assert PATH not in {example.path for example in workload.examples(old)}


def test_the_cosine_over_several_networks_is_the_mean_of_theirs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tables = [random.normal(size=(7, 4)), random.normal(size=(7, 6)) * 100]
    similar.write(tables, tmp_path)
    vectors_VD = load_file(tmp_path / similar.FILE)["vectors"]
    units = [table / np.linalg.norm(table, axis=1, keepdims=True) for table in tables]
    expected_VV = sum(unit @ unit.T for unit in units) / 2
    assert vectors_VD.dtype == np.float32
    np.testing.assert_allclose(vectors_VD @ vectors_VD.T, expected_VV, atol=1e-6)
