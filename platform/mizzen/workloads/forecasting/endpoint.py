"""The HTTP routes of one model version: KServe's time-series protocol, what we add to it, and Nixtla's.

A horizon beyond the model's is refused, not rolled on. Of several inputs each is answered or refused on its
own; an error 400 says that none could be answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel

from mizzen.workloads.contract import Endpoint, ServedModel
from mizzen.workloads.forecasting import anomalies, backtests, forecasts, nixtla, requests
from mizzen.workloads.forecasting.answers import Body
from mizzen.workloads.forecasting.config import ServeOptions
from mizzen.workloads.forecasting.examples import example_input
from mizzen.workloads.forecasting.export import open_graph, read_facts
from mizzen.workloads.forecasting.judged_protocol import (
    AnomalyRequest,
    AnomalyResponse,
    BacktestRequest,
    BacktestResponse,
)
from mizzen.workloads.forecasting.nixtla_protocol import (
    AnomalyDetection,
    AnomalyDetectionRequest,
    CrossValidation,
    CrossValidationRequest,
    KeyIsValid,
    ModelParameters,
    NixtlaForecast,
    NixtlaForecastRequest,
    OnlineAnomalies,
    OnlineAnomalyRequest,
    Sizes,
)
from mizzen.workloads.forecasting.predictor import Predictor, Window
from mizzen.workloads.forecasting.protocol import ForecastRequest, ForecastResponse
from mizzen.workloads.forecasting.records import Records
from mizzen.workloads.forecasting.routes import DirectRoute
from mizzen.workloads.forecasting.service import Served

Handler = Callable[[Any], Coroutine[Any, Any, Body]]


class ForecastEndpoint(Endpoint):
    """Answers with one model version."""

    read_only = dict.fromkeys(
        (
            *("/v1/timeseries/forecast", "/v1/timeseries/backtest", "/v1/timeseries/anomalies"),
            *("/v2/forecast", "/v2/cross_validation"),
            *("/v2/anomaly_detection", "/v2/online_anomaly_detection"),
        ),
        frozenset[str](),
    )

    def __init__(self, model: ServedModel, options: ServeOptions) -> None:
        meta, levels = read_facts(model.folder)
        predictor = Predictor(open_graph(model.folder, model.runtime), meta, model.batched)
        self._records = Records(model.recorder)
        self._served = Served(
            model.identity, options, meta, levels, predictor, self._records, model.watch_inputs
        )
        self.router = APIRouter(tags=["forecasting"])
        routes: list[tuple[str, Handler, type[BaseModel], str]] = [
            ("/v1/timeseries/forecast", self.forecast, ForecastResponse, "Forecast series"),
            ("/v1/timeseries/backtest", self.backtest, BacktestResponse, "Judge forecasts of the past"),
            ("/v1/timeseries/anomalies", self.anomalies, AnomalyResponse, "Flag unlikely points"),
            ("/v2/forecast", self.nixtla_forecast, NixtlaForecast, "Nixtla: forecast"),
            (
                "/v2/cross_validation",
                self.nixtla_cross_validation,
                CrossValidation,
                "Nixtla: cross-validation",
            ),
            ("/v2/anomaly_detection", self.nixtla_anomalies, AnomalyDetection, "Nixtla: anomalies"),
            ("/v2/online_anomaly_detection", self.nixtla_online, OnlineAnomalies, "Nixtla: last anomalies"),
        ]
        for path, handler, answer, summary in routes:
            self.router.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=answer,
                summary=summary,
                route_class_override=DirectRoute,
            )
        for path, get, summary in (
            ("/model_params", self.model_params, "Nixtla: sizes of the model"),
            ("/validate_api_key", self.validate_api_key, "Nixtla: is the API key valid"),
        ):
            self.router.add_api_route(path, get, summary=summary, route_class_override=APIRoute)

    async def start(self) -> None:
        """Run the graph once, so that the first request finds it warm."""
        served = self._served
        series = requests.read(
            example_input(served.meta), "", served.meta, served.options, ahead=1, timestamps=False
        )
        window = Window(series, 0, series.length)
        await asyncio.to_thread(served.predictor.run, [[window]])

    async def forecast(self, body: ForecastRequest) -> Body:
        """Mean and quantiles of each input's next steps."""
        work = forecasts.forecast(self._served, body)
        return await self._records.answered(work, len(body.inputs), self._horizon(body.options.horizon))

    async def backtest(self, body: BacktestRequest) -> Body:
        """Each input's own past, forecast from rolling origins, beside the seasonal naive forecast."""
        work = backtests.backtest(self._served, body)
        return await self._records.answered(work, len(body.inputs), self._horizon(body.options.horizon))

    async def anomalies(self, body: AnomalyRequest) -> Body:
        """Points outside of the predictive interval of a forecast made from the points before them."""
        return await self._records.answered(anomalies.anomalies(self._served, body), len(body.inputs))

    async def nixtla_forecast(self, body: NixtlaForecastRequest) -> Body:
        """What `NixtlaClient.forecast` asks for."""
        work = nixtla.forecast(self._served, body)
        return await self._records.answered(work, len(body.series.sizes), body.h)

    async def nixtla_cross_validation(self, body: CrossValidationRequest) -> Body:
        """What `NixtlaClient.cross_validation` asks for, and `forecast` with `add_history`."""
        work = nixtla.cross_validation(self._served, body)
        return await self._records.answered(work, len(body.series.sizes), body.h)

    async def nixtla_anomalies(self, body: AnomalyDetectionRequest) -> Body:
        """What `NixtlaClient.detect_anomalies` asks for."""
        work = nixtla.detect_anomalies(self._served, body)
        return await self._records.answered(work, len(body.series.sizes))

    async def nixtla_online(self, body: OnlineAnomalyRequest) -> Body:
        """What `NixtlaClient.detect_anomalies_online` asks for."""
        work = nixtla.detect_anomalies_online(self._served, body)
        return await self._records.answered(work, len(body.series.sizes))

    def _horizon(self, asked: int | None) -> int:
        return self._served.meta.horizon if asked is None else asked

    async def model_params(
        self,
        freq: Annotated[str, Query(min_length=1, max_length=40)],
        model: Annotated[str | None, Query(max_length=200)] = None,
    ) -> ModelParameters:
        """How many steps the model reads and forecasts."""
        nixtla.check_name(self._served, model)
        nixtla.check_frequency(self._served, freq)
        meta = self._served.meta
        return ModelParameters(detail=Sizes(input_size=meta.context_length, horizon=meta.horizon))

    async def validate_api_key(self) -> KeyIsValid:
        """Whether the API key is one of those that are asked for here."""
        return KeyIsValid(detail="the API key is valid, or none is asked for")
