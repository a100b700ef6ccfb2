"""A model that has its shape and no values yet: the platform gives it those, one parameter at a time.

So a model can be spread over workers of which none could hold it. It knows no file format, and it does not
spread anything: `training.sharded` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mizzen.errors import InputError

if TYPE_CHECKING:
    import torch

Reader = Callable[[], "torch.Tensor"]
"""Gives one value of a model, on the CPU; whoever calls it may keep and change what it gets."""

Begin = Callable[[str, "torch.Tensor"], None]
"""`begin(name, values)` fills the fp32 tensor `values` with the first values of the parameter `name`, drawn
from PyTorch's own generator."""


def _no_beginning(name: str, values: torch.Tensor) -> None:
    raise InputError(f"the model's parameter {name} has no value", saw=f"shape {list(values.shape)}")


def _nothing_more(parameter: torch.nn.Parameter) -> None:
    """For a model that stays whole."""


@dataclass(frozen=True)
class Skeleton:
    """A model and where the values of its parameters come from."""

    model: torch.nn.Module
    """Its parameters are on the meta device, tied ones are one object; its buffers have their values."""
    stored: Mapping[str, Reader]
    """Values that lie in files, by the name of the parameter or buffer, in any floating-point type. A tied
    parameter needs one under any of its names."""
    begin: Begin = _no_beginning
    """For the parameters that lie in no file, such as adapters."""

    def filled(
        self,
        *,
        dtype: torch.dtype | None = None,
        stored: Mapping[str, Reader] | None = None,
        reads: bool = True,
        placed: Callable[[torch.nn.Parameter], None] = _nothing_more,
    ) -> torch.nn.Module:
        """The model with its values, which takes no more than one parameter beside what `placed` leaves.

        Floating-point parameters get `dtype` (fp32 if it is None). `placed` is called with each as soon as
        it has its values, and may take them away again. Without `reads` parameters are left undefined: some
        other worker tells them. What has no reader begins at values that follow from its name and from
        PyTorch's generator, so that they are the same however the model is spread.

        Raises `InputError` if a value has another shape than its parameter, or if one has no value.
        """
        import torch

        stored = self.stored if stored is None else stored
        seed = int(torch.randint(2**62, ()))
        for names, slots, shape in list(_parameters(self.model)):
            wanted = (dtype or torch.float32) if shape.is_floating_point() else shape.dtype
            reader = next((stored[name] for name in names if name in stored), None)
            if not reads:
                values = torch.empty(shape.shape, dtype=wanted)
            elif reader is not None:
                values = _checked(reader(), names[0], shape).to(wanted).contiguous()
            else:
                values = self._begun(names[0], shape, seed).to(wanted)
            parameter = torch.nn.Parameter(values, requires_grad=shape.requires_grad)
            del values
            for module, attribute in slots:
                module.register_parameter(attribute, parameter)
            placed(parameter)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in stored:
                    buffer.copy_(_checked(stored[name](), name, buffer))
        return self.model

    def _begun(self, name: str, shape: torch.Tensor, seed: int) -> torch.Tensor:
        import torch

        values = torch.empty(shape.shape, dtype=torch.float32)
        own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7])
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(own_seed)
            self.begin(name, values)
        return values


@dataclass(frozen=True)
class Outline:
    """A model and what it is fed, of which only the shapes matter."""

    model: torch.nn.Module
    """Parameters and buffers may be on the meta device; tied ones are one object."""
    batch: dict[str, Any]
    """A collated micro-batch as large as training meets."""


def _parameters(
    model: torch.nn.Module,
) -> Iterator[tuple[list[str], list[tuple[torch.nn.Module, str]], torch.Tensor]]:
    """Each parameter once: all its names, where it hangs in the model, and itself."""
    found: dict[int, tuple[list[str], list[tuple[torch.nn.Module, str]], torch.Tensor]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                names, slots, _ = found.setdefault(id(parameter), ([], [], parameter))
                names.append(f"{path}.{attribute}" if path else attribute)
                slots.append((module, attribute))
    yield from found.values()


def _checked(value: torch.Tensor, name: str, shape: torch.Tensor) -> torch.Tensor:
    if value.shape != shape.shape:
        raise InputError(
            f"the stored values of {name} have the wrong shape",
            saw=list(value.shape),
            allowed=f"{list(shape.shape)}, as the model is built",
        )
    return value
