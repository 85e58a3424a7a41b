"""Minutes of traffic with interventions; exit 1 when something grows: `make soak MINUTES=10`.

Clients ask the gateway (embedded judge, default policy) for the simulator's demo replies, of which
some are corrected and some refused; one client in five leaves in the middle, one in ten does not
stream. Flat is, after a fifth of the time: the line fitted through the samples grows by at most the
`Limit` of its row; and when all is over, what is left is what was there before the first request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
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
    """How much the fitted line may grow from its start to its end: the larger of the two."""

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
"""How much more than before the first request may be there at the end."""

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
        counted = Path(name) / "tasks"
        program = gateway(streams=streams * 2)
        program = replace(program, env={"BENCH_TASKS": str(counted)})
        with (
            serving({"simulator": _SIMULATOR}, "") as upstream,
            serving({"gateway": program}, upstream["simulator"].base) as servers,
        ):
            server = servers["gateway"]
            before = sample(server, counted)
            samples, outcomes = asyncio.run(
                _run(server, counted, seconds=seconds, streams=streams, every=every)
            )
            after = _settled(server, counted, before)
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


async def _run(
    server: Server, counted: Path, *, seconds: float, streams: int, every: float
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
            now = await asyncio.to_thread(sample, server, counted)
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
    start = reply.find(b'"guard":')
    if start < 0:
        return "left" if leaves else "broken"
    with suppress(msgspec.DecodeError, ValueError):
        end = reply.index(b"}", start) + 1
        return str(msgspec.json.decode(reply[start + 8 : end])["action"])
    return "broken"


# --- samples ----------------------------------------------------------------------------------


def sample(server: Server, counted: Path) -> dict[str, float]:
    """What the gateway holds now."""
    metrics = read_metrics(server)
    process = server.process
    return {
        "at": time.monotonic(),
        "rss_mb": process.memory_info().rss / 1e6,
        "tasks": _tasks(process, counted),
        "threads": process.num_threads(),
        "sockets": len(process.net_connections("inet")),
        "files": process.num_fds(),
        "queue": metrics["mlrm_guard_judge_queue"],
        "live": metrics["mlrm_guard_live_generations"],
    }


def _tasks(process: psutil.Process, counted: Path) -> float:
    """See tests.bench.instrumented."""
    counted.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError):
            return float(counted.read_text())
        time.sleep(0.02)
    return float("nan")


def _settled(server: Server, counted: Path, before: Sample) -> dict[str, float]:
    """Once nothing is left over, or at the end of the time for it."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while left_over(before, now := sample(server, counted)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return now


# --- judgement --------------------------------------------------------------------------------


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """(what the fitted line grows by over the samples, growth per minute)."""
    at = np.asarray([one["at"] for one in samples])
    values = np.asarray([one[name] for one in samples])
    slope = float(np.polyfit(at - at[0], values, 1)[0])
    return slope * float(at[-1] - at[0]), slope * 60


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
    failed = [what for what in outcomes if what == "broken" or what.startswith("status")]
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
    if failed or growing or left:
        return 1
    return 0 if judged else 2


def _say(now: Sample) -> None:
    figures = ", ".join(f"{name} {value:.0f}" for name, value in now.items() if name != "at")
    print(f"{time.strftime('%H:%M:%S')} {figures}", flush=True)


if __name__ == "__main__":
    main()
