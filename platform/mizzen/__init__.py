"""Mizzen: distributed training and serving of recommendation, chat and forecasting models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mizzen.client import AsyncClient as AsyncClient
    from mizzen.client import Client as Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    # The client's libraries are loaded when it is asked for: every module of Mizzen imports this one.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mizzen import client

    return getattr(client, name)
