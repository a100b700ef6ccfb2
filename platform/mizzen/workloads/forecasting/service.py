"""What all routes of a version share: the model, its limits, and the reading of several inputs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mizzen.errors import NotFoundError, RequestError
from mizzen.workloads.contract import Features, ModelIdentity
from mizzen.workloads.forecasting import features, requests
from mizzen.workloads.forecasting.config import ServeOptions
from mizzen.workloads.forecasting.predictor import Forecasts, Predictor, Window
from mizzen.workloads.forecasting.protocol import TimeSeriesInput
from mizzen.workloads.forecasting.records import Records
from mizzen.workloads.forecasting.requests import Series
from mizzen.workloads.forecasting.routes import aside
from mizzen.workloads.forecasting.series import Meta

MAX_NUMBERS = 2**21
"""Forecast values that one request may make: what lies in memory for it, and how long its answer can be."""

Found = Series | RequestError
"""An input that can be answered, or why it cannot."""


@dataclass(frozen=True)
class Served:
    """A model version that answers."""

    identity: ModelIdentity
    options: ServeOptions
    meta: Meta
    levels: list[float]
    predictor: Predictor
    records: Records
    watch_inputs: Callable[[Features], None]

    async def read(
        self,
        model: str | None,
        inputs: Sequence[TimeSeriesInput],
        *,
        ahead: int,
        timestamps: bool,
        check: Callable[[Series, str], None],
    ) -> list[Found]:
        """The inputs of a request, each checked, also by `check(series, field)`.

        Raises `NotFoundError` for another model's name, `RequestError` for too many series and if no input
        can be answered.
        """
        if model is not None and model != self.identity.name:
            raise NotFoundError(
                "no such model here", saw=repr(model[:100]), allowed=self.identity.name, field="model"
            )
        num_steps = self._check_count(inputs)

        def one(item: TimeSeriesInput, where: str) -> Found:
            try:
                series = requests.read(
                    item, where, self.meta, self.options, ahead=ahead, timestamps=timestamps
                )
                check(series, f"{where}.series")
            except RequestError as error:
                return error
            return series

        # A number takes about eight characters of a body.
        found = await aside(
            8 * num_steps, lambda: [one(item, f"inputs.{i}") for i, item in enumerate(inputs)]
        )
        check_any(found)
        return found

    def _check_count(self, inputs: Sequence[TimeSeriesInput]) -> int:
        num_series = num_steps = 0
        for item in inputs:
            width = len(item.series[0]) if isinstance(item.series[0], list) else 1
            num_series += width
            num_steps += len(item.series) * width
        self.check_num_series(num_series, "inputs")
        return num_steps

    def check_num_series(self, count: int, field: str) -> None:
        """Raises `RequestError` for too many series in a request."""
        if count > self.options.max_inputs:
            raise RequestError(
                "the request has too many series",
                saw=count,
                allowed=f"{self.options.max_inputs}, each variate counted (options.max_inputs of the app)",
                remedy="Send several requests.",
                field=field,
            )

    def check_num_windows(self, count: int, num_levels: int, field: str, remedy: str) -> None:
        """Raises `RequestError` if so many forecasts, each of `num_levels` quantiles, are too many."""
        by_size = MAX_NUMBERS // (self.meta.horizon * max(num_levels, len(self.levels)))
        allowed = min(self.options.max_windows, max(1, by_size))
        if count > allowed:
            raise RequestError(
                "the request asks for too many forecasts",
                saw=count,
                allowed=f"{allowed}, for each series, variate and origin one",
                remedy=remedy,
                field=field,
            )

    async def forecasts(self, windows: Sequence[Window]) -> Forecasts:
        """Forecasts of `windows`, of which there is at least one."""
        series = {id(window.series): window.series for window in windows}.values()
        size = sum(one.width for one in series) * self.meta.context_length
        await aside(8 * size, lambda: self._look_at(list(series)))
        return await self.predictor.forecasts(windows)

    def _look_at(self, series: Sequence[Series]) -> None:
        contexts = features.contexts(series, self.meta.context_length)
        if contexts:
            self.watch_inputs(features.of(contexts))


def check_any(found: Sequence[Found]) -> None:
    """Raises the first `RequestError` if nothing else was found: then there is nothing to answer."""
    errors = [one for one in found if isinstance(one, RequestError)]
    if not errors or len(errors) < len(found):
        return
    if len(errors) > 1:
        errors[0].what = f"none of the inputs can be answered; the first of {len(errors)}: {errors[0].what}"
    raise errors[0]
