"""`POST /v1/timeseries/forecast`: the next steps of each input."""

from __future__ import annotations

from typing import Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.forecasting import answers, requests
from mizzen.workloads.forecasting.answers import Body, Content
from mizzen.workloads.forecasting.predictor import Forecasts, Window
from mizzen.workloads.forecasting.protocol import ForecastRequest, TimeSeriesInput
from mizzen.workloads.forecasting.requests import Series, Wanted
from mizzen.workloads.forecasting.routes import aside
from mizzen.workloads.forecasting.service import Found, Served

Array = np.ndarray[Any, Any]


async def forecast(served: Served, body: ForecastRequest) -> Body:
    """Mean and quantiles of each input's next steps."""
    want = requests.wanted(body.options, served.meta, served.levels)
    found = await served.read(
        body.model,
        body.inputs,
        ahead=want.horizon,
        timestamps=body.options.timestamps,
        check=lambda series, field: requests.check_past(series, field, served.meta),
    )
    windows = [
        Window(series, variate, series.length)
        for series in found
        if isinstance(series, Series)
        for variate in range(series.width)
    ]
    served.check_num_windows(len(windows), len(want.levels), "inputs", "Send several requests.")
    made = await served.forecasts(windows)
    num_made = len(windows) * want.horizon * (1 + len(want.levels))
    # A number takes about 16 characters of an answer.
    return await aside(16 * num_made, lambda: _answer(served, body, want, found, made, num_made))


def _answer(
    served: Served, body: ForecastRequest, want: Wanted, found: list[Found], made: Forecasts, num_made: int
) -> Body:
    horizon = want.horizon
    mean_NH = made.mean[:, :horizon]
    quantiles_NHA = answers.interpolate(made.quantiles[:, :horizon], served.levels, want.levels)
    contents: list[Content | RequestError] = []
    taken = read = 0
    for item, one in zip(body.inputs, found, strict=True):
        if isinstance(one, RequestError):
            contents.append(one)
            continue
        part = slice(taken, taken + one.width)
        taken += one.width
        read += one.values_TV.size
        content = _content(item, one, served, want, mean_NH[part], quantiles_NHA[part])
        if body.options.timestamps:
            content["timestamps"] = answers.times(one, served.meta, one.length, horizon)
        contents.append(content)
    return answers.write(served.identity, "time_series_forecast", contents, read, num_made)


def _content(
    item: TimeSeriesInput, series: Series, served: Served, want: Wanted, mean_VH: Array, quantiles_VHA: Array
) -> Content:
    """A `TimeSeriesForecast`."""
    if item.type == "univariate_time_series":
        steps = quantiles_VHA[0].T.tolist()
    else:
        steps = quantiles_VHA.transpose(2, 1, 0).tolist()
    return {
        "type": item.type,
        "name": item.name,
        "mean_forecast": answers.columns(item, mean_VH),
        "frequency": item.frequency,
        "start_timestamp": answers.first_time(series, served.meta, series.length),
        "quantiles": dict(zip(want.names, steps, strict=True)),
    }
