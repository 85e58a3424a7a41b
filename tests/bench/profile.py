"""Where the gateway's time goes: `python -m tests.bench.profile off`, by py-spy, as two tables.

Samples of the server process while 16 streams run; `self` is time in the function itself (and in C
code that it calls), `all` with what it calls. Frames above the event loop's are left out, and
threads that wait for work. What each thread used is by the scheduler's count.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.load import stream_all
from tests.bench.servers import BARE, PEERS, Program, Server, gateway, serving, upstream_server
from tests.bench.upstream import Order

VARIANTS: dict[str, Program] = {
    "bare": BARE,
    "off": gateway("--mode", "off"),
    "constant": gateway("--judge", "constant"),
    "embedded": gateway(),
}
STREAMS, CHUNKS = 16, 500
_LOOP = ("Runner.run ", "Thread.run ")
_WAITS = ("_Lane._work ", "Condition.wait ")  # of idle threads: py-spy takes that for work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=0, help="chunks a second; 0: flat out")
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--native", action="store_true", help="C frames too")
    parser.add_argument("--out", type=Path, help="keep the collapsed stacks, for a flame graph")
    options = parser.parse_args()
    name = options.variant
    with upstream_server() as upstream, serving({name: VARIANTS[name]}, upstream.base) as servers:
        stacks, threads = _record(
            servers[name], options.seconds, options.rate, native=options.native
        )
    if options.out:
        options.out.write_text(stacks)
    pace = f"{options.rate} chunks/s" if options.rate else "flat out"
    print(f"{name}, {STREAMS} streams, {pace}; by thread: {threads}")
    _print(stacks, options.top)


def _record(server: Server, seconds: int, rate: int, *, native: bool) -> tuple[str, str]:
    asyncio.run(_load(server, rate, 1))  # what is done once is not the hot path
    with TemporaryDirectory() as name:
        out = Path(name) / "stacks"
        command = [str(PEERS / "py-spy"), "record", "--pid", str(server.process.pid)]
        command += ["--format", "raw", "--function", "--rate", "250", "--output", str(out)]
        command += ["--duration", str(seconds), *(["--native"] if native else [])]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _threads(server)
        asyncio.run(_load(server, rate, seconds))
        used = Counter(_threads(server))
        used.subtract(before)
        threads = ", ".join(f"{who} {ns / 1e9:.2f} s" for who, ns in used.most_common(4))
        if spy.wait(60) != 0:
            raise SystemExit(f"py-spy failed (may it trace processes here?): {' '.join(command)}")
        return out.read_text(), threads


def _threads(server: Server) -> dict[str, int]:
    """Nanoseconds of CPU by thread; the main thread is called `main`."""
    used = {}
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        name = "main" if task.name == str(server.process.pid) else f"thread {task.name}"
        used[name] = int((task / "schedstat").read_text().split()[0])
    return used


async def _load(server: Server, rate: int, seconds: int) -> None:
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turn += 1
        orders = [Order(f"p{turn}-{number}", CHUNKS, rate) for number in range(STREAMS)]
        await stream_all(server.base, orders)


def _print(stacks: str, top: int) -> None:
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].startswith(_WAITS):
            continue
        last = max((at for at, frame in enumerate(frames) if frame.startswith(_LOOP)), default=-1)
        frames = frames[last + 1 :] or ["the event loop and its system calls"]
        own[frames[-1]] += int(samples)
        for frame in set(frames):
            whole[frame] += int(samples)
    total = own.total()
    print(f"{total} samples")
    for title, counts in (("self", own), ("all", whole)):
        print(f"\n{title:>6}")
        for frame, count in counts.most_common(top):
            print(f"{count / total:6.1%}  {frame}")


if __name__ == "__main__":
    main()
