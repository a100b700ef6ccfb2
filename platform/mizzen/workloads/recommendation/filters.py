"""Which items a request allows, by the attributes of the item table.

Dimensions: V items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

from mizzen.errors import RequestError
from mizzen.workloads.contract import Fields
from mizzen.workloads.recommendation.catalogue import Catalogue

Number = (
    Annotated[StrictInt, Field(ge=-(2**53), le=2**53)] | Annotated[StrictFloat, Field(allow_inf_nan=False)]
)
Value = Annotated[StrictStr, Field(max_length=1000)] | Number
Values = Annotated[list[Value], Field(min_length=1, max_length=1000)]


class Condition(Fields):
    """What an attribute must be; everything that is given must hold.

    Of an attribute with several values (genres, say), one of them is enough for `in`. An item without the
    attribute passes `not_in` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)

    in_: Values | None = Field(None, alias="in")
    not_in: Values | None = None
    ge: Number | None = Field(None, description="At least this; numbers only.")
    le: Number | None = Field(None, description="At most this; numbers only.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.in_ is None and self.not_in is None and self.ge is None and self.le is None:
            raise ValueError("give at least one of in, not_in, ge and le")
        return self


@dataclass(frozen=True)
class Numbers:
    """An attribute that is a number, float64 (V,), NaN where an item has none."""

    values_V: np.ndarray

    def allowed(self, place: str, condition: Condition) -> np.ndarray:
        mask_V = np.ones(len(self.values_V), dtype=bool)
        if condition.in_ is not None:
            mask_V &= np.isin(self.values_V, _only(float, place, condition.in_))
        if condition.not_in is not None:
            mask_V &= ~np.isin(self.values_V, _only(float, place, condition.not_in))
        if condition.ge is not None:
            mask_V &= self.values_V >= condition.ge
        if condition.le is not None:
            mask_V &= self.values_V <= condition.le
        return mask_V


@dataclass(frozen=True)
class Texts:
    """An attribute of one or several texts an item: pairs of an item's row and a code for the text."""

    num_items: int
    rows: np.ndarray
    codes: np.ndarray
    code_of: Mapping[str, int]

    def allowed(self, place: str, condition: Condition) -> np.ndarray:
        if condition.ge is not None or condition.le is not None:
            raise RequestError(
                f"{place} compares texts",
                saw="ge or le",
                allowed="in and not_in",
                field=place,
            )
        mask_V = np.ones(self.num_items, dtype=bool)
        if condition.in_ is not None:
            mask_V &= self._any_of(_only(str, place, condition.in_))
        if condition.not_in is not None:
            mask_V &= ~self._any_of(_only(str, place, condition.not_in))
        return mask_V

    def _any_of(self, values: Sequence[str]) -> np.ndarray:
        wanted = [self.code_of[value] for value in values if value in self.code_of]
        mask_V = np.zeros(self.num_items, dtype=bool)
        mask_V[self.rows[np.isin(self.codes, wanted)]] = True
        return mask_V


class AttributeFilters:
    """Turns the filters of a request into a mask over all items."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._indexes = {name: _index(values) for name, values in catalogue.attributes.items()}

    def allowed(self, conditions: Mapping[str, Condition], place: str = "filters") -> np.ndarray:
        """Bool (V,) for one condition or more; `place` is where in the request they stand.

        Raises `RequestError` for an unknown attribute, or a condition that does not suit one.
        """
        masks = []
        for name, condition in conditions.items():
            index = self._indexes.get(name)
            if index is None:
                raise RequestError(
                    "this model has no such attribute to filter by",
                    saw=repr(name[:100]),
                    allowed=", ".join(self._indexes) or "no filters: its items have no attributes",
                    field=place,
                )
            masks.append(index.allowed(f"{place}.{name}", condition))
        both: np.ndarray = np.logical_and.reduce(masks)
        return both


def _index(values: pa.Array) -> Numbers | Texts:
    num_items = len(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return Numbers(pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy())
    if pa.types.is_list(values.type):
        rows, texts = pc.list_parent_indices(values), pc.list_flatten(values)
    else:
        rows, texts = pa.array(np.arange(num_items)), values
    real = texts.is_valid()
    encoded = texts.filter(real).dictionary_encode()
    code_of = {text: code for code, text in enumerate(encoded.dictionary.to_pylist())}
    return Texts(num_items, rows.filter(real).to_numpy(), encoded.indices.to_numpy(), code_of)


def _only(kind: type, place: str, values: Sequence[Any]) -> list[Any]:
    """`values`, all texts or all numbers. Raises `RequestError`."""
    for value in values:
        if isinstance(value, str) != (kind is str):
            raise RequestError(
                f"{place} got a value of the wrong kind",
                saw=repr(value)[:100],
                allowed="texts" if kind is str else "numbers",
                field=place,
            )
    return [kind(value) for value in values]
