"""The yardstick: the plainest FastAPI relay with the gateway's own transport, one that reads.

Every `data:` event is parsed with the standard library's json and written anew, one yield per
event: what the plainest code that looks at its events does.
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
    client = httpx.AsyncClient(transport=AiohttpTransport(), timeout=60, limits=_UNLIMITED)
    upstream = os.environ["BENCH_UPSTREAM"]

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.body()

        async def events() -> AsyncIterator[str]:
            headers = {"content-type": "application/json"}
            url = f"{upstream}/chat/completions"
            async with client.stream("POST", url, content=body, headers=headers) as reply:
                async for line in reply.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = line[6:]
                    if data != "[DONE]":
                        data = json.dumps(json.loads(data))
                    yield f"data: {data}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


_UNLIMITED = httpx.Limits(max_connections=None)
