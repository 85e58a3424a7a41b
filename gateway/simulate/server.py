"""The endpoints of the simulated model, and how to serve them."""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.simulate.deltas import TOKEN
from gateway.simulate.generation import Generation, Meter
from gateway.simulate.model import Model
from gateway.simulate.options import Chunking, ReasoningField, SimulatorOptions
from gateway.simulate.requests import Chat, RequestError, Tokenize, check, parsed
from gateway.simulate.traces import load_traces
from gateway.simulate.wire import VLLM_VERSION, Wire
from monitors.trace import Trace


class _Headers:
    """Sets the response headers that vLLM always sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["vary"], headers["x-request-id"] = "Origin", request_id
            await send(message)

        await self._app(scope, receive, sent)


class _Server:
    """The endpoints."""

    def __init__(self, traces: Iterable[Trace], options: SimulatorOptions) -> None:
        self._options, self._model = options, Model(traces, options)
        self._meter, self._started = Meter(), int(time.time())

    async def chat(self, request: Request) -> Response:
        chat = await parsed(request, Chat)
        check(chat, self._options)
        reply = self._model.reply(chat)
        name = request.headers.get("x-request-id") or uuid.uuid4().hex[:16]
        wire = Wire(chat, reply, self._options, name)
        rate = self._options.tokens_per_second
        return Generation(
            reply, wire, self._meter, tokens_per_second=rate, stream=bool(chat.stream)
        )

    async def tokenize(self, request: Request) -> Response:
        tokens = TOKEN.findall((await parsed(request, Tokenize)).prompt)
        ids = [zlib.crc32(token.encode(errors="replace")) % 50_000 for token in tokens]
        longest = self._options.max_model_len
        return JSONResponse(
            {"count": len(tokens), "max_model_len": longest, "tokens": ids, "token_strs": None}
        )

    async def models(self, _: Request) -> Response:
        permission = {
            "id": f"modelperm-{self._options.seed:016x}",
            "object": "model_permission",
            "created": self._started,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        model = {
            "id": self._options.model,
            "object": "model",
            "created": self._started,
            "owned_by": "vllm",
            "root": self._options.model,
            "parent": None,
            "max_model_len": self._options.max_model_len,
            "permission": [permission],
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, _: Request) -> Response:
        return Response()

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": VLLM_VERSION})

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._meter.exposition(self._options.model))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - the handler's signature is wider
    return JSONResponse(error.body, error.status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's signature is wider
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def simulator(traces: Iterable[Trace], options: SimulatorOptions | None = None) -> ASGIApp:
    """The simulated MLRM as an ASGI application. Of traces with one prompt the first counts."""
    server = _Server(traces, options or SimulatorOptions())
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/tokenize", server.tokenize, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/health", server.health),
            Route("/version", server.version),
            Route("/metrics", server.metrics),
        ],
        exception_handlers={RequestError: _refused, HTTPException: _http_error},
    )
    return _Headers(app)


def run_simulator(
    traces: Path,
    port: int,
    tokens_per_second: float,
    *,
    reasoning_field: ReasoningField = "reasoning",
    chunking: Chunking = "token",
    seed: int = 0,
    ignore_correction: float = 0.0,
    strict_model: bool = False,
) -> None:
    """Serve the simulated MLRM on 127.0.0.1 until interrupted."""
    options = SimulatorOptions(
        tokens_per_second=tokens_per_second,
        reasoning_field=reasoning_field,
        chunking=chunking,
        seed=seed,
        ignore_correction=ignore_correction,
        strict_model=strict_model,
    )
    uvicorn.run(
        simulator(load_traces(traces), options),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
