"""Windows: what lies before the origin, and nothing of what lies after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mizzen.workloads.contract import Prepared
from mizzen.workloads.forecasting import scaling
from mizzen.workloads.forecasting.series import Meta, Store
from mizzen.workloads.forecasting.windows import HeldOutWindows, TrainingWindows, collate, window

LEVELS = [0.1, 0.5, 0.9]
NAN = float("nan")


def inputs_of(example: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in example.items() if k in ("past_target", "past_mask", "past_covariates", "known")}


def test_splits_follow_each_other_without_overlap(about: Callable[..., Meta]) -> None:
    meta = about(test_windows=2, validation_windows=2)
    assert meta.origins(20, "test") == [14, 17]
    assert meta.origins(20, "validation") == [8, 11]
    assert meta.training_end(20) == 8


def test_windows_with_too_short_a_past_are_left_out(about: Callable[..., Meta]) -> None:
    assert about(min_context=4).origins(9, "validation") == []
    assert about(min_context=4).origins(9, "test") == [6]
    assert about().training_end(5) == 0


def test_the_m1_test_windows_are_the_last_six_points_of_each_series(m1: Prepared) -> None:
    store = Store(m1)
    windows = HeldOutWindows(store, "test", LEVELS).windows
    assert [origin for _, origin in windows] == (store.lengths - 6).tolist()
    assert len(windows) == 181


def test_changing_values_after_the_origin_changes_no_input(prepared: Callable[..., Prepared]) -> None:
    target = np.random.default_rng(0).normal(size=20).cumsum()
    other = target.copy()
    other[11:] = 1e6
    names: dict[str, Any] = {"past_names": ("p",), "known_names": ("k",), "calendar": ("day_of_week",)}
    first = window(Store(prepared([target], **names)), 0, 11, 20)
    second = window(Store(prepared([other], **names)), 0, 11, 20)
    for name, value in inputs_of(first).items():
        np.testing.assert_array_equal(value, second[name])
    np.testing.assert_array_equal(first["scale"], second["scale"])


def test_training_windows_do_not_see_held_out_steps(prepared: Callable[..., Prepared]) -> None:
    target = np.arange(20.0)
    store = Store(prepared([target], test_windows=2, validation_windows=2))
    windows = TrainingWindows(store, LEVELS)
    assert len(windows) == 6
    for i in range(len(windows)):
        example = windows[i]
        assert (example["future_raw"] * example["future_mask"]).max() < store.meta.training_end(20)
        assert example["future_mask"].sum() == min(3, 6 - i)


def test_each_series_has_its_own_training_windows(prepared: Callable[..., Prepared]) -> None:
    series = [np.arange(10.0), np.arange(5.0), 100 + np.arange(11.0)]
    store = Store(prepared(series))
    windows = TrainingWindows(store, LEVELS)
    assert len(windows) == 2 + 0 + 3
    assert [windows[i]["future_raw"][0] for i in range(5)] == [2.0, 3.0, 102.0, 103.0, 104.0]


def test_scaled_values_go_back_to_what_they_were(prepared: Callable[..., Prepared]) -> None:
    target = 1e9 + np.arange(20.0)
    example = window(Store(prepared([target])), 0, 12, 20)
    location, scale = example["scale"]
    assert (location, scale) == (1e9 + 11, 1.0)
    np.testing.assert_allclose(example["past_target"], np.arange(-7.0, 1.0))
    np.testing.assert_allclose(location + scale * example["future_target"], target[12:15])


def test_gaps_are_masked_and_filled_with_the_value_before(prepared: Callable[..., Prepared]) -> None:
    target = np.array([NAN, 1.0, NAN, 3.0, NAN, 5.0, NAN, 7.0])
    example = window(Store(prepared([target])), 0, 5, 8)
    raw = example["scale"][0] + example["scale"][1] * example["past_target"]
    np.testing.assert_allclose(raw, [1.0, 1.0, 1.0, 3.0, 3.0])
    assert example["past_mask"].tolist() == [0, 1, 0, 1, 0]
    assert example["future_mask"].tolist() == [1, 0, 1]
    assert example["scale"].tolist() == [3.0, 1.0]


@pytest.mark.parametrize("kind", ["difference", "standard"])
@pytest.mark.parametrize(
    "past", [[5.0], [5.0, 5.0], [0.0, 0.0], [-3.0, NAN, -3.0], [1e-300, 2e-300], [0.0] * 5 + [5e-324]]
)
def test_a_past_without_movement_has_a_positive_scale(past: list[float], kind: str) -> None:
    scale = scaling.fit(np.array([past]), kind)
    assert scale.scale[0] > 0
    assert np.isfinite(scale.down(np.array([past])[:, ~np.isnan(past)])).all()


@given(st.lists(st.one_of(st.none(), st.floats(-1e12, 1e12)), min_size=1, max_size=20))
def test_inputs_are_finite_whatever_the_past(values: list[float | None]) -> None:
    past = np.array([NAN if value is None else value for value in values])
    if np.isnan(past).all():
        return
    for kind in ("difference", "standard"):
        scale = scaling.fit(past[None], kind)
        assert np.isfinite(scale.down(scaling.fill_forward(past[None]))).all()


@given(
    rows=st.lists(
        st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=12), min_size=1, max_size=5
    ),
    kind=st.sampled_from(["difference", "standard"]),
)
def test_windows_together_are_scaled_as_each_alone(
    rows: list[list[float | None]], kind: str, about: Callable[..., Meta]
) -> None:
    pasts = [np.array([NAN if value is None else value for value in row]) for row in rows]
    pasts = [past for past in pasts if not np.isnan(past).all()]
    if not pasts:
        return
    meta, longest = about(scaling=kind, context_length=12), max(map(len, pasts))
    none, times = np.zeros((len(pasts), longest + 3, 0)), np.zeros((len(pasts), longest + 3), "datetime64[s]")
    padded = np.stack([np.concatenate([np.full(longest - len(past), NAN), past]) for past in pasts])
    lengths = np.array([len(past) for past in pasts])
    together = scaling.fit(padded, kind)
    inputs = scaling.model_inputs(meta, together, lengths, padded, none, none, times)
    for i, past in enumerate(pasts):
        alone = scaling.fit(past[None], kind)
        assert alone.location[0] == pytest.approx(together.location[i], rel=1e-12, abs=1e-9)
        single = scaling.model_inputs(meta, alone, lengths[i : i + 1], past[None], none, none, times)
        for name, value in single.items():
            np.testing.assert_allclose(inputs[name][i, longest - len(past) :], value[0], rtol=1e-4, atol=1e-4)
            assert not inputs[name][i, : longest - len(past)].any()


def test_a_covariate_of_any_size_that_a_request_may_have_fits_float32() -> None:
    scaled = scaling.standardise(np.array([[1e30], [-1e30], [NAN], [0.5]]), (0.0,), (1e-12,))
    assert np.isfinite(scaled.astype(np.float32)).all()
    assert scaled[2] == 0
    assert scaling.standardise(np.array([[3.0]]), (1.0,), (4.0,)) == 0.5


def test_pasts_of_different_lengths_are_padded_on_the_left(prepared: Callable[..., Prepared]) -> None:
    store = Store(prepared([np.arange(10.0)], known_names=("k",)))
    batch = collate([window(store, 0, 2, 10), window(store, 0, 6, 10)])
    assert batch["past_target"].shape == (2, 6)
    assert batch["past_mask"].tolist() == [[0, 0, 0, 0, 1, 1], [1] * 6]
    assert batch["known"].shape == (2, 9, 1)
    torch.testing.assert_close(batch["known"][0, 4:, 0], torch.cos(torch.arange(5.0)))


def test_features_of_the_date_repeat_with_their_period() -> None:
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(8) * np.timedelta64(86_400, "s")
    features = scaling.calendar_features(("time_of_day", "day_of_week", "time_of_year"), times)
    assert features.shape == (
        8,
        scaling.num_calendar_features(("time_of_day", "day_of_week", "time_of_year")),
    )
    np.testing.assert_array_equal(features[0, :9], features[7, :9])
    assert features[0, 2:9].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert np.abs(features).max() <= 1.0
