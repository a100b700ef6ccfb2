"""What a peer needs to answer `POST /v1/recommendations` from an exported folder, and nothing else.

The smallest code that gives Mizzen's answers to the requests of the load test (a user or a history, no
filters): ids, scores and attributes. It checks nothing and knows no HTTP.

Dimensions: B batch, L length, V items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa

PATH = "/v1/recommendations"


class Model:
    """The exported network with its items and its users' histories, all in memory."""

    def __init__(self, folder: Path, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._max_length = json.loads((folder / "recommender.json").read_text())["max_length"]
        items = _table(folder / "items.arrow")
        self._item_ids = items.column("item").to_pylist()
        self._numbers = {item: number for number, item in enumerate(self._item_ids, 1)}
        names = [name for name in items.column_names if name.startswith("attribute:")]
        columns = {name.removeprefix("attribute:"): items.column(name).to_pylist() for name in names}
        self._attributes = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        histories = _table(folder / "histories.arrow")
        self._histories = dict(
            zip(histories.column("user").to_pylist(), histories.column("items").to_pylist(), strict=True)
        )

    def answer(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each request; one call of the network."""
        rows = [self._history(body) for body in bodies]
        length = min(max(map(len, rows)), self._max_length)
        history_BL = np.zeros((len(rows), length), np.int64)
        for history_L, row in zip(history_BL, rows, strict=True):
            last = row[-length:]
            history_L[length - len(last) :] = last
        (scores_BV,) = self._session.run(["scores"], {"history": history_BL})
        return [self._best(*one) for one in zip(bodies, rows, scores_BV, strict=True)]

    def _history(self, body: dict[str, Any]) -> list[int]:
        if body.get("history") is not None:
            return [self._numbers[item] for item in body["history"]]
        return self._histories[body["user_id"]]

    def _best(self, body: dict[str, Any], seen: list[int], scores_V: np.ndarray) -> dict[str, Any]:
        scores_V[np.array(seen) - 1] = -np.inf
        best = np.argpartition(-scores_V, body["num_results"])[: body["num_results"]]
        best = best[np.argsort(-scores_V[best], kind="stable")]
        return {
            "user_id": body.get("user_id"),
            "items": [
                {
                    "item_id": self._item_ids[row],
                    "score": float(scores_V[row]),
                    "attributes": self._attributes[row],
                }
                for row in best.tolist()
            ],
        }


def _table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
