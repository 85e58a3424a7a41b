"""The yardstick: the plainest FastAPI relay with the gateway's own transport."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from httpx_aiohttp import AiohttpTransport


def create_app() -> FastAPI:
    """Relays to the URL in BENCH_UPSTREAM."""
    app = FastAPI()
    client = httpx.AsyncClient(transport=AiohttpTransport(), timeout=60)
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
            async with client.stream("POST", url, content=body, headers=headers) as reply:
                async for data in reply.aiter_bytes():
                    yield data

        return StreamingResponse(events(), media_type="text/event-stream")

    return app
