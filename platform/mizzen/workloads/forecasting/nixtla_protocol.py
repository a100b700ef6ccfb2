"""The HTTP types of Nixtla's protocol (`/v2/...`), as its own Python client (`nixtla` on PyPI) sends them.

What has no counterpart here is refused if it asks for something: fine-tuning, a fine-tuned model, feature
contributions, multivariate forecasts, parameters of the model. It holds no logic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mizzen.workloads.contract import Fields
from mizzen.workloads.forecasting.protocol import Values

Level = (
    Annotated[int, Field(strict=True, ge=0, lt=100)]
    | Annotated[float, Field(strict=True, ge=0, lt=100, allow_inf_nan=False)]
)
"""Percent of an interval, as it was spelled: 80 and 80.0 name the columns of an answer differently."""
Size = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
_Features = Annotated[list[Values], Field(max_length=128)]


class PastSeries(Fields):
    """Series one after the other. No times are sent, so a model that reads the calendar is refused."""

    y: Values = Field(min_length=1)
    sizes: list[Size] = Field(min_length=1, max_length=10_000)
    """Steps of each series."""
    X: _Features | None = None
    """One list a covariate, as long as `y`: the model's known covariates in its order, then its past ones."""


class SeriesAhead(PastSeries):
    """The same, and what is known of the steps that are forecast."""

    X_future: _Features | None = None
    """The first lists of `X`, one value a series and step of the horizon."""


class NixtlaRequest(Fields):
    """What all requests have in common."""

    model: str | None = Field(None, max_length=200)
    """The model's own name, or `timegpt-1`, which the client sends when nobody named one."""
    freq: str = Field(min_length=1, max_length=40)
    """Must mean the frequency that the model was trained on."""
    clean_ex_first: bool = True
    """Of no effect: covariates are inputs of the network, and are not cleaned before."""
    finetuned_model_id: None = None
    multivariate: Literal[False] = False


class TunedRequest(NixtlaRequest):
    """What the client says of fine-tuning, which there is none of: `finetune_steps` must be 0."""

    finetune_steps: Literal[0] = 0
    finetune_depth: int = 1
    """Of no effect without steps."""
    finetune_loss: str = Field("default", max_length=40)
    """Of no effect without steps."""


class NixtlaForecastRequest(TunedRequest):
    """The body of `POST /v2/forecast`."""

    series: SeriesAhead
    h: int = Field(ge=1, strict=True)
    level: list[Level] | None = Field(None, max_length=99)
    """Intervals between two quantiles of the model. With a level of 0, the client's way to ask for the
    quantile 0.5, `mean` holds the median, from where the client reads it."""
    feature_contributions: Literal[False] = False
    model_parameters: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class CrossValidationRequest(TunedRequest):
    """The body of `POST /v2/cross_validation`."""

    series: PastSeries
    h: int = Field(ge=1, strict=True)
    n_windows: int = Field(1, ge=1, le=100_000, strict=True)
    step_size: int | None = Field(None, ge=1, le=100_000, strict=True)
    level: list[Level] | None = Field(None, max_length=99)
    hist_exog: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=128)
    """Which lists of `X` are past covariates; the others are known ahead."""
    refit: bool = True
    """Of no effect without fine-tuning."""
    feature_contributions: Literal[False] = False
    model_parameters: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class AnomalyDetectionRequest(NixtlaRequest):
    """The body of `POST /v2/anomaly_detection`: every point that has enough before it is judged."""

    series: PastSeries
    level: Level = 99


class OnlineAnomalyRequest(TunedRequest):
    """The body of `POST /v2/online_anomaly_detection`: the last `detection_size` points are judged."""

    series: PastSeries
    h: int = Field(ge=1, strict=True)
    detection_size: int = Field(ge=1, le=1_000_000, strict=True)
    threshold_method: Literal["univariate"] = "univariate"
    level: Level = 99
    step_size: int | None = Field(None, ge=1, strict=True)
    """Points from one forecast to the next, up to `h`, which is the default."""
    hist_exog: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=128)
    refit: bool = False
    """Of no effect without fine-tuning."""


class NixtlaAnswer(Fields):
    """What all answers have; the client ignores the model's version and digest."""

    mean: list[float | None]
    intervals: dict[str, list[float | None]] | None
    """`lo-80`, `hi-80`, ... for each level; they never cross."""
    weights_x: None = None
    feature_contributions: None = None
    model: str
    model_version: int
    model_digest: str


class NixtlaForecast(NixtlaAnswer):
    """The answer of `POST /v2/forecast`: series by series, `h` steps each."""


class CrossValidation(NixtlaAnswer):
    """The answer of `POST /v2/cross_validation`: series by series, window by window, `h` steps each."""

    sizes: list[int]
    """Values of each series."""
    idxs: list[int]
    """Which step of `y` each value is a forecast of."""


class AnomalyDetection(NixtlaAnswer):
    """The answer of `POST /v2/anomaly_detection`: the last `sizes` points of each series."""

    sizes: list[int]
    anomaly: list[bool]


class OnlineAnomalies(AnomalyDetection):
    """The answer of `POST /v2/online_anomaly_detection`."""

    idxs: list[int]
    anomaly_score: list[float | None]
    """Distance from the median in units of the distance of the interval's bound: above 1 is an anomaly."""


class Sizes(Fields):
    """How much the model reads, and how far it looks."""

    input_size: int
    horizon: int


class ModelParameters(Fields):
    """The answer of `GET /model_params`."""

    detail: Sizes


class KeyIsValid(Fields):
    """The answer of `GET /validate_api_key`: it is only given to whom has a key, if keys are asked for."""

    detail: str
