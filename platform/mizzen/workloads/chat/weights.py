"""The weights in a base model's folder, one tensor at a time, under the names that transformers' model has.

Headers alone are read to see whether the folder fits the model. It does not build the model, and it does not
decide who reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizzen.errors import InputError
from mizzen.workloads.contract import Reader

if TYPE_CHECKING:
    import torch

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
RECKONED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"\.attn\.(masked_)?bias$")
"""Buffers that older folders hold and that a model reckons itself."""
MAX_NAMED = 3
"""Names in an error's text."""


def files_of(folder: Path) -> list[Path]:
    """The files with the model's weights, none if there are none. Raises `InputError`."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        parts = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "the index of the base model's weights cannot be read",
            saw=str(folder / INDEX),
            field="model.base",
        ) from None
    wanted = [folder / str(part) for part in parts]
    outside = [file for file in wanted if file.parent != folder or file.suffix != ".safetensors"]
    missing = [file for file in wanted if not file.is_file()]
    if outside or missing or not wanted:
        raise InputError(
            "files that the index of the base model's weights names are missing",
            saw=_named(file.name for file in outside + missing) or "an empty index",
            allowed="*.safetensors beside it",
            remedy="Fetch the whole folder once more.",
            field="model.base",
        )
    return wanted


def readers(model: Any, folder: Path) -> dict[str, Reader]:
    """Readers of all that `model` (of transformers, on the meta device) wants, from the files in `folder`.

    Raises `InputError` if a tensor is missing, is not the model's, or has another shape.
    """
    sources = _sources(folder)
    state: Mapping[str, torch.Tensor] = model.state_dict()
    found: dict[str, Reader] = {}
    shapes: dict[str, Sequence[int]] = {}
    strange: list[str] = []
    for target, conversion in _conversions(model, state, sources).items():
        if target not in state:
            strange += conversion.names
            continue
        for name, made in conversion.values(_empty).items():
            shapes[name] = made.shape
            found[name] = partial(_one_of, conversion, name)
    for name in sorted(shapes.keys() & state.keys()):
        if tuple(shapes[name]) != tuple(state[name].shape):
            raise InputError(
                f"a tensor of the base model has the wrong shape: {name}",
                saw=list(shapes[name]),
                allowed=f"{list(state[name].shape)}, by the folder's config.json",
                field="model.base",
            )
    _check_complete(model, state, found, strange)
    return found


def _sources(folder: Path) -> dict[str, Source]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, Source] = {}
    for file in files_of(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    part = opened.get_slice(name)
                    found[name] = Source(file, name, tuple(part.get_shape()))
        except (SafetensorError, OSError) as cause:
            raise InputError(
                f"a file with the base model's weights cannot be read: {cause}",
                saw=str(file),
                remedy="Fetch the folder once more.",
                field="model.base",
            ) from None
    return found


def _conversions(
    model: Any, state: Mapping[str, torch.Tensor], sources: Mapping[str, Source]
) -> dict[str, Conversion]:
    """How the model's tensors are made of the files', by the (first) tensor's name in the model.

    The rules are transformers' own: which names changed since a folder was written, and which tensors are one
    now (the experts of a mixture, say).
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix, known = model.base_model_prefix, dict(state)
    found: dict[str, Conversion] = {}
    for name in sorted(sources, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        rule = by_pattern[pattern] if pattern is not None else None
        conversion = found.setdefault(target, Conversion(model, target, rule, []))
        conversion.parts.append((sources[name], pattern))
    model._weight_conversions = [rule for rule in rules if rule.was_used()]  # to save it as it was
    return found


@dataclass(frozen=True)
class Source:
    """A tensor in a file."""

    file: Path
    name: str
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """Its values, in memory of their own."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.name).clone()  # what it gives is the file itself
        return tensor


def _empty(source: Source) -> torch.Tensor:
    import torch

    return torch.empty(source.shape, device="meta")


@dataclass(frozen=True)
class Conversion:
    """Tensors of the files that become one of the model, or several."""

    model: Any
    target: str
    rule: Any
    """None where a tensor is taken as it is."""
    parts: list[tuple[Source, str | None]]

    @property
    def names(self) -> list[str]:
        """In the files."""
        return [source.name for source, _ in self.parts]

    def values(self, read: Callable[[Source], torch.Tensor]) -> dict[str, torch.Tensor]:
        """What it makes of what `read` gives, by the model's names."""
        if self.rule is None:
            return {self.target: read(self.parts[0][0])}
        rule = deepcopy(self.rule)
        for source, pattern in self.parts:
            rule.add_tensor(self.target, source.name, pattern, partial(read, source))
        made = rule.convert(self.target, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _one_of(conversion: Conversion, name: str) -> torch.Tensor:
    return conversion.values(Source.read)[name]


def _check_complete(
    model: Any, state: Mapping[str, torch.Tensor], found: Mapping[str, Reader], strange: Sequence[str]
) -> None:
    """Nothing but tied weights may be missing, and nothing may be left over."""
    tied = _tied(model, found)
    may_lack, may_have = model._keys_to_ignore_on_load_missing, model._keys_to_ignore_on_load_unexpected
    missing = [n for n in state if n not in found and n not in tied and not _any(may_lack, n)]
    strange = [name for name in strange if not _any([*(may_have or []), *RECKONED], name)]
    if missing or strange:
        problem = "lacks tensors" if missing else "holds tensors that the model does not have"
        raise InputError(
            f"the base model's folder {problem}",
            saw=_named(missing or strange),
            allowed=f"exactly those of {type(model).__name__}, as config.json describes it",
            remedy="Fetch the whole folder; for a model without weights write `init: random`.",
            field="model.base",
        )


def _tied(model: Any, found: Mapping[str, Reader]) -> dict[str, None]:
    """Names whose parameter has its values under another name."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {n: None for group in names.values() if any(one in found for one in group) for n in group}


def _any(patterns: Iterable[str] | None, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())


def _named(names: Iterable[str]) -> str:
    known = sorted(names)
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    return ", ".join(known[:MAX_NAMED]) + more
