"""NeMo Guardrails behind the plainest FastAPI app: its own server logs every event, which costs."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from nemoguardrails import LLMRails, RailsConfig  # type: ignore[import-not-found]


def create_app() -> FastAPI:
    """Relays to the URL in BENCH_UPSTREAM through the rails in `nemo`."""
    app = FastAPI()
    config = RailsConfig.from_path(str(Path(__file__).parent / "nemo"))
    config.models[0].parameters["base_url"] = os.environ["BENCH_UPSTREAM"]
    rails = LLMRails(config)

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()

        async def events() -> AsyncIterator[str]:
            async for text in rails.stream_async(messages=body["messages"]):
                yield f"data: {json.dumps(_chunk(text))}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "bench", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}
