"""Two measurements beyond the ordinary: more steps than the judge can take, and many streams."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, replace

import httpx
import numpy as np

from monitors.policy_file import load_policy
from tests.bench.lags import hold_lags
from tests.bench.load import Received, stream_all
from tests.bench.rounds import Machine, Stopwatch, sent_times
from tests.bench.servers import POLICY, Server, gateway, serving
from tests.bench.text import script
from tests.bench.upstream import Order


@dataclass(slots=True)
class Overload:
    """Streams whose steps come faster than a slow judge takes them."""

    streams: int
    judge_ms: float
    timeout: float
    """The policy's bound on a verdict, seconds."""
    steps_per_second: float
    """Asked for, before streams were refused."""
    finished: int
    refused: dict[str, int]
    """By the guard's explanation."""
    broken: int
    """Neither: no end mark."""
    lag_p50: float
    lag_p99: float
    lag_max: float
    unjudged: dict[str, int]
    """Characters released unjudged, by reason, as the guard counts; `blank` is whitespace."""
    more_than_judged: int
    """Streams where the client got more characters than the guard says that it let out."""
    machine: Machine


def overload(upstream: Server, *, streams: int, chunks: int, judge_ms: float) -> Overload:
    """Runs a gateway of its own, with the `constant` judge slowed down."""
    program = gateway("--expose", "detail", "--judge", "constant", streams=streams)
    program = replace(program, env={**program.env, "BENCH_JUDGE_MS": str(judge_ms)})
    orders = [Order(f"overload-{number}", chunks, 50) for number in range(streams)]
    with serving({"overload": program}, upstream.base) as servers:
        watch = Stopwatch(servers["overload"], upstream)
        got = asyncio.run(stream_all(servers["overload"].base, orders))
        _, machine = watch.stop()
    text, sent = script(chunks), sent_times(upstream, orders)
    for stream in got:
        of_model = _of_model(stream)
        stream.arrivals = [arrival for arrival in stream.arrivals if arrival[0] <= of_model]
    lags = np.concatenate([hold_lags(text, sent[s.order.name], s, held=True) for s in got])
    refused = [stream for stream in got if stream.finish_reason == "content_filter"]
    details = [stream.guard for stream in got if stream.guard]
    steps = sum(guard["steps"] for guard in details if guard["decision"] == "allow")
    whole = [stream for stream in got if stream.finish_reason == "stop"]
    rate = steps / len(whole) / (chunks / 50) if whole else _steps_in(chunks) / (chunks / 50)
    unjudged: Counter[str] = Counter()
    for guard in details:
        for channel in guard["coverage"].values():
            unjudged.update(channel["released_unjudged"])
    return Overload(
        streams=streams,
        judge_ms=judge_ms,
        timeout=load_policy(POLICY).limits.judge_timeout_seconds,
        steps_per_second=rate * streams,
        finished=len(whole),
        refused=dict(Counter(str((got.guard or {}).get("explanation")) for got in refused)),
        broken=sum(not stream.done for stream in got),
        lag_p50=_percentile(lags, 50),
        lag_p99=_percentile(lags, 99),
        lag_max=_percentile(lags, 100),
        unjudged=dict(unjudged),
        more_than_judged=sum(_got_more(stream) for stream in got),
        machine=machine,
    )


def _steps_in(chunks: int) -> int:
    """About one a sentence."""
    text = script(chunks)
    return len(re.findall(r"\.", "".join([*text.reasoning, *text.content])))


def _percentile(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else float("nan")


def _got_more(stream: Received) -> bool:
    """By the client's own count."""
    coverage = stream.guard["coverage"].values() if stream.guard else ()
    released: int = sum(channel["released"] for channel in coverage)
    return _of_model(stream) > released


def _of_model(stream: Received) -> int:
    """Characters of the model's; a refusal's text is the guard's."""
    text = script(stream.order.chunks)
    reasoning, content = "".join(text.reasoning), "".join(text.content)
    return _common(stream.reasoning, reasoning) + _common(stream.content, content)


def _common(got: str, said: str) -> int:
    """Characters of `got` that are the model's: the prefix that both share."""
    pairs = zip(got, said, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(got), len(said)))


@dataclass(slots=True)
class Memory:
    """Resident bytes of the gateway, embedded judge included."""

    streams: int
    live: int
    """Generations under way when it was read, by the gateway's own count."""
    before: int
    during: int
    after: int
    files: int
    """Open files of the gateway at the same time."""
    file_limit: int

    @property
    def per_stream(self) -> float:
        return (self.during - self.before) / max(1, self.live)


def memory(upstream: Server, *, streams: int, seconds: float, file_limit: int) -> Memory:
    """`streams` replies of which 100 chunks have gone and the others trickle."""
    program = gateway(streams=streams + 8)
    pace, burst = 2, 100
    chunks = burst + int(pace * seconds) + 8
    with serving({"memory": program}, upstream.base) as servers:
        server = servers["memory"]
        asyncio.run(stream_all(server.base, [Order(f"m-warm-{n}", 50, 0) for n in range(8)]))
        before = server.rss()
        orders = [Order(f"m-{number}", chunks, pace, burst) for number in range(streams)]

        async def run() -> tuple[int, int, int]:
            async with asyncio.TaskGroup() as group:
                load = group.create_task(
                    stream_all(server.base, orders, stagger=seconds / 4 / streams)
                )
                await asyncio.sleep(seconds * 3 / 4)
                metrics = await asyncio.to_thread(read_metrics, server)
                during, files = server.rss(), server.process.num_fds()
                await load
            return int(metrics["mlrm_guard_live_generations"]), during, files

        live, during, files = asyncio.run(run())
        sent_times(upstream, orders)
        return Memory(streams, live, before, during, server.rss(), files, file_limit)


def read_metrics(server: Server) -> dict[str, float]:
    """The gateway's gauges and counters without labels."""
    text = httpx.get(f"{server.base}/metrics", timeout=30, trust_env=False).text
    rows = (line.split() for line in text.splitlines() if line and line[0] != "#")
    return {row[0]: float(row[1]) for row in rows if len(row) == 2 and "{" not in row[0]}
