"""How many floating-point operations a model needs for what it is trained on.

They are counted, not estimated: the first micro-batch of each shape runs under a dispatch mode that sees
every operation of forward and backward, with PyTorch's own formulas (`torch.utils.flop_counter`) and a few
that those lack. What is computed a second time (activation checkpointing, the scores in the backward pass of
a flash attention) is not counted: the model does not need it. It never ends a run: a formula that fails
counts 0.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MAX_SHAPES = 8
"""Shapes of batches that are counted; further ones are scaled from the first, by the size of the batch."""

aten = torch.ops.aten
Shape = tuple[tuple[str, torch.Size], ...]


class FlopCounter:
    """Sums what micro-batches need on this worker."""

    def __init__(self) -> None:
        self._by_shape: dict[Shape, float] = {}
        self._counting: _Counting | None = None
        self._sum = 0.0

    def take(self) -> float:
        """What was needed since the last call."""
        taken, self._sum = self._sum, 0.0
        return taken

    @contextmanager
    def counted(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Forward and backward of `batch` stand inside the block, with `backward_begins` between them."""
        shape = _shape(batch)
        if shape in self._by_shape or len(self._by_shape) >= MAX_SHAPES:
            known = self._by_shape.get(shape)
            self._sum += self._scaled(shape) if known is None else known
            yield
            return
        self._counting = _Counting()
        try:
            with _uncompiled(), self._counting:
                yield
        finally:
            counting, self._counting = self._counting, None
        self._by_shape[shape] = counting.flops
        self._sum += counting.flops

    def backward_begins(self) -> None:
        """The forward pass of the batch is over."""
        if self._counting is not None:
            self._counting.backward = True

    def _scaled(self, shape: Shape) -> float:
        first, flops = next(iter(self._by_shape.items()))
        return flops * _size(shape) / max(1, _size(first))


def _uncompiled() -> AbstractContextManager[None]:
    """Inside the block nothing is compiled, and what is compiled does not run.

    Else the compiler would pass over each function that it meets under a dispatch mode, and for good.
    """
    if "torch._dynamo" not in sys.modules:  # its import takes a while
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _shape(batch: Mapping[str, Any]) -> Shape:
    return tuple([(name, x.shape) for name, x in batch.items() if isinstance(x, torch.Tensor)])


def _size(shape: Shape) -> int:
    return sum(prod(sizes) for _, sizes in shape)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call] # the base class has no types
    """Counts operations as they run.

    Not PyTorch's `FlopCounterMode`: it hooks into modules, as DeepSpeed does, and counts what is done again.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the base class has no types
        self.flops = 0.0
        self.backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Autograd runs without gradients; a forward pass in its midst is one that is done again.
        if not (self.backward and torch.is_grad_enabled()):
            self.flops += _flops(func, args, kwargs, result)
        return result


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    packet = getattr(func, "_overloadpacket", None)
    try:
        if packet in _FORMULAS:
            return float(_FORMULAS[packet](*args))
        if packet in flop_registry:
            return float(flop_registry[packet](*args, **kwargs, out_val=result))
    except (TypeError, ValueError, IndexError, AttributeError, AssertionError, RuntimeError) as cause:
        logging.getLogger(__name__).debug("the operations of %s cannot be counted: %s", func, cause)
    return 0.0


# --- formulas ---------------------------------------------------------------------------------------
# A multiplication and an addition are two operations.


def _attention(query_BHQD: Any, key_BHKD: Any, value_BHKV: Any, *others: Any) -> float:
    *batch, num_queries, width = query_BHQD.shape
    num_keys, value_width = key_BHKD.shape[-2], value_BHKV.shape[-1]
    return float(2 * prod(batch) * num_queries * num_keys * (width + value_width))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *others: Any) -> float:
    return 2 * _attention(query, key, value)


def _cudnn_rnn(x: Any, weights: Any, *others: Any) -> float:
    num_steps = x.numel() // x.shape[-1]
    return float(2 * num_steps * sum(weight.numel() for weight in weights if weight.dim() == 2))


def _cpu_rnn(x_TBI: Any, input_weight: Any, hidden_weight: Any, *others: Any) -> float:
    return _cudnn_rnn(x_TBI, [input_weight, hidden_weight])


def _twice(forward: Callable[..., float]) -> Callable[..., float]:
    return lambda *args: 2 * forward(*args)


_FORMULAS: dict[Any, Callable[..., float]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
    aten._cudnn_rnn: _cudnn_rnn,
    aten._cudnn_rnn_backward: _twice(_cudnn_rnn),
    aten.mkldnn_rnn_layer: _cpu_rnn,
    aten.mkldnn_rnn_layer_backward: _twice(_cpu_rnn),
}
"""By operation; these come before PyTorch's: its attention counts the scores again in the backward pass."""
