"""An endpoint that counts what it is asked, and misbehaves as told: raw HTTP over a socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

MODEL = "counted-model"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"


@dataclass(slots=True)
class Asked:
    """One chat request."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    nth: int
    """How often this very request has come before, from 0."""

    @property
    def text(self) -> str:
        """Of its last message."""
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


Script = Callable[[Asked], AsyncIterator[bytes]]
"""What goes over the wire, from the status line to the end of the connection."""


def event(
    *, content: Any = None, reasoning: str | None = None, finish: str | None = None, **more: Any
) -> bytes:
    """One chunk of a stream."""
    delta = {"content": content, "reasoning": reasoning}
    choice = {"index": 0, "delta": {k: v for k, v in delta.items() if v is not None}}
    chunk = {"choices": [{**choice, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
DONE = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
GOOD = (
    event(reasoning="Let me see. "),
    event(reasoning="It is blue."),
    event(content="The sky "),
    event(content="is blue."),
    event(finish="stop"),
    DONE,
)


async def good(asked: Asked) -> AsyncIterator[bytes]:
    """A whole reply."""
    yield STREAM + b"\r\n"
    yield b"".join(GOOD)


def status(code: int, body: object = None, **headers: str) -> Script:
    """A reply with this status."""

    async def send(asked: Asked) -> AsyncIterator[bytes]:
        data = json.dumps(body if body is not None else {"error": {"message": "secret words"}})
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        yield (
            f"HTTP/1.1 {code} Said\r\ncontent-type: application/json\r\n{lines}"
            f"content-length: {len(data)}\r\nconnection: close\r\n\r\n{data}"
        ).encode()

    return send


def sends(*parts: bytes, head: bytes = STREAM) -> Script:
    """A stream of these parts, then the end of the connection."""

    async def send(asked: Asked) -> AsyncIterator[bytes]:
        yield head + b"\r\n"
        for part in parts:
            yield part

    return send


@dataclass
class Endpoint:
    """A context manager; serves on a thread of its own. Paths tell arms apart: /NAME/v1."""

    script: Script = good
    policy: str | None = None
    models: tuple[str, ...] = (MODEL,)
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)
    """Replies that were sent to their end, by request."""
    busy: int = 0
    most_busy: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _ready: threading.Event = field(default_factory=threading.Event)
    _stop: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def url(self, arm: str = "unguarded") -> str:
        return f"http://127.0.0.1:{self.port}/{arm}/v1"

    @property
    def times_asked(self) -> Counter[str]:
        """How often each request came, by its path and body."""
        return Counter(self._counts)

    def die(self) -> None:
        """From a script: nothing is served any more."""
        assert self._stop is not None
        self._stop.set()

    def __enter__(self) -> Endpoint:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None and self._stop is not None and self._thread is not None
        if not self._thread.is_alive():  # it was told to die
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        writers: set[asyncio.StreamWriter] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: writers.discard(writer))

        server = await asyncio.start_server(
            connected, "127.0.0.1", self.port, limit=1 << 24, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        # asyncio leaves open what it is about to accept when a server closes: let it finish first.
        self._loop.remove_reader(server.sockets[0].fileno())
        await asyncio.sleep(0.02)
        server.close()
        for _ in range(3):  # also those that were just accepted; then their sockets are let go
            for writer in tuple(writers):
                writer.transport.abort()
            for task in tuple(tasks):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.02)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._request(reader, writer)
        finally:
            if self._stop is not None and self._stop.is_set():
                writer.transport.abort()
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        path = first.split(" ")[1]
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if path.endswith("/chat/completions"):
            key = f"{path} {hashlib.sha256(body).hexdigest()}"
            asked = Asked(path, json.loads(body), headers, self._counts[key])
            self._counts[key] += 1
            self.asked.append(asked)
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
            try:
                async for part in self.script(asked):
                    writer.write(part)
                    await writer.drain()
                self.finished[key] += 1
            finally:
                self.busy -= 1
            return
        found: object = {"error": "no such path"}
        code = 404
        if path.endswith("/v1/models"):
            code, found = 200, {"data": [{"id": name} for name in self.models]}
        elif path == "/guarded/readyz" and self.policy is not None:
            code, found = 200, {"policy": self.policy}
        data = json.dumps(found)
        writer.write(
            f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(data)}\r\n\r\n{data}".encode()
        )
        await writer.drain()
