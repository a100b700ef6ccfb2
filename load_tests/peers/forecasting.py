"""What a peer needs to answer `POST /v1/timeseries/forecast` from an exported folder, and nothing else.

The smallest code that gives Mizzen's answers to the requests of the load test: univariate series without
missing values or covariates, for a model without a calendar. It checks nothing and knows no HTTP.

Dimensions: B batch, T steps of the past, H steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PATH = "/v1/timeseries/forecast"


class Model:
    """The exported network and its facts."""

    def __init__(self, folder: Path, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        facts = json.loads((folder / "forecaster.json").read_text())
        self._context_length = facts["meta"]["context_length"]
        self._levels = facts["quantiles"]
        needs = [facts["meta"][name] for name in ("calendar", "past_names", "known_names")]
        if any(needs) or facts["meta"]["scaling"] != "difference":
            raise ValueError(
                f"this peer has no covariates, no calendar, and one scaling; saw {facts['meta']}"
            )

    def answer(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each request; one call of the network for all series of all requests."""
        series = [item for body in bodies for item in body["inputs"]]
        pasts = [np.array(item["series"][-self._context_length :], np.float64) for item in series]
        longest = max(map(len, pasts))
        target_BT = np.zeros((len(pasts), longest), np.float32)
        mask_BT = np.zeros((len(pasts), longest), np.float32)
        scales = []
        for row, past in enumerate(pasts):
            location, scale = float(past[-1]), float(np.abs(np.diff(past)).mean())
            if not scale > 1e-12 * abs(location):
                scale = abs(location) * 0.01 or 1.0
            scales.append((location, scale))
            target_BT[row, longest - len(past) :] = (past - location) / scale
            mask_BT[row, longest - len(past) :] = 1.0
        quantiles_BHQ, mean_BH = self._session.run(
            ["quantiles", "mean"], {"past_target": target_BT, "past_mask": mask_BT}
        )
        rows = iter(zip(series, scales, quantiles_BHQ, mean_BH, strict=True))
        return [
            {"outputs": [self._output(body["options"], *next(rows)) for _ in body["inputs"]]}
            for body in bodies
        ]

    def _output(
        self,
        options: dict[str, Any],
        item: dict[str, Any],
        scale: tuple[float, float],
        quantiles_HQ: np.ndarray,
        mean_H: np.ndarray,
    ) -> dict[str, Any]:
        horizon, levels = options["horizon"], options["quantiles"]
        raw_HQ = scale[0] + scale[1] * quantiles_HQ[:horizon].astype(np.float64)
        raw_H = scale[0] + scale[1] * mean_H[:horizon].astype(np.float64)
        asked_HA = np.stack([np.interp(levels, self._levels, row) for row in raw_HQ])
        content = {
            "name": item["name"],
            "mean_forecast": raw_H.tolist(),
            "frequency": item["frequency"],
            "quantiles": {str(level): asked_HA[:, i].tolist() for i, level in enumerate(levels)},
        }
        return {"type": "time_series_forecast", "status": "completed", "content": [content]}
