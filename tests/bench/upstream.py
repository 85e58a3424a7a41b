"""The upstream of every variant, in a process of its own: vLLM's wire, encoded before it is asked.

A bare protocol, because an upstream that costs more than what is measured would set the pace. What
it is to send stands in the last user message, which every proxy hands on (`Order`). It remembers
when each chunk left; `GET /sent/NAME` tells. The clock is the machine's: CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import msgspec
import uvloop

from tests.bench.text import script

_ORDER = re.compile(rb"\[stream (\S+) chunks=(\d+) rate=(\d+) burst=(\d+)\]")
_PROBE = 8  # chunks of a reply that nobody ordered: the gateway's probe
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"


@dataclass(slots=True, frozen=True)
class Order:
    """What one request is to get."""

    name: str
    chunks: int
    rate: int
    """Chunks a second; 0: as fast as they are taken."""
    burst: int = 0
    """Chunks that go at once before the pace begins."""

    def __str__(self) -> str:
        return (
            "How do rivers find their way to the sea? "
            f"[stream {self.name} chunks={self.chunks} rate={self.rate} burst={self.burst}]"
        )

    @classmethod
    def read(cls, body: bytes) -> Order:
        """The order in a request's body; of a body without one, a short reply."""
        found = _ORDER.search(body)
        if found is None:
            return cls("", _PROBE, 0)
        name, chunks, rate, burst = found.groups()
        return cls(name.decode(), int(chunks), int(rate), int(burst))


@cache
def events(chunks: int, usage: bool, each: bool) -> list[bytes]:
    """One HTTP chunk per event: role, `chunks` tokens, finish, usage if asked for, [DONE].

    `each`: continuous usage, on every event, as the gateway asks for it.
    """
    reply = script(chunks)
    deltas = [{"reasoning": token} for token in reply.reasoning]
    deltas += [{"content": token} for token in reply.content]
    out = [_event({"role": "assistant", "content": ""}, 0, each)]
    out += [_event(delta, count, each) for count, delta in enumerate(deltas, 1)]
    out.append(_event({}, chunks, each, "stop"))
    if usage:
        out.append(_framed({**_chunk(), "choices": [], "usage": _usage(chunks)}))
    return [*out, _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def _event(delta: dict[str, str], count: int, each: bool, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_chunk(), "choices": [{**choice, "token_ids": None}]}
    return _framed({**chunk, "usage": _usage(count)} if each else chunk)


def _chunk() -> dict[str, object]:
    return {
        "id": "chatcmpl-b9fe180a3067ad01",
        "object": "chat.completion.chunk",
        "created": 1795231887,
        "model": "bench",
    }


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 16, "total_tokens": 16 + count, "completion_tokens": count}


def _framed(chunk: dict[str, object]) -> bytes:
    return _frame(b"data: " + msgspec.json.encode(chunk) + b"\n\n")


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; one request at a time."""

    def __init__(self, sent: dict[str, array[float]], loop: asyncio.AbstractEventLoop) -> None:
        self._all_sent, self._loop = sent, loop
        self._input = bytearray()
        self._transport: asyncio.Transport
        self._paused = self._gone = False
        self._pump: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pump is not None:
            self._pump()

    def data_received(self, data: bytes) -> None:
        self._input += data
        head, end, rest = bytes(self._input).partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        del self._input[: len(head) + 4 + size]
        target = head.split(b" ", 2)[1].decode()
        if target.endswith("/chat/completions"):
            self._chat(rest[:size])
        elif target.startswith("/sent/"):
            self._answer(msgspec.json.encode(list(self._all_sent.pop(target[6:], []))))
        else:  # /v1/models, /health, and whatever a proxy asks for
            self._answer(b'{"object":"list","data":[{"id":"bench","object":"model"}]}')

    def _answer(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)

    def _chat(self, body: bytes) -> None:
        order = Order.read(body)
        each = b"continuous_usage_stats" in body
        usage = b'"include_usage":true' in body.replace(b" ", b"")
        output = events(order.chunks, usage, each)
        sent = array("d")
        if order.name:
            self._all_sent[order.name] = sent
        self._transport.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
        start, clock, burst = self._loop.time(), time.monotonic, order.burst
        pace = 1 / order.rate if order.rate else 0.0
        position = 0

        def pump() -> None:
            nonlocal position
            self._pump = None
            if self._gone:
                return
            if self._paused:
                self._pump = pump
                return
            sent.append(clock())  # first: the reader may be quicker than the next line
            self._transport.write(output[position])
            position += 1
            if position >= len(output):
                return
            if pace and position > burst:
                self._loop.call_at(start + (position - burst) * pace, pump)
            else:
                self._loop.call_soon(pump)

        pump()


async def _serve(port: int) -> None:
    sent: dict[str, array[float]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(sent, loop), "127.0.0.1", port, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
