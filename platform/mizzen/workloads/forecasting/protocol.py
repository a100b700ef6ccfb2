"""The HTTP types of KServe's time-series protocol (v1/timeseries/forecast), and what we add beside.

Added: `past_covariates`, `known_covariates` and `timezone` of an input, frequencies by any spelling that
`frequency` reads, `null` for a missing value, `timestamps`, and in the answer the model's version and digest.
The types of answers are what the OpenAPI document says; answers are written as they say, without being
validated once more. It holds no logic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mizzen.workloads.contract import Fields

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Values = Annotated[list[Number | None], Field(fail_fast=True)]
_Series = Annotated[list[Number | None], Field(min_length=1, fail_fast=True)]
_Steps = Annotated[list[Values], Field(min_length=1, fail_fast=True)]
_Covariates = dict[Annotated[str, Field(max_length=200)], Values]
Kind = Literal["univariate_time_series", "multivariate_time_series"]
Status = Literal["completed", "partial"]
Flat = list[float] | list[list[float]]
"""One number a step; multivariate: one list a step."""
MAX_QUANTILES = 99
MAX_INPUTS = 10_000


class TimeSeriesInput(Fields):
    """One series, or several on the same steps."""

    type: Kind = "univariate_time_series"
    name: str = Field(min_length=1, max_length=200)
    series: _Series | _Steps = Field(union_mode="left_to_right")
    """Observations from `start_timestamp` on, null where there is none. Multivariate: one list a step, of
    as many values as there are variates. Each variate is forecast on its own by the global model."""
    frequency: str = Field(min_length=1, max_length=40)
    """Must mean the frequency that the model was trained on: `30min`, `T`, `PT30M`, `monthly`, `Y`."""
    start_timestamp: str | None = Field(None, max_length=40)
    """When the first observation was made, ISO 8601; needed by models that read the calendar."""
    timezone: str | None = Field(None, max_length=60)
    """An IANA name such as `Europe/Berlin`: on whose clock the steps are, summer time and all. Steps of days
    and more go by the clock, shorter ones by real time. Default: the offset of `start_timestamp`, or UTC."""
    past_covariates: _Covariates = Field(default_factory=dict, max_length=64)
    """By the name that they had in training: one value a step of `series`."""
    known_covariates: _Covariates = Field(default_factory=dict, max_length=64)
    """By name: one value a step of `series`, and then one a step that is forecast. More are read as far as
    the model looks ahead."""


class ForecastOptions(Fields):
    """What is asked for."""

    horizon: int | None = Field(None, ge=1, strict=True)
    """Steps; default: as many as the model was trained for, which is the most."""
    quantiles: list[Number] | None = Field(None, min_length=1, max_length=MAX_QUANTILES)
    """Between the model's outermost quantiles, any; default: the model's own."""
    timestamps: bool = Field(False, strict=True)
    """Whether to write the time of each step; every input needs a `start_timestamp` then."""


class ForecastRequest(Fields):
    """The body of `POST /v1/timeseries/forecast`."""

    model: str | None = Field(None, max_length=200)
    """The model's name; if given, it must be the one that answers here."""
    inputs: list[TimeSeriesInput] = Field(min_length=1, max_length=MAX_INPUTS)
    options: ForecastOptions = ForecastOptions()
    metadata: dict[str, Any] | None = None
    """Anything; it is neither read nor kept."""


class Failure(Fields):
    """Why one input could not be answered."""

    message: str
    type: Literal["invalid_request_error"] = "invalid_request_error"
    param: str | None = None
    """The field that is wrong, for instance `inputs.0.series`."""
    code: Literal["invalid_request"] = "invalid_request"


class Output(Fields):
    """What one input was answered with. Inputs that are right are answered even if others are wrong."""

    id: str
    status: Literal["completed", "error"]
    error: Failure | None = None
    """Only if the status is `error`; `content` is empty then."""


class TimeSeriesForecast(Fields):
    """The forecast of one input. Multivariate: one list a step."""

    type: Kind
    name: str
    mean_forecast: Flat
    frequency: str
    """As the request spelled it."""
    start_timestamp: str | None
    """When the first forecast step is; null if the request did not say when the series starts."""
    timestamps: list[str] | None = None
    """When each step is, if that was asked for."""
    quantiles: dict[str, Flat]
    """By level, for instance `"0.1"`; they never cross."""


class ForecastOutput(Output):
    """The forecast of one input."""

    type: Literal["time_series_forecast"] = "time_series_forecast"
    content: list[TimeSeriesForecast]


class Usage(Fields):
    """What was read and made, one token being one observation, or one step of a mean or a quantile."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(Fields):
    """What every answer says. If no input at all could be answered, there is none, but an error 400."""

    id: str
    created_at: int
    """Seconds since 1970."""
    status: Status
    """`partial` if some inputs could not be answered."""
    model: str
    model_version: int
    model_digest: str
    usage: Usage


class ForecastResponse(Answer):
    """The answer of `POST /v1/timeseries/forecast`."""

    outputs: list[ForecastOutput]
