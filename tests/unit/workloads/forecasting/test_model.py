"""Both networks: shapes, crossing, masks, covariates, and what they start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.model import Forecaster, Member, build, mean_weights, pinball_loss
from mizzen.workloads.forecasting.series import Meta

ARCHITECTURES = ["tide", "lstm"]
INPUTS = ["values", "differences", "seasonal_differences"]


def make(
    about: Callable[..., Meta], architecture: str, covariates: bool = False, **changes: Any
) -> Forecaster:
    torch.manual_seed(0)
    names: dict[str, Any] = {"past_names": ("p",), "known_names": ("k",)} if covariates else {}
    meta = about(seasonality=(2, 3), **names)
    config = ModelConfig(architecture=architecture, hidden_size=8, inputs=INPUTS, anchors=[1, 3], **changes)
    return build(config, meta, dropout=0.0).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 11])
def test_any_length_of_past_gives_the_whole_horizon(
    about: Callable[..., Meta], architecture: str, length: int
) -> None:
    model = make(about, architecture, covariates=True, members=2)
    quantiles, mean = model(
        torch.randn(4, length),
        torch.ones(4, length),
        past_covariates=torch.randn(4, length, 1),
        known=torch.randn(4, length + 3, 1),
    )
    assert quantiles.shape == (4, 3, 9)
    assert mean.shape == (4, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_a_past_changes_nothing(about: Callable[..., Meta], architecture: str) -> None:
    model = make(about, architecture)
    past, mask = torch.randn(2, 5), torch.ones(2, 5)
    zeros = torch.zeros(2, 3)
    expected, _ = model(past, mask)
    padded, _ = model(torch.cat([zeros, past], 1), torch.cat([zeros, mask], 1))
    torch.testing.assert_close(padded, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_does_not_depend_on_the_others_in_its_batch(
    about: Callable[..., Meta], architecture: str
) -> None:
    model = make(about, architecture)
    past = torch.randn(3, 8)
    together, _ = model(past, torch.ones(3, 8))
    alone, _ = model(past[1:2], torch.ones(1, 8))
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000), size=st.floats(0.0, 1e6))
@settings(max_examples=25, deadline=None)
def test_quantiles_never_cross_whatever_weights_and_inputs(
    about: Callable[..., Meta], architecture: str, seed: int, size: float
) -> None:
    model = make(about, architecture, members=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 3)
        past = torch.randn(4, 8, generator=generator) * size
        mask = (torch.rand(4, 8, generator=generator) > 0.3).float()
        quantiles, mean = model(past, mask)
    assert torch.isfinite(quantiles).all()
    assert (quantiles.diff(dim=2) >= 0).all()
    slack = 1e-4 * quantiles.abs().amax()
    assert (mean >= quantiles[..., 0] - slack).all()
    assert (mean <= quantiles[..., -1] + slack).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("which", ["past_covariates", "known"])
def test_covariates_reach_the_output(about: Callable[..., Meta], architecture: str, which: str) -> None:
    model = make(about, architecture, covariates=True)
    inputs = {
        "past_target": torch.zeros(1, 8),
        "past_mask": torch.ones(1, 8),
        "past_covariates": torch.zeros(1, 8, 1),
        "known": torch.zeros(1, 11, 1),
    }
    before, _ = model(**inputs)
    changed = inputs[which].clone()
    changed[:, -1] = 5.0
    after, _ = model(**{**inputs, which: changed})
    assert (after - before).abs().max() > 1e-4


def test_anchors_are_the_simple_forecasts(about: Callable[..., Meta]) -> None:
    config = ModelConfig(hidden_size=8, anchors=[1, 3])
    member = build(config, about(seasonality=(2,)), dropout=0.0).members[0]
    assert isinstance(member, Member)
    past = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 6.0, 4.0, 7.0]])
    mask = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    expected = [
        [7.0, 7.0, 7.0],
        [10.0, 13.0, 16.0],
        [7 + 5 / 3, 7 + 10 / 3, 12.0],
        [4.0, 7.0, 4.0],
        [5.0, 8.0, 5.0],
    ]
    for i, forecast in enumerate(expected):
        with torch.no_grad():
            member.anchor_weight_HA.fill_(-1e9)
            member.anchor_weight_HA[:, i] = 0.0
            torch.testing.assert_close(member.anchors(past, mask), torch.tensor([forecast]))


def test_a_drift_reaches_back_to_the_first_observation_at_most(about: Callable[..., Meta]) -> None:
    config = ModelConfig(hidden_size=8, anchors=[5])
    member = build(config, about(), dropout=0.0).members[0]
    assert isinstance(member, Member)
    past = torch.tensor([[0.0] * 5 + [1.0, 3.0, 5.0]])
    mask = torch.tensor([[0.0] * 5 + [1.0] * 3])
    with torch.no_grad():
        member.anchor_weight_HA.copy_(torch.tensor([[-1e9, 0.0]]).expand(3, 2))
        torch.testing.assert_close(member.anchors(past, mask), torch.tensor([[7.0, 9.0, 11.0]]))
        alone = torch.tensor([[0.0] * 7 + [1.0]])
        torch.testing.assert_close(
            member.anchors(past, alone), torch.full((1, 3), 5.0 + 0.0) + 2.0 * torch.tensor([[1.0, 2.0, 3.0]])
        )


def test_the_mean_of_even_quantiles_is_their_middle() -> None:
    weights = mean_weights([0.1, 0.5, 0.9])
    torch.testing.assert_close(weights, torch.tensor([0.3, 0.4, 0.3]))
    assert float(mean_weights([n / 10 for n in range(1, 10)]).sum()) == pytest.approx(1.0)


def test_the_pinball_loss_is_that_computed_by_hand() -> None:
    quantiles = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    loss = pinball_loss(
        quantiles, torch.tensor([[2.0, 9.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0.1, 0.9])
    )
    assert float(loss) == pytest.approx((0.1 * 1 + 0.1 * 1) / 4)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves_losses() -> None:
    torch.manual_seed(0)
    quantiles, target = torch.randn(6, 3, 2).sort(dim=2).values, torch.randn(6, 3)
    mask = (torch.rand(6, 3) > 0.4).float()
    levels = torch.tensor([0.1, 0.9])
    halves = [pinball_loss(quantiles[i : i + 3], target[i : i + 3], mask[i : i + 3], levels) for i in (0, 3)]
    torch.testing.assert_close(pinball_loss(quantiles, target, mask, levels), (halves[0] + halves[1]) / 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_lowers_the_loss(about: Callable[..., Meta], architecture: str) -> None:
    model = make(about, architecture).train()
    step = torch.arange(8.0)
    past = torch.stack([torch.sin(step + phase) for phase in range(6)])
    future = torch.stack([torch.sin(torch.arange(8.0, 11.0) + phase) for phase in range(6)])
    levels = torch.tensor([n / 10 for n in range(1, 10)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = pinball_loss(model(past, torch.ones_like(past))[0], future, torch.ones_like(future), levels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
