"""The plug-in on its own: real export, real ONNX Runtime, real HTTP bodies; the road is in integration/."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from mizzen_digits import workload
from mizzen_digits.config import NUM_PIXELS, DigitsData, DigitsModel
from mizzen_digits.data import Digits, prepare

from mizzen.errors import DataError, ServingError
from mizzen.series import Series
from mizzen.store import distribution
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.training import job
from mizzen.workloads.contract import ModelIdentity, Precision, Prepared, ServedModel
from mizzen.workloads.handed import Silent

CONFIG = DigitsModel()


class Tables:
    """`Sources` over tables in memory, handed out in batches as Ray Data does."""

    def __init__(self, table: pd.DataFrame | None = None, batch_size: int = 7) -> None:
        self._table, self._batch_size = table, batch_size

    def table(self, address: str) -> Any:
        assert address == "digits.csv"
        return self

    def iter_batches(self, **_: Any) -> Iterator[pd.DataFrame]:
        assert self._table is not None
        for start in range(0, len(self._table), self._batch_size):
            yield self._table.iloc[start : start + self._batch_size]

    def sample(self, name: str) -> Path:
        raise AssertionError("there is no sample to fetch")


def prepared_in(folder: Path, data: DigitsData, sources: Tables) -> Prepared:
    folder.mkdir()
    report = prepare(data, sources, folder)
    content = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    return Prepared(folder, hashlib.sha256(content).hexdigest(), report)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_in(tmp_path_factory.mktemp("digits") / "prepared", DigitsData(), Tables())


@pytest.fixture(scope="module")
def model(prepared: Prepared) -> torch.nn.Module:
    """Trained for three passes over the training split."""
    torch.manual_seed(0)
    network = workload.build_model(CONFIG, prepared, dropout=0.0)
    examples: Any = workload.training_data(CONFIG, prepared)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(3):
        for indices in torch.randperm(len(examples)).split(32):
            batch = workload.collate([examples[int(index)] for index in indices])
            optimiser.zero_grad()
            workload.loss(network, batch).backward()
            optimiser.step()
    return network.eval()


def table(num_rows: int) -> pd.DataFrame:
    pixels = np.arange(num_rows * NUM_PIXELS).reshape(num_rows, NUM_PIXELS) % 17
    content = pd.DataFrame(pixels, columns=[f"pixel_{n}" for n in range(NUM_PIXELS)]).astype(object)
    return content.assign(label=np.arange(num_rows) % 10, note="not read")


def test_the_bundled_digits_are_split_eight_to_one_to_one(prepared: Prepared) -> None:
    sizes = [len(Digits(prepared.folder, split)) for split in ("training", "validation", "test")]
    assert sizes == [1439, 179, 179]
    assert (prepared.report.rows_read, prepared.report.rows_kept) == (1797, 1797)
    assert sum(prepared.report.facts["rows_by_digit"].values()) == 1797


def test_an_example_is_an_image_of_eight_by_eight_and_its_digit(prepared: Prepared) -> None:
    batch = workload.collate([Digits(prepared.folder, "training")[index] for index in range(5)])
    assert batch["image"].shape == (5, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert float(batch["image"].max()) == 16.0
    assert batch["label"].tolist() == [0, 1, 2, 3, 4]


def test_the_same_rows_give_the_same_bytes_however_they_are_batched(tmp_path: Path) -> None:
    data = DigitsData(path="digits.csv")
    digests = {
        prepared_in(tmp_path / str(size), data, Tables(table(100), batch_size=size)).digest
        for size in (3, 100)
    }
    assert len(digests) == 1


def test_bad_rows_are_dropped_and_counted_by_their_reason(tmp_path: Path) -> None:
    rows = table(30)
    rows.loc[0, "pixel_3"] = None
    rows.loc[1, "pixel_3"] = "dark"
    rows.loc[2, "pixel_63"] = 16.5
    rows.loc[3, "pixel_0"] = -1
    rows.loc[4, "label"] = 10
    rows.loc[5, "pixel_0"] = float("inf")
    report = prepared_in(tmp_path / "p", DigitsData(path="digits.csv"), Tables(rows)).report
    assert (report.rows_read, report.rows_kept) == (30, 24)
    assert dict(report.dropped) == {
        "a value is missing or no number": 3,
        "a pixel is not between 0 and 16": 2,
        "the label is not a digit": 1,
    }


def test_columns_of_other_names_are_named_in_the_job(tmp_path: Path) -> None:
    renamed = table(20).rename(columns=lambda name: name.replace("pixel_", "p").replace("label", "digit"))
    data = DigitsData(path="digits.csv", label="digit", pixel_prefix="p")
    assert prepared_in(tmp_path / "p", data, Tables(renamed)).report.rows_kept == 20


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not all columns: pixel_5, label; saw pixel_0, .*pixel_0 to pixel_63"
    ):
        prepared_in(
            tmp_path / "p", DigitsData(path="digits.csv"), Tables(table(3).drop(columns=["pixel_5", "label"]))
        )


def test_too_few_rows_for_a_split_are_refused(tmp_path: Path) -> None:
    few = prepared_in(tmp_path / "p", DigitsData(path="digits.csv"), Tables(table(9)))
    with pytest.raises(DataError, match="no row is left for test"):
        workload.evaluation_data(CONFIG, few, "test")


def test_the_most_frequent_digit_is_the_baseline(prepared: Prepared) -> None:
    shares = workload.baselines(CONFIG, prepared, "test")
    assert 0.05 < shares["most frequent digit"]["accuracy"] < 0.15


def test_the_job_file_is_a_valid_train_job() -> None:
    recipe = workload.recipes()["quickstart"]
    read = job.load(recipe.file)
    assert read.implementation is workload
    assert read.data == DigitsData()


@pytest.mark.parametrize("precision", workload.precisions)
def test_an_export_names_the_digits_that_the_model_names(
    precision: Precision, model: torch.nn.Module, prepared: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    workload.export(model, CONFIG, prepared, folder, precision, OnnxExporter(tmp_path))
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    predict = workload.open(folder, OnnxRuntime())
    held_out: Any = workload.evaluation_data(CONFIG, prepared, "test")
    labels = workload.collate([held_out[index] for index in range(len(held_out))])["label"].numpy()
    for probe in workload.probes(CONFIG, prepared):
        expected = workload.reference(model, probe)["logits"]
        seen = predict(probe.inputs)["logits"]
        if precision == "fp32":
            np.testing.assert_allclose(seen, expected, atol=workload.tolerance["fp32"])
        else:
            assert (seen.argmax(1) == expected.argmax(1)).mean() >= 0.95
        assert (seen.argmax(1) == labels[: len(seen)]).mean() > 0.85


class InTurn:
    """`Batching` without waiting: each call is a batch of its own."""

    def __call__(self, function: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def one(item: Any) -> Any:
            return function([item])[0]

        return one


@pytest.fixture(scope="module")
def served(
    model: torch.nn.Module, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> ServedModel:
    folder = tmp_path_factory.mktemp("served")
    workload.export(model, CONFIG, prepared, folder, "fp32", OnnxExporter(folder))
    identity = ModelIdentity("digits", 3, "sha256:abc")
    return ServedModel(identity, folder, OnnxRuntime(), InTurn(), "digits")


def client_of(model: ServedModel, started: bool = True) -> TestClient:
    endpoint = workload.endpoint(model, None)
    if started:
        asyncio.run(endpoint.start())
    app = FastAPI()
    app.include_router(endpoint.router)
    return TestClient(app)


def test_the_endpoint_names_the_digit_and_the_model_that_answered(served: ServedModel) -> None:
    client = client_of(served)
    for example in workload.examples(served.folder):
        answer = client.post(example.path, json=dict(example.body))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["model"], body["model_version"], body["model_digest"]) == ("digits", 3, "sha256:abc")
        assert {prediction["label"] for prediction in body["predictions"]} == {7}
        for prediction in body["predictions"]:
            assert sum(prediction["probabilities"]) == pytest.approx(1.0, abs=1e-4)


class Counted(Silent):
    """`Recorder` that keeps what is counted."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def count(self, series: Series, amount: float = 1.0, **labels: str) -> None:
        self.counts[series.name, *labels.values()] += int(amount)


def test_a_series_of_its_own_counts_the_digits_that_were_named(served: ServedModel) -> None:
    recorder = Counted()
    client = client_of(replace(served, recorder=recorder))
    for example in workload.examples(served.folder):
        client.post(example.path, json=dict(example.body))
    assert recorder.counts == {("mizzen_digits_named_total", "7"): 3}


def test_pictures_of_training_are_no_drift_and_negatives_of_them_are(
    served: ServedModel, prepared: Prepared
) -> None:
    trained = distribution.of(workload.input_features(CONFIG, prepared)["brightness"])
    assert trained is not None
    taken: list[Any] = []
    client = client_of(replace(served, watch_inputs=taken.append))
    held_out = Digits(prepared.folder, "test")
    images = np.stack([held_out[index][0] for index in range(len(held_out))])
    for part in (*np.array_split(images, 4), *np.array_split(16 - images, 4)):
        assert client.post("/v1/classify", json={"images": part.tolist()}).status_code == 200

    def psi(requests: list[Any]) -> float:
        bins = Counter(trained.bin_of(value) for one in requests for value in one["brightness"])
        return trained.psi([bins[place] for place in range(len(trained.bins))])

    assert psi(taken[:4]) < 0.25 < 1 < psi(taken[4:])


BLANK = [[0] * 8] * 8


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image": None},
        {"image": BLANK, "images": [BLANK]},
        {"images": []},
        {"images": [BLANK] * 65},
        {"image": BLANK[:7]},
        {"image": [[0] * 7] * 8},
        {"image": [[17] * 8] * 8},
        {"image": [[-1] * 8] * 8},
        {"image": [["1"] * 8] * 8},
        {"image": [[True] * 8] * 8},
        {"image": "black"},
        {"image": BLANK, "colour": True},
        [],
    ],
)
def test_a_body_that_is_no_picture_is_refused(body: object, served: ServedModel) -> None:
    client = client_of(served)
    assert client.post("/v1/classify", json=body).status_code == 422


def test_a_request_before_the_model_is_loaded_is_an_error_of_serving(tmp_path: Path) -> None:
    nowhere = ServedModel(ModelIdentity("digits", 1, ""), tmp_path, OnnxRuntime(), InTurn(), "digits")
    client = client_of(nowhere, started=False)
    with pytest.raises(ServingError, match="not loaded yet"):
        client.post("/v1/classify", json={"image": BLANK})
