"""The floor of cost: FastAPI, ONNX Runtime and uvicorn in one process, a call of the network a request.

Nothing waits for anything: the network is called in the event loop, so there is no thread to hand over to,
no batch and no queue. Run as `python fastapi_app.py WORKLOAD FOLDER PORT NUM_THREADS`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel


class RecommendationRequest(BaseModel):
    """The fields that the load test sends."""

    user_id: str | None = None
    history: list[str] | None = None
    num_results: int = 10


class Series(BaseModel):
    """One series."""

    name: str
    series: list[float]
    frequency: str


class Options(BaseModel):
    """What is asked of every series."""

    horizon: int
    quantiles: list[float]


class ForecastRequest(BaseModel):
    """The fields that the load test sends."""

    inputs: list[Series]
    options: Options


def recommendation_app(peer: Any, model: Any) -> FastAPI:
    """The route of the recommendation peer."""
    app = FastAPI()

    @app.post(peer.PATH)
    async def recommend(request: RecommendationRequest) -> JSONResponse:
        return JSONResponse(model.answer([request.model_dump()])[0])

    return app


def forecasting_app(peer: Any, model: Any) -> FastAPI:
    """The route of the forecasting peer."""
    app = FastAPI()

    @app.post(peer.PATH)
    async def forecast(request: ForecastRequest) -> JSONResponse:
        return JSONResponse(model.answer([request.model_dump()])[0])

    return app


APPS = {"recommendation": recommendation_app, "forecasting": forecasting_app}


def main() -> None:
    """Serve until killed."""
    workload, folder, port, num_threads = sys.argv[1:]
    peer = importlib.import_module(workload)
    model = peer.Model(Path(folder), int(num_threads))
    app = APPS[workload](peer, model)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
