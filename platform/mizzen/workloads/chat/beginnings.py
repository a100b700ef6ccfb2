"""First values of parameters that lie in no file: adapters, and models that are trained from nothing.

They are those of transformers and peft, of one parameter at a time: nothing else of the model need have
values. It does not choose what is trained.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mizzen.errors import InputError

if TYPE_CHECKING:
    import torch

Writer = Callable[[], None]


class Beginnings:
    """`contract.Begin` for a model on the meta device, with adapters or without."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._twin = copy.deepcopy(model)  # the model itself gets its values meanwhile
        self._writers = _writers(self._twin)

    def __call__(self, name: str, values: torch.Tensor) -> None:
        """Fill the fp32 tensor `values` with the first values of the parameter `name`."""
        import torch

        path, _, attribute = name.rpartition(".")
        module = self._twin.get_submodule(path)
        empty = module._parameters[attribute]
        writers = self._writers.get(id(empty), [])
        if not writers:
            raise InputError(
                f"{type(self._twin).__name__} does not say how its parameter {name} begins",
                saw="init: random",
                allowed="init: weights, from safetensors",
                field="model.init",
            )
        module._parameters[attribute] = torch.nn.Parameter(values, requires_grad=False)
        try:
            for write in writers:
                write()  # whatever else it writes is on the meta device, and takes no random numbers
        finally:
            module._parameters[attribute] = empty


def _writers(model: torch.nn.Module) -> dict[int, list[Writer]]:
    """Who writes each parameter's first values, by its id, in the order in which they do."""
    import torch

    found: dict[int, list[Writer]] = defaultdict(list)
    named = dict(model.named_modules())
    with torch.no_grad():
        for path in reversed(named):  # what is inside comes first, as transformers does it
            write = _writer(named, path)
            if write is None:
                continue
            below = list(named[path].parameters())
            versions = [parameter._version for parameter in below]
            write()
            for parameter, version in zip(below, versions, strict=True):
                if parameter._version != version:
                    found[id(parameter)].append(write)
    return found


def _writer(named: dict[str, Any], path: str) -> Writer | None:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

    module = named[path]
    if isinstance(module, LoraLayer):
        return partial(_begin_adapters, module)
    above = [path[:end] for end in range(len(path) + 1) if end == len(path) or path[end] == "."]
    models = [named[p] for p in ["", *above] if isinstance(named.get(p), PreTrainedModel)]
    return partial(models[-1]._init_weights, module) if models else None


def _begin_adapters(module: Any) -> None:
    for adapter in module.active_adapters:
        module.reset_lora_parameters(adapter, True)
