"""What one generation asks of the upstream: first the client's request, then to go on with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import UpstreamHTTPError
from gateway.reply import ReplyHead
from gateway.upstream import Upstream
from monitors.continuation import next_body
from monitors.events import Begin, DeltaReceived
from monitors.generation import Deltas, Leg
from monitors.task import ResumeMethod
from monitors.wire import Chunk


@dataclass(slots=True, frozen=True)
class UpstreamLegs:
    """The upstream, as one choice of one request sees it (`monitors.generation.Legs`)."""

    upstream: Upstream
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    request_id: str
    resume: ResumeMethod
    idle: float
    """Seconds of silence after which the upstream failed."""
    head: ReplyHead
    """Told which names the upstream has for thinking, and its fingerprint."""

    def of_choice(self, index: int) -> UpstreamLegs:
        """The same for one of several choices: with a seed of its own, as vLLM itself does."""
        if not index:
            return self
        body = dict(self.body)
        if body.get("seed") is not None:
            body["seed"] += index
        return replace(self, body=body, request_id=f"{self.request_id}-{index}")

    @asynccontextmanager
    async def __call__(self, leg: Leg) -> AsyncIterator[Deltas]:
        """Ask. Raises GatewayError."""
        if isinstance(leg, Begin):
            body, number = self.body, 0
        else:
            body, number = next_body(self.body, leg, self.resume), leg.leg
        headers = {**self.headers, "X-Request-Id": f"{self.request_id}-{number}"}
        try:
            async with (
                self.upstream.chat(body, headers, idle=self.idle) as batches,
                aclosing(self._deltas(batches)) as deltas,
            ):
                yield deltas
        except UpstreamHTTPError as error:
            if number == 0:
                raise
            raise error.bare() from None  # it may quote what it was to go on with

    async def _deltas(
        self, batches: AsyncIterator[list[Chunk]]
    ) -> AsyncGenerator[Sequence[DeltaReceived]]:
        answered = False
        try:
            async for batch in batches:
                answered = True
                yield [self._delta(chunk) for chunk in batch]
        except UpstreamHTTPError as error:
            raise error.bare() if answered else error from None

    def _delta(self, chunk: Chunk) -> DeltaReceived:
        head = self.head
        if chunk.system_fingerprint is not None:
            head.system_fingerprint = chunk.system_fingerprint
        if not chunk.choices:
            return DeltaReceived(0, usage=chunk.usage)
        choice = chunk.choices[0]
        delta = choice.delta
        reasoning = delta.reasoning
        if delta.reasoning_content is not None:
            both = reasoning is not None
            head.reasoning_names = (
                ["reasoning", "reasoning_content"] if both else ["reasoning_content"]
            )
            reasoning = delta.reasoning_content if reasoning is None else reasoning
        received = DeltaReceived(
            0,
            reasoning or "",
            delta.content or "",
            choice.finish_reason,
            choice.stop_reason,
            chunk.usage,
        )
        if delta.tool_calls:
            received.tool_calls = delta.tool_calls
        if head.logprobs and choice.logprobs is not None:
            received.logprobs = choice.logprobs.content or ()
            for entry in received.logprobs:
                entry.bytes = list(entry.token.encode())  # the upstream's might say more
                if not head.top_logprobs:  # what nobody asked for nobody allowed
                    entry.top_logprobs = []
        return received
