"""Which LSTMs are replaced for an export, and that they are put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mizzen.store.recurrent import OnnxLstm, onnx_lstms


def test_lstms_at_any_depth_are_replaced_and_put_back() -> None:
    shared = nn.LSTM(2, 3)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 3)), "c": shared})
    before = dict(model.named_modules(remove_duplicate=False))
    with onnx_lstms(model) as exportable:
        assert exportable is model
        kinds = [type(m) for m in model.modules() if isinstance(m, (nn.LSTM, OnnxLstm))]
        assert kinds == [OnnxLstm, OnnxLstm]
        assert model["a"] is model["c"]
    assert dict(model.named_modules(remove_duplicate=False)) == before


def test_they_are_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.LSTM(2, 3))
    lstm = model[0]
    with pytest.raises(RuntimeError, match="in the block"), onnx_lstms(model):
        raise RuntimeError("in the block")
    assert model[0] is lstm


def test_a_model_that_is_an_lstm_is_replaced_itself() -> None:
    lstm = nn.LSTM(2, 3)
    with onnx_lstms(lstm) as exportable:
        assert isinstance(exportable, OnnxLstm)


def test_a_projection_and_a_subclass_are_left_alone() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleList([nn.LSTM(2, 4, proj_size=2), Own(2, 3), nn.GRU(2, 3)])
    with onnx_lstms(model):
        assert [type(m) for m in model] == [nn.LSTM, Own, nn.GRU]


def test_gates_are_put_into_the_order_of_onnx() -> None:
    lstm = nn.LSTM(2, 1)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]))
        lstm.bias_ih_l0.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        lstm.bias_hh_l0.copy_(torch.tensor([5.0, 6.0, 7.0, 8.0]))
    stand_in = OnnxLstm(lstm)
    assert stand_in.get_buffer("weight_ih_0")[0, :, 0].tolist() == [1, 4, 2, 3]
    assert stand_in.get_buffer("bias_0")[0].tolist() == [1, 4, 2, 3, 5, 8, 6, 7]
