"""Forecasting: one global probabilistic model for many time series, with quantiles that never cross."""

from __future__ import annotations

from mizzen.workloads.forecasting.workload import ForecastingWorkload

__all__ = ["workload"]

workload = ForecastingWorkload()
