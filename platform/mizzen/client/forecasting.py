"""The calls of a forecasting application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from pydantic import Field

from mizzen.client.calls import Answer, Call, given
from mizzen.client.resource import Resource, later, now
from mizzen.client.sending import AsyncSender, Sender


class Series(TypedDict):
    """One series, as `inputs` of a request has it."""

    name: str
    series: Sequence[float | None]
    """Observations, the oldest first; None where there is none."""
    frequency: str
    """`M`, `30min`, `PT1H`, ...: must mean the one that the model was trained on."""
    start_timestamp: NotRequired[str]
    timezone: NotRequired[str]
    past_covariates: NotRequired[Mapping[str, Sequence[float | None]]]
    known_covariates: NotRequired[Mapping[str, Sequence[float | None]]]


class SeriesForecast(Answer):
    """The next steps of one series."""

    name: str
    mean_forecast: list[Any]
    """One number a step; of a multivariate series, one list a step."""
    quantiles: dict[str, list[Any]]
    """By level, for instance `"0.1"`; they never cross."""
    start_timestamp: str | None = None
    """When the first step is."""
    timestamps: list[str] | None = None
    """When each step is, if that was asked for."""


class Failure(Answer):
    """Why one series could not be answered."""

    message: str
    param: str | None = None


class _Outputs(Answer):
    id: str
    status: str
    """`completed`, or `partial` if some series could not be answered."""
    model: str
    model_version: int


class _Output(Answer):
    id: str
    status: str
    """`completed`, or `error`; then there is no content."""
    error: Failure | None = None


class ForecastOutput(_Output):
    """What became of one series of the request."""

    content: list[SeriesForecast] = Field(default_factory=list)


class Forecasts(_Outputs):
    """Forecasts of all series of a request, in its order."""

    outputs: list[ForecastOutput]

    @property
    def series(self) -> list[SeriesForecast]:
        """The forecasts of the series that could be forecast."""
        return [one for output in self.outputs for one in output.content]


class Figures(Answer):
    """How good forecasts were; None where a figure cannot be had."""

    mase: float | None
    smape: float | None
    weighted_quantile_loss: float | None


class Judgement(Answer):
    """Figures of the model beside those of the seasonal naive forecast on the same windows."""

    num_windows: int
    figures: Figures
    seasonal_naive: Figures
    ratio: Figures
    """Below 1 the model is better."""


class SeriesBacktest(Judgement):
    """The backtest of one series."""

    name: str


class BacktestOutput(_Output):
    """What became of one series of the request."""

    content: list[SeriesBacktest] = Field(default_factory=list)


class Backtests(_Outputs):
    """Backtests of all series of a request, in its order, and of all of them together."""

    overall: Judgement
    outputs: list[BacktestOutput]


class SeriesAnomalies(Answer):
    """The points judged, from `first` to the end of the series; None where a point cannot be judged."""

    name: str
    first: int
    level: float
    num_anomalies: int
    anomaly: list[Any]
    score: list[Any]
    """1 is the bound of the interval; above it is an anomaly."""
    lower: list[Any]
    upper: list[Any]


class AnomalyOutput(_Output):
    """What became of one series of the request."""

    content: list[SeriesAnomalies] = Field(default_factory=list)


class Anomalies(_Outputs):
    """Flags of all series of a request, in its order."""

    outputs: list[AnomalyOutput]

    @property
    def series(self) -> list[SeriesAnomalies]:
        """The flags of the series that could be judged."""
        return [one for output in self.outputs for one in output.content]


def forecast(
    prefix: str,
    inputs: Sequence[Series],
    *,
    horizon: int | None = None,
    quantiles: Sequence[float] | None = None,
    timestamps: bool = False,
    timeout_s: float | None = None,
) -> Call[Forecasts]:
    """The next `horizon` steps of each series: mean and quantiles."""
    options = given(horizon=horizon, quantiles=_list(quantiles), timestamps=timestamps or None)
    return Call("POST", f"{prefix}/v1/timeseries/forecast", Forecasts, _body(inputs, options), timeout_s)


def backtest(
    prefix: str,
    inputs: Sequence[Series],
    *,
    horizon: int | None = None,
    num_windows: int = 1,
    step: int | None = None,
    timeout_s: float | None = None,
) -> Call[Backtests]:
    """How good the model would have been on the series' own past, from `num_windows` origins."""
    options = given(horizon=horizon, num_windows=num_windows, step=step)
    return Call("POST", f"{prefix}/v1/timeseries/backtest", Backtests, _body(inputs, options), timeout_s)


def anomalies(
    prefix: str,
    inputs: Sequence[Series],
    *,
    level: float | None = None,
    last: int | None = None,
    timeout_s: float | None = None,
) -> Call[Anomalies]:
    """Which of the `last` points lie outside of the interval forecast from what came before them."""
    options = given(level=level, last=last)
    return Call("POST", f"{prefix}/v1/timeseries/anomalies", Anomalies, _body(inputs, options), timeout_s)


def _body(inputs: Sequence[Series], options: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs": [_plain(one) for one in inputs], "options": options}


def _plain(one: Series) -> dict[str, Any]:
    """With lists for whatever kind of sequence was given: arrays cannot be written as JSON."""
    covariates = {
        kind: {name: list(values) for name, values in given_values.items()}
        for kind, given_values in one.items()
        if isinstance(given_values, Mapping)
    }
    return {**one, "series": list(one["series"]), **covariates}


def _list(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)


class Forecasting(Resource[Sender]):
    """A forecasting application."""

    forecast = now(forecast)
    backtest = now(backtest)
    anomalies = now(anomalies)


class AsyncForecasting(Resource[AsyncSender]):
    """A forecasting application, to be awaited."""

    forecast = later(forecast)
    backtest = later(backtest)
    anomalies = later(anomalies)
