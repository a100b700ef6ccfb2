"""What one micro-batch holds in memory besides the model's states, measured without data, values or a GPU.

Forward and backward run on tensors that have a shape and no storage (PyTorch's `FakeTensorMode`), under a
dispatch mode that sees every tensor come and go: what autograd saves, temporaries such as a language model's
logits, and gradients as they are made. So it holds for any workload, and for a model that no machine here
could hold. Kernels' own scratch space is not seen.

It knows neither DeepSpeed nor devices: `footprint` does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mizzen.training.flops import FlopCounter
from mizzen.workloads.contract import Batch

aten = torch.ops.aten

PICKS_BY_MASK = (aten.index.Tensor,)
PUTS_BY_MASK = (aten.index_put.default, aten._unsafe_index_put.default)
PUTS_BY_MASK_IN_PLACE = (aten.index_put_.default, aten._index_put_impl_.default)


@dataclass(frozen=True)
class Moment:
    """A time in a micro-batch: how much lived besides states and gradients, and how far gradients were."""

    activation_bytes: int
    num_gradients: int
    """Elements of gradients that had been made."""


@dataclass(frozen=True)
class Activations:
    """What a micro-batch needs on one worker."""

    moments: tuple[Moment, ...]
    """Those that matter: no other has more of both."""
    entered_bytes: int
    """What lived when the last layer with parameters began."""
    flops: float
    """Floating-point operations of forward and backward."""

    @property
    def peak_bytes(self) -> int:
        """The most that ever lived, gradients of parameters left out."""
        return max(moment.activation_bytes for moment in self.moments)


def measure(
    model: torch.nn.Module,
    batch: Batch,
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
    dtype: torch.dtype,
) -> Activations:
    """Run `loss(model, batch)` and its backward pass without storage; `model` is lost by it.

    `dtype` is that of floating-point parameters; buffers keep theirs, as under DeepSpeed. Where rows are
    picked by a mask, all are taken to be picked: the most that there can be.
    """
    flops, tracker = FlopCounter(), _Tracker()
    # Whatever a model still holds as a real tensor (a table of positions, say) is as good as one without.
    with ExitStack() as stack:
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        _make_shapes(model, dtype)
        inputs: Batch = {
            name: _shape_of(x) if isinstance(x, torch.Tensor) else x for name, x in batch.items()
        }
        tracker.follow(model, inputs)
        stack.enter_context(tracker)
        model.train()
        with flops.counted(inputs):
            value = loss(model, inputs)
            entered_bytes = tracker.entered_bytes
            flops.backward_begins()
            value.backward()  # type: ignore[no-untyped-call] # it has no types
        del value, mode
    return Activations(tracker.moments(), entered_bytes, flops.take())


def _shape_of(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor on the CPU of the same shape, without storage; the fake mode is on."""
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=wanted, device="cpu")


def _make_shapes(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Put shapes in place of all parameters and buffers; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    shape = _shape_of(parameter, dtype)
                    made[id(parameter)] = torch.nn.Parameter(shape, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]  # type: ignore[assignment] # it is one
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _shape_of(buffer)
    model._kept_alive = made  # type: ignore[assignment] # ids are of living objects as long as this runs


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call] # the base class has no types
    """Adds up the storages that live, and notes the total at each of them that comes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the base class has no types
        self.live_bytes = 0
        self.entered_bytes = 0
        self._num_gradients = 0
        self._known: dict[int, tuple[Any, int]] = {}
        self._most: dict[int, int] = {}

    def follow(self, model: torch.nn.Module, inputs: Mapping[str, Any]) -> None:
        """The model's own storages do not count, inputs do, and gradients are told apart."""
        for state in (*model.parameters(), *model.buffers()):
            self._known[state.untyped_storage()._cdata] = (state, 0)
        for x in inputs.values():
            if isinstance(x, torch.Tensor):
                self._came(x)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient_made)  # type: ignore[no-untyped-call]
        for module in model.modules():
            if any(True for _ in module.parameters(recurse=False)):
                module.register_forward_pre_hook(self._entered)

    def _entered(self, module: torch.nn.Module, given: Any) -> None:
        self.entered_bytes = self.live_bytes

    def moments(self) -> tuple[Moment, ...]:
        """The most that lived by elements of gradients, without what another moment covers."""
        kept: list[Moment] = []
        for num_gradients, activation_bytes in sorted(self._most.items(), reverse=True):
            if not kept or activation_bytes > kept[-1].activation_bytes:
                kept.append(Moment(activation_bytes, num_gradients))
        return tuple(reversed(kept))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _without_values(func, args, kwargs or {})
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._came(leaf)
        return result

    def _came(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size_bytes = storage.nbytes()

        def gone(_: Any) -> None:
            _, counted_bytes = self._known.pop(key)
            self.live_bytes -= counted_bytes

        self._known[key] = (weakref.ref(storage, gone), size_bytes)
        self.live_bytes += size_bytes
        self._note()

    def _gradient_made(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        key = gradient.untyped_storage()._cdata
        reference, counted_bytes = self._known[key]
        self._known[key] = (reference, 0)
        self.live_bytes -= counted_bytes
        self._num_gradients += gradient.numel()
        self._note()

    def _note(self) -> None:
        self._most[self._num_gradients] = max(self._most.get(self._num_gradients, 0), self.live_bytes)


def _without_values(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on shapes; a mask, whose values nobody knows, picks everything."""
    if func in PICKS_BY_MASK and _has_mask(args[1]):
        source, indices = args[0], args[1]
        num_masked = sum(index.dim() for index in indices if index is not None)
        num_picked = max(index.numel() for index in indices if index is not None)
        return source.new_empty((num_picked, *source.shape[num_masked:]))
    if func in PUTS_BY_MASK and _has_mask(args[1]):
        return torch.empty_like(args[0])
    if func in PUTS_BY_MASK_IN_PLACE and _has_mask(args[1]):
        return args[0]
    return func(*args, **kwargs)


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
