"""The HTTP routes of a chat model: OpenAI's chat completions, completions, embeddings and list of models.

It brings the parts together: `protocol` and `completions` read requests, `grounding` finds passages, `stream`
carries what the engine makes, `answers` writes it. Errors are shaped by the platform.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mizzen import metrics
from mizzen.errors import RequestError
from mizzen.workloads.chat import completions, embeddings, features, grounding, protocol, stream
from mizzen.workloads.chat.answers import ChatCompletion, ChatForm
from mizzen.workloads.chat.completions import Completion, CompletionForm, CompletionRequest
from mizzen.workloads.chat.decoder import Decoder
from mizzen.workloads.chat.embeddings import EmbeddingRequest, Embeddings
from mizzen.workloads.chat.engine import Engine
from mizzen.workloads.chat.grounding import Found, Room
from mizzen.workloads.chat.knowledge import FollowedKnowledge
from mizzen.workloads.chat.messages import ChatMessage, UserMessage, knows_tools, rendered, text_of
from mizzen.workloads.chat.options import ChatOptions, KnowledgeOptions
from mizzen.workloads.chat.prefixes import BLOCK_TOKENS
from mizzen.workloads.chat.protocol import ChatRequest, Generating, Model, Models
from mizzen.workloads.chat.records import Counters
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.chat.stream import Form, Stream
from mizzen.workloads.chat.tokens import prompt_ids, tokenizer_of
from mizzen.workloads.chat.vocabulary import Vocabulary
from mizzen.workloads.contract import Endpoint, Retriever, ServedModel, count_tokens

SHORT_CHARACTERS = 8192
"""A conversation up to this length becomes tokens on the event loop (a millisecond), others in a thread."""
WARM_UP = "Hello"


class ChatEndpoint(Endpoint):
    """Answers for one model version."""

    read_only = dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"), frozenset[str]())

    def __init__(self, model: ServedModel, options: ChatOptions) -> None:
        self._model = model
        self._options = options
        identity = model.identity
        self._known = list(dict.fromkeys([identity.name, f"{identity.name}@{identity.version}", model.app]))
        self._created = _seconds(model.facts.get("created_at"))
        self._engine: Engine | None = None
        self._knowledge: FollowedKnowledge | None = None
        self._embedding = asyncio.Lock()
        self.router = _router(self)

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the knowledge base, load the model, and generate a token. Raises `ServingError`."""
        if self._options.knowledge is not None:
            self._knowledge = await asyncio.to_thread(self._open_knowledge, self._options.knowledge)
        await asyncio.to_thread(self._load)
        prompt = self._encode([UserMessage(role="user", content=WARM_UP)])
        warm_up = Stream(self.engine, prompt, Sampling(max_tokens=2, temperature=0), {}, piecewise=False)
        await warm_up.submit()
        await warm_up.rest()
        self.engine.record(self._model.recorder)  # of what is asked for, not of this

    async def close(self) -> None:
        """Stop the threads and let the model go."""
        if self._knowledge is not None:
            await asyncio.to_thread(self._knowledge.close)
            self._knowledge = None
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
            self._engine = None

    def problem(self) -> str | None:
        """See `Endpoint`: an engine that has failed does not come back."""
        failure = self._engine.failure if self._engine is not None else None
        return str(failure) if failure is not None else None

    @property
    def engine(self) -> Engine:
        """What generates; only between `start` and `close`."""
        if self._engine is None:
            raise RuntimeError("the endpoint answers before it was started")
        return self._engine

    @property
    def counters(self) -> Counters:
        """What the engine has done so far, and does now."""
        return self.engine.counters

    def _open_knowledge(self, options: KnowledgeOptions) -> FollowedKnowledge:
        knowledge = FollowedKnowledge(self._model.retriever, options.model, options.refresh_s)
        knowledge.retriever.search(WARM_UP, 1)
        for outcome in ("hit", "miss"):
            self._model.recorder.count(metrics.KNOWLEDGE_LOOKUPS, 0, outcome=outcome)
        self._model.recorder.count(metrics.KNOWLEDGE_REFUSALS, 0)
        return knowledge

    def _load(self) -> None:
        tokenizer = tokenizer_of(self._model.folder)
        decoder = Decoder(
            self._model.folder,
            provider=self._model.runtime.provider,
            num_threads=self._model.runtime.num_threads,
            num_slots=self._options.max_concurrent,
            max_context=self._options.max_context,
            num_blocks=self._options.reused_tokens // BLOCK_TOKENS,
        )
        vocabulary = Vocabulary(tokenizer, decoder.shape.end_tokens)
        self._tokenizer = tokenizer
        self._native_tools = knows_tools(tokenizer)
        self._engine = Engine(decoder, vocabulary, max_waiting=self._options.max_waiting)
        self._engine.start()

    # --- routes -----------------------------------------------------------------------------------

    async def list_models(self) -> Models:
        """The names under which this application answers, its model for embeddings too."""
        models = [protocol.model_object(name, self._created) for name in self._names()]
        return Models(object="list", data=models)

    async def show_model(self, name: str) -> Model:
        """One of the names under which this application answers."""
        protocol.check_model(name, self._names())
        return protocol.model_object(name, self._created)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """The assistant's next message, whole or as a stream of server-sent events."""
        protocol.check_model(body.model, self._known)
        prompt, found = await self._prompt(body)
        form = ChatForm(
            protocol.head(self._model.identity, f"chatcmpl-{uuid.uuid4().hex}"),
            with_usage=body.with_usage,
            with_logprobs=bool(body.logprobs),
            extension=found.extension() if found is not None else None,
        )
        if self._does_not_know(found):
            return self._unknown(body, form)
        return await self._answer(body, "messages", prompt, form, request)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """A text goes on; whole or as a stream. It is the model alone: no messages, no documents."""
        protocol.check_model(body.model, self._known)
        prompt, echoed = await asyncio.to_thread(completions.prompt_of, body, self._tokenizer)
        head = protocol.head(self._model.identity, f"cmpl-{uuid.uuid4().hex}")
        return await self._answer(body, "prompt", prompt, CompletionForm(head, body, echoed), request)

    async def embed(self, body: EmbeddingRequest, request: Request) -> Response:
        """Embeddings of texts, by the embedding model of the application's knowledge base."""
        if self._knowledge is None:
            raise embeddings.no_embeddings(self._model.app)
        protocol.check_model(body.model, self._names())
        retriever = self._knowledge.retriever
        num_tokens = await asyncio.to_thread(embeddings.checked, body, retriever)
        count_tokens(request.scope, num_tokens)
        vectors_ND = await embeddings.embedded(body, retriever, self._embedding)
        # Half a second of writing numbers, where there are many: in a thread it stops nobody.
        return await asyncio.to_thread(
            lambda: JSONResponse(embeddings.body(body, retriever.identity, vectors_ND, num_tokens))
        )

    # --- answering --------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        more = embeddings.names(self._knowledge.retriever.identity) if self._knowledge is not None else []
        return list(dict.fromkeys([*self._known, *more]))

    def _encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        from jinja2 import TemplateError

        try:
            return prompt_ids(self._tokenizer, rendered(messages, native_tools=self._native_tools))
        except TemplateError as cause:
            raise RequestError(
                f"the model's chat template refuses these messages: {cause}",
                saw=", ".join(message.role for message in messages),
                field="messages",
            ) from None

    async def _prompt(self, body: ChatRequest) -> tuple[list[int], Found | None]:
        """The prompt's tokens, and what was found for it if there is a knowledge base."""
        if self._options.knowledge is not None and self._knowledge is not None:
            retriever = self._knowledge.retriever
            return await asyncio.to_thread(self._grounded, body, retriever, self._options.knowledge)
        if sum(len(text_of(message)) for message in body.messages) > SHORT_CHARACTERS:
            return await asyncio.to_thread(self._read, body.messages), None
        return self._read(body.messages), None

    def _read(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The tokens of what a client sent."""
        prompt = self._encode(messages)
        said = [(message.role, text_of(message)) for message in messages]
        self._model.watch_inputs(features.of(self._tokenizer, said, len(prompt)))
        return prompt

    def _grounded(
        self, body: ChatRequest, retriever: Retriever, options: KnowledgeOptions
    ) -> tuple[list[int], Found]:
        prompt = self._read(body.messages)
        self._max_tokens(body, "messages", len(prompt))  # too long already: nothing is searched for
        found = grounding.search(retriever, body.messages, options)
        self._model.recorder.count(metrics.KNOWLEDGE_LOOKUPS, outcome="hit" if found.passages else "miss")
        if not found.passages:
            return prompt, found
        room = Room.of(
            options,
            context=self.engine.context_length,
            asked=body.asked_tokens,
            default=self._options.default_max_tokens,
        )
        return grounding.fitted(found, room, body.messages, self._encode)

    def _max_tokens(self, body: Generating, field: str, num_prompt: int) -> int:
        context, default = self.engine.context_length, self._options.default_max_tokens
        return protocol.max_tokens_that_fit(body.asked_tokens, num_prompt, context, default, field)

    async def _answer(
        self, body: Generating, field: str, prompt: list[int], form: Form, request: Request
    ) -> Response:
        sampling = body.sampling(self._max_tokens(body, field, len(prompt)), len(self._tokenizer))
        is_stream = bool(body.stream)
        pieces = Stream(
            self.engine, prompt, sampling, request.scope, piecewise=is_stream, sharer=_sharer(request)
        )
        return await (stream.in_events if is_stream else stream.whole)(pieces, form, request)

    def _does_not_know(self, found: Found | None) -> bool:
        options = self._options.knowledge
        is_silent = found is not None and not found.passages
        return is_silent and options is not None and options.below_min_score == "refuse"

    def _unknown(self, body: ChatRequest, form: ChatForm) -> Response:
        """The answer without the model: as a refusal where JSON was asked for, which these words are not."""
        options = self._options.knowledge
        if options is None:
            raise RuntimeError("only an application with a knowledge base says that it does not know")
        self._model.recorder.count(metrics.KNOWLEDGE_REFUSALS)
        delta = {"refusal" if body.grammar() is not None else "content": options.unknown_answer}
        used = protocol.usage(0, 0, 0)
        if body.stream:
            return stream.event_stream(form.refused_events(delta, used))
        return JSONResponse(form.refused(delta, used))


def _router(endpoint: ChatEndpoint) -> APIRouter:
    router = APIRouter(tags=["chat"])
    route = router.add_api_route
    route(
        "/v1/chat/completions",
        endpoint.chat,
        methods=["POST"],
        response_model=ChatCompletion,
        responses={200: _also_as_stream("a `chat.completion.chunk`, the first of them with `mizzen`")},
    )
    route(
        "/v1/completions",
        endpoint.complete,
        methods=["POST"],
        response_model=Completion,
        responses={200: _also_as_stream("the same with new words")},
    )
    route("/v1/embeddings", endpoint.embed, methods=["POST"], response_model=Embeddings)
    route("/v1/models", endpoint.list_models, methods=["GET"], response_model=Models)
    route("/v1/models/{name}", endpoint.show_model, methods=["GET"], response_model=Model)
    return router


def _also_as_stream(chunk: str) -> dict[str, Any]:
    """What OpenAPI can say of server-sent events: that they are text and, in words, what is in them."""
    return {
        "description": "The whole answer or, with `stream: true`, server-sent events: each `data:` holds"
        f" {chunk}; the last one is `[DONE]`.",
        "content": {stream.EVENT_STREAM: {}},
    }


def _sharer(request: Request) -> str:
    """Who may share beginnings of prompts: requests with the same API key."""
    keys = [request.headers.get(name, "") for name in ("authorization", "x-api-key")]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest() if any(keys) else ""


def _seconds(created_at: object) -> int:
    """A time of the manifest as OpenAI's seconds since 1970; 0 if it is not known."""
    if isinstance(created_at, str):
        return int(datetime.fromisoformat(created_at).timestamp())
    return int(created_at) if isinstance(created_at, int | float) else 0
