"""Trains a network of neuralforecast on what `handover.forecasting` wrote, and forecasts its windows.

    neuralforecast_peer.py GIVEN OUT --method NHITS|PatchTST --seed N [--quick]

One global model over all series, with the defaults of neuralforecast but for `COMMON` and `CANDIDATES`: each
candidate is trained, stopped by neuralforecast's own early stopping on the validation part, and the one with
the best validation error (MASE, made here) forecasts the test windows. It needs nothing of Mizzen, and writes
`forecasts.npy` and `report.json` into OUT.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS, PatchTST

METHODS = {"NHITS": NHITS, "PatchTST": PatchTST}
COMMON: dict[str, Any] = {
    "max_steps": 1000,
    "val_check_steps": 50,
    "early_stop_patience_steps": 3,
    "start_padding_enabled": True,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}
CANDIDATES: dict[tuple[str, bool], list[dict[str, Any]]] = {
    ("NHITS", False): [
        {"input_size": 12, "scaler_type": scaler, "windows_batch_size": 256}
        for scaler in ("standard", "robust")
    ],
    ("PatchTST", False): [
        {"input_size": 12, "patch_len": 4, "stride": 2, "learning_rate": rate, "windows_batch_size": 256}
        for rate in (1e-4, 1e-3)
    ],
    ("NHITS", True): [
        {"input_size": size, "scaler_type": "standard", "windows_batch_size": 128} for size in (336, 672)
    ],
    ("PatchTST", True): [
        {
            "input_size": 336,
            "learning_rate": rate,
            "windows_batch_size": 32,
            "inference_windows_batch_size": 64,
        }
        for rate in (1e-4, 1e-3)
    ],
}
"""By method, and whether the data has seasons. PatchTST scales by itself (RevIN, its default), and 336 steps
make the 42 patches of its paper."""
ID, TIME, VALUE = "unique_id", "ds", "y"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("given", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one candidate, ten steps: to try it")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    facts = json.loads((arguments.given / "facts.json").read_text())
    series = [json.loads(line) for line in (arguments.given / "series.jsonl").open()]
    windows = [json.loads(line) for line in (arguments.given / "windows.jsonl").open()]
    candidates = CANDIDATES[arguments.method, bool(facts["seasonality"])]
    more: dict[str, Any] = {"random_seed": arguments.seed}
    if arguments.quick:
        candidates, more = candidates[:1], more | {"max_steps": 10, "val_check_steps": 10}
    tried = []
    for candidate in candidates:
        options = {**COMMON, **candidate, **more}
        model = fit(METHODS[arguments.method], options, series, facts)
        error = validation_mase(model, series, facts)
        tried.append((error, model, candidate))
        print(f"{candidate}: MASE on validation {error:.4f}", flush=True)
    error, model, candidate = min(tried, key=lambda one: one[0])
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "forecasts.npy", forecast(model, windows, facts["horizon"]))
    report = {
        "chosen": candidate,
        "validation": {json.dumps(options): error for error, _, options in tried},
        "num_steps": int(model.models[0].valid_trajectories[-1][0]),
        "num_parameters": sum(weight.numel() for weight in model.models[0].parameters()),
    }
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def fit(
    kind: Any, options: dict[str, Any], series: list[dict[str, Any]], facts: dict[str, Any]
) -> NeuralForecast:
    """A model trained on everything before the validation part."""
    # Series differ in size by five orders: the validation error that stops would be that of the largest.
    model = NeuralForecast(models=[kind(h=facts["horizon"], **options)], freq=1, local_scaler_type="standard")
    values = {one["name"]: one["values"] for one in series}
    model.fit(df=table(values), val_size=facts["num_validation"])
    return model


def table(series: dict[str, list[float]]) -> pd.DataFrame:
    """The long table that neuralforecast reads; times are whole numbers from 1."""
    return pd.concat(
        [
            pd.DataFrame({ID: name, TIME: np.arange(1, len(values) + 1), VALUE: values})
            for name, values in series.items()
        ],
        ignore_index=True,
    )


def forecast(model: NeuralForecast, windows: list[dict[str, Any]], horizon: int) -> np.ndarray[Any, Any]:
    """The forecast (windows, horizon) of each window, from its history alone.

    Windows of one series are asked for one after the other: scalers are kept by the name of a series.
    """
    rounds: dict[str, list[int]] = {}
    for number, window in enumerate(windows):
        rounds.setdefault(window["series"], []).append(number)
    result = np.full((len(windows), horizon), np.nan)
    column = str(model.models[0])
    for together in zip(*rounds.values(), strict=True):
        histories = {windows[number]["series"]: windows[number]["history"] for number in together}
        found = model.predict(df=table(histories))
        by_series = {name: rows.sort_values(TIME)[column].to_numpy() for name, rows in found.groupby(ID)}
        for number in together:
            result[number] = by_series[windows[number]["series"]]
    return result


def validation_mase(model: NeuralForecast, series: list[dict[str, Any]], facts: dict[str, Any]) -> float:
    """MASE over the validation part, one horizon after the other."""
    horizon, num_validation = facts["horizon"], facts["num_validation"]
    windows, futures, scales = [], [], []
    period = max(facts["seasonality"], default=1)
    for one in series:
        values = np.array(one["values"])
        for ahead in range(num_validation, 0, -horizon):
            origin = len(values) - ahead
            windows.append({"series": one["name"], "history": values[:origin].tolist()})
            futures.append(values[origin : origin + horizon])
            lag = period if period < origin else 1
            scales.append(np.abs(values[lag:origin] - values[: origin - lag]).mean())
    error = np.abs(forecast(model, windows, horizon) - np.array(futures)).mean(axis=1)
    scale = np.array(scales)
    return float((error[scale > 0] / scale[scale > 0]).mean())


if __name__ == "__main__":
    main()
