"""The `data` and `model` sections of a forecasting job file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mizzen.errors import InputError
from mizzen.workloads.contract import Fields
from mizzen.workloads.forecasting import frequency

Calendar = Literal["time_of_day", "day_of_week", "time_of_year"]
Input = Literal["values", "differences", "seasonal_differences"]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


class Columns(Fields):
    """Which column of the table is what; one row is one step of one series."""

    series: ColumnName | None = None
    """Names the series; null if the table holds one series."""
    timestamp: ColumnName = "timestamp"
    target: ColumnName = "target"
    past_covariates: list[ColumnName] = Field([], max_length=64)
    """Numbers known up to the forecast's origin only."""
    known_covariates: list[ColumnName] = Field([], max_length=64)
    """Numbers known for the steps that are forecast, too: prices, holidays, plans."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [self.series, self.timestamp, self.target, *self.past_covariates, *self.known_covariates]
        twice = sorted({name for name in names if name is not None and names.count(name) > 1})
        if twice:
            raise ValueError(f"a column can have one role only; {', '.join(twice)} has more")
        return self


class DataConfig(Fields):
    """Where the series come from, and how they are cut into windows.

    Windows are counted from the end of each series: `test_windows` forecasts, `stride` steps apart, the
    last of them ending at the last observation; before the first of them `validation_windows` more;
    everything before those is for training.
    """

    dataset: Literal["m1-yearly", "taylor"] | None = None
    """A sample data set, or else `path`."""
    path: str | None = None
    """CSV, Parquet or JSON Lines: a file, a folder or an object-storage URL."""
    columns: Columns = Columns()
    frequency: str | None = None
    """For instance `30min`, `D`, `MS` or `PT30M`. A sample has its own."""
    horizon: int | None = Field(None, ge=1, le=2_000)
    """Steps that the model forecasts. A sample has its own."""
    context_length: int = Field(64, ge=2, le=20_000)
    """Steps before the origin that the model sees at most."""
    min_context: int = Field(2, ge=2, le=20_000)
    """Observations that a series must have before an origin; the endpoint asks for as many."""
    seasonality: list[Annotated[int, Field(ge=2)]] = Field([], max_length=4)
    """Periods in steps, for instance [48, 336]; MASE is scaled by the longest."""
    test_windows: int = Field(1, ge=1, le=1_000)
    validation_windows: int = Field(1, ge=1, le=1_000)
    stride: int | None = Field(None, ge=1)
    """Steps between the origins of held-out windows; default: the horizon."""
    train_stride: int = Field(1, ge=1)
    """Steps between the origins of training windows."""
    scaling: Literal["difference", "standard"] = "difference"
    """`difference`: the last value is 0 and the mean absolute step is 1. `standard`: mean 0, deviation 1.
    Both by window, from what lies before the origin."""
    calendar: list[Calendar] | None = None
    """Features of the date. Default: those that the frequency and the span of the data can teach."""

    @field_validator("frequency")
    @classmethod
    def _known_frequency(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                frequency.parse(value)
            except InputError as cause:
                raise ValueError(f"no such frequency; allowed: {cause.allowed}") from None
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either dataset or path, not both and not neither")
        if self.path is not None and (self.frequency is None or self.horizon is None):
            raise ValueError("a table of your own needs frequency and horizon")
        if self.dataset is not None and self.columns != Columns():
            raise ValueError("columns are for a table of your own; a sample has its own")
        if self.min_context > self.context_length:
            raise ValueError("min_context must not be larger than context_length")
        return self


class ModelConfig(Fields):
    """One global probabilistic model for all series."""

    architecture: Literal["tide", "lstm"] = "tide"
    """`tide`: a dense encoder-decoder (Das et al. 2023, arXiv:2304.08424). `lstm`: a recurrent encoder."""
    hidden_size: int = Field(64, ge=4, le=4_096)
    layers: int = Field(2, ge=1, le=16)
    members: int = Field(1, ge=1, le=64)
    """Networks of their own start whose quantiles are averaged, in one graph."""
    inputs: list[Input] = Field(["values", "differences"], min_length=1)
    """What the network sees of the past, in scaled units; `seasonal_differences` are those to one season
    before, for the longest period of which the context holds two."""
    anchors: list[Annotated[int, Field(ge=1)]] = Field([], max_length=8)
    """Simple forecasts that the network corrects, weighted by horizon as it learns: drifts over the last
    n steps."""
    seasonal_anchors: bool = True
    """Also the values one season before, as they were and moved to the last level, for each period of
    `data.seasonality`."""
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = Field([n / 10 for n in range(1, 10)], min_length=1)

    @field_validator("quantiles")
    @classmethod
    def _ascending_with_median(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value or 0.5 not in value or len(value) > 99:
            raise ValueError("quantiles must rise, hold 0.5, and be at most 99")
        return value


class ServeOptions(Fields):
    """The `options` of a forecasting application in a serve file."""

    max_inputs: int = Field(1_024, ge=1, le=10_000)
    """Inputs in one request; each variate of a multivariate one counts."""
    max_length: int = Field(20_000, ge=2, le=1_000_000)
    """Observations of one series in a request."""
    max_windows: int = Field(10_000, ge=1, le=1_000_000)
    """Forecasts that one request may ask for: a backtest makes one for each series and origin."""
