"""LSTMs that keep a dynamic length when they are exported.

`torch.export` unrolls `nn.LSTM` step by step and so fixes the length of the example. While a model is
exported, each of its LSTMs is therefore replaced by one that says ONNX's own operator. It changes nothing in
the weights and is never used to compute. GRUs need no help; an LSTM with a projection gets none.

    L length   B batch   D directions (1 or 2)   F features   H hidden size
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def onnx_lstms(model: nn.Module) -> Iterator[nn.Module]:
    """`model` with its LSTMs replaced, put back at the end; the model to export."""
    if isinstance(model, nn.LSTM):
        yield OnnxLstm(model)
        return
    replaced = [
        (path, module)
        for path, module in model.named_modules(remove_duplicate=False)
        if type(module) is nn.LSTM and module.proj_size == 0
    ]
    stand_ins = {id(lstm): OnnxLstm(lstm) for _, lstm in replaced}
    try:
        for path, lstm in replaced:
            model.set_submodule(path, stand_ins[id(lstm)])
        yield model
    finally:
        for path, lstm in replaced:
            model.set_submodule(path, lstm)


class OnnxLstm(nn.Module):
    """An `nn.LSTM`, in evaluation mode, as ONNX's operator `LSTM`, a node for each layer."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.batch_first = lstm.batch_first
        self.hidden_size = lstm.hidden_size
        self.num_layers = lstm.num_layers
        self.directions = 2 if lstm.bidirectional else 1
        for layer in range(lstm.num_layers):
            suffixes = [f"l{layer}", f"l{layer}_reverse"][: self.directions]
            for kind in ("weight_ih", "weight_hh"):
                weights = [_reorder(getattr(lstm, f"{kind}_{suffix}")) for suffix in suffixes]
                self.register_buffer(f"{kind}_{layer}", torch.stack(weights))
            self.register_buffer(f"bias_{layer}", torch.stack([_bias(lstm, suffix) for suffix in suffixes]))

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM` with a batch: outputs (B, L, D*H) or (L, B, D*H), and the last states."""
        x_LBF = x.transpose(0, 1) if self.batch_first else x
        length, batch = x_LBF.shape[0], x_LBF.shape[1]
        layers = (self.num_layers, self.directions, batch, self.hidden_size)
        zeros = x_LBF.new_zeros(layers)
        h_0, c_0 = (value.reshape(layers) for value in state) if state is not None else (zeros, zeros)
        last_h, last_c = [], []
        for layer in range(self.num_layers):
            y_LDBH, h_DBH, c_DBH = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                [
                    x_LBF,
                    getattr(self, f"weight_ih_{layer}"),
                    getattr(self, f"weight_hh_{layer}"),
                    getattr(self, f"bias_{layer}"),
                    None,
                    h_0[layer],
                    c_0[layer],
                ],
                {
                    "hidden_size": self.hidden_size,
                    "direction": "bidirectional" if self.directions == 2 else "forward",
                },
                dtypes=[x.dtype] * 3,
                shapes=[(length, *layers[1:]), layers[1:], layers[1:]],
            )
            x_LBF = y_LDBH.transpose(1, 2).reshape(length, batch, self.directions * self.hidden_size)
            last_h.append(h_DBH)
            last_c.append(c_DBH)
        y = x_LBF.transpose(0, 1) if self.batch_first else x_LBF
        return y, (torch.cat(last_h), torch.cat(last_c))


def _reorder(weight: Tensor) -> Tensor:
    """Gates from PyTorch's order (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    i, f, g, o = weight.detach().chunk(4)
    return torch.cat([i, o, f, g])


def _bias(lstm: nn.LSTM, suffix: str) -> Tensor:
    """Both biases in a row, as ONNX has them; zeros for an LSTM without."""
    if not lstm.bias:
        weight = getattr(lstm, f"weight_ih_{suffix}")
        return torch.zeros(8 * lstm.hidden_size, dtype=weight.dtype, device=weight.device)
    return torch.cat([_reorder(getattr(lstm, f"{kind}_{suffix}")) for kind in ("bias_ih", "bias_hh")])
