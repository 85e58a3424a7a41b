"""Minutes of traffic with interventions; exit 1 when something grows: `make soak MINUTES=10`.

Clients ask the gateway (embedded judge, default policy) for the simulator's demo replies, of which
some are corrected and some refused; one client in five leaves in the middle, one in ten does not
stream. Flat is, after a fifth of the time: the median of the last third of the samples is over that
of the first third by at most the `Limit` of its row. And when all is over, what is left is what was
there before, when every kind of request had been made once; of Python's objects, at most one more
per ten replies.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import psutil

from gateway.simulate import DEMO_TRACES, load_traces
from tests.bench.limits import read_metrics
from tests.bench.load import exchange
from tests.bench.servers import (
    Program,
    Server,
    gateway,
    raise_file_limit,
    serving,
)

MODEL = "simulated-mlrm"
WARM_UP = 0.2
"""Of the time: caches fill and the allocator finds its size."""
MIN_SAMPLES = 8
"""Behind the warm-up; fewer say nothing."""
SETTLES_WITHIN = 15.0
"""Seconds after the last client; idle connections live 5."""


@dataclass(slots=True, frozen=True)
class Limit:
    """How much more the last third may have than the first: the larger of the two."""

    share: float
    """Of the mean."""
    absolute: float


LIMITS = {
    "rss_mb": Limit(0.03, 3.0),
    "tasks": Limit(0.10, 10.0),
    "threads": Limit(0.0, 1.0),
    "sockets": Limit(0.10, 10.0),
    "files": Limit(0.10, 10.0),
    "queue": Limit(0.10, 10.0),
}
LEFT_OVER = {"tasks": 2.0, "threads": 8.0, "sockets": 2.0, "files": 4.0, "queue": 0.0, "live": 0.0}
"""How much more than before may be there at the end."""
OBJECTS = 0.1
"""How many more of Python's objects, per reply."""

Sample = Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    options = parser.parse_args()
    raise_file_limit()
    sys.exit(soak(options.minutes * 60, options.streams, options.every))


def soak(seconds: float, streams: int, every: float) -> int:
    """Run, print, judge. 0: flat; 1: not; 2: too short to say."""
    with TemporaryDirectory() as name:
        counts = Path(name) / "counts"
        program = gateway(streams=streams * 2)
        program = replace(program, env={"BENCH_COUNTS": str(counts)})
        with (
            serving({"simulator": _SIMULATOR}, "") as upstream,
            serving({"gateway": program}, upstream["simulator"].base) as servers,
        ):
            server = servers["gateway"]
            before = _idle(server, counts, sample(server, counts))
            asyncio.run(_once(server.base))
            before = _idle(server, counts, before)
            samples, outcomes = asyncio.run(
                _run(server, counts, seconds=seconds, streams=streams, every=every)
            )
            after = _idle(server, counts, before)
    return _report(before, samples, after, outcomes)


_SIMULATOR = Program(
    [
        *(sys.executable, "-c", "from gateway.cli import main; main()", "simulate"),
        *("--traces", str(DEMO_TRACES), "--port", "{port}", "--tokens-per-second", "20"),
        *("--ignore-correction", "0.3"),
    ],
    ready="/health",
)


# --- traffic ----------------------------------------------------------------------------------


async def _once(base: str) -> None:
    """Every reply, streamed and whole, and left in the middle: what is kept for good, is then."""
    async with asyncio.TaskGroup() as group:
        for trace in load_traces(DEMO_TRACES):
            for stream, within in ((True, 120.0), (False, 120.0), (True, 1.0)):
                ask = exchange(base, trace.prompt, model=MODEL, stream=stream, within=within)
                group.create_task(ask)


async def _run(
    server: Server, counts: Path, *, seconds: float, streams: int, every: float
) -> tuple[list[dict[str, float]], Counter[str]]:
    prompts = [trace.prompt for trace in load_traces(DEMO_TRACES)]
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    samples = []
    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(_client(server.base, prompts, number, end, outcomes))
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(every, left))
            now = await asyncio.to_thread(sample, server, counts)
            samples.append(now)
            _say(now)
    return samples, outcomes


async def _client(
    base: str, prompts: Sequence[str], number: int, end: float, outcomes: Counter[str]
) -> None:
    choose = random.Random(number)
    await asyncio.sleep(choose.uniform(0, 2))
    while time.monotonic() < end:
        stream = choose.random() > 0.1
        leaves = stream and choose.random() < 0.2
        pieces = await exchange(
            base,
            choose.choice(prompts),
            model=MODEL,
            stream=stream,
            within=choose.uniform(0.3, 4.0) if leaves else 120.0,
        )
        outcomes[_outcome(b"".join(data for _, data in pieces), leaves=leaves)] += 1


def _outcome(reply: bytes, *, leaves: bool) -> str:
    """Also of a reply that was cut: that one is the client's own doing."""
    if not leaves and not reply.startswith(b"HTTP/1.1 200"):
        return f"status {reply[9:12].decode(errors='replace')}"
    if found := re.search(rb'"error":.*?"message":"([^"]*)"', reply):
        return f"error: {found[1].decode(errors='replace')}"
    start = reply.find(b'"guard":')
    if start < 0:
        return "left" if leaves else "broken"
    with suppress(msgspec.DecodeError, ValueError):
        end = reply.index(b"}", start) + 1
        return str(msgspec.json.decode(reply[start + 8 : end])["action"])
    return "broken"


# --- samples ----------------------------------------------------------------------------------


def sample(server: Server, counts: Path) -> dict[str, float]:
    """What the gateway holds now."""
    metrics = read_metrics(server)
    process = server.process
    return {
        "at": time.monotonic(),
        "rss_mb": process.memory_info().rss / 1e6,
        "tasks": _count(process, signal.SIGUSR1, counts),
        "threads": process.num_threads(),
        "sockets": len(process.net_connections("inet")),
        "files": process.num_fds(),
        "queue": metrics["mlrm_guard_judge_queue"],
        "live": metrics["mlrm_guard_live_generations"],
    }


def _count(process: psutil.Process, what: signal.Signals, counts: Path) -> float:
    """See tests.bench.instrumented."""
    counts.unlink(missing_ok=True)
    process.send_signal(what)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError):
            return float(counts.read_text())
        time.sleep(0.02)
    return float("nan")


def _idle(server: Server, counts: Path, before: Sample) -> dict[str, float]:
    """Once nothing is left over, or at the end of the time for it; with Python's objects."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while left_over(before, now := sample(server, counts)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return {**now, "objects": _count(server.process, signal.SIGUSR2, counts)}


# --- judgement --------------------------------------------------------------------------------


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """(last third's median less the first's, growth per minute); a moment's jam moves neither."""
    third = max(1, len(samples) // 3)
    first, last = (
        (np.median([one[name] for one in part]), np.median([one["at"] for one in part]))
        for part in (samples[:third], samples[-third:])
    )
    more = float(last[0] - first[0])
    return more, more / float(last[1] - first[1]) * 60


def grows(samples: Sequence[Sample], name: str) -> bool:
    """Whether that is more than its limit."""
    limit = LIMITS[name]
    mean = float(np.mean([one[name] for one in samples]))
    bound = max(limit.share * mean, limit.absolute)
    return not growth(samples, name)[0] <= bound  # a count that failed is no proof


def left_over(before: Sample, after: Sample) -> list[str]:
    """What is there at the end and was not at the start."""
    return [name for name, more in LEFT_OVER.items() if not after[name] <= before[name] + more]


def _report(
    before: Sample, samples: Sequence[Sample], after: Sample, outcomes: Counter[str]
) -> int:
    end = samples[-1]["at"] if samples else 0.0
    start = samples[0]["at"] if samples else 0.0
    warm = [one for one in samples if one["at"] >= start + WARM_UP * (end - start)]
    print("replies:", ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items())))
    failed = [what for what in outcomes if what.startswith(("broken", "error", "status"))]
    for what in failed:
        print(f"FAILED: {outcomes[what]} replies: {what}")
    judged = len(warm) >= MIN_SAMPLES
    growing = [name for name in LIMITS if judged and grows(warm, name)]
    if judged:
        print(
            f"after the warm-up, {len(warm)} samples in {(end - warm[0]['at']) / 60:.1f} minutes:"
        )
        for name in LIMITS:
            total, slope = growth(warm, name)
            mean = float(np.mean([one[name] for one in warm]))
            verdict = "GROWS" if name in growing else "flat"
            print(f"  {name:8} mean {mean:8.1f}  {slope:+8.3f} a minute, {total:+8.2f}  {verdict}")
    else:
        print(f"only {len(warm)} samples after the warm-up: too few to call anything flat")
    left = left_over(before, after)
    for name in LEFT_OVER:
        verdict = "LEFT OVER" if name in left else "ok"
        print(f"  {name:8} idle before {before[name]:6.0f}, after {after[name]:6.0f}  {verdict}")
    more, replies = after["objects"] - before["objects"], outcomes.total()
    kept = not more <= OBJECTS * replies
    print(
        f"  objects  idle before {before['objects']:6.0f}, after {after['objects']:6.0f}, "
        f"{replies} replies  {'LEFT OVER' if kept else 'ok'}"
    )
    if failed or growing or left or kept:
        return 1
    return 0 if judged else 2


def _say(now: Sample) -> None:
    figures = ", ".join(f"{name} {value:.0f}" for name, value in now.items() if name != "at")
    print(f"{time.strftime('%H:%M:%S')} {figures}", flush=True)


if __name__ == "__main__":
    main()
