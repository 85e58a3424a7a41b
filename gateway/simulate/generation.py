"""Sends a reply: its deltas at their deadlines, until all are sent or the client left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.simulate.deltas import Reply
from gateway.simulate.wire import Wire


@dataclass(slots=True)
class Meter:
    """What /metrics tells."""

    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})

    @contextmanager
    def request(self, reply: Reply) -> Iterator[None]:
        """Count a request as running; vLLM counts an aborted one nowhere else."""
        self.running += 1
        self.prompt_tokens += reply.prompt_tokens
        try:
            yield
            self.finished[reply.finish_reason] += 1
        finally:
            self.running -= 1

    def exposition(self, model: str) -> str:
        """The Prometheus text."""
        labels = f'engine="0",model_name="{model}"'
        by_reason = {
            f'engine="0",finished_reason="{reason}",model_name="{model}"': count
            for reason, count in self.finished.items()
        }
        rows: list[tuple[str, str, dict[str, int]]] = [
            ("num_requests_running", "gauge", {labels: self.running}),
            ("num_requests_waiting", "gauge", {labels: 0}),
            ("prompt_tokens_total", "counter", {labels: self.prompt_tokens}),
            ("generation_tokens_total", "counter", {labels: self.generation_tokens}),
            ("request_success_total", "counter", by_reason),
        ]
        lines: list[str] = []
        for name, kind, samples in rows:
            lines.append(f"# TYPE vllm:{name} {kind}")
            lines += [f"vllm:{name}{{{label}}} {float(value)}" for label, value in samples.items()]
        return "\n".join(lines) + "\n"


class _Pace:
    """Holds a generation to its speed by absolute deadlines: lateness does not add up."""

    def __init__(self, tokens_per_second: float, meter: Meter) -> None:
        self._rate, self._meter = tokens_per_second, meter
        self._clock = asyncio.get_running_loop().time
        self._start, self._reached = self._clock(), 0

    async def reach(self, tokens: int) -> None:
        """Return when the model has generated so many tokens."""
        late = self._clock() - self._start
        await asyncio.sleep(max(0.0, tokens / self._rate - late) if self._rate else 0.0)
        self._meter.generation_tokens += tokens - self._reached
        self._reached = tokens


class Generation(Response):
    """The response to a chat request: generates while the client listens, and no longer."""

    def __init__(
        self, reply: Reply, wire: Wire, meter: Meter, *, tokens_per_second: float, stream: bool
    ) -> None:
        super().__init__()
        self._reply, self._wire, self._meter = reply, wire, meter
        self._rate, self._streams = tokens_per_second, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        work = self._stream(send) if self._streams else self._answer(scope, receive, send)
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(work)
            watcher = group.create_task(_cancel_when_gone(receive, worker))
            worker.add_done_callback(lambda _: watcher.cancel())

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        with self._meter.request(self._reply):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send(send, self._wire.first())
            pace = _Pace(self._rate, self._meter)
            deltas, final = self._wire.split()
            for delta in deltas:
                await pace.reach(delta.tokens)
                await _send(send, self._wire.text(delta))
            await pace.reach(self._reply.tokens)
        for event in self._wire.last(final):
            await _send(send, event)
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._meter.request(self._reply):
            pace = _Pace(self._rate, self._meter)
            for delta in self._reply.deltas:
                await pace.reach(delta.tokens)
            await pace.reach(self._reply.tokens)
        reply = Response(self._wire.whole(), media_type="application/json")
        await reply(scope, receive, send)


async def _send(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _cancel_when_gone(receive: Receive, worker: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    worker.cancel()
