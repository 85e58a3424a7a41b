"""Answers one admitted request: its generations, merged into one reply.

Each choice is a generation of its own (`monitors.generation`), with its own upstream request, so
that stopping one leaves the others alone. What they release gathers in one buffer that one writer
sends; while it is over its bound, no generation reads on. One TaskGroup per request holds the
generations and the watch over the client; nothing outlives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import OverloadedError, RequestError, to_reply
from gateway.reply import (
    ReplyHead,
    StreamReply,
    WholeReply,
    stream_end,
    usage_of_choices,
    whole_body,
)
from monitors.events import (
    Fail,
    Finish,
    Open,
    Record,
    Recorded,
    Refuse,
    Release,
    ReleaseCall,
)
from monitors.generation import Generation, Legs, Shown
from monitors.guard_object import GuardObject, guard_object
from monitors.judges.service import JudgeService
from monitors.policy import Policy
from monitors.task import Task
from monitors.taxonomy import Mode, ReleaseMode
from monitors.wire import KEEP_ALIVE, encode_event

BUFFER_BYTES = 256 << 10
"""Released but unsent; past it the upstream is read no further."""

WRITE_SECONDS = 60.0
"""A client that takes no byte for so long is gone."""

GOODBYE_SECONDS = 1.0
"""At shutdown, to tell a client that its reply ends here."""

Observer = Callable[[str, Recorded], None]
"""Told of every step and outcome, with the generation's id; must not block.

The id is the request's; of several choices the later ones have `.1`, `.2` .. behind it.
"""


@dataclass(slots=True, frozen=True)
class Exchange:
    """One admitted request and what it is to be answered with."""

    request_id: str
    head: ReplyHead
    stream: bool
    choices: int
    detail: bool
    owner: str
    """Whose verdicts on the request may be remembered."""


class _Choice:
    """The sink of one generation: says what it releases in the reply's words."""

    def __init__(self, relay: Relay, index: int, legs: Legs) -> None:
        exchange = relay.exchange
        self._relay = relay
        self._name = f"{exchange.request_id}.{index}" if index else exchange.request_id
        self._sse = StreamReply(exchange.head, index)
        self.whole = WholeReply(exchange.head, index)
        self._enforces = relay.policy.mode is Mode.ENFORCE
        self._gathers = self._enforces or not exchange.stream
        self._counts = exchange.head.continuous_usage
        self.opened = False
        self.finished: Finish | None = None
        self.generation = Generation(
            relay.policy,
            relay.task,
            judges=relay.judges,
            legs=legs,
            sink=self,
            owner=exchange.owner,
        )

    @property
    def full(self) -> bool:
        """Whether the client has too much to read already."""
        return self._relay.full

    @property
    def guard(self) -> GuardObject:
        """What the reply says of its judging."""
        exchange = self._relay.exchange
        return guard_object(
            self.generation.machine.outcome,
            request_id=exchange.request_id,
            mode=self._relay.policy.mode,
            detail=exchange.detail,
        )

    def __call__(self, effect: Shown) -> None:
        """Take one effect."""
        relay = self._relay
        if isinstance(effect, Record):
            relay.observer(self._name, effect.what)
            return
        if isinstance(effect, Fail):
            relay.fail(effect.error)
            return
        if relay.complete:
            return  # another choice ended the reply
        if isinstance(effect, Refuse) and effect.as_error and not relay.opened:
            relay.refuse(effect.text)
            return
        if self._gathers:
            self._gather(effect)
        if relay.exchange.stream:
            self._stream(effect)
        if isinstance(effect, Open):
            self.opened = True
        elif isinstance(effect, Finish):
            self.finished = effect
            relay.one_finished()

    @property
    def _judged(self) -> bool:
        """Whether a judge passed all that was released."""
        outcome = self.generation.machine.outcome
        coverage = outcome.coverage.values()
        if not all(counts.released_unjudged.keys() <= {"blank"} for counts in coverage):
            return False
        held = self._relay.policy.release is ReleaseMode.HOLD
        return held or not (outcome.action.intervenes or outcome.retract)

    def _gather(self, effect: Release | ReleaseCall | Open | Refuse | Finish) -> None:
        """For the reply in one piece, and because it comes back in the next turn's history: then
        it needs no judge, if all of it had one, and a refusal must be known.
        """
        whole = self.whole
        match effect:
            case Release():
                whole.text(effect)
            case ReleaseCall(call):
                whole.call(call)
            case Refuse():
                whole.refusal(effect)
            case Finish():
                whole.finish(effect)
                if self._enforces:
                    self._relay.delivered(whole.choice["message"], self._judged)

    def _stream(self, effect: Release | ReleaseCall | Open | Refuse | Finish) -> None:
        sse, put = self._sse, self._relay.put
        usage = self.generation.machine.usage if self._counts else None
        match effect:
            case Release():
                put(sse.text(effect, usage))
            case ReleaseCall(call):
                put(sse.call(call, usage))
            case Open():
                put(sse.role(usage))
            case Refuse():
                put(sse.refusal(effect, usage))
            case Finish():
                put(sse.finish(effect, self.guard))


class Relay:
    """Runs one exchange under one policy and sends the reply."""

    def __init__(
        self,
        exchange: Exchange,
        policy: Policy,
        task: Task,
        *,
        judges: JudgeService,
        legs: Callable[[int], Legs],
        observer: Observer,
        counted: Callable[[str], None],
        live: Callable[[], AbstractContextManager[object]],
        delivered: Callable[[dict[str, Any], bool], None],
    ) -> None:
        """`legs` gives the upstream of each choice; `counted` is told how the request ended, by its
        status or as `left`.

        `live` is entered for as long as generations are under way, `delivered` told of each
        message of an enforced reply, OpenAI's, and whether all of it was judged and stands.
        """
        if not exchange.stream:  # nothing of it leaves before its end: nothing is to be erased
            policy = replace(policy, release=ReleaseMode.HOLD)
        self.exchange, self.policy, self.task = exchange, policy, task
        self.judges, self.observer, self.delivered = judges, observer, delivered
        self._live, self._counted = live, counted
        self.complete = False
        """The reply's last byte is in the buffer."""
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._status = 200
        self._headers = {
            "x-guard-request-id": exchange.request_id,
            "x-guard-policy": policy.label,
        }
        self._started = False  # the client has the reply's head
        self._gone = False  # the client is
        self._waiter: asyncio.Future[None] | None = None  # of the writer, while there is nothing
        self._timer: asyncio.TimerHandle | None = None
        self._sending_since: float | None = None
        self._as_json = not exchange.stream
        self._choices = [_Choice(self, i, legs(i)) for i in range(exchange.choices)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run to the end: reply sent or client gone, upstream closed, outcomes recorded."""
        with self._live():
            await self._run(receive, send)

    async def _run(self, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(c.generation.run()) for c in self._choices]
                watch = group.create_task(self._watch(receive))
                self._writer = group.create_task(self._write(send))
                self._look_after()
                # Bounded: generations are, and the timer looks after a client that takes nothing.
                await asyncio.wait([self._writer])
                if self._writer.cancelled():
                    self._client_left()
                # Shadow mode: the reply is out, verdicts may still be under way.
                patience = self.policy.limits.judge_timeout_seconds * 2
                await asyncio.wait(running, timeout=patience)
                self._leave()
                watch.cancel()
        except asyncio.CancelledError:  # the server shuts down; it awaits nothing else of us
            await self._say_goodbye(send)
        finally:
            self._counted(str(self._status) if self._started else "left")
            if self._timer is not None:
                self._timer.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self.complete:  # else the server only says that the reply is out
            self._client_left()

    def _client_left(self) -> None:
        self._gone = True
        self._leave()
        self._wake()

    def _leave(self) -> None:
        for choice in self._choices:
            choice.generation.leave()

    # --- the reply ------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Whether the reply has begun."""
        return any(choice.opened for choice in self._choices)

    @property
    def full(self) -> bool:
        """Whether the buffer is over its bound."""
        return self._buffered > BUFFER_BYTES

    def put(self, data: bytes) -> None:
        """These bytes are next."""
        self._buffer.append(data)
        self._buffered += len(data)
        self._wake()

    def _wake(self) -> None:
        """Have the writer look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def one_finished(self) -> None:
        """A choice is complete; behind the last one the reply ends."""
        choices = self._choices
        finishes = [choice.finished for choice in choices if choice.finished is not None]
        if len(finishes) < len(choices):
            return
        usage = usage_of_choices([finish.usage for finish in finishes])
        head = self.exchange.head
        if self.exchange.stream:
            self.put(stream_end(head, usage))
        else:
            guards = [choice.guard for choice in choices]
            strongest = max(guards, key=lambda guard: guard.action.strength)
            self._headers["x-guard-action"] = strongest.action.value
            self.put(whole_body(head, [choice.whole for choice in choices], usage, guards))
        self.complete = True

    def refuse(self, text: str) -> None:
        """Refuse the whole request: nothing of it was answered yet."""
        self._headers["x-guard-action"] = "refuse"
        self._end_with_error(RequestError(text, code="content_policy_violation"))

    def fail(self, error: Exception) -> None:
        """One choice broke off, and with it the reply."""
        if self.complete:
            return
        if self.exchange.stream and self.opened:
            # In OpenAI's shape, and no [DONE]: clients raise APIError and keep what they have.
            self.put(encode_event(to_reply(error).body))
            self.complete = True
        else:
            self._end_with_error(error)
        if len(self._choices) > 1:
            self._leave()

    def _end_with_error(self, error: Exception) -> None:
        reply = to_reply(error)
        self._as_json = True
        self._status = reply.status
        self._headers |= reply.headers
        self.put(msgspec.json.encode(reply.body))
        self.complete = True

    # --- bytes out ------------------------------------------------------------------------

    async def _write(self, send: Send) -> None:
        """Send what gathers, until the reply is complete or the client is gone."""
        while not self._gone:
            if not self._buffer:
                self._waiter = self._loop.create_future()  # an Event costs more, per chunk
                await self._waiter
                continue
            await self._send(send)
            for choice in self._choices:
                choice.generation.go_on()
            if self.complete and not self._buffer:
                return

    async def _send(self, send: Send) -> None:
        data, self._buffer, self._buffered = b"".join(self._buffer), [], 0
        more = not self.complete
        self._sending_since = self._loop.time()
        if not self._started:
            self._started = True
            await send(self._head())
        await send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending_since = None
        self._sent_at = self._loop.time()

    def _look_after(self) -> None:
        """Now and then: end a write that is stuck, break a silence; one timer for all writes."""
        now, limits = self._loop.time(), self.policy.limits
        waits = self._as_json and not self._started
        pause = limits.heartbeat_after_seconds if waits else limits.keep_alive_seconds
        if self._sending_since is not None:
            due = self._sending_since + WRITE_SECONDS
            if now >= due:
                self._writer.cancel()
                return
        else:
            due = self._sent_at + pause
            if now >= due:
                self._keep_alive()
                due = now + pause
        due = min(due, now + pause, now + WRITE_SECONDS)
        self._timer = self._loop.call_at(due, self._look_after)

    def _keep_alive(self) -> None:
        """Nothing was sent for long: proxies between us and the client may lose patience.

        Before the upstream has answered there is nothing to keep alive: its status may be an error.
        """
        if not self.opened:
            return
        if not self._as_json:
            if self._started:
                self.put(KEEP_ALIVE)
            return
        self.put(b" ")  # whitespace before a JSON value means nothing

    async def _say_goodbye(self, send: Send) -> None:
        """The server shuts down: end the reply so that the client knows."""
        if self.complete or self._gone:
            return
        error = OverloadedError("the gateway is shutting down; send the request again")
        self.fail(error)
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._send(send)
        except (TimeoutError, OSError):
            self._gone = True

    def _head(self) -> Message:
        streams = not self._as_json
        headers = {
            "content-type": "text/event-stream; charset=utf-8" if streams else "application/json",
            **({"cache-control": "no-cache", "x-accel-buffering": "no"} if streams else {}),
            **self._headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": self._status, "headers": raw}
