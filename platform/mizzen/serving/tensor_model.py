"""A model that is asked for tensors: its signature, and a call that shares batches with other requests.

It parses no requests: `inference_protocol` does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mizzen.errors import InputError, MizzenError, RequestError
from mizzen.workloads.contract import Batching, ModelIdentity, Predict, Signature

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
_Kind = tuple[tuple[str, tuple[int, ...]], ...]


class TensorModel:
    """One version, with the names under which it answers."""

    def __init__(
        self,
        identity: ModelIdentity,
        app: str,
        signature: Signature,
        predict: Predict,
        batched: Batching,
        max_rows: int,
    ) -> None:
        """`max_rows` bounds the rows of one request, and of one call of the model."""
        self.identity = identity
        self.names = frozenset({identity.name, app})
        self.signature = signature
        self.max_rows = max_rows
        self._predict = predict
        self._batched = batched(self._run)

    async def run(self, inputs: Tensors) -> dict[str, Array]:
        """Outputs for the inputs of one request, which fit the signature. Raises `RequestError`."""
        answer = await self._batched(inputs)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def check_rows(self, inputs: Tensors) -> None:
        """Raises `RequestError` unless all inputs have the same number of rows, and not too many."""
        rows = {name: len(values) for name, values in inputs.items()}
        if len(set(rows.values())) > 1:
            saw = ", ".join(f"{name}: {count}" for name, count in rows.items())
            raise RequestError(
                "the inputs have different first dimensions",
                saw=saw,
                allowed="the same for all",
                field="inputs",
            )
        if max(rows.values(), default=0) > self.max_rows:
            raise RequestError(
                "the request has too many rows",
                saw=max(rows.values()),
                allowed=f"{self.max_rows} (batching.max_batch_size)",
                remedy="Send several requests: they share calls of the model.",
                field="inputs",
            )

    def _run(self, requests: list[Tensors]) -> list[dict[str, Array] | Exception]:
        """Outputs for each request; those whose rows have the same shape share calls. Runs in a thread."""
        answers: list[dict[str, Array] | Exception] = [{} for _ in requests]
        for group in _groups(requests, self.max_rows):
            for place, answer in zip(group, self._answer([requests[place] for place in group]), strict=True):
                answers[place] = answer
        return answers

    def _answer(self, requests: Sequence[Tensors]) -> list[dict[str, Array] | Exception]:
        try:
            if len(requests) == 1:
                return [self._predict(requests[0])]
            inputs = {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}
            outputs = self._predict(inputs)
        except MizzenError as cause:
            if len(requests) == 1:
                return [_refusal(cause, requests[0])]
            # One of them is to blame, and the others shall not suffer.
            return [answer for one in requests for answer in self._answer([one])]
        ends = np.cumsum([len(next(iter(one.values()))) for one in requests])[:-1]
        parts = {name: np.split(values, ends) for name, values in outputs.items()}
        return [{name: parts[name][place] for name in parts} for place in range(len(requests))]


def _refusal(cause: MizzenError, inputs: Tensors) -> MizzenError:
    if isinstance(cause, InputError):
        return cause
    # Names, types and shapes fit the signature, so it is the values: an index outside a table, say.
    shapes = ", ".join(f"{name} {values.dtype}{list(values.shape)}" for name, values in inputs.items())
    logger.warning("the model failed on the tensors of a request (%s): %s", shapes, cause)
    return RequestError(
        "the model cannot be run on the values of these tensors",
        saw=shapes,
        remedy="See that ids and lengths are within what the model was trained on.",
        field="inputs",
    )


def _groups(requests: Sequence[Tensors], max_rows: int) -> list[list[int]]:
    """Places of requests that can share a call: the same shape but for the rows, `max_rows` at most."""
    groups: list[list[int]] = []
    open_groups: dict[_Kind, tuple[list[int], int]] = {}
    for place, inputs in enumerate(requests):
        kind = tuple(sorted((name, values.shape[1:]) for name, values in inputs.items()))
        rows = len(next(iter(inputs.values())))
        group, so_far = open_groups.get(kind, ([], max_rows))
        if so_far + rows > max_rows:
            group, so_far = [], 0
            groups.append(group)
        group.append(place)
        open_groups[kind] = (group, so_far + rows)
    return groups
