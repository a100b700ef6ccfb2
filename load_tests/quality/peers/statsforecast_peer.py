"""Forecasts what `handover.forecasting` wrote with a method of statsforecast, each window from its own past.

    statsforecast_peer.py GIVEN OUT --method AutoETS|AutoTheta|AutoARIMA [--decompose] [--quick]

Each window is fitted anew on all that lies before its origin, as these methods are meant. `--decompose` takes
all seasons off first by MSTL and gives the method what is left: AutoETS has no season of more than 24 steps,
and AutoARIMA takes very long with a long one. Without it the season is the shortest of the data's.
It needs nothing of Mizzen, and writes `forecasts.npy` and `report.json` into OUT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from statsforecast.models import MSTL, AutoARIMA, AutoETS, AutoTheta

METHODS = {"AutoETS": AutoETS, "AutoTheta": AutoTheta, "AutoARIMA": AutoARIMA}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("given", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--decompose", action="store_true")
    parser.add_argument("--quick", action="store_true", help="of each past the last 500 steps: to try it")
    arguments = parser.parse_args()
    facts = json.loads((arguments.given / "facts.json").read_text())
    histories = [json.loads(line)["history"] for line in (arguments.given / "windows.jsonl").open()]
    if arguments.quick:
        histories = [history[-500:] for history in histories]
    model = build(arguments.method, facts["seasonality"], arguments.decompose)
    rows = []
    for number, history in enumerate(histories, start=1):
        rows.append(model.forecast(y=np.array(history, np.float64), h=facts["horizon"])["mean"])
        if number % 50 == 0 or facts["seasonality"]:
            print(f"{number} of {len(histories)}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "forecasts.npy", np.array(rows, np.float64))
    (arguments.out / "report.json").write_text(json.dumps({"model": f"{model}"}, indent=1) + "\n")


def build(method: str, seasonality: list[int], decompose: bool) -> Any:
    """The method for series with these seasons."""
    if decompose:
        options = {"model": "ZZN"} if method == "AutoETS" else {}
        return MSTL(season_length=seasonality, trend_forecaster=METHODS[method](season_length=1, **options))
    return METHODS[method](season_length=min(seasonality, default=1))


if __name__ == "__main__":
    main()
