"""`Client` and `AsyncClient`: a server's applications as attributes, and what all applications have.

    client = mizzen.Client("http://127.0.0.1:8000", api_key=key)
    client.recommendation.recommend(user_id="196", num_results=5)
    client.forecasting.forecast([{"name": "sales", "series": values, "frequency": "M"}], horizon=6)
    client.chat.complete("Hello!").text
    with client.chat.stream("Tell me a story.") as chunks:
        for chunk in chunks: print(chunk.text, end="")

An application under another path than its workload's name: `client.recommendation.at("/films")`. What the
methods raise stands in `errors`. This module sends nothing itself.
"""

from __future__ import annotations

from typing import Self

import httpx

from mizzen.client.applications import Applications, AsyncApplications
from mizzen.client.chat import AsyncChat, Chat
from mizzen.client.forecasting import AsyncForecasting, Forecasting
from mizzen.client.knowledge import AsyncKnowledge, Knowledge
from mizzen.client.recommendation import AsyncRecommendation, Recommendation
from mizzen.client.sending import AsyncSender, Options, Sender

TIMEOUT_S = 60.0
MAX_RETRIES = 2


class Client:
    """Talks to a server and waits for its answers. Safe to share between threads; close it in the end."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout_s` bounds the wait for each part of an answer, for each try.

        `transport` is what sends instead of the network, for proxies and tests. Raises `ClientError` if an
        argument is wrong; nothing is sent yet.
        """
        self._sender = Sender(Options(base_url, api_key, timeout_s, max_retries), transport)
        self.recommendation = Recommendation(self._sender, "/recommendation")
        self.chat = Chat(self._sender, "/chat")
        self.forecasting = Forecasting(self._sender, "/forecasting")
        self.knowledge = Knowledge(self._sender, "/kb")
        self.applications = Applications(self._sender, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sender.options.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()


class AsyncClient:
    """As `Client`, for one event loop: its methods are awaited."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `Client`."""
        self._sender = AsyncSender(Options(base_url, api_key, timeout_s, max_retries), transport)
        self.recommendation = AsyncRecommendation(self._sender, "/recommendation")
        self.chat = AsyncChat(self._sender, "/chat")
        self.forecasting = AsyncForecasting(self._sender, "/forecasting")
        self.knowledge = AsyncKnowledge(self._sender, "/kb")
        self.applications = AsyncApplications(self._sender, "")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sender.options.base_url!r})"

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()
