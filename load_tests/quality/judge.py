"""The one evaluator: figures of any predictions of what was held out for test, by the workloads' measures.

Recommendation: the rank of the held-out item among all items but those that the user met before; HR@10 and
NDCG@10, and the standard error of HR@10 over users. Forecasting: MASE, each window scaled by the error of the
(seasonal) naive method on its own past, and sMAPE.

It does not know who predicted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import figures
from mizzen.workloads.forecasting.figures import mase_scale
from mizzen.workloads.forecasting.series import Store
from mizzen.workloads.forecasting.windows import HeldOutWindows
from mizzen.workloads.recommendation import catalogue, evaluate
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.sequences import Questions, collate

Array = np.ndarray[Any, Any]
BATCH_SIZE = 256


def shape(workload: str, prepared: Prepared) -> tuple[int, int]:
    """What predictions have to look like: (users, items), or (windows, horizon)."""
    if workload == "recommendation":
        num_items = len(Catalogue.read(prepared.folder / catalogue.FILE))
        return len(Questions(prepared, 1, "test")), num_items
    store = Store(prepared)
    return len(HeldOutWindows(store, "test", [0.5])), store.meta.horizon


def judge(workload: str, prepared: Prepared, predicted: Array) -> dict[str, float]:
    """The figures of `predicted`, which has the shape that `shape` says."""
    if workload == "recommendation":
        return recommendation(prepared, predicted)
    return forecasting(prepared, predicted)


def recommendation(prepared: Prepared, scores_UV: Array) -> dict[str, float]:
    """`hr@10`, `ndcg@10` and `hr@10_error` (its standard error) of scores of all items for all users."""
    questions = Questions(prepared, 1, "test")
    parts: dict[str, list[torch.Tensor]] = {}
    for first in range(0, len(questions), BATCH_SIZE):
        rows = [questions[number] for number in range(first, min(first + BATCH_SIZE, len(questions)))]
        scores_BV = torch.from_numpy(scores_UV[first : first + len(rows)])
        for name, values_B in evaluate.measure({"scores": scores_BV}, collate(rows)).items():
            parts.setdefault(name, []).append(values_B.double())
    means = {name: float(torch.cat(values).mean()) for name, values in parts.items()}
    share = means["hr@10"]
    error = math.sqrt(share * (1 - share) / len(questions))
    return {"hr@10": share, "ndcg@10": means["ndcg@10"], "hr@10_error": error}


def forecasting(prepared: Prepared, forecast_WH: Array) -> dict[str, float]:
    """`mase` and `smape` of one forecast for each window of the test split."""
    store = Store(prepared)
    scales, futures = [], []
    for series, origin in HeldOutWindows(store, "test", [0.5]).windows:
        scales.append(mase_scale(store.target(series, 0, origin), store.meta.seasonality))
        futures.append(store.target(series, origin, origin + store.meta.horizon))
    future_WH = np.stack(futures)
    scale_W, level_Q = np.array(scales), np.array([0.5])
    observed_WH = ~np.isnan(future_WH)
    found = figures.measure(forecast_WH[:, :, None], np.nan_to_num(future_WH), observed_WH, scale_W, level_Q)
    summary = figures.summarise({name: float(values.mean()) for name, values in found.items()})
    return {"mase": summary["mase"], "smape": summary["smape"]}


def simple(workload: str, prepared: Prepared) -> dict[str, Array]:
    """Predictions of the methods that need no training, by name; they prove the evaluator too."""
    if workload == "recommendation":
        counts_V = Catalogue.read(prepared.folder / catalogue.FILE).count("test").astype(np.float64)
        return {"popularity": np.tile(counts_V, (shape(workload, prepared)[0], 1))}
    store = Store(prepared)
    horizon, periods = store.meta.horizon, store.meta.seasonality
    histories = [
        store.target(series, 0, origin) for series, origin in HeldOutWindows(store, "test", [0.5]).windows
    ]
    found = {"naive": np.stack([figures.naive(history, horizon) for history in histories])}
    for period in periods:
        rows = [figures.seasonal_naive(history, horizon, period) for history in histories]
        found[f"seasonal naive ({period})"] = np.stack(rows)
    if not periods:
        found["drift of the last three steps"] = np.stack(
            [figures.drift(history, horizon, 3) for history in histories]
        )
    return found
