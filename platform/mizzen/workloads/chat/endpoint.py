"""The HTTP routes of a chat model: OpenAI's chat completions, whole or as a stream, and its list of models.

It does not shape errors (the platform does), except for one that comes in the middle of a stream.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mizzen.errors import MizzenError, RequestError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.decoder import Decoder
from mizzen.workloads.chat.engine import Engine
from mizzen.workloads.chat.generation import Generation, Piece
from mizzen.workloads.chat.options import ChatOptions
from mizzen.workloads.chat.protocol import ChatRequest
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.tokens import prompt_ids, tokenizer_of
from mizzen.workloads.chat.vocabulary import Vocabulary
from mizzen.workloads.contract import Endpoint, ServedModel

CLIENT_CLOSED_REQUEST = 499


class ChatEndpoint(Endpoint):
    """Answers for one model version."""

    def __init__(self, model: ServedModel, options: ChatOptions) -> None:
        self._model = model
        self._options = options
        identity = model.identity
        self._version = f"{identity.name}@{identity.version}"
        self._known = list(dict.fromkeys([identity.name, self._version, model.app]))
        self._created = _seconds(model.facts.get("created_at"))
        self._engine: Engine | None = None
        self.router = APIRouter()
        routes = self.router.add_api_route
        routes("/v1/chat/completions", self.complete, methods=["POST"], response_model=None)
        routes("/v1/models", self.list_models, methods=["GET"])
        routes("/v1/models/{name}", self.show_model, methods=["GET"])

    async def start(self) -> None:
        """Load the model and generate one token."""
        self._tokenizer, engine = await asyncio.to_thread(self._load)
        self._engine = engine
        warm_up = prompt_ids(self._tokenizer, [{"role": "user", "content": "Hello"}])
        async with _Stream(engine, warm_up, Sampling(max_tokens=2, temperature=0)) as stream:
            async for _ in stream:
                pass

    async def close(self) -> None:
        """Stop the engine's thread and let the model go."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
            self._engine = None

    def problem(self) -> str | None:
        """See `Endpoint`: an engine that has failed does not come back."""
        failure = self._engine.failure if self._engine is not None else None
        return str(failure) if failure is not None else None

    @property
    def num_running(self) -> int:
        """Answers that are generated at this moment."""
        return self._engine.counters.running if self._engine is not None else 0

    def _load(self) -> tuple[Any, Engine]:
        tokenizer = tokenizer_of(self._model.folder)
        decoder = Decoder(
            self._model.folder,
            provider=self._model.runtime.provider,
            num_threads=self._model.runtime.num_threads,
            num_slots=self._options.max_concurrent,
            max_context=self._options.max_context,
        )
        vocabulary = Vocabulary(tokenizer, decoder.shape.end_tokens)
        engine = Engine(decoder, vocabulary, max_waiting=self._options.max_waiting)
        engine.start()
        return tokenizer, engine

    async def list_models(self) -> dict[str, Any]:
        """The names under which this model answers."""
        return {"object": "list", "data": [protocol.model_object(n, self._created) for n in self._known]}

    async def show_model(self, name: str) -> dict[str, Any]:
        """One of the names under which this model answers."""
        protocol.check_model(name, self._known)
        return protocol.model_object(name, self._created)

    async def complete(self, body: ChatRequest, request: Request) -> Response:
        """The assistant's next message, whole or as a stream of server-sent events."""
        protocol.check_model(body.model, self._known)
        engine = self._engine
        if engine is None:
            raise RuntimeError("the endpoint answers before it was started")
        prompt = self._prompt(body)
        max_tokens = protocol.max_tokens_that_fit(
            body, len(prompt), engine.context_length, self._options.default_max_tokens
        )
        stream = _Stream(engine, prompt, body.sampling(default_max_tokens=max_tokens))
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self._version,
            "system_fingerprint": self._model.identity.digest,
        }
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            stream.submit()  # here, so that a full queue is an answer of its own and not a broken stream
            return StreamingResponse(
                _events(stream, head, with_usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        return await _whole(stream, head, request)

    def _prompt(self, body: ChatRequest) -> list[int]:
        from jinja2 import TemplateError

        try:
            return prompt_ids(self._tokenizer, [message.plain() for message in body.messages])
        except TemplateError as cause:
            raise RequestError(
                f"the model's chat template refuses these messages: {cause}",
                saw=", ".join(message.role for message in body.messages),
                field="messages",
            ) from None


class _Stream:
    """The pieces of one generation, from the engine's thread to the event loop."""

    def __init__(self, engine: Engine, prompt: list[int], sampling: Sampling) -> None:
        self._engine = engine
        self._sampling = sampling
        self._generation: Generation | None = None
        self._pieces: asyncio.Queue[Piece | MizzenError] = asyncio.Queue()
        self.prompt = prompt

    def submit(self) -> None:
        loop = asyncio.get_running_loop()

        def sink(piece: Piece | MizzenError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._generation = self._engine.submit(self.prompt, self._sampling, sink)

    async def __aenter__(self) -> _Stream:
        if self._generation is None:
            self.submit()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._generation is not None:
            self._generation.cancel()  # of no effect if it is done

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            piece = await self._pieces.get()
            if isinstance(piece, MizzenError):
                raise piece
            yield piece
            if piece.finish is not None:
                return


async def _events(stream: _Stream, head: dict[str, Any], with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events; when the client is gone, the generator is closed and the generation cancelled."""
    async with stream:
        yield protocol.chunk(head, {"role": "assistant", "content": ""}, None, usage_later=with_usage)
        num_generated = 0
        try:
            async for piece in stream:
                num_generated = piece.num_tokens
                if piece.text:
                    yield protocol.chunk(head, {"content": piece.text}, None, usage_later=with_usage)
                if piece.finish:
                    yield protocol.chunk(head, {}, piece.finish, usage_later=with_usage)
        except MizzenError as error:
            # The status line is out already: the error is told in the stream, as OpenAI does.
            kind = {"message": str(error), "type": "server_error", "param": None, "code": None}
            yield protocol.event({"error": kind})
            return
        if with_usage:
            yield protocol.usage_chunk(head, protocol.usage(len(stream.prompt), num_generated))
        yield protocol.DONE


async def _whole(stream: _Stream, head: dict[str, Any], request: Request) -> Response:
    """The whole answer; if the client goes away meanwhile, the generation is cancelled."""

    async def collect() -> tuple[str, Piece]:
        texts = []
        async for piece in stream:
            texts.append(piece.text)
        return "".join(texts), piece

    async with stream:
        answer = asyncio.create_task(collect())
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            text, last = answer.result()
        finally:
            answer.cancel()
            gone.cancel()
    used = protocol.usage(len(stream.prompt), last.num_tokens)
    return JSONResponse(protocol.completion(head, text, last.finish, used))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(created_at: object) -> int:
    """A time of the manifest as OpenAI's seconds since 1970; 0 if it is not known."""
    if isinstance(created_at, str):
        return int(datetime.fromisoformat(created_at).timestamp())
    return int(created_at) if isinstance(created_at, int | float) else 0
