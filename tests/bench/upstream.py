"""A paced upstream on vLLM's wire, inside the bench's own process, so that send times are known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = [
    "The",
    "user",
    "wants",
    "to",
    "know",
    "how",
    "rivers",
    "find",
    "their",
    "way",
    "to",
    "the",
    "sea",
    "and",
    "why",
    "they",
    "bend",
    "so",
    "much.",
    "Water",
    "takes",
    "the",
    "lowest",
    "ground,",
    "so",
    "a",
    "small",
    "bend",
    "grows",
    "as",
    "the",
    "outer",
    "bank",
    "wears",
    "away.",
    "On",
    "flat",
    "land",
    "the",
    "stream",
    "is",
    "slow,",
    "and",
    "it",
    "leaves",
    "its",
    "sand",
    "on",
    "the",
    "inner",
    "side",
    "of",
    "each",
    "curve.",
    "I",
    "can",
    "explain",
    "this",
    "with",
    "a",
    "picture",
    "of",
    "a",
    "path",
    "in",
    "a",
    "garden",
    "after",
    "heavy",
    "rain.",
]
SHORT = 64  # max_tokens up to this gets a short reply: the probe's requests


class PacedUpstream:
    """Streams `chunks` deltas at `rate` a second; remembers when each left, by stream."""

    def __init__(self, chunks: int, rate: float) -> None:
        self.chunks, self.rate = chunks, rate
        self.sent: dict[str, list[tuple[int, float]]] = {}
        """Per stream name: (characters so far, time it was sent)."""
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._models),
            ]
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "bench", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        short = (body.get("max_tokens") or SHORT + 1) <= SHORT
        name = str(body["messages"][-1]["content"])
        return StreamingResponse(
            self._events(name, 4 if short else self.chunks), media_type="text/event-stream"
        )

    async def _events(self, name: str, chunks: int) -> AsyncIterator[bytes]:
        sent = self.sent[name] = []
        head = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "bench",
        }
        characters = 0
        start = time.monotonic()
        for index in range(chunks):
            word = WORDS[index % len(WORDS)] + " "
            usage = {"prompt_tokens": 9, "completion_tokens": index + 1, "total_tokens": index + 10}
            choice = {"index": 0, "delta": {"reasoning": word}, "finish_reason": None}
            data = msgspec.json.encode({**head, "choices": [choice], "usage": usage})
            await asyncio.sleep(max(0.0, start + index / self.rate - time.monotonic()))
            characters += len(word)
            sent.append((characters, time.monotonic()))
            yield b"data: " + data + b"\n\n"
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield b"data: " + msgspec.json.encode({**head, "choices": [last]}) + b"\n\n"
        yield b"data: [DONE]\n\n"
