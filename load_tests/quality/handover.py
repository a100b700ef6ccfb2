"""Hands prepared data to peers as plain files, and takes their predictions back.

The split is ours: a workload prepares the data, and what is held out for test is in no file that a peer gets.

recommendation, in one folder:
    items.txt         ids of all items, one a line: the columns of what is predicted
    histories.jsonl   {user, items}: ids of all items but the one held out for test, the oldest first. The
                      last of them is held out for validation: it may choose an epoch, and is not trained on
    -> scores.npy     float32 (users, items): how likely each item comes next, in the order of both files

forecasting, in one folder:
    facts.json        {horizon, seasonality, context_length, num_validation}
    series.jsonl      {name, values} up to the first origin of test; the last `num_validation` values are for
                      validation: they may choose settings and steps, and are not trained on
    windows.jsonl     {series, history} up to each origin of test, one after the other
    -> forecasts.npy  float64 (windows, horizon): the median, or the point forecast

It judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting.series import Store
from mizzen.workloads.forecasting.windows import HeldOutWindows
from mizzen.workloads.recommendation import catalogue, histories
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.data import META
from mizzen.workloads.recommendation.histories import Histories

ITEMS, HISTORIES = "items.txt", "histories.jsonl"
FACTS, SERIES, WINDOWS = "facts.json", "series.jsonl", "windows.jsonl"
SCORES, FORECASTS = "scores.npy", "forecasts.npy"

Array = np.ndarray[Any, Any]


def write(workload: str, prepared: Prepared, folder: Path) -> None:
    """Write what peers get of `workload`'s data into `folder`."""
    (recommendation if workload == "recommendation" else forecasting)(prepared, folder)


def recommendation(prepared: Prepared, folder: Path) -> None:
    """Write the files of `recommendation` into `folder`."""
    ids = Catalogue.read(prepared.folder / catalogue.FILE).item_ids
    users = Histories(prepared.folder / histories.FILE)
    num_users = int(prepared.read_json(META)["num_evaluation_users"])
    if num_users != len(users):
        raise ValueError(f"all {len(users)} users have to be asked about, and {num_users} are")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ITEMS).write_text("".join(f"{one}\n" for one in ids))
    rows = (
        {"user": users.user(row), "items": [ids[number - 1] for number in users.items(row)[:-1]]}
        for row in range(num_users)
    )
    _write_lines(rows, folder / HISTORIES)


def forecasting(prepared: Prepared, folder: Path) -> None:
    """Write the files of `forecasting` into `folder`."""
    store = Store(prepared)
    meta, lengths = store.meta, [int(length) for length in store.lengths]
    num_validation = lengths[0] - meta.held_out - meta.training_end(lengths[0])
    facts = {
        "horizon": meta.horizon,
        "seasonality": list(meta.seasonality),
        "context_length": meta.context_length,
        "num_validation": num_validation,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    known = [store.target(series, 0, length - meta.held_out) for series, length in enumerate(lengths)]
    _write_lines(({"name": f"{i}", "values": _whole(one)} for i, one in enumerate(known)), folder / SERIES)
    windows = (
        {"series": f"{series}", "history": _whole(store.target(series, 0, origin))}
        for series, origin in HeldOutWindows(store, "test", [0.5]).windows
    )
    _write_lines(windows, folder / WINDOWS)


def _whole(values: Array) -> list[float]:
    """As a list. Raises `ValueError` for a missing step: peers treat those in ways of their own."""
    if np.isnan(values).any():
        raise ValueError("a series with missing steps is no fair comparison")
    result: list[float] = values.tolist()
    return result


def _write_lines(rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def predictions(file: Path, shape: tuple[int, int]) -> Array:
    """What a peer wrote, float64. Raises `ValueError` if it has another shape, or holds NaN or infinity."""
    found: Array = np.load(file, allow_pickle=False).astype(np.float64)
    if found.shape != shape:
        raise ValueError(f"{file.name} has the shape {found.shape}, and {shape} is needed")
    if not np.isfinite(found).all():
        raise ValueError(f"{file.name} holds {int((~np.isfinite(found)).sum())} values that are no numbers")
    return found
