"""Cost per chunk and hold lag at 8 streams x 50 chunks/s, against a bare relay, interleaved.

CPU is the server process's own (user + system), per upstream chunk. Hold lag is from the sending of
the chunk that closes a step to the client's receipt of the step: the judge, two hops and the
scheduler are in it. The lag of the bare relay and of `off`, chunk by chunk, is the floor of the
same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from gateway.background import serve
from tests.bench.upstream import PacedUpstream

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "deploy" / "policies" / "default.yaml"
STREAMS, RATE = 8, 50.0

VARIANTS = {
    "bare relay": None,
    "off": ["--mode", "off"],
    "hold, constant judge": ["--judge", "constant"],
    "hold, embedded judge": [],
}


@contextmanager
def server(options: list[str] | None, upstream: str) -> Iterator[tuple[str, psutil.Process]]:
    """A relay or gateway in a process of its own."""
    port = _free_port()
    env = {**os.environ, "BENCH_UPSTREAM": f"{upstream}/v1"}
    if options is None:
        command = ["-m", "uvicorn", "--factory", "tests.bench.bare:create_app", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log"]
    else:
        command = ["-c", "from gateway.cli import main; main()", "serve", "--port", str(port)]
        command += ["--upstream", f"{upstream}/v1", "--policy", str(POLICY), *options]
        command += ["--log-level", "error"]
    process = subprocess.Popen(
        [sys.executable, *command], env=env, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _ready(base):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {command}")
            time.sleep(0.1)
        yield base, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _ready(base: str) -> bool:
    try:
        return httpx.get(f"{base}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _stream(base: str, name: str) -> list[tuple[int, float]]:
    """(characters so far, time received) of one stream."""
    received: list[tuple[int, float]] = []
    characters = 0
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": name}]}
    async with (
        httpx.AsyncClient(timeout=120) as client,
        client.stream("POST", f"{base}/v1/chat/completions", json=body) as reply,
    ):
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                for choice in msgspec.json.decode(line[6:])["choices"]:
                    characters += len(choice["delta"].get("reasoning") or "")
                received.append((characters, time.monotonic()))
    return received


def _lags(
    sent: list[tuple[int, float]], received: list[tuple[int, float]], *, held: bool
) -> list[float]:
    """Seconds from the chunk that lets text out to its receipt.

    Unheld, that is the text's own last chunk; held, the first chunk behind it, which closes the
    step.
    """
    lags, at, before = [], 0, 0
    for characters, when in received:
        if characters == before:
            continue
        before = characters
        while at < len(sent) and (sent[at][0] < characters or (held and sent[at][0] == characters)):
            at += 1
        if at < len(sent):  # the end of the stream closes the last step
            lags.append(when - sent[at][1])
    return lags


def _round(
    base: str, process: psutil.Process, upstream: PacedUpstream, tag: str, *, held: bool
) -> dict[str, Any]:
    async def run() -> list[list[tuple[int, float]]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_stream(base, f"{tag}-{n}")) for n in range(STREAMS)]
        return [task.result() for task in tasks]

    before = process.cpu_times()
    streams = asyncio.run(run())
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    lags = [
        lag
        for n, got in enumerate(streams)
        for lag in _lags(upstream.sent[f"{tag}-{n}"], got, held=held)
    ]
    return {"cpu": cpu / (STREAMS * upstream.chunks), "lags": lags}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=500)
    options = parser.parse_args()
    upstream = PacedUpstream(options.chunks, RATE)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    with serve(upstream.app) as url:
        for number in range(options.rounds):
            for name, arguments in VARIANTS.items():
                with server(arguments, url) as (base, process):
                    held = name.startswith("hold")
                    tag = f"{name}-{number}"
                    results[name].append(_round(base, process, upstream, tag, held=held))
    _print(results)


def _print(results: dict[str, list[dict[str, Any]]]) -> None:
    table = Table(title=f"{STREAMS} streams x {RATE:.0f} chunks/s, {os.cpu_count()} CPUs")
    for column in ("", "CPU per chunk", "/ bare (each round)", "lag p50", "lag p99", "load avg"):
        table.add_column(column, justify="right")
    bare = [result["cpu"] for result in results["bare relay"]]
    for name, rounds in results.items():
        cpu = [result["cpu"] for result in rounds]
        ratios = " ".join(f"{mine / base:.2f}" for mine, base in zip(cpu, bare, strict=True))
        lags = sorted(lag for result in rounds for lag in result["lags"])
        p50, p99 = (lags[int(len(lags) * share)] * 1e3 for share in (0.5, 0.99)) if lags else (0, 0)
        table.add_row(
            name,
            f"{statistics.median(cpu) * 1e6:.0f} us",
            ratios,
            f"{p50:.1f} ms",
            f"{p99:.1f} ms",
            f"{os.getloadavg()[0]:.1f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
