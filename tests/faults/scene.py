"""One gateway in front of one faulty upstream, and the look inside that every row ends with."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

import psutil
from structlog.testing import capture_logs

from gateway.relay import Relay
from gateway.state import Gateway, Parts, open_gateway
from monitors.events import Outcome
from monitors.generation import Generation
from monitors.judges.base import Judge
from monitors.stream import GuardedStream
from tests.faults.caller import Caller
from tests.faults.upstream import BENIGN, FIRST, FaultyUpstream, faulty_upstream
from tests.gateway.harness import RULES, Guarded, guarded, wait_until

IDLE_SECONDS = 1.0
"""How long an upstream may be silent in these rows."""

JUDGE_SECONDS = 2.0
"""And how long a judge; an unanswered passage holds on to its generation for so long."""

_T = TypeVar("_T")


@dataclass
class Inside:
    """The parts of the running gateway, which lives on another thread's event loop."""

    gateway: Gateway = field(init=False)
    loop: asyncio.AbstractEventLoop = field(init=False)

    def ask(self, question: Callable[[], _T]) -> _T:
        """The answer as it is on the event loop, between two of its steps."""
        answer: Future[_T] = Future()

        def put() -> None:
            answer.set_result(question())

        self.loop.call_soon_threadsafe(put)
        return answer.result(10)

    @property
    def tasks(self) -> int:
        return self.ask(lambda: len(asyncio.all_tasks()))


@dataclass
class Scene:
    """What a row plays with."""

    gate: Guarded
    upstream: FaultyUpstream
    inside: Inside

    def call(self, **fields: Any) -> Caller:
        """A client's request; `stream=False` for a reply in one piece."""
        return Caller(self.gate.root, **fields)

    @property
    def live(self) -> int:
        return self.inside.gateway.live

    @property
    def sockets(self) -> list[str]:
        """The gateway's connections, to clients and to the upstream."""
        ports = [int(root.rpartition(":")[2]) for root in (self.gate.root, self.upstream.root)]
        return [
            f"{row.laddr.port} {row.raddr.port} {row.status}"
            for row in psutil.Process().net_connections("tcp")
            if row.raddr and (row.laddr.port == ports[0] or row.raddr.port == ports[1])
        ]

    def outcome(self, count: int = 1) -> Outcome:
        """How the newest of so many generations ended."""
        return self.gate.last_outcome(count)


@contextmanager
def scene(
    policy: Mapping[str, Any] = RULES,
    *,
    judge: Judge | None = None,
    settings: Mapping[str, Any] | None = None,
    **limits: float,
) -> Iterator[Scene]:
    """A gateway with this policy and limits; looked over when the row is done with it."""
    inside = Inside()

    @asynccontextmanager
    async def noted(parts: Parts, *observers: Any) -> AsyncIterator[Gateway]:
        async with open_gateway(parts, *observers) as gateway:
            inside.gateway, inside.loop = gateway, asyncio.get_running_loop()
            yield gateway

    quick = {"upstream_idle_seconds": IDLE_SECONDS, "judge_timeout_seconds": JUDGE_SECONDS}
    written = {**policy, "limits": {**quick, **limits}}
    with (
        capture_logs() as logs,
        faulty_upstream() as upstream,
        patch("gateway.app.open_gateway", noted),
        guarded(written, upstream=upstream.root, judge=judge, settings=settings) as gate,
    ):
        here = Scene(gate, upstream, inside)
        _serves(here)
        wait_until(lambda: not here.sockets, "sockets before the row")
        tasks, in_memory = inside.tasks, _in_memory()
        yield here
        _nothing_is_left(here, tasks)
        _serves(here)
        _nothing_is_left(here, tasks)
        wait_until(lambda: _in_memory() <= in_memory, "a generation's buffers are left")
        bugs = [log for log in logs if log["event"] == "internal error"]
        assert not bugs, f"internal errors: {bugs}"


def _serves(here: Scene) -> None:
    """A benign request is answered as if nothing had happened."""
    here.upstream.play(*BENIGN)
    with here.call() as caller:
        caller.reply().assert_complete(reasoning=f"{FIRST} ", content="Fine, that is all.")


def _nothing_is_left(here: Scene, tasks: int) -> None:
    gateway = here.inside.gateway
    wait_until(lambda: gateway.live == 0, f"{gateway.live} generations live")
    wait_until(lambda: gateway.judges.waiting == 0, "passages wait for a judge")
    wait_until(lambda: here.inside.tasks <= tasks, f"tasks left: {here.inside.tasks} > {tasks}")
    wait_until(lambda: not here.sockets, "sockets left")


def _in_memory() -> int:
    """How many generations anything still holds on to: judges do so to the last one judged."""
    gc.collect()
    return sum(isinstance(one, Relay | Generation | GuardedStream) for one in gc.get_objects())
