"""Records what is asked of a model and what it finds, as series. What a request says becomes no label."""

from __future__ import annotations

from collections.abc import Awaitable

import numpy as np

from mizzen import metrics
from mizzen.errors import RequestError
from mizzen.workloads.contract import Recorder
from mizzen.workloads.forecasting.answers import Body


class Records:
    """Writes the series of one model version."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._series(0, 0)
        recorder.count(metrics.FORECASTING_JUDGED, 0)
        recorder.count(metrics.FORECASTING_ANOMALIES, 0)

    async def answered(self, work: Awaitable[Body], num_series: int, horizon: int | None = None) -> Body:
        """What `work` returns for a request of so many series, of which `horizon` steps are forecast."""
        try:
            body = await work
        except RequestError:
            self._series(0, num_series)
            raise
        self._series(num_series - body.num_refused, body.num_refused)
        if horizon is not None:
            self._recorder.observe(metrics.FORECASTING_HORIZON, horizon)
        return body

    def judged(self, scores: np.ndarray, anomalies: np.ndarray) -> None:
        """Points of a series with their scores, NaN where one was not judged, and which are anomalies."""
        self._recorder.count(metrics.FORECASTING_JUDGED, int((~np.isnan(scores)).sum()))
        self._recorder.count(metrics.FORECASTING_ANOMALIES, int(anomalies.sum()))

    def _series(self, num_ok: int, num_refused: int) -> None:
        self._recorder.count(metrics.FORECASTING_SERIES, num_ok, outcome="ok")
        self._recorder.count(metrics.FORECASTING_SERIES, num_refused, outcome="refused")
