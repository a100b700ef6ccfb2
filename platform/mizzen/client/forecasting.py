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


class ForecastOutput(Answer):
    """What became of one series of the request."""

    id: str
    status: str
    """`completed`, or `failed` with an error."""
    content: list[SeriesForecast] = Field(default_factory=list)
    error: dict[str, Any] | None = None


class Forecasts(Answer):
    """Forecasts of all series of a request, in its order."""

    id: str
    status: str
    model: str
    model_version: int
    outputs: list[ForecastOutput]

    @property
    def series(self) -> list[SeriesForecast]:
        """The forecasts of the series that could be forecast."""
        return [one for output in self.outputs for one in output.content]


def forecast(
    prefix: str,
    inputs: Sequence[Series],
    *,
    horizon: int | None = None,
    quantiles: Sequence[float] | None = None,
    timeout_s: float | None = None,
) -> Call[Forecasts]:
    """The next `horizon` steps of each series: mean and quantiles."""
    options = given(horizon=horizon, quantiles=None if quantiles is None else list(quantiles))
    body = {"inputs": [_input(one) for one in inputs], "options": options}
    return Call("POST", f"{prefix}/v1/timeseries/forecast", Forecasts, body, timeout_s)


def _input(one: Series) -> dict[str, Any]:
    return {"type": "univariate_time_series", **one, "series": list(one["series"])}


class Forecasting(Resource[Sender]):
    """A forecasting application."""

    forecast = now(forecast)


class AsyncForecasting(Resource[AsyncSender]):
    """A forecasting application, to be awaited."""

    forecast = later(forecast)
