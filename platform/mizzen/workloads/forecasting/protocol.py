"""The HTTP types of KServe's time-series protocol (v1/timeseries/forecast), and what we add beside.

Added: `past_covariates` and `known_covariates` of an input, frequencies by any spelling that `frequency`
reads, `null` for a missing value, and in the answer the model's version and digest. It holds no logic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mizzen.workloads.contract import Fields

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Values = list[Number | None]
Kind = Literal["univariate_time_series", "multivariate_time_series"]
MAX_QUANTILES = 99


class TimeSeriesInput(Fields):
    """One series, or several on the same steps."""

    type: Kind = "univariate_time_series"
    name: str = Field(min_length=1, max_length=200)
    series: list[Number | None] | list[Values] = Field(min_length=1)
    """Observations from `start_timestamp` on, null where there is none. Multivariate: one list a step, of
    as many values as there are variates. Each variate is forecast on its own by the global model."""
    frequency: str = Field(min_length=1, max_length=40)
    """Must mean the frequency that the model was trained on: `30min`, `T`, `PT30M`, `monthly`, `Y`."""
    start_timestamp: str | None = Field(None, max_length=40)
    """When the first observation was made, ISO 8601; needed by models that read the calendar."""
    past_covariates: dict[str, Values] = Field({}, max_length=64)
    """By the name that they had in training: one value a step of `series`."""
    known_covariates: dict[str, Values] = Field({}, max_length=64)
    """By name: one value a step of `series`, and then one a step of the horizon."""


class ForecastOptions(Fields):
    """What is asked for."""

    horizon: int | None = Field(None, ge=1, strict=True)
    """Steps; default: as many as the model was trained for, which is the most."""
    quantiles: list[Number] | None = Field(None, min_length=1, max_length=MAX_QUANTILES)
    """Between the model's outermost quantiles, any; default: the model's own."""


class ForecastRequest(Fields):
    """The body of `POST /v1/timeseries/forecast`."""

    model: str | None = None
    """The model's name; if given, it must be the one that answers here."""
    inputs: list[TimeSeriesInput] = Field(min_length=1)
    options: ForecastOptions = ForecastOptions()
    metadata: dict[str, Any] | None = None
    """Anything; it is neither read nor kept."""


class TimeSeriesForecast(Fields):
    """The forecast of one input. Multivariate: one list a step."""

    type: Kind
    name: str
    mean_forecast: list[float] | list[list[float]]
    frequency: str
    """As the request spelled it."""
    start_timestamp: str | None
    """When the first forecast step is; null if the request did not say when the series starts."""
    quantiles: dict[str, list[float] | list[list[float]]]
    """By level, for instance `"0.1"`; they never cross."""


class ForecastOutput(Fields):
    """The forecasts of one input."""

    type: Literal["time_series_forecast"] = "time_series_forecast"
    id: str
    status: Literal["completed"] = "completed"
    content: list[TimeSeriesForecast]


class Usage(Fields):
    """What was read and made, one token being one observation, or one step of a mean or a quantile."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ForecastResponse(Fields):
    """The answer."""

    id: str
    created_at: int
    """Seconds since 1970."""
    status: Literal["completed"] = "completed"
    model: str
    model_version: int
    model_digest: str
    outputs: list[ForecastOutput]
    usage: Usage
