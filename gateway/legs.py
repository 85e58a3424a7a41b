"""What one generation asks of the upstream: first the client's request, then to go on with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import UpstreamHTTPError
from gateway.reply import ReplyHead
from gateway.upstream import Upstream
from monitors.events import Begin, DeltaReceived, Restart, Resume
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
    max_tokens: int | None
    max_tokens_field: str
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
        number = 0 if isinstance(leg, Begin) else leg.leg
        headers = {**self.headers, "X-Request-Id": f"{self.request_id}-{number}"}
        async with (
            self.upstream.chat(self._body_of(leg), headers, idle=self.idle) as batches,
            aclosing(self._deltas(batches)) as deltas,
        ):
            yield deltas

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
        return received

    # --- bodies ---------------------------------------------------------------------------

    def _body_of(self, leg: Leg) -> Mapping[str, Any]:
        match leg:
            case Resume():
                return self._resumed(leg)
            case Restart():
                return self._restarted(leg)
            case _:
                return self.body

    def _resumed(self, leg: Resume) -> dict[str, Any]:
        """The same request, to be continued from the prefix."""
        body = self._less(leg.spent)
        if self.resume is ResumeMethod.TEMPLATE_KWARG:
            kwargs = dict(body.get("chat_template_kwargs") or {})
            kwargs["think_prefix"] = leg.prefix.removeprefix(leg.opener).removeprefix("\n")
            body["chat_template_kwargs"] = kwargs
            return body
        body["messages"] = [*body["messages"], {"role": "assistant", "content": leg.prefix}]
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
        return body

    def _restarted(self, leg: Restart) -> dict[str, Any]:
        """The same request anew, the safety thought as (part of) its system message."""
        body = self._less(leg.spent)
        body["messages"] = with_system_thought(body["messages"], leg.thought)
        return body

    def _less(self, spent: int) -> dict[str, Any]:
        """The request's body with what was already spent taken off its token budget."""
        body = dict(self.body)
        body.pop("min_tokens", None)  # was meant for the whole reply
        if self.max_tokens is not None:
            body[self.max_tokens_field] = max(1, self.max_tokens - spent)
        return body


def with_system_thought(
    messages: Sequence[Mapping[str, Any]], thought: str
) -> list[Mapping[str, Any]]:
    """The messages with a thought as (the end of) their system message."""
    first = messages[0]
    if first["role"] == "system" and isinstance(first["content"], str):
        return [{**first, "content": f"{first['content']}\n\n{thought}"}, *messages[1:]]
    return [{"role": "system", "content": thought}, *messages]
