"""The load generator: sends requests, keeps what comes with its time, and reads it afterwards.

While streams run it only appends bytes to lists, so that it takes no part in what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from monitors.wire import DONE, SSEDecoder
from tests.bench.upstream import Order


@dataclass(slots=True)
class Received:
    """One stream as the client got it. Times are CLOCK_MONOTONIC seconds."""

    order: Order
    asked: float
    status: int = 0
    first_chunk: float | None = None
    """The first SSE event, whatever it holds."""
    first_text: float | None = None
    reasoning: str = ""
    content: str = ""
    arrivals: list[tuple[int, float]] = field(default_factory=list)
    """(characters of reasoning + content so far, time), where they grew."""
    finish_reason: str | None = None
    ended: float = 0.0
    done: bool = False
    """`[DONE]` came."""
    guard: dict[str, Any] | None = None

    @property
    def characters(self) -> int:
        return len(self.reasoning) + len(self.content)


async def stream_all(
    base: str, orders: Sequence[Order], *, stagger: float = 0.0, within: float = 120.0
) -> list[Received]:
    """Run all orders at once against `base`, `stagger` seconds apart; in the order given."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_stream(base, order, index * stagger, within))
            for index, order in enumerate(orders)
        ]
    return [task.result() for task in tasks]


async def stream_one(base: str, order: Order, *, within: float = 120.0) -> Received:
    """Run one order."""
    return await _stream(base, order, 0.0, within)


async def _stream(base: str, order: Order, after: float, within: float) -> Received:
    await asyncio.sleep(after)
    received = Received(order, time.monotonic())
    return read(received, await exchange(base, str(order), within=within))


async def exchange(
    base: str,
    prompt: str,
    *,
    model: str = "bench",
    stream: bool = True,
    within: float = 120.0,
) -> list[tuple[float, bytes]]:
    """One request on a connection of its own; (time, bytes) of what came until the reply's end.

    After `within` seconds the client leaves, and what came is kept: a reply without its end.
    """
    loop = asyncio.get_running_loop()
    where = urlsplit(base)
    transport, client = await loop.create_connection(
        lambda: _Client(loop), where.hostname or "", where.port or 0
    )
    transport.write(_request(where.netloc, prompt, model, stream=stream))
    try:
        async with asyncio.timeout(within):
            await client.ended
    except TimeoutError:
        pass
    finally:
        transport.abort()
    return client.pieces


def _request(host: str, prompt: str, model: str, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    body = msgspec.json.encode({"model": model, "stream": stream, "messages": messages})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if stream else 'close'}\r\n\r\n"
    )
    return head.encode() + body


class _Client(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))
        if data.endswith(b"0\r\n\r\n"):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def read(stream: Received, pieces: list[tuple[float, bytes]]) -> Received:
    """Everything there is to know of the bytes."""
    head, body, decoder = bytearray(), bytearray(), SSEDecoder()
    for when, data in pieces:
        stream.ended = when
        if stream.status:
            body += data
        else:
            head += data
            first, end, rest = bytes(head).partition(b"\r\n\r\n")
            if not end:
                continue
            stream.status = int(first.split(b" ", 2)[1])
            body += rest
        before = stream.characters
        for payload in decoder.feed(_unframe(body)):
            if stream.first_chunk is None:
                stream.first_chunk = when
            _event(stream, payload)
        if stream.characters > before:
            if stream.first_text is None:
                stream.first_text = when
            stream.arrivals.append((stream.characters, when))
    return stream


def _unframe(body: bytearray) -> bytes:
    """Take the complete HTTP chunks off the front of `body`."""
    out = b""
    while (end := body.find(b"\r\n")) >= 0:
        size = int(body[:end] or b"0", 16)
        if len(body) < end + 4 + size:
            break
        out += body[end + 2 : end + 2 + size]
        del body[: end + 4 + size]
    return out


def _event(stream: Received, payload: bytes) -> None:
    if payload == DONE:
        stream.done = True
        return
    event = msgspec.json.decode(payload)
    stream.guard = event.get("guard") or stream.guard
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        stream.reasoning += delta.get("reasoning") or delta.get("reasoning_content") or ""
        stream.content += delta.get("content") or ""
        stream.finish_reason = choice.get("finish_reason") or stream.finish_reason
        stream.guard = choice.get("guard") or stream.guard
