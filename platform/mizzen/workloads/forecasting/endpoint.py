"""`POST /v1/timeseries/forecast`: KServe's time-series protocol over one exported model.

Every variate of every input is one item of the dynamic batching, so small requests share a call of the
graph and one large request is split. A horizon beyond the model's is refused, not rolled on.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.contract import Endpoint, Example, Predict, ServedModel
from mizzen.workloads.forecasting import requests, scaling
from mizzen.workloads.forecasting.config import ServeOptions
from mizzen.workloads.forecasting.export import open_graph, read_facts
from mizzen.workloads.forecasting.protocol import (
    ForecastOutput,
    ForecastRequest,
    ForecastResponse,
    TimeSeriesInput,
    Usage,
)
from mizzen.workloads.forecasting.requests import Wanted, Window
from mizzen.workloads.forecasting.series import Meta

Array = np.ndarray[Any, Any]
PATH = "/v1/timeseries/forecast"


class ForecastEndpoint(Endpoint):
    """Answers with one model version."""

    def __init__(self, model: ServedModel, options: ServeOptions) -> None:
        self._identity, self._options = model.identity, options
        self._meta, self._levels = read_facts(model.folder)
        self._graph: Predict = open_graph(model.folder, model.runtime)
        self._predict = model.batched(self._run)
        self._example = example_input(self._meta)
        self.router = APIRouter(tags=["forecasting"])
        self.router.add_api_route(
            PATH, self.forecast, methods=["POST"], response_model=ForecastResponse, summary="Forecast series"
        )

    async def start(self) -> None:
        """Run the graph once, so that the first request finds it warm."""
        window = requests.windows(self._example, "inputs.0", self._meta, self._options)[0]
        await asyncio.to_thread(self._run, [window])

    async def forecast(self, body: ForecastRequest) -> ForecastResponse:
        """Mean and quantiles of each input's next steps."""
        if body.model is not None and body.model != self._identity.name:
            raise NotFoundError(
                "no such model here", saw=repr(body.model), allowed=self._identity.name, field="model"
            )
        want = requests.wanted(body.options, self._meta, self._levels)
        groups = await asyncio.to_thread(self._windows, body.inputs)
        answers = await asyncio.gather(*(self._predict(window) for group in groups for window in group))
        return await asyncio.to_thread(self._respond, body, want, groups, answers)

    def _windows(self, inputs: list[TimeSeriesInput]) -> list[list[Window]]:
        self._check_count(inputs)
        return [
            requests.windows(item, f"inputs.{i}", self._meta, self._options) for i, item in enumerate(inputs)
        ]

    def _check_count(self, inputs: list[TimeSeriesInput]) -> None:
        count = sum(len(item.series[0]) if isinstance(item.series[0], list) else 1 for item in inputs)
        if count > self._options.max_inputs:
            raise RequestError(
                "the request has too many series",
                saw=count,
                allowed=f"{self._options.max_inputs}, each variate counted",
                remedy="Send several requests.",
                field="inputs",
            )

    def _run(self, windows: list[Window]) -> list[tuple[Array, Array]]:
        """Raw quantiles (H, Q) and means (H,) of windows of any length; runs in a thread."""
        inputs = collate([window.inputs for window in windows], self._meta)
        outputs = self._graph(inputs)
        return [
            (window.scale.up(quantiles_HQ), window.scale.up(mean_H))
            for window, quantiles_HQ, mean_H in zip(
                windows, outputs["quantiles"], outputs["mean"], strict=True
            )
        ]

    def _respond(
        self,
        body: ForecastRequest,
        want: Wanted,
        groups: list[list[Window]],
        answers: list[tuple[Array, Array]],
    ) -> ForecastResponse:
        outputs, taken = [], 0
        request_id = f"forecast-{uuid.uuid4().hex}"
        for i, (item, group) in enumerate(zip(body.inputs, groups, strict=True)):
            part = answers[taken : taken + len(group)]
            taken += len(group)
            content = requests.forecast(item, f"inputs.{i}", self._meta, want, self._levels, part)
            outputs.append(ForecastOutput(id=f"{request_id}-{i}", content=[content]))
        read = sum(len(item.series) * len(group) for item, group in zip(body.inputs, groups, strict=True))
        made = len(answers) * want.horizon * (1 + len(want.levels))
        return ForecastResponse(
            id=request_id,
            created_at=int(time.time()),
            model=self._identity.name,
            model_version=self._identity.version,
            model_digest=self._identity.digest,
            outputs=outputs,
            usage=Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made),
        )


def collate(rows: list[dict[str, Array]], meta: Meta) -> dict[str, Array]:
    """Model inputs of several windows as one batch, padded on the left to the longest."""
    past = max(len(row["past_target"]) for row in rows)
    return {
        name: scaling.pad_left([row[name] for row in rows], past + (meta.horizon if name == "known" else 0))
        for name in rows[0]
    }


def example_input(meta: Meta) -> TimeSeriesInput:
    """A made-up series with the model's frequency: a rising line and its seasons."""
    length = max(meta.min_context, min(meta.context_length, max((24, *(2 * p for p in meta.seasonality)))))
    step_T = np.arange(length)
    values_T = 1000.0 + step_T
    for period in meta.seasonality:
        values_T = values_T + 100 * np.sin(2 * np.pi * step_T / period)
    return TimeSeriesInput(
        name="example",
        series=np.round(values_T, 1).tolist(),
        frequency=meta.frequency.iso,
        start_timestamp="2024-01-01T00:00:00",
        past_covariates={name: [0.0] * length for name in meta.past_names},
        known_covariates={name: [0.0] * (length + meta.horizon) for name in meta.known_names},
    )


def examples(folder: Path) -> Sequence[Example]:
    """A request that works on the model in `folder`."""
    meta, levels = read_facts(folder)
    item = example_input(meta).model_dump(mode="json", exclude_defaults=True)
    options = {"horizon": min(meta.horizon, 12), "quantiles": [levels[0], 0.5, levels[-1]]}
    body = {"inputs": [{"type": "univariate_time_series", **item}], "options": options}
    return [Example(PATH, body)]
