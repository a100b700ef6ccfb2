"""Counted operations against those that follow from the shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import flop_counter
from torch.utils.checkpoint import checkpoint

from mizzen.training import flops
from mizzen.training.flops import MAX_SHAPES, FlopCounter


def counted(loss: Any, batch: dict[str, torch.Tensor], counter: FlopCounter | None = None) -> float:
    """Forward and backward of one batch, as the loop does them."""
    counter = counter or FlopCounter()
    with counter.counted(batch):
        value = loss(batch)
        counter.backward_begins()
        value.backward()
    return counter.take()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def of_mlp(rows: int) -> float:
    first, second = 2 * rows * 64 * 128, 2 * rows * 128 * 10
    return first + second + first + 2 * second  # nobody needs the gradient of the input


def test_linear_layers_take_two_operations_for_a_weight_and_twice_that_backwards() -> None:
    model = mlp()
    assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 64)}) == of_mlp(32)


def test_what_is_computed_again_for_want_of_memory_is_not_counted() -> None:
    model = mlp()
    batch = {"x": torch.randn(32, 64)}
    again = counted(lambda b: checkpoint(model, b["x"], use_reentrant=False).sum(), batch)
    assert again == of_mlp(32)


def test_frozen_weights_need_no_gradient() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    first, second = 2 * 32 * 64 * 128, 2 * 32 * 128 * 10
    got = counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 64)})
    assert got == first + second + second  # not even the gradient of what the second layer is given


def test_an_lstm_is_counted_by_its_weights_in_each_step() -> None:
    lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
    steps, weights = 8 * 10, 4 * 64 * (32 + 64) + 4 * 64 * (64 + 64)
    x_BTI = torch.randn(8, 10, 32)
    assert counted(lambda b: lstm(b["x"])[0].sum(), {"x": x_BTI}) == 3 * 2 * steps * weights


def test_attention_is_four_multiplications_backwards_however_it_is_computed() -> None:
    q_BHTd = torch.randn(2, 4, 16, 8, requires_grad=True)
    forward = 2 * (2 * 2 * 4 * 16 * 16 * 8)
    fused = counted(lambda b: F.scaled_dot_product_attention(q_BHTd, b["k"], q_BHTd).sum(), {"k": q_BHTd})
    assert fused == 3 * forward

    def plain(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (torch.softmax(q_BHTd @ batch["k"].transpose(-1, -2), -1) @ q_BHTd).sum()

    assert counted(plain, {"k": q_BHTd}) == 3 * forward


def test_each_shape_is_counted_once_and_a_known_one_costs_no_counting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, counter = mlp(), FlopCounter()
    for rows in (32, 16):
        assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(rows, 64)}, counter) == of_mlp(rows)
    monkeypatch.delattr(flops, "_Counting")
    for rows in (32, 16, 32):
        assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(rows, 64)}, counter) == of_mlp(rows)


def test_beyond_some_shapes_the_rest_is_scaled_by_size() -> None:
    model, counter = mlp(), FlopCounter()
    for rows in range(1, MAX_SHAPES + 1):
        counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(rows, 64)}, counter)
    assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(100, 64)}, counter) == of_mlp(100)


def test_a_batch_that_needs_nothing_is_not_scaled_from_another() -> None:
    model, counter = mlp(), FlopCounter()
    counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 64)}, counter)
    nothing = {"x": torch.randn(1, 64)}
    for _ in range(2):
        assert counted(lambda b: (model[0].bias * b["x"].sum()).sum(), nothing, counter) == 0


def test_micro_batches_add_up_until_they_are_taken() -> None:
    model, counter = mlp(), FlopCounter()
    for _ in range(3):
        with counter.counted({"x": torch.randn(4, 64)}):
            model(torch.randn(4, 64)).sum()
    assert counter.take() == 3 * (2 * 4 * 64 * 128 + 2 * 4 * 128 * 10)
    assert counter.take() == 0


def test_a_formula_that_fails_counts_nothing_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*shapes: Any, **more: Any) -> int:
        raise ValueError("an operation with arguments that nobody knew of")

    monkeypatch.setitem(flop_counter.flop_registry, torch.ops.aten.addmm, broken)
    model = mlp()
    first, second = 2 * 32 * 64 * 128, 2 * 32 * 128 * 10
    assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 64)}) == first + 2 * second


def test_what_fails_in_the_model_fails_as_ever_and_the_next_batch_is_counted() -> None:
    model, counter = mlp(), FlopCounter()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 63)}, counter)
    assert counted(lambda b: model(b["x"]).sum(), {"x": torch.randn(32, 64)}, counter) == of_mlp(32)


def test_a_model_that_is_to_be_compiled_is_compiled_once_its_operations_are_counted() -> None:
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*given: Any) -> Any:
            runs.append(1)
            return graph(*given)

        return run

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.layers(x)
            return made

    model, counter, batch = Model(), FlopCounter(), {"x": torch.randn(32, 64)}
    model.compile(backend=backend)
    for num_runs in (0, 1, 2):
        assert counted(lambda b: model(b["x"]).sum(), batch, counter) == of_mlp(32)
        assert len(runs) == num_runs
