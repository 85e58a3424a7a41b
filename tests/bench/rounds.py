"""One round of one variant: what it cost, how long its text was under way, who else was busy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil

from tests.bench.lags import Seconds, character_delays, hold_lags
from tests.bench.load import Received, stream_all
from tests.bench.servers import Server
from tests.bench.text import Script, script
from tests.bench.upstream import Order

NOISY = 0.10
"""A round is noisy when others had more than this share of all CPUs."""


@dataclass(slots=True)
class Machine:
    """Who used the CPUs during a round, in CPUs (1.0 is one of them, all the time)."""

    wall: float
    server: float
    upstream: float
    client: float
    others: float
    load: float
    """The load average at its end."""

    @property
    def noisy(self) -> bool:
        return self.others > NOISY * (os.cpu_count() or 1)


@dataclass(slots=True)
class Round:
    """Times are seconds; `cpu` is per upstream chunk."""

    cpu: float
    machine: Machine
    whole: int
    """Streams whose text came complete and unchanged."""
    delivered: float
    """Share of the characters sent."""
    delays: Seconds = field(default_factory=lambda: np.empty(0))
    lags: Seconds = field(default_factory=lambda: np.empty(0))


class Stopwatch:
    """CPU time of server, upstream, client and the rest of the machine, from start to stop."""

    def __init__(self, server: Server, upstream: Server) -> None:
        self._parts = [server.cpu_seconds]
        self._parts += [upstream.cpu_seconds] if upstream is not server else [lambda: 0.0]
        self._parts.append(time.process_time)
        self._before = self._now()

    def _now(self) -> list[float]:
        total = psutil.cpu_times()
        busy = sum(total) - total.idle - getattr(total, "iowait", 0.0)
        busy -= getattr(total, "guest", 0.0) + getattr(total, "guest_nice", 0.0)  # in user already
        return [time.monotonic(), busy, *(part() for part in self._parts)]

    def stop(self) -> tuple[float, Machine]:
        """(CPU seconds of the server, all of it as shares)."""
        spent = [now - before for now, before in zip(self._now(), self._before, strict=True)]
        wall, busy, server, upstream, client = spent
        others = max(0.0, busy - server - upstream - client)
        load, _, _ = os.getloadavg()
        return server, Machine(
            wall, server / wall, upstream / wall, client / wall, others / wall, load
        )


def run_round(
    server: Server, upstream: Server, orders: Sequence[Order], *, held: bool, timed: bool
) -> Round:
    """All orders at once. `timed`: look at each character's delay too."""
    watch = Stopwatch(server, upstream)
    streams = asyncio.run(stream_all(server.base, orders))
    cpu, machine = watch.stop()
    text = script(orders[0].chunks)
    result = Round(
        cpu=cpu / sum(order.chunks for order in orders),
        machine=machine,
        whole=sum(_is_whole(stream, text) for stream in streams),
        delivered=sum(stream.characters for stream in streams) / (text.ends[-1] * len(orders)),
    )
    sent = sent_times(upstream, orders)
    if timed:
        pairs = [(stream, sent[stream.order.name]) for stream in streams]
        result.delays = np.concatenate([character_delays(text, at, got) for got, at in pairs])
        result.lags = np.concatenate([hold_lags(text, at, got, held=held) for got, at in pairs])
    return result


def _is_whole(stream: Received, text: Script) -> bool:
    return (
        stream.done
        and stream.reasoning == "".join(text.reasoning)
        and stream.content == "".join(text.content)
    )


def sent_times(upstream: Server, orders: Sequence[Order]) -> dict[str, list[float]]:
    """When the upstream sent each event, by stream; the upstream forgets it."""
    with httpx.Client(base_url=upstream.base, trust_env=False) as client:
        return {order.name: client.get(f"/sent/{order.name}").json() for order in orders}
