"""The yardstick: the plainest FastAPI relay with the gateway's own transport, one that reads.

Every `data:` event is parsed with the standard library's json and written anew; what came in one
read of the upstream leaves in one write, which is the cheapest that plain code can do.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from httpx_aiohttp import AiohttpTransport


def create_app() -> FastAPI:
    """Relays to the URL in BENCH_UPSTREAM."""
    app = FastAPI()
    unlimited = httpx.Limits(max_connections=None)
    client = httpx.AsyncClient(transport=AiohttpTransport(), timeout=60, limits=unlimited)
    upstream = os.environ["BENCH_UPSTREAM"]

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.body()

        async def events() -> AsyncIterator[bytes]:
            headers = {"content-type": "application/json"}
            url = f"{upstream}/chat/completions"
            rest = b""
            async with client.stream("POST", url, content=body, headers=headers) as reply:
                async for data in reply.aiter_bytes():
                    *complete, rest = (rest + data).split(b"\n\n")
                    if complete:
                        yield b"".join(map(_written_anew, complete))

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _written_anew(event: bytes) -> bytes:
    data = event.removeprefix(b"data: ")
    if data != b"[DONE]":
        data = json.dumps(json.loads(data)).encode()
    return b"data: " + data + b"\n\n"
