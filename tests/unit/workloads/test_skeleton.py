"""Models get their values one parameter at a time, wherever those lie."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from mizzen.errors import InputError
from mizzen.workloads.contract import Skeleton

SIZE = 8


class Tied(torch.nn.Module):
    """Four layers, of which the first and the last share their weight; one layer is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(SIZE, SIZE, bias=False) for _ in range(4)])
        self.layers[3].weight = self.layers[0].weight
        self.layers[1].weight.requires_grad = False
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def skeleton(**more: Any) -> Skeleton:
    with torch.device("meta"):
        model = Tied()
    model.scale, model.table = torch.ones(2), torch.arange(3.0)
    given = {"stored": {f"layers.{i}.weight": partial(torch.full, (SIZE, SIZE), float(i)) for i in (1, 2, 3)}}
    return Skeleton(model, **{**given, **more})


def test_values_come_from_their_readers_and_tied_weights_stay_one() -> None:
    model: Any = skeleton().filled()
    assert model.layers[0].weight is model.layers[3].weight
    assert [layer.weight[0, 0].item() for layer in model.layers] == [3.0, 1.0, 2.0, 3.0]
    assert [p.requires_grad for p in model.parameters()] == [True, False, True]
    assert model.table.tolist() == [0.0, 1.0, 2.0]


def test_values_of_a_checkpoint_come_before_those_that_are_stored() -> None:
    made = skeleton()
    model: Any = made.filled(
        stored={
            **made.stored,
            "layers.2.weight": lambda: torch.ones(SIZE, SIZE),
            "scale": lambda: torch.zeros(2),
        }
    )
    assert model.layers[2].weight.eq(1).all()
    assert model.layers[1].weight.eq(1).all()
    assert model.scale.tolist() == [0.0, 0.0]


def test_parameters_have_their_type_from_the_start_and_buffers_keep_theirs() -> None:
    model: Any = skeleton().filled(dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.scale.dtype == torch.float32


def test_no_two_parameters_are_there_at_once_if_each_is_taken_away() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def counted(read: Callable[[], torch.Tensor]) -> torch.Tensor:
        nonlocal most
        tensor = read()
        alive.append(weakref.ref(tensor))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return tensor

    seen: list[int] = []

    def taken(parameter: torch.nn.Parameter) -> None:
        seen.append(parameter.numel())
        parameter.data = torch.empty(0)

    made = skeleton()
    made.filled(stored={name: partial(counted, read) for name, read in made.stored.items()}, placed=taken)
    assert seen == [SIZE * SIZE] * 3  # the tied one once
    assert most == 1


def test_who_does_not_read_gets_the_shapes_alone() -> None:
    def refused() -> torch.Tensor:
        raise AssertionError("it reads")

    made = skeleton(stored={f"layers.{i}.weight": refused for i in range(3)})
    model: Any = made.filled(reads=False)
    assert [tuple(p.shape) for p in model.parameters()] == [(SIZE, SIZE)] * 3


def test_what_lies_nowhere_begins_the_same_however_the_rest_is_filled() -> None:
    def begin(name: str, values: torch.Tensor) -> None:
        values.normal_()

    states = []
    for _ in range(2):
        torch.manual_seed(5)
        last: Any = skeleton(begin=begin, stored={}).filled()
        states.append(last.layers[2].weight.detach().clone())
    assert torch.equal(*states)
    assert not torch.equal(last.layers[0].weight, last.layers[1].weight)  # each has its own
    torch.manual_seed(5)
    some = {"layers.1.weight": partial(torch.zeros, (SIZE, SIZE))}
    partly: Any = skeleton(begin=begin, stored=some).filled()
    assert torch.equal(partly.layers[2].weight, last.layers[2].weight)
    torch.manual_seed(6)
    other: Any = skeleton(begin=begin, stored={}).filled()
    assert not torch.equal(other.layers[2].weight, last.layers[2].weight)


def test_a_value_of_another_shape_is_refused_by_name() -> None:
    made = skeleton()
    wrong = {**made.stored, "layers.2.weight": lambda: torch.ones(SIZE, SIZE - 1)}
    with pytest.raises(InputError, match=r"layers\.2\.weight.*\[8, 7\].*\[8, 8\]"):
        made.filled(stored=wrong)


def test_a_parameter_without_a_value_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"layers\.0\.weight has no value"):
        skeleton(stored={}).filled()
