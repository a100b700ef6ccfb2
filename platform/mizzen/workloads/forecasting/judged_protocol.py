"""The HTTP types of backtests and of anomaly flags, after the manner of KServe's time-series protocol.

It holds no logic.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mizzen.workloads.contract import Fields
from mizzen.workloads.forecasting.protocol import (
    MAX_INPUTS,
    MAX_QUANTILES,
    Answer,
    Flat,
    Kind,
    Number,
    Output,
    TimeSeriesInput,
)

FlatOrNull = list[float | None] | list[list[float | None]]
"""One value a step; multivariate: one list a step."""
FlagsOrNull = list[bool | None] | list[list[bool | None]]


class BacktestOptions(Fields):
    """How the past is forecast: `num_windows` origins, `step` apart, the last `horizon` before the end."""

    horizon: int | None = Field(None, ge=1, strict=True)
    """Steps of each forecast; default: as many as the model was trained for, which is the most."""
    num_windows: int = Field(1, ge=1, le=100_000, strict=True)
    step: int | None = Field(None, ge=1, le=100_000, strict=True)
    """Steps between origins; default: the horizon, so that no step is judged twice."""
    forecasts: bool = Field(False, strict=True)
    """Whether to answer with the forecast of each window, too."""
    quantiles: list[Number] | None = Field(None, min_length=1, max_length=MAX_QUANTILES)
    """Of these forecasts; default: the model's own, by which the figures are reckoned in any case."""


class BacktestRequest(Fields):
    """The body of `POST /v1/timeseries/backtest`. Known covariates: one value a step of `series`."""

    model: str | None = Field(None, max_length=200)
    """The model's name; if given, it must be the one that answers here."""
    inputs: list[TimeSeriesInput] = Field(min_length=1, max_length=MAX_INPUTS)
    options: BacktestOptions = BacktestOptions()
    metadata: dict[str, Any] | None = None
    """Anything; it is neither read nor kept."""


class Figures(Fields):
    """How good forecasts were; null where a figure cannot be had, as MASE of a series that never moved."""

    mase: float | None
    """Mean absolute error of the median, over that of the seasonal naive forecast within the history."""
    smape: float | None
    """Symmetric mean absolute percentage error of the median, 0 to 200."""
    weighted_quantile_loss: float | None
    """Twice the pinball loss, mean over the model's quantiles, over the sum of the absolute values."""


class Judgement(Fields):
    """Figures of the model beside those of the seasonal naive forecast on the same windows."""

    num_windows: int
    """Windows judged; one whose horizon holds no observation is not."""
    figures: Figures
    seasonal_naive: Figures
    """Of the values one season before, again and again: the longest season of the model that the history
    holds; the last value if it has none."""
    ratio: Figures
    """The model's figure over the seasonal naive's: below 1 the model is better."""


class BacktestWindow(Fields):
    """One forecast of the past. Multivariate: one list a step."""

    origin: int
    """The first step that is forecast, counted from 0."""
    start_timestamp: str | None
    mean_forecast: Flat
    quantiles: dict[str, Flat]
    observed: FlatOrNull


class TimeSeriesBacktest(Judgement):
    """The backtest of one input, over all of its variates."""

    type: Kind
    name: str
    frequency: str
    windows: list[BacktestWindow] | None = None
    """If forecasts were asked for."""


class BacktestOutput(Output):
    """The backtest of one input."""

    type: Literal["time_series_backtest"] = "time_series_backtest"
    content: list[TimeSeriesBacktest]


class BacktestResponse(Answer):
    """The answer of `POST /v1/timeseries/backtest`."""

    overall: Judgement
    """Over the windows of all inputs that could be judged."""
    outputs: list[BacktestOutput]


class AnomalyOptions(Fields):
    """Which points are judged, and how far out one must be."""

    level: Number | None = Field(None, gt=0, lt=1)
    """Probability of the predictive interval, for instance 0.8: between the quantiles 0.1 and 0.9, which
    must lie within the model's outermost. Default: the widest that the model has."""
    last: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    """Judge this many points at the end; default: all that have enough before them."""
    step: int = Field(1, ge=1, le=100_000, strict=True)
    """Points from one forecast to the next: 1 compares each with the forecast made right before it, more
    costs less. At most the model's horizon."""
    timestamps: bool = Field(False, strict=True)
    """Whether to write the time of each point; every input needs a `start_timestamp` then."""


class AnomalyRequest(Fields):
    """The body of `POST /v1/timeseries/anomalies`. Known covariates: one value a step of `series`."""

    model: str | None = Field(None, max_length=200)
    """The model's name; if given, it must be the one that answers here."""
    inputs: list[TimeSeriesInput] = Field(min_length=1, max_length=MAX_INPUTS)
    options: AnomalyOptions = AnomalyOptions()
    metadata: dict[str, Any] | None = None
    """Anything; it is neither read nor kept."""


class TimeSeriesAnomalies(Fields):
    """The points judged, from `first` to the end; null where a point is missing, or has too few
    observations before it. Multivariate: one list a step."""

    type: Kind
    name: str
    frequency: str
    first: int
    """The first point judged, counted from 0."""
    start_timestamp: str | None
    """When that is; null if the request did not say when the series starts."""
    timestamps: list[str] | None = None
    level: float
    num_anomalies: int
    anomaly: FlagsOrNull
    """Whether the point lies outside of the interval."""
    score: FlatOrNull
    """Distance from the median, in units of the distance of the interval's bound on that side: 1 is the
    bound, above it is an anomaly."""
    lower: FlatOrNull
    upper: FlatOrNull
    median: FlatOrNull


class AnomalyOutput(Output):
    """The anomalies of one input."""

    type: Literal["time_series_anomalies"] = "time_series_anomalies"
    content: list[TimeSeriesAnomalies]


class AnomalyResponse(Answer):
    """The answer of `POST /v1/timeseries/anomalies`."""

    outputs: list[AnomalyOutput]
