"""`POST /v1/classify`: the digit in a picture, or in each of several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter
from pydantic import Field, StrictFloat, StrictInt, model_validator

from mizzen.errors import ServingError
from mizzen.labels import SERVED
from mizzen.series import Label, Series
from mizzen.workloads.contract import Endpoint, Example, Fields, ServedModel, Session
from mizzen_digits.config import MAX_PIXEL

NAMED = Series(
    "mizzen_digits_named_total",
    "counter",
    "1",
    (*SERVED, Label("digit", "The digit.", tuple("0123456789"))),
    "Images that were named so.",
    "replica",
)
"""A series of this workload's own; nothing of a request may become a label."""
PATH = "/v1/classify"
MAX_IMAGES = 64

Pixel = Annotated[StrictInt | StrictFloat, Field(ge=0, le=MAX_PIXEL, allow_inf_nan=False)]
Row = Annotated[list[Pixel], Field(min_length=8, max_length=8)]
Image = Annotated[list[Row], Field(min_length=8, max_length=8)]
Pixels = npt.NDArray[np.float32]


class ClassifyRequest(Fields):
    """One image or several; a pixel is a number from 0 (white) to 16 (black)."""

    image: Image | None = None
    images: Annotated[list[Image], Field(min_length=1, max_length=MAX_IMAGES)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.image is None) == (self.images is None):
            raise ValueError("give either image or images")
        return self

    @property
    def all_images(self) -> list[Image]:
        """The images, one or several."""
        return [*(self.images or ()), *([self.image] if self.image else ())]


class Prediction(Fields):
    """The most probable digit, and the probability of each from 0 to 9."""

    label: int
    probabilities: list[float]


class ClassifyResponse(Fields):
    """One prediction for each image, in their order."""

    model: str
    model_version: int
    model_digest: str
    predictions: list[Prediction]


class DigitsEndpoint(Endpoint):
    """The route, over one version of a model."""

    def __init__(self, model: ServedModel, file: Path) -> None:
        self._model = model
        self._file = file
        self._classify: Callable[[Pixels], Awaitable[Prediction]] | None = None
        self.router = APIRouter(tags=["digits"])
        self.router.add_api_route(
            PATH, self.classify, methods=["POST"], response_model=ClassifyResponse, summary="Name digits"
        )

    async def start(self) -> None:
        """Open the model and classify a blank image."""
        session = await asyncio.to_thread(self._model.runtime.session, self._file)

        def classify_all(images: list[Pixels]) -> list[Prediction]:
            return classify(session, images)

        await asyncio.to_thread(classify_all, [np.zeros((8, 8), np.float32)])
        self._classify = self._model.batched(classify_all)

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """The digit in each image."""
        if self._classify is None:
            raise ServingError("the model is not loaded yet", remedy="Wait until /readyz says so.")
        images = [np.asarray(image, np.float32) for image in request.all_images]
        self._model.watch_inputs({"brightness": [float(image_HW.mean()) for image_HW in images]})
        predictions = await asyncio.gather(*map(self._classify, images))
        for prediction in predictions:
            self._model.recorder.count(NAMED, digit=str(prediction.label))
        identity = self._model.identity
        return ClassifyResponse(
            model=identity.name,
            model_version=identity.version,
            model_digest=identity.digest,
            predictions=predictions,
        )


def classify(session: Session, images: list[Pixels]) -> list[Prediction]:
    """A prediction for each image (8, 8)."""
    logits_BC = session.run({"image": np.stack(images)})["logits"].astype(np.float64)
    weights_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    probabilities_BC = weights_BC / weights_BC.sum(axis=1, keepdims=True)
    return [
        Prediction(label=int(p_C.argmax()), probabilities=[round(float(p), 6) for p in p_C])
        for p_C in probabilities_BC
    ]


SEVEN = [
    [0, 0, 7, 8, 13, 16, 15, 1],
    [0, 0, 7, 7, 4, 11, 12, 0],
    [0, 0, 0, 0, 8, 13, 1, 0],
    [0, 4, 8, 8, 15, 15, 6, 0],
    [0, 2, 11, 15, 15, 4, 0, 0],
    [0, 0, 0, 16, 5, 0, 0, 0],
    [0, 0, 9, 15, 1, 0, 0, 0],
    [0, 0, 13, 5, 0, 0, 0, 0],
]
"""The first seven of scikit-learn's digits."""

EXAMPLES = (Example(PATH, {"image": SEVEN}), Example(PATH, {"images": [SEVEN, SEVEN]}))
