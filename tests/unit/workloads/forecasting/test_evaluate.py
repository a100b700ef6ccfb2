"""Figures against computation by hand, and against the published one of the naive forecast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import workload
from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.evaluate import measure, summarise
from mizzen.workloads.forecasting.figures import drift, mase_scale, naive, seasonal_naive

NAN = float("nan")


def test_the_naive_forecast_of_m1_yearly_has_its_published_mase(m1: Prepared) -> None:
    figures = workload.baselines(ModelConfig(), m1, "test")
    assert figures["naive"]["mase"] == pytest.approx(4.894322, abs=1e-6)
    assert figures["drift"]["mase"] == pytest.approx(3.489, abs=1e-3)
    assert figures["drift_last_3"]["mase"] == pytest.approx(3.29, abs=5e-3)


def test_figures_are_those_computed_by_hand() -> None:
    quantiles = torch.tensor([[[1.0, 2.0, 4.0], [2.0, 3.0, 5.0]]])
    raw, mask = torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)
    levels = torch.tensor([0.1, 0.5, 0.9])
    row = measure(quantiles, raw, mask, torch.tensor([0.5]), levels)
    figures = summarise({name: float(value) for name, value in row.items()})
    assert figures["mase"] == pytest.approx((1 + 2) / 2 / 0.5)
    assert figures["smape"] == pytest.approx((200 * 1 / 5 + 200 * 2 / 4) / 2)
    by_hand = (0.1 * 2 + 0.5 * 1 + 0.1 * 1) / 3 + (0.9 * 1 + 0.5 * 2 + 0.1 * 4) / 3
    assert figures["wql"] == pytest.approx(2 * by_hand / (3 + 1), rel=1e-6)
    assert figures["coverage"] == pytest.approx(0.5)


def test_missing_steps_and_windows_without_a_scale_do_not_count() -> None:
    quantiles = torch.zeros(3, 2, 1)
    raw = torch.tensor([[1.0, 100.0], [5.0, 5.0], [7.0, 7.0]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    rows = measure(quantiles, raw, mask, torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.5]))
    means = {name: float(value.double().mean()) for name, value in rows.items()}
    assert summarise(means)["mase"] == pytest.approx(1.0 / 2.0)
    assert summarise(means)["smape"] == pytest.approx(200.0)


def test_the_mase_scale_takes_the_longest_period_that_the_history_holds() -> None:
    history = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert mase_scale(history, ()) == pytest.approx((1 + 2 + 4 + 8) / 4)
    assert mase_scale(history, (2, 4)) == pytest.approx(15.0)
    assert mase_scale(history, (2, 5)) == pytest.approx((3 + 6 + 12) / 3)


def test_the_mase_scale_leaves_out_pairs_with_a_missing_value() -> None:
    assert mase_scale(np.array([1.0, NAN, 4.0, 6.0]), ()) == pytest.approx(2.0)
    assert mase_scale(np.array([1.0, NAN]), ()) == 0.0


def test_simple_forecasts_are_those_computed_by_hand() -> None:
    history = np.array([1.0, 5.0, 2.0, 4.0])
    assert naive(history, 2).tolist() == [4.0, 4.0]
    assert drift(history, 2).tolist() == [5.0, 6.0]
    assert drift(history, 2, 2).tolist() == [3.5, 3.0]
    assert drift(history[:1], 2).tolist() == [1.0, 1.0]
    assert seasonal_naive(history, 5, 3).tolist() == [5.0, 2.0, 4.0, 5.0, 2.0]
    assert seasonal_naive(history, 2, 9).tolist() == [4.0, 4.0]


def test_baselines_bridge_gaps_and_judge_observed_steps_only(prepared: Callable[..., Any]) -> None:
    target = np.array([1.0, 2.0, NAN, 4.0, NAN, 6.0, NAN, 9.0])
    figures = workload.baselines(ModelConfig(), prepared([target]), "test")
    # The past ends with a gap after 4; of the horizon 6 and 9 are observed; one pair of neighbours is.
    assert figures["naive"]["mase"] == pytest.approx(((6 - 4) + (9 - 4)) / 2 / 1.0)


def test_the_report_says_how_many_windows_were_judged(m1: Prepared) -> None:
    windows = workload.extra_report(ModelConfig(), m1)["windows"]
    assert (windows["test_windows"], windows["validation_windows"]) == (181, 181)
    assert (windows["horizon"], windows["steps_between_origins"], windows["mase_period"]) == (6, 6, 1)
