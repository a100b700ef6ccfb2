"""What serving needs of a trained model, in one folder: the network, the items, the users' histories.

    model.onnx        history int64 (batch, length) -> scores float (batch, items)
    items.arrow       ids, counts and attributes; item number n is row n - 1
    histories.arrow   what each known user met; memory-mapped, found by bisection
    recommender.json  the numbers that the network was built with
    item_vectors.safetensors   what the network has learned of each item, see `similar`

It compares nothing: the gate does, with the probes from here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mizzen.errors import RequestError
from mizzen.workloads.contract import (
    Arrays,
    Exporter,
    Precision,
    Predict,
    Prepared,
    Probe,
    Runtime,
    Signature,
    TensorSpec,
)
from mizzen.workloads.recommendation import catalogue, histories, similar
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.config import ModelConfig
from mizzen.workloads.recommendation.sequences import Questions, collate

ONNX = "model.onnx"
SETTINGS = "recommender.json"


def export(
    model: torch.nn.Module,
    config: ModelConfig,
    prepared: Prepared,
    folder: Path,
    precision: Precision,
    exporter: Exporter,
) -> None:
    """Write the folder that is described above."""
    example = {"history": torch.ones(2, min(3, config.max_length), dtype=torch.int64)}
    target = folder / ONNX
    source = target if precision == "fp32" else folder / "unquantised.onnx"
    exporter.to_onnx(
        model,
        example,
        source,
        output_names=["scores"],
        dynamic={"history": {0: "batch", 1: "length"}},
    )
    if source != target:
        exporter.quantize(source, target, precision)
        for left in folder.glob(f"{source.name}*"):
            left.unlink()
    for name in (catalogue.FILE, histories.FILE):
        shutil.copyfile(prepared.folder / name, folder / name)
    similar.write([_item_table(member) for member in getattr(model, "members", [model])], folder)
    settings = {"max_length": config.max_length}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")


def _item_table(member: torch.nn.Module) -> np.ndarray:
    table: np.ndarray = member.get_parameter("items.weight")[1:].detach().float().cpu().numpy()
    return table


def read_settings(folder: Path) -> Mapping[str, Any]:
    """What `export` wrote into `recommender.json`."""
    settings: Mapping[str, Any] = json.loads((folder / SETTINGS).read_text())
    return settings


def probes(config: ModelConfig, prepared: Prepared) -> Iterator[Probe]:
    """Test histories in batches of 1, 2, 8 and 32, and of the lengths 1, 2, half and all of `max_length`."""
    questions = Questions(prepared, config.max_length, "test")
    for batch_size in (1, 2, 8, 32):
        rows = [questions[index % len(questions)] for index in range(batch_size)]
        history_BL = collate(rows)["history"].numpy()
        for length in sorted({1, min(2, config.max_length), -(-config.max_length // 2), config.max_length}):
            yield Probe(f"batch {batch_size}, length {length}", {"history": _fit(history_BL, length)})


def _fit(history_BL: np.ndarray, length: int) -> np.ndarray:
    short = max(length - history_BL.shape[1], 0)
    return np.pad(history_BL, ((0, 0), (short, 0)))[:, -length:]


def open_network(folder: Path, runtime: Runtime) -> Predict:
    """The exported network as a function of `history`, for callers that keep to its limits."""
    return runtime.session(folder / ONNX).run


def open_model(folder: Path, runtime: Runtime) -> Predict:
    """The same for anybody: raises `RequestError` for a history that the network was not made for.

    The graph itself would take a history that is too long for attention's memory, and negative numbers.
    """
    network, max_length = open_network(folder, runtime), int(read_settings(folder)["max_length"])
    num_items = len(Catalogue.read(folder / catalogue.FILE))

    def predict(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        history_BL = inputs["history"]
        length = history_BL.shape[-1]
        if not 1 <= length <= max_length:
            raise RequestError(
                "history has the wrong length", saw=length, allowed=f"1 to {max_length}", field="history"
            )
        if history_BL.size and not 0 <= history_BL.min() <= history_BL.max() <= num_items:
            raise RequestError(
                "history holds numbers that are no items",
                saw=f"{history_BL.min()} to {history_BL.max()}",
                allowed=f"1 to {num_items}, and 0 for padding on the left",
                field="history",
            )
        return network(inputs)

    return predict


def signature(folder: Path) -> Signature:
    """The tensors of the exported network."""
    num_items = len(Catalogue.read(folder / catalogue.FILE))
    return Signature(
        inputs=(TensorSpec("history", "INT64", (-1, -1)),),
        outputs=(TensorSpec("scores", "FP32", (-1, num_items)),),
    )
