"""Drives one GuardedStream: the one place where effects become I/O.

Events come from three sides (upstream reader, judges' verdicts, timers) and are handed to the
machine at once, on the event loop, without a queue between; what it releases gathers in a buffer
that one writer sends. One TaskGroup per request holds reader, writer and the watch over the client;
nothing outlives it. The reader waits while the buffer is over its bound or the judges are behind,
so that a slow client or judge slows the upstream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import (
    RequestError,
    UpstreamHTTPError,
    UpstreamUnavailableError,
    to_reply,
)
from gateway.reply import ReplyHead, StreamReply, WholeReply
from gateway.telemetry import log_bug
from gateway.upstream import Upstream
from monitors.errors import GuardError
from monitors.events import (
    AbortUpstream,
    ClientLeft,
    DeltaReceived,
    Effect,
    Event,
    Fail,
    Finish,
    Judge,
    Open,
    Outcome,
    Record,
    Recorded,
    Refuse,
    Release,
    Restart,
    Resume,
    StepJudged,
    TimePassed,
    UpstreamEnded,
    UpstreamFailed,
    WakeAt,
)
from monitors.guard_object import GuardObject, guard_object
from monitors.judges.base import Verdict
from monitors.judges.service import JudgeService
from monitors.policy import Policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.wire import KEEP_ALIVE, Chunk, encode_event

BUFFER_BYTES = 256 << 10
"""Released but unsent; past it the upstream is read no further."""

PASSAGES_AT_ONCE = 64
"""Of one generation with the judges; the others wait here: nobody fills the judges' queue."""

WRITE_SECONDS = 60.0
"""A client that takes no byte for so long is gone."""

GENERATION_SECONDS = 3600.0
"""From the request to the upstream's last byte, over all legs."""

Observer = Callable[[str, Recorded], None]
"""Told of every step and outcome, with the request's id; must not block."""


@dataclass(slots=True, frozen=True)
class Exchange:
    """One admitted request and what it is to be answered with."""

    request_id: str
    head: ReplyHead
    stream: bool
    upstream_body: Mapping[str, Any]
    upstream_headers: Mapping[str, str]
    max_tokens: int | None
    max_tokens_field: str
    images: int
    detail: bool


class Relay:
    """An ASGI response: runs one exchange under one policy."""

    def __init__(
        self,
        exchange: Exchange,
        policy: Policy,
        task: Task,
        *,
        upstream: Upstream,
        judges: JudgeService,
        observer: Observer,
        live: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`live` is entered for as long as the generation is under way."""
        self._exchange, self._policy, self._task = exchange, policy, task
        self._upstream, self._judges, self._observer = upstream, judges, observer
        self._live = live
        self._machine = GuardedStream(policy, task)
        self._sse = StreamReply(exchange.head) if exchange.stream else None
        self._whole = None if exchange.stream else WholeReply(exchange.head)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._status = 200
        self._headers = {
            "x-guard-request-id": exchange.request_id,
            "x-guard-policy": policy.label,
        }
        self._opened = False
        self._answered = False  # the upstream sent its first delta
        self._complete = False  # the reply's last byte is in the buffer
        self._gone = False  # the client is
        self._broken = False  # we are
        self._unasked: deque[Judge] = deque()
        self._asked = 0  # passages with the judges
        self._wakeup = asyncio.Event()
        self._drained = asyncio.Event()
        self._recorded = asyncio.Event()
        self._reading: int | None = None  # the leg whose deltas are wanted
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run to the end: reply sent or client gone, upstream closed, outcome recorded."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + GENERATION_SECONDS
        try:
            with self._live():
                await self._run(receive, send)
        finally:
            if not self._recorded.is_set():  # we were cancelled: the server shuts down
                self._happened(ClientLeft())
            if self._timer is not None:
                self._timer.cancel()

    async def _run(self, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._perform(self._machine.start(self._loop.time()))
            self._begin(0, self._exchange.upstream_body)
            watch = group.create_task(self._watch(receive))
            await self._write(send)
            # Shadow mode: the reply is out, verdicts may still be under way.
            async with asyncio.timeout(self._policy.limits.judge_timeout_seconds * 2):
                await self._recorded.wait()
            self._unasked.clear()
            watch.cancel()
            self._abort()

    # --- events in ------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        if self._broken:
            return
        try:
            self._perform(self._machine.handle(event, self._loop.time()))
        except Exception as error:  # noqa: BLE001 - a bug: it ends this reply, not its caller's work
            self._break_off(error)

    def _break_off(self, error: Exception) -> None:
        """Nothing is known of what may leave any more: nothing does."""
        self._broken = True
        log_bug(error)
        self._abort()
        if not self._complete:
            self._fail(error)
        self._recorded.set()

    async def _read(self, leg: int, body: Mapping[str, Any]) -> None:
        """Hand the upstream's stream to the machine, until it ends or is not wanted any more."""
        try:
            headers = {
                **self._exchange.upstream_headers,
                "X-Request-Id": f"{self._exchange.request_id}-{leg}",
            }
            async with (
                asyncio.timeout_at(self._deadline),
                self._upstream.chat(body, headers) as batches,
            ):
                async for batch in batches:
                    self._answered = True
                    for chunk in batch:
                        self._happened(self._delta(leg, chunk))
                        if self._reading != leg:
                            return
                    # Bounded: _write gives up on a stuck client, and judges on a late verdict.
                    while self._unasked or self._buffered > BUFFER_BYTES:
                        self._drained.clear()
                        await self._drained.wait()
            self._happened(UpstreamEnded(leg))
        except TimeoutError:
            late = UpstreamUnavailableError("the generation took too long", status=504)
            self._happened(UpstreamFailed(leg, late))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client is told
            if not isinstance(error, GuardError):
                log_bug(error)
            if self._answered and isinstance(error, UpstreamHTTPError):
                error = error.bare()
            self._happened(UpstreamFailed(leg, error))

    def _delta(self, leg: int, chunk: Chunk) -> DeltaReceived:
        head = self._exchange.head
        if chunk.system_fingerprint is not None:
            head.system_fingerprint = chunk.system_fingerprint
        if not chunk.choices:
            return DeltaReceived(leg, usage=chunk.usage)
        choice = chunk.choices[0]
        delta = choice.delta
        reasoning = delta.reasoning
        if delta.reasoning_content is not None:
            both = reasoning is not None
            head.reasoning_names = (
                ["reasoning", "reasoning_content"] if both else ["reasoning_content"]
            )
            reasoning = delta.reasoning_content if reasoning is None else reasoning
        return DeltaReceived(
            leg,
            reasoning or "",
            delta.content or "",
            choice.finish_reason,
            choice.stop_reason,
            chunk.usage,
        )

    def _ask(self) -> None:
        """Hand passages to the judges, as many as may be with them."""
        while self._unasked and self._asked < PASSAGES_AT_ONCE:
            question = self._unasked.popleft()
            self._asked += 1
            answer = partial(self._judged, question.id)
            self._judges.submit(question.passage, answer, until=self._recorded)

    def _judged(self, id: int, verdict: Verdict) -> None:
        self._asked -= 1
        self._happened(StepJudged(id, verdict))
        self._ask()
        self._drained.set()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._complete:  # else the server only says that the reply is out
            self._client_left()

    def _client_left(self) -> None:
        self._gone = True
        self._happened(ClientLeft())
        self._wakeup.set()

    # --- effects out ----------------------------------------------------------------------

    def _perform(self, effects: Sequence[Effect]) -> None:  # noqa: PLR0912 - one case per effect
        for effect in effects:
            match effect:
                case Release(wire_field, text):
                    if self._sse is not None:
                        self._put(self._sse.text(wire_field, text))
                    elif self._whole is not None:
                        self._whole.text(wire_field, text)
                case Judge():
                    self._unasked.append(effect)
                    self._ask()
                case Record(what):
                    self._observer(self._exchange.request_id, what)
                    if isinstance(what, Outcome):
                        self._recorded.set()
                case WakeAt(time):
                    if self._timer is not None:
                        self._timer.cancel()
                    self._timer = self._loop.call_at(time, self._happened, TimePassed())
                case Open():
                    self._opened = True
                    if self._sse is not None:
                        self._put(self._sse.role())
                case AbortUpstream():
                    self._abort()
                case Resume(leg, prefix, spent):
                    self._begin(leg, self._resumed(prefix, spent))
                case Restart(leg, thought, spent):
                    self._begin(leg, self._restarted(thought, spent))
                case Refuse():
                    self._refuse(effect)
                case Finish():
                    self._finish(effect)
                case Fail(error):
                    self._fail(error)

    def _put(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        self._wakeup.set()

    def _abort(self) -> None:
        """Stop reading; leaving the reader's context closes the connection, and vLLM aborts."""
        self._reading = None
        reader, self._reader = self._reader, None
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()

    def _begin(self, leg: int, body: Mapping[str, Any]) -> None:
        if leg:
            self._unasked.clear()  # of the leg that was cut: nobody waits for the answers
        self._reading = leg
        self._reader = self._group.create_task(self._read(leg, body))

    def _resumed(self, prefix: str, spent: int) -> dict[str, Any]:
        """The same request, to be continued from `prefix`."""
        body = self._less(spent)
        if self._task.resume is ResumeMethod.TEMPLATE_KWARG:
            kwargs = dict(body.get("chat_template_kwargs") or {})
            kwargs["think_prefix"] = prefix.split(">", 1)[1].removeprefix("\n")
            body["chat_template_kwargs"] = kwargs
            return body
        body["messages"] = [*body["messages"], {"role": "assistant", "content": prefix}]
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
        return body

    def _restarted(self, thought: str, spent: int) -> dict[str, Any]:
        """The same request anew, the safety thought as (part of) its system message."""
        body = self._less(spent)
        messages = list(body["messages"])
        first = messages[0]
        if first["role"] == "system" and isinstance(first["content"], str):
            messages[0] = {**first, "content": f"{first['content']}\n\n{thought}"}
        else:
            messages.insert(0, {"role": "system", "content": thought})
        body["messages"] = messages
        return body

    def _less(self, spent: int) -> dict[str, Any]:
        """The request's body with what was already spent taken off its token budget."""
        body = dict(self._exchange.upstream_body)
        body.pop("min_tokens", None)  # was meant for the whole reply
        if self._exchange.max_tokens is not None:
            body[self._exchange.max_tokens_field] = max(1, self._exchange.max_tokens - spent)
        return body

    # --- the reply's end ------------------------------------------------------------------

    def _guard(self) -> GuardObject:
        exchange = self._exchange
        return guard_object(
            self._machine.outcome,
            request_id=exchange.request_id,
            mode=self._policy.mode,
            images=exchange.images,
            detail=exchange.detail,
        )

    def _refuse(self, refuse: Refuse) -> None:
        if refuse.as_error:
            error = RequestError(refuse.text, code="content_policy_violation")
            self._headers["x-guard-action"] = "refuse"
            self._end_with_error(error)
        elif self._sse is not None:
            self._put(self._sse.refusal(refuse.text))
        elif self._whole is not None:
            self._whole.refusal(refuse.text)

    def _finish(self, finish: Finish) -> None:
        if self._complete:
            return
        guard = self._guard()
        if self._sse is not None:
            self._put(self._sse.end(finish, guard))
        elif self._whole is not None:
            self._headers["x-guard-action"] = guard.action.value
            self._put(self._whole.end(finish, guard))
        self._complete = True

    def _fail(self, error: Exception) -> None:
        if self._opened and self._sse is not None:
            # In OpenAI's shape, and no [DONE]: clients raise APIError and keep what they have.
            self._put(encode_event(to_reply(error).body))
            self._complete = True
        else:
            self._end_with_error(error)

    def _end_with_error(self, error: Exception) -> None:
        reply = to_reply(error)
        self._sse = None
        self._status = reply.status
        self._headers |= reply.headers
        self._put(msgspec.json.encode(reply.body))
        self._complete = True

    async def _write(self, send: Send) -> None:
        """Send what gathers, until the reply is complete or the client is gone."""
        pause = self._policy.limits.keep_alive_seconds
        started = False
        while not self._gone:
            if not self._buffer:
                try:
                    async with asyncio.timeout(pause):
                        await self._wakeup.wait()
                except TimeoutError:
                    if started:  # before the first byte there is no stream to keep alive
                        self._put(KEEP_ALIVE)
            self._wakeup.clear()
            if not self._buffer:
                continue
            data, self._buffer, self._buffered = b"".join(self._buffer), [], 0
            complete = self._complete
            messages: list[Message] = [] if started else [self._start()]
            messages.append({"type": "http.response.body", "body": data, "more_body": not complete})
            started = True
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    for message in messages:
                        await send(message)
            except TimeoutError:
                self._client_left()
            self._drained.set()
            if complete:
                return

    def _start(self) -> Message:
        streams = self._sse is not None
        headers = {
            "content-type": "text/event-stream; charset=utf-8" if streams else "application/json",
            **({"cache-control": "no-cache", "x-accel-buffering": "no"} if streams else {}),
            **self._headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": self._status, "headers": raw}
