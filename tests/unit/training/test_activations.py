"""What a micro-batch holds, on shapes alone, for networks that can be reckoned by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mizzen.training.activations import measure

B, D = 8, 16
X_BYTES = B * D * 4


class Chain(nn.Module):
    """Layers with a tanh after each, of which autograd keeps the result alone."""

    def __init__(self, num_layers: int, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(D, D, bias=False) for _ in range(num_layers))
        self.checkpointed = checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if self.checkpointed:
                x = checkpoint(lambda x, layer=layer: torch.tanh(layer(x).exp()), x, use_reentrant=False)
            else:
                x = torch.tanh(layer(x).exp())
        return x


def loss(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    total: torch.Tensor = model(batch["x"]).sum()
    return total


def batch() -> dict[str, Any]:
    return {"x": torch.zeros(B, D)}


def test_what_autograd_saves_of_each_layer_is_counted() -> None:
    measured = {n: measure(Chain(n), batch(), loss, torch.float32).peak_bytes for n in (3, 4, 5)}
    assert measured[4] - measured[3] == measured[5] - measured[4] == 2 * X_BYTES  # of exp and of tanh


def test_gradients_are_told_apart_and_come_one_after_the_other() -> None:
    moments = measure(Chain(4), batch(), loss, torch.float32).moments
    assert [moment.num_gradients for moment in moments] == sorted({m.num_gradients for m in moments})
    assert moments[-1].num_gradients == 4 * D * D
    assert moments[0].activation_bytes > moments[-1].activation_bytes


def test_checkpointed_layers_hold_their_inputs_alone() -> None:
    whole, fewer = (
        measure(Chain(16, checkpointed=checkpointed), batch(), loss, torch.float32).peak_bytes
        for checkpointed in (False, True)
    )
    assert whole - fewer > 12 * X_BYTES


def test_half_precision_takes_half() -> None:
    def in_half(model: nn.Module, given: dict[str, Any]) -> torch.Tensor:
        return loss(model, {"x": given["x"].bfloat16()})

    whole = measure(Chain(8), batch(), loss, torch.float32).peak_bytes - X_BYTES
    half = measure(Chain(8), batch(), in_half, torch.bfloat16).peak_bytes - X_BYTES
    assert half == pytest.approx(whole / 2, rel=0.1)


def test_a_mask_picks_all_rows() -> None:
    def masked(model: nn.Module, given: dict[str, Any]) -> torch.Tensor:
        rows = model(given["x"])[given["wanted"]]
        total: torch.Tensor = rows.float().exp().sum()
        return total

    picked = measure(Chain(1), {**batch(), "wanted": torch.zeros(B, dtype=torch.bool)}, masked, torch.float32)
    assert picked.peak_bytes >= measure(Chain(1), batch(), loss, torch.float32).peak_bytes + 2 * X_BYTES


def test_a_model_larger_than_any_memory_is_measured_and_its_operations_are_counted() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(200_000, 200_000, bias=False), nn.Linear(200_000, 1, bias=False))
    measured = measure(model, {"x": torch.zeros(2, 200_000)}, lambda m, b: m(b["x"]).sum(), torch.float32)
    # Forward, and the weights' gradients; the input wants none.
    assert measured.flops == pytest.approx(2 * 2 * 2 * 200_000**2, rel=0.01)
    assert measured.moments[-1].num_gradients == 200_000**2 + 200_000


def test_tied_parameters_have_one_gradient() -> None:
    model = Chain(2)
    model.layers[1].weight = model.layers[0].weight
    assert measure(model, batch(), loss, torch.float32).moments[-1].num_gradients == D * D
