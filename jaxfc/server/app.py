"""The HTTP application: OpenAI's protocol over a backend."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from jaxfc.server.choices import Choice, Delta
from jaxfc.server.connection import ClientGone, EventStream, read_body, unless_gone
from jaxfc.server.counters import Counters
from jaxfc.server.errors import ApiError
from jaxfc.server.fields import read_json
from jaxfc.server.gate import Gate
from jaxfc.server.protocol import Backend, Broken, Busy, NotReady, Order, PromptError, Stream
from jaxfc.server.replies import ChatReplies, TextReplies, Usage
from jaxfc.server.requests import Chat, Texts, read_chat, read_texts
from jaxfc.server.settings import Limits
from jaxfc.server.text import Splitter

_RETRY_SECONDS = 1


def make_app(backend: Backend, limits: Limits, *, api_key: str | None = None) -> FastAPI:
    """The application.

    Args:
        backend: what generates.
        limits: what is refused.
        api_key: that every request but /health must bring; None asks for none.
    """
    app = FastAPI(title="jaxfc", openapi_url=None)
    counters = Counters()
    service = _Service(backend, limits, counters)
    app.add_middleware(Gate, limits=limits, counters=counters, api_key=api_key)
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, _explain)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.answer(request, service.chat)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await service.answer(request, service.texts)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(backend)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != backend.name:
            raise ApiError(404, f"the model {name!r} does not exist; this server has {backend.name!r}.")
        return JSONResponse(_model(backend))

    @app.get("/health")
    async def health() -> Response:
        state = backend.state()
        status = "ok" if state.ready else "failed" if state.problem else "not ready"
        problem = {"problem": state.problem} if state.problem else {}
        return JSONResponse({"status": status} | problem, 200 if state.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(counters.text(backend.state()), media_type="text/plain; version=0.0.4")

    return app


def _model(backend: Backend) -> dict[str, Any]:
    context = backend.most_prompt_tokens + backend.most_completion_tokens
    return {
        "id": backend.name,
        "object": "model",
        "created": backend.created,
        "owned_by": "jaxfc",
        "max_model_len": context,
    }


async def _explain(request: Request, error: Exception) -> Response:
    """Any failure in OpenAI's form."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
    return as_refusal(error).response()


def as_refusal(error: Exception) -> ApiError:
    """What the client is told of an exception."""
    match error:
        case ApiError():
            return error
        case PromptError():
            return ApiError(400, str(error), code="invalid_prompt")
        case Busy():
            return ApiError(429, str(error), code="queue_full", retry_after=_RETRY_SECONDS)
        case NotReady():
            return ApiError(503, str(error), code="not_ready", retry_after=_RETRY_SECONDS)
        case TimeoutError():
            return ApiError(504, "the reply took longer than this server allows.", code="timeout")
        case Broken():
            return ApiError(500, f"the model failed: {error}", code="model_failed")
    return ApiError(500, "the server failed; its log says why.", code="internal_error")


class _Service:
    """Answers requests for completions."""

    def __init__(self, backend: Backend, limits: Limits, counters: Counters):
        self._backend, self._limits, self._counters = backend, limits, counters
        # One thread: tokenizers are not made for several, and the event loop is not held up by long prompts.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    async def answer(self, request: Request, answer: Callable) -> Response:
        """One request, whole or as a stream."""
        deadline = asyncio.get_running_loop().time() + self._limits.seconds
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, self._limits.body_bytes)
                return await unless_gone(request.receive, answer(read_json(body), deadline))
        except (ClientGone, ClientDisconnect):
            return Response(status_code=499)
        except (PromptError, Busy, NotReady, Broken, TimeoutError) as error:
            raise as_refusal(error) from error

    async def chat(self, document: Mapping[str, Any], deadline: float) -> Response:
        """Chat completions."""
        asked = read_chat(document, self._backend, self._limits)
        tools = asked.offer.tools if asked.offer else ()
        if asked.draw.must_call:
            await self._in_thread(self._backend.check_calls, asked.draw.must_call)
        prompt = await self._in_thread(self._backend.chat, asked.messages, tools)
        choices = [Choice(asked.stops, Splitter(self._backend.prompt), asked.offer) for _ in range(asked.choices)]
        return await self._reply(asked, [prompt], choices, ChatReplies(self._backend.name, asked.logprobs), deadline)

    async def texts(self, document: Mapping[str, Any], deadline: float) -> Response:
        """Plain completions."""
        asked = read_texts(document, self._backend, self._limits)
        prompts = [
            await self._in_thread(self._backend.encode, prompt) if isinstance(prompt, str) else prompt
            for prompt in asked.prompts
        ]
        choices = [Choice(asked.stops) for _ in range(asked.choices * len(prompts))]
        return await self._reply(asked, prompts, choices, TextReplies(self._backend.name, asked.logprobs), deadline)

    async def _in_thread(self, function: Callable, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, function, *arguments)

    async def _reply(
        self,
        asked: Chat | Texts,
        prompts: Sequence[Sequence[int]],
        choices: list[Choice],
        replies: ChatReplies | TextReplies,
        deadline: float,
    ) -> Response:
        for prompt in prompts:
            self._check(prompt, asked)
        stream = self._backend.submit([Order(prompt, asked.choices, asked.draw) for prompt in prompts])
        prompt_tokens = sum(map(len, prompts))
        self._counters.prompt_tokens += prompt_tokens
        deltas = self._deltas(stream, choices)
        if asked.stream:
            events = self._events(asked, deltas, choices, replies, prompt_tokens)
            return EventStream(events, deadline=deadline, as_refusal=as_refusal, close=stream.cancel)
        async with contextlib.aclosing(deltas):
            async for _ in deltas:
                pass
        return JSONResponse(replies.whole(choices, Usage(prompt_tokens, choices)))

    def _check(self, prompt: Sequence[int], asked: Chat | Texts):
        most, field = self._backend.most_prompt_tokens, "messages" if isinstance(asked, Chat) else "prompt"
        if len(prompt) > most:
            message = f"the prompt has {len(prompt)} tokens; this server takes up to {most}."
            raise ApiError(400, message, param=field, code="context_length_exceeded")
        if not prompt:
            raise ApiError(400, "the prompt has no token; it needs at least one.", param=field)
        if not all(0 <= token < self._backend.vocabulary for token in prompt):
            message = f"the prompt has tokens that do not exist; they go from 0 to {self._backend.vocabulary - 1}."
            raise ApiError(400, message, param="prompt", code="invalid_value")

    async def _deltas(self, stream: Stream, choices: Sequence[Choice]) -> AsyncIterator[tuple[int, Delta]]:
        """What is new of which choice; whatever ends this, the model side is told that no more is wanted."""
        start, is_first = time.monotonic(), True
        try:
            async for number, update in stream.updates():
                if is_first:
                    self._counters.first_token_seconds += time.monotonic() - start
                    self._counters.first_tokens += 1
                    is_first = False
                delta = choices[number].add(update)
                if choices[number].finish:
                    stream.cancel(number)
                yield number, delta
        finally:
            stream.cancel()
            self._counters.completion_tokens += sum(choice.tokens for choice in choices)

    async def _events(self, asked, deltas, choices, replies, prompt_tokens) -> AsyncIterator[dict[str, Any]]:
        opened = set()
        async with contextlib.aclosing(deltas):
            async for number, delta in deltas:
                if number not in opened and (opening := replies.opening(number)):
                    yield opening
                opened.add(number)
                for chunk in replies.chunks(number, delta, choices[number]):
                    yield chunk
        if asked.include_usage:
            yield replies.last(Usage(prompt_tokens, choices))
