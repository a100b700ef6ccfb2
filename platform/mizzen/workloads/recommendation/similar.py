"""Which items are like others: by the cosine between the vectors that the network has learned for them.

An export has the vectors in a file of their own, `item_vectors.safetensors`: one row of unit length an
item. It looks at no user and runs no network.

Dimensions: V items, D size of a vector, N given items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mizzen.errors import NotFoundError
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.filters import AttributeFilters, Condition
from mizzen.workloads.recommendation.selection import best

FILE = "item_vectors.safetensors"
TENSOR = "vectors"


def write(tables: Sequence[np.ndarray], folder: Path) -> None:
    """Write the vectors of one or several networks (each (V, D), row j is item j + 1).

    Side by side and each of unit length, so that their cosine is the mean of the networks' cosines.
    """
    units = [table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12) for table in tables]
    vectors_VD = np.concatenate(units, axis=1) / np.sqrt(len(units))
    save_file({TENSOR: np.ascontiguousarray(vectors_VD, dtype=np.float32)}, folder / FILE)


class SimilarItems:
    """The items of one version, by similarity."""

    def __init__(self, folder: Path, items: Catalogue, filters: AttributeFilters) -> None:
        self._items, self._filters = items, filters
        file = folder / FILE
        self._vectors_VD = load_file(file)[TENSOR] if file.is_file() else None

    def to(
        self,
        items: Sequence[str],
        num_results: int,
        exclude_items: Sequence[str] = (),
        filters: Mapping[str, Condition] | None = None,
    ) -> tuple[list[int], list[float], list[str]]:
        """Rows of the most similar items, their cosines, and those of `items` that are not known.

        To several items: to the mean of their directions. Raises `NotFoundError` if none of them is known,
        or if this version was exported without vectors; `RequestError` for filters that it cannot use.
        """
        if self._vectors_VD is None:
            raise NotFoundError(
                "this version of the model was exported without item vectors, so it knows no similar items",
                remedy=f"Publish it again with this Mizzen: the export then holds {FILE}.",
                code="no_item_vectors",
            )
        numbers, unknown = self._items.find(items)
        if not len(numbers):
            raise NotFoundError(
                "this version of the model knows none of the items",
                saw=", ".join(map(repr, unknown[:3])),
                field="items",
            )
        mean_D = self._vectors_VD[numbers - 1].mean(axis=0)
        cosine_V = self._vectors_VD @ (mean_D / max(float(np.linalg.norm(mean_D)), 1e-12))
        left_V = np.clip(cosine_V, -1.0, 1.0)
        if filters:
            left_V[~self._filters.allowed(filters)] = -np.inf
        left_V[numbers - 1] = -np.inf
        left_V[self._items.find(exclude_items)[0] - 1] = -np.inf
        found = best(left_V, num_results)
        return [row for row, _ in found], [score for _, score in found], unknown
