"""What the guard costs, in one table: `make bench`; `--quick` for a look in under a minute.

Every variant runs in every round, one behind the other on one machine, so that ratios compare like
with like. CPU is user + system time of the server's process and its children per chunk of the
upstream; upstream and load generator are processes of their own. A variant's ratio is the median of
its rounds' ratios to the bare relay of the same round. `~` marks what came from noisy rounds, in
which other processes used more than a tenth of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from monitors.judges.build import build_panels
from monitors.policy_file import load_policy
from tests.bench.excursions import Waiting, benign, measure
from tests.bench.limits import Memory, Overload, memory, overload
from tests.bench.load import stream_one
from tests.bench.rounds import Round, run_round, sent_times
from tests.bench.servers import (
    BARE,
    NEMO,
    POLICY,
    ROOT,
    Program,
    Server,
    gateway,
    litellm,
    raise_file_limit,
    serving,
    upstream_server,
)
from tests.bench.upstream import Order

TRACES = ROOT.parent / "shared" / "data" / "safety" / "traces_dev.jsonl.gz"

OURS: dict[str, Program] = {
    "bare relay": BARE,
    "off": gateway("--mode", "off"),
    "hold, constant judge": gateway("--judge", "constant"),
    "hold, embedded judge": gateway(),
}
PEERS: dict[str, Program] = {
    "LiteLLM": litellm("litellm.yaml"),
    "LiteLLM + hook": litellm("litellm-hook.yaml"),
    "NeMo, trivial rail": NEMO,
}
DIRECT = "no proxy"


@dataclass(slots=True, frozen=True)
class Size:
    """How much of everything."""

    rounds: int = 3
    peer_rounds: int = 2
    streams: int = 16
    chunks: int = 500
    flat_runs: int = 5
    firsts: int = 12
    peer_firsts: int = 4
    overload_streams: int = 64
    overload_chunks: int = 500
    judge_ms: float = 10.0
    memory_streams: int = 500
    memory_seconds: float = 20.0
    traces: int | None = None


QUICK = Size(
    rounds=1,
    peer_rounds=1,
    streams=4,
    chunks=100,
    flat_runs=2,
    firsts=3,
    peer_firsts=2,
    overload_streams=16,
    overload_chunks=150,
    judge_ms=100.0,
    memory_streams=50,
    memory_seconds=4.0,
    traces=30,
)


@dataclass(slots=True)
class Variant:
    """All that was measured of one, by round; of a peer's missing rounds nothing."""

    paced: dict[int, Round] = field(default_factory=dict)
    flat: dict[int, Round] = field(default_factory=dict)
    first_chunk: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)
    rss: int = 0


Results = dict[str, Variant]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, and without peers")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--traces", type=Path, default=TRACES, help="benign traces to replay")
    parser.add_argument("--json", type=Path, help="keep every round's figures here")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    limit = raise_file_limit()
    peers = {} if options.quick or options.no_peers else installed(PEERS)
    with upstream_server() as upstream:
        results = compare({**OURS, **peers}, upstream, size)
        say("overload")
        over = overload(
            upstream,
            streams=size.overload_streams,
            chunks=size.overload_chunks,
            judge_ms=size.judge_ms,
        )
        say("memory")
        streams, seconds = size.memory_streams, size.memory_seconds
        used = memory(upstream, streams=streams, seconds=seconds, file_limit=limit)
    waiting = replay(options.traces, size.traces)
    report(results, size, over, used, waiting)
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "variants": {name: _plain(asdict(v)) for name, v in results.items()},
                    "overload": asdict(over),
                    "memory": asdict(used),
                    "waiting": asdict(waiting) if waiting else None,
                }
            )
        )


def installed(programs: Mapping[str, Program]) -> dict[str, Program]:
    """Those that are; says which are not."""
    there = {name: program for name, program in programs.items() if program.installed}
    if missing := programs.keys() - there.keys():
        say(f"not installed, left out: {', '.join(sorted(missing))}")
    return there


def say(what: str) -> None:
    """Progress, on stderr: stdout is the table's."""
    print(f"bench: {what} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


# --- measuring --------------------------------------------------------------------------------


def compare(programs: Mapping[str, Program], upstream: Server, size: Size) -> Results:
    """Every variant in every round, and the upstream itself as the floor."""
    results: Results = {name: Variant() for name in [DIRECT, *programs]}
    say(f"starting {', '.join(programs)}")
    with serving(programs, upstream.base) as started:
        servers = {DIRECT: upstream, **started}
        for name, server in servers.items():  # imports, caches, connections
            run_round(server, upstream, _orders(f"warm-{name}", 8, 60, 0), held=False, timed=False)
        _first_bytes(results, servers, size)
        for number in range(size.rounds):
            for name, server in servers.items():
                if name in PEERS and number >= size.peer_rounds:
                    continue
                say(f"round {number + 1}, {name}")
                _round(results[name], number, name, server, upstream, size)
        for name, server in servers.items():
            results[name].rss = server.rss()
    return results


def _round(
    variant: Variant, number: int, name: str, server: Server, upstream: Server, size: Size
) -> None:
    held = name.startswith("hold")
    tag = f"{name.replace(' ', '-')}-{number}"
    orders = _orders(f"p-{tag}", size.streams, size.chunks, 50)
    variant.paced[number] = run_round(server, upstream, orders, held=held, timed=True)
    runs = 1 if name in PEERS else size.flat_runs
    flat = [
        run_round(
            server,
            upstream,
            _orders(f"f-{tag}-{run}", size.streams, size.chunks, 0),
            held=held,
            timed=False,
        )
        for run in range(runs)
    ]
    whole = flat[0]
    whole.cpu = statistics.mean(run.cpu for run in flat)
    whole.machine.others = max(run.machine.others for run in flat)
    variant.flat[number] = whole


def _orders(tag: str, streams: int, chunks: int, rate: int) -> list[Order]:
    return [Order(f"{tag}-{number}", chunks, rate) for number in range(streams)]


def _first_bytes(results: Results, servers: Mapping[str, Server], size: Size) -> None:
    """One request at a time, the variants in turn."""
    say("first bytes")
    for turn in range(size.firsts):
        for name, server in servers.items():
            if name in PEERS and turn >= size.peer_firsts:
                continue
            order = Order(f"t-{name.replace(' ', '-')}-{turn}", 30, 50)
            got = asyncio.run(stream_one(server.base, order))
            variant = results[name]
            if got.first_chunk is not None:
                variant.first_chunk.append(got.first_chunk - got.asked)
            if got.first_text is not None:
                variant.first_text.append(got.first_text - got.asked)
            sent_times(servers[DIRECT], [order])


def replay(traces: Path, limit: int | None) -> Waiting | None:
    """Benign traces under the default policy; None where there are none."""
    if not traces.exists():
        say(f"no benign traces ({traces.name} of ../shared/data/safety): excursions not measured")
        return None
    say("replaying benign traces")
    policy = load_policy(POLICY)
    panels = build_panels(policy.judges, policy.rules)
    return measure(policy, panels, list(benign(traces))[:limit])


# --- reporting --------------------------------------------------------------------------------


def report(
    results: Results, size: Size, over: Overload, used: Memory, waiting: Waiting | None
) -> None:
    console = Console(width=200, markup=False, highlight=False)
    console.print(_table(results))
    for line in [*_targets(results, over, used, waiting), "", *_conditions(results, size)]:
        console.print(line)


def _table(results: Results) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in (
        "",
        "CPU/chunk, paced",
        "/ bare",
        "flat out",
        "/ bare",
        "first chunk +",
        "first text +",
        "character p50 / p99",
        "hold lag p50 / p99",
        "delivered",
    ):
        table.add_column(column, justify="right" if column else "left")
    for name, variant in results.items():
        table.add_row(
            name,
            *_cpu(variant, results, "paced"),
            *_cpu(variant, results, "flat"),
            _added(variant.first_chunk, results[DIRECT].first_chunk),
            _added(variant.first_text, results[DIRECT].first_text),
            _spread([r.delays for r in variant.paced.values()]),
            _spread([r.lags for r in variant.paced.values()]),
            f"{min(r.delivered for r in variant.paced.values()):.0%}",
        )
    return table


def _cpu(variant: Variant, results: Results, pace: str) -> tuple[str, str]:
    rounds: dict[int, Round] = getattr(variant, pace)
    mark = "~" if any(r.machine.noisy for r in rounds.values()) else ""
    cpu = statistics.median(r.cpu for r in rounds.values())
    if variant is results[DIRECT]:
        return f"({cpu * 1e6:.0f} us)", ""
    return f"{cpu * 1e6:.0f} us{mark}", f"{ratio(variant, results, pace):.2f}{mark}"


def ratio(variant: Variant, results: Results, pace: str) -> float:
    """To the bare relay: the median over the rounds that both have."""
    mine: dict[int, Round] = getattr(variant, pace)
    bare: dict[int, Round] = getattr(results["bare relay"], pace)
    return statistics.median(mine[number].cpu / bare[number].cpu for number in mine)


def _added(mine: Sequence[float], floor: Sequence[float]) -> str:
    if not mine or not floor:
        return "none"
    return f"{added(mine, floor):.1f} ms"


def added(mine: Sequence[float], floor: Sequence[float]) -> float:
    """Milliseconds between the medians."""
    return (statistics.median(mine) - statistics.median(floor)) * 1e3


def _spread(rounds: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> str:
    values = spread(rounds)
    return f"{values[0]:.1f} / {values[1]:.1f} ms" if values else "none"


def spread(
    rounds: Sequence[np.ndarray[Any, np.dtype[np.float64]]],
) -> tuple[float, float] | None:
    """Milliseconds at p50 and p99: the median over the rounds of each."""
    filled = [values * 1e3 for values in rounds if len(values)]
    if not filled:
        return None
    p50, p99 = (
        statistics.median(float(np.percentile(values, share)) for values in filled)
        for share in (50, 99)
    )
    return p50, p99


def _targets(results: Results, over: Overload, used: Memory, waiting: Waiting | None) -> list[str]:
    lines = ["", "Targets:"]

    def target(what: str, value: float, limit: float, form: str = "{:.2f}") -> None:
        verdict = "met" if value <= limit else "MISSED"
        shown = form.format(value)
        lines.append(f"- {what}: {shown}, at most {form.format(limit)}: {verdict}")

    off, constant = results["off"], results["hold, constant judge"]
    embedded = results["hold, embedded judge"]
    for pace, words in (("paced", "paced"), ("flat", "flat out")):
        target(f"CPU of off / bare relay, {words}", ratio(off, results, pace), 1.2)
        target(f"CPU of hold with constant / bare, {words}", ratio(constant, results, pace), 2.0)
    first = added(off.first_chunk, results[DIRECT].first_chunk)
    target("first byte, added by off", first, 3.0, "{:.1f} ms")
    if lag := spread([r.lags for r in embedded.paced.values()]):
        target("hold lag p50, embedded judge", lag[0], 20.0, "{:.1f} ms")
        target("hold lag p99, embedded judge", lag[1], 100.0, "{:.1f} ms")
    if waiting is None:
        lines.append("- benign text that waits for more than its own step: not measured, no traces")
    else:
        target(
            f"benign text that waits for more than its own step ({waiting.traces} traces, "
            f"{waiting.characters:,} characters, {waiting.held} held, {waiting.stopped} stopped)",
            waiting.share,
            0.05,
            "{:.2%}",
        )
    target("memory without streams", used.before / 1e6, 150.0, "{:.0f} MB")
    target(
        f"memory per live stream ({used.live} live, {used.during / 1e6:.0f} MB; "
        f"{used.after / 1e6:.0f} MB afterwards; {used.files} files open of {used.file_limit})",
        used.per_stream / 1e3,
        100.0,
        "{:.0f} KB",
    )
    refusals = ", ".join(f"{count} {why}" for why, count in over.refused.items()) or "none"
    lines.append(
        f"- overload: {over.streams} streams ask for about {over.steps_per_second:.0f} verdicts/s "
        f"of a judge that gives {1e3 / over.judge_ms:.0f}: {over.finished} finished, "
        f"refused: {refusals}, broken off: {over.broken}"
    )
    # A verdict that is late is given up at the time-out; what is left is the loop's own.
    target(
        f"overload, hold lag p99 (p50 {over.lag_p50:.2f} s, worst {over.lag_max:.2f} s) "
        "of what was released: the judge's time-out",
        over.lag_p99,
        over.timeout + 0.5,
        "{:.2f} s",
    )
    unjudged = {why: count for why, count in over.unjudged.items() if why != "blank"}
    target(
        f"overload, characters released unjudged (besides {over.unjudged.get('blank', 0)} blanks)",
        sum(unjudged.values()),
        0,
        "{:.0f}",
    )
    target("overload, streams with more text than was let out", over.more_than_judged, 0, "{:.0f}")
    return lines


def _conditions(results: Results, size: Size) -> list[str]:
    rounds = [r for v in results.values() for part in (v.paced, v.flat) for r in part.values()]
    noisy = sum(r.machine.noisy for r in rounds)
    paced = [r.machine for v in results.values() for r in v.paced.values()]
    flat = [r.machine for v in results.values() for r in v.flat.values()]
    loads = [r.machine.load for r in rounds]
    broken = [
        name
        for name, variant in results.items()
        if any(r.whole < size.streams and r.delivered > 0.99 for r in variant.paced.values())
    ]
    lines = [
        f"{size.streams} streams x {size.chunks} chunks, one word each, half thought half answer; "
        f"paced: 50 chunks/s each, all in step; {size.rounds} rounds, {size.peer_rounds} with "
        f"peers; {os.cpu_count()} CPUs, Python {platform.python_version()}",
        f"noise: {noisy} of {len(rounds)} rounds were noisy; load average "
        f"{min(loads):.1f} to {max(loads):.1f}; others used up to "
        f"{max(r.machine.others for r in rounds):.2f} CPUs",
        f"the bench itself: upstream up to {max(m.upstream for m in paced):.2f} CPUs paced, "
        f"{max(m.upstream for m in flat):.2f} flat out; load generator "
        f"{max(m.client for m in paced):.2f} and {max(m.client for m in flat):.2f}",
        "memory at the end: "
        + ", ".join(f"{name} {variant.rss / 1e6:.0f} MB" for name, variant in results.items()),
        f"{DIRECT}: the upstream itself, its own CPU in brackets; first chunk, first text: added "
        "to that, one stream at a time; character: from the sending of its chunk to its arrival; "
        "hold lag: from the chunk that closes a step to the step's arrival",
        "repeat: make bench   (quick look: make bench QUICK=1)",
    ]
    if broken:
        lines.insert(0, f"TEXT CHANGED OR INCOMPLETE: {', '.join(broken)}")
    saturated = [
        name
        for name, variant in results.items()
        if name != DIRECT and any(r.machine.server > 0.95 for r in variant.paced.values())
    ]
    if saturated:
        lines.insert(1, f"could not keep the pace (a whole CPU used): {', '.join(saturated)}")
    return lines


def _plain(value: Any) -> Any:
    """Without the arrays of single delays, of which the percentiles stay."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        shares = (1, 10, 50, 90, 99, 100)
        return {f"p{s}": float(np.percentile(value, s)) for s in shares} if len(value) else {}
    return value


if __name__ == "__main__":
    main()
